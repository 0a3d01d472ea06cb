"""The packed path against the library's: embeddings, gradients, losses, dropout, whole runs."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
)
from torch import nn

from stlib.base_model import load_base
from stlib.errors import UsageError
from stlib.packed import BLOCK_MULTIPLE, ROW_MULTIPLE, Masks, PackedEncoder, Packing
from stlib.recipes import CARD
from stlib.trainer import Embedded, PackedTrainer, default_engine
from stlib.training import train
from tests.conftest import REAL_DATA

HEADS, SIZE = 12, 384


@pytest.fixture(scope="module")
def model():
    """A base model of this file's own: its gradients are in use."""
    return load_base("cpu").eval()


def stock(model, sentences):
    """The library's embeddings of sentences given as token ids: padded, with an attention mask."""
    longest = max(map(len, sentences))
    ids = torch.tensor([[*sentence, *[0] * (longest - len(sentence))] for sentence in sentences])
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return model(features)["sentence_embedding"]


def packed(encoder, sentences):
    ids = torch.tensor([token for sentence in sentences for token in sentence])
    return encoder(ids, [len(sentence) for sentence in sentences])


def gradients(model, embeddings, weights):
    model.zero_grad()
    (embeddings * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def random_sentences(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1_000, 30_000, length).tolist() for length in lengths]


def assert_gradients_agree(ours, theirs, relative=1e-4):
    """Each gradient within ``relative`` of the library's, in norm.

    Some gradients are zero in theory, and rounding errors in practice: a key's bias adds the same to all scores of a
    query, and a sentence of one token has nothing to attend to but itself. For these, what counts is the size of all
    gradients together.
    """
    overall = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= relative * gradient.norm() + 1e-7 * overall, name


@settings(max_examples=12)
@given(lengths=st.lists(st.integers(1, 256), min_size=1, max_size=7), seed=st.integers(0, 2**16))
def test_embeddings_and_gradients_are_the_librarys(model, lengths, seed):
    """In float32, without dropout, over random lengths from 1 to 256 tokens."""
    sentences, encoder = random_sentences(lengths, seed), PackedEncoder(model)
    expected, embeddings = stock(model, sentences), packed(encoder, sentences)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
    theirs, ours = gradients(model, expected, weights), gradients(model, embeddings, weights)
    assert_gradients_agree(ours, theirs)


def test_in_bf16_embeddings_and_gradients_stay_close(model):
    sentences = random_sentences([5, 12, 17, 33, 64])
    expected, embeddings = stock(model, sentences), packed(PackedEncoder(model, torch.bfloat16), sentences)
    assert (embeddings - expected).abs().max() < 0.01
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    theirs, ours = gradients(model, expected, weights), gradients(model, embeddings, weights)
    errors = [(ours[name] - theirs[name]).norm() / theirs[name].norm() for name in theirs]
    assert np.median(errors) < 0.03


def test_gradients_accumulate_over_two_batches(model):
    encoder, (first, second) = PackedEncoder(model), (random_sentences([4, 9], 1), random_sentences([20, 3], 2))
    model.zero_grad()
    stock(model, first).sum().backward()
    stock(model, second).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    packed(encoder, first).sum().backward()
    packed(encoder, second).square().mean().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_word_gradient_of_one_step_leaves_nothing_for_the_next(model):
    encoder, word = PackedEncoder(model), model[0].auto_model.embeddings.word_embeddings.weight
    for seed in (1, 2, 3):
        sentences = random_sentences([6, 11], seed)
        model.zero_grad()
        packed(encoder, sentences).sum().backward()
        touched = {token for sentence in sentences for token in sentence}
        rows = set(word.grad.abs().sum(1).nonzero().ravel().tolist())
        assert rows <= touched


def test_a_frozen_parameter_gets_no_gradient():
    model = load_base("cpu").eval()
    frozen = [
        model[0].auto_model.embeddings.word_embeddings.weight,
        model[0].auto_model.encoder.layer[0].output.dense.bias,
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    packed(PackedEncoder(model), random_sentences([5, 6])).sum().backward()
    assert [parameter.grad for parameter in frozen] == [None, None]
    assert model[0].auto_model.encoder.layer[5].output.dense.bias.grad is not None


def test_packing_holds_each_token_once():
    lengths = [3, 40, 16, 17, 1, 256]
    packing = Packing(lengths, HEADS)
    assert packing.tokens == sum(lengths)
    assert packing.rows % ROW_MULTIPLE == 0
    assert 0 < packing.rows - packing.tokens <= ROW_MULTIPLE
    assert sorted(packing.source.tolist()) == list(range(sum(lengths)))
    assert all(block.length % BLOCK_MULTIPLE == 0 for block in packing.blocks)
    assert sum(block.count for block in packing.blocks) == len(lengths)
    torch.testing.assert_close(packing.means.sum(1), torch.ones(len(lengths)))
    ids = torch.arange(1, sum(lengths) + 1)
    assert packing.pack(ids).sum() == ids.sum()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_right_share_and_scales_it(p):
    torch.manual_seed(0)
    masks = Masks(Packing([30] * 64, HEADS), 6, SIZE, (p, p), torch.float32)
    for mask, scale in ((masks.hidden, masks.scale), (masks.attention, 1.0)):
        kept = mask * scale
        n = kept.numel()
        assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
        assert (kept > 0).float().mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / n) ** 0.5)
        assert kept.mean().item() == pytest.approx(1, abs=6 * (p / (1 - p) / n) ** 0.5)


def test_dropout_differs_from_step_to_step_and_follows_torchs_seed():
    packing = Packing([10, 20], HEADS)

    def draw(times):
        return [Masks(packing, 2, SIZE, (0.1, 0.1), torch.float32).hidden for _ in range(times)]

    torch.manual_seed(3)
    first, second = draw(2)
    torch.manual_seed(3)
    again = draw(1)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_dropout_moves_the_embedding_around_its_mean(model):
    """With dropout on, many draws average to nearly the embedding without it; a wrong scale would shift them."""
    sentences, encoder = random_sentences([12, 25]), PackedEncoder(model)
    without = packed(encoder, sentences).detach()
    torch.manual_seed(0)
    model.train()
    draws = torch.stack([packed(encoder, sentences).detach() for _ in range(40)])
    theirs = torch.stack([stock(model, sentences).detach() for _ in range(40)])
    model.eval()
    assert draws.std(0).mean() == pytest.approx(theirs.std(0).mean().item(), rel=0.1)
    ours_to_mean, theirs_to_mean = ((d.mean(0) * without).sum(1).mean().item() for d in (draws, theirs))
    assert ours_to_mean == pytest.approx(theirs_to_mean, abs=0.02)


PAIRS = [([101, 2002, 102], [101, 3003, 4004, 102]), ([101, 5005, 6006, 7007, 102], [101, 8008, 102])]


def losses(model):
    torch.manual_seed(0)
    softmax = SoftmaxLoss(model, SIZE, 3)
    return {
        "softmax": (softmax, torch.tensor([0, 2])),
        "ranking": (MultipleNegativesRankingLoss(model), None),
        "cosent": (CoSENTLoss(model), torch.tensor([0.9, 0.1])),
        "matryoshka": (MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [384, 64]), None),
    }


@pytest.mark.parametrize("name", ["softmax", "ranking", "cosent", "matryoshka"])
def test_losses_are_the_librarys(model, name):
    loss, label = losses(model)[name]
    columns = [list(column) for column in zip(*PAIRS, strict=True)]
    features = []
    for column in columns:
        width = max(map(len, column))
        ids = torch.tensor([[*sentence, *[0] * (width - len(sentence))] for sentence in column])
        features.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)})
    expected = loss(features, label)
    model.zero_grad()
    expected.backward()
    theirs = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    ours_loss = PackedTrainer.override_model_in_loss(_holder(model), loss, Embedded())
    embeddings = packed(PackedEncoder(model), [sentence for column in columns for sentence in column])
    ours = ours_loss([{"sentence_embedding": part} for part in embeddings.chunk(2)], label)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    model.zero_grad()
    ours.backward()
    actual = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert_gradients_agree(actual, theirs, relative=1e-3)


def _holder(model):
    """Enough of a trainer for the library's ``override_model_in_loss``."""
    holder = PackedTrainer.__new__(PackedTrainer)
    holder.model_class = type(model)
    return holder


def test_other_models_are_refused(model):
    other = copy.deepcopy(model)
    other[1].pooling_mode = "cls"
    with pytest.raises(UsageError, match="mean pooling only"):
        PackedEncoder(other)
    other = copy.deepcopy(model)
    other[0].auto_model.config.hidden_act = "relu"
    with pytest.raises(UsageError, match="knows BERT encoders with gelu"):
        PackedEncoder(other)


def test_the_default_engine_is_packed_where_it_is_proven():
    assert [default_engine(device) for device in ("cpu", "cuda", "mps")] == ["packed", "stock", "stock"]


NO_DROPOUT = dataclasses.replace(CARD, dropout=0.0)


@pytest.mark.parametrize(
    "recipe", [NO_DROPOUT, dataclasses.replace(NO_DROPOUT, train_head=True)], ids=["frozen", "trained"]
)
def test_both_engines_train_the_same_run(tmp_path, monkeypatch, recipe):
    """Same batches, same schedule, same clipping, same log: without dropout, in float32, the runs are the same."""
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    runs = {
        engine: train(recipe, "mini", out=tmp_path / engine, nli_split="train[:328]", log_every=2, engine=engine)
        for engine in ("packed", "stock")
    }
    logs = {engine: run.log() for engine, run in runs.items()}
    assert logs["packed"][["step", "epoch", "learning_rate"]].equals(logs["stock"][["step", "epoch", "learning_rate"]])
    np.testing.assert_allclose(logs["packed"]["loss"], logs["stock"]["loss"], atol=2e-4)
    sentences = ["A man sleeps.", "Two dogs are running in a park."]
    ours, theirs = (run.classifier("cpu") for run in runs.values())
    np.testing.assert_allclose(ours.encoder.encode(sentences), theirs.encoder.encode(sentences), atol=2e-3)
    torch.testing.assert_close(ours.head.weight, theirs.head.weight, rtol=0, atol=2e-3)
    cards = [(run.folder / "README.md").read_text(encoding="utf-8") for run in runs.values()]
    assert cards[0].splitlines()[:6] == cards[1].splitlines()[:6]
    assert [run.info["engine"] for run in runs.values()] == ["packed", "stock"]


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real corpora beside the project (../shared/data)")
@pytest.mark.slow
def test_a_hundred_bf16_steps_on_real_pairs_follow_stock(tmp_path, monkeypatch):
    means = {}
    for engine, precision in (("packed", None), ("stock", "fp32")):
        if precision:
            monkeypatch.setenv("STLIB_PRECISION", precision)
        run = train(
            CARD, "full", out=tmp_path / engine, data=REAL_DATA, nli_split="validation", max_steps=100, log_every=10,
            engine=engine,
        )  # fmt: skip
        means[engine] = run.log()["loss"].mean()
    assert means["packed"] == pytest.approx(means["stock"], abs=0.005)


def test_a_grad_norm_is_clipped_as_the_library_clips(model):
    encoder = PackedEncoder(model)
    model.zero_grad()
    packed(encoder, random_sentences([9, 30])).sum().mul(50).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    reference = [nn.Parameter(torch.zeros_like(g)) for g in expected]
    for parameter, gradient in zip(reference, expected, strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(reference, 1.0)

    class Holder:
        encoder_, args = encoder, type("Arguments", (), {"max_grad_norm": 1.0})
        accelerator = type("Accelerator", (), {"unscale_gradients": staticmethod(lambda: None)})

    holder = Holder()
    holder.encoder = encoder
    assert PackedTrainer._clip_grad_norm(holder, model).item() == pytest.approx(norm.item(), rel=1e-4)
    ours = [p.grad for p in model.parameters() if p.grad is not None]
    for actual, wanted in zip(ours, reference, strict=True):
        torch.testing.assert_close(actual, wanted.grad, rtol=1e-4, atol=1e-8)

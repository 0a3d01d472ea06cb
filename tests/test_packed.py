"""The packed path against the library's: embeddings, gradients, losses, dropout, whole runs."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from stlib.errors import UsageError
from stlib.fast.packed import BLOCK_MULTIPLE, ROW_MULTIPLE, Masks, PackedEncoder, Packing, gradient_norm
from stlib.fast.trainer import PackedTrainer
from stlib.model import load_base, load_classifier, load_encoder
from stlib.recipes import CARD, Recipe, head_of, make_loss, prepare_encoder
from stlib.train import train
from tests.tiny import MAX_LENGTH

HEADS = 12  # the base model's


@pytest.fixture
def model(tiny_model):
    """A tiny model of the test's own: its gradients are in use."""
    return load_encoder(tiny_model, "cpu").eval()


@pytest.fixture(scope="module")
def shared(tiny_model):
    """The same for all examples of Hypothesis."""
    return load_encoder(tiny_model, "cpu").eval()


@pytest.fixture(scope="module")
def real():
    """A base model of this file's own."""
    return load_base("cpu").eval()


def padded(sentences):
    """Sentences given as token ids, as the library's models take them: padded, with an attention mask."""
    longest = max(map(len, sentences))
    ids = torch.tensor([[*sentence, *[0] * (longest - len(sentence))] for sentence in sentences])
    mask = (torch.arange(longest) < torch.tensor([len(sentence) for sentence in sentences])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def stock(model, sentences):
    """The library's embeddings."""
    return model(padded(sentences))["sentence_embedding"]


def packed(encoder, sentences):
    ids = torch.tensor([token for sentence in sentences for token in sentence])
    return encoder(ids, [len(sentence) for sentence in sentences])


def of_parameters(module):
    """The gradients that a module's parameters have, by name."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def gradients(model, embeddings, weights):
    model.zero_grad()
    (embeddings * weights).sum().backward()
    return of_parameters(model)


def random_sentences(model, lengths, seed=0):
    """Token ids without the special ones."""
    rng = np.random.default_rng(seed)
    return [rng.integers(5, model[0].auto_model.config.vocab_size, length).tolist() for length in lengths]


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


def assert_both_engines_agree(model, lengths, seed):
    """In float32, without dropout."""
    sentences = random_sentences(model, lengths, seed)
    expected, embeddings = stock(model, sentences), packed(PackedEncoder(model), sentences)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
    assert_gradients_agree(gradients(model, embeddings, weights), gradients(model, expected, weights))


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=9), seed=st.integers(0, 2**16))
def test_embeddings_and_gradients_are_the_librarys(shared, lengths, seed):
    assert_both_engines_agree(shared, lengths, seed)


@settings(max_examples=2)
@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=5), seed=st.integers(0, 2**16))
@example(lengths=[1, 256, 17, 16, 40], seed=0)
def test_so_they_are_at_the_size_of_the_base_model(real, lengths, seed):
    assert_both_engines_agree(real, lengths, seed)


def test_in_bf16_embeddings_and_gradients_stay_close(model):
    sentences = random_sentences(model, [5, 12, 17, 33, 64])
    expected, embeddings = stock(model, sentences), packed(PackedEncoder(model, torch.bfloat16), sentences)
    assert 0 < (embeddings - expected).abs().max() < 0.01
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    theirs, ours = gradients(model, expected, weights), gradients(model, embeddings, weights)
    errors = [(ours[name] - theirs[name]).norm() / theirs[name].norm() for name in theirs]
    assert np.median(errors) < 0.03


def accumulated(model, embed):
    """The gradients of two batches together."""
    first, second = random_sentences(model, [4, 9], 1), random_sentences(model, [20, 3], 2)
    model.zero_grad()
    embed(first).sum().backward()
    embed(second).square()[:, 0].mean().backward()
    return of_parameters(model)


FROZEN = {
    "nothing": (),
    "words and a bias": ("word_embeddings", "layer.0.output.dense.bias"),
    "query, not key": ("layer.0.attention.self.query",),
    "value of one layer, key's bias of the other": ("layer.0.attention.self.value", "layer.1.attention.self.key.bias"),
    "a whole layer": ("layer.1.",),
    "all but the last norm": ("embeddings", "layer.0.", "layer.1.attention", "intermediate", "layer.1.output.dense"),
}


@pytest.mark.parametrize("case", FROZEN)
def test_frozen_parameters_get_no_gradient_and_the_others_the_librarys(model, case):
    """Over two batches, whose gradients add up; what is frozen counts nothing in the norm either."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in FROZEN[case]))
    encoder = PackedEncoder(model)
    theirs = accumulated(model, lambda sentences: stock(model, sentences))
    ours = accumulated(model, lambda sentences: packed(encoder, sentences))
    assert not any(part in name for name in ours for part in FROZEN[case])
    assert_gradients_agree(ours, theirs)
    norm = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    assert gradient_norm([p.grad for p in model.parameters() if p.grad is not None]).item() == pytest.approx(
        norm.item(), rel=1e-5
    )


def test_the_word_gradient_of_one_step_leaves_nothing_for_the_next(model):
    encoder, word = PackedEncoder(model), model[0].auto_model.embeddings.word_embeddings.weight
    for seed in (1, 2, 3):
        sentences = random_sentences(model, [6, 11], seed)
        model.zero_grad()
        packed(encoder, sentences).sum().backward()
        touched = {token for sentence in sentences for token in sentence}
        rows = set(word.grad.abs().sum(1).nonzero().ravel().tolist())
        assert rows <= touched


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
def test_dropout_keeps_the_right_share_and_follows_torchs_seed(p):
    torch.manual_seed(0)
    masks, other = (Masks(Packing([30] * 64, HEADS), 2, 64, (p, p), torch.float32) for _ in range(2))
    torch.manual_seed(0)
    again = Masks(Packing([30] * 64, HEADS), 2, 64, (p, p), torch.float32)
    for name in ("hidden", "attention"):
        assert torch.equal(getattr(masks, name), getattr(again, name))
        assert not torch.equal(getattr(masks, name), getattr(other, name))
    for mask, scale in ((masks.hidden, masks.scale), (masks.attention, 1.0)):
        kept = mask * scale
        n = kept.numel()
        assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
        assert (kept > 0).float().mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / n) ** 0.5)
        assert kept.mean().item() == pytest.approx(1, abs=6 * (p / (1 - p) / n) ** 0.5)


def test_dropout_moves_the_embedding_around_its_mean(model):
    """With dropout on, many draws average to nearly the embedding without it; a wrong scale would shift them."""
    sentences, encoder = random_sentences(model, [12, 25]), PackedEncoder(model)
    without = packed(encoder, sentences).detach()
    torch.manual_seed(0)
    model.train()
    draws = torch.stack([packed(encoder, sentences).detach() for _ in range(100)])
    theirs = torch.stack([stock(model, sentences).detach() for _ in range(100)])
    assert draws.std(0).mean() == pytest.approx(theirs.std(0).mean().item(), rel=0.1)
    ours_to_mean, theirs_to_mean = ((d.mean(0) * without).sum(1).mean().item() for d in (draws, theirs))
    assert ours_to_mean == pytest.approx(theirs_to_mean, abs=0.02)


LOSSES = {
    "softmax with product": ({"multiply": True}, [0, 2, 1]),
    "softmax without norm": ({"normalize": False}, [0, 2, 1]),
    "ranking on fewer dimensions": ({"loss": "mnrl", "matryoshka": (24, 8)}, None),
    "ranking without hard negatives": ({"loss": "mnrl_pairs"}, None),
    "cosent": ({"loss": "cosent"}, [0.9, 0.1, 0.5]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_librarys(model, name):
    """The loss of a batch and all its gradients, the head's too, which the packed engine leaves to the library's loss."""
    changes, label = LOSSES[name]
    recipe = Recipe("tried", "a recipe of the tests", **{"loss": "softmax", "train_head": True, **changes})
    model, label = prepare_encoder(recipe, model).eval(), None if label is None else torch.tensor(label)
    torch.manual_seed(0)
    loss = make_loss(recipe, model)
    columns = [random_sentences(model, lengths, len(lengths) + lengths[0]) for lengths in ([5, 9, 3], [7, 2, 20])]
    expected = loss([padded(column) for column in columns], label)
    expected.backward()
    theirs = of_parameters(loss)
    ours_loss = PackedTrainer.override_model_in_loss(_holder(model), loss, nn.Identity())
    model.zero_grad()
    if (head := head_of(loss)) is not None:
        head.zero_grad()
    embeddings = packed(PackedEncoder(model), [sentence for column in columns for sentence in column])
    ours = ours_loss([{"sentence_embedding": part} for part in embeddings.chunk(2)], label)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    ours.backward()
    actual = {f"model.{name}": gradient for name, gradient in of_parameters(model).items()} | of_parameters(ours_loss)
    assert_gradients_agree(actual, theirs, relative=1e-3)


def _holder(model):
    """Enough of a trainer for the library's ``override_model_in_loss``."""
    holder = PackedTrainer.__new__(PackedTrainer)
    holder.model_class = type(model)
    return holder


@pytest.mark.parametrize(("part", "changes", "said"), [
    (1, {"pooling_mode": "cls"}, "mean pooling only"),
    (0, {"hidden_act": "relu"}, "BERT encoders with gelu"),
    (0, {"is_decoder": True}, "BERT encoders with gelu"),
])  # fmt: skip
def test_other_models_are_refused(model, part, changes, said):
    other = copy.deepcopy(model)
    for name, value in changes.items():
        setattr(other[1] if part else other[0].auto_model.config, name, value)
    with pytest.raises(UsageError, match=said):
        PackedEncoder(other)
    del other[1:]
    with pytest.raises(UsageError, match="use --engine stock"):
        PackedEncoder(other)


def test_both_engines_train_the_same_run(tmp_path, monkeypatch, tiny_model):
    """Same batches, same schedule, same clipping, same log: without dropout, in float32, the runs are the same."""
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    recipe = dataclasses.replace(CARD, dropout=0.0, train_head=True)
    options = {"nli_split": "train[:328]", "log_every": 2, "start": tiny_model}
    ours, theirs = (train(recipe, out=tmp_path / name, engine=name, **options) for name in ("packed", "stock"))
    assert [run.info["engine"] for run in (ours, theirs)] == ["packed", "stock"]
    columns = ["step", "epoch", "learning_rate"]
    assert ours.log()[columns].equals(theirs.log()[columns])
    np.testing.assert_allclose(ours.log()["loss"], theirs.log()["loss"], atol=2e-4)
    sentences = ["A man sleeps.", "Two dogs are running in a park."]
    ours, theirs = load_classifier(ours, "cpu"), load_classifier(theirs, "cpu")
    np.testing.assert_allclose(ours.encoder.encode(sentences), theirs.encoder.encode(sentences), atol=2e-3)
    torch.testing.assert_close(ours.head.weight, theirs.head.weight, rtol=0, atol=2e-3)


@pytest.mark.parametrize("length", [1, 65_537, 22_713_216])
def test_gradients_are_clipped_as_the_library_clips(length):
    """From one number to as many as the base model has, of very different sizes.

    The library computes in float64 here: its own float32 sum over so many numbers is off by 8e-5.
    """
    flat = torch.randn(length, generator=torch.Generator().manual_seed(length)).pow_(5)
    exact = float(np.linalg.norm(flat.numpy().astype(np.float64)))
    assert float(gradient_norm([flat[: length // 3], flat[length // 3 :]])) == pytest.approx(exact, rel=1e-6)
    parameter, ours = nn.Parameter(torch.empty_like(flat, dtype=torch.float64)), flat.clone()
    parameter.grad = flat.double()
    nn.utils.clip_grad_norm_([parameter], exact / 3)
    assert float(clip(ours, exact / 3)) == pytest.approx(exact, rel=1e-6)
    torch.testing.assert_close(ours, parameter.grad.float(), rtol=1e-5, atol=0)


def test_short_gradients_are_left_as_they_are():
    flat = torch.tensor([3.0, 4.0])
    assert clip(flat, 5.5) == 5
    assert flat.tolist() == [3, 4]


def clip(gradients, largest):
    """Clip as the packed trainer does, and return the norm from before."""
    parameter, encoder = nn.Parameter(torch.empty_like(gradients)), PackedEncoder.__new__(PackedEncoder)
    parameter.grad, encoder.word, encoder.word_blocks = gradients, nn.Parameter(torch.empty(0)), torch.empty(0, 1)
    encoder.model = SimpleNamespace(parameters=lambda: [parameter])
    return encoder.clip(largest)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), batches=st.integers(1, 3), share=st.sampled_from([0.1, 2.0]))
def test_words_that_no_batch_has_are_left_out_of_clipping_and_it_stays_exact(shared, seed, batches, share):
    """After gradients of several batches, and again after the next ones."""
    encoder = PackedEncoder(shared)
    for again in range(2):
        shared.zero_grad()
        for number in range(batches):
            packed(encoder, random_sentences(shared, [5, 30, 1], seed + 7 * number + again)).square()[
                :, 0
            ].sum().backward()
        before = of_parameters(shared)
        exact = torch.stack([gradient.double().norm() for gradient in before.values()]).norm().item()
        assert float(encoder.clip(share * exact)) == pytest.approx(exact, rel=1e-6)
        for name, gradient in of_parameters(shared).items():
            torch.testing.assert_close(gradient, before[name] * min(1, share), rtol=1e-5, atol=0, msg=name)

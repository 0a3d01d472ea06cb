import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, SoftmaxLoss

from stlib import corpora
from stlib.card.model_card import write_card
from stlib.corpora import Source
from stlib.errors import UsageError
from stlib.losses import head_of, make_loss, prepare_encoder, prepare_head, training_rows, triplets
from stlib.nli_classifier import NLIClassifier
from stlib.recipes import CARD, TRAINED_HEAD, Recipe
from stlib.runs import Run
from stlib.training import train

PAIRS = Dataset.from_dict(
    {
        "sentence_0": ["a"] * 4 + ["b"] * 2 + ["c"] * 3,
        "sentence_1": ["a yes", "a no", "a also", "a maybe", "b no", "b maybe", "c maybe", "c yes", "c no"],
        "label": [0, 2, 0, 1, 2, 1, 1, 0, 2],
    }
)
LOSSES = ("softmax", "mnrl", "cosent", "angle", "cosine")


def recipe(loss, **changes):
    return Recipe("tried", "a recipe of the tests", loss=loss, short=True, **changes)


def test_triplets_pair_entailed_and_contradicted_hypotheses_of_one_premise():
    rows = triplets(PAIRS)
    assert rows.column_names == ["anchor", "positive", "negative"]
    assert [tuple(row.values()) for row in rows] == [("a", "a yes", "a no"), ("c", "c yes", "c no")]


def test_pairs_without_triplets_are_refused():
    with pytest.raises(UsageError, match="no premise"):
        triplets(PAIRS.select([3, 4, 5]))


def test_scores_follow_the_labels():
    rows = training_rows(recipe("cosent"), PAIRS)
    assert rows.column_names == ["sentence_0", "sentence_1", "label"]
    assert rows["label"][:4] == [1.0, 0.0, 1.0, 0.5]
    assert rows.features["label"].dtype == "float32"


def test_softmax_takes_the_pairs_as_they_are():
    assert training_rows(CARD, PAIRS) is PAIRS


def test_sts_scores_are_scaled_to_one():
    rows = training_rows(recipe("cosine", data="sts"), corpora.sts("sts", "validation", Source("mini")))
    assert rows.column_names == ["sentence1", "sentence2", "label"]
    assert 0 <= min(rows["label"]) < 0.1
    assert 0.9 < max(rows["label"]) <= 1


def test_what_is_trained_on_is_named(tmp_path, capsys):
    """The mini STS task has no training split, and the line before the run says so."""
    train(recipe("cosine", data="sts", batch_size=8), "mini", out=tmp_path / "run", max_steps=1)
    assert "pairs of sts validation from mini corpora, 1 steps of 8" in capsys.readouterr().out


def test_the_head_is_frozen_or_enlarged():
    head = torch.nn.Linear(1152, 3)
    before = head.weight.detach().clone()
    prepare_head(CARD, head)
    assert not head.weight.requires_grad
    torch.testing.assert_close(head.weight.detach(), before)
    prepare_head(TRAINED_HEAD.fitted_to(100, 15), head)
    assert head.weight.requires_grad
    torch.testing.assert_close(head.weight.detach(), TRAINED_HEAD.head_gain * before)


def test_dropout_is_the_recipes(base):
    model = prepare_encoder(replace(CARD, dropout=0.25), copy.deepcopy(base))
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_without_normalize_only_the_length_changes(base):
    plain = prepare_encoder(replace(CARD, normalize=False), copy.deepcopy(base))
    assert len(plain) == len(base) - 1
    plain.eval()
    u, v = plain.encode(["A man sleeps."]), base.encode(["A man sleeps."])
    assert abs(np.linalg.norm(u) - 1) > 0.1
    np.testing.assert_allclose(u / np.linalg.norm(u), v, atol=1e-6)


def test_each_loss_is_the_librarys(base):
    for loss in LOSSES:
        assert (
            type(make_loss(recipe(loss), base))
            .__name__.lower()
            .startswith({"mnrl": "multiplenegatives", "cosine": "cosinesimilarity"}.get(loss, loss))
        )
    wide = make_loss(recipe("mnrl", matryoshka=(384, 128)), base)
    assert isinstance(wide, MatryoshkaLoss)
    assert list(wide.matryoshka_dims) == [384, 128]
    assert head_of(wide) is None
    multiplied = make_loss(recipe("softmax", multiply=True), base)
    assert isinstance(multiplied, SoftmaxLoss)
    assert head_of(multiplied).in_features == 4 * 384


@pytest.mark.parametrize(
    "changes",
    [{"loss": loss} for loss in LOSSES]
    + [{"loss": "softmax", "normalize": False}, {"loss": "softmax", "multiply": True}]
    + [{"loss": "mnrl", "matryoshka": (384, 64)}],
    ids=str,
)
def test_both_engines_train_the_same_weights(changes, tmp_path, monkeypatch):
    """Three steps without dropout in fp32: packed and stock end at the same encoder, to rounding."""
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    tried = recipe(**changes, dropout=0.0, train_head=True, epochs=1, batch_size=8)
    ends = {}
    for engine in ("packed", "stock"):
        run = train(tried, "mini", out=tmp_path / engine, nli_split="train[:72]", max_steps=3, engine=engine)
        ends[engine] = SentenceTransformer(str(run.model_folder), device="cpu").encode(
            ["A man sleeps.", "Two dogs run."]
        )
    np.testing.assert_allclose(ends["packed"], ends["stock"], atol=2e-5, rtol=1e-4)


def test_a_run_without_a_head_is_whole_but_for_the_head(tmp_path):
    run = train(recipe("mnrl", epochs=1, batch_size=8), "mini", out=tmp_path / "run", nli_split="train[:60]")
    assert (run.info["rows"], run.info["head_moved"]) == (20, None)
    assert "MultipleNegativesRankingLoss" in (run.folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="holds no NLI head"):
        run.classifier("cpu")
    assert not run.has_head()
    assert "Semantic Similarity" in write_card(run, Source("mini")).read_text(encoding="utf-8")
    again = train(
        recipe("cosent", data="sts", epochs=1, batch_size=8),
        "mini",
        out=tmp_path / "next",
        start=run.folder,
        max_steps=2,
    )
    assert again.info["start"] == str(run.folder)
    assert Run.load(again.folder).info["rows"] == len(corpora.sts("sts", "validation", Source("mini")))


def test_a_head_that_sees_the_product_is_loaded_with_it(tmp_path):
    run = train(
        recipe("softmax", multiply=True, normalize=False, train_head=True, epochs=1), "mini", out=tmp_path / "run",
        nli_split="train[:64]",
    )  # fmt: skip
    loaded = NLIClassifier.load(run.model_folder, device="cpu")
    assert loaded.multiply
    assert loaded.head.in_features == 4 * 384
    assert loaded.predict_proba(["A man sleeps."], ["A person rests."]).sum() == pytest.approx(1)

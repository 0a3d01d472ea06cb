import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.losses import (
    AnglELoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
)

from stlib import data
from stlib.cards import write_card
from stlib.errors import UsageError
from stlib.losses import head_of, make_loss, prepare_encoder, prepare_head, training_rows, triplets
from stlib.nli_classifier import NLIClassifier
from stlib.recipes import CARD, TRAINED_HEAD, Recipe
from stlib.runs import Run
from stlib.sources import Source
from stlib.training import train
from tests.tiny import SIZE

PAIRS = Dataset.from_dict(
    {
        "sentence_0": ["a"] * 4 + ["b"] * 2 + ["c"] * 3,
        "sentence_1": ["a yes", "a no", "a also", "a maybe", "b no", "b maybe", "c maybe", "c yes", "c no"],
        "label": [0, 2, 0, 1, 2, 1, 1, 0, 2],
    }
)


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
    rows = training_rows(recipe("cosine", data="sts"), data.sts("sts", "validation", Source("mini")))
    assert rows.column_names == ["sentence1", "sentence2", "label"]
    assert 0 <= min(rows["label"]) < 0.1
    assert 0.9 < max(rows["label"]) <= 1


def test_what_is_trained_on_is_named(tmp_path, capsys, tiny_model):
    """The mini STS task has no training split, and the line before the run says so."""
    tried = recipe("cosine", data="sts", batch_size=8)
    train(tried, "mini", out=tmp_path / "run", max_steps=1, start=tiny_model)
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


def test_dropout_is_the_recipes(tiny):
    model = prepare_encoder(replace(CARD, dropout=0.25), copy.deepcopy(tiny))
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_without_normalize_only_the_length_changes(tiny):
    plain = prepare_encoder(replace(CARD, normalize=False), copy.deepcopy(tiny))
    assert len(plain) == len(tiny) - 1
    plain.eval()
    u, v = plain.encode(["A man sleeps."]), tiny.encode(["A man sleeps."])
    assert abs(np.linalg.norm(u) - 1) > 0.1
    np.testing.assert_allclose(u / np.linalg.norm(u), v, atol=1e-6)


def test_each_loss_is_the_librarys(tiny):
    kinds = {
        "softmax": SoftmaxLoss,
        "mnrl": MultipleNegativesRankingLoss,
        "cosent": CoSENTLoss,
        "angle": AnglELoss,
        "cosine": CosineSimilarityLoss,
    }
    assert {loss: type(make_loss(recipe(loss), tiny)) for loss in kinds} == kinds
    wide = make_loss(recipe("mnrl", matryoshka=(SIZE, 8)), tiny)
    assert isinstance(wide, MatryoshkaLoss)
    assert list(wide.matryoshka_dims) == [SIZE, 8]
    assert head_of(wide) is None
    assert head_of(make_loss(recipe("softmax", multiply=True), tiny)).in_features == 4 * SIZE


def test_a_run_without_a_head_is_whole_but_for_the_head(tmp_path, tiny_model):
    tried = recipe("mnrl", epochs=1, batch_size=8)
    run = train(tried, "mini", out=tmp_path / "run", nli_split="train[:60]", start=tiny_model)
    assert (run.info["rows"], run.info["head_moved"]) == (20, None)
    assert "MultipleNegativesRankingLoss" in (run.folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="holds no NLI head"):
        run.classifier("cpu")
    assert not run.has_head()
    assert "Semantic Similarity" in write_card(run, Source("mini")).read_text(encoding="utf-8")
    after = recipe("cosent", data="sts", epochs=1, batch_size=8)
    again = train(after, "mini", out=tmp_path / "next", start=run.folder, max_steps=2)
    assert again.info["start"] == str(run.folder)
    assert Run.load(again.folder).info["rows"] == len(data.sts("sts", "validation", Source("mini")))


def test_a_head_that_sees_the_product_is_loaded_with_it(tmp_path, tiny_model):
    tried = recipe("softmax", multiply=True, normalize=False, train_head=True, epochs=1)
    run = train(tried, "mini", out=tmp_path / "run", nli_split="train[:64]", start=tiny_model)
    loaded = NLIClassifier.load(run.model_folder, device="cpu")
    assert loaded.multiply
    assert loaded.head.in_features == 4 * SIZE
    assert loaded.predict_proba(["A man sleeps."], ["A person rests."]).sum() == pytest.approx(1)

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr

from stlib import corpora, evaluation
from stlib.corpora import Source
from stlib.errors import UsageError
from stlib.nli_classifier import NLIClassifier

MINI = Source("mini")


def test_sts_scores_are_scipys(base):
    dataset = corpora.sts("sts", "test", MINI)
    row, cosines = evaluation.sts_scores(base, dataset, "sts")
    u, v = base.encode(list(dataset["sentence1"])), base.encode(list(dataset["sentence2"]))
    assert cosines == pytest.approx((u * v).sum(axis=1), abs=1e-5)
    assert row["spearman"] == pytest.approx(100 * spearmanr(dataset["score"], cosines).statistic, abs=1e-3)
    assert row["pearson"] == pytest.approx(100 * pearsonr(dataset["score"], cosines).statistic, abs=1e-3)
    assert row["low"] < row["spearman"] < row["high"]
    assert (row["task"], row["n"]) == ("sts", 210)
    assert 79 < row["spearman"] < 82


def test_each_sentence_is_encoded_once(base, monkeypatch):
    encoded = []
    original = type(base).encode

    def counting(self, sentences, **kwargs):
        encoded.extend(sentences)
        return original(self, sentences, **kwargs)

    monkeypatch.setattr(type(base), "encode", counting)
    dataset = Dataset.from_dict(
        {"sentence1": ["a cat", "a cat", "a dog"], "sentence2": ["a dog", "a tree", "a cat"], "score": [3.0, 1.0, 2.0]}
    )
    evaluation.sts_scores(base, dataset, "few")
    assert sorted(encoded) == ["a cat", "a dog", "a tree"]


@pytest.mark.parametrize("scores", [[2.0, 2.0, 2.0], [1.0, float("nan"), 2.0], [1.0]])
def test_undefined_correlations_are_refused(base, scores):
    n = len(scores)
    dataset = Dataset.from_dict({"sentence1": ["a", "b", "c"][:n], "sentence2": ["d", "e", "f"][:n], "score": scores})
    with pytest.raises(UsageError, match="correlation"):
        evaluation.sts_scores(base, dataset, "flat")


def test_the_bootstrap_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        correct = rng.random(150) < 0.7
        low, high = evaluation.bootstrap_mean(correct, resamples=300, seed=trial)
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_nli_scores_of_a_head_that_always_says_neutral(base):
    head = torch.nn.Linear(1152, 3)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 5.0, 0.0])
    scores = evaluation.nli_scores(NLIClassifier(base, head), corpora.nli("test[:90]", MINI))
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["per_label"] == {"entailment": 0.0, "neutral": 1.0, "contradiction": 0.0}
    assert scores["confusion"].tolist() == [[0, 30, 0], [0, 30, 0], [0, 30, 0]]
    assert scores["n"] == 90
    assert scores["macro_f1"] == pytest.approx(0.5 / 3)


def test_probe_uses_the_given_split_or_ten_folds(base, data_folder):
    scores = evaluation.probe_scores(base, "question_topic", MINI)
    assert (scores["protocol"], scores["n"], scores["classes"]) == ("train/test", 120, 6)
    assert scores["accuracy"] > 85
    folds = evaluation.probe_scores(base, "cr", Source("folder", data_folder))
    assert (folds["protocol"], folds["n"]) == ("10-fold", 40)
    assert folds["accuracy"] > 90


def test_tables_have_a_row_a_task(base):
    assert evaluation.sts_table(base, ["sts"], MINI)["n"].tolist() == [210]
    assert evaluation.probe_table(base, ["opinion"], MINI)["task"].tolist() == ["opinion"]

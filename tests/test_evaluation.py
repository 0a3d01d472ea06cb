import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from stlib.nli_classifier import NLIClassifier
from stlib.probes import nli_probe

from stlib import data, evaluation
from stlib.errors import UsageError
from stlib.sources import Source
from tests.tiny import SIZE

MINI = Source("mini")


def test_the_base_models_score_on_the_mini_task_is_known(base):
    assert 79 < evaluation.sts_scores(base, data.sts("sts", "test", MINI))[0]["spearman"] < 82


def test_sts_scores_are_scipys(tiny):
    dataset = data.sts("sts", "test", MINI)
    row, cosines = evaluation.sts_scores(tiny, dataset, "sts")
    u, v = tiny.encode(list(dataset["sentence1"])), tiny.encode(list(dataset["sentence2"]))
    assert cosines == pytest.approx((u * v).sum(axis=1), abs=1e-5)
    assert row["spearman"] == pytest.approx(100 * spearmanr(dataset["score"], cosines).statistic, abs=1e-3)
    assert row["pearson"] == pytest.approx(100 * pearsonr(dataset["score"], cosines).statistic, abs=1e-3)
    assert row["low"] < row["spearman"] < row["high"]
    assert (row["task"], row["n"]) == ("sts", 210)


def test_a_gold_score_that_is_no_number_is_refused(tiny):
    """Where the pairs come from elsewhere than ``corpora``, which says so itself."""
    pairs = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": [1.0, float("nan"), 2.0]}
    with pytest.raises(UsageError, match="correlation"):
        evaluation.sts_scores(tiny, Dataset.from_dict(pairs), "flat")


def test_nli_scores_of_a_head_that_always_says_neutral(tiny):
    head = torch.nn.Linear(3 * SIZE, 3)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 5.0, 0.0])
    scores = evaluation.nli_scores(NLIClassifier(tiny, head), data.nli("test[:90]", MINI))
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["per_label"] == {"entailment": 0.0, "neutral": 1.0, "contradiction": 0.0}
    assert scores["confusion"].tolist() == [[0, 30, 0], [0, 30, 0], [0, 30, 0]]
    assert scores["n"] == 90
    assert scores["macro_f1"] == pytest.approx(0.5 / 3)


def test_a_label_that_never_occurs_keeps_its_row_and_column(tiny):
    head = torch.nn.Linear(3 * SIZE, 3)
    head.bias.data = torch.tensor([0.0, 9.0, 0.0])
    pairs = data.nli("test[:30]", MINI)
    scores = evaluation.nli_scores(NLIClassifier(tiny, head), pairs.filter(lambda row: row["label"] < 2))
    assert scores["confusion"].tolist() == [[0, 10, 0], [0, 10, 0], [0, 0, 0]]
    assert scores["per_label"]["contradiction"] == 0


def test_calibration_of_made_up_probabilities():
    """40 pairs at 0.9 of which 30 are right, 10 at 0.5 of which 5 are: off by 0.15 and by 0."""
    probabilities = np.array([[0.9, 0.1]] * 40 + [[0.5, 0.5]] * 10)
    gold = np.array([0] * 30 + [1] * 10 + [0] * 5 + [1] * 5)
    table = evaluation.calibration(probabilities, gold)
    assert table["n"].tolist() == [10, 40]
    assert table["confidence"].tolist() == pytest.approx([0.5, 0.9])
    assert table["accuracy"].tolist() == pytest.approx([0.5, 0.75])
    assert evaluation.calibration_error(table) == pytest.approx(0.15 * 40 / 50)


def test_calibration_asks_each_pair_for_its_own_label():
    """The second pair is right, the third wrong; 0.62 and 0.68 share the bin from 0.6 to 0.7."""
    table = evaluation.calibration(np.array([[0.62, 0.38], [0.32, 0.68], [0.1, 0.9]]), np.array([0, 1, 0]))
    assert table.index.tolist() == [6, 9]
    assert table["n"].tolist() == [2, 1]
    assert table["accuracy"].tolist() == [1, 0]


def test_probability_one_falls_into_the_last_bin():
    table = evaluation.calibration(np.array([[1.0, 0.0]]), np.array([0]))
    assert table.index.tolist() == [9]
    assert evaluation.calibration_error(table) == 0


def subsets_folder(tmp_path):
    pairs = data.sts("sts", "test", MINI).to_pandas()[["sentence1", "sentence2", "score"]]
    (tmp_path / "sts99-sts").mkdir()
    pairs.assign(subset=["odd", "even"] * (len(pairs) // 2)).to_parquet(tmp_path / "sts99-sts" / "test.parquet")
    return Source("folder", tmp_path)


def test_subsets_are_scored_apart_and_together(tiny, tmp_path):
    """Any folder with this layout: sts99 is no corpus of the course."""
    table = evaluation.sts_table(tiny, ["sts99-sts"], subsets_folder(tmp_path), subsets=True)
    assert table["subset"].tolist() == ["all", "odd", "even", "mean of subsets"]
    assert table["n"].tolist() == [210, 105, 105, 210]
    assert table["spearman"].iloc[3] == pytest.approx(table["spearman"].iloc[1:3].mean())
    assert set(table["task"]) == {"sts99-sts"}
    odd = data.sts("sts", "test", MINI).select(range(0, 210, 2))
    assert table["spearman"].iloc[1] == pytest.approx(evaluation.sts_scores(tiny, odd)[0]["spearman"])
    whole = evaluation.sts_table(tiny, ["sts"], MINI)
    assert evaluation.sts_table(tiny, ["sts99-sts"], Source("folder", tmp_path))["subset"].tolist() == ["all"]
    assert table["spearman"].iloc[0] == pytest.approx(whole["spearman"].iloc[0])


def test_a_suite_encodes_each_sentence_once_and_gives_the_same_rows(tiny, encoded):
    torch.manual_seed(0)
    classifier = NLIClassifier(tiny, torch.nn.Linear(3 * SIZE, 3))
    tasks = ["sts", "nli", "question_topic", "opinion"]
    rows = list(evaluation.suite(classifier, tasks, MINI))
    assert [row["task"] for row in rows] == ["sts", "nli", "question_topic", "question_topic", "opinion", "opinion"]
    assert [row.get("protocol") for row in rows[2:]] == ["senteval", "mteb"] * 2
    assert len(encoded) == 1
    assert len(set(encoded[0])) == len(encoded[0])
    alone = evaluation.sts_scores(tiny, data.sts("sts", "test", MINI), "sts")[0]
    assert {**rows[0], "pearson": 0} == {**alone, "pearson": 0}
    assert rows[0]["pearson"] == pytest.approx(alone["pearson"], abs=1e-4)
    assert json.loads(json.dumps(rows)) == rows  # no arrays
    assert rows[1]["accuracy"] == evaluation.nli_scores(classifier, data.nli("test", MINI))["accuracy"]


def test_a_fresh_head_scores_a_model_without_one(tiny, encoded):
    (row,) = evaluation.suite(tiny, ["nli-probe"], MINI, nli_split="train[:600]")
    assert len(encoded) == 1
    assert len(encoded[0]) <= 2 * (600 + 3_000)  # the split that was asked for, and the test split
    assert (row["protocol"], row["n"]) == ("fresh head", 3_000)
    correct = nli_probe(tiny, data.nli("train[:600]", MINI), data.nli("test", MINI))
    assert row["accuracy"] == pytest.approx(100 * correct.mean())
    assert row["low"] < row["accuracy"] < row["high"]


def test_the_texts_of_a_task_come_from_the_source_that_was_asked(data_folder):
    source = Source("folder", data_folder)
    assert [len(column) for column in evaluation.columns_of("nli", source, "train")] == [60, 60]
    assert [len(column) for column in evaluation.columns_of("nli-probe", source, "train[:30]")] == [30, 30, 60, 60]
    assert evaluation.columns_of("sts13-sts", source, "train")[1] == ["a kitten", "a puppy", "a tax"]
    assert [len(column) for column in evaluation.columns_of("cr", source, "train")] == [40]


def test_a_suite_with_nli_needs_a_head(tiny):
    with pytest.raises(UsageError, match="NLI head"):
        list(evaluation.suite(tiny, ["nli"], MINI))


def test_geometry_of_known_vectors():
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert evaluation.uniformity(opposite) == pytest.approx(-8)  # |x - y|^2 = 4, t = 2
    assert evaluation.mean_cosine(opposite) == pytest.approx(-1)
    same = np.array([[1.0, 0.0]] * 3)
    assert evaluation.uniformity(same) == pytest.approx(0)
    assert evaluation.mean_cosine(same) == pytest.approx(1)
    assert evaluation.alignment(same, same) == 0
    assert evaluation.alignment(opposite[:1], opposite[1:]) == pytest.approx(4)
    right = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert evaluation.uniformity(right, t=3) == pytest.approx(-6)  # |x - y|^2 = 2
    near = np.array([[0.6, 0.8], [0.0, 1.0]])  # squared distances to `right`: 0.8 and 0
    assert evaluation.alignment(right, near) == pytest.approx(0.4)
    assert evaluation.mean_cosine(near) == pytest.approx(0.8)


def test_uniformity_of_many_embeddings_is_that_of_a_sample_the_seed_decides():
    points = np.random.default_rng(0).normal(size=(50, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert evaluation.uniformity(points, rows=10) == evaluation.uniformity(points, rows=10)
    assert evaluation.uniformity(points, rows=10) != evaluation.uniformity(points, rows=10, seed=1)
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)[np.triu_indices(50, 1)]
    assert evaluation.uniformity(points) == pytest.approx(np.log(np.exp(-2 * distances).mean()))


def test_rank_changes_of_four_pairs():
    """The first pair rises from rank 1 to its gold rank 4; the ties of the second and third share rank 2.5."""
    gold, before, after = np.array([5, 1, 2, 3]), np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.9, 0.2, 0.2, 0.1])
    table = evaluation.rank_changes(gold, before, after)
    assert list(table.columns) == ["row", "gold_rank", "before", "after", "change", "towards_gold"]
    assert table["row"].tolist() == [0, 3, 1, 2]
    assert table["gold_rank"].tolist() == [4, 3, 1, 2]
    assert table["before"].tolist() == [1, 4, 2, 3]
    assert table["after"].tolist() == [4, 1, 2.5, 2.5]
    assert table["change"].tolist() == [3, -3, 0.5, -0.5]
    assert table["towards_gold"].tolist() == [True, False, False, True]

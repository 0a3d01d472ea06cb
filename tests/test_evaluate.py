import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression

from stlib import data, evaluate
from stlib.__main__ import describe_row
from stlib.errors import UsageError
from stlib.evaluate import best_strength, fit, mteb, nli_probe, probe_scores, probe_table, senteval
from stlib.model import EncodeOnce, NLIClassifier
from stlib.sources import Source
from tests.tiny import SIZE

MINI = Source("mini")
RNG = np.random.default_rng(0)


def test_the_base_models_score_on_the_mini_task_is_known(base):
    assert 79 < evaluate.sts_scores(base, data.sts("sts", "test", MINI))[0]["spearman"] < 82


def test_sts_scores_are_scipys(tiny):
    dataset = data.sts("sts", "test", MINI)
    row, cosines = evaluate.sts_scores(tiny, dataset, "sts")
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
        evaluate.sts_scores(tiny, Dataset.from_dict(pairs), "flat")


def test_nli_scores_of_a_head_that_always_says_neutral(tiny):
    head = torch.nn.Linear(3 * SIZE, 3)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 5.0, 0.0])
    scores = evaluate.nli_scores(NLIClassifier(tiny, head), data.nli("test[:90]", MINI))
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["per_label"] == {"entailment": 0.0, "neutral": 1.0, "contradiction": 0.0}
    assert scores["confusion"].tolist() == [[0, 30, 0], [0, 30, 0], [0, 30, 0]]
    assert scores["n"] == 90
    assert scores["macro_f1"] == pytest.approx(0.5 / 3)


def test_a_label_that_never_occurs_keeps_its_row_and_column(tiny):
    head = torch.nn.Linear(3 * SIZE, 3)
    head.bias.data = torch.tensor([0.0, 9.0, 0.0])
    pairs = data.nli("test[:30]", MINI)
    scores = evaluate.nli_scores(NLIClassifier(tiny, head), pairs.filter(lambda row: row["label"] < 2))
    assert scores["confusion"].tolist() == [[0, 10, 0], [0, 10, 0], [0, 0, 0]]
    assert scores["per_label"]["contradiction"] == 0
    assert scores["macro_f1"] == pytest.approx(2 / 3 / 3)  # neutral has 2/3; the label that is missing counts too


def subsets_folder(tmp_path):
    pairs = data.sts("sts", "test", MINI).to_pandas()[["sentence1", "sentence2", "score"]]
    (tmp_path / "sts99-sts").mkdir()
    pairs.assign(subset=["odd", "even"] * (len(pairs) // 2)).to_parquet(tmp_path / "sts99-sts" / "test.parquet")
    return Source("folder", tmp_path)


def test_subsets_are_scored_apart_and_together(tiny, tmp_path):
    """Any folder with this layout: sts99 is no corpus of the course."""
    table = evaluate.sts_table(tiny, ["sts99-sts"], subsets_folder(tmp_path), subsets=True)
    assert table["subset"].tolist() == ["all", "odd", "even", "mean of subsets"]
    assert table["n"].tolist() == [210, 105, 105, 210]
    assert table["spearman"].iloc[3] == pytest.approx(table["spearman"].iloc[1:3].mean())
    assert set(table["task"]) == {"sts99-sts"}
    odd = data.sts("sts", "test", MINI).select(range(0, 210, 2))
    assert table["spearman"].iloc[1] == pytest.approx(evaluate.sts_scores(tiny, odd)[0]["spearman"])
    whole = evaluate.sts_table(tiny, ["sts"], MINI)
    assert evaluate.sts_table(tiny, ["sts99-sts"], Source("folder", tmp_path))["subset"].tolist() == ["all"]
    assert table["spearman"].iloc[0] == pytest.approx(whole["spearman"].iloc[0])


def test_a_subset_without_a_correlation_is_listed_without_figures(tiny, tmp_path):
    """One has a single pair, one has equal gold scores: the mean is that of the others, and JSON has no NaN."""
    source = subsets_folder(tmp_path)
    path = tmp_path / "sts99-sts" / "test.parquet"
    pairs = pd.read_parquet(path)
    pairs.loc[0, "subset"] = "single"
    pairs.loc[pairs.index[pairs["score"] == pairs["score"][1]][:3], "subset"] = "flat"
    pairs.to_parquet(path)
    rows = {row["subset"]: row for row in evaluate.suite(tiny, ["sts99-sts"], source, subsets=True)}
    assert {name: rows[name]["n"] for name in ("single", "flat")} == {"single": 1, "flat": 3}
    for name in ("spearman", "low", "high", "pearson"):
        assert rows["single"][name] is rows["flat"][name] is None
    scored = [rows[name]["spearman"] for name in ("odd", "even")]
    assert rows["mean of subsets"]["spearman"] == pytest.approx(np.mean(scored))
    assert rows["mean of subsets"]["low"] is None


@pytest.mark.parametrize("subsets", [False, True])
def test_a_task_without_a_correlation_does_not_lose_the_others(tiny, tmp_path, subsets):
    source = subsets_folder(tmp_path)
    (tmp_path / "flat").mkdir()
    pairs = pd.read_parquet(tmp_path / "sts99-sts" / "test.parquet").assign(score=3.0)
    pairs.to_parquet(tmp_path / "flat" / "test.parquet")
    shutil.copytree(tmp_path / "sts99-sts", tmp_path / "last")
    rows = list(evaluate.suite(tiny, ["sts99-sts", "flat", "last"], source, subsets=subsets))
    flat = next(row for row in rows if row["task"] == "flat")
    assert (
        flat.items()
        >= {"subset": "all", "n": 210, "spearman": None, "low": None, "high": None, "pearson": None}.items()
    )
    assert "no correlation is defined" in describe_row(flat)
    assert [row["spearman"] for row in rows if row["task"] == "sts99-sts"] == [
        row["spearman"] for row in rows if row["task"] == "last"
    ]


def test_a_task_is_what_its_columns_say(tiny, tmp_path):
    """Whatever its name: a folder of pairs with scores is an STS task, one with texts and labels a probe's."""
    pairs = data.sts("sts", "test", MINI).to_pandas()[["sentence1", "sentence2", "score"]]
    texts = pd.DataFrame({"text": [f"{word} {i}" for i in range(20) for word in ("good", "bad")], "label": [1, 0] * 20})
    for name, table, split in (("stsb", pairs, "test"), ("moods-sts", texts, "train")):
        (tmp_path / name).mkdir()
        table.to_parquet(tmp_path / name / f"{split}.parquet")
    source = Source("folder", tmp_path)
    rows = list(evaluate.suite(tiny, ["stsb", "moods-sts"], source, ("senteval",)))
    assert rows[0]["spearman"] == pytest.approx(evaluate.sts_table(tiny, ["sts"], MINI)["spearman"][0])
    assert (rows[1]["protocol"], rows[1]["n"]) == ("senteval", 40)
    with pytest.raises(UsageError, match=r"'stsb:test' from .* has no pairs with NLI labels: leave :test out"):
        list(evaluate.suite(tiny, ["moods-sts", "stsb:test"], source))


def test_any_corpus_of_nli_pairs_is_scored_by_its_name(tiny, tmp_path):
    """With the split that is there, or the one that is named; the head is the run's, as for SNLI."""
    classifier, source = NLIClassifier(tiny, torch.nn.Linear(3 * SIZE, 3)), Source("folder", tmp_path)
    pairs = data.nli("test[:60]", MINI).to_pandas()
    pairs = pairs.rename(columns={"sentence_0": "premise", "sentence_1": "hypothesis"})
    splits = {"matched": 30, "train": 9}, {"test": 12, "validation": 15}, {"dev": 6, "other": 21}
    for name, sizes in zip(("mnli", "anli", "two"), splits, strict=True):
        (tmp_path / name).mkdir()
        for split, rows in sizes.items():
            pairs[:rows].to_parquet(tmp_path / name / f"{split}.parquet")
    tasks = ["mnli", "anli", "anli:validation[:3]", "two:other", "mnli:train"]
    rows = list(evaluate.suite(classifier, tasks, source))
    assert [(row["task"], row["split"], row["n"]) for row in rows] == [
        ("mnli", "matched", 30), ("anli", "test", 12), ("anli", "validation[:3]", 3), ("two", "other", 21), ("mnli", "train", 9)
    ]  # fmt: skip
    alone = evaluate.nli_scores(classifier, data.nli("test[:30]", MINI))
    assert rows[0]["accuracy"] == 100 * alone["accuracy"]
    with pytest.raises(UsageError, match="'two' has the splits dev, other: name one, as in two:dev"):
        list(evaluate.suite(classifier, ["two"], source))
    with pytest.raises(UsageError, match="no NLI head, which the task 'mnli' needs"):
        list(evaluate.suite(tiny, ["mnli"], source))


def test_a_suite_encodes_each_sentence_once_and_gives_the_same_rows(tiny, encoded):
    torch.manual_seed(0)
    classifier = NLIClassifier(tiny, torch.nn.Linear(3 * SIZE, 3))
    tasks = ["sts", "nli", "question_topic", "opinion"]
    rows = list(evaluate.suite(classifier, tasks, MINI))
    assert [row["task"] for row in rows] == ["sts", "nli", "question_topic", "question_topic", "opinion", "opinion"]
    assert [row.get("protocol") for row in rows[2:]] == ["senteval", "mteb"] * 2
    assert len(encoded) == 1
    assert len(set(encoded[0])) == len(encoded[0])
    alone = evaluate.sts_scores(tiny, data.sts("sts", "test", MINI), "sts")[0]
    assert rows[0].pop("data") == "210 rows of test from 1 file; scores 0 to 5 on a scale from 0 to 5"
    assert {**rows[0], "pearson": 0} == {**alone, "pearson": 0}
    assert rows[0]["pearson"] == pytest.approx(alone["pearson"], abs=1e-4)
    assert json.loads(json.dumps(rows)) == rows  # no arrays
    alone = evaluate.nli_scores(classifier, data.nli("test", MINI))
    for name in ("accuracy", "low", "high", "macro_f1", "calibration_error"):  # in percent, as all others
        assert rows[1][name] == 100 * alone[name]
    assert rows[1]["per_label"] == {label: 100 * recall for label, recall in alone["per_label"].items()}


def test_a_fresh_head_scores_a_model_without_one(tiny, encoded):
    (row,) = evaluate.suite(tiny, ["nli-probe"], MINI, nli_split="train[:600]")
    assert len(encoded) == 1
    assert len(encoded[0]) <= 2 * (600 + 3_000)  # the split that was asked for, and the test split
    assert (row["task"], row["protocol"], row["n"]) == ("nli-probe", "fresh head", 3_000)
    correct = nli_probe(tiny, data.nli("train[:600]", MINI), data.nli("test", MINI))
    # Both encode in other batches, and last digits that differ with AVX2 alone turned two of 3,000 answers.
    assert row["accuracy"] == pytest.approx(100 * correct.mean(), abs=0.2)
    assert row["low"] < row["accuracy"] < row["high"]


TASKS = ("nli", "nli-probe", "sts13-sts", "cr")


def test_the_texts_of_a_task_come_from_the_source_that_was_asked(data_folder):
    source = Source("folder", data_folder)
    texts = {task: evaluate.texts_of(*evaluate.parts_of(task, source, "train[:30]")) for task in TASKS}
    assert [len(texts[task]) for task in TASKS] == [120, 60 + 120, 6, 40]
    assert texts["sts13-sts"] == ["a cat", "a dog", "the sun", "a kitten", "a puppy", "a tax"]


def test_a_suite_with_nli_needs_a_head(tiny):
    with pytest.raises(UsageError, match="NLI head"):
        list(evaluate.suite(tiny, ["nli"], MINI))


def clouds(n, distance, classes=2):
    """Two or more Gaussian clouds, as many rows of each."""
    y = np.arange(n) % classes
    x = RNG.standard_normal((n, 5)).astype(np.float32)
    x[:, 0] += distance * y
    return x, y


def test_senteval_uses_the_test_split_or_ten_folds(tiny, data_folder):
    scores = probe_scores(tiny, "question_topic", MINI)
    assert (scores["protocol"], scores["n"], scores["classes"]) == ("senteval", 120, 6)
    assert scores["low"] < scores["accuracy"] < scores["high"]
    folds = probe_scores(tiny, "cr", Source("folder", data_folder))
    assert (folds["protocol"], folds["n"]) == ("senteval", 40)
    assert folds["accuracy"] > 90


def test_mteb_draws_eight_a_label_ten_times(tiny, monkeypatch):
    sizes, original = [], LogisticRegression.fit

    def counting(self, x, y):
        sizes.append(np.bincount(y).tolist())
        return original(self, x, y)

    monkeypatch.setattr("stlib.evaluate.LogisticRegression.fit", counting)
    scores = probe_scores(tiny, "question_topic", MINI, "mteb")
    assert sizes == [[8] * 6] * 10
    assert (scores["protocol"], scores["n"]) == ("mteb", 120)
    assert scores["low"] < scores["accuracy"] < scores["high"]


def test_labels_that_are_far_apart_are_told_apart():
    assert senteval(clouds(100, 20))["accuracy"] == mteb(clouds(100, 20))["accuracy"] == 1


def test_without_a_test_split_mteb_scores_all_other_sentences():
    assert mteb(clouds(100, 20))["n"] == 84


def test_labels_that_mean_nothing_are_guessed():
    x, y = clouds(600, 0)
    found = senteval((x, y))
    assert found["n"] == 600
    assert found["low"] < 0.55
    assert abs(found["accuracy"] - 0.5) < 0.08
    assert 0.4 < mteb((x, y))["accuracy"] < 0.6


def test_c_is_chosen_on_sentences_that_are_not_trained_on():
    x, y = clouds(300, 1)
    validation = x.copy(), y.copy()
    chosen = best_strength((x, y), validation)
    accuracies = {strength: fit((x, y), strength).score(*validation) for strength in (0.25, 0.5, 1, 2, 4, 8)}
    assert accuracies[chosen] == max(accuracies.values())


@pytest.mark.parametrize("strength", [0.25, 8.0])
def test_both_solvers_agree(strength):
    """Few labels are fitted with Newton's method, many with L-BFGS: the same minimum."""
    x, y = clouds(400, 2, classes=3)
    ours, theirs = fit((x, y), strength), LogisticRegression(C=strength, max_iter=1_000, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)
    assert (ours.solver, fit(clouds(400, 2, classes=7), strength).solver) == ("newton-cholesky", "lbfgs")


def test_the_validation_split_chooses_c_if_there_is_one(monkeypatch):
    given, part = [], clouds(60, 2)
    monkeypatch.setattr("stlib.evaluate.best_strength", lambda *parts: given.append(parts) or 1.0)
    senteval(part, validation="validation", test=part)
    senteval(part, test=part)
    assert given == [(part, "validation"), (part, None)]


def test_without_a_validation_split_the_same_tenth_chooses_c(monkeypatch):
    seen, part = [], clouds(60, 2)
    probe = SimpleNamespace(score=lambda x, y: seen.append((x.tolist(), len(y))) or 0.5)
    monkeypatch.setattr("stlib.evaluate.fit", lambda part, strength: probe)
    assert best_strength(part) == best_strength(part)
    assert seen[0][1] == 6
    assert all(one == seen[0] for one in seen)


def test_a_fresh_head_has_the_courses_strength(tiny, monkeypatch):
    used = []
    monkeypatch.setattr("stlib.evaluate.LogisticRegression", lambda **o: used.append(o) or LogisticRegression(**o))
    nli_probe(tiny, data.nli("train[:60]", MINI), data.nli("test[:9]", MINI))
    assert used == [{"C": 10, "max_iter": 500}]


def test_unknown_protocols_and_single_labels_are_refused(tiny, tmp_path):
    with pytest.raises(UsageError, match="no protocol 'best'"):
        probe_scores(tiny, "opinion", MINI, "best")
    (tmp_path / "flat").mkdir()
    pd.DataFrame({"text": ["a", "b"], "label": [1, 1]}).to_parquet(tmp_path / "flat" / "train.parquet")
    with pytest.raises(UsageError, match="two labels"):
        probe_scores(tiny, "flat", Source("folder", tmp_path))


def test_tables_have_a_row_a_task(tiny):
    tables = [probe_table(tiny, ["opinion"], MINI, *protocol) for protocol in (["mteb"], [])]
    assert [[*table["task"], *table["protocol"]] for table in tables] == [["opinion", "mteb"], ["opinion", "senteval"]]


def made_up_pairs(n, encoder, random):
    """Pairs whose embeddings, which ``encoder`` is told, differ in another dimension for each label."""
    labels = np.arange(n) % 3
    u = random.normal(size=(n, SIZE)).astype(np.float32)
    v = u + 2 * np.eye(SIZE, dtype=np.float32)[labels]
    columns = {f"sentence_{side}": [f"{len(encoder.rows)} {side} {row}" for row in range(n)] for side in (0, 1)}
    for sentences, embeddings in zip(columns.values(), (u, v), strict=True):
        encoder.rows |= {sentence: len(encoder.rows) + row for row, sentence in enumerate(sentences)}
        encoder.embeddings = np.concatenate([encoder.embeddings, embeddings])
    return Dataset.from_dict({**columns, "label": labels})


def test_a_fresh_head_finds_what_the_embeddings_hold(tiny):
    random, encoder = np.random.default_rng(0), EncodeOnce(tiny)
    train, test = made_up_pairs(300, encoder, random), made_up_pairs(90, encoder, random)
    assert nli_probe(encoder, train, test).tolist() == [True] * 90
    shuffled = train.remove_columns("label").add_column("label", random.permutation(train["label"]))
    assert 0.15 < nli_probe(encoder, shuffled, test).mean() < 0.55

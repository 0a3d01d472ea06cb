import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from stlib.encoding import EncodeOnce
from stlib.probes import best_strength, fit, mteb, nli_probe, probe_scores, probe_table, senteval

from stlib.errors import UsageError
from stlib.sources import Source
from tests.tiny import SIZE

MINI = Source("mini")
RNG = np.random.default_rng(0)


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

    monkeypatch.setattr("stlib.probes.LogisticRegression.fit", counting)
    scores = probe_scores(tiny, "question_topic", MINI, "mteb")
    assert sizes == [[8] * 6] * 10
    assert (scores["protocol"], scores["n"]) == ("mteb", 120)
    assert scores["low"] < scores["accuracy"] < scores["high"]


def test_labels_that_are_far_apart_are_told_apart():
    assert senteval(clouds(100, 20))[0] == mteb(clouds(100, 20))[0] == 1


def test_without_a_test_split_mteb_scores_all_other_sentences():
    assert mteb(clouds(100, 20))[3] == 84


def test_labels_that_mean_nothing_are_guessed():
    x, y = clouds(600, 0)
    accuracy, low, _, n = senteval((x, y))
    assert n == 600
    assert low < 0.55
    assert abs(accuracy - 0.5) < 0.08
    assert 0.4 < mteb((x, y))[0] < 0.6


def test_c_is_chosen_on_sentences_that_are_not_trained_on():
    x, y = clouds(300, 1)
    validation = x.copy(), y.copy()
    chosen = best_strength((x, y), validation)
    accuracies = {strength: fit((x, y), strength).score(*validation) for strength in (0.25, 0.5, 1, 2, 4, 8)}
    assert accuracies[chosen] == max(accuracies.values())


def test_both_solvers_agree():
    """Few labels are fitted with Newton's method, many with L-BFGS: the same minimum."""
    x, y = clouds(400, 2, classes=3)
    ours, theirs = fit((x, y), 1.0), LogisticRegression(C=1.0, max_iter=1_000, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)


def test_unknown_protocols_and_single_labels_are_refused(tiny, tmp_path):
    with pytest.raises(UsageError, match="no protocol 'best'"):
        probe_scores(tiny, "opinion", MINI, "best")
    (tmp_path / "flat").mkdir()
    pd.DataFrame({"text": ["a", "b"], "label": [1, 1]}).to_parquet(tmp_path / "flat" / "train.parquet")
    with pytest.raises(UsageError, match="two labels"):
        probe_scores(tiny, "flat", Source("folder", tmp_path))


def test_tables_have_a_row_a_task(tiny):
    table = probe_table(tiny, ["opinion"], MINI, "mteb")
    assert table["task"].tolist() == ["opinion"]
    assert table["protocol"].tolist() == ["mteb"]


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

import numpy as np
import pytest

from stlib import corpora
from stlib.corpora import Source
from stlib.encoding import EncodeOnce
from stlib.errors import UsageError
from stlib.probes import best_strength, fit, mteb, nli_probe, probe_scores, probe_table, senteval

MINI = Source("mini")
RNG = np.random.default_rng(0)


def clouds(n, distance, classes=2):
    """Two or more Gaussian clouds, as many rows of each."""
    y = np.arange(n) % classes
    x = RNG.standard_normal((n, 5)).astype(np.float32)
    x[:, 0] += distance * y
    return x, y


def test_senteval_uses_the_test_split_or_ten_folds(base, data_folder):
    scores = probe_scores(base, "question_topic", MINI)
    assert (scores["protocol"], scores["n"], scores["classes"]) == ("senteval", 120, 6)
    assert scores["accuracy"] > 85
    assert scores["low"] < scores["accuracy"] < scores["high"]
    folds = probe_scores(base, "cr", Source("folder", data_folder))
    assert (folds["protocol"], folds["n"]) == ("senteval", 40)
    assert folds["accuracy"] > 90


def test_mteb_draws_eight_a_label_ten_times(base, monkeypatch):
    sizes = []
    from sklearn.linear_model import LogisticRegression

    original = LogisticRegression.fit

    def counting(self, x, y):
        sizes.append(np.bincount(y).tolist())
        return original(self, x, y)

    monkeypatch.setattr(LogisticRegression, "fit", counting)
    scores = probe_scores(base, "question_topic", MINI, "mteb")
    assert sizes == [[8] * 6] * 10
    assert (scores["protocol"], scores["n"]) == ("mteb", 120)
    assert 60 < scores["low"] < scores["accuracy"] < scores["high"] <= 100


def test_without_a_test_split_mteb_scores_all_other_sentences():
    assert mteb(clouds(100, 20))[3] == 84
    assert mteb(clouds(100, 20))[0] == 1


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
    from sklearn.linear_model import LogisticRegression

    x, y = clouds(400, 2, classes=3)
    ours, theirs = fit((x, y), 1.0), LogisticRegression(C=1.0, max_iter=1_000, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)


def test_unknown_protocols_and_single_labels_are_refused(base, tmp_path):
    with pytest.raises(UsageError, match="no protocol 'best'"):
        probe_scores(base, "opinion", MINI, "best")
    (tmp_path / "flat").mkdir()
    import pandas as pd

    pd.DataFrame({"text": ["a", "b"], "label": [1, 1]}).to_parquet(tmp_path / "flat" / "train.parquet")
    with pytest.raises(UsageError, match="two labels"):
        probe_scores(base, "flat", Source("folder", tmp_path))


def test_tables_have_a_row_a_task(base):
    table = probe_table(base, ["opinion"], MINI, "mteb")
    assert table["task"].tolist() == ["opinion"]
    assert table["protocol"].tolist() == ["mteb"]


def test_a_fresh_head_on_the_base_model_beats_guessing(base):
    hits = nli_probe(EncodeOnce(base), corpora.nli("train[:600]", MINI), corpora.nli("test[:300]", MINI))
    assert hits.shape == (300,)
    assert hits.mean() > 0.45

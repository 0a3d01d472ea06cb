import numpy as np
import pytest
from scipy.stats import spearmanr
from stlib.bootstrap import Difference, bootstrap_mean, bootstrap_spearman, paired_mean, paired_spearman


def noisy(gold, noise, seed):
    return gold + noise * np.random.default_rng(seed).standard_normal(len(gold))


GOLD = {"one": np.random.default_rng(0).uniform(0, 5, 300), "two": np.random.default_rng(1).uniform(0, 5, 500)}


def cosines(noise, seed):
    return {task: noisy(gold, noise, seed) for task, gold in GOLD.items()}


def test_the_interval_of_a_mean_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_mean(rng.random(150) < 0.7, resamples=300, seed=trial)
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_of_spearman_holds_the_measured_value():
    cos = noisy(GOLD["two"], 2, 3)
    low, high = bootstrap_spearman(GOLD["two"], cos)
    assert low < 100 * spearmanr(GOLD["two"], cos).statistic < high


def test_a_model_does_not_beat_itself():
    same = cosines(1, 0)
    assert paired_spearman(GOLD, same, same) == Difference(0, 0, 0)


def test_the_better_model_wins_and_the_difference_is_scipys():
    a, b = cosines(1, 0), cosines(3, 0)
    found = paired_spearman(GOLD, a, b)
    expected = np.mean([100 * (spearmanr(g, a[t]).statistic - spearmanr(g, b[t]).statistic) for t, g in GOLD.items()])
    assert found.mean == pytest.approx(expected)
    assert 0 < found.low < found.mean < found.high
    back = paired_spearman(GOLD, b, a)
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_pairing_narrows_the_interval():
    """Two models that err on the same pairs: their own intervals overlap, the paired one decides."""
    a = cosines(2, 0)
    b = {task: noisy(values, 1, 9) for task, values in a.items()}
    alone_a, alone_b = (bootstrap_spearman(GOLD["two"], x["two"]) for x in (a, b))
    assert alone_b[1] > alone_a[0]
    assert paired_spearman({"two": GOLD["two"]}, a, b).low > 0


def test_two_equally_good_models_are_told_apart_in_about_5_of_100():
    told_apart = 0
    for trial in range(60):
        gold = {"t": np.random.default_rng(trial).uniform(0, 5, 120)}
        a, b = ({"t": noisy(gold["t"], 2, seed)} for seed in (1_000 + trial, 2_000 + trial))
        found = paired_spearman(gold, a, b, resamples=200, seed=trial)
        told_apart += found.low > 0 or found.high < 0
    assert told_apart <= 9


def test_accuracies_are_compared_row_by_row():
    a, b = np.array([True] * 80 + [False] * 20), np.array([True] * 70 + [False] * 30)
    found = paired_mean(a, b)
    assert found.mean == pytest.approx(0.1)
    assert 0 < found.low < found.high

import numpy as np
import pytest
from real_evaluation import rank_changes  # research/real_evaluation.py
from scipy.stats import spearmanr

from stlib import measures
from stlib.measures import Difference, bootstrap_mean, bootstrap_spearman, paired_spearman


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


def test_the_interval_of_a_mean_is_as_wide_as_the_formula_says():
    values = np.random.default_rng(0).standard_normal(900)
    low, high = bootstrap_mean(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.1)


def test_the_interval_of_spearman_holds_the_measured_value():
    cos = noisy(GOLD["two"], 2, 3)
    low, high = bootstrap_spearman(GOLD["two"], cos)
    assert low < 100 * spearmanr(GOLD["two"], cos).statistic < high


@pytest.mark.filterwarnings("error")
def test_few_rows_have_intervals_too():
    """Many samples of three pairs are one pair three times: they have no correlation, and are left out."""
    assert bootstrap_mean(np.array([True])) == (1, 1)
    assert bootstrap_spearman(np.array([1, 2, 3]), np.array([0.1, 0.2, 0.3])) == (100, 100)


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


def test_calibration_of_made_up_probabilities():
    """40 pairs at 0.9 of which 30 are right, 10 at 0.5 of which 5 are: off by 0.15 and by 0."""
    probabilities = np.array([[0.9, 0.1]] * 40 + [[0.5, 0.5]] * 10)
    gold = np.array([0] * 30 + [1] * 10 + [0] * 5 + [1] * 5)
    table = measures.calibration(probabilities, gold)
    assert table["n"].tolist() == [10, 40]
    assert table["confidence"].tolist() == pytest.approx([0.5, 0.9])
    assert table["accuracy"].tolist() == pytest.approx([0.5, 0.75])
    assert measures.calibration_error(table) == pytest.approx(0.15 * 40 / 50)


def test_calibration_asks_each_pair_for_its_own_label():
    """The second pair is right, the third wrong; 0.62 and 0.68 share the bin from 0.6 to 0.7."""
    table = measures.calibration(np.array([[0.62, 0.38], [0.32, 0.68], [0.1, 0.9]]), np.array([0, 1, 0]))
    assert table.index.tolist() == [6, 9]
    assert table["n"].tolist() == [2, 1]
    assert table["accuracy"].tolist() == [1, 0]


def test_probability_one_falls_into_the_last_bin():
    table = measures.calibration(np.array([[1.0, 0.0]]), np.array([0]))
    assert table.index.tolist() == [9]
    assert measures.calibration_error(table) == 0


def test_geometry_of_known_vectors():
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert measures.uniformity(opposite) == pytest.approx(-8)  # |x - y|^2 = 4, t = 2
    assert measures.mean_cosine(opposite) == pytest.approx(-1)
    same = np.array([[1.0, 0.0]] * 3)
    assert measures.uniformity(same) == pytest.approx(0)
    assert measures.mean_cosine(same) == pytest.approx(1)
    assert measures.alignment(same, same) == 0
    assert measures.alignment(opposite[:1], opposite[1:]) == pytest.approx(4)
    right = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert measures.uniformity(right, t=3) == pytest.approx(-6)  # |x - y|^2 = 2
    near = np.array([[0.6, 0.8], [0.0, 1.0]])  # squared distances to `right`: 0.8 and 0
    assert measures.alignment(right, near) == pytest.approx(0.4)
    assert measures.mean_cosine(near) == pytest.approx(0.8)


def test_uniformity_of_many_embeddings_is_that_of_a_sample_the_seed_decides():
    points = np.random.default_rng(0).normal(size=(50, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert measures.uniformity(points, rows=10) == measures.uniformity(points, rows=10)
    assert measures.uniformity(points, rows=10) != measures.uniformity(points, rows=10, seed=1)
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)[np.triu_indices(50, 1)]
    assert measures.uniformity(points) == pytest.approx(np.log(np.exp(-2 * distances).mean()))


def test_rank_changes_of_four_pairs():
    """The first pair rises from rank 1 to its gold rank 4; the ties of the second and third share rank 2.5."""
    gold, before, after = np.array([5, 1, 2, 3]), np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.9, 0.2, 0.2, 0.1])
    table = rank_changes(gold, before, after)
    assert list(table.columns) == ["row", "gold_rank", "before", "after", "change", "towards_gold"]
    assert table["row"].tolist() == [0, 3, 1, 2]
    assert table["gold_rank"].tolist() == [4, 3, 1, 2]
    assert table["before"].tolist() == [1, 4, 2, 3]
    assert table["after"].tolist() == [4, 1, 2.5, 2.5]
    assert table["change"].tolist() == [3, -3, 0.5, -0.5]
    assert table["towards_gold"].tolist() == [True, False, False, True]

"""Checks of the exercises of notebook 05."""

import numpy as np
from scipy.stats import spearmanr

from stlib.exercises import NOTHING
from stlib.measures import bootstrap_spearman


def exercise_1(answer):
    """``answer(u, v)`` is minus the Euclidean distance of each row of ``u`` from the same row of ``v``."""
    u, v = np.random.default_rng(5).normal(size=(2, 6, 4)).astype(np.float32)
    found = answer(u, v)
    assert found is not None, NOTHING
    found, distance = np.asarray(found, dtype=float), np.sqrt(((u - v) ** 2).sum(axis=1))
    assert found.shape == (6,), f"for 6 pairs of rows, return 6 numbers: yours have the shape {found.shape}"
    assert not np.allclose(found, distance, atol=1e-4), "a larger number should mean more similar: turn the sign around"
    assert not np.allclose(found, -(distance**2), atol=1e-4), "this is the squared distance: take its root"
    assert np.allclose(found, -distance, atol=1e-4), "compare each row of u with the same row of v, sum over columns"


def exercise_2(answer):
    """``answer(first, second)`` is the number of words that both have, divided by the number that at least one has."""
    found = answer("red kite", "blue kite")
    assert found is not None, NOTHING
    assert abs(found - 1 / 3) < 1e-6, "of 'red kite' and 'blue kite', one word is shared and there are three in all"
    assert abs(answer("The cat sat.", "the CAT sat!") - 1) < 1e-6, "neither case nor punctuation should count"
    assert abs(answer("so so good", "so good good") - 1) < 1e-6, "count each word once, however often it occurs"
    assert abs(answer("A ten-speed bike", "bike, ten years old") - 2 / 6) < 1e-6, "a hyphen ends a word as a comma does"
    assert abs(answer("Row 12", "row 21") - 1 / 3) < 1e-6, "a number is a word too, not a bag of digits"
    assert answer("?", "!") == 0, "two sentences without a word have the overlap 0"


def exercise_3(answer):
    """``answer(gold, cosines, cut)`` has two rows, pairs up to the cut and above it: Spearman x 100, low, high."""
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 11, size=240) / 2
    cosines = np.minimum(gold, 3) / 5 + rng.normal(scale=0.3, size=240)
    found = answer(gold.copy(), cosines.copy(), 2.0)
    assert found is not None, NOTHING
    found = np.asarray(found, dtype=float)
    assert found.shape == (2, 3), f"return two rows of three numbers: yours have the shape {found.shape}"
    assert np.abs(found[:, 0]).max() > 1, "the field writes Spearman times 100"
    assert 1 < np.abs(found[:, 1:]).max() <= 100, "low and high are times 100, as bootstrap_spearman gives them"
    parts = [(gold[rows], cosines[rows]) for rows in (gold <= 2, gold > 2)]
    expected = np.array([100 * spearmanr(*part).statistic for part in parts])
    assert not np.allclose(found[::-1, 0], expected, atol=0.01), "the pairs up to the cut come first"
    assert np.allclose(found[:, 0], expected, atol=0.01), "cut by gold score; a pair at the cut is in the first part"
    intervals = np.array([bootstrap_spearman(*part, resamples=4_000) for part in parts])
    width = np.ptp(intervals, axis=1)
    assert (found[:, 1] < found[:, 2]).all(), "low comes before high"
    moved = np.abs(found[:, 1:].mean(axis=1) - intervals.mean(axis=1)) / width
    widened = np.abs(np.ptp(found[:, 1:], axis=1) / width - 1)
    assert max(*moved, *widened) < 0.12, "each interval is the middle 95 % over resampled pairs of its part"

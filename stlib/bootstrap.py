"""Intervals by the percentile bootstrap (Efron and Tibshirani 1993): resample the test rows, measure again, keep the middle 95 %."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 1_000
MIDDLE = (2.5, 97.5)  # percentiles of the interval


class Difference(NamedTuple):
    """What A has more than B, with its 95 % interval. A beats B where ``low`` is above zero."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def bootstrap_mean(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over resampled rows."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, MIDDLE)
    return float(low), float(high)


def bootstrap_spearman(
    gold: np.ndarray, cosines: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of Spearman x 100 over resampled pairs."""
    (values,) = resampled_spearman(gold, [cosines], resamples, seed)
    low, high = np.nanpercentile(values, MIDDLE)
    return float(low), float(high)


def resampled_spearman(gold: np.ndarray, scores: list[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Spearman x 100 of each of ``scores`` with ``gold`` on the same resampled pairs, shape (len(scores), resamples)."""
    rng = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, 100):  # a hundred at a time keeps memory bounded
        rows = rng.integers(len(gold), size=(min(100, resamples - start), len(gold)))
        ranks = rankdata(gold[rows], axis=1)
        values.append([100 * correlation_by_row(ranks, rankdata(score[rows], axis=1)) for score in scores])
    return np.concatenate(values, axis=1)


def correlation_by_row(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of ``x`` with the same row of ``y``; NaN where a row is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))


Scores = Mapping[str, np.ndarray]


def paired_spearman(gold: Scores, a: Scores, b: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Spearman x 100 of model A less that of model B, both on the same pairs; the mean over the tasks.

    Both models are scored on the same resampled pairs of each task, so what makes a pair hard for both drops out
    (Berg-Kirkpatrick et al. 2012, https://aclanthology.org/D12-1091).

    Args:
        gold: the gold scores of each task.
        a, b: the cosines of the two models, in the same order.
    """
    differences, observed = [], []
    for number, task in enumerate(gold):
        of_a, of_b = resampled_spearman(gold[task], [a[task], b[task]], resamples, seed + number)
        differences.append(of_a - of_b)
        ranks = rankdata(gold[task])[None]
        of_a, of_b = (correlation_by_row(ranks, rankdata(score[task])[None])[0] for score in (a, b))
        observed.append(100 * (of_a - of_b))
    low, high = np.nanpercentile(np.mean(differences, axis=0), MIDDLE)
    return Difference(float(np.mean(observed)), float(low), float(high))


def paired_mean(a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """The mean of ``a`` less that of ``b``, row by row: of hits and misses, the difference of two accuracies."""
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return Difference(float(difference.mean()), *bootstrap_mean(difference, resamples, seed))

"""Measures of arrays: intervals and paired differences, calibration, the geometry of embeddings."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

# Intervals: resample the test rows, measure again, keep the middle 95 % (Efron and Tibshirani 1993).
RESAMPLES = 1_000
Interval = tuple[float, float]
Scores = Mapping[str, np.ndarray]  # one array for each task


class Difference(NamedTuple):
    """What A has more than B, with its 95 % interval. A beats B if ``low`` is above zero."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def resampled(statistic, n: int, resamples: int, seed: int) -> np.ndarray:
    """Return ``statistic(rows)`` of ``resamples`` random choices of n row numbers from n, shape (100, n) at a time."""
    if n < 2:  # there is but one choice, and scipy asks for two rows
        return statistic(np.zeros((resamples, n), dtype=int))
    options = {"n_resamples": resamples, "batch": 100, "vectorized": True, "method": "percentile"}
    with warnings.catch_warnings(action="ignore", category=stats.DegenerateDataWarning):  # it warns of any NaN
        random = np.random.default_rng(seed)
        found = stats.bootstrap((np.arange(n),), lambda rows, axis: statistic(rows), random_state=random, **options)
    return found.bootstrap_distribution


def middle(values: np.ndarray) -> Interval:
    """Return the bounds of the middle 95 % of the values that are numbers."""
    return tuple(np.nanpercentile(values, [2.5, 97.5]).tolist())


def bootstrap_mean(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the 95 % interval of a mean over resampled rows."""
    return middle(resampled(lambda rows: values[rows].mean(axis=-1), len(values), resamples, seed))


def bootstrap_spearman(gold: np.ndarray, cosines: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the 95 % interval of Spearman x 100 over resampled pairs."""
    return middle(resampled(lambda rows: spearman(gold[rows], cosines[rows]), len(gold), resamples, seed))


def spearman(gold: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Return Spearman x 100 along the last axis; NaN if one side is constant."""
    x, y = (stats.rankdata(side, axis=-1) for side in (gold, cosines))
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return 100 * ((x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))


def paired_spearman(gold: Scores, a: Scores, b: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Return Spearman x 100 of cosines ``a`` minus that of cosines ``b``, the mean over the tasks.

    Both models are scored on the same resampled pairs of each task, so what makes a pair hard for both drops out
    (Berg-Kirkpatrick et al. 2012, https://aclanthology.org/D12-1091).
    """
    means, resamplings = [], []
    for number, task in enumerate(gold):

        def difference(rows, task=task):
            return spearman(gold[task][rows], a[task][rows]) - spearman(gold[task][rows], b[task][rows])

        means.append(difference(slice(None)))
        resamplings.append(resampled(difference, len(gold[task]), resamples, seed + number))
    return Difference(float(np.mean(means)), *middle(np.mean(resamplings, axis=0)))


def calibration(probabilities: np.ndarray, gold: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Return how often a classifier is right, by the probability it gives (a reliability diagram's numbers).

    ``probabilities`` has the shape (n, labels), ``gold`` (n,). Each of the bins, of equal width from 0 to 1, that holds
    pairs has a row: ``n``, ``confidence`` (mean probability of the predicted label) and ``accuracy`` (share that is right).
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    groups = pd.DataFrame({"bin": number, "confidence": confidence, "accuracy": correct}).groupby("bin")
    return pd.concat([groups.size().rename("n"), groups.mean()], axis=1)


def calibration_error(table: pd.DataFrame) -> float:
    """Return the mean distance of confidence and accuracy over the bins, weighted by pairs (arXiv 1706.04599, equation 3)."""
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["n"]))


def uniformity(embeddings: np.ndarray, t: float = 2.0, rows: int = 2_000, seed: int = 0) -> float:
    """Return how evenly embeddings fill the sphere: log of the mean of exp(-t |x - y|^2) over pairs; lower is more even.

    Wang and Isola 2020, arXiv 2005.10242, equation 4. Of more than ``rows`` embeddings, a random sample is taken.
    """
    chosen = embeddings[np.random.default_rng(seed).permutation(len(embeddings))[:rows]]
    cosines = (chosen @ chosen.T)[np.triu_indices(len(chosen), 1)]
    return float(np.log(np.exp(-t * (2 - 2 * cosines)).mean()))


def alignment(u: np.ndarray, v: np.ndarray) -> float:
    """Return how close unit vectors, shape (n, d), of pairs with one meaning lie: the mean of |u - v|^2 (equation 3 there)."""
    return float(((u - v) ** 2).sum(axis=1).mean())


def mean_cosine(embeddings: np.ndarray) -> float:
    """Return the mean cosine of two different unit vectors: 0 if no direction is preferred (arXiv 1909.00512), 1 if all are one."""
    n, total = len(embeddings), embeddings.sum(axis=0, dtype=np.float64)
    return float((total @ total - n) / (n * (n - 1)))

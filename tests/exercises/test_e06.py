"""The checks of notebook 06's exercises: right answers pass, plausible wrong ones get a hint."""

import numpy as np
import pytest
import scipy
import torch
from packaging.version import Version
from scipy.stats import binom, binomtest, chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from stlib.exercises import find, shortcoming

# SciPy's binomtest of no trials: an error before 1.18, no number since.
NOTHING_DIFFERS = "ValueError" if Version(scipy.__version__) < Version("1.18") else "p is 1"


def macro_f1(confusion):
    with np.errstate(invalid="ignore"):
        recall = confusion.diagonal() / confusion.sum(axis=1)
        precision = confusion.diagonal() / confusion.sum(axis=0)
        return np.nan_to_num(2 * recall * precision / (recall + precision)).mean()


def f1(confusion):
    return 2 * confusion.diagonal() / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)


def f1_of_the_means(confusion):
    recall, precision = (np.mean(confusion.diagonal() / confusion.sum(axis=axis)) for axis in (1, 0))
    return 2 * recall * precision / (recall + precision)


def curve(x, y, x_test, y_test, sizes, part=slice, C=8, scale=100):
    fitted = [LogisticRegression(C=C, max_iter=1_000).fit(x[part(rows)], y[part(rows)]) for rows in sizes]
    return [scale * probe.score(x_test, y_test) for probe in fitted]


def curve_on_training_rows(x, y, x_test, y_test, sizes):
    return [curve(x[:rows], y[:rows], x[:rows], y[:rows], [rows])[0] for rows in sizes]


def mcnemar(a, b, alternative="two-sided"):
    only_a, only_b = np.sum(a & ~b), np.sum(b & ~a)
    if only_a + only_b == 0:
        return 1.0
    return binomtest(int(only_a), int(only_a + only_b), alternative=alternative).pvalue


def twice_the_tail(a, b):
    only_a, only_b = np.sum(a & ~b), np.sum(b & ~a)
    return 2 * binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)


def by_chi_squared(a, b):
    only_a, only_b = np.sum(a & ~b), np.sum(b & ~a)
    return chi2.sf((only_a - only_b) ** 2 / (only_a + only_b), df=1)


@pytest.mark.parametrize(
    ("exercise", "right"),
    [
        ("06.1", lambda x, y, test: y[cosine_similarity(test, x).argmax(axis=1)]),
        (
            "06.1",
            lambda x, y, test: make_pipeline(Normalizer(), KNeighborsClassifier(1)).fit(x, y).predict(test).tolist(),
        ),
        ("06.2", macro_f1),
        ("06.2", lambda confusion: torch.tensor(macro_f1(confusion))),
        ("06.3", curve),
        ("06.3", lambda *given: np.array(curve(*given, part=lambda rows: np.arange(rows)))),
        ("06.4", mcnemar),
    ],
)
def test_a_right_answer_passes(exercise, right):
    assert shortcoming(find(exercise), right) is None


@pytest.mark.parametrize(
    ("exercise", "wrong", "hint"),
    [
        ("06.1", lambda x, y, test: None, "three dots"),
        ("06.1", lambda x, y, test: cosine_similarity(test, x).argmax(axis=1), "look up"),
        ("06.1", lambda x, y, test: y[(test @ x.T).argmax(axis=1)], "long rows"),
        ("06.1", lambda x, y, test: KNeighborsClassifier(1).fit(x, y).predict(test), "distance"),
        ("06.1", lambda x, y, test: y[cosine_similarity(test, x).argmin(axis=1)], "highest cosine"),
        ("06.1", lambda x, y, test: y[cosine_similarity(x, test).argmax(axis=1)], "12"),
        ("06.2", lambda confusion: None, "three dots"),
        ("06.2", lambda confusion: f1(confusion), "one number"),
        ("06.2", lambda confusion: np.trace(confusion) / confusion.sum(), "accuracy"),
        ("06.2", lambda confusion: (confusion.diagonal() / confusion.sum(axis=1)).mean(), "recall"),
        ("06.2", lambda confusion: np.average(f1(confusion), weights=confusion.sum(axis=1)), "counts the same"),
        ("06.2", f1_of_the_means, "first"),
        ("06.2", lambda confusion: macro_f1(confusion) if len(confusion) == 3 else np.nan, "without a hit"),
        ("06.2", lambda confusion: np.mean(f1(confusion)[confusion.sum(axis=1) > 0]), "occurs nowhere"),
        ("06.3", lambda *given: None, "three dots"),
        ("06.3", lambda *given: curve(*given, scale=1), "percent"),
        ("06.3", lambda *given: curve(*given)[0], "shape"),
        ("06.3", lambda *given: curve(*given, part=lambda rows: slice(-rows, None)), "first rows"),
        ("06.3", curve_on_training_rows, "test rows"),
        ("06.4", lambda a, b: None, "three dots"),
        ("06.4", lambda a, b: mcnemar(a, b, "greater"), "one side"),
        ("06.4", lambda a, b: binomtest(9, len(a)).pvalue, "say nothing"),
        ("06.4", by_chi_squared, "only A"),
        ("06.4", twice_the_tail, "never more"),
        ("06.4", lambda a, b: binomtest(int(np.sum(b & ~a)), int(np.sum(a ^ b))).pvalue, NOTHING_DIFFERS),
        ("06.4", lambda a, b: 2 * binomtest(int(np.sum(b & ~a)), int(np.sum(a ^ b)), alternative="less").pvalue, "B"),
    ],
)
def test_a_wrong_answer_gets_a_hint(exercise, wrong, hint):
    assert hint in shortcoming(find(exercise), wrong)

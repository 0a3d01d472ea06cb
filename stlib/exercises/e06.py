"""Checks of the exercises of notebook 06."""

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from stlib.exercises import NOTHING


def exercise_1(answer):
    """``answer(x_train, y_train, x_test)`` is the label of the training row with the highest cosine, for each test row."""
    rng = np.random.default_rng(6)
    x_train, x_test = rng.normal(size=(30, 8)), rng.normal(size=(12, 8))
    x_train *= rng.uniform(0.2, 5, size=(30, 1))
    y_train = rng.integers(40, 50, size=30)
    found = answer(x_train.astype(np.float32), y_train, x_test.astype(np.float32))
    assert found is not None, NOTHING
    found, dot = np.asarray(found), x_test @ x_train.T
    assert found.shape == (12,), f"for 12 test rows, return 12 labels: yours have the shape {found.shape}"
    nearest = (dot / np.linalg.norm(x_train, axis=1)).argmax(axis=1)
    distance = np.linalg.norm(x_test[:, None] - x_train, axis=2)
    assert not np.array_equal(found, nearest), "these are the numbers of the rows: look up their labels"
    assert not np.array_equal(found, y_train[dot.argmax(axis=1)]), "long rows win a dot product: use the cosine"
    assert not np.array_equal(found, y_train[distance.argmin(axis=1)]), "nearest by distance is not highest by cosine"
    assert np.array_equal(found, y_train[nearest]), "some labels are not those of the row with the highest cosine"


def exercise_2(answer):
    """``answer(confusion)`` is the mean F1 of the labels; rows are gold labels, columns predicted ones."""
    confusion = np.array([[50, 5, 5], [8, 3, 9], [1, 0, 9]])
    found = answer(confusion.copy())
    assert found is not None, NOTHING
    assert np.asarray(found, dtype=float).size == 1, "return one number, the mean over the labels"
    hits, gold, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * hits / (gold + predicted)
    assert abs(found - hits.sum() / confusion.sum()) > 1e-3, "this is the accuracy, in which frequent labels count more"
    assert abs(found - (hits / gold).mean()) > 1e-3, "this is the mean recall: F1 needs the precision too"
    assert abs(found - (f1 * gold).sum() / gold.sum()) > 1e-3, "each label counts the same, however many pairs it has"
    assert abs(found - f1.mean()) < 1e-6, "take the F1 of each label first, and then the mean of the three"
    assert abs(answer(np.array([[9, 1], [2, 0]])) - 9 / 21) < 1e-6, "a label without a hit has F1 0"
    empty = np.array([[9, 1, 0], [2, 0, 0], [0, 0, 0]])
    assert abs(answer(empty) - 6 / 21) < 1e-6, "a label that occurs nowhere has F1 0 too, and counts in the mean"


def exercise_3(answer):
    """``answer(x, y, x_test, y_test, sizes)``: test accuracies in percent of probes on the first rows, one a size."""
    rng = np.random.default_rng(6)
    y, y_test = np.arange(240) % 3, np.arange(200) % 3
    centres = rng.normal(size=(3, 10))
    x, x_test = (centres[labels] + rng.normal(scale=1.3, size=(len(labels), 10)) for labels in (y, y_test))
    y[120:] = rng.permutation(y[120:])  # what comes later is labelled at random
    sizes = [9, 30, 120]
    found = answer(x, y, x_test, y_test, sizes)
    assert found is not None, NOTHING
    found = np.asarray(found, dtype=float)
    assert found.shape == (3,), f"for 3 sizes, return 3 accuracies: yours have the shape {found.shape}"
    assert found.max() > 1, "return percent, not shares"
    fitted = [LogisticRegression(C=8, max_iter=1000).fit(x[:rows], y[:rows]) for rows in sizes]
    seen = [100 * probe.score(x[:rows], y[:rows]) for probe, rows in zip(fitted, sizes, strict=True)]
    assert not np.allclose(found, seen, atol=1), "score the probe on the test rows, not on those that it was trained on"
    expected = [100 * probe.score(x_test, y_test) for probe in fitted]
    assert np.allclose(found, expected, atol=2), (
        "train a new probe with C = 8 on the first rows of x and y for each size"
    )


def exercise_4(answer):
    """``answer(right_a, right_b)`` is the two-sided p-value of McNemar's exact test."""

    def pair(both, only_a, only_b, neither):
        counts = (both, only_a, only_b, neither)
        return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)

    found = answer(*pair(20, 9, 1, 5))
    assert found is not None, NOTHING
    expected = binomtest(1, 10).pvalue
    assert abs(found - expected / 2) > 1e-6, "this is one side of the test: either of the two may be the better one"
    assert abs(found - binomtest(9, 35).pvalue) > 1e-6, "sentences on which both are right, or both wrong, say nothing"
    assert abs(found - expected) < 1e-6, "compare how many only A has right with how many only B has right"
    assert abs(answer(*pair(3, 2, 12, 8)) - binomtest(2, 14).pvalue) < 1e-6, (
        "it should work where B is the better one too"
    )
    assert abs(answer(*pair(3, 4, 4, 8)) - 1) < 1e-6, "where neither is ahead, p is 1, and never more"
    assert abs(answer(*pair(7, 0, 0, 4)) - 1) < 1e-6, "where the two never differ, nothing speaks against a tie: p is 1"

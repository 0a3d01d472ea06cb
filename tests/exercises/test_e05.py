"""The checks of notebook 05's exercises: right answers pass, plausible wrong ones get a hint."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from stlib.exercises import find, shortcoming
from stlib.measures import bootstrap_spearman


def words(sentence):
    return re.findall(r"[a-z0-9]+", sentence.lower())


def overlap(first, second):
    first, second = set(words(first)), set(words(second))
    return len(first & second) / len(first | second) if first or second else 0.0


def cut(gold, cosines, at, upper=np.greater, interval=bootstrap_spearman, scale=100):
    parts = [(gold[rows], cosines[rows]) for rows in (~upper(gold, at), upper(gold, at))]
    return [(scale * spearmanr(*part).statistic, *interval(*part)) for part in parts]


def own_bootstrap(gold, cosines, seed=11, percentiles=(2.5, 97.5)):
    rng, values = np.random.default_rng(seed), []
    for _ in range(1_000):
        rows = rng.integers(len(gold), size=len(gold))
        values.append(100 * np.corrcoef(rankdata([gold[rows], cosines[rows]], axis=1))[0, 1])
    return np.percentile(values, percentiles)


@pytest.mark.parametrize(
    ("exercise", "right"),
    [
        ("05.1", lambda u, v: -np.linalg.norm(u - v, axis=1)),
        ("05.1", lambda u, v: [-(float(((a - b) ** 2).sum()) ** 0.5) for a, b in zip(u, v, strict=True)]),
        ("05.2", overlap),
        ("05.3", cut),
        ("05.3", lambda *given: np.array(cut(*given, interval=own_bootstrap))),
        ("05.3", lambda *given: pd.DataFrame(cut(*given), columns=["spearman", "low", "high"])),
    ],
)
def test_a_right_answer_passes(exercise, right):
    assert shortcoming(find(exercise), right) is None


@pytest.mark.parametrize(
    ("exercise", "wrong", "hint"),
    [
        ("05.1", lambda u, v: None, "three dots"),
        ("05.1", lambda u, v: np.linalg.norm(u - v, axis=1), "sign"),
        ("05.1", lambda u, v: -((u - v) ** 2).sum(axis=1), "root"),
        ("05.1", lambda u, v: -np.linalg.norm(u - v), "shape"),
        ("05.1", lambda u, v: (u * v).sum(axis=1), "same row"),
        ("05.2", lambda a, b: None, "three dots"),
        ("05.2", lambda a, b: len({*words(a)} & {*words(b)}), "three in all"),
        ("05.2", lambda a, b: len({*words(a)} & {*words(b)}) / min(len({*words(a)}), len({*words(b)})), "three in all"),
        ("05.2", lambda a, b: len({*a.split()} & {*b.split()}) / len({*a.split()} | {*b.split()}), "punctuation"),
        ("05.2", lambda a, b: len({*words(a)} & {*words(b)}) / len({*words(a)} | {*words(b)}), "ZeroDivisionError"),
        ("05.2", lambda a, b: overlap(a.replace("-", ""), b), "hyphen"),
        ("05.3", lambda *given: None, "three dots"),
        ("05.3", lambda *given: cut(*given, interval=lambda *part: (0.1, 0.9), scale=1), "times 100"),
        ("05.3", lambda *given: np.array(cut(*given)) / [100, 1, 1], "Spearman times 100"),
        ("05.3", lambda *given: np.array(cut(*given)) * [1, 100, 100], "low and high"),
        ("05.3", lambda *given: cut(*given)[::-1], "come first"),
        ("05.3", lambda *given: cut(*given, upper=np.greater_equal), "gold score"),
        ("05.3", lambda gold, cosines, at: cut(cosines, gold, at / 5), "gold score"),
        ("05.3", lambda *given: cut(*given, interval=lambda *part: own_bootstrap(*part)[::-1]), "low"),
        ("05.3", lambda *given: cut(*given, interval=lambda *part: own_bootstrap(*part, percentiles=(5, 95))), "95 %"),
        ("05.3", lambda *given: [row[0] for row in cut(*given)], "shape"),
    ],
)
def test_a_wrong_answer_gets_a_hint(exercise, wrong, hint):
    assert hint in shortcoming(find(exercise), wrong)

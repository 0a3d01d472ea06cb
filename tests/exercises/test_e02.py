"""The checks of notebook 02 pass right answers, in more than one style, and turn away plausible wrong ones."""

import re

import numpy as np
import pytest

from stlib.exercises import find, shortcoming


def by_agg(frame):
    return frame.groupby("sentence_0")["label"].agg(lambda labels: sorted(labels) == [0, 1, 2]).mean()


def by_counts(frame):
    groups = frame.groupby("sentence_0")["label"]
    return float(((groups.size() == 3) & (groups.nunique() == 3)).mean())


def by_texts(frame):
    groups = frame.groupby("sentence_0")
    return ((groups["sentence_1"].nunique() == 3) & (groups["label"].nunique() == 3)).mean()


@pytest.mark.parametrize("answer", [by_agg, by_counts, by_texts])
def test_complete_share(answer):
    assert shortcoming(find("02.1"), answer) is None


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda frame: None, "nothing yet"),
        (lambda frame: 100 * by_agg(frame), "from 0 to 1"),
        (lambda frame: by_agg(frame) * frame["sentence_0"].nunique() * 3 / len(frame), "not rows"),
        (lambda frame: (frame.groupby("sentence_0").size() == 3).mean(), "each label"),
        (lambda frame: (frame.groupby("sentence_0")["label"].nunique() == 3).mean(), "too many"),
    ],
)
def test_wrong_complete_shares(answer, hint):
    assert hint in shortcoming(find("02.1"), answer)


def words(text):
    return re.findall(r"\w+", text.lower())


def overlap(premise, hypothesis):
    one, other = set(words(premise)), set(words(hypothesis))
    return len(one & other) / max(1, len(other)), len(other - one)


def overlap_as_array(premise, hypothesis):
    distinct = list(dict.fromkeys(words(hypothesis)))
    known = [word in words(premise) for word in distinct]
    return np.array([np.mean(known) if known else 0, known.count(False)])


@pytest.mark.parametrize("answer", [overlap, overlap_as_array])
def test_overlap(answer):
    assert shortcoming(find("02.2"), answer) is None


def repeated(premise, hypothesis):
    new = [word for word in words(hypothesis) if word not in words(premise)]
    return 1 - len(new) / max(1, len(words(hypothesis))), len(new)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda premise, hypothesis: None, "two numbers"),
        (lambda premise, hypothesis: overlap(premise, hypothesis)[0], "two numbers"),
        (lambda premise, hypothesis: overlap(hypothesis, premise), "every word"),
        (repeated, "once"),
        (lambda premise, hypothesis: (overlap(premise, hypothesis)[0], repeated(premise, hypothesis)[1]), "once"),
        (lambda premise, hypothesis: overlap(premise.replace(".", "x"), hypothesis.replace(".", "y")), "points"),
        (lambda premise, hypothesis: overlap(premise, re.sub("[A-Z]{2,}", "x", hypothesis)), "capitals"),
        (lambda premise, hypothesis: overlap(premise, hypothesis.replace("...", "x")), "without words"),
    ],
)
def test_wrong_overlaps(answer, hint):
    assert hint in shortcoming(find("02.2"), answer)


def standard_errors(percent, expected, rows):
    share = expected / 100
    return (percent / 100 - share) / np.sqrt(share * (1 - share) / rows)


def test_standard_errors():
    assert shortcoming(find("02.3"), standard_errors) is None


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda percent, expected, rows: None, "nothing yet"),
        (lambda percent, expected, rows: abs(standard_errors(percent, expected, rows)), "negative"),
        (lambda percent, expected, rows: (percent - expected) / np.sqrt(percent * (100 - percent) / rows), "spread"),
        (lambda percent, expected, rows: standard_errors(percent, expected, rows) / 100, "unit"),
        (lambda percent, expected, rows: standard_errors(percent, expected, 1) / rows, "unit"),
        (lambda percent, expected, rows: float("nan") * rows, "by 100"),
        (lambda percent, expected, rows: percent - expected, "unit"),
    ],
)
def test_wrong_standard_errors(answer, hint):
    assert hint in shortcoming(find("02.3"), answer)


def maxima(lengths, rows, random=None, replace=False, draws=200):
    random = random or np.random.default_rng(0)
    return [random.choice(lengths, rows, replace=replace).max() for _ in range(draws)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_maximum(seed):
    random = np.random.default_rng(seed)
    assert shortcoming(find("02.4"), lambda lengths, rows: np.mean(maxima(lengths, rows, random))) is None
    assert shortcoming(find("02.4"), lambda lengths, rows: sum(maxima(lengths, rows)) / 200) is None


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda lengths, rows: None, "nothing yet"),
        (lambda lengths, rows: np.mean(maxima(lengths, rows, replace=True)), "putting back"),
        (lambda lengths, rows: lengths.max(), "different samples"),
        (lambda lengths, rows: np.max(maxima(lengths, rows)), "different samples"),
        (lambda lengths, rows: lengths[:rows].max(), "different samples"),
        (lambda lengths, rows: np.mean([maxima(lengths, rows, draws=1) for _ in range(200)]), "different samples"),
    ],
)
def test_wrong_average_maxima(answer, hint):
    assert hint in shortcoming(find("02.4"), answer)

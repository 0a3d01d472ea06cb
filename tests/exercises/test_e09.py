"""The checks of notebook 09: what they let pass, and what they say otherwise."""

from itertools import pairwise

import numpy as np
import pytest

from stlib.exercises import find, shortcoming


def changes(there, here):
    both = there.keys() & here.keys()
    return there.keys() - here.keys(), here.keys() - there.keys(), [name for name in both if there[name] != here[name]]


def by_get(there, here):
    names = {*there, *here}
    return (
        {n for n in names if here.get(n) is None and there.get(n) is not None},
        {n for n in names if there.get(n) is None and here.get(n) is not None},
        {n for n in names if there.get(n) != here.get(n)},
    )


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda there, here: len(there.keys() - here.keys()), "three sets"),
        (lambda there, here: changes(here, there), "first"),
        (by_get, "None"),
        (lambda there, here: (*changes(there, here)[:2], there.keys() & here.keys()), "equal"),
        (lambda there, here: (*changes(there, here)[:2], {n for n in {*there, *here} if there.get(n) != here.get(n)}), "both"),
        (lambda there, here: (*changes(there, here)[:2], {"rate"}), "misses"),
    ],
)  # fmt: skip
def test_hyperparameters(wrong, word):
    assert shortcoming(find("09.1"), changes) is None
    assert word in shortcoming(find("09.1"), wrong)


def problems(log, steps_an_epoch, tolerance=1e-4, evenly=True, rows=None):
    found = []
    gaps = {after[1] - before[1] for before, after in pairwise(log)}
    if evenly and len(gaps) != 1:
        found.append("steps")
    if any(abs(epoch - step / steps_an_epoch) > tolerance for epoch, step, _ in log[:rows]):
        found.append("epochs")
    return found


def broken(**settings):
    return lambda log, steps_an_epoch: problems(log, steps_an_epoch, **settings)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda log, steps: bool(problems(log, steps)), "list"),
        (broken(tolerance=0), "rounded"),
        (lambda log, steps: problems(log, 17_168), "given"),
        (broken(evenly=False), "equally far"),
        (broken(tolerance=1), "divide"),
        (broken(rows=1), "every row"),
        (broken(rows=-1), "every row"),
        (lambda log, steps: [], "unnoticed"),
    ],
)
def test_log(wrong, word):
    assert shortcoming(find("09.2"), problems) is None
    assert word in shortcoming(find("09.2"), wrong)


def rows_behind(labels, percent, among=(0, 1, 2), rows=range(50, 200)):
    def fits(part):
        return all(round(100 * float(np.mean(part == label)), 2) == percent[str(label)] for label in among)

    return [n for n in rows if fits(labels[:n])]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda labels, percent: rows_behind(labels, percent, among=[0]), "all three"),
        (lambda labels, percent: rows_behind(labels, percent, among=[1]), "all three"),
        (lambda labels, percent: rows_behind(labels, percent, among=[2]), "all three"),
        (lambda labels, percent: rows_behind(labels, percent, rows=[105]), "missing"),
        (lambda labels, percent: rows_behind(labels, percent, rows=range(50, 300)), "50 to 199"),
        (lambda labels, percent: [100], "is missing"),
        (lambda labels, percent: [], "nothing fits"),
    ],
)
def test_rows_of_a_statistic(wrong, word):
    assert shortcoming(find("09.3"), rows_behind) is None
    assert word in shortcoming(find("09.3"), wrong)


@pytest.mark.parametrize("number", range(1, 4))
def test_templates_ask_for_code(number):
    assert "three dots" in shortcoming(find(f"09.{number}"), lambda *_: None)

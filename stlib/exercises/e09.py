"""Checks of notebook 09: two lists of hyperparameters, a log of training, the rows behind a statistic."""

import copy

import numpy as np

from stlib.cards import published_card

TEMPLATE = "put your code in place of the three dots, and return what it finds"


def exercise_1(changes):
    there = {"gone": 1, "rate": 5e-05, "same": "linear", "empty": None, "flag": False, "also_gone": None}
    here = {"rate": 0.0003, "same": "linear", "empty": None, "flag": None, "new": [], "newer": None}
    found = changes(there, here)
    assert found is not None, TEMPLATE
    assert isinstance(found, (tuple, list)), "return three sets: only there, only here, changed"
    assert len(found) == 3, "return three sets: only there, only here, changed"
    only_there, only_here, changed = map(set, found)
    assert only_there != {"new", "newer"}, "the first set is of names that only the published card, the first one, has"
    assert only_there == {"gone", "also_gone"}, "the first set is wrong: a name whose value is None is printed too"
    assert only_here == {"new", "newer"}, "the second set is wrong: a name whose value is None is printed too"
    assert not changed & {"same", "empty"}, "the third set holds a name whose two values are equal"
    assert changed <= {"rate", "flag"}, "the third set holds a name that one card lacks: only names of both can change"
    assert changed == {"rate", "flag"}, "the third set misses a name: compare the values themselves, not their truth"


def exercise_2(problems):
    card = published_card()
    steps_an_epoch = -(-card["dataset"]["rows"] // 32)

    def found(log, steps=steps_an_epoch):
        messages = problems(copy.deepcopy(log), steps)
        assert messages is not None, TEMPLATE
        assert isinstance(messages, (list, tuple)), "return a list of messages, empty where nothing is wrong"
        return len(messages)

    fine = [[round(step / 300, 4), step, 1.0] for step in range(50, 1_000, 50)]
    assert not found(card["log"]), (
        "the published log is in order: its epochs are rounded to four digits, so allow for that"
    )
    assert not found(fine, 300), (
        "a log with a row every 50 steps and 300 steps an epoch is in order: use what you are given"
    )
    assert found([[epoch, step + 20 * (step > 500), loss] for epoch, step, loss in fine], 300), (
        "a wrong step goes unnoticed"
    )
    assert found(fine[:7] + fine[8:], 300), "a log that lacks a row goes unnoticed: its steps are not equally far apart"
    assert found(fine, 301), "an epoch that does not fit its step goes unnoticed: divide steps by the steps an epoch"
    for row in (40, -1):
        broken = copy.deepcopy(card["log"])
        broken[row][0] -= 0.01
        assert found(broken), "one wrong epoch goes unnoticed: look at every row, the last one too, and at both signs"


def exercise_3(rows_behind):
    random = np.random.default_rng(0)
    cases = [(105, np.tile([0, 1, 2], 100))]  # the shares are the same after each third row: many numbers of rows fit
    for label in range(3):  # every second row has this label: its share alone says little
        cases.append((104, np.where(np.arange(300) % 2, (label + random.integers(1, 3, 300)) % 3, label)))
    for rows, labels in cases:
        shares = np.array([100 * np.bincount(labels[:n], minlength=3) / n for n in range(50, 200)])
        printed = shares[rows - 50].round(2)
        expected = [n for n, own in enumerate(shares, start=50) if np.abs(own - printed).max() < 0.006]
        found = rows_behind(labels, {str(label): float(share) for label, share in enumerate(printed)})
        assert found is not None, TEMPLATE
        found = sorted(map(int, found))
        assert found, "nothing fits: the shares are in percent, rounded to two digits, and their names are strings"
        assert rows in found, "the number of rows that the shares were made from is missing: take the first n labels"
        assert set(found) <= set(range(50, 200)), "try 50 to 199 rows, no others"
        assert set(found) <= set(expected), "some of these give another share: all three labels must fit, to two digits"
        assert found == expected, "some numbers of rows are missing: return all that fit"

"""Checks of the exercises of notebook 02: complete premises, the overlap of words, and figures over samples."""

import numpy as np
import pandas as pd


def exercise_1(complete_share):
    cases = [
        ([[0, 1, 2], [2, 0, 1], [0, 2], [1]], 0.5, "count premises, not rows, and give a share from 0 to 1"),
        ([[1, 0, 2], [0, 0, 2], [1, 1, 1]], 1 / 3, "three hypotheses are not enough: each label must occur"),
        ([[0, 1, 2], [0, 1, 2, 2]], 0.5, "a premise with four hypotheses has one too many"),
    ]
    for labels, expected, hint in cases:
        cells = [(place, number, label) for place, group in enumerate(labels) for number, label in enumerate(group)]
        rows = [(f"premise {place}", f"hypothesis {number}", label) for place, number, label in cells]
        shuffled = pd.DataFrame(rows, columns=["sentence_0", "sentence_1", "label"]).sample(frac=1, random_state=0)
        found = complete_share(shuffled)
        assert found is not None, "your function returns nothing yet"
        assert np.isclose(found, expected), hint


def exercise_2(overlap):
    cases = [
        ("a man is reading a book", "a man is reading", (1, 0), "every word of this hypothesis is in the premise"),
        ("a man is reading", "a man is reading a book, a book", (0.8, 1), "divide by the hypothesis, words count once"),
        ("A man sleeps.", "The man sleeps outside.", (0.5, 2), "points do not belong to a word"),
        ("Two dogs run.", "two DOGS run.", (1, 0), "capitals make no difference"),
        ("A man sleeps.", "...", (0, 0), "a hypothesis without words has the share 0"),
    ]
    for premise, hypothesis, expected, hint in cases:
        found = overlap(premise, hypothesis)
        assert np.shape(found) == (2,), "return two numbers: a share and a count"
        assert np.allclose(found, expected, atol=1e-3), f"{hint} ({premise!r}, {hypothesis!r})"


def exercise_3(standard_errors):
    found = standard_errors(10, 50, 100)
    assert found is not None, "your function returns nothing yet"
    assert np.isfinite(found), "divide percent by 100 before you take the root"
    assert found < 0, "a share below the expected one gives a negative number"
    assert not np.isclose(found, -40 / 3, rtol=0.03), "take the spread of the expected share, not of the found one"
    for percent, expected, rows in ((10, 50, 100), (60, 50, 400), (31.2, 100 / 3, 1_000)):
        error = 100 * np.sqrt(expected / 100 * (1 - expected / 100) / rows)
        right = np.isclose(standard_errors(percent, expected, rows), (percent - expected) / error, rtol=0.03)
        assert right, "divide the difference by the standard error of a share, with all three in the same unit"


def exercise_4(average_maximum):
    lengths = np.random.default_rng(0).permutation(np.arange(1, 1_001))
    whole = average_maximum(lengths[:20], 20)
    assert whole is not None, "your function returns nothing yet"
    assert np.isclose(whole, lengths[:20].max()), "a sample of all rows holds the largest: draw without putting back"
    for rows in (1, 10, 50):
        expected = 1_001 * rows / (rows + 1)  # of the largest of so many different numbers from 1 to 1,000
        spread = np.sqrt(1_001 * (1_000 - rows) * rows / (rows + 1) ** 2 / (rows + 2) / 200)
        near = abs(average_maximum(lengths.copy(), rows) - expected) <= 5 * spread
        assert near, (
            f"for samples of {rows} rows your average is off: average the largest values of 200 different samples"
        )

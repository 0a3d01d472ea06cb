"""The checks of notebook 04's exercises: right answers pass, plausible wrong ones get a hint."""

import numpy as np
import pandas as pd
import pytest

from stlib.cards import published_log
from stlib.exercises import find, shortcoming


def ninety_percent():
    log = published_log()
    done = (log["loss"].iloc[0] - log["loss"]) / (log["loss"].iloc[0] - log["loss"].min())
    return log["step"][np.argmax(done >= 0.9)]


def test_ninety_percent():
    assert shortcoming(find("04.1"), ninety_percent()) is None
    assert shortcoming(find("04.1"), float(ninety_percent())) is None


@pytest.mark.parametrize(
    ("wrong", "word"),
    [(0.3, "share"), (40, "row"), (20_600, "no step"), (1_500, "90 % of the first loss"), (68_500, "loss at 90 %")],
)
def test_hints_on_ninety_percent(wrong, word):
    assert word in shortcoming(find("04.1"), wrong)


def lag(smooth):
    line = pd.Series(np.arange(100, 0, -1.0))
    return (smooth(line) - line).iloc[50]


def test_lag():
    assert shortcoming(find("04.2"), lag) is None


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda smooth: -lag(smooth), "sign"),
        (lambda smooth: (smooth(pd.Series(np.arange(100, 0, -1.0))) - np.arange(100, 0, -1.0)).iloc[0], "full"),
        (lambda smooth: (smooth(pd.Series(np.arange(100, 0, -1.0))) - np.arange(100, 0, -1.0)).mean(), "full"),
        (lambda smooth: smooth(pd.Series(np.arange(100, 0, -1.0))), "one number"),
        (lambda smooth: 2.0, "shorter at the start"),
        (lambda smooth: None, "nothing"),
    ],
)
def test_hints_on_the_lag(wrong, word):
    assert word in shortcoming(find("04.2"), wrong)


def coarser(log, rows):
    full = len(log) // rows
    blocks = [log.iloc[rows * block : rows * (block + 1)] for block in range(full)]
    return pd.DataFrame({"step": [b["step"].max() for b in blocks], "loss": [b["loss"].mean() for b in blocks]})


def test_coarser_rows():
    assert shortcoming(find("04.3"), coarser) is None


def with_a_short_block(log, rows):
    return log.groupby(np.arange(len(log)) // rows).agg(step=("step", "last"), loss=("loss", "mean"))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (with_a_short_block, "leave the last rows out"),
        (lambda log, rows: log.iloc[rows - 1 :: rows], "not the last value"),
        (lambda log, rows: coarser(log, rows).assign(step=lambda made: made["step"] - 20 * (rows - 1)), "last step"),
        (
            lambda log, rows: coarser(log, rows).assign(loss=log["loss"].rolling(rows, min_periods=1).mean()),
            "own block",
        ),
        (lambda log, rows: log.rolling(rows).mean(), "make 4 rows"),
        (lambda log, rows: with_a_short_block(log, rows).iloc[:-1], "make 4 rows, not 3"),
        (lambda log, rows: coarser(log, rows)["loss"].tolist(), "DataFrame"),
    ],
)
def test_hints_on_coarser_rows(wrong, word):
    assert word in shortcoming(find("04.3"), wrong)


def scatter(steps, losses):
    design = np.stack([np.ones(len(steps)), steps - np.mean(steps)], axis=1)
    rest = losses - design @ np.linalg.lstsq(design, losses, rcond=None)[0]
    return np.sqrt(np.sum(rest**2) / (len(steps) - 2))


def test_scatter():
    assert shortcoming(find("04.4"), scatter) is None


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda steps, losses: np.std(losses), "slope"),
        (lambda steps, losses: scatter(steps, losses) ** 2, "square root"),
        (lambda steps, losses: scatter(steps, losses) * np.sqrt(10 / 12), "two numbers"),
        (lambda steps, losses: np.std(np.diff(losses)), "fit a straight line"),
    ],
)
def test_hints_on_the_scatter(wrong, word):
    assert word in shortcoming(find("04.4"), wrong)

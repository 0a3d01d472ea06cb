"""Checks of the exercises of notebook 04."""

import numpy as np
import pandas as pd

from stlib.cards import published_log
from stlib.exercises import NOTHING


def exercise_1(answer):
    """The first step of the card's log at which 90 % of the whole fall is done."""
    log = published_log()
    start, lowest, last = log["loss"].iloc[0], log["loss"].min(), log["loss"].iloc[-1]

    def first(level):
        return log.loc[log["loss"] <= level, "step"].iloc[0]

    step = float(answer)
    assert step >= log["step"].iloc[0], "the answer is a step of the log, neither a share nor the number of a row"
    assert step in log["step"].tolist(), "this is no step of the card's log, which has a row every 500 steps"
    assert step != log.loc[log["loss"].idxmin(), "step"], "this is the lowest row, where the whole fall is done"
    assert step != first(0.9 * start), "that is 90 % of the first loss: take 90 % of the fall, from the first row down"
    assert step != first(start - 0.1 * (start - lowest)), "that is where 10 % of the fall is done"
    assert step != first(start - 0.9 * (start - last)), "the whole fall ends at the lowest row, which is not the last"
    assert step == first(start - 0.9 * (start - lowest)), (
        "find the loss at 90 % of the fall, then the first row at or below it"
    )


def exercise_2(answer):
    """``answer(smooth)`` is how many rows the smoothed curve is behind a straight falling line."""
    smoothers = {
        "a running mean of 5 rows": (lambda values: values.rolling(5).mean(), 2),
        "a running mean of 9 rows, shorter at the start": (lambda values: values.rolling(9, min_periods=1).mean(), 4),
        "a curve that is drawn 3 rows late": (lambda values: values.shift(3), 3),
        "the curve itself": (lambda values: values, 0),
        "a centred mean of 5 rows": (lambda values: values.rolling(5, center=True).mean(), 0),
        "a centred mean of 7 rows, shorter at both ends": (
            lambda values: values.rolling(7, center=True, min_periods=1).mean(),
            0,
        ),
    }
    for name, (smooth, lag) in smoothers.items():
        found = answer(smooth)
        assert found is not None, NOTHING
        found = np.ravel(np.asarray(found, dtype=float))
        assert found.size == 1, "return one number, the lag in the middle of the line"
        found = found[0]
        assert np.isfinite(found), f"the lag of {name} comes out as {found}: look where every window is full"
        assert not (lag and abs(found + lag) < 1e-6), f"the lag of {name} has the wrong sign: late is above zero"
        assert abs(found - lag) < 1e-6, f"the lag of {name} is not {found:g}: look at a row where every window is full"


def exercise_3(answer):
    """``answer(log, rows)`` is the log with a row every ``rows`` rows, each the mean of those it stands for."""
    log = pd.DataFrame({"step": np.arange(20, 420, 20), "loss": np.linspace(1.1, 0.4, 20) ** 2})
    for rows in (5, 3):
        found, full = answer(log.copy(), rows), len(log) // rows
        assert found is not None, NOTHING
        assert {"step", "loss"} <= set(getattr(found, "columns", ())), (
            "return a DataFrame with the columns step and loss"
        )
        assert len(found) != full + 1, "leave the last rows out where they do not fill a block"
        assert len(found) == full, f"{len(log)} rows in blocks of {rows} make {full} rows, not {len(found)}"
        steps, losses = (log[name].to_numpy()[: full * rows].reshape(full, rows) for name in ("step", "loss"))
        assert not np.allclose(found["loss"], losses[:, -1]), "a row is the mean of its block, not the last value of it"
        assert np.allclose(found["loss"], losses.mean(axis=1)), "a row's loss is the mean of the rows of its own block"
        assert np.allclose(found["step"], steps[:, -1]), (
            "a row stands at the last step of its block, as in every log here"
        )


def exercise_4(answer):
    """``answer(steps, losses)`` is the standard deviation of the losses around a straight line, with n - 2 below."""
    steps = np.arange(60_500, 66_500, 500)
    losses = 1.2 - 3e-6 * steps + 0.002 * np.array([1, -1, 0, 2, -2, 1, 0, -1, 1, -2, 2, -1])
    around = losses - np.polyval(np.polyfit(steps, losses, 1), steps)
    found = answer(pd.Series(steps), pd.Series(losses))
    assert found is not None, NOTHING
    found, squares = float(found), float((around**2).sum())

    n, slope_left = len(steps), "this spread holds the slope too: subtract the line"

    def equals(value):
        return abs(found - value) < 1e-6

    assert not any(map(equals, (losses.std(ddof=0), losses.std(ddof=1)))), slope_left
    assert not equals(squares / (n - 2)), "this is a variance: take its square root"
    too_many = "the line was fitted with two numbers: divide by the rows that are left after those"
    assert not any(map(equals, (np.sqrt(squares / n), np.sqrt(squares / (n - 1))))), too_many
    assert equals(np.sqrt(squares / (n - 2))), "fit a straight line, subtract it, and measure what is left"

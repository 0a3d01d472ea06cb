"""Figures of training: loss curves, schedules, and what the published card's curve is compared with."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from stlib.plots.drawing import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, new_axes


def loss_curves(
    curves: Mapping[str, pd.DataFrame], smooth: int = 1, log_x: bool = False, ax: Axes | None = None
) -> Axes:
    """Loss against step, one line a curve (columns ``step`` and ``loss``), with the loss of guessing as a dotted line.

    ``smooth`` is the number of log rows in a running mean; the unsmoothed curve stays visible behind it.
    """
    ax = new_axes(ax)
    styles = zip(
        curves.items(),
        (BLUE, RED, GREEN, PURPLE, ORANGE),
        ("-", "--", "-.", ":", "-"),
        ("o", "s", "^", "D", "v"),
        strict=False,
    )
    for (name, curve), color, line, marker in styles:
        if smooth > 1:
            ax.plot(curve["step"], curve["loss"], color=color, alpha=0.3, linewidth=1)
        mean = running_mean(curve["loss"], smooth)
        ax.plot(
            curve["step"],
            mean,
            color=color,
            linestyle=line,
            marker=marker,
            markevery=max(1, len(curve) // 12),
            markersize=4,
            label=name,
        )
    ax.axhline(np.log(3), color=BLACK, linestyle=":", linewidth=1, label="guessing: ln 3 = 1.099")
    if log_x:
        ax.set_xscale("log")
    ax.set(xlabel=f"training step{' (log scale)' if log_x else ''}", ylabel="training loss (nats)")
    ax.legend()
    return ax


def running_mean(values: pd.Series, window: int) -> pd.Series:
    """The mean of each value and the ``window - 1`` before it; shorter at the start."""
    return values.rolling(window, min_periods=1).mean()


def schedules(rates: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Learning rate at each step from 1 on, one line a schedule."""
    ax = new_axes(ax, 8.5)
    colors, lines = (BLUE, RED, GREEN, PURPLE, ORANGE, BLACK), ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
    for (name, values), color, line in zip(rates.items(), colors, lines, strict=False):
        ax.plot(range(1, len(values) + 1), values, color=color, linestyle=line, linewidth=2, label=name)
    ax.set(xlabel="training step", ylabel="learning rate of the encoder")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-5, -5))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def hypotheses(rows: pd.DataFrame, card: pd.Series, ax: Axes | None = None) -> Axes:
    """Mean loss of each hypothesis over the card's first rows, with a bar from the lowest to the highest seed.

    Args:
        rows: loss of each run (index ``hypothesis``, ``seed``; one column a row of the card).
        card: the card's loss, by the last step of the row.
    """
    ax = new_axes(ax, 9.0, 4.8)
    names = list(dict.fromkeys(rows.index.get_level_values(0)))
    width = 0.8 / (len(names) + 1)
    colors, markers = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK), ("o", "s", "^", "D", "v", "P", "X")
    for i, name in enumerate(names):
        found = rows.loc[name]
        middle = found.mean()
        places = np.arange(rows.shape[1]) + (i - (len(names) - 1) / 2) * width
        errors = [middle - found.min(), found.max() - middle]
        ax.errorbar(
            places, middle, yerr=errors, fmt=markers[i % 7], color=colors[i % 7], capsize=4, markersize=6, label=name,
            markerfacecolor="white" if i >= 7 else None,
        )  # fmt: skip
    for place, step in enumerate(rows.columns):
        label = "the card" if place == 0 else None
        ax.hlines(card[step], place - 0.45, place + 0.45, color=BLACK, linestyle="--", label=label)
    ax.set_xticks(range(rows.shape[1]), [f"{step - 499:,}-{step:,}" for step in rows.columns])
    ax.set(xlabel="training steps that a row averages over", ylabel="mean training loss (nats)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def bounds(table: pd.DataFrame, plateau: float, ax: Axes | None = None) -> Axes:
    """The lowest loss of each of several heads under each assumption (columns), against a plateau and guessing."""
    ax = new_axes(ax, 8.0, 4.0)
    for place, (name, color, marker) in enumerate(
        zip(table, (BLUE, GREEN, RED, PURPLE), ("o", "s", "^", "D"), strict=False)
    ):
        offsets = np.linspace(-0.25, 0.25, len(table))
        ax.plot(place + offsets, table[name], marker, color=color, markersize=6)
    ax.axhline(plateau, color=BLACK, linestyle="--", label=f"the card's plateau: {plateau:.3f}")
    ax.axhline(np.log(3), color=BLACK, linestyle=":", label="guessing: ln 3 = 1.099")
    ax.set_xticks(range(table.shape[1]), list(table))
    ax.set(
        xlabel="what the embeddings may be",
        ylabel="lowest loss (nats)",
        ylim=(0, 1.2),
        xlim=(-0.5, table.shape[1] - 0.5),
    )
    ax.legend(loc="lower right")
    return ax

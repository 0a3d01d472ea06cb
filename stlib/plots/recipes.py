"""Figures of the contest of recipes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from stlib.plots.drawing import BLACK, BLUE, GREEN, RED, new_axes


def contest(table: pd.DataFrame, base: float, ax: Axes | None = None) -> Axes:
    """What each contender has more than the base model, one row a contender, with a bar from the lowest to the highest seed.

    Args:
        table: columns ``contender``, ``mean``, ``low`` and ``high`` of the measure, in the order to draw.
        base: the base model's value.
    """
    ax = new_axes(ax, 8.0, 0.4 * len(table) + 1.4)
    places = np.arange(len(table))
    errors = [table["mean"] - table["low"], table["high"] - table["mean"]]
    ax.errorbar(
        table["mean"], places, xerr=errors, fmt="o", color=BLUE, capsize=4, label="mean, lowest and highest seed"
    )
    ax.axvline(base, color=BLACK, linestyle="--", label=f"the base model: {base:.2f}")
    ax.set_yticks(places, table["contender"])
    ax.invert_yaxis()
    ax.set(xlabel="Spearman x 100 on the validation pairs", ylabel="recipe")
    ax.legend(loc="center left")
    return ax


def growth(table: pd.DataFrame, ylabel: str, ax: Axes | None = None) -> Axes:
    """A measure against the number of pairs, one line a series, one dot a seed (columns ``pairs``, ``value``, ``series``)."""
    ax = new_axes(ax, 7.5, 4.2)
    styles = zip((BLUE, RED, GREEN), ("o", "s", "^"), ("-", "--", "-."), strict=True)
    for (name, rows), (color, marker, line) in zip(table.groupby("series", sort=False), styles, strict=False):
        ax.plot(rows["pairs"], rows["value"], marker, color=color, alpha=0.6)
        means = rows.groupby("pairs")["value"].mean()
        ax.plot(means.index, means, line, color=color, label=f"{name}, mean")
    ax.set_xscale("log")
    sizes = sorted(set(table["pairs"]))
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.axhline(0, color=BLACK, linestyle=":", label="the base model")
    ax.set(xlabel="NLI pairs that the model is trained on", ylabel=ylabel)
    ax.legend()
    return ax


def by_dimensions(scores: Mapping[str, Mapping[int, float]], ax: Axes | None = None) -> Axes:
    """Spearman against the number of leading dimensions that are kept, one line a model."""
    ax = new_axes(ax, 7.5, 4.2)
    styles = zip((BLACK, BLUE, RED, GREEN), ("*", "o", "s", "^"), (":", "-", "--", "-."), strict=True)
    for (name, values), (color, marker, line) in zip(scores.items(), styles, strict=False):
        ax.plot(list(values), list(values.values()), color=color, marker=marker, linestyle=line, label=name)
    ax.set_xscale("log", base=2)
    ticks = sorted({dimension for values in scores.values() for dimension in values})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set(xlabel="leading dimensions kept", ylabel="Spearman x 100")
    ax.legend()
    return ax

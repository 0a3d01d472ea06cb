"""Figures of speed."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from stlib.plots.drawing import BLACK, BLUE, RED, YELLOW, new_axes


def waterfall(names: Sequence[str], seconds: Sequence[float], ax: Axes | None = None) -> Axes:
    """Seconds a step after each change, top to bottom, and in front of each bar's end what the change saved."""
    ax = new_axes(ax, 8.0, 0.55 * len(names) + 1.4)
    seconds = np.asarray(seconds)
    places = np.arange(len(names))
    ax.barh(places, seconds, color=BLUE, edgecolor="black", label="a step")
    saved = np.maximum(0, -np.diff(seconds, prepend=seconds[0]))
    ax.barh(places, saved, left=seconds, color=YELLOW, edgecolor="black", hatch="//", label="saved by this change")
    for place, value, gain in zip(places, seconds, saved, strict=True):
        ax.text(value + gain, place, f" {value:.3f} s, {seconds[0] / value:.1f} x", va="center")
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.set(xlabel="time of a training step (seconds)", ylabel="what is switched on", xlim=(0, 1.25 * seconds.max()))
    ax.legend(loc="lower right")
    return ax


def roofline(table: pd.DataFrame, ceilings: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """Operations a second against operations a byte, under the ceilings of memory and arithmetic."""
    ax = new_axes(ax, 8.0, 4.6)
    reach = np.geomspace(0.2, 1_000, 200)
    for name, color, line in zip([n for n in ceilings if n != "bandwidth"], (BLUE, RED), ("-", "--"), strict=False):
        roof = np.minimum(reach * ceilings["bandwidth"], ceilings[name]) / 1e9
        ax.plot(reach, roof, color=color, linestyle=line, label=f"ceiling, products in {name}")
    for row, marker in zip(table.itertuples(), ("o", "s", "^", "D", "v", "P"), strict=False):
        ax.plot(row.intensity, row.gflops, marker, color=BLACK, markersize=7, label=row.operation)
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="operations for each byte moved (log scale)", ylabel="speed ($10^9$ operations a second, log scale)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def shares(values: Mapping[str, float], xlabel: str, ax: Axes | None = None) -> Axes:
    """Horizontal bars, the largest on top, with the figure behind each."""
    ax = new_axes(ax, 7.0, 0.45 * len(values) + 1.2)
    names = sorted(values, key=values.get, reverse=True)
    bars = ax.barh(names, [values[name] for name in names], color=BLUE, edgecolor="black")
    ax.bar_label(bars, fmt="%.0f", padding=3)
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, ylabel="kind of work", xlim=(0, 1.15 * max(values.values())))
    return ax

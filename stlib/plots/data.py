"""Figures of corpora: lengths and labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from stlib.plots.drawing import BLACK, BLUE, GREEN, HATCHES, ORANGE, RED, new_axes


def length_histograms(lengths: Mapping[str, Sequence[int]], ax: Axes | None = None) -> Axes:
    """Token counts of each column as outlined histograms, with the mean of each as a vertical line."""
    ax = new_axes(ax)
    bins = np.arange(0.5, max(max(values) for values in lengths.values()) + 1.5)
    styles = zip(lengths.items(), (BLUE, RED, GREEN), ("-", "--", ":"), HATCHES, strict=False)
    for (name, values), color, line, hatch in styles:
        ax.hist(values, bins=bins, histtype="stepfilled", facecolor="none", edgecolor=color, hatch=hatch, label=name)
        ax.axvline(np.mean(values), color=color, linestyle=line, label=f"{name}: mean {np.mean(values):.1f}")
    ax.set(xlabel="length (tokens, [CLS] and [SEP] included)", ylabel="sentences (count)")
    ax.legend()
    return ax


def label_balance(shares: Mapping[str, Sequence[float]], labels: Sequence[str], ax: Axes | None = None) -> Axes:
    """Grouped bars: the share of each label (percent) in each data set."""
    ax = new_axes(ax)
    width = 0.8 / len(shares)
    for i, ((name, values), color, hatch) in enumerate(
        zip(shares.items(), (BLUE, ORANGE, GREEN), HATCHES, strict=False)
    ):
        places = np.arange(len(labels)) + (i - (len(shares) - 1) / 2) * width
        bars = ax.bar(places, values, width, color=color, edgecolor="black", hatch=hatch, label=name)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the dotted line off the figures
        ax.bar_label(bars, fmt="%.1f", padding=2, bbox=white, zorder=3)
    ax.axhline(100 / len(labels), color=BLACK, linestyle=":", label="equal shares")
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlabel="label", ylabel="share of pairs (%)", ylim=(0, 50))
    ax.legend(loc="upper center", ncols=3)
    return ax

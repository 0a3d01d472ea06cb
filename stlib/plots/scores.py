"""Figures of evaluation: similarity, classification, and the shape of the space."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from stlib.plots.drawing import BLACK, BLUE, GREEN, HATCHES, ORANGE, PURPLE, RED, SKY, heat_map, new_axes


def gold_against_cosine(gold: Sequence[float], cosines: Sequence[float], ax: Axes | None = None) -> Axes:
    """Cosine of each pair against its gold score, with the mean cosine of each rounded score."""
    ax = new_axes(ax)
    gold, cosines = np.asarray(gold), np.asarray(cosines)
    ax.scatter(gold, cosines, s=18, color=BLUE, alpha=0.5, label="a pair")
    bands = np.floor(gold + 0.5)
    means = [cosines[bands == band].mean() for band in np.unique(bands)]
    ax.plot(np.unique(bands), means, color=RED, marker="s", label="mean of a band")
    ax.set(xlabel="gold similarity (0 to 5)", ylabel="cosine similarity")
    ax.legend()
    return ax


def score_bars(
    table: pd.DataFrame, value: str, by: str, models: Sequence[str], ylabel: str, ax: Axes | None = None
) -> Axes:
    """Grouped bars of ``value`` with the interval ``low`` to ``high``, one group per ``by``, one bar per ``model``."""
    groups = list(dict.fromkeys(table[by]))
    ax = new_axes(ax, max(7.0, 1.1 * len(groups) * len(models)), 4.2)
    width = 0.8 / len(models)
    for i, (model, color, hatch) in enumerate(zip(models, (BLUE, ORANGE, GREEN, PURPLE), HATCHES, strict=False)):
        rows = table[table["model"] == model].set_index(by).loc[groups]
        errors = np.abs([rows[value] - rows["low"], rows["high"] - rows[value]])
        places = np.arange(len(groups)) + (i - (len(models) - 1) / 2) * width
        ax.bar(
            places, rows[value], width, yerr=errors, capsize=4, color=color, edgecolor="black", hatch=hatch, label=model
        )
    ax.set_xticks(range(len(groups)), groups)
    ax.set(xlabel=by, ylabel=ylabel, ylim=(0, 108))
    ax.legend(loc="lower right")
    return ax


def confusion(counts: np.ndarray, labels: Sequence[str], ax: Axes | None = None) -> Axes:
    """A confusion matrix as shares of each gold label (percent): rows gold, columns predicted."""
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    ax = heat_map(shares, labels, labels, "share of the gold label (%)", ax, digits=0, low=0, high=100)
    ax.set(xlabel="predicted label", ylabel="gold label")
    return ax


def reliability(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Accuracy against confidence for each classifier (what ``measures.calibration`` returns); larger dots hold more pairs."""
    ax = new_axes(ax, 6.4, 5.0)
    ax.plot([0, 1], [0, 1], color=BLACK, linestyle=":", label="as often right as it says")
    styles = zip((BLUE, RED, GREEN), ("o", "s", "^"), ("-", "--", "-."), strict=True)
    for (name, table), (color, marker, line) in zip(tables.items(), styles, strict=False):
        ax.plot(table["confidence"], table["accuracy"], color=color, linestyle=line, label=name, marker=marker)
        ax.scatter(
            table["confidence"], table["accuracy"], s=20 + 300 * table["n"] / table["n"].sum(), color=color, alpha=0.35
        )
    ax.set(
        xlabel="mean probability of the predicted label",
        ylabel="share of pairs that are right",
        xlim=(0.3, 1),
        ylim=(0.3, 1),
    )
    ax.legend()
    return ax


def subset_changes(table: pd.DataFrame, models: Sequence[str], ax: Axes | None = None) -> Axes:
    """Spearman of each subset less the base model's, one row a subset, one marker a model.

    Args:
        table: columns ``name`` (of the subset), ``model`` and ``change`` (in points).
    """
    names = list(dict.fromkeys(table["name"]))
    ax = new_axes(ax, 8.0, 0.28 * len(names) + 1.4)
    for model, color, marker in zip(models, (BLUE, RED, GREEN, PURPLE), ("o", "s", "^", "D"), strict=False):
        rows = table[table["model"] == model].set_index("name").loc[names]
        ax.plot(rows["change"], range(len(names)), marker, color=color, markersize=6, label=model)
    ax.axvline(0, color=BLACK, linestyle="--", label="the base model")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="change of Spearman x 100 against the base model (points)", ylabel="subset")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def geometry(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Uniformity against alignment, one marker a model (columns ``model``, ``uniformity``, ``alignment``)."""
    ax = new_axes(ax, 6.4, 4.4)
    styles = zip((BLACK, BLUE, RED, GREEN, PURPLE, ORANGE, SKY), ("*", "o", "s", "^", "D", "v", "P"), strict=True)
    for row, (color, marker) in zip(table.itertuples(), styles, strict=False):
        ax.plot(row.uniformity, row.alignment, marker, color=color, markersize=10, label=row.model)
    ax.set(xlabel="uniformity (log; lower is more even)", ylabel="alignment (squared distance; lower is closer)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def planes(coordinates: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """NLI pairs as points in a plane, one panel a model; colour and marker give the gold label."""
    figure, axes = plt.subplots(
        1, len(coordinates), figsize=(4.4 * len(coordinates), 4.2), layout="constrained", squeeze=False
    )
    for ax, (model, points) in zip(axes[0], coordinates.items(), strict=True):
        for label, color, marker in zip(range(len(names)), (BLUE, ORANGE, RED), ("o", "^", "x"), strict=False):
            rows = labels == label
            ax.scatter(*points[rows].T, s=14, color=color, marker=marker, alpha=0.6, label=names[label])
        ax.set(title=model, xlabel="first discriminant (deviations)", ylabel="second discriminant (deviations)")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.align_labels()
    return axes[0]

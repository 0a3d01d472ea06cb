"""Every figure of the course. Each function draws on ``ax`` (or a new one) and returns it; nothing is computed here but what is drawn."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000",
)  # fmt: skip
HATCHES = ("", "//", "..", "xx")


def new_axes(ax: Axes | None, width: float = 7.0, height: float = 4.0) -> Axes:
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    ax: Axes | None = None,
    digits: int = 2,
    low=None,
    high=None,
) -> Axes:
    """A matrix as colored squares with its numbers written in; ``label`` names the color scale."""
    ax = new_axes(ax, 1.4 * len(columns) + 3.2, 0.8 * len(rows) + 1.2)
    ax.grid(False)
    image = ax.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color="white" if value < middle else "black")
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


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


def reliability(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Accuracy against confidence for each classifier (what ``evaluation.calibration`` returns); larger dots hold more pairs."""
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
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
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

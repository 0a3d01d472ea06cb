"""Every figure of the course. Each function draws on ``ax`` (or on new axes) and returns it; it computes only what it draws."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.pyplot import cycler  # not the one of rcParams, which drops empty hatches

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000",
)  # fmt: skip
COLORS = [BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK]

# The looks of the series of a figure, no two of which differ by their colour alone: after seven, the marks are hollow;
# after fourteen, the looks start over, so every series is drawn.
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
CYCLE = cycler(fillstyle=["full", "none"]) * cycler(color=COLORS, linestyle=LINES, marker=MARKERS)
BASE_FIRST = cycler(fillstyle=["full"], color=[BLACK], linestyle=[":"], marker=["*"]).concat(CYCLE)
FILLS = cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW], hatch=["", "//", "..", "xx", "--", "oo", "++"])

Names = Sequence[str]
LOOK = {"figure.dpi": 100, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "font.size": 11}
LOOK["axes.prop_cycle"] = cycler(color=COLORS)  # of your own plots; those of the course follow CYCLE


def new_axes(ax: Axes | None = None, width: float = 7.0, height: float = 4.0, cycle=CYCLE) -> Axes:
    """Return ``ax``, or the axes of a new figure of that size (inches); its series take their looks from ``cycle``."""
    ax = ax or plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.set_prop_cycle(cycle)
    return ax


def finish(ax: Axes, xlabel: str, ylabel: str, rows: Names = (), beside: bool = False, **properties) -> Axes:
    """Return ``ax`` with labels (and units), ``rows`` named downwards, and the legend above the data, or ``beside`` them."""
    if len(rows):
        ax.set_yticks(range(len(rows)), rows)
        ax.invert_yaxis()
    ax.set(xlabel=xlabel, ylabel=ylabel, **properties)
    if beside:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    elif ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def length_histograms(lengths: Mapping[str, Sequence[int]], ax: Axes | None = None) -> Axes:
    """Draw the token counts of each column as an outlined histogram, with their mean as a vertical line."""
    ax = new_axes(ax)
    bins = np.arange(0.5, max(max(values) for values in lengths.values()) + 1.5)
    for (name, values), look, fill in zip(lengths.items(), CYCLE(), FILLS(), strict=False):
        ax.stairs(*np.histogram(values, bins), color=look["color"], hatch=fill["hatch"], label=name)
        mean = np.mean(values)
        ax.axvline(mean, color=look["color"], linestyle=look["linestyle"], label=f"{name}: mean {mean:.1f}")
    return finish(ax, "length (tokens, [CLS] and [SEP] included)", "sentences (count)")


def label_balance(shares: Mapping[str, Sequence[float]], labels: Names, ax: Axes | None = None) -> Axes:
    """Draw the share of each label (percent) in each data set as grouped bars."""
    ax = new_axes(ax)
    for bars in grouped_bars(ax, labels, shares, {}):
        ax.bar_label(bars, fmt="%.1f", label_type="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})
    ax.axhline(100 / len(labels), color=BLACK, linestyle=":", label="equal shares")
    return finish(ax, "label", "share of pairs (%)", ylim=(0, 50))


def grouped_bars(ax: Axes, groups: Names, heights: Mapping[str, Sequence[float]], errors: Mapping) -> list:
    """Draw one bar per group for each series, side by side, with ``errors`` (which may be empty) by series, and return the bars."""
    ax.set_xticks(range(len(groups)), groups)
    places, width = np.arange(len(groups)) - (len(heights) - 1) / 2 * (0.8 / len(heights)), 0.8 / len(heights)
    return [
        ax.bar(places + i * width, values, width, yerr=errors.get(name), capsize=4, ec="black", label=name, **fill)
        for i, ((name, values), fill) in enumerate(zip(heights.items(), FILLS(), strict=False))
    ]


def loss_curves(curves: Mapping[str, pd.DataFrame], smooth: int = 1, log_x=False, ax: Axes | None = None) -> Axes:
    """Draw loss against step, one line per curve (columns ``step`` and ``loss``), and the loss of guessing, dotted.

    ``smooth`` is the number of log rows in a running mean; the unsmoothed curve stays visible behind it.
    """
    ax = new_axes(ax)
    for (name, curve), look in zip(curves.items(), CYCLE(), strict=False):
        if smooth > 1:
            ax.plot(curve["step"], curve["loss"], color=look["color"], linestyle="-", marker="", alpha=0.3, linewidth=1)
        mean = curve["loss"].rolling(smooth, min_periods=1).mean()
        ax.plot(curve["step"], mean, markevery=max(1, len(curve) // 12), markersize=4, label=name, **look)
    ax.axhline(np.log(3), color=BLACK, linestyle=":", linewidth=1, label="guessing: ln 3 = 1.099")
    ax.set_xscale("log" if log_x else "linear")
    return finish(ax, f"training step{' (log scale)' if log_x else ''}", "training loss (nats)")


def schedules(rates: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Draw the learning rate at each step from 1 on, one line per schedule."""
    ax = new_axes(ax, 8.5)
    for name, values in rates.items():
        ax.plot(range(1, len(values) + 1), values, marker="", linewidth=2, label=name)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-5, -5))
    return finish(ax, "training step", "learning rate of the encoder", beside=True)


def hypotheses(rows: pd.DataFrame, card: pd.Series, ax: Axes | None = None) -> Axes:
    """Draw how far the mean loss of each hypothesis is from the card's, with a bar from the lowest to the highest seed.

    ``rows`` has a line per run (index ``hypothesis``, ``seed``) and a column per row of the card, both by its last step.
    """
    ax = new_axes(ax, 9.0, 4.8)
    places, groups = np.arange(rows.shape[1]), (rows - card[rows.columns]).groupby(level=0, sort=False)
    for i, (name, gaps) in enumerate(groups):
        errors = [gaps.mean() - gaps.min(), gaps.max() - gaps.mean()]
        at = places + (i - (len(groups) - 1) / 2) * 0.8 / (len(groups) + 1)
        ax.errorbar(at, gaps.mean(), yerr=errors, linestyle="none", capsize=4, markersize=6, label=name)
    ax.axhline(0, color=BLACK, linestyle="--", label="the card")
    ax.set_xticks(places, [f"{step - 499:,}-{step:,}" for step in rows.columns])
    return finish(ax, "training steps that a row averages over", "loss minus the card's (nats)", beside=True)


def bounds(table: pd.DataFrame, plateau: float, ax: Axes | None = None) -> Axes:
    """Draw the lowest loss of each of several heads under each assumption (columns), a plateau, and guessing."""
    ax = new_axes(ax, 8.0, 4.0)
    for place, name in enumerate(table):
        ax.plot(np.linspace(place - 0.25, place + 0.25, len(table)), table[name], linestyle="none", markersize=6)
    ax.axhline(plateau, color=BLACK, linestyle="--", label=f"the card's plateau: {plateau:.3f}")
    ax.axhline(np.log(3), color=BLACK, linestyle=":", label="guessing: ln 3 = 1.099")
    ax.set_xticks(range(table.shape[1]), list(table))
    return finish(ax, "what the embeddings may be", "lowest loss (nats)", ylim=(0, 1.2))


def heat_map(values: np.ndarray, rows: Names, columns: Names, label: str, digits=2, limits=(None, None)) -> Axes:
    """Draw a matrix as coloured squares with its numbers; ``label`` names the colour scale, ``limits`` are its ends."""
    ax = new_axes(None, 1.1 * len(columns) + 2.8, 0.8 * len(rows) + 1.2)
    ax.grid(False)
    image = ax.imshow(values, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color="white" if value < middle else "black")
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def confusion(counts: np.ndarray, labels: Names) -> Axes:
    """Draw a confusion matrix as shares of each gold label (percent): rows gold, columns predicted."""
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    ax = heat_map(shares, labels, labels, "share of the gold label (%)", digits=0, limits=(0, 100))
    return finish(ax, "predicted label", "gold label")


def gold_against_cosine(gold: Sequence[float], cosines: Sequence[float], ax: Axes | None = None) -> Axes:
    """Draw the cosine of each pair against its gold score, with the mean cosine of each rounded score."""
    ax = new_axes(ax)
    ax.scatter(gold, cosines, s=18, color=BLUE, alpha=0.5, label="a pair")
    means = pd.Series(np.asarray(cosines)).groupby(np.floor(np.asarray(gold) + 0.5)).mean()
    ax.plot(means.index, means, color=RED, linestyle="-", marker="s", label="mean of a band")
    return finish(ax, "gold similarity (0 to 5)", "cosine similarity", beside=True)


def score_bars(table: pd.DataFrame, value: str, by: str, models: Names, ylabel: str, ax: Axes | None = None) -> Axes:
    """Draw ``value`` with its interval from ``low`` to ``high``: one group of bars per ``by``, one bar per ``model``."""
    groups = list(dict.fromkeys(table[by]))
    ax = new_axes(ax, max(7.0, 1.1 * len(groups) * len(models)), 4.2)
    rows = {model: table[table["model"] == model].set_index(by).loc[groups] for model in models}
    errors = {name: np.abs([one[value] - one["low"], one["high"] - one[value]]) for name, one in rows.items()}
    grouped_bars(ax, groups, {name: one[value] for name, one in rows.items()}, errors)
    return finish(ax, by, ylabel, ylim=(0, 108))


def reliability(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Draw accuracy against confidence for each classifier (tables of ``measures.calibration``); one alone has its counts."""
    ax = new_axes(ax, 6.4, 5.0)
    ax.axline((0, 0), slope=1, color=BLACK, linestyle=":", label="as often right as it says")
    for name, table in tables.items():
        ax.plot(table["confidence"], table["accuracy"], label=name)
        for row in table.itertuples() if len(tables) == 1 else ():
            place = (row.confidence, row.accuracy)
            ax.annotate(f"{row.n:,} pairs", place, (-5, 3), textcoords="offset points", ha="right", va="bottom")
    return finish(
        ax, "mean probability of the predicted label", "share of right pairs", xlim=(0.25, 1), ylim=(0.25, 1.06)
    )


def subset_changes(table: pd.DataFrame, models: Names, ax: Axes | None = None) -> Axes:
    """Draw Spearman of each subset minus the base model's (columns ``name``, ``model``, ``change``), one row per subset."""
    changes = table.pivot(index="name", columns="model", values="change").loc[table["name"].unique(), models]
    ax = new_axes(ax, 9.0, 0.28 * len(changes) + 1.4)
    for model in models:
        ax.plot(changes[model], range(len(changes)), linestyle="none", markersize=6, label=model)
    # Small changes are to be seen beside large ones.
    ax.set_xscale("symlog", linthresh=5, linscale=0.7)
    ticks = (-80, -40, -20, -10, -5, -2.5, 0, 2.5, 5)
    ax.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
    ax.axvline(0, color=BLACK, linestyle="--", label="the base model")
    xlabel = "Spearman x 100 minus the base model's (points)\nscale: linear to ±5, then logarithmic"
    return finish(ax, xlabel, "subset", changes.index, beside=True)


def planes(coordinates: Mapping[str, np.ndarray], labels: np.ndarray, names: Names) -> np.ndarray:
    """Draw NLI pairs as points in a plane, one panel per model on one scale; colour and marker give the gold label."""
    shape = {"ncols": len(coordinates), "figsize": (3.1 * len(coordinates) + 1.2, 3.4)}
    _, axes = plt.subplots(**shape, layout="constrained", squeeze=False, sharex=True, sharey=True)
    looks = cycler(color=[BLUE, ORANGE, RED, GREEN], marker=["o", "^", "x", "D"])
    for ax, (model, points) in zip(axes[0], coordinates.items(), strict=True):
        for (label, name), look in zip(enumerate(names), looks(), strict=False):
            ax.scatter(*points[labels == label].T, s=14, alpha=0.6, label=name, **look)
        ax.set(title=model, xlabel="first discriminant (deviations)")
    axes[0][0].set_ylabel("second discriminant (deviations)")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return axes[0]


def contest(table: pd.DataFrame, base: float, ax: Axes | None = None) -> Axes:
    """Draw how far each contender (``contender``, ``mean``; of its seeds ``low``, ``high``) is from the base model's score."""
    ax = new_axes(ax, 8.0, 0.4 * len(table) + 1.4)
    errors = [table["mean"] - table["low"], table["high"] - table["mean"]]
    label = "mean and range of seeds"
    ax.errorbar(table["mean"] - base, range(len(table)), xerr=errors, fmt="o", capsize=4, label=label)
    ax.axvline(0, color=BLACK, linestyle="--", label=f"the base model: {base:.2f}")
    return finish(ax, "validation score minus the base model's (points)", "recipe", table["contender"])


def growth(table: pd.DataFrame, ylabel: str, ax: Axes | None = None) -> Axes:
    """Draw a measure against the number of pairs (columns ``pairs``, ``value``, ``series``), one dot per seed, a line through the means."""
    ax = new_axes(ax, 7.5, 4.2)
    for (name, rows), look in zip(table.groupby("series", sort=False), CYCLE(), strict=False):
        ax.plot(rows["pairs"], rows["value"], alpha=0.6, **{**look, "linestyle": "none"})
        means = rows.groupby("pairs")["value"].mean()
        ax.plot(means.index, means, label=f"{name}, mean", **{**look, "marker": ""})
    ax.axhline(0, color=BLACK, linestyle=":", label="the base model")
    ax.set_xscale("log")
    sizes = sorted(set(table["pairs"]))
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    return finish(ax, "NLI pairs that the model is trained on (log scale)", ylabel)


def by_dimensions(scores: Mapping[str, Mapping[int, float]], ax: Axes | None = None) -> Axes:
    """Draw Spearman against the number of leading dimensions that are kept, one line per model, the base model first."""
    ax = new_axes(ax, 7.5, 4.2, BASE_FIRST)
    for name, values in scores.items():
        ax.plot(list(values), list(values.values()), label=name)
    ax.set_xscale("log", base=2)
    ticks = sorted({dimension for values in scores.values() for dimension in values})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    return finish(ax, "leading dimensions kept (log scale)", "Spearman x 100")


def waterfall(names: Names, seconds: Sequence[float], ax: Axes | None = None) -> Axes:
    """Draw the seconds per step after each change, top to bottom, and in front of each bar's end what the change saved."""
    ax = new_axes(ax, 8.0, 0.55 * len(names) + 1.4)
    seconds, places = np.asarray(seconds), range(len(names))
    ax.barh(places, seconds, color=BLUE, edgecolor="black", label="a step")
    saved = np.maximum(0, -np.diff(seconds, prepend=seconds[0]))
    ax.barh(places, saved, left=seconds, color=YELLOW, edgecolor="black", hatch="//", label="saved by this change")
    for place, value, gain in zip(places, seconds, saved, strict=True):
        ax.text(value + gain, place, f" {value:.3f} s, {seconds[0] / value:.1f} x", va="center")
    return finish(ax, "time of a training step (seconds)", "what is switched on", names, xlim=(0, 1.25 * max(seconds)))


def roofline(table: pd.DataFrame, ceilings: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """Draw operations per second against operations per byte, under the rates of memory and of a step's products."""
    ax = new_axes(ax, 8.0, 4.6)
    reach = np.geomspace(0.2, 1_000, 200)
    for name in (name for name in ceilings if name != "bandwidth"):
        roof = np.minimum(reach * ceilings["bandwidth"], ceilings[name]) / 1e9
        ax.plot(reach, roof, marker="", label=f"mean of all products, {name}")
    for row, look in zip(table.itertuples(), CYCLE(), strict=False):
        ax.plot(row.intensity, row.gflops, label=row.operation, **{**look, "color": BLACK, "linestyle": "none"})
    ax.set(xscale="log", yscale="log")
    return finish(ax, "operations per byte (log scale)", "speed ($10^9$ operations per second, log scale)", beside=True)


def shares(values: Mapping[str, float], xlabel: str, ax: Axes | None = None) -> Axes:
    """Draw horizontal bars, the largest on top, with the figure behind each."""
    ax = new_axes(ax, 7.0, 0.45 * len(values) + 1.2)
    names = sorted(values, key=values.get, reverse=True)
    bars = ax.barh(range(len(names)), [values[name] for name in names], color=BLUE, edgecolor="black")
    ax.bar_label(bars, fmt="%.0f", padding=3)
    return finish(ax, xlabel, "kind of work", names, xlim=(0, 1.15 * max(values.values())))

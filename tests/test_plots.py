import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from stlib import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def names(count):
    return [f"series {number}" for number in range(count)]


def each(count, value):
    return dict.fromkeys(names(count), value)


def labelled(ax):
    return bool(ax.get_xlabel()) and bool(ax.get_ylabel())


def test_loss_curves_draw_the_numbers_given():
    curve = pd.DataFrame({"step": [10, 20, 30, 40], "loss": [1.1, 0.9, 0.7, 0.5]})
    ax = plots.loss_curves({"yours": curve}, log_x=True)
    line = ax.get_lines()[0]
    assert line.get_xdata().tolist() == [10, 20, 30, 40]
    assert line.get_ydata().tolist() == [1.1, 0.9, 0.7, 0.5]
    assert labelled(ax)
    assert ax.get_xscale() == "log"
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"yours", "guessing: ln 3 = 1.099"}


def test_a_smoothed_curve_looks_back_and_leaves_the_raw_one_visible():
    curve = pd.DataFrame({"step": [1, 2, 3], "loss": [4.0, 2.0, 0.0]})
    raw, mean, _ = plots.loss_curves({"yours": curve}, smooth=2).get_lines()
    assert raw.get_ydata().tolist() == [4, 2, 0]
    assert mean.get_ydata().tolist() == [4, 3, 1]
    assert raw.get_color() == mean.get_color()


def test_histograms_count_every_sentence():
    ax = plots.length_histograms({"premise": [5, 5, 7], "hypothesis": [3, 4]})
    assert labelled(ax)
    assert [patch.get_data().values.sum() for patch in ax.patches] == [3, 2]
    assert len(ax.get_legend().get_texts()) == 4


def test_label_balance_bars_are_the_shares():
    ax = plots.label_balance(
        {"yours": [30, 30, 40], "card": [34.6, 34.2, 31.2]}, ["entailment", "neutral", "contradiction"]
    )
    assert sorted(bar.get_height() for bar in ax.patches) == [30, 30, 31.2, 34.2, 34.6, 40]
    assert labelled(ax)


def test_heat_map_writes_its_numbers():
    ax = plots.heat_map(np.array([[1.0, 0.25], [0.25, 1.0]]), ["a", "b"], ["a", "b"], "cosine similarity")
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.25", "0.25", "1.00"]


def test_confusion_rows_sum_to_100():
    ax = plots.confusion(np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]]), ["e", "n", "c"])
    assert [text.get_text() for text in ax.texts] == ["80", "20", "0", "10", "90", "0", "0", "0", "0"]
    assert labelled(ax)


def test_scatter_has_a_point_a_pair():
    ax = plots.gold_against_cosine([0, 1, 5, 4.5], [0.1, 0.2, 0.9, 0.8])
    assert len(ax.collections[0].get_offsets()) == 4
    assert labelled(ax)


def test_score_bars_stand_at_the_scores():
    table = pd.DataFrame(
        [("base", "sts", 80.0, 75.0, 85.0), ("trained", "sts", 78.0, 72.0, 83.0)],
        columns=["model", "task", "spearman", "low", "high"],
    )
    ax = plots.score_bars(table, "spearman", "task", ["base", "trained"], "Spearman x 100")
    assert [bar.get_height() for bar in ax.patches] == [80.0, 78.0]
    assert labelled(ax)


def test_a_waterfall_shows_times_and_what_was_saved():
    ax = plots.waterfall(["a", "b", "c"], [4.0, 5.0, 1.0])
    blue, yellow = ax.containers
    assert [bar.get_width() for bar in blue] == [4.0, 5.0, 1.0]
    assert [bar.get_width() for bar in yellow] == [0.0, 0.0, 4.0]  # a change that costs time saves nothing
    assert [text.get_text() for text in ax.texts] == [" 4.000 s, 1.0 x", " 5.000 s, 0.8 x", " 1.000 s, 4.0 x"]
    assert ax.get_xlabel().endswith("(seconds)")


def test_a_roofline_bends_where_memory_meets_arithmetic():
    table = pd.DataFrame({"operation": ["slow", "fast"], "intensity": [0.5, 200.0], "gflops": [4.0, 90.0]})
    ax = plots.roofline(table, {"bandwidth": 10e9, "fp32": 100e9})
    roof, *points = ax.lines
    x, y = roof.get_data()
    assert y[x < 10] == pytest.approx(10 * x[x < 10])
    assert (y[x > 10] == 100).all()
    assert [line.get_label() for line in points] == ["slow", "fast"]


def test_shares_put_the_largest_on_top():
    ax = plots.shares({"small": 10.0, "large": 90.0}, "share (%)")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["large", "small"]
    assert ax.yaxis_inverted()


def test_schedules_start_at_step_1():
    ax = plots.schedules({"card": [0.0, 1e-5, 2e-5], "printed": [5e-5, 4e-5, 3e-5]})
    assert ax.get_lines()[0].get_xdata().tolist() == [1, 2, 3]
    assert labelled(ax)
    assert len(ax.get_legend().get_texts()) == 2


def test_hypotheses_show_how_far_mean_and_seeds_are_from_the_card():
    rows = pd.DataFrame(
        {500: [1.0, 1.2, 0.8], 1_000: [0.9, 0.9, np.nan]},
        index=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["hypothesis", "seed"]),
    )
    ax = plots.hypotheses(rows, pd.Series({500: 1.08, 1_000: 0.99}))
    assert labelled(ax)
    line = ax.containers[0].lines[0]
    assert line.get_ydata().tolist() == pytest.approx([0.02, -0.09])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1-500", "501-1,000"]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"the card", "a", "b"}


def test_bounds_draw_a_point_a_head():
    ax = plots.bounds(pd.DataFrame({"free": [0.55, 0.56], "shared": [0.72, 0.73]}), 0.907)
    assert [line.get_ydata().tolist() for line in ax.get_lines()[:2]] == [[0.55, 0.56], [0.72, 0.73]]
    assert labelled(ax)


def test_reliability_draws_each_classifier_and_the_diagonal():
    table = pd.DataFrame({"n": [10, 30], "confidence": [0.5, 0.9], "accuracy": [0.4, 0.8]})
    ax = plots.reliability({"one": table, "two": table})
    assert labelled(ax)
    assert ax.get_lines()[1].get_ydata().tolist() == [0.4, 0.8]
    assert len(ax.get_legend().get_texts()) == 3
    assert not ax.texts
    assert [text.get_text() for text in plots.reliability({"one": table}).texts] == ["10 pairs", "30 pairs"]


def test_changes_are_drawn_subset_by_subset():
    table = pd.DataFrame({"name": ["a", "b", "a", "b"], "model": ["x", "x", "y", "y"], "change": [1, -2, 3, 4]})
    ax = plots.subset_changes(table, ["x", "y"])
    assert labelled(ax)
    assert [line.get_xdata().tolist() for line in ax.get_lines()[:2]] == [[1, -2], [3, 4]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    # linear up to 5 points, so that small changes are seen beside large ones
    assert ax.get_xlabel().endswith("scale: linear to ±5, then logarithmic")
    ax.set_xlim(-100, 5)
    far, zero, half, five = (ax.transData.transform((at, 0))[0] for at in (-100, 0, 2.5, 5))
    assert five - half == pytest.approx(half - zero)
    assert five - zero > (zero - far) / 8
    assert [tick.get_text() for tick in ax.get_xticklabels()][-3:] == ["0", "+2.5", "+5"]


def test_planes_draw_every_model():
    points = np.arange(12.0).reshape(6, 2)
    axes = plots.planes({"x": points, "y": points}, np.array([0, 1, 2] * 2), ["E", "N", "C"])
    assert [ax.get_title() for ax in axes] == ["x", "y"]
    assert all(ax.get_xlabel() for ax in axes)
    assert axes[0].get_ylabel()
    assert axes[0].collections[1].get_offsets().tolist() == [[2, 3], [8, 9]]


def test_the_contest_is_drawn_from_the_best_to_the_worst():
    table = pd.DataFrame({"contender": ["a", "b"], "mean": [82.0, 80.0], "low": [81.5, 79.0], "high": [82.5, 81.0]})
    ax = plots.contest(table, 81.0)
    assert labelled(ax)
    assert ax.get_lines()[0].get_xdata().tolist() == [1.0, -1.0]
    assert ax.yaxis_inverted()


def test_growth_and_dimensions():
    table = pd.DataFrame({"pairs": [10, 10, 100], "value": [0.1, 0.3, 0.5], "series": ["all"] * 3})
    ax = plots.growth(table, "points")
    assert labelled(ax)
    assert ax.get_lines()[1].get_ydata().tolist() == [0.2, 0.5]
    ax = plots.by_dimensions({"base": {32: 60.0, 384: 80.0}})
    assert labelled(ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["32", "384"]


# How the three kinds of dichromats see linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
DICHROMATS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = (to_xyz @ np.clip(linear, 0, 1)) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", ["usual", *DICHROMATS])
def test_the_palette_can_be_told_apart(sight):
    """No two colours of the palette look alike: a difference (CIE 1976) of 2.3 is just noticeable, we ask for four times that."""
    matrix = np.array(DICHROMATS.get(sight, np.eye(3)))
    seen = {}
    for name in ("BLUE", "ORANGE", "GREEN", "RED", "SKY", "PURPLE", "YELLOW", "BLACK"):
        rgb = np.array(mpl.colors.to_rgb(getattr(plots, name)))
        seen[name] = lab(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4))
    pairs = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2)}
    assert min(pairs.values()) > 9, min(pairs, key=pairs.get)


CURVE = pd.DataFrame({"step": [10, 20], "loss": [1.1, 0.9]})
BINS = pd.DataFrame({"n": [10, 30], "confidence": [0.5, 0.9], "accuracy": [0.4, 0.8]})
SCORES = pd.DataFrame({"task": "sts", "low": 1.0, "high": 3.0, "score": 2.0, "model": names(20)})
HEADS = pd.MultiIndex.from_product([names(20), [1]], names=["hypothesis", "seed"])
SERIES = {  # each figure that takes any number of series, with n of them
    "loss_curves": lambda n: plots.loss_curves(each(n, CURVE)),
    "schedules": lambda n: plots.schedules(each(n, [1.0, 2.0])),
    "hypotheses": lambda n: plots.hypotheses(pd.DataFrame({500: 1.0}, HEADS[:n]), pd.Series({500: 1.1})),
    "reliability": lambda n: plots.reliability(each(n, BINS)),
    "growth": lambda n: plots.growth(pd.DataFrame({"pairs": 10, "value": 0.1, "series": names(n)}), "points"),
    "by_dimensions": lambda n: plots.by_dimensions(each(n, {32: 60.0, 384: 80.0})),
    "subset_changes": lambda n: plots.subset_changes(
        pd.DataFrame({"name": "a", "model": names(n), "change": 1.0}), names(n)
    ),
    "roofline": lambda n: plots.roofline(
        pd.DataFrame({"operation": names(n), "intensity": 1.0, "gflops": 1.0}), {"bandwidth": 1e9, "fp32": 1e9}
    ),
    "score_bars": lambda n: plots.score_bars(SCORES[:n], "score", "task", names(n), "points"),
    "label_balance": lambda n: plots.label_balance(each(n, [50, 50]), ["yes", "no"]),
    "length_histograms": lambda n: plots.length_histograms(each(n, [1, 2])),
    "planes": lambda n: plots.planes({"x": np.ones((n, 2))}, np.arange(n), names(n))[-1],
}


@pytest.mark.parametrize("figure", SERIES)
def test_every_series_is_drawn_however_many_there_are(figure):
    legend = SERIES[figure](20).get_legend()
    shown = {text.get_text().removesuffix(", mean") for text in legend.get_texts()}
    assert set(names(20)) <= shown
    assert len(legend.legend_handles) >= 20


@pytest.mark.parametrize("figure", ["loss_curves", "hypotheses", "reliability", "growth", "by_dimensions"])
def test_no_series_differs_by_its_colour_alone(figure):
    lines = [line for line in SERIES[figure](7).get_lines() if line.get_marker() not in ("", "None", "|", "_")]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) >= 7, looks


@pytest.mark.parametrize("figure", SERIES)
def test_no_legend_lies_on_the_data(figure):
    ax = SERIES[figure](3)
    ax.figure.canvas.draw()
    inside = ax.get_window_extent().shrunk(0.99, 0.99)
    assert not inside.overlaps(ax.get_legend().get_window_extent())

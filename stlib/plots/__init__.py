"""Every figure of the course. Each function draws on ``ax`` (or a new one) and returns it; nothing is computed here but what is drawn."""

from stlib.plots.curves import bounds, hypotheses, loss_curves, running_mean, schedules
from stlib.plots.data import label_balance, length_histograms
from stlib.plots.drawing import (  # noqa: F401  (colors)
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    heat_map,
    new_axes,
)  # fmt: skip
from stlib.plots.recipes import by_dimensions, contest, growth
from stlib.plots.scores import confusion, geometry, gold_against_cosine, planes, reliability, score_bars, subset_changes
from stlib.plots.speed import roofline, shares, waterfall

__all__ = [
    "bounds",
    "by_dimensions",
    "confusion",
    "contest",
    "geometry",
    "gold_against_cosine",
    "growth",
    "heat_map",
    "hypotheses",
    "label_balance",
    "length_histograms",
    "loss_curves",
    "new_axes",
    "planes",
    "reliability",
    "roofline",
    "running_mean",
    "schedules",
    "score_bars",
    "shares",
    "subset_changes",
    "waterfall",
]

"""What all figures share: the palette, new axes, and a matrix as colored squares."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
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

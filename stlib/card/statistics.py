"""The card's data set table with the card's own method, and how far such a table may be off by chance."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

CARD_ROWS = 1_000  # of the shuffled training set; version 4.1.0 of the library takes 1,000, version 6.x takes 100


def row_statistics(lengths: Mapping[str, Sequence[int]], labels: Sequence[int]) -> dict[str, float]:
    """What the card prints on its rows: shortest, mean and longest of each text column, and the share of each label.

    Args:
        lengths: the token counts of each text column, one a row.
        labels: 0, 1 or 2, one a row.

    Returns:
        ``COLUMN: min tokens``, ``COLUMN: mean tokens``, ``COLUMN: max tokens`` and ``label N: share (%)``.
    """
    found = {}
    for column, counts in lengths.items():
        found[f"{column}: min tokens"] = float(np.min(counts))
        found[f"{column}: mean tokens"] = float(np.mean(counts))
        found[f"{column}: max tokens"] = float(np.max(counts))
    shares = 100 * np.bincount(labels, minlength=3) / len(labels)
    return found | {f"label {label}: share (%)": float(share) for label, share in enumerate(shares)}


def published_statistics(card: dict) -> dict[str, float]:
    """The same names, with the figures of a card (``published_card()`` or ``read_card``)."""
    found = {}
    for column, values in card["dataset"]["statistics"].items():
        found |= {f"{column}: {name} tokens": values[name] for name in ("min", "mean", "max") if name in values}
        found |= {f"label {label}: share (%)": share for label, share in values.get("percent", {}).items()}
    return found


def sampling_ranges(
    lengths: Mapping[str, Sequence[int]],
    labels: Sequence[int],
    rows: int = CARD_ROWS,
    draws: int = 1_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Where 95 of 100 tables over ``rows`` random rows lie.

    Draws many samples of ``rows`` rows (without putting back, as shuffling does) and takes the 2.5 and 97.5 percentiles.

    Returns:
        One line a statistic, with ``low``, ``high`` and ``all``, its value over all rows.
    """
    random = np.random.default_rng(seed)
    lengths, labels = {column: np.asarray(counts) for column, counts in lengths.items()}, np.asarray(labels)
    tables = []
    for _ in range(draws):
        chosen = random.choice(len(labels), min(rows, len(labels)), replace=False)
        tables.append(row_statistics({column: counts[chosen] for column, counts in lengths.items()}, labels[chosen]))
    low, high = np.percentile(pd.DataFrame(tables), [2.5, 97.5], axis=0)
    everything = row_statistics(lengths, labels)
    return pd.DataFrame({"low": low, "high": high, "all": list(everything.values())}, index=list(everything))

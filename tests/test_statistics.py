import numpy as np
import pytest

from stlib.card.published import published_card
from stlib.card.statistics import published_statistics, row_statistics, sampling_ranges


def test_the_cards_names_and_figures():
    published = published_statistics(published_card())
    assert published["sentence_0: mean tokens"] == 16.44
    assert published["label 2: share (%)"] == 31.2
    ours = row_statistics({"sentence_0": [5, 7], "sentence_1": [3, 4]}, [0, 2])
    assert ours.keys() == published.keys()
    assert (ours["sentence_0: min tokens"], ours["sentence_1: mean tokens"], ours["label 2: share (%)"]) == (5, 3.5, 50)


def test_ranges_agree_with_the_standard_error():
    random = np.random.default_rng(1)
    lengths = {"sentence_0": random.normal(16, 6, 50_000), "sentence_1": random.normal(10, 3, 50_000)}
    ranges = sampling_ranges(lengths, random.integers(0, 3, 50_000), rows=1_000)
    width = ranges.loc["sentence_0: mean tokens", "high"] - ranges.loc["sentence_0: mean tokens", "low"]
    assert width == pytest.approx(2 * 1.96 * 6 / 1_000**0.5, rel=0.1)
    share = ranges.loc["label 1: share (%)"]
    assert share["high"] - share["low"] == pytest.approx(2 * 1.96 * 100 * (2 / 9 / 1_000) ** 0.5, rel=0.1)
    assert (ranges["low"] <= ranges["all"] + 1e-9).loc[["sentence_0: mean tokens", "label 0: share (%)"]].all()


def test_a_tenth_of_the_rows_gives_a_range_three_times_as_wide():
    random = np.random.default_rng(2)
    lengths, labels = {"sentence_0": random.normal(16, 6, 20_000)}, random.integers(0, 3, 20_000)
    narrow, wide = (
        sampling_ranges(lengths, labels, rows, draws=500).loc["sentence_0: mean tokens"] for rows in (1_000, 100)
    )
    assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(10**0.5, rel=0.15)

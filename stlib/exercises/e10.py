"""Checks of notebook 10: padding, batches by length, Amdahl's law, the mean of packed tokens."""

from itertools import pairwise

import numpy as np
import torch

from stlib.exercises import TEMPLATE


def exercise_1(padding):
    lengths = np.array([[5, 9, 7, 20, 6], [4, 4, 8, 5, 3]])
    found = padding(lengths, 2)
    assert found is not None, TEMPLATE
    widths = [(2, 9 + 4), (2, 20 + 8), (1, 6 + 3)]
    positions, one_pass = sum(n * width for n, width in widths), 2 * (2 * 9 + 2 * 20 + 6)
    real = lengths.sum()
    assert not np.isclose(found, 100 * (1 - real / positions)), "give a share between 0 and 1, not percent"
    assert not np.isclose(found, real / positions), "this is the share of real tokens; the rest is padding"
    assert not np.isclose(found, positions / real - 1), "divide by all positions, not by the real tokens"
    assert not np.isclose(found, 1 - real / one_pass), "each column is as wide as its own longest sentence"
    assert np.isclose(found, 1 - real / positions), (
        "sum up tokens and positions over all batches, a shorter last one too"
    )
    assert np.isclose(padding(np.array([[3, 3], [8, 8]]), 2), 0), "equal lengths need no padding: the share is 0"


def exercise_2(length_batches):
    lengths = np.random.default_rng(5).integers(4, 40, (2, 203))
    batches = length_batches(lengths, 8, 0)
    assert batches is not None, TEMPLATE
    batches = [np.asarray(batch) for batch in batches]
    assert all(batch.ndim == 1 for batch in batches), "return a list with the row numbers of each batch"
    assert sorted(np.concatenate(batches)) == list(range(203)), "each row must be in one batch, the last few rows too"
    assert sorted(map(len, batches)) == [3, *[8] * 25], "each batch has `size` rows, and at most one has fewer"
    spans = sorted((lengths[0, batch].min(), lengths[0, batch].max()) for batch in batches)
    assert all(low[1] <= high[0] for low, high in pairwise(spans)), (
        "the batches overlap in length: sort by the premise, then cut"
    )
    means = [[lengths[0, batch].mean() for batch in length_batches(lengths, 8, seed)] for seed in (0, 0, 1)]
    assert means[0] == means[1], "the same seed must give the same order of batches"
    assert means[0] != sorted(means[0]), "the batches come by length: shuffle them, not the rows within them"
    assert means[0] != means[2], "another seed must give another order: shuffle by the seed that you are given"


def exercise_3(times_faster):
    found = times_faster(0.6, 0.2, 0.05, 2)
    assert found is not None, TEMPLATE
    assert not np.isclose(found, 0.2 / 0.175), "compare with the step before all changes, the first argument"
    assert not np.isclose(found, 0.175 / 0.6), "this is below 1: divide the old time by the new one"
    assert not np.isclose(found, 0.6 / 0.1), "only the part becomes faster; the rest of the step takes as long as now"
    assert np.isclose(found, 0.6 / 0.175), "new time: the rest of the step as it is, and the part divided by the factor"
    assert np.isclose(times_faster(0.6, 0.2, 0.05, 1), 3), (
        "with a factor of 1 nothing changes: the step is as fast as now"
    )
    assert np.isclose(times_faster(0.6, 0.2, 0.05, float("inf")), 4), "with an infinite factor the part takes no time"


def exercise_4(packed_mean):
    lengths = [3, 1, 5, 2]
    torch.manual_seed(0)
    rows = torch.randn(32, 6, requires_grad=True)
    expected = torch.stack([part.mean(0) for part in rows[:11].split(lengths)])
    found = packed_mean(rows, lengths)
    assert found is not None, TEMPLATE
    assert isinstance(found, torch.Tensor), "stay with torch's operations, without numpy"
    assert found.shape == (4, 6), f"the result has shape {tuple(found.shape)}: one row a sentence, and as many columns"
    sums = torch.stack([part.sum(0) for part in rows[:11].split(lengths)])
    assert not torch.allclose(found, sums, atol=1e-5), "these are the sums: divide each by its sentence's tokens"
    assert torch.allclose(found, expected, atol=1e-5), (
        "the means are wrong: does a spare row count, or a neighbour's token?"
    )
    assert found.requires_grad, "no gradient flows: stay with torch's operations, without numpy and detach"
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    (wanted,) = torch.autograd.grad(expected.sum(), rows)
    assert torch.allclose(gradient, wanted, atol=1e-5), "the gradient is wrong: a token gets 1 / its sentence's tokens"

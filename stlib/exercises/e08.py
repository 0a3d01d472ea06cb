"""Checks of the exercises of notebook 08: the ranking loss and its scale, hard negatives, soups, and the luck of the best."""

import math

import numpy as np
import torch
from scipy.stats import norm

from stlib.exercises import NOTHING


def exercise_1(answer):
    """The ranking loss of a matrix of cosines at a scale."""
    for rows, columns, scale in ((4, 8, 20.0), (3, 3, 1.0), (6, 12, 5.0)):
        cosines = made_cosines(rows, columns, seed=rows)
        found = answer(cosines, scale)
        assert found is not None, NOTHING
        expected = ranking_loss(cosines, scale)
        assert scale == 1 or not close(found, ranking_loss(cosines, 1)), "the scale makes no difference yet"
        assert not close(found, rows * expected), "the loss of a batch is the mean over its anchors, not the sum"
        assert close(found, expected), "row i is a classification among all columns, and its right answer is column i"


def exercise_2(answer):
    """The share of the ranking loss that goes when the hard negatives do."""
    for rows, scale in ((5, 20.0), (8, 5.0)):
        cosines = made_cosines(rows, 2 * rows, seed=rows)
        found = answer(cosines, scale)
        assert found is not None, NOTHING
        full, alone = ranking_loss(cosines, scale), ranking_loss(cosines[:, :rows], scale)
        assert not close(found, full - alone), "that is the difference: divide it by the loss with all candidates"
        assert not close(found, alone / full), "that is the share that stays: which share goes?"
        assert not close(found, 100 * (1 - alone / full)), "give the share as a number from 0 to 1"
        assert not close(found, (full - alone) / alone), "take the share of the loss with all candidates"
        assert close(found, 1 - alone / full), (
            "the positives are the first half of the columns, the negatives the second"
        )


def exercise_3(answer):
    """Two models' weights, mixed."""
    random = torch.Generator().manual_seed(0)
    first, second = ({"w": torch.randn(2, 3, generator=random), "places": torch.arange(4) + k} for k in (0, 3))
    kept = [{name: value.clone() for name, value in state.items()} for state in (first, second)]
    for share in (0.25, 0.5, 0.0):
        found = answer(first, second, share)
        assert found is not None, NOTHING
        same = all(torch.equal(a[n], b[n]) for a, b in zip(kept, (first, second), strict=True) for n in a)
        assert same, "the weights that the function was given have changed: put the mean into new tensors"
        assert set(found) == {"w", "places"}, "the mix has an entry for every name"
        turned = share * first["w"] + (1 - share) * second["w"]
        assert share == 0.5 or not torch.allclose(found["w"], turned), "the share is that of the second model"
        mixed = (1 - share) * first["w"] + share * second["w"]
        assert torch.allclose(found["w"], mixed, atol=1e-5), f"with a share of {share}, the weights are not mixed right"
        assert torch.equal(found["places"], first["places"]), (
            "whole numbers are no weights: keep those of the first model"
        )


def exercise_4(answer):
    """How far the best of several recipes that are all alike lies above zero by luck."""
    for recipes, spread in ((1, 1.0), (2, 3.0), (10, 1.0), (40, 0.5)):
        found = answer(recipes, spread)
        assert found is not None, NOTHING
        raw, found, expected = float(found), float(found) / spread, expected_maximum(recipes)
        assert spread == 1 or abs(raw - expected) > 0.04, "the luck grows with the spread"
        assert recipes == 1 or found > 0.1, "the best of several is above their mean: take the highest of each contest"
        assert abs(found - expected) < 0.04, (
            f"for {recipes} recipes, not the mean of the highest score over many contests"
        )


def close(found, expected: float) -> bool:
    return math.isclose(float(found), float(expected), rel_tol=1e-3)


def made_cosines(rows: int, columns: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, generator=random) * 0.6 + 0.2 * torch.eye(rows, columns)


def ranking_loss(cosines: torch.Tensor, scale: float) -> float:
    logits = scale * cosines.double().numpy()
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diagonal(logits)))


def expected_maximum(count: int) -> float:
    """The mean of the highest of ``count`` draws from the standard normal distribution."""
    x = np.linspace(-8, 8, 4_001)
    return float((x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1)).sum() * (x[1] - x[0]))

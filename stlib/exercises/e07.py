"""Checks of the exercises of notebook 07: learning rates in sum, the precision of a row, and floors of a loss."""

import math

import numpy as np
import torch
from torch import nn

from stlib.exercises import NOTHING
from stlib.forensics import lowest_loss
from stlib.recipes import CARD, CARD_AS_PRINTED, FIT_DEFAULTS, linear_schedule


def exercise_1(answer):
    """The learning rate in sum over the first steps of a recipe."""
    assert answer(CARD, 500) is not None, NOTHING
    for recipe, steps in ((CARD, 500), (CARD_AS_PRINTED, 500), (CARD, 3_000), (FIT_DEFAULTS, 1_000)):
        factor = linear_schedule(recipe.warmup_steps, recipe.schedule_steps)
        sums = np.cumsum([recipe.learning_rate * factor(step) for step in range(steps + 1)])
        found = float(answer(recipe, steps))
        assert not close(found, sums[-1]), "that is one step too many: the schedule counts from 0"
        assert not close(found, sums[-1] - sums[0]), "the first step has the factor at 0: the schedule counts from 0"
        assert not close(found, sums[-2] / recipe.learning_rate), "the schedule gives a factor: times which rate?"
        assert close(found, sums[-2]), (
            f"not the sum of the {steps:,} rates of a warm-up over {recipe.warmup_steps:,} steps"
        )


def exercise_2(answer):
    """The spread of a 500-step mean from 50-step means around a straight line."""
    random = np.random.default_rng(0)
    for count, slope in ((12, -1e-3), (6, 4e-3), (40, 0.0)):
        losses = 1 + slope * np.arange(count) + random.normal(0, 0.004, count)
        places = np.stack([np.ones(count), np.arange(count)], axis=1)
        left = losses - places @ np.linalg.lstsq(places, losses, rcond=None)[0]
        expected = math.sqrt((left**2).sum() / (count - 2) / 10)
        found = answer(losses)
        assert found is not None, NOTHING
        ratio = float(found) / expected
        assert not close(ratio, 10**0.5, 1e-4), (
            "that is the spread of a 50-step mean: a row of the card averages ten of them"
        )
        assert not close(ratio, 10**-0.5, 1e-4), "a mean of ten scatters less by the square root of ten, not by ten"
        assert ratio < 1.0001, "take the trend off first: the fall of the curve is not scatter"
        assert close(ratio, 1, 1e-4), "divide the squared residuals by n - 2: the line has taken two degrees of freedom"


def exercise_3(answer):
    """The lowest loss of a larger head, with one premise for three labels."""
    head = made_head(16, biases=(0.5, -0.5, 0.0))
    before = [parameter.clone() for parameter in head.parameters()]
    found = answer(head, 3)
    assert found is not None, NOTHING
    same = all(torch.equal(*pair) for pair in zip(before, head.parameters(), strict=True))
    assert same, "the head that the function was given has changed: work on a copy of it"
    larger = made_head(16, biases=(1.5, -1.5, 0.0), gain=3)
    expected, unshared = lowest_loss(larger, True), lowest_loss(larger, False)
    assert abs(float(found) - unshared) > 0.03, "one premise must serve all three labels"
    assert abs(float(found) - expected) < 0.03, (
        "multiply the weights and the biases by the gain, then let descent find the loss"
    )


def exercise_4(answer):
    """The floor of the loss for embeddings of any length."""
    for seed, length in ((0, 1.0), (1, 0.5), (2, 3.0)):
        head = made_head(32, biases=(0.2, -0.3, 0.1), seed=seed)
        found = answer(head, length)
        assert found is not None, NOTHING
        at_one, at_length, squared = (floor(head, x) for x in (1, length, length**2))
        assert length == 1 or not close(found, at_one, 1e-4), "the length makes no difference yet: how long is x?"
        assert not close(found, floor(head, length, biases=False), 1e-4), "the biases differ too"
        assert length == 1 or not close(found, squared, 1e-4), (
            "x grows with the length, its square with the length's square"
        )
        assert close(found, at_length, 1e-4), (
            "the mean over the labels of ln(1 + the sum over the other two); a bias may lower a margin"
        )


def close(found, expected: float, tolerance: float = 1e-5) -> bool:
    return math.isclose(float(found), expected, rel_tol=tolerance)


def made_head(dimensions: int, biases, gain: float = 1.0, seed: int = 0) -> nn.Linear:
    head = nn.Linear(3 * dimensions, 3).requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    head.weight.copy_(gain * (2 * torch.rand(head.weight.shape, generator=random) - 1) / head.in_features**0.5)
    head.bias.copy_(torch.tensor(biases))
    return head


def floor(head: nn.Linear, length: float, biases: bool = True) -> float:
    weight, bias = head.weight.double().numpy(), biases * head.bias.double().numpy()
    per_label = []
    for right in range(3):
        margins = [
            6**0.5 * length * np.linalg.norm(weight[right] - weight[other]) + bias[right] - bias[other]
            for other in range(3)
            if other != right
        ]
        per_label.append(np.log1p(np.exp(-np.array(margins)).sum()))
    return float(np.mean(per_label))

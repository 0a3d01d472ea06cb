"""The checks of notebook 07 pass right answers and give a hint for wrong ones."""

import copy

import numpy as np
import pytest
import torch

from stlib import forensics
from stlib.exercises import e07, find, shortcoming
from stlib.recipes import linear_schedule


def lowest_loss(head, shared_premise):
    """A shorter descent than the default one, for the check and for the answers: notebook 07 runs the check in full."""
    return forensics.lowest_loss(head, shared_premise, restarts=2, steps=100)


@pytest.fixture(autouse=True)
def short_descent(monkeypatch):
    monkeypatch.setattr(e07, "lowest_loss", lowest_loss)


def summed(recipe, steps, first=0, rate=True):
    factor = linear_schedule(recipe.warmup_steps, recipe.schedule_steps)
    return sum(factor(step) for step in range(first, first + steps)) * (recipe.learning_rate if rate else 1)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda recipe, steps: None, "three dots"),
        (lambda recipe, steps: summed(recipe, steps, first=1), "from 0"),
        (lambda recipe, steps: summed(recipe, steps, rate=False), "factor"),
        (lambda recipe, steps: recipe.learning_rate * steps, "sum"),
        (lambda recipe, steps: recipe.learning_rate * steps**2 / 2_000, "sum"),
    ],
)
def test_summed_rate_wrong(wrong, word):
    assert word in shortcoming(find("07.1"), wrong)


def test_summed_rate_right():
    assert shortcoming(find("07.1"), summed) is None
    assert shortcoming(find("07.1"), lambda recipe, steps: np.float64(summed(recipe, steps))) is None


def scatter(losses, lost=2, ten=10**0.5, degree=1):
    places = np.arange(len(losses))
    left = losses - np.polyval(np.polyfit(places, losses, degree), places)
    return np.sqrt((left**2).sum() / (len(losses) - lost)) / ten


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda losses: None, "three dots"),
        (lambda losses: scatter(losses, ten=1), "averages ten"),
        (lambda losses: scatter(losses, ten=10), "square root"),
        (lambda losses: scatter(losses, degree=0, lost=1), "trend"),
        (lambda losses: scatter(losses, lost=0), "n - 2"),
        (lambda losses: scatter(losses, lost=1), "n - 2"),
    ],
)
def test_spread_of_a_row_wrong(wrong, word):
    assert word in shortcoming(find("07.2"), wrong)


def test_spread_of_a_row_right():
    assert shortcoming(find("07.2"), scatter) is None
    assert shortcoming(find("07.2"), lambda losses: torch.tensor(scatter(losses))) is None


def larger(head, gain, biases=True, shared=True, in_place=False):
    new = head if in_place else copy.deepcopy(head)
    with torch.no_grad():
        new.weight.mul_(gain)
        new.bias.mul_(gain if biases else 1)
    return lowest_loss(new, shared_premise=shared)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda head, gain: None, "three dots"),
        (lambda head, gain: larger(head, gain, in_place=True), "copy"),
        (lambda head, gain: larger(head, gain, shared=False), "three labels"),
        (lambda head, gain: larger(head, gain, biases=False), "biases"),
        (lambda head, gain: lowest_loss(head, True), "gain"),
    ],
)
def test_larger_head_wrong(wrong, word):
    assert word in shortcoming(find("07.3"), wrong)


def test_larger_head_right():
    assert shortcoming(find("07.3"), larger) is None


def floor(head, length, factor=6**0.5, biases=True):
    bias = head.bias * biases
    margins = factor * length * torch.cdist(head.weight, head.weight) + bias[:, None] - bias[None, :]
    return torch.log(torch.exp(-margins).sum(dim=1)).mean()  # the label itself is the 1 of ln(1 + ...)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda head, length: None, "three dots"),
        (lambda head, length: floor(head, 1), "no difference"),
        (lambda head, length: floor(head, length**2), "square"),
        (lambda head, length: floor(head, length, biases=False), "biases"),
        (lambda head, length: floor(head, length, factor=3**0.5), "mean over the labels"),
    ],
)
def test_floor_wrong(wrong, word):
    assert word in shortcoming(find("07.4"), wrong)


def test_floor_right():
    assert shortcoming(find("07.4"), floor) is None
    assert shortcoming(find("07.4"), lambda head, length: floor(head, length).item()) is None

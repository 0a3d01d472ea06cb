"""The checks of notebook 08 pass right answers and give a hint for wrong ones."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stlib.exercises import find, shortcoming


def loss(cosines, scale, reduction="mean"):
    return F.cross_entropy(scale * cosines, torch.arange(len(cosines)), reduction=reduction)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda cosines, scale: None, "three dots"),
        (lambda cosines, scale: loss(cosines, 1), "scale"),
        (lambda cosines, scale: loss(cosines, scale, "sum"), "mean"),
        (lambda cosines, scale: loss(cosines, 1 / scale), "column i"),
        (lambda cosines, scale: loss(cosines[:, : len(cosines)], scale), "column i"),
    ],
)
def test_ranking_loss_wrong(wrong, word):
    assert word in shortcoming(find("08.1"), wrong)


def test_ranking_loss_right():
    assert shortcoming(find("08.1"), loss) is None
    assert shortcoming(find("08.1"), lambda cosines, scale: loss(cosines, scale).item()) is None


def share(cosines, scale):
    alone, full = loss(cosines[:, : len(cosines)], scale), loss(cosines, scale)
    return (full - alone) / full


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda cosines, scale: None, "three dots"),
        (lambda cosines, scale: share(cosines, scale) * loss(cosines, scale), "divide"),
        (lambda cosines, scale: 1 - share(cosines, scale), "stays"),
        (lambda cosines, scale: 100 * share(cosines, scale), "0 to 1"),
        (lambda cosines, scale: share(cosines, scale) / (1 - share(cosines, scale)), "all candidates"),
        (lambda cosines, scale: share(cosines, 1), "half"),
    ],
)
def test_share_of_negatives_wrong(wrong, word):
    assert word in shortcoming(find("08.2"), wrong)


def test_share_of_negatives_right():
    assert shortcoming(find("08.2"), share) is None


def mix(first, second, share):
    return {
        name: torch.lerp(value, second[name], share) if value.is_floating_point() else value
        for name, value in first.items()
    }


def mix_in_place(first, second, share):
    first["w"].mul_(1 - share).add_(share * second["w"])
    return first


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda first, second, share: None, "three dots"),
        (mix_in_place, "new tensors"),
        (lambda first, second, share: mix(second, first, share), "second model"),
        (lambda first, second, share: mix(first, second, 0.5), "not mixed right"),
        (lambda first, second, share: {"w": mix(first, second, share)["w"]}, "every name"),
        (
            lambda first, second, share: {name: (1 - share) * first[name] + share * second[name] for name in first},
            "whole numbers",
        ),
    ],
)
def test_mix_wrong(wrong, word):
    assert word in shortcoming(find("08.3"), wrong)


def test_mix_right():
    assert shortcoming(find("08.3"), mix) is None


def luck(recipes, spread, draws=20_000):
    return np.random.default_rng(1).normal(0, spread, (draws, recipes)).max(axis=1).mean()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda recipes, spread: None, "three dots"),
        (lambda recipes, spread: luck(recipes, 1), "spread"),
        (lambda recipes, spread: 0, "above their mean"),
        (lambda recipes, spread: spread / np.sqrt(recipes), "highest"),
        (lambda recipes, spread: spread * np.sqrt(2 * np.log(recipes)), "highest"),
    ],
)
def test_luck_wrong(wrong, word):
    assert word in shortcoming(find("08.4"), wrong)


def test_luck_right():
    assert shortcoming(find("08.4"), luck) is None

"""The checks of notebook 03's exercises: right answers pass, plausible wrong ones get a hint."""

import pytest
import torch
from torch.nn import functional

from stlib.exercises import find, shortcoming


def small_loss(u, v, labels, weight, bias):
    logits = (u - v).abs() @ weight.T + bias
    return -logits.log_softmax(dim=1)[range(len(labels)), labels].mean()


def test_a_loss_on_the_distance():
    assert shortcoming(find("03.1"), small_loss) is None
    assert shortcoming(find("03.1"), lambda *given: small_loss(*given).item()) is None


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda u, v, y, w, b: functional.cross_entropy((u - v) @ w.T + b, y), "below zero"),
        (lambda u, v, y, w, b: functional.cross_entropy((u - v).abs() @ w.T, y), "bias"),
        (lambda u, v, y, w, b: functional.cross_entropy((u - v).abs() @ w.T + b, y, reduction="sum"), "mean"),
        (lambda u, v, y, w, b: functional.cross_entropy((u - v).abs() @ w.T + b, y, reduction="none"), "one number"),
        (
            lambda u, v, y, w, b: functional.cross_entropy(((u - v).abs() @ w.T + b).softmax(dim=1), y),
            "log-probability",
        ),
        (lambda u, v, y, w, b: None, "nothing"),
    ],
)
def test_hints_on_the_loss(wrong, word):
    assert word in shortcoming(find("03.1"), wrong)


def gap_bound(weight, bias, features):
    apart = torch.cdist(weight[None], weight[None])[0]
    bounds = features.norm(dim=1)[:, None, None] * apart + (bias[:, None] - bias[None]).abs()
    return bounds.flatten(1).max(dim=1).values


def gaps(weight, bias, features):
    logits = features @ weight.T + bias
    return logits.max(dim=1).values - logits.min(dim=1).values


def loose(weight, bias, features):
    return features.norm(dim=1) * torch.cdist(weight, weight).max() + bias.max() - bias.min()


def test_a_bound():
    assert shortcoming(find("03.2"), gap_bound) is None
    assert shortcoming(find("03.2"), lambda *given: gap_bound(*given).tolist()) is None


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (gaps, "themselves"),
        (loose, "tighter"),
        (lambda weight, bias, features: gap_bound(weight, 0 * bias, features), "larger than your bound"),
        (lambda weight, bias, features: gap_bound(weight[:2], bias[:2], features), "larger than your bound"),
        (lambda weight, bias, features: gap_bound(weight, bias, features).max(), "each row"),
    ],
)
def test_hints_on_the_bound(wrong, word):
    assert word in shortcoming(find("03.2"), wrong)


def trained(steps, rate):
    def train_head(features, labels):
        head = torch.nn.Linear(features.shape[1], 3)
        optimizer = torch.optim.Adam(head.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            functional.cross_entropy(head(features), labels).backward()
            optimizer.step()
        return head

    return train_head


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.1])
def test_a_trained_head(rate):
    assert shortcoming(find("03.3"), trained(300, rate)) is None


def test_hints_on_the_trained_head():
    assert "still high" in shortcoming(find("03.3"), trained(0, 0.02))
    assert "still high" in shortcoming(find("03.3"), trained(1, 0.02))
    assert "return the trained layer" in shortcoming(find("03.3"), lambda features, labels: 0.7)
    assert "three logits" in shortcoming(find("03.3"), lambda features, labels: torch.nn.Linear(features.shape[1], 1))
    assert shortcoming(find("03.3"), lambda features, labels: torch.nn.Linear(1152, 3)) is not None

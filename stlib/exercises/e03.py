"""Checks of the exercises of notebook 03."""

import torch
from torch import nn
from torch.nn import functional

from stlib.exercises import NOTHING


def exercise_1(answer):
    """``answer(u, v, labels, weight, bias)`` is the mean cross-entropy of a head that sees |u - v| only."""
    drawn = torch.Generator().manual_seed(3)
    u, v, weight, bias = (torch.randn(shape, generator=drawn) for shape in ((7, 5), (7, 5), (3, 5), (3,)))
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    found = answer(u, v, labels, weight, bias)
    assert found is not None, NOTHING
    assert torch.as_tensor(found).numel() == 1, "return one number for the whole batch, not one a pair"

    def is_loss(features, bias=bias, reduction="mean"):
        expected = functional.cross_entropy(features @ weight.T + bias, labels, reduction=reduction)
        return abs(float(found) - float(expected)) < 1e-4

    assert not is_loss(u - v), "the head sees distances, and a distance is never below zero"
    assert not is_loss((u - v).abs(), bias=0), "each logit has a bias too"
    assert not is_loss((u - v).abs(), reduction="sum"), "take the mean over the pairs, not their sum"
    assert is_loss((u - v).abs()), "the number is not the mean of minus the log-probability of each pair's label"


def exercise_2(answer):
    """``answer(weight, bias, features)`` is the largest Cauchy-Schwarz bound on each row's gap between two logits."""
    weight = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])
    bias = torch.tensor([0.0, -1.0, 1.5])
    features = torch.tensor([[0.1, 0.2, 0.0], [1.0, -1.0, 0.5], [2.0, -1.5, 0.0], [0.0, 0.0, 0.0]])
    found = answer(weight, bias, features)
    assert found is not None, NOTHING
    found = torch.as_tensor(found, dtype=torch.float32).detach().flatten()
    assert len(found) == len(features), "return one bound for each row of features"
    logits = features @ weight.T + bias
    gaps = logits.max(dim=1).values - logits.min(dim=1).values
    assert not torch.allclose(found, gaps, atol=1e-4), "these are the gaps themselves, not bounds on them"
    assert (found >= gaps - 1e-4).all(), (
        "one gap is larger than your bound: look at all three pairs of labels, biases too"
    )
    apart = torch.stack([(weight[i] - weight[j]).norm() for i, j in ((0, 1), (0, 2), (1, 2))])
    shift = torch.stack([(bias[i] - bias[j]).abs() for i, j in ((0, 1), (0, 2), (1, 2))])
    expected = (apart[:, None] * features.norm(dim=1) + shift[:, None]).max(dim=0).values
    assert torch.allclose(found, expected, atol=1e-4), "it bounds the gaps, but the bound of the text is tighter"


def exercise_3(answer):
    """``answer(features, labels)`` is a linear layer that has learned to predict the labels."""
    drawn = torch.Generator().manual_seed(3)
    features = functional.normalize(torch.randn((600, 12), generator=drawn))
    labels = (features @ torch.randn((12, 3), generator=drawn)).argmax(dim=1)
    head = answer(features[:400].clone(), labels[:400].clone())
    assert head is not None, NOTHING
    assert isinstance(head, nn.Module), "return the trained layer, not its loss or its accuracy"
    with torch.no_grad():
        logits = head(features)
    assert logits.shape == (600, 3), "the layer gives three logits for each row of features"
    loss = functional.cross_entropy(logits[:400], labels[:400])
    assert loss < 0.6, "the loss on the training rows is still high: does every step move the layer, 300 times?"
    right = (logits[400:].argmax(dim=1) == labels[400:]).float().mean()
    assert right > 0.85, "the layer does well on training rows and badly on new ones: compare its size with the text"

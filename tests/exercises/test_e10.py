"""The checks of notebook 10: what they let pass, and what they say otherwise."""

import random

import numpy as np
import pytest
import torch

from stlib.exercises import find, shortcoming


def counts(lengths, size):
    batches = [lengths[:, start : start + size] for start in range(0, lengths.shape[1], size)]
    return lengths.sum(), [batch.shape[1] * batch.max(1).sum() for batch in batches], batches


def padding(lengths, size):
    real, positions, _ = counts(lengths, size)
    return 1 - real / sum(positions)


def mean_of_shares(lengths, size):
    _, positions, batches = counts(lengths, size)
    return np.mean([1 - batch.sum() / own for batch, own in zip(batches, positions, strict=True)])


def one_pass(lengths, size):
    real, _, batches = counts(lengths, size)
    return 1 - real / sum(2 * batch.shape[1] * batch.max() for batch in batches)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda lengths, size: 100 * padding(lengths, size), "percent"),
        (lambda lengths, size: 1 - padding(lengths, size), "real"),
        (lambda lengths, size: 1 / (1 - padding(lengths, size)) - 1, "divide by all"),
        (one_pass, "own longest"),
        (mean_of_shares, "sum up"),
        (lambda lengths, size: padding(lengths[:, : lengths.shape[1] // size * size], size), "last one"),
    ],
)
def test_padding(wrong, word):
    assert shortcoming(find("10.1"), padding) is None
    assert word in shortcoming(find("10.1"), wrong)


def length_batches(lengths, size, seed, column=0, shuffle=True):
    order = sorted(range(lengths.shape[1]), key=lambda row: lengths[column, row])
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if shuffle:
        random.Random(seed).shuffle(batches)
    return batches


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda lengths, size, seed: length_batches(lengths, size, seed)[0], "list"),
        (lambda lengths, size, seed: length_batches(lengths[:, :200], size, seed), "last few"),
        (lambda lengths, size, seed: length_batches(lengths, 32, seed), "size"),
        (lambda lengths, size, seed: length_batches(lengths, size, seed, column=1), "premise"),
        (lambda lengths, size, seed: length_batches(lengths, size, seed, shuffle=False), "shuffle"),
        (lambda lengths, size, seed: length_batches(lengths, size, 7), "another order"),
        (lambda lengths, size, seed: length_batches(lengths, size, None), "same seed"),
    ],
)
def test_batches_by_length(wrong, word):
    assert shortcoming(find("10.2"), length_batches) is None
    assert word in shortcoming(find("10.2"), wrong)


def times_faster(before, now, part, factor):
    return before / (now - part * (1 - 1 / factor))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda before, now, part, factor: now / (now - part + part / factor), "first argument"),
        (lambda before, now, part, factor: 1 / times_faster(before, now, part, factor), "below 1"),
        (lambda before, now, part, factor: before / (now / factor), "only the part"),
        (lambda before, now, part, factor: before / (now - part), "factor"),
        (lambda before, now, part, factor: before / (now - part / factor), "factor of 1"),
    ],
)
def test_amdahl(wrong, word):
    assert shortcoming(find("10.3"), times_faster) is None
    assert word in shortcoming(find("10.3"), wrong)


def packed_mean(rows, lengths):
    return torch.stack([part.mean(0) for part in rows[: sum(lengths)].split(lengths)])


def by_index(rows, lengths):
    sizes = torch.tensor(lengths)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
    sums = torch.zeros(len(lengths), rows.shape[1]).index_add(0, owner, rows[: len(owner)])
    return sums / sizes[:, None]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda rows, lengths: packed_mean(rows, [*lengths, len(rows) - sum(lengths)]), "shape"),
        (lambda rows, lengths: packed_mean(rows, lengths) * torch.tensor(lengths)[:, None], "sums"),
        (lambda rows, lengths: packed_mean(rows, [*lengths[:-1], len(rows) - sum(lengths[:-1])]), "spare"),
        (lambda rows, lengths: packed_mean(rows.detach(), lengths), "gradient"),
        (lambda rows, lengths: packed_mean(rows, lengths).detach() + 0 * rows.sum(), "gradient is wrong"),
    ],
)
def test_packed_mean(wrong, word):
    assert shortcoming(find("10.4"), packed_mean) is None
    assert shortcoming(find("10.4"), by_index) is None
    assert word in shortcoming(find("10.4"), wrong)


@pytest.mark.parametrize("number", range(1, 5))
def test_templates_ask_for_code(number):
    assert "three dots" in shortcoming(find(f"10.{number}"), lambda *_: None)

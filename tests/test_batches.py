"""Batches of the recipe ``trained_head``: premises stay together, and equal sentences are encoded once."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from stlib import data, sources
from stlib.configure import configure
from stlib.errors import UsageError
from stlib.fast.tokens import TokenisedPairs, tokenise
from stlib.fast.trainer import PackedTrainer
from stlib.recipes import TRAINED_HEAD, get_recipe
from stlib.train import make_trainer, prepare_loss, train
from stlib.trainer import PremisesTogether, premises_together, training_arguments
from tests.conftest import weights
from tests.test_interruption import interrupted

PREMISES = ["a", "b", "a", "c", "b", "a", "d"]


def test_every_row_comes_once_and_premises_stay_together():
    order = list(PremisesTogether(pa.array(PREMISES), seed=0))
    assert sorted(order) == list(range(7))
    shown = [PREMISES[row] for row in order]
    starts = [place for place in range(7) if place == 0 or shown[place] != shown[place - 1]]
    assert len(starts) == len(set(PREMISES))
    assert [row for row in order if PREMISES[row] == "a"] == [0, 2, 5]  # a premise's own rows keep their order


def test_the_order_follows_the_seed_and_the_epoch():
    sampler = PremisesTogether(pa.array([str(number) for number in range(50)]), seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(PremisesTogether(pa.array([str(number) for number in range(50)]), seed=4)) == list(sampler)
    assert len(sampler) == 50


def test_batches_hold_whole_premises_of_the_mini_corpus():
    pairs = data.nli("train[:96]", sources.Source("mini"))
    batches = list(premises_together(pairs, seed=0, batch_size=33, drop_last=False))
    assert [len(batch) for batch in batches] == [33, 33, 30]
    for batch in batches:
        _, counts = np.unique([pairs[row]["sentence_0"] for row in batch], return_counts=True)
        assert set(counts) == {3}


def test_equal_sentences_of_a_batch_come_once(tiny, tmp_path):
    pairs = data.nli("train[:6]", sources.Source("mini"))
    path = tokenise(pairs, tiny.tokenizer, 128, tmp_path / "pairs.arrow")
    every, once = (
        TokenisedPairs(path).__getitems__([0, 1, 2, 5]),
        TokenisedPairs(path, distinct=True).__getitems__([0, 1, 2, 5]),
    )
    assert (len(every["lengths"]), len(once["lengths"])) == (8, 6)  # two premises, four hypotheses
    whole, distinct = (batch["ids"].split(batch["lengths"]) for batch in (every, once))
    for copy, sentence in zip(once["copies"].tolist(), whole, strict=True):
        assert torch.equal(distinct[copy], sentence)
    assert once["rows"] == every["rows"]
    assert torch.equal(once["label"], every["label"])


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, False), (0.1, True)])
def test_with_dropout_each_copy_has_masks_of_its_own(tmp_path, monkeypatch, six_steps, dropout, expected):
    batches, compute = [], PackedTrainer.compute_loss
    monkeypatch.setattr(
        PackedTrainer,
        "compute_loss",
        lambda self, *a, **k: batches.append((a[1], self.encoder.embeddings.dropout.p > 0)) or compute(self, *a, **k),
    )
    recipe = dataclasses.replace(TRAINED_HEAD, dropout=dropout)
    train(**{**six_steps, "recipe": recipe, "out": tmp_path / "run", "max_steps": 1})
    ((batch, dropping),) = batches
    assert dropping is expected
    assert ("copies" in batch) is not expected


def test_the_gradient_of_copies_is_the_same_to_the_bit_each_time(tmp_path, six_steps):
    """Also in a large batch, whose gradients torch may add up in several threads."""
    config, rows = configure(**six_steps)
    trainer = make_trainer(config, prepare_loss(config), rows, tmp_path)
    size = trainer.model.get_embedding_dimension()
    torch.manual_seed(0)
    distinct, found = torch.randn(10, size, requires_grad=True), []
    trainer.encoder = lambda ids, lengths: distinct
    label = torch.randint(3, (8_000,))
    batch = {"ids": None, "lengths": None, "copies": torch.randint(10, (16_000,)), "label": label}
    for _ in range(20):
        distinct.grad = None
        trainer.compute_loss(trainer.model, batch).backward()
        found.append(distinct.grad)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


def test_two_cards_in_one_process_take_no_larger_batches(tmp_path, monkeypatch, six_steps):
    """The library would give each card a batch, with half the steps that were planned."""
    config = dataclasses.replace(configure(**six_steps)[0], device="cuda", precision="fp32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training_arguments(config, tmp_path).train_batch_size == config.recipe.batch_size


def test_both_engines_train_the_same_run_on_premises_together(tmp_path, monkeypatch, six_steps):
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    ours, theirs = (train(**six_steps, out=tmp_path / engine, engine=engine) for engine in ("packed", "stock"))
    np.testing.assert_allclose(ours.log()["loss"], theirs.log()["loss"], atol=2e-4)
    for name, tensor in weights(theirs.folder).items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone
            torch.testing.assert_close(weights(ours.folder)[name], tensor, rtol=0, atol=2e-3, msg=name)


REPEATED = Dataset.from_dict(
    {
        name: [f"{name} {i % 7 if name == 'anchor' else i}" for i in range(48)]
        for name in ("anchor", "positive", "negative")
    }
)


@pytest.mark.parametrize("name", ["ranking", "ranking_unique"])
def test_no_text_comes_twice_in_a_batch_where_the_recipe_says_so(tmp_path, tiny_model, six_steps, name):
    recipe = dataclasses.replace(get_recipe(name), batch_size=6)
    config = dataclasses.replace(configure(**{**six_steps, "recipe": recipe})[0], engine="packed")
    batches = make_trainer(config, prepare_loss(config), REPEATED, tmp_path).get_train_dataloader().batch_sampler
    anchors = [[REPEATED["anchor"][row] for row in batch] for batch in batches]
    assert all(len(set(batch)) == len(batch) for batch in anchors) is (name == "ranking_unique")


def test_a_guided_recipe_is_trained_by_the_stock_engine_and_leaves_its_guide_alone(tmp_path, six_steps):
    options = {**six_steps, "recipe": dataclasses.replace(get_recipe("ranking_guided"), batch_size=16)}
    with pytest.raises(UsageError, match="leave --engine out"):
        configure(**options, engine="packed")
    config, rows = configure(**options)
    assert config.engine == "stock"
    loss = prepare_loss(config)
    before = {key: value.clone() for key, value in loss.model.state_dict().items()}
    make_trainer(config, loss, rows, tmp_path).train()
    assert all(torch.equal(value, before[key]) for key, value in loss.guide.state_dict().items())
    assert not all(torch.equal(value, before[key]) for key, value in loss.model.state_dict().items())


def test_a_run_is_resumed_in_its_second_epoch_to_the_same_bits(tmp_path, monkeypatch, six_steps):
    options = {**six_steps, "recipe": dataclasses.replace(TRAINED_HEAD, epochs=2, batch_size=64), "log_every": 4}
    whole = train(**options, out=tmp_path / "whole")
    interrupted(monkeypatch, tmp_path / "run", at_step=9, **options)
    run = train(**options, out=tmp_path / "run", resume=True)
    assert run.info["resumed_at_step"] == 8
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(run.folder)[name]), name

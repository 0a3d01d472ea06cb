"""Hypotheses on the card, their recorded runs, and the bound of a frozen head."""

import math

import forensics as script  # research/forensics.py
import numpy as np
import pandas as pd
import pytest
import torch

from stlib import records
from stlib.cards import published_log
from stlib.forensics import (
    AUTHOR_DISAGREES,
    HYPOTHESES,
    card_rows,
    cauchy_schwarz_bound,
    curves,
    lowest_loss,
    new_head,
    recorded,
)


def test_hypotheses_change_what_they_say():
    card = HYPOTHESES["card"]
    assert HYPOTHESES["head trained"].train_head
    assert not card.train_head
    assert HYPOTHESES["warm-up 100"].warmup_steps == 100
    for name in ("1e-5 over 500", "4e-5 over 2,000"):
        slope = HYPOTHESES[name].learning_rate / HYPOTHESES[name].warmup_steps
        assert slope == pytest.approx(card.learning_rate / card.warmup_steps)
    assert all(recipe.schedule_steps in (68_668, 68_672) for recipe in HYPOTHESES.values())


def test_the_script_runs_the_hypotheses_as_recorded():
    assert script.STEPS.keys() <= HYPOTHESES.keys()
    assert [name for name in HYPOTHESES if script.noise(name)] == ["card, noisy labels", "head trained, noisy labels"]
    for one in recorded():
        assert one["noise"] == round(script.noise(one["hypothesis"]), 4)
        assert one["steps"] <= script.STEPS.get(one["hypothesis"], 1_500)


def test_perturbed_labels():
    labels = np.random.default_rng(0).integers(0, 3, 10_000)
    changed = script.perturb(labels, AUTHOR_DISAGREES, seed=1)
    assert (changed != labels).mean() == pytest.approx(AUTHOR_DISAGREES, abs=1e-4)
    assert set(changed) == {0, 1, 2}
    assert (script.perturb(labels, 0.1, 1) == script.perturb(labels, 0.1, 1)).all()
    assert (script.perturb(labels, 0.1, 1) != script.perturb(labels, 0.1, 2)).any()


def run(name, seed, losses):
    return {"hypothesis": name, "seed": seed, "loss": {str(100 * i): loss for i, loss in enumerate(losses, 1)}}


def test_rows_are_means_over_500_steps_and_whole():
    curve = curves([run("a", 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), run("a", 2, [1] * 7)])
    rows = card_rows(curve)
    assert rows.loc[("a", 1)].tolist() == [3, 8]
    assert rows.loc[("a", 2), 500] == 1
    assert math.isnan(rows.loc[("a", 2), 1_000])  # 700 steps are no row of the card


def test_the_head_is_the_librarys(base):
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    torch.manual_seed(7)
    theirs = SoftmaxLoss(base, 384, 3).classifier
    ours = new_head(7)
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)
    assert float(ours.weight.norm(dim=1).mean()) == pytest.approx(1 / 3**0.5, rel=0.05)


def test_no_unit_vectors_get_under_the_bound():
    head = new_head(3)
    floor = cauchy_schwarz_bound(head)
    assert 0.2 < floor < 0.3
    random = torch.Generator().manual_seed(0)
    u, v = (torch.nn.functional.normalize(torch.randn(5_000, 384, generator=random), dim=1) for _ in range(2))
    logits = head(torch.cat([u, v, (u - v).abs()], dim=1))
    for label in range(3):
        assert float(torch.nn.functional.cross_entropy(logits, torch.full((5_000,), label))) > floor
    assert lowest_loss(head, shared_premise=False, restarts=2, steps=150) > floor


def test_each_demand_raises_the_lowest_loss():
    head = new_head(0)
    free = lowest_loss(head, shared_premise=False, restarts=4, steps=200)
    shared = lowest_loss(head, shared_premise=True, restarts=4, steps=200)
    noisy = lowest_loss(head, shared_premise=True, noise=AUTHOR_DISAGREES, restarts=4, steps=200)
    assert 0.5 < free < 0.6
    assert 0.68 < shared < 0.78
    assert shared < noisy < math.log(3)


def test_a_head_that_may_grow_has_no_such_bound():
    head = new_head(0)
    with torch.no_grad():
        head.weight.mul_(8)
    assert lowest_loss(head, shared_premise=True, restarts=2, steps=200) < 0.1


def test_the_record_says_how_it_was_made():
    found = records.load("forensics")
    assert found["command"].startswith("python research/forensics.py")
    for run in found["runs"]:
        assert {
            "hypothesis",
            "seed",
            "recipe",
            "steps",
            "data_fingerprint",
            "hardware",
            "loss",
        } <= run.keys()
    frozen = [run for run in found["runs"] if not run["recipe"]["train_head"]]
    trained = [run for run in found["runs"] if run["recipe"]["train_head"]]
    assert frozen
    assert trained
    assert all(run["head_moved"] == 0.0 for run in frozen)
    assert all(run["head_moved"] > 0.0 for run in trained)
    seeds = pd.Series([run["seed"] for run in found["runs"]], [run["hypothesis"] for run in found["runs"]])
    for name in ("card", "as printed", "head trained", "warm-up 100"):
        assert seeds[name].nunique() >= 3


def test_the_cards_recipe_gives_the_cards_first_rows_and_the_others_do_not():
    """Steps 1-500 within 0.003 of the card, 501-1000 within 0.015; the rejected hypotheses more than five spreads off."""
    gaps = (card_rows(curves(recorded())) - published_log().set_index("step")["loss"]).groupby("hypothesis")
    mean, spreads = gaps.mean(), gaps.mean().abs() / gaps.std()
    assert abs(mean.loc["card", 500]) < 0.003
    assert abs(mean.loc["card", 1_000]) < 0.015
    for name in ("as printed", "warm-up 100", "head trained"):
        assert spreads.loc[name, [500, 1_000]].max() > 5, name


def test_the_recorded_costs():
    found = records.load("head_cost")
    assert found["command"].startswith("python research/head_cost.py")
    runs = pd.DataFrame(found["runs"])
    assert (runs.groupby("arm")["seed"].nunique() >= 3).all()
    assert runs["steps"].nunique() == 1
    assert (runs.loc[runs["arm"] == "head frozen", "head_moved"] == 0).all()
    assert (runs.loc[runs["arm"] != "head frozen", "head_moved"] > 0).all()

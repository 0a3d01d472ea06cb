import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from stlib.errors import UsageError
from stlib.recipes import (
    CARD,
    CARD_AS_PRINTED,
    FIT_DEFAULTS,
    RECIPES,
    TRAINED_HEAD,
    get_recipe,
    linear_schedule,
    make_optimizer,
    parameter_groups,
)

CARD_STEPS = 4 * 17_168


def closed_form(steps, peak, warmup, end):
    """Return the learning rates used at ``steps``, counted from 1: those of the schedule after one step fewer."""
    done = steps - 1
    rising = peak * done / max(warmup, 1)
    return np.where(done < warmup, rising, peak * np.maximum(0, end - done) / (end - warmup))


@pytest.mark.parametrize(
    ("recipe", "warmup", "end"),
    [
        (CARD, 1_000, 68_668),
        (CARD_AS_PRINTED, 0, 68_672),
        (FIT_DEFAULTS, 10_000, 68_668),
        (TRAINED_HEAD, 1_000, CARD_STEPS),
    ],
)
def test_the_schedule_is_the_closed_form_at_every_step(recipe, warmup, end):
    factor = linear_schedule(recipe.warmup_steps, recipe.schedule_steps or CARD_STEPS)
    rates = recipe.learning_rate * np.array([factor(step) for step in range(CARD_STEPS)])
    expected = closed_form(np.arange(1, CARD_STEPS + 1), recipe.learning_rate, warmup, end)
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-15)


def test_the_schedule_is_the_librarys():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 7, 50).lr_lambdas[0]
    ours = linear_schedule(7, 50)
    assert [ours(step) for step in range(60)] == [theirs(step) for step in range(60)]


def test_the_cards_recipe_is_what_ran():
    assert (CARD.learning_rate, CARD.warmup_steps, CARD.schedule_steps) == (2e-5, 1_000, 4 * (549_367 // 32))
    assert (CARD.weight_decay, CARD.max_grad_norm, CARD.train_head, CARD.head_gain) == (0.01, 1.0, False, 1.0)
    printed = CARD_AS_PRINTED
    assert (printed.learning_rate, printed.warmup_steps, printed.weight_decay, printed.train_head) == (
        5e-5,
        0,
        0.0,
        True,
    )
    assert (FIT_DEFAULTS.warmup_steps, FIT_DEFAULTS.train_head) == (10_000, False)


def test_parameter_groups_by_name(base):
    head = torch.nn.Linear(1152, 3)
    decayed, exempt, head_group = parameter_groups(TRAINED_HEAD, base, head)
    names = {id(parameter): name for name, parameter in base.named_parameters()}
    assert all("bias" not in names[id(p)] and "LayerNorm" not in names[id(p)] for p in decayed["params"])
    assert all("bias" in names[id(p)] or "LayerNorm" in names[id(p)] for p in exempt["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)
    assert [group["name"] for group in (decayed, exempt, head_group)] == ["encoder", "encoder, no decay", "head"]
    assert [group["weight_decay"] for group in (decayed, exempt, head_group)] == [0.01, 0.0, 0.0]
    assert {id(p) for p in head_group["params"]} == {id(p) for p in head.parameters()}
    assert len(parameter_groups(CARD, base, head)) == 2


def test_the_optimizer_is_the_recipes(base):
    optimizer, schedule = make_optimizer(TRAINED_HEAD, base, torch.nn.Linear(1152, 3), 100)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["initial_lr"]) == ((0.9, 0.999), 1e-8, TRAINED_HEAD.learning_rate)
    assert optimizer.param_groups[2]["initial_lr"] == TRAINED_HEAD.head_learning_rate
    assert schedule.get_last_lr()[0] == 0.0


def test_a_short_run_gets_its_own_schedule():
    short = CARD.fitted_to(400, 15)
    assert (short.warmup_steps, short.schedule_steps, short.learning_rate) == (40, 400, 3e-4)
    assert short.dropout == CARD.dropout
    assert (TRAINED_HEAD.dropout, TRAINED_HEAD.fitted_to(400, 15).dropout) == (0.1, 0.0)
    assert CARD_AS_PRINTED.fitted_to(400, 15).warmup_steps == 0


def test_a_recipe_made_for_short_runs_keeps_its_rate():
    short = replace(TRAINED_HEAD, short=True).fitted_to(400, 15)
    assert (short.warmup_steps, short.schedule_steps, short.learning_rate) == (40, 400, TRAINED_HEAD.learning_rate)


def test_a_recipe_survives_json():
    assert json.loads(json.dumps(CARD.to_dict())) == CARD.to_dict()
    wide = replace(CARD, matryoshka=(384, 64))
    assert json.loads(json.dumps(wide.to_dict())) == wide.to_dict()


def test_unknown_recipes_are_refused():
    assert {"card", "card_as_printed", "fit_defaults", "trained_head"} <= set(RECIPES)
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    with pytest.raises(UsageError, match="choose one of card, card_as_printed"):
        get_recipe("cards")

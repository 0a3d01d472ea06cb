import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from transformers import get_linear_schedule_with_warmup

from stlib import data
from stlib.errors import UsageError
from stlib.recipes import (
    CARD,
    CARD_AS_PRINTED,
    CONTENDERS,
    FIT_DEFAULTS,
    LOSSES,
    RECIPES,
    TRAINED_HEAD,
    Recipe,
    get_recipe,
    head_of,
    linear_schedule,
    make_loss,
    make_optimizer,
    prepare_encoder,
    training_rows,
    triplets,
)
from stlib.settings import PROFILES
from stlib.sources import Source
from tests.tiny import SIZE

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
        (TRAINED_HEAD.sized_for(PROFILES["full"]).fitted_to(CARD_STEPS), CARD_STEPS // 10, CARD_STEPS),
    ],
)
def test_the_schedule_is_the_closed_form_at_every_step(recipe, warmup, end):
    factor = linear_schedule(recipe.warmup_steps, recipe.schedule_steps)
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
    head, profile = torch.nn.Linear(1152, 3), PROFILES["full"]
    decayed, exempt, head_group = make_optimizer(TRAINED_HEAD.sized_for(profile).fitted_to(100), base, head)[
        0
    ].param_groups
    names = {id(parameter): name for name, parameter in base.named_parameters()}
    assert all("bias" not in names[id(p)] and "LayerNorm" not in names[id(p)] for p in decayed["params"])
    assert all("bias" in names[id(p)] or "LayerNorm" in names[id(p)] for p in exempt["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)
    assert [group["name"] for group in (decayed, exempt, head_group)] == ["encoder", "encoder, no decay", "head"]
    assert [group["weight_decay"] for group in (decayed, exempt, head_group)] == [0.01, 0.0, 0.0]
    assert {id(p) for p in head_group["params"]} == {id(p) for p in head.parameters()}
    assert len(make_optimizer(CARD, base, head)[0].param_groups) == 2


def test_the_optimizer_is_the_recipes(base):
    recipe = TRAINED_HEAD.sized_for(PROFILES["full"]).fitted_to(100)
    optimizer, schedule = make_optimizer(recipe, base, torch.nn.Linear(1152, 3))
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["initial_lr"]) == ((0.9, 0.999), 1e-8, TRAINED_HEAD.learning_rate)
    assert optimizer.param_groups[2]["initial_lr"] == TRAINED_HEAD.head_learning_rate
    assert schedule.get_last_lr()[0] == 0.0


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_there_are_two_kinds_of_recipe(profile):
    """One that stands for a long run trains the start of it; any other is fitted to the run that it trains."""
    for recipe in (CARD, CARD_AS_PRINTED, FIT_DEFAULTS):
        assert recipe.sized_for(profile).fitted_to(400) is recipe
    long = TRAINED_HEAD.but("long", "the start of a long run", schedule_steps=1_000)
    assert long.sized_for(profile) == long.but("long", "the start of a long run", epochs=profile.epochs)
    ours = TRAINED_HEAD.sized_for(profile).fitted_to(400)
    assert (ours.warmup_steps, ours.schedule_steps) == (40, 400)
    assert ours.learning_rate == pytest.approx(2e-5 * profile.rate_scale)
    assert (ours.batch_size, ours.epochs) == (32 * profile.batch_scale, profile.epochs)
    assert ours.head_learning_rate == pytest.approx(4e-2 * profile.batch_scale)
    assert TRAINED_HEAD.but("longer", "a longer warm-up", warmup_steps=50).fitted_to(400).warmup_steps == 50
    for recipe in CONTENDERS:  # they bring their length, and so their rate
        assert recipe.sized_for(profile) is recipe
        fitted = recipe.fitted_to(400)
        assert (fitted.warmup_steps, fitted.schedule_steps, fitted.learning_rate) == (40, 400, recipe.learning_rate)


def test_unknown_recipes_are_refused():
    assert {"card", "card_as_printed", "fit_defaults", "trained_head"} <= set(RECIPES)
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    with pytest.raises(UsageError, match="choose one of card, card_as_printed"):
        get_recipe("cards")


PAIRS = Dataset.from_dict(
    {
        "sentence_0": ["a"] * 4 + ["b"] * 2 + ["c"] * 3,
        "sentence_1": ["a yes", "a no", "a also", "a maybe", "b no", "b maybe", "c maybe", "c yes", "c no"],
        "label": [0, 2, 0, 1, 2, 1, 1, 0, 2],
    }
)


def recipe(loss, **changes):
    return Recipe("tried", "a recipe of the tests", **{"loss": loss, "epochs": 4, **changes})


def test_triplets_pair_entailed_and_contradicted_hypotheses_of_one_premise():
    rows = triplets(PAIRS)
    assert rows.column_names == ["anchor", "positive", "negative"]
    assert [tuple(row.values()) for row in rows] == [("a", "a yes", "a no"), ("c", "c yes", "c no")]
    assert triplets(data.nli("train[:90]", Source("mini"))).info.description.startswith("90 rows")


def test_pairs_without_triplets_are_refused():
    with pytest.raises(UsageError, match="no premise"):
        triplets(PAIRS.select([3, 4, 5]))


def test_without_hard_negatives_the_rows_are_the_entailed_pairs():
    rows = training_rows(recipe("mnrl_pairs"), PAIRS)
    assert rows.column_names == ["anchor", "positive"]
    assert [tuple(row.values()) for row in rows] == [("a", "a yes"), ("a", "a also"), ("c", "c yes")]


def test_scores_follow_the_labels():
    rows = training_rows(recipe("cosent"), PAIRS)
    assert rows.column_names == ["sentence_0", "sentence_1", "label"]
    assert rows["label"][:4] == [1.0, 0.0, 1.0, 0.5]
    assert rows.features["label"].dtype == "float32"


def test_softmax_takes_the_pairs_as_they_are():
    assert training_rows(CARD, PAIRS) is PAIRS


def test_sts_scores_are_scaled_to_one():
    rows = training_rows(recipe("cosine", data="sts"), data.sts("sts", "validation", Source("mini")))
    assert rows.column_names == ["sentence1", "sentence2", "label"]
    assert 0 <= min(rows["label"]) < 0.1
    assert 0.9 < max(rows["label"]) <= 1


def test_the_head_is_frozen_or_enlarged(tiny):
    def head(recipe):
        torch.manual_seed(3)
        return head_of(make_loss(recipe, tiny))

    torch.manual_seed(3)
    drawn = LOSSES["softmax"](tiny, SIZE, num_labels=3).classifier
    for recipe, gain in ((CARD, 1), (TRAINED_HEAD, 8)):
        for name, parameter in head(recipe).named_parameters():
            assert parameter.requires_grad is recipe.train_head
            torch.testing.assert_close(parameter.detach(), gain * getattr(drawn, name).detach(), rtol=0, atol=0)


def test_dropout_is_the_recipes(tiny):
    model = prepare_encoder(replace(CARD, dropout=0.25), copy.deepcopy(tiny))
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_without_normalize_only_the_length_changes(tiny):
    plain = prepare_encoder(replace(CARD, normalize=False), copy.deepcopy(tiny))
    assert len(plain) == len(tiny) - 1
    plain.eval()
    u, v = plain.encode(["A man sleeps."]), tiny.encode(["A man sleeps."])
    assert abs(np.linalg.norm(u) - 1) > 0.1
    np.testing.assert_allclose(u / np.linalg.norm(u), v, atol=1e-6)
    again = prepare_encoder(CARD, plain).eval()  # a run that starts from one without it has it again
    np.testing.assert_allclose(again.encode(["A man sleeps."]), v, atol=1e-6)
    assert len(prepare_encoder(CARD, again)) == len(tiny)


def test_each_loss_is_the_librarys(tiny):
    assert {loss: type(make_loss(recipe(loss), tiny)) for loss in LOSSES} == LOSSES
    wide = make_loss(recipe("mnrl", matryoshka=(SIZE, 8)), tiny)
    assert isinstance(wide, MatryoshkaLoss)
    assert list(wide.matryoshka_dims) == [SIZE, 8]
    assert head_of(wide) is None
    assert head_of(make_loss(recipe("softmax", multiply=True), tiny)).in_features == 4 * SIZE

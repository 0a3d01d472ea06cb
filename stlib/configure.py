"""From what was asked for to what decides a run: names resolved, rows loaded, numbers checked, nothing written."""

import math

import numpy as np
from datasets import Dataset

from stlib.data import fingerprint, nli, sts, train_split, unseen
from stlib.errors import UsageError
from stlib.recipes import Recipe, get_recipe, training_rows
from stlib.runs import SEED, RunConfig, find_model_folder
from stlib.settings import best_device, best_precision, get_profile, max_steps_from_environment, processes
from stlib.sources import Source, get_source, splits_of

ENGINES = ("packed", "stock")
CHOICES = {
    "data": None,
    "nli_split": None,
    "max_steps": None,
    "seed": SEED,
    "log_every": None,
    "engine": None,
    "start": None,
}


def configure(recipe: str | Recipe, profile: str | None = None, **choices) -> tuple[RunConfig, Dataset]:
    """Return what decides a run, and its rows, from the arguments of ``train``; nothing is written.

    Raises:
        UsageError: unknown names, numbers out of range, missing data.
    """
    if unknown := sorted(choices.keys() - CHOICES):
        raise TypeError(f"train has no argument {unknown[0]!r}: choose among {', '.join(CHOICES)}")
    chosen, asked, profile = {**CHOICES, **choices}, get_recipe(recipe), get_profile(profile)
    check_choices(asked, chosen)
    device = best_device()
    source = get_source(chosen["data"], profile)
    split = chosen["nli_split"] or train_split(profile)
    if asked.data != "nli":  # the mini STS task has no training split: its validation pairs are free to train on
        split = "train" if "train" in splits_of(asked.data, source) else "validation"
    rows = load_rows(asked, split, source)
    epochs = asked.epochs or profile.epochs
    # Between several processes the last, smaller batch cannot be shared, and is left out.
    per_epoch = len(rows) / asked.batch_size
    total_steps = epochs * (math.ceil(per_epoch) if processes() == 1 else math.floor(per_epoch))
    last_step = min(chosen["max_steps"] or max_steps_from_environment() or total_steps, total_steps)
    config = RunConfig(
        recipe=asked.fitted_to(total_steps, profile),
        profile=profile.name,
        source=str(source),
        nli_split=split,
        data_fingerprint=fingerprint(rows),
        rows=len(rows),
        start=str(chosen["start"] or "base"),
        seed=chosen["seed"],
        epochs=epochs,
        total_steps=total_steps,
        last_step=last_step,
        log_every=min(chosen["log_every"] or profile.log_every, last_step),
        engine=chosen["engine"] or ("packed" if device == "cpu" else "stock"),
        precision=best_precision(device),
        device=device,
        processes=processes(),
    )
    return config, rows


def check_choices(recipe: Recipe, chosen: dict) -> None:
    """Raise UsageError for a choice that no run can have."""
    for name in ("max_steps", "log_every"):
        if chosen[name] is not None and chosen[name] < 1:
            raise UsageError(f"{name} is {chosen[name]}: choose a number of steps above zero")
    if chosen["engine"] not in (None, *ENGINES):
        raise UsageError(f"there is no engine {chosen['engine']!r}: choose one of {', '.join(ENGINES)}")
    if not 0 <= chosen["seed"] < 2**32:
        raise UsageError(f"the seed is {chosen['seed']}: choose a whole number from 0 to {2**32 - 1}")
    if chosen["start"] is not None:
        find_model_folder(chosen["start"])
    if chosen["nli_split"] and recipe.data != "nli":
        raise UsageError(
            f"the recipe {recipe.name} trains on pairs of {recipe.data}: leave nli_split (--nli-split) out"
        )
    if recipe.batch_size % processes():
        raise UsageError(f"{processes()} processes cannot share batches of {recipe.batch_size} pairs: start 2, 4, 8, …")
    if processes() > 1 and recipe.loss in ("mnrl", "cosent", "angle"):
        raise UsageError(
            f"the recipe {recipe.name} ranks all pairs of a batch against each other, and each of {processes()} processes would "
            "see its share only: train it with one process"
        )


def load_rows(recipe: Recipe, split: str, source: Source) -> Dataset:
    """Return the rows to train on. Raises UsageError if they do not fill one batch, or have one label only."""
    if recipe.data == "nli":
        pairs = nli(split, source)
    else:
        pairs = sts_without_test(recipe.data, split, source)
    rows = training_rows(recipe, pairs)
    if len(rows) < recipe.batch_size:
        raise UsageError(
            f"the split {split!r} has {len(rows)} pairs, fewer than one batch of {recipe.batch_size}: choose a larger split"
        )
    if recipe.loss == "softmax" and len(labels := set(rows.unique("label"))) < 2:
        raise UsageError(
            f"all pairs have the label {labels.pop()} in the split {split!r}: a classifier needs two labels or more"
        )
    return rows


def sts_without_test(task: str, split: str, source: Source) -> Dataset:
    """Return the pairs of one split, without those that are in the task's test split too (17 of STS-B's training pairs)."""
    pairs, test = sts(task, split, source), sts(task, "test", source)
    return pairs.select(np.flatnonzero(unseen(pairs.to_pandas(), test.to_pandas())))

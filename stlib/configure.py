"""From what was asked for to what decides a run: names resolved, rows loaded, numbers checked, nothing written."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from stlib.data import fingerprint, nli, sts, unseen
from stlib.errors import UsageError
from stlib.recipes import COMPARE_A_BATCH, Recipe, get_recipe, training_rows
from stlib.runs import SEED, RunConfig, find_model_folder
from stlib.settings import best_device, best_precision, get_profile, processes, whole_number
from stlib.sources import Source, get_source, splits_of


@dataclass(frozen=True)
class Choices:
    """What may be chosen besides recipe and profile. None leaves it to the environment, the profile or the machine."""

    data: str | Path | None = None  # ``mini``, ``hub`` or a folder
    nli_split: str | None = None  # the rows to train on
    max_steps: int | None = None  # stop after so many; the schedule stays that of the whole run
    seed: int = SEED  # of the head's initial weights, the order of the pairs and dropout
    log_every: int | None = None  # steps between rows of ``log.csv``
    engine: str | None = None  # ``packed`` (the default on a processor, where it is proven equal) or ``stock``
    start: str | Path | None = None  # a run or model folder whose encoder is trained on; else the base model's


def configure(recipe: str | Recipe, profile: str | None = None, **choices) -> tuple[RunConfig, Dataset]:
    """Return what decides a run, and its rows, from the arguments of ``train``; nothing is written.

    Raises UsageError for unknown names, numbers out of range and missing data.
    """
    chosen, asked, profile = Choices(**choices), get_recipe(recipe), get_profile(profile)
    check_choices(asked, chosen)
    device = best_device()
    source = get_source(chosen.data, profile)
    split = chosen.nli_split or profile.train_split
    if asked.data != "nli":  # the mini STS task has no training split: its validation pairs are free to train on
        split = "train" if "train" in splits_of(asked.data, source) else "validation"
    rows, asked = load_rows(asked, split, source), asked.sized_for(profile)
    # Between several processes the last, smaller batch cannot be shared, and is left out.
    per_epoch = len(rows) / asked.batch_size
    total_steps = asked.epochs * (math.ceil(per_epoch) if processes() == 1 else math.floor(per_epoch))
    last_step = min(chosen.max_steps or whole_number("STLIB_MAX_STEPS") or total_steps, total_steps)
    config = RunConfig(
        recipe=asked.fitted_to(total_steps),
        profile=profile.name,
        source=str(source),
        nli_split=split,
        data_fingerprint=fingerprint(rows),
        rows=len(rows),
        start=str(chosen.start or "base"),
        seed=chosen.seed,
        epochs=asked.epochs,
        total_steps=total_steps,
        last_step=last_step,
        log_every=min(chosen.log_every or profile.log_every, last_step),
        engine=chosen.engine or ("packed" if device == "cpu" and asked.loss != "gist" else "stock"),
        precision=best_precision(device),
        device=device,
        processes=processes(),
    )
    check_rows(config.recipe, rows, split)
    return config, rows


def check_choices(recipe: Recipe, chosen: Choices) -> None:
    """Raise UsageError for a choice that no run can have."""
    problem, several = None, processes()
    for name in ("max_steps", "log_every"):
        if (steps := getattr(chosen, name)) is not None and steps < 1:
            problem = f"{name} is {steps}: choose a number of steps above zero"
    if chosen.engine not in (None, "packed", "stock"):
        problem = f"there is no engine {chosen.engine!r}: choose one of packed, stock"
    if not 0 <= chosen.seed <= 2**32 - recipe.soup:
        problem = f"the seed is {chosen.seed}: choose a whole number from 0 to {2**32 - recipe.soup}"
    if chosen.nli_split and recipe.data != "nli":
        problem = f"the recipe {recipe.name} trains on pairs of {recipe.data}: leave nli_split (--nli-split) out"
    if recipe.batch_size % several:
        problem = f"{several} processes cannot share batches of {recipe.batch_size} pairs: start 2, 4, 8, …"
    if chosen.engine == "packed" and recipe.loss == "gist":
        problem = f"the recipe {recipe.name} needs a second model on every batch, which the engine packed has not: leave --engine out"
    if recipe.soup > 1 and recipe.loss == "softmax":
        problem = f"the recipe {recipe.name} averages {recipe.soup} encoders, whose heads differ: choose another loss, or soup=1"
    if recipe.matryoshka and recipe.loss == "softmax":
        problem = f"the recipe {recipe.name} has one head, which fits no shorter embeddings: choose another loss, or no matryoshka"
    if several > 1 and recipe.loss in COMPARE_A_BATCH:
        alone = f"each of {several} processes would see its share only: train it with one process"
        problem = f"the recipe {recipe.name} ranks all pairs of a batch against each other, and {alone}"
    if problem:
        raise UsageError(problem)
    if chosen.start is not None:
        find_model_folder(chosen.start)


def load_rows(recipe: Recipe, split: str, source: Source) -> Dataset:
    """Return the rows to train on."""
    if recipe.data == "nli":
        pairs = nli(split, source)
    else:  # without those that are in the task's test split too (17 of STS-B's training pairs)
        pairs, test = sts(recipe.data, split, source), sts(recipe.data, "test", source)
        pairs = pairs.select(np.flatnonzero(unseen(pairs.to_pandas(), test.to_pandas())))
    return training_rows(recipe, pairs)


def check_rows(recipe: Recipe, rows: Dataset, split: str) -> None:
    """Raise UsageError if the rows do not fill one batch, or have one label only."""
    if len(rows) < recipe.batch_size:
        found = f"{len(rows)} pairs, fewer than one batch of {recipe.batch_size}"
        raise UsageError(f"the split {split!r} has {found}: choose a larger split")
    if recipe.loss == "softmax" and len(labels := set(rows.unique("label"))) < 2:
        found = f"all pairs have the label {labels.pop()} in the split {split!r}"
        raise UsageError(f"{found}: a classifier needs two labels or more")

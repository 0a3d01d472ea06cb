"""Training: one recipe, one profile, one run folder."""

import json
import math
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import set_seed

from stlib import pace
from stlib.base_model import hide_card_bar, load_base
from stlib.cards import describe_model, remember, with_effective_settings
from stlib.data import fingerprint, nli, sts, train_split, unseen
from stlib.errors import UsageError
from stlib.losses import head_of, make_loss, prepare_encoder, training_rows
from stlib.nli_classifier import NLIClassifier
from stlib.profiles import (
    PROFILES,
    Profile,
    best_device,
    best_precision,
    describe_device,
    get_profile,
    max_steps_from_environment,
    runs_folder,
)
from stlib.recipes import Recipe, get_recipe
from stlib.runs import (
    Run,
    find_model_folder,
    load_encoder,
    one_writer,
    peak_memory_mb,
    read_json,
    replace_folder,
    set_aside,
    versions,
    write_json,
    write_text,
    writing,
)
from stlib.sources import Source, get_source, splits_of
from stlib.trainer import (
    ENGINES,
    KEPT,
    NLITrainer,
    default_engine,
    difference_between_processes,
    make_trainer,
    processes,
    training_arguments,
)

SEED = 42  # the card's


def is_fitted(recipe: Recipe, profile: Profile) -> bool:
    """Whether the recipe's schedule is fitted to a short run, and its rate with it, instead of running the start of a long one."""
    return recipe.short or profile.fits_all or (profile.rate_scale != 1 and recipe.schedule_steps is None)


def count_epochs(recipe: Recipe, profile: Profile) -> int:
    """Passes over the rows: the recipe's own, else the profile's where it fits the recipe, else the long run's."""
    if recipe.epochs is not None:
        return recipe.epochs
    return profile.epochs if is_fitted(recipe, profile) else PROFILES["full"].epochs


def steps_an_epoch(rows: int, batch_size: int, shares: int = 1) -> int:
    """Steps in one pass, the last and smaller batch included; between several processes it cannot be shared, and is left out."""
    return math.ceil(rows / batch_size) if shares == 1 else rows // batch_size


def train(
    recipe: str | Recipe = "card",
    profile: str | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    nli_split: str | None = None,
    max_steps: int | None = None,
    seed: int = SEED,
    log_every: int | None = None,
    resume: bool = False,
    engine: str | None = None,
    start: str | Path | None = None,
) -> Run:
    """Train a model on NLI pairs (or a recipe's STS pairs) and write a run folder.

    Args:
        recipe: a name in ``recipes.RECIPES``, or a Recipe.
        profile: ``mini``, ``small`` or ``full``; ``STLIB_PROFILE`` or ``mini`` by default.
        out: the run folder; by default one under ``runs/`` named after recipe, profile and split.
        data: ``mini``, ``hub`` or a folder; ``STLIB_DATA`` or the profile's own by default.
        nli_split: the rows to train on; ``STLIB_NLI_SPLIT`` or the profile's own by default.
        max_steps: stop after so many steps; the schedule stays that of the whole run.
        seed: of the head's initial weights, the order of the pairs and dropout.
        log_every: steps between rows of ``log.csv``.
        resume: continue the unfinished run in ``out`` from its last whole checkpoint, to the same weights, bit for bit
            on a processor; from the start where there is none yet. All other arguments must be the same.
        engine: ``packed`` (no padding, one pass a batch) or ``stock`` (the library's trainer as it is); by default
            what ``trainer.default_engine`` says. Both train the same recipe on the same batches.
        start: a run or model folder whose encoder is trained on; the base model by default.

    With several processes (``torchrun --nproc_per_node=N -m stlib train …``) each takes its share of every batch, and
    the first one writes the run folder.

    Raises:
        UsageError: unknown names, missing data, a run folder that is in use; nothing has been written then.
    """
    plan = make_plan(recipe, profile, data, nli_split, max_steps, seed, log_every, engine, start)
    return start_run(plan, Path(out) if out else default_folder(plan.settings), resume)


def start_run(plan: "Plan", out: Path, resume: bool) -> Run:
    """Carry out ``plan`` in a folder that can take it, as the only one who writes there."""
    if not is_first_process():  # the first one may have begun to write already
        return carry_out(plan, out, resume)
    check_folder(out, resume)
    with one_writer(out):
        check_folder(out, resume)  # again: another run may have come first
        return carry_out(plan, out, resume)


@dataclass(frozen=True)
class Plan:
    """What is decided before a run starts.

    Attributes:
        settings: what must be the same for a run to be resumed; also the first part of ``run.json``.
        recipe: as it will run, fitted to a short run where ``fitted`` is True.
        start: the run or model folder to train on, or None for the base model.
        split: the name of the rows to train on.
        dataset: the rows to train on.
        total_steps: of the whole schedule.
        last_step: where this run stops.
        device: where it trains.
    """

    settings: dict
    recipe: Recipe
    fitted: bool
    start: str | Path | None
    split: str
    dataset: Dataset
    batch_size: int
    epochs: int
    total_steps: int
    last_step: int
    device: str


def make_plan(recipe, profile, data, nli_split, max_steps, seed, log_every, engine, start) -> Plan:
    """The arguments of ``train``, resolved and checked; nothing is written."""
    request = make_request(recipe, profile, data, nli_split, max_steps, seed, start)
    asked, chosen = get_recipe(recipe), get_profile(profile)
    batch_size = asked.batch_size or chosen.batch_size
    device = best_device()
    engine = engine or default_engine(device)
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if batch_size % processes():
        raise UsageError(f"{processes()} processes cannot share batches of {batch_size} pairs: start 2, 4, 8, …")
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed is {seed}: choose a whole number from 0 to {2**32 - 1}")
    if start is not None:
        find_model_folder(start)
    if log_every is not None and log_every < 1:
        raise UsageError(f"log_every is {log_every}: choose a number of steps above zero")
    if nli_split and asked.data != "nli":
        raise UsageError(f"the recipe {asked.name} trains on pairs of {asked.data}: leave nli_split (--nli-split) out")
    source = get_source(data, chosen)
    split = training_split(asked, request["nli_split"], source)
    dataset = load_rows(asked, split, source, batch_size)
    epochs = count_epochs(asked, chosen)
    total_steps = epochs * steps_an_epoch(len(dataset), batch_size, processes())
    last_step = min(request["max_steps"] or total_steps, total_steps)
    fitted = asked.fitted_to(total_steps, chosen.rate_scale) if is_fitted(asked, chosen) else asked
    settings = {
        **request,
        "engine": engine,
        "precision": best_precision(device),
        "processes": processes(),
        "log_every": min(log_every or chosen.log_every, last_step),
        "data_fingerprint": fingerprint(dataset),
    }
    return Plan(
        settings,
        fitted,
        fitted != asked,
        start,
        split,
        dataset,
        batch_size,
        epochs,
        total_steps,
        last_step,
        device,
    )


def is_first_process() -> bool:
    """Whether this process writes the run folder: the only one, or the first that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def carry_out(plan: Plan, out: Path, resume: bool) -> Run:
    """Train what was planned, and write the run folder."""
    checkpoint = last_checkpoint(out, plan.settings) if resume else None
    if is_first_process():
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "unfinished.json", plan.settings)
    args = arguments_of(plan, out)
    loss = prepare_loss(plan, args.process_index)
    if is_first_process():
        print(describe(plan, loss.model), flush=True)
    head = head_of(loss)
    first_head = head.weight.detach().clone() if head is not None else None
    tokens = runs_folder() / "tokens"
    started = time.perf_counter()
    with writing(out):
        trainer = make_trainer(
            loss, plan.dataset, args, plan.recipe, plan.total_steps, plan.last_step, plan.settings["engine"], tokens
        )
        if checkpoint is not None and step_of(checkpoint) >= plan.last_step:  # interrupted while its end was written
            trainer.load_whole(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    info = {
        **facts(plan, trainer),
        "seconds": round(seconds, 1),
        "resumed_at_step": step_of(checkpoint) if checkpoint else 0,  # the seconds are those since then
        "head_moved": None if head is None else round(float((head.weight.detach() - first_head).norm()), 6),
    }
    if is_first_process():
        with writing(out):
            finish(out, trainer, info)
    trainer.accelerator.wait_for_everyone()
    return Run.load(out)


def arguments_of(plan: Plan, out: Path):
    """The library's training arguments for the run."""
    # Checkpoints fall on rows of the log, so that the first row after a resumed one averages over all of its steps.
    seed, log_every = plan.settings["seed"], plan.settings["log_every"]
    save_every = max(1, min(1_000, plan.last_step // 2) // log_every) * log_every
    return training_arguments(
        out / "checkpoints", plan.batch_size, plan.recipe, plan.epochs, seed, log_every, save_every, plan.device
    )


def prepare_loss(plan: Plan, process: int) -> nn.Module:
    """The loss with its encoder and head as they are before the first step; random numbers stand at the run's start."""
    seed = plan.settings["seed"]
    hide_card_bar()
    set_seed(seed)
    model = prepare_encoder(plan.recipe, load_start(plan.start, plan.device))
    loss = make_loss(plan.recipe, model)
    describe_model(model, plan.settings["source"], plan.recipe.data)
    torch.manual_seed(seed + process)  # from here on: dropout, which differs between processes
    return loss


def facts(plan: Plan, trainer: NLITrainer) -> dict:
    """What ``run.json`` keeps of a run that has ended: its settings, its size and where it ran."""
    return {
        **plan.settings,
        "recipe": plan.recipe.to_dict(),
        "rows": len(plan.dataset),
        "steps": trainer.state.global_step,
        "total_steps": plan.total_steps,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "difference_between_processes": difference_between_processes(
            [*trainer.model.parameters(), *trainer.loss.parameters()]
        ),
        "hardware": describe_device(),
        "peak_memory_mb": peak_memory_mb(plan.device),
        "versions": versions(),
    }


def finish(out: Path, trainer: NLITrainer, info: dict) -> None:
    """Write model, head, log, card and run.json; run.json comes last and makes the run a finished one."""
    rows = [entry for entry in trainer.state.log_history if "loss" in entry]
    info["final_loss"] = round(float(rows[-1]["loss"]), 4)
    temporary = out / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    trainer.model.eval()
    trainer.model.model_card_data.training_logs = [
        {"Epoch": row["epoch"], "Step": row["step"], "Training Loss": float(row["loss"])} for row in rows
    ]
    head = head_of(trainer.loss)
    if head is None:
        trainer.model.save_pretrained(str(temporary))
    else:
        NLIClassifier(trainer.model, head).save(temporary)
    replace_folder(temporary, out / "model")
    remember(trainer.model, out)
    card = with_effective_settings((out / "model" / "README.md").read_text(encoding="utf-8"), info)
    for folder in (out, out / "model"):
        write_text(folder / "README.md", card)
    lines = [
        f"{row['step']},{row['epoch']:.8f},{float(row['loss']):.6f},{float(row['learning_rate']):.8g}" for row in rows
    ]
    (out / "log.csv").write_text("\n".join(["step,epoch,loss,learning_rate", *lines]) + "\n", encoding="utf-8")
    for old in sorted((out / "checkpoints").glob("checkpoint-*"), key=step_of)[:-KEPT]:
        shutil.rmtree(old)  # left over where the run was killed while the library removed it
    write_json(out / "run.json", info)
    (out / "unfinished.json").unlink()


def find_or_train(recipe: str = "trained_head", profile: str | None = None) -> Run:
    """Return the run that notebook 03 trains: loaded if it is there and still fits, else trained now.

    A run fits when recipe, profile, data, split, seed and steps are the same. While another process trains it, this one
    waits. A run of that name that does not fit is set aside under another name, never removed.
    """
    request = make_request(recipe, profile, None, None, None, SEED)
    folder = default_folder(request)
    found = finished_run(folder, request)
    if found is None:
        with one_writer(folder, wait=True):
            found = finished_run(folder, request)  # again: another process may have trained it meanwhile
            if found is None:
                return train_anyway(recipe, profile, folder)
    print(f"loaded the run {folder.name}: {found.info['steps']:,} steps on {found.info['rows']:,} pairs")
    return found


def finished_run(folder: Path, request: dict) -> Run | None:
    """Return the finished run in ``folder`` if it is what ``request`` would train, else None."""
    run = Run.load(folder) if (folder / "run.json").exists() else None
    return run if run is not None and fits(run, request) else None


def train_anyway(recipe: str, profile: str | None, folder: Path) -> Run:
    """Train into ``folder``, which only this process writes: resume what fits there, set aside what does not."""
    plan = make_plan(recipe, profile, None, None, None, SEED, None, None, None)
    unfinished = folder / "unfinished.json"
    resume = unfinished.exists() and changed_setting(read_json(unfinished), plan.settings) is None
    if folder.exists() and not resume:
        print(f"{folder.name} was trained otherwise and does not fit: it is now {set_aside(folder).name}")
    return carry_out(plan, folder, resume)


def fits(run: Run, request: dict) -> bool:
    """Whether ``run`` is what ``request`` would train."""
    recipe, profile = get_recipe(request["recipe"]), get_profile(request["profile"])
    if is_fitted(recipe, profile):
        recipe = recipe.fitted_to(run.info["total_steps"], profile.rate_scale)
    asked = {**request, "recipe": recipe.to_dict()}
    return all(run.info.get(key) == value for key, value in asked.items())


def check_data() -> None:
    """Raise UsageError where the training or the test pairs of the chosen profile cannot be had; costs no training."""
    request = make_request("trained_head", None, None, None, None, SEED)
    profile = get_profile()
    source = get_source(None, profile)
    load_rows(get_recipe("trained_head"), request["nli_split"], source, profile.batch_size)
    nli("test", source)


def make_request(recipe, profile, data, nli_split, max_steps, seed, start=None) -> dict:
    """What was asked for, with names resolved: the same request means the same run."""
    chosen = get_profile(profile)
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps is {max_steps}: choose a number of steps above zero")
    return {
        "recipe": get_recipe(recipe).name,
        "profile": chosen.name,
        "source": str(get_source(data, chosen)),
        "nli_split": nli_split or train_split(chosen),
        "max_steps": max_steps or max_steps_from_environment(),
        "seed": seed,
        "start": "base" if start is None else str(start),
    }


def training_split(recipe: Recipe, nli_split: str, source: Source) -> str:
    """The split that the recipe trains on: of NLI pairs the one asked for, of an STS task its own.

    The mini STS task has no training split: its validation pairs are free to train on.
    """
    if recipe.data == "nli":
        return nli_split
    return "train" if "train" in splits_of(recipe.data, source) else "validation"


def load_rows(recipe: Recipe, split: str, source: Source, batch_size: int) -> Dataset:
    """The rows to train on. Raises UsageError where they do not fill one batch, or have one label only."""
    if recipe.data == "nli":
        pairs = nli(split, source)
    else:
        pairs = sts_without_test(recipe.data, split, source)
    rows = training_rows(recipe, pairs)
    if len(rows) < batch_size:
        raise UsageError(
            f"the split {split!r} has {len(rows)} pairs, fewer than one batch of {batch_size}: choose a larger split"
        )
    if recipe.loss == "softmax" and len(labels := set(rows.unique("label"))) < 2:
        raise UsageError(
            f"all pairs have the label {labels.pop()} in the split {split!r}: a classifier needs two labels or more"
        )
    return rows


def sts_without_test(task: str, split: str, source: Source) -> Dataset:
    """The pairs of one split, without those that are in the task's test split too (17 of STS-B's training pairs)."""
    pairs, test = sts(task, split, source), sts(task, "test", source)
    return pairs.select(np.flatnonzero(unseen(pairs.to_pandas(), test.to_pandas())))


def load_start(start: str | Path | None, device: str) -> SentenceTransformer:
    """The encoder to train: the base model, or that of a run or model folder."""
    if start is None:
        return load_base(device)
    return load_encoder(find_model_folder(start), device)


def default_folder(request: dict) -> Path:
    """``runs/RECIPE-PROFILE``, with the split, the steps and the seed where they are not the profile's own."""
    parts = [request["recipe"], request["profile"]]
    if request["nli_split"] != get_profile(request["profile"]).train_split:
        parts.append(re.sub(r"\W+", "_", request["nli_split"]).strip("_"))
    if request["max_steps"]:
        parts.append(f"{request['max_steps']}steps")
    if request["seed"] != SEED:
        parts.append(f"seed{request['seed']}")
    return runs_folder() / "-".join(parts)


def check_folder(out: Path, resume: bool) -> None:
    """Raise UsageError where ``out`` cannot take the run."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose a folder for the run")
    if (out / "run.json").exists():
        raise UsageError(f"{out} already holds a finished run: choose another --out, or remove it")
    if resume and not (out / "unfinished.json").exists():
        raise UsageError(f"{out} holds no unfinished run to resume: start one without --resume")
    if not resume and (out / "unfinished.json").exists():
        raise UsageError(f"{out} holds an unfinished run: continue it with --resume, or remove it")


def last_checkpoint(out: Path, settings: dict) -> str | None:
    """The last whole checkpoint of the unfinished run in ``out``; None where it was interrupted before the first one.

    Raises UsageError where the run was started with other settings: it would not continue as it began.
    """
    before = read_json(out / "unfinished.json")
    name = changed_setting(before, settings)
    if name is not None:
        raise UsageError(
            f"{out} was started with {name} {before.get(name)}, not {settings[name]}: resume it with the same settings, or remove it"
        )
    found = [folder for folder in (out / "checkpoints").glob("checkpoint-*") if is_whole(folder, settings["processes"])]
    if not found:
        print(f"{out} has no checkpoint yet: the run starts again")
        return None
    last = str(max(found, key=step_of))
    print(f"resuming {before['recipe']} at step {step_of(last):,}")
    return last


def changed_setting(before: dict, settings: dict) -> str | None:
    """The first setting that is not the one the unfinished run was started with, as ``before`` has it, or None."""
    return next((name for name, value in settings.items() if before.get(name) != value), None)


def step_of(checkpoint: str | Path) -> int:
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


def is_whole(checkpoint: Path, processes: int) -> bool:
    """Whether all of a checkpoint was written. The library writes ``trainer_state.json`` last, but for other processes' random states."""
    ranks = [""] if processes == 1 else [f"_{rank}" for rank in range(processes)]
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((checkpoint / f"rng_state{rank}.pth").is_file() for rank in ranks)


def expectation(plan: Plan, model: SentenceTransformer) -> str:
    """Return how long the run will take, in words: on a processor measured, on a GPU left to the bar."""
    if plan.device != "cpu":
        return "the bar says how long it takes"
    settings = plan.settings
    tokens = pace.tokens_per_row(plan.dataset, model.tokenizer) * plan.batch_size
    weights = pace.linear_weights(model)
    seconds = pace.expected_seconds(plan.last_step, tokens, weights, settings["engine"], settings["precision"])
    return f"expect about {pace.in_words(seconds / settings['processes'])} on this machine"


def describe(plan: Plan, model: SentenceTransformer) -> str:
    """Return what is about to be trained, in one line."""
    settings, recipe = plan.settings, plan.recipe
    precision, engine = settings["precision"], settings["engine"]
    scaled = " (schedule and rate fitted to this short run)" if plan.fitted else ""
    split = plan.split if recipe.data == "nli" else f"{recipe.data} {plan.split}"
    kind = "triplets" if recipe.loss == "mnrl" else "pairs"
    return (
        f"training {recipe.name}, profile {settings['profile']}: {len(plan.dataset):,} {kind} of {split} from {settings['source']}, "
        f"{plan.last_step:,} steps of {plan.batch_size}, learning rate {recipe.learning_rate:g}, warm-up {recipe.warmup_steps} steps{scaled}, "
        f"{engine} engine, {precision} on {plan.device}; {expectation(plan, model)}"
    )

"""Training: one configuration, one run folder."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PrinterCallback, set_seed

from stlib import runs
from stlib.cards import describe_model, recall, remember, with_what_ran
from stlib.configure import configure
from stlib.fast import bench
from stlib.fast.packed import PackedEncoder
from stlib.fast.tokens import tokenise, tokenizer_key
from stlib.fast.trainer import PackedTrainer
from stlib.model import NLIClassifier, load_base, load_encoder, save_encoder
from stlib.recipes import Recipe, head_of, make_loss, make_optimizer, prepare_encoder
from stlib.runs import Run, RunConfig
from stlib.settings import PRECISIONS, describe_device, is_first_process, runs_folder
from stlib.trainer import KEPT, NLITrainer, ProgressBar, StopAfter, difference_between_processes, training_arguments


def train(
    recipe: str | Recipe = "card",
    profile: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    **choices,
) -> Run:
    """Train a model and write a run folder. With several processes each takes its share of every batch.

    Raises UsageError for unknown names, missing data, a run folder that is in use; nothing has been written then.

    Args:
        recipe: a name in ``recipes.RECIPES``, or a Recipe.
        profile: ``mini``, ``small`` or ``full``; ``STLIB_PROFILE`` or ``mini`` by default.
        out: the run folder; by default ``RunConfig.folder``.
        resume: continue the unfinished run in ``out`` from its last whole checkpoint, to the same weights, bit for bit
            on a processor; from the start if there is none yet. All other arguments must be the same.
        choices: the fields of ``configure.Choices``.
    """
    config, rows = configure(recipe, profile, **choices)
    out = Path(out) if out else config.folder()
    runs.check_folder(out, config, resume)
    with runs.one_writer(out):
        return carry_out(config, rows, out, resume)


def carry_out(config: RunConfig, rows: Dataset, out: Path, resume: bool) -> Run:
    """Train what was configured, and write the run folder: the first of several processes does."""
    runs.check_folder(out, config, resume)  # again: another run may have come first
    asked = config.to_dict()
    soup = config.recipe.soup > 1
    checkpoint = runs.last_checkpoint(out, config) if resume and not soup else None
    loss = prepare_loss(config)  # the first thing that may fail: nothing is written before
    if is_first_process():
        if not soup:
            print(describe(config, loss.model, rows), flush=True)
        with runs.writing(out):
            out.mkdir(parents=True, exist_ok=True)
            runs.write_json(out / "unfinished.json", asked)
    found = carry_out_soup(config, rows, out) if soup else carry_out_steps(config, rows, out, loss, checkpoint)
    if is_first_process():
        finish(out, *found)
    PartialState().wait_for_everyone()
    return Run.load(out)


def carry_out_steps(config: RunConfig, rows: Dataset, out: Path, loss: nn.Module, checkpoint: str | None) -> tuple:
    """Take the steps of one run, from a checkpoint if there is one. Return what ``finish`` writes into ``out``."""
    head, started = head_of(loss), time.perf_counter()
    first_head = None if head is None else head.weight.detach().clone()
    with runs.writing(out):
        trainer = make_trainer(config, loss, rows, out)
        # A checkpoint of the last step: the run was interrupted while its end was written.
        if checkpoint is not None and runs.step_of(checkpoint) >= config.last_step:
            trainer.load_whole(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
    info = {
        **config.to_dict(),
        "steps": trainer.state.global_step,
        "batch_size": config.recipe.batch_size,
        "seconds": round(time.perf_counter() - started, 1),
        "resumed_at_step": runs.step_of(checkpoint) if checkpoint else 0,  # the seconds are those since then
        "head_moved": None if head is None else round(float((head.weight.detach() - first_head).norm()), 6),
        "difference_between_processes": difference_between_processes(trainer.model, trainer.loss),
        "hardware": describe_device(),
        "peak_memory_mb": runs.peak_memory_mb(config.device),
        "versions": runs.versions(),
    }
    log = pd.DataFrame([entry for entry in trainer.state.log_history if "loss" in entry])
    return trainer.model, head, log, info


def prepare_loss(config: RunConfig) -> nn.Module:
    """Return the loss with its encoder and head, and seed the generators as at step 0.

    Raises UsageError if the start holds no model, or one that the engine does not know.
    """
    set_seed(config.seed)
    start = None if config.start == "base" else runs.find_model_folder(config.start)
    model = load_encoder(start, config.device) if start else load_base(config.device)
    describe_model(model, config)
    model = prepare_encoder(config.recipe, model)
    if config.engine == "packed":
        PackedEncoder.check(model)
    return make_loss(config.recipe, model)


def make_trainer(config: RunConfig, loss: nn.Module, rows: Dataset, out: Path) -> NLITrainer:
    """Return the trainer for one run."""
    args, model = training_arguments(config, out / "checkpoints"), loss.model
    torch.manual_seed(config.seed + args.process_index)  # from here on: dropout, which differs between processes
    # Stopping logs and saves: a whole run has its last row at its own pace, as the card's has 137.
    stop = [StopAfter(config.last_step)] if config.last_step < config.total_steps else []
    options = {
        "model": model, "args": args, "train_dataset": rows, "loss": loss, "callbacks": [ProgressBar(config.last_step), *stop],
        "optimizers": make_optimizer(config.recipe, model, head_of(loss)),
    }  # fmt: skip
    if config.engine == "packed":
        with args.main_process_first(desc="tokenising"):
            name = f"{config.data_fingerprint}-{tokenizer_key(model.tokenizer, model.max_seq_length)}.arrow"
            with runs.writing(tokens := runs_folder() / "tokens", "make room, or set STLIB_RUNS to another folder"):
                path = tokenise(rows, model.tokenizer, model.max_seq_length, tokens / name)
        options |= {"tokens": path, "dtype": PRECISIONS[config.precision]}
    trainer = (PackedTrainer if config.engine == "packed" else NLITrainer)(**options)
    trainer.remove_callback(PrinterCallback)
    return trainer


def finish(out: Path, encoder: SentenceTransformer, head: nn.Linear | None, log: pd.DataFrame, info: dict) -> None:
    """Write model, card, log and run.json; run.json comes last and makes the run a finished one."""
    log = log.astype({"loss": float})
    data = encoder.eval().model_card_data
    data.training_logs = [{"Epoch": row.epoch, "Step": row.step, "Training Loss": row.loss} for row in log.itertuples()]
    lines = [f"{row.step},{row.epoch:.8f},{row.loss:.6f},{row.learning_rate:.8g}\n" for row in log.itertuples()]
    info["final_loss"] = round(log["loss"].iloc[-1], 4)
    with runs.writing(out):
        for old in sorted((out / "checkpoints").glob("checkpoint-*"), key=runs.step_of)[:-KEPT]:
            shutil.rmtree(old)  # left over if the run was killed while the library removed it
        temporary = out / "model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        save_encoder(encoder, temporary) if head is None else NLIClassifier(encoder, head).save(temporary)
        shutil.rmtree(out / "model", ignore_errors=True)  # there if the run was killed between here and its end
        temporary.rename(out / "model")
        remember(encoder, out)
        card = with_what_ran((out / "model" / "README.md").read_text(encoding="utf-8"), info)
        for folder in (out, out / "model"):
            runs.write_text(folder / "README.md", card)
        runs.write_text(out / "log.csv", "step,epoch,loss,learning_rate\n" + "".join(lines))
        runs.write_json(out / "run.json", info)
        (out / "unfinished.json").unlink()


def carry_out_soup(config: RunConfig, rows: Dataset, out: Path) -> tuple:
    """Train the runs of a soup into ``out/parts``, one seed after the other. Return what ``finish`` writes of their mean.

    Runs that differ in their seed alone end near each other, and what is chance in each of them partly cancels in the
    mean; asking it costs no more than asking one (Wortsman et al. 2022, arXiv 2203.05482). The log is the mean of theirs.
    """
    parts = []
    for seed in range(config.seed, config.seed + config.recipe.soup):
        part, folder = replace(config, recipe=replace(config.recipe, soup=1), seed=seed), out / "parts" / f"seed{seed}"
        found = runs.finished_run(folder, part)
        parts.append(found or carry_out(part, rows, folder, resume=(folder / "unfinished.json").exists()))
    info = {
        **parts[0].info,
        **config.to_dict(),
        "averaged": [part.info["seed"] for part in parts],
        "steps": sum(part.info["steps"] for part in parts),
        "seconds": round(sum(part.info["seconds"] for part in parts), 1),
    }
    encoder = average([load_encoder(part.model_folder, "cpu") for part in parts])
    recall(encoder, parts[0].folder)  # without it the library would copy the first part's card
    return encoder, None, pd.concat([part.log() for part in parts]).groupby("step", as_index=False).mean(), info


def average(models: Sequence[nn.Module]) -> nn.Module:
    """Return the first of ``models``, its weights replaced by the mean of all."""
    states = [model.state_dict() for model in models]
    for name, value in states[0].items():  # the tensors of the model itself
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(dim=0))
    return models[0]


def find_or_train(recipe: str | Recipe = "trained_head", profile: str | None = None) -> Run:
    """Return the run that a notebook trains: loaded if it is there and still fits, else trained now.

    A run fits if all that decides it is the same, but for the machine (engine, precision, device). While another process
    trains it, this one waits. A run of that name that does not fit is set aside under another name, never removed.
    """
    config, rows = configure(recipe, profile)
    folder = config.folder()
    if runs.finished_run(folder, config) is None:
        with runs.one_writer(folder, wait=True):
            if runs.finished_run(folder, config) is None:  # again: another process may have trained it meanwhile
                unfinished = folder / "unfinished.json"
                resume = unfinished.exists() and config.differs_from(runs.read_json(unfinished)) is None
                if folder.exists() and not resume:
                    print(f"{folder.name} was trained otherwise: it is now {runs.set_aside(folder).name}")
                return carry_out(config, rows, folder, resume)
    run = Run.load(folder)
    found = f"{run.info['steps']:,} steps on {run.info['rows']:,} {config.recipe.kind_of_rows()}"
    print(f"loaded the run {folder.name}: {found}")
    return run


def describe(config: RunConfig, model: SentenceTransformer, rows: Dataset) -> str:
    """Return what is about to be trained in one line, and how long it will take: on a GPU the bar alone can say that."""
    recipe, time_needed = config.recipe, "the bar says how long it takes"
    if config.device == "cpu":
        taken = config.last_step * recipe.batch_size
        seconds = bench.expected_seconds(model, rows, taken, config.engine, config.precision)
        time_needed = f"expect about {bench.in_words(seconds / config.processes)} on this machine"
    of = config.nli_split if recipe.data == "nli" else f"{recipe.data} {config.nli_split}"
    found = "" if config.source == "mini corpora" else f" ({rows.info.description})"
    return (
        f"training {recipe.name}, profile {config.profile}: {config.rows:,} {recipe.kind_of_rows()} of {of} "
        f"from {config.source}{found}, {config.last_step:,} steps of {recipe.batch_size}, "
        f"learning rate {recipe.learning_rate:g}, warm-up {recipe.warmup_steps} steps, {config.engine} engine, "
        f"{config.precision} on {config.device}; {time_needed}"
    )

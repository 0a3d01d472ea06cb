"""Training: one recipe, one profile, one run folder, with the library's own trainer."""

import json
import math
import re
import shutil
import time
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import SoftmaxLoss
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from stlib import corpora
from stlib.base_model import load_base, quiet_loading
from stlib.errors import UsageError
from stlib.mini.nli_grammar import GRAMMAR_VERSION
from stlib.nli_classifier import NLIClassifier, load_head, save_head
from stlib.profiles import (
    Profile,
    best_device,
    best_precision,
    describe_device,
    get_profile,
    max_steps_from_environment,
    runs_folder,
)
from stlib.recipes import Recipe, get_recipe, make_optimizer, prepare_loss
from stlib.runs import Run, peak_memory_mb, progress_disabled, replace_folder, versions, write_json

SEED = 42  # the card's


class NLITrainer(SentenceTransformerTrainer):
    """The library's trainer, whose checkpoints also hold the classifier head.

    The library saves the encoder only, so a resumed run would start again from a random head.
    """

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        with quiet_loading():
            super()._save(output_dir, state_dict)
        save_head(self.loss.classifier, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        super()._load_from_checkpoint(checkpoint_path)
        head, _ = load_head(Path(checkpoint_path))
        self.loss.classifier.load_state_dict(head.state_dict())


class ProgressBar(TrainerCallback):
    """A bar with step, loss and time left; off where ``TQDM_DISABLE=1``."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", desc="training", disable=progress_disabled()
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class LossWatch(TrainerCallback):
    """Stops the run when the loss is no longer a number, instead of training on."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and not math.isfinite(float(logs["loss"])):
            raise UsageError(
                f"the loss is {logs['loss']} at step {state.global_step}: look at the last {args.logging_steps} batches before it, "
                "lower the learning rate, or set STLIB_PRECISION=fp32"
            )


class StopAfter(TrainerCallback):
    """Ends a run early without touching its schedule, which ``max_steps`` of the library would reshape."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.steps:
            control.should_training_stop = control.should_log = control.should_save = True


def steps_an_epoch(rows: int, batch_size: int) -> int:
    """Steps in one pass, the last and smaller batch included."""
    return math.ceil(rows / batch_size)


def training_arguments(
    folder: Path, profile: Profile, recipe: Recipe, seed: int, log_every: int, save_every: int, device: str
):
    """The library's arguments for one run: what ``recipe`` decides beyond them is in its optimizer and schedule."""
    precision = best_precision(device)
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=profile.epochs,
        per_device_train_batch_size=profile.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        logging_steps=log_every,
        logging_nan_inf_filter=False,  # the default would log a loss that is not a number as zero
        save_steps=save_every,
        save_total_limit=2,
        seed=seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        report_to="none",
        disable_tqdm=True,  # ProgressBar draws the bar
    )


def make_trainer(
    model: SentenceTransformer,
    loss: SoftmaxLoss,
    dataset: Dataset,
    args,
    recipe: Recipe,
    total_steps: int,
    last_step: int,
) -> NLITrainer:
    """The trainer for one run. The loss must have been prepared with ``recipes.prepare_loss``."""
    optimizers = make_optimizer(recipe, model, loss.classifier, total_steps)
    callbacks = [ProgressBar(), LossWatch()]
    if last_step < total_steps:
        callbacks.append(StopAfter(last_step))
    trainer = NLITrainer(
        model=model, args=args, train_dataset=dataset, loss=loss, optimizers=optimizers, callbacks=callbacks
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


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
) -> Run:
    """Train the base model on NLI pairs with SoftmaxLoss and write a run folder.

    Args:
        recipe: a name in ``recipes.RECIPES``, or a Recipe.
        profile: ``mini``, ``small`` or ``full``; ``STLIB_PROFILE`` or ``mini`` by default.
        out: the run folder; by default one under ``runs/`` named after recipe, profile and split.
        data: ``mini``, ``hub`` or a folder; ``STLIB_DATA`` or the profile's own by default.
        nli_split: the rows to train on; ``STLIB_NLI_SPLIT`` or the profile's own by default.
        max_steps: stop after so many steps; the schedule stays that of the whole run.
        seed: of the head's initial weights, the order of the pairs and dropout.
        log_every: steps between rows of ``log.csv``.
        resume: continue the unfinished run in ``out`` from its last checkpoint.

    Raises:
        UsageError: unknown names, missing data, a run folder that is in use; nothing has been written then.
    """
    request = make_request(recipe, profile, data, nli_split, max_steps, seed)
    recipe, chosen = get_recipe(recipe), get_profile(profile)
    out = Path(out) if out else default_folder(request)
    check_folder(out, resume)
    dataset = load_pairs(request, data, chosen)
    total_steps = chosen.epochs * steps_an_epoch(len(dataset), chosen.batch_size)
    last_step = min(request["max_steps"] or total_steps, total_steps)
    if chosen.rate_scale != 1:
        recipe = recipe.fitted_to(total_steps, chosen.rate_scale)
    device = best_device()
    print(describe(request, recipe, chosen, len(dataset), last_step, device))

    set_seed(seed)
    model = load_base(device)
    loss = SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=3)
    prepare_loss(recipe, loss)
    first_head = loss.classifier.weight.detach().clone()

    checkpoint = last_checkpoint(out) if resume else None
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "unfinished.json", request)
    log_every = min(log_every or chosen.log_every, last_step)
    # Checkpoints fall on rows of the log, so that the first row after a resumed one averages over all of its steps.
    save_every = max(1, min(5_000, total_steps // 2) // log_every) * log_every
    args = training_arguments(out / "checkpoints", chosen, recipe, seed, log_every, save_every, device)
    trainer = make_trainer(model, loss, dataset, args, recipe, total_steps, last_step)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started

    info = {
        **request,
        "recipe": recipe.to_dict(),
        "rows": len(dataset),
        "data_fingerprint": corpora.fingerprint(dataset),
        "steps": trainer.state.global_step,
        "total_steps": total_steps,
        "epochs": chosen.epochs,
        "batch_size": chosen.batch_size,
        "engine": "stock",
        "precision": best_precision(device),
        "hardware": describe_device(),
        "seconds": round(seconds, 1),
        "peak_memory_mb": peak_memory_mb(device),
        "head_moved": round(float((loss.classifier.weight.detach() - first_head).norm()), 6),
        "versions": versions(),
    }
    return finish(out, trainer, info)


def finish(out: Path, trainer: NLITrainer, info: dict) -> Run:
    """Write model, head, log, card and run.json; run.json comes last and makes the run a finished one."""
    temporary = out / "model.tmp"
    trainer.model.eval()
    NLIClassifier(trainer.model, trainer.loss.classifier).save(temporary)
    replace_folder(temporary, out / "model")
    shutil.copyfile(out / "model" / "README.md", out / "README.md")
    rows = [entry for entry in trainer.state.log_history if "loss" in entry]
    lines = [
        f"{row['step']},{row['epoch']:.6f},{float(row['loss']):.6f},{float(row['learning_rate']):.8g}" for row in rows
    ]
    (out / "log.csv").write_text("\n".join(["step,epoch,loss,learning_rate", *lines]) + "\n", encoding="utf-8")
    info["final_loss"] = round(float(rows[-1]["loss"]), 4)
    write_json(out / "run.json", info)
    (out / "unfinished.json").unlink()
    return Run.load(out)


def find_or_train(recipe: str = "trained_head", profile: str | None = None) -> Run:
    """The run that notebook 03 trains: loaded where it is there and still fits, else trained now.

    A run fits when recipe, profile, data, split, seed and steps are the same.
    """
    request = make_request(recipe, profile, None, None, None, SEED)
    folder = default_folder(request)
    if (folder / "run.json").exists():
        run = Run.load(folder)
        if fits(run, request):
            print(f"loaded the run {folder.name}: {run.info['steps']:,} steps on {run.info['rows']:,} pairs")
            return run
    if folder.exists():
        shutil.rmtree(folder)
    return train(recipe, profile)


def fits(run: Run, request: dict) -> bool:
    """Whether ``run`` is what ``request`` would train."""
    recipe, profile = get_recipe(request["recipe"]), get_profile(request["profile"])
    if profile.rate_scale != 1:
        recipe = recipe.fitted_to(run.info["total_steps"], profile.rate_scale)
    asked = {**request, "recipe": recipe.to_dict()}
    return all(run.info.get(key) == value for key, value in asked.items())


def check_data() -> None:
    """Raise UsageError where the training or the test pairs of the chosen profile cannot be had; costs no training."""
    request = make_request("trained_head", None, None, None, None, SEED)
    profile = get_profile()
    load_pairs(request, None, profile)
    corpora.nli("test", corpora.get_source(None, profile))


def make_request(recipe, profile, data, nli_split, max_steps, seed) -> dict:
    """What was asked for, with names resolved: the same request means the same run."""
    chosen = get_profile(profile)
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps is {max_steps}: choose a number of steps above zero")
    return {
        "recipe": get_recipe(recipe).name,
        "profile": chosen.name,
        "source": str(corpora.get_source(data, chosen)),
        "nli_split": nli_split or corpora.train_split(chosen),
        "max_steps": max_steps or max_steps_from_environment(),
        "seed": seed,
        "grammar_version": GRAMMAR_VERSION,
    }


def load_pairs(request: dict, data, profile: Profile) -> Dataset:
    dataset = corpora.nli(request["nli_split"], corpora.get_source(data, profile))
    if len(dataset) < profile.batch_size:
        raise UsageError(
            f"the split {request['nli_split']!r} has {len(dataset)} pairs, fewer than one batch of {profile.batch_size}: choose a larger split"
        )
    return dataset


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


def last_checkpoint(out: Path) -> str:
    checkpoint = get_last_checkpoint(str(out / "checkpoints")) if (out / "checkpoints").is_dir() else None
    if checkpoint is None:
        raise UsageError(f"{out} has no checkpoint yet: remove the folder and start again")
    before = json.loads((out / "unfinished.json").read_text(encoding="utf-8"))
    print(f"resuming {before['recipe']} at {Path(checkpoint).name}")
    return checkpoint


def describe(request: dict, recipe: Recipe, profile: Profile, rows: int, last_step: int, device: str) -> str:
    """What is about to be trained, in one line."""
    expected = profile.time_cpu if device == "cpu" else profile.time_gpu
    scaled = " (schedule and rate fitted to this short run)" if profile.rate_scale != 1 else ""
    return (
        f"training {recipe.name}, profile {profile.name}: {rows:,} pairs of {request['nli_split']} from {request['source']}, "
        f"{last_step:,} steps of {profile.batch_size}, learning rate {recipe.learning_rate:g}, warm-up {recipe.warmup_steps} steps{scaled}, "
        f"{best_precision(device)} on {device}; expect {expected}"
    )

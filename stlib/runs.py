"""A run: what decides it (``RunConfig``), what it leaves behind (``Run``), and safe ways to write that.

model/        loads with plain ``SentenceTransformer(path)``; with SoftmaxLoss also nli_head.safetensors and nli_head.json
log.csv       step, epoch, loss (mean since the row before), learning_rate
run.json      the RunConfig as a dict, and what happened: steps and their batch size, seconds, where it was resumed, how far
              the head moved, final loss, versions, hardware, peak memory, difference between processes, seeds of a soup
README.md     the model card
card.json     what the card's generator knows, for python -m stlib card
checkpoints/  encoder, head, optimizer, scheduler and random states, for --resume
"""

import contextlib
import importlib.metadata
import itertools
import json
import platform
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import filelock
import pandas as pd
import psutil
import torch
from safetensors import SafetensorError

from stlib.errors import UsageError
from stlib.recipes import Recipe
from stlib.settings import PROFILES, is_first_process, runs_folder

SEED = 42  # the card's
PACKAGES = ("torch", "sentence-transformers", "transformers", "datasets", "accelerate", "tokenizers", "numpy")
# What is said of a run but does not decide it: the rows' fingerprint tells where they differ, whatever the folder's name.
UNDECIDED = ("source",)
MACHINE = ("engine", "precision", "device", "processes", "log_every")
FULL_DISK = "make room or choose another --out; whole checkpoints stay, and --resume continues from the last"


@dataclass(frozen=True)
class RunConfig:
    """All that decides a run, once. ``configure`` makes one; ``run.json`` is its dict and what happened."""

    recipe: Recipe  # as it trains, fitted to this run
    profile: str
    source: str  # where the rows came from, in words
    nli_split: str  # the rows of the source that it trains on (for a recipe on STS pairs: their split)
    data_fingerprint: str  # of these rows
    rows: int
    start: str  # the run or model folder to train on, or ``base``
    seed: int  # of the head's initial weights, the order of the rows and dropout
    epochs: int
    total_steps: int  # of the whole schedule
    last_step: int  # where this run stops
    log_every: int  # steps between two rows of ``log.csv``
    engine: str  # ``packed`` or ``stock``
    precision: str  # of the encoder's products: ``fp32``, ``bf16`` or ``fp16``
    device: str  # ``cpu``, ``cuda`` or ``mps``
    processes: int  # how many share each batch

    def to_dict(self) -> dict:
        """Return the fields as JSON would give them back."""
        return json.loads(json.dumps(asdict(self)))

    def differs_from(self, found: dict, besides: tuple[str, ...] = UNDECIDED) -> str | None:
        """Return the first field that ``found`` (of ``run.json``) has otherwise, or None. ``besides`` are not looked at.

        A field of the recipe is named as ``recipe.NAME``.
        """
        mine, recipe = self.to_dict(), found.get("recipe")
        if isinstance(recipe, dict):
            for name in mine["recipe"] | recipe:
                if mine["recipe"].get(name) != recipe.get(name):
                    return f"recipe.{name}"
        return next((name for name in mine if name not in besides and mine[name] != found.get(name)), None)

    def folder(self) -> Path:
        """Return ``runs/RECIPE-PROFILE``, with the split, the steps and the seed if they are not the profile's."""
        parts = [self.recipe.name, self.profile]
        if self.recipe.data == "nli" and self.nli_split != PROFILES[self.profile].train_split:
            parts.append(re.sub(r"\W+", "_", self.nli_split).strip("_"))
        if self.last_step < self.total_steps:
            parts.append(f"{self.last_step}steps")
        if self.seed != SEED:
            parts.append(f"seed{self.seed}")
        return runs_folder() / "-".join(parts)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what ``run.json`` says."""

    folder: Path
    info: dict

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a finished run. Raises UsageError if the folder has none, or one that another version wrote."""
        folder = Path(folder)
        if (folder / "run.json").is_file():
            info = read_json(folder / "run.json")
            settings, of_recipe = ({field.name for field in fields(kind)} for kind in (RunConfig, Recipe))
            if settings - info.keys() or set(info["recipe"]) - of_recipe:
                way_out = f"train the run again with another --out, or name its model, {folder / 'model'}"
                raise UsageError(f"another version wrote {folder / 'run.json'}: {way_out}")
            return cls(folder, info)
        problem = f"does not exist: train one with python -m stlib train --out {folder}"
        if folder.is_dir():
            problem = "holds no run.json: finish it or name another folder"
        if (folder / "unfinished.json").exists():
            problem = "holds an unfinished run (continue it with --resume): finish it or name another folder"
        raise UsageError(f"the run folder {folder} {problem}")

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def log(self) -> pd.DataFrame:
        """Return the loss curve, one row per log entry: ``step``, ``epoch``, ``loss`` (nats), ``learning_rate``."""
        return pd.read_csv(self.folder / "log.csv")


def find_model_folder(folder: str | Path) -> Path:
    """Return the model folder that ``folder`` is, or that the finished run in it has. Raises UsageError if it is neither."""
    folder = Path(folder)
    found = folder if (folder / "modules.json").is_file() else Run.load(folder).model_folder
    if not (found / "modules.json").is_file():
        raise UsageError(f"{found} holds no model (modules.json is missing): train it again, or name another folder")
    return found


def read_json(path: Path) -> dict:
    """Return what ``write_json`` wrote. Raises UsageError if the file is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        way_out = "the file was changed or cut; move the folder away and make it again"
        raise UsageError(f"{path} is no JSON ({error}): {way_out}") from error


def write_json(path: Path, content: dict) -> None:
    """Write ``content`` atomically. Raises ValueError for a number that JSON does not know, such as NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with replacing(path) as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: Path, newline: str | None = None) -> Iterator:
    """Give a text file to write beside ``path``, which takes its place once all is written, and goes if something fails."""
    # Hidden, as others may list the folder at this moment, and the only one of its name, as others may write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline=newline) as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def one_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other runs out of the folder for as long as this one writes it: the first of its processes has the lock.

    The lock goes with the process, also when that is killed. If another run has it, this one waits for it and says so,
    or without ``wait`` raises UsageError.
    """
    if not is_first_process():
        yield
        return
    place = folder.resolve()  # one lock, by whichever link the folder is named
    lock = filelock.FileLock(place.parent / f".{place.name}.lock")
    with writing(folder):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not wait:
                way_out = "wait for it, or choose another --out"
                raise UsageError(f"another process is training into {folder}: {way_out}") from None
            print(f"waiting for another process that trains {folder.name}", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def set_aside(folder: Path) -> Path:
    """Rename ``folder`` to the first free one of ``NAME.old-1``, ``NAME.old-2``, …, and return that."""
    names = (folder.with_name(f"{folder.name}.old-{number}") for number in itertools.count(1))
    return folder.rename(next(name for name in names if not name.exists()))


@contextlib.contextmanager
def writing(folder: Path, way_out: str = FULL_DISK) -> Iterator[None]:
    """Turn what goes wrong while ``folder`` is written into one sentence: a full disk, a folder that may not be written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # safetensors and torch have types of their own for it
        known = re.search(r"No space left on device|PytorchStreamWriter failed|unexpected pos|os error \d+", str(error))
        if isinstance(error, RuntimeError) and not known:
            raise
        reason = getattr(error, "strerror", None) or (known[0] if known else str(error))
        raise UsageError(f"{folder} could not be written ({reason}): {way_out}") from error


def check_folder(out: Path, config: RunConfig, resume: bool) -> None:
    """Raise UsageError if ``out`` cannot take the run, or holds one with other settings, which would not continue as begun."""
    if not (resume or is_first_process()):
        return  # the first process, which looks too, may have begun to write
    unfinished = out / "unfinished.json"
    begun, problem = unfinished.exists(), None
    if out.exists() and not out.is_dir():
        problem = "is a file: choose a folder for the run"
    elif (out / "run.json").exists():
        problem = "already holds a finished run: choose another --out, or move it away"
    elif resume and not begun:
        problem = "holds no unfinished run to resume: start one without --resume"
    elif begun and not resume:
        problem = "holds an unfinished run: continue it with --resume, or choose another --out"
    elif not begun and out.is_dir() and any(out.iterdir()):
        problem = "holds other files: choose a new or an empty folder for the run"
    elif resume and (name := config.differs_from(read_json(unfinished))):
        problem = f"was started with another {name}: resume it with the same settings, or choose another --out"
    if problem:
        raise UsageError(f"{out} {problem}")


def finished_run(folder: Path, config: RunConfig) -> Run | None:
    """Return the finished run in ``folder`` if it is what ``config`` would train on any machine, else None."""
    info = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    return Run(folder, info) if config.differs_from(info, UNDECIDED + MACHINE) is None else None


def last_checkpoint(out: Path, config: RunConfig) -> str | None:
    """Return the last whole checkpoint of the unfinished run in ``out``; None if it was interrupted before the first one."""
    found = [folder for folder in (out / "checkpoints").glob("checkpoint-*") if is_whole(folder, config.processes)]
    last = max(found, key=step_of, default=None)
    if is_first_process():
        at_step = f"resuming {config.recipe.name} at step {step_of(last):,}" if last else ""
        print(at_step or f"{out} has no checkpoint yet: the run starts again")
    return str(last) if last else None


def step_of(checkpoint: str | Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


def is_whole(checkpoint: Path, processes: int) -> bool:
    """Return whether all of a checkpoint was written: the state last, but for other processes' random states.

    The library's own ``get_last_checkpoint`` takes the folder with the highest number, whole or not.
    """
    ranks = [""] if processes == 1 else [f"_{rank}" for rank in range(processes)]
    try:
        read_json(checkpoint / "trainer_state.json")
    except (OSError, UsageError):
        return False
    return all((checkpoint / f"rng_state{rank}.pth").is_file() for rank in ranks)


def versions() -> dict[str, str]:
    """Return the versions of Python, the system and the packages that decide a result."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.system(), **packages}


def peak_memory_mb(device: str) -> int:
    """Return the most memory this process (on CUDA: its tensors on the card) has held so far, in MB of 2^20 bytes."""
    memory = psutil.Process().memory_info()
    most = getattr(memory, "peak_wset", memory.rss)  # macOS has no peak here: what is held now
    if device == "cuda":
        most = torch.cuda.max_memory_allocated()
    elif sys.platform == "linux":  # not ru_maxrss, which a process takes over from the one that started it
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        most = int(found[1]) * 2**10 if found else most
    return round(most / 2**20)

"""A run folder: what a training run leaves behind, written and read in one place.

model/        loads with plain ``SentenceTransformer(path)``; also nli_head.safetensors and nli_head.json
log.csv       step, epoch, loss, learning_rate
run.json      recipe, profile, seed, versions, device, data fingerprint, seconds, peak memory
README.md     the model card
card.json     what the card's generator knows, for python -m stlib card
checkpoints/  encoder, head, optimizer, scheduler and random states, for --resume
"""

import contextlib
import importlib.metadata
import json
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import filelock
import pandas as pd
from safetensors import SafetensorError

from stlib import progress
from stlib.errors import UsageError

PACKAGES = ("torch", "sentence-transformers", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what ``run.json`` says."""

    folder: Path
    info: dict

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a finished run. Raises UsageError where the folder holds none."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(
                f"the run folder {folder} does not exist: train one with python -m stlib train --out {folder}"
            )
        if not (folder / "run.json").is_file():
            state = (
                "an unfinished run (continue it with --resume)"
                if (folder / "unfinished.json").exists()
                else "no run.json"
            )
            raise UsageError(f"the run folder {folder} holds {state}: finish it or name another folder")
        return cls(folder, read_json(folder / "run.json"))

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def log(self) -> pd.DataFrame:
        """The loss curve, one row a log entry: ``step``, ``epoch``, ``loss`` (mean since the last row), ``learning_rate``."""
        return pd.read_csv(self.folder / "log.csv")


def find_model_folder(folder: str | Path) -> Path:
    """The model folder that ``folder`` is, or that the finished run in it has. Raises UsageError where it is neither."""
    folder = Path(folder)
    found = folder if (folder / "modules.json").is_file() else Run.load(folder).model_folder
    if not (found / "modules.json").is_file():
        raise UsageError(
            f"{found} holds no model (modules.json is missing): train the run again, or name another folder"
        )
    return found


def read_json(path: Path) -> dict:
    """What ``write_json`` wrote. Raises UsageError where the file is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{path} is no JSON ({error}): the file was changed or cut; remove the folder and make it anew"
        ) from error


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``: the file is whole or absent."""
    with replacing(path) as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: Path, newline: str | None = None):
    """A text file to write beside ``path``, which takes its place once all is written, and goes where something fails."""
    temporary = path.with_name(f".{path.name}.tmp")  # hidden: others may list the folder at this moment
    try:
        with temporary.open("w", encoding="utf-8", newline=newline) as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(new: Path, old: Path) -> None:
    """Put the folder ``new`` in the place of ``old``, which may or may not exist."""
    if old.exists():
        shutil.rmtree(old)
    new.rename(old)


@contextlib.contextmanager
def one_writer(folder: Path, wait: bool = False):
    """Keep other processes out of the run folder for as long as this one writes it.

    The lock goes with the process that holds it, also when that is killed.

    Args:
        wait: whether to wait for another process that has the lock, and to say so.

    Raises:
        UsageError: another process has the lock, and ``wait`` is False.
    """
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            if not wait:
                raise UsageError(
                    f"another process is training into {folder}: wait for it, or choose another --out"
                ) from None
            wait_for(lock, folder)
    try:
        yield
    finally:
        lock.release()


def wait_for(lock: filelock.BaseFileLock, folder: Path) -> None:
    """Acquire ``lock`` as soon as the process that trains into ``folder`` lets go of it."""
    print(f"waiting for another process that trains {folder.name}", flush=True)
    with progress.bar(desc="waiting", bar_format="{desc}: {elapsed}") as bar:
        while not lock.is_locked:
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=1)
            bar.refresh()


def set_aside(folder: Path) -> Path:
    """Rename ``folder`` to the first free one of ``NAME.old-1``, ``NAME.old-2``, …, and return that."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
    return target


@contextlib.contextmanager
def writing(folder: Path):
    """Turn what goes wrong while ``folder`` is written into one sentence: a full disk, a folder that may not be written.

    The libraries raise errors of their own for it: safetensors, torch's archive writer, and the system's.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(cannot_write(folder, error.strerror or str(error))) from error
    except (SafetensorError, RuntimeError) as error:
        known = re.search(r"No space left on device|PytorchStreamWriter failed|unexpected pos|os error \d+", str(error))
        if not isinstance(error, SafetensorError) and not known:
            raise
        raise UsageError(cannot_write(folder, known[0] if known else str(error))) from error


def cannot_write(folder: Path, reason: str) -> str:
    return (
        f"{folder} could not be written ({reason}): make room or choose another --out; checkpoints that are whole "
        "stay, and --resume continues from the last"
    )


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.system(), **found}


def peak_memory_mb(device: str) -> int:
    """The most memory this process (on CUDA: its tensors on the card) has held so far, in MB."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**20)
    if sys.platform == "linux":  # not ru_maxrss, which a process takes over from the one that started it
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10)
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)  # bytes, on macOS

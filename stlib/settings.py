"""What is set from outside: profiles, device, precision, progress bars, and the environment's variables.

| variable | meaning |
| --- | --- |
| `STLIB_PROFILE` | the profile, if no other is asked for |
| `STLIB_DATA`, `STLIB_NLI_SPLIT` | data folder (or `hub`) and NLI rows, instead of the profile's |
| `STLIB_MAX_STEPS` | the step after which training stops |
| `STLIB_RUNS` | where run folders go |
| `STLIB_DEVICE`, `STLIB_PRECISION` | device and precision, instead of the best ones |
| `STLIB_PROGRESS=text`, `TQDM_DISABLE=1` | bars as lines of text; no bars |
"""

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tqdm.auto
import tqdm.std

from stlib.errors import UsageError

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
STS_TASKS = ("sts12-sts", "sts13-sts", "sts14-sts", "sts15-sts", "sts16-sts", "stsbenchmark-sts", "sickr-sts")
# One line of plain text per refresh: what a program that runs a notebook can pass on to a terminal.
TEXT_BAR = "{desc}: {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"


@dataclass(frozen=True)
class Profile:
    """One size of the course."""

    name: str
    source: str  # where the corpora come from unless you say otherwise: mini (shipped) or hub
    train_split: str  # the NLI rows to train on, in the library's split syntax
    test_split: str  # the rows of the NLI test split to score
    epochs: int
    log_every: int  # steps between two rows of log.csv
    # Factors on the encoder's learning rate, and on the batch and the head's rate, of recipes that leave the length of
    # the run to the profile: a run of a hundred steps needs higher rates than one of tens of thousands.
    rate_scale: float
    batch_scale: int
    sts_tasks: tuple[str, ...]
    classification_tasks: tuple[str, ...]


ALL_TASKS = ("mr", "cr", "subj", "mpqa", "sst2", "trec", "banking77")
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("mini", "mini", "train[:8640]", "test[:1500]", 1, 5, 15, 2, ("sts",), ("question_topic", "opinion")),
        Profile("small", "hub", "train[:20000]", "test", 1, 10, 5, 1, STS_TASKS, ("cr", "trec", "sst2", "banking77")),
        Profile("full", "hub", "train", "test", 4, 500, 1, 1, STS_TASKS, ALL_TASKS),
    )
}


def get_profile(name: str | None = None) -> Profile:
    """Return the profile ``name``, ``STLIB_PROFILE`` or ``mini``, with ``STLIB_NLI_SPLIT``. Raises UsageError if it is unknown."""
    name = name or os.environ.get("STLIB_PROFILE") or "mini"
    if name not in PROFILES:
        raise UsageError(f"there is no profile {name!r}: set STLIB_PROFILE or --profile to {', '.join(PROFILES)}")
    return replace(PROFILES[name], train_split=os.environ.get("STLIB_NLI_SPLIT") or PROFILES[name].train_split)


def whole_number(variable: str) -> int | None:
    """Return what a variable of the environment is set to, or None. Raises UsageError if that is no whole number above zero."""
    text = os.environ.get(variable)
    if text and (not text.isdecimal() or int(text) < 1):
        raise UsageError(f"{variable} is {text!r}: set it to a whole number above zero, or unset it")
    return int(text) if text else None


def runs_folder() -> Path:
    """Return where run folders go: ``STLIB_RUNS``, else ``runs/`` of the checkout, else ``runs/`` of the current folder.

    Raises UsageError if ``STLIB_RUNS`` is a file.
    """
    if asked := os.environ.get("STLIB_RUNS"):
        if Path(asked).is_file():
            raise UsageError(f"STLIB_RUNS is {asked!r}, which is a file: set it to a folder, or unset it")
        return Path(asked)
    checkout = Path(__file__).resolve().parents[1]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "runs"


def output_file(path: str | Path) -> Path:
    """Return the file to write, links followed. Raises UsageError if it is no file, or lies where none can be written."""
    target = Path(os.path.realpath(path))
    above = next((folder for folder in target.parents if folder.exists()), target.parent)
    if str(path) == "-" or (Path(path).exists() and not Path(path).is_file()):
        raise UsageError(f"{path} is no file: choose a file to write")
    if not above.is_dir():
        raise UsageError(f"{path} cannot be written, as {above} is no folder: choose another file")
    if not os.access(above, os.W_OK):
        raise UsageError(f"{path} cannot be written, as {above} is read-only (Permission denied): choose another file")
    return target


def best_device() -> str:
    """Return ``STLIB_DEVICE``, else ``cuda`` or ``mps`` if there is one, else ``cpu``."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    possible = [name for name, is_here in here.items() if is_here]
    return chosen_outside("STLIB_DEVICE", possible) or possible[0]


def best_precision(device: str) -> str:
    """Return ``STLIB_PRECISION``, else ``bf16`` if the device multiplies it natively, ``fp16`` on older CUDA cards, ``fp32``.

    On a processor without native bf16 the numbers would be emulated, which is slower than fp32.
    """
    possible = PRECISIONS if device != "cpu" else ("bf16", "fp32")  # processors multiply no fp16
    if asked := chosen_outside("STLIB_PRECISION", possible):
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    native = device == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if native else "fp32"


def chosen_outside(variable: str, possible: Iterable[str]) -> str | None:
    """Return what a variable of the environment is set to, if it is. Raises UsageError if that is not ``possible`` here."""
    asked = os.environ.get(variable)
    if asked and asked not in possible:
        raise UsageError(f"{variable} is {asked!r}: set it to one of those here ({', '.join(possible)}), or unset it")
    return asked


def describe_device() -> str:
    """Return one line on the machine, for ``run.json``: the processor or card, cores and threads in use."""
    device = best_device()
    if device == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"{device}: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def processes() -> int:
    """Return how many processes train together: as many as torchrun or accelerate started."""
    if "LOCAL_RANK" not in os.environ:  # a cluster may set WORLD_SIZE for other purposes
        return 1
    return whole_number("WORLD_SIZE") or 1


def is_first_process() -> bool:
    """Return whether this process writes the run folder: the only one, or the first that torchrun or accelerate started."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def progress_bar(iterable: Iterable | None = None, **options):
    """Return a bar of tqdm, with its options, which appears once the work takes longer than a second."""
    off = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    options = {"delay": 1, "leave": False, **options, "disable": options.get("disable", False) or off}
    if os.environ.get("STLIB_PROGRESS") != "text":
        return tqdm.auto.tqdm(iterable, **options)
    # All bars share one line, so no cursor has to move between them. No terminal need be there to ask for its size.
    text = {"bar_format": TEXT_BAR, "position": 0, "ncols": 100, "nrows": 20, "file": sys.stderr, "mininterval": 0.5}
    return tqdm.std.tqdm(iterable, **{**text, **options})

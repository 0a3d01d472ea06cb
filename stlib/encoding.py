"""Embeddings for evaluation: each distinct sentence once, however many columns and tasks it stands in."""

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from stlib.errors import UsageError
from stlib.packed import PackedEncoder
from stlib.runs import progress_disabled

BATCH_TOKENS = {"fp32": 2_048, "bf16": 4_096}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class EncodeOnce:
    """A model whose ``encode`` remembers: a sentence that was encoded before costs nothing.

    On a processor the sentences run through the packed engine, sorted by length; on other devices, and for models that
    the packed engine does not know, through the library's own ``encode``. ``tests/test_encoding.py`` holds the two
    against each other.

    Args:
        model: any ``SentenceTransformer``.
        precision: of the matrix products, ``fp32`` or ``bf16``. Scores are published in fp32.
        batch_tokens: tokens a batch of the packed engine, give or take a sentence. By default what was fastest on two
            cores: more in bf16, whose products need larger matrices to be at their best.

    Raises:
        UsageError: an unknown precision.
    """

    def __init__(self, model: SentenceTransformer, precision: str = "fp32", batch_tokens: int | None = None):
        if precision not in PRECISIONS:
            raise UsageError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        self.model, self.precision = model, precision
        self.batch_tokens = batch_tokens or BATCH_TOKENS[precision]
        self.rows: dict[str, int] = {}
        self.embeddings = np.empty((0, model.get_embedding_dimension()), dtype=np.float32)

    def encode(self, sentences: Sequence[str], progress: bool = False) -> np.ndarray:
        """Embeddings of the sentences, shape (n, d), float32, in the order given."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.rows]
        if new:
            known = len(self.rows)
            self.rows.update({sentence: known + i for i, sentence in enumerate(new)})
            self.embeddings = np.concatenate([self.embeddings, self.encode_distinct(new, progress)])
        return self.embeddings[[self.rows[sentence] for sentence in sentences]]

    def encode_distinct(self, sentences: list[str], progress: bool) -> np.ndarray:
        packed = self.packed_encoder()
        if packed is not None:
            return encode_packed(self.model, packed, sentences, self.batch_tokens, progress)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            embeddings = self.model.encode(sentences, batch_size=64, show_progress_bar=progress)
        return embeddings.astype(np.float32, copy=False)

    def packed_encoder(self) -> PackedEncoder | None:
        """The packed engine for this model, or None where the library encodes."""
        if self.model.device.type != "cpu" or self.model.default_prompt_name:
            return None
        try:
            return PackedEncoder(self.model, PRECISIONS[self.precision])
        except UsageError:
            return None


def remembering(model: SentenceTransformer | EncodeOnce) -> EncodeOnce:
    """``model`` itself where it remembers already."""
    return model if isinstance(model, EncodeOnce) else EncodeOnce(model)


def encode_packed(
    model: SentenceTransformer, encoder: PackedEncoder, sentences: list[str], batch_tokens: int, progress: bool
) -> np.ndarray:
    """Embeddings (n, d) of distinct sentences: the longest first, so that a batch that is too large fails at once."""
    backend = model.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(model.max_seq_length)
    ids = [np.asarray(encoding.ids) for encoding in backend.encode_batch_fast(sentences)]
    lengths = np.array([len(row) for row in ids])
    order = np.argsort(-lengths, kind="stable")
    embeddings = np.empty((len(sentences), model.get_embedding_dimension()), dtype=np.float32)
    model.eval()
    tokens_before = np.cumsum(lengths[order]) - lengths[order]
    batches = np.split(order, np.flatnonzero(np.diff(tokens_before // batch_tokens)) + 1) if len(order) else []
    for rows in tqdm(batches, desc="encoding", unit="batch", disable=not progress or progress_disabled()):
        with torch.inference_mode():
            batch = encoder(torch.from_numpy(np.concatenate([ids[i] for i in rows])), lengths[rows].tolist())
        embeddings[rows] = batch.numpy()
    return embeddings

"""Embeddings for evaluation: each distinct sentence once, however many columns and tasks it stands in."""

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from stlib import progress
from stlib.errors import UsageError

BATCH_TOKENS = 4_096  # what was fastest on two cores
PRECISIONS = ("fp32", "bf16")


class EncodeOnce:
    """A model whose ``encode`` remembers: a sentence that was encoded before costs nothing.

    The library sorts the sentences of a column by length and pads each batch to its longest. Here a batch holds
    sentences of one length, so that nothing is padded, and sentences that the tokenizer does not tell apart ("A man."
    and "a man.") are encoded together. The model is called as the library calls it; ``tests/test_encoding.py`` holds
    the embeddings against the library's.

    Args:
        model: any ``SentenceTransformer``. One that adds a prompt, or does not start with a transformer and a fast
            tokenizer, goes through the library's own ``encode``.
        precision: of the matrix products, ``fp32`` or ``bf16``. Scores are published in fp32.
        batch_tokens: tokens a batch, at most, if one sentence has no more.

    Attributes:
        rows: sentence -> its row of ``embeddings``. Sentences with the same tokens may share one.
        embeddings: (m, d), float32.

    Raises:
        UsageError: an unknown precision.
    """

    def __init__(self, model: SentenceTransformer, precision: str = "fp32", batch_tokens: int = BATCH_TOKENS):
        if precision not in PRECISIONS:
            raise UsageError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        self.model, self.precision, self.batch_tokens = model, precision, batch_tokens
        self.rows: dict[str, int] = {}
        self.embeddings = np.empty((0, model.get_embedding_dimension()), dtype=np.float32)

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Embeddings of the sentences, shape (n, d), float32, in the order given. Raises UsageError where one is no text."""
        for place, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise UsageError(f"sentence {place + 1} is {sentence!r}, not text: leave it out or write it as text")
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.rows]
        if new:
            rows, embeddings = self.encode_distinct(new)
            self.rows.update(zip(new, (len(self.embeddings) + rows).tolist(), strict=True))
            self.embeddings = np.concatenate([self.embeddings, embeddings])
        return self.embeddings[[self.rows[sentence] for sentence in sentences]]

    def encode_distinct(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each sentence its row, and the rows: shapes (n,) and (m, d) with m at most n."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if not takes_token_ids(self.model):
                embeddings = self.model.encode(sentences, batch_size=64, show_progress_bar=False)
                return np.arange(len(sentences)), embeddings.astype(np.float32, copy=False)
            ids = token_ids(self.model, list(map(encodable, sentences)))
            distinct = {key: row for row, key in enumerate(dict.fromkeys(ids))}
            embeddings = encode_equal_lengths(self.model, list(distinct), self.batch_tokens)
        return np.array([distinct[key] for key in ids]), embeddings


def remembering(model: SentenceTransformer | EncodeOnce) -> EncodeOnce:
    """``model`` itself where it remembers already."""
    return model if isinstance(model, EncodeOnce) else EncodeOnce(model)


def takes_token_ids(model: SentenceTransformer) -> bool:
    """Whether token ids are all that the model's first module needs."""
    if model.default_prompt_name or model.truncate_dim or not isinstance(model[0], Transformer):
        return False
    return getattr(model.tokenizer, "is_fast", False)


def encodable(sentence: str) -> str:
    """The sentence with half characters (lone surrogates, left over by broken decoding) replaced: tokenizers refuse them."""
    return sentence if sentence.isascii() else sentence.encode("utf-8", "replace").decode("utf-8")


def token_ids(model: SentenceTransformer, sentences: list[str]) -> list[tuple[int, ...]]:
    """The token ids of each sentence, [CLS] and [SEP] included, cut to the model's longest input."""
    tokens = model.tokenizer(
        sentences,
        truncation=True,
        max_length=model.max_seq_length,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [tuple(ids) for ids in tokens["input_ids"]]


def encode_equal_lengths(model: SentenceTransformer, ids: list[tuple[int, ...]], batch_tokens: int) -> np.ndarray:
    """Embeddings (m, d) of m token sequences: the longest first, so that a batch that is too large fails at once."""
    model.eval()
    embeddings = np.empty((len(ids), model.get_embedding_dimension()), dtype=np.float32)
    batches = equal_length_batches(np.array([len(sequence) for sequence in ids]), batch_tokens)
    for rows in progress.bar(batches, desc="encoding", unit="batches"):
        batch = torch.tensor([ids[row] for row in rows], device=model.device)
        with torch.inference_mode():
            features = model({"input_ids": batch, "attention_mask": torch.ones_like(batch)})
        embeddings[rows] = features["sentence_embedding"].float().cpu().numpy()
    return embeddings


def equal_length_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Row numbers in batches: all of a batch have one length and together at most ``batch_tokens``, if one row has no more."""
    order = np.argsort(-lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
    sizes = [max(1, batch_tokens // int(lengths[group[0]])) for group in groups]
    return [
        group[start : start + size]
        for group, size in zip(groups, sizes, strict=True)
        for start in range(0, len(group), size)
    ]

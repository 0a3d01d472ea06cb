"""Pairs of sentences as token ids: tokenised once, kept in an Arrow file, and read from there by memory mapping."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

CHUNK = 50_000  # rows tokenised at a time: memory stays bounded whatever the size of the corpus
PUNCTUATION = r"([!-/:-@\[-`{-~])"  # what BERT's tokenizer splits off, in ASCII
# Sentences that take the tokenizer's own way: other characters than printable ASCII, and "[", which may open [MASK].
SPECIAL = r"[^ -Z\\-~]"


class Tokeniser:
    """Turns sentences into the ids that ``tokenizer`` gives, several times as fast.

    WordPiece works word by word, and a corpus has few distinct words: each is tokenised once and then looked up.
    ``tests/test_tokens.py`` holds the ids against the tokenizer's.

    Args:
        tokenizer: the fast BERT tokenizer of the encoder, lower-casing.
        max_length: longer sentences are cut to so many tokens, [CLS] and [SEP] included.
    """

    def __init__(self, tokenizer, max_length: int):
        self.backend, self.max_length = tokenizer.backend_tokenizer, max_length
        self.backend.no_padding()
        self.backend.enable_truncation(max_length)
        self.start, self.end = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.dtype = np.uint16 if len(tokenizer) <= 2**16 else np.int32

    def __call__(self, sentences: pa.Array) -> pa.ListArray:
        """The ids of each sentence, [CLS] and [SEP] included."""
        coded = sentences.dictionary_encode()
        ids, lengths = self.distinct(coded.dictionary)
        return pa.ListArray.from_arrays(*self.rows(ids, lengths, coded.indices.to_numpy()))

    def distinct(self, sentences: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all sentences in a row, and how many each has."""
        split = pc.ascii_split_whitespace(pc.replace_substring_regex(pc.ascii_lower(sentences), PUNCTUATION, r" \1 "))
        words = split.flatten().dictionary_encode()
        known = [
            encoding.ids
            for encoding in self.backend.encode_batch_fast(words.dictionary.to_pylist(), add_special_tokens=False)
        ]
        sizes = np.array([len(ids) for ids in known], dtype=np.int64)
        pieces, counts = gather(np.concatenate([*known, []]).astype(self.dtype), sizes, words.indices.to_numpy())
        words_before = split.offsets.to_numpy()
        pieces_before = np.concatenate([[0], np.cumsum(counts)])[words_before]
        inner = np.diff(pieces_before)
        own_way = pc.match_substring_regex(sentences, SPECIAL).to_numpy(zero_copy_only=False) | (
            inner + 2 > self.max_length
        )
        others = [
            encoding.ids for encoding in self.backend.encode_batch_fast(sentences.filter(pa.array(own_way)).to_pylist())
        ]
        lengths = inner + 2
        lengths[own_way] = [len(ids) for ids in others]
        ends = np.cumsum(lengths)
        ids = np.empty(ends[-1] if len(ends) else 0, dtype=self.dtype)
        simple = np.flatnonzero(~own_way)
        ids[(ends - lengths)[simple]], ids[ends[simple] - 1] = self.start, self.end
        target = (ends - lengths + 1)[simple]
        ids[spread(target, inner[simple])] = pieces[spread(pieces_before[:-1][simple], inner[simple])]
        for row, other in zip(np.flatnonzero(own_way), others, strict=True):
            ids[ends[row] - lengths[row] : ends[row]] = other
        return ids, lengths

    def rows(self, ids: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> tuple[pa.Array, pa.Array]:
        values, counts = gather(ids, lengths, order)
        return pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), pa.array(values)


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The positions ``start, start + 1, …`` of each of several runs, one run after another."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def gather(values: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of ``values`` (``lengths`` says how long each is) in another order, and the length of each there."""
    starts = np.cumsum(lengths) - lengths
    return values[spread(starts[order], lengths[order])], lengths[order]


def tokenizer_key(tokenizer, max_length: int) -> str:
    """Return a short digest of all that decides which ids a sentence gets: the tokenizer and the longest input."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # these change with each call
        parts.pop(name, None)
    return hashlib.blake2b(json.dumps([parts, max_length], sort_keys=True).encode(), digest_size=8).hexdigest()


def tokenise(dataset: Dataset, tokenizer, max_length: int, path: Path) -> Path:
    """Write the tokens of all text columns and the other columns of ``dataset`` to an Arrow file, unless it is there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    tokeniser, writer = Tokeniser(tokenizer, max_length), None
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # a name of its own: two runs may start at once
    with pa.OSFile(str(temporary), "wb") as file:
        for chunk in dataset.with_format("arrow").iter(batch_size=CHUNK):
            columns = {name: chunk.column(name).combine_chunks() for name in chunk.column_names}
            columns = {name: tokeniser(c.cast(pa.string())) if is_text(c.type) else c for name, c in columns.items()}
            batch = pa.record_batch(columns)
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        writer.close()
    try:
        temporary.replace(path)
    except PermissionError:  # Windows: another run was first, and reads its file already
        temporary.unlink()
    return path


def is_text(kind: pa.DataType) -> bool:
    """Text read through pandas may come as large strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


class TokenisedPairs(torch.utils.data.Dataset):
    """The rows of an Arrow file that ``tokenise`` wrote. Only the pages that are read take memory.

    A ``DataLoader`` asks for the rows of a batch at once and gets it whole: ``ids`` (all tokens of column 1, then of column 2, one sentence after another),
    ``lengths`` (tokens of each sentence, a list), ``rows`` (the numbers of the rows) and the other columns, such as the label.

    Args:
        path: the Arrow file.
        distinct: whether a sentence that a batch holds several times comes once. ``copies`` then says for each sentence
            of the batch which of them it is.
    """

    def __init__(self, path: Path, distinct: bool = False):
        self.distinct = distinct
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.length = sum(batch.num_rows for batch in batches)
        types = {field.name: field.type for field in reader.schema}
        self.texts = [name for name, kind in types.items() if pa.types.is_list(kind)]
        self.others = [name for name in types if name not in self.texts]
        self.offsets = {name: [b.column(name).offsets.to_numpy() for b in batches] for name in self.texts}
        self.values = {name: [b.column(name).values.to_numpy() for b in batches] for name in self.texts}
        self.columns = {name: [b.column(name).to_numpy() for b in batches] for name in self.others}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> dict:
        places = [divmod(row, CHUNK) for row in rows]
        sentences = [self.sentence(name, chunk, row) for name in self.texts for chunk, row in places]
        batch = {}
        if self.distinct:
            keys = [sentence.tobytes() for sentence in sentences]
            place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
            batch["copies"] = torch.tensor([place[key] for key in keys])
            sentences = list(dict(zip(keys, sentences, strict=True)).values())
        batch |= {
            "ids": torch.from_numpy(np.concatenate(sentences).astype(np.int64)),
            "lengths": [len(sentence) for sentence in sentences],
            "rows": rows,
        }
        for name in self.others:
            batch[name] = torch.tensor([self.columns[name][chunk][row] for chunk, row in places])
        return batch

    def sentence(self, name: str, chunk: int, row: int) -> np.ndarray:
        start, stop = self.offsets[name][chunk][row : row + 2]
        return self.values[name][chunk][start:stop]

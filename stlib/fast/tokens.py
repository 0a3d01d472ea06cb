"""Pairs of sentences as token ids: tokenised once, kept in an Arrow file, and read from there by memory mapping."""

import contextlib
import hashlib
import uuid
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset

CHUNK = 50_000  # rows tokenised at a time: memory stays bounded whatever the size of the corpus
IDS = pa.list_(pa.int32())


def tokenizer_key(tokenizer, max_length: int) -> str:
    """Return a short digest of all that decides what the file of a corpus holds: the tokenizer and the longest input."""
    text = backend_of(tokenizer, max_length).to_str() + str(IDS)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def backend_of(tokenizer, max_length: int):
    """Return what does a tokenizer's work, set to cut at ``max_length`` tokens; the tokenizer's calls set it otherwise."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length)
    return backend


def token_ids(sentences: pa.Array, backend) -> pa.ListArray:
    """Return the ids that the tokenizer ``backend`` gives each sentence. A sentence that comes again is looked up."""
    coded = sentences.dictionary_encode()
    return pa.array([e.ids for e in backend.encode_batch_fast(coded.dictionary.to_pylist())], IDS).take(coded.indices)


def tokenise(dataset: Dataset, tokenizer, max_length: int, path: Path) -> Path:
    """Write the token ids of all text columns and the other columns of ``dataset`` to an Arrow file, unless it is there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    backend, writer = backend_of(tokenizer, max_length), None
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # two runs may start at once
    try:
        with pa.OSFile(str(temporary), "wb") as file:
            for chunk in dataset.with_format("arrow").iter(batch_size=CHUNK):
                columns = {name: chunk.column(name).combine_chunks() for name in chunk.column_names}
                texts = [name for name, column in columns.items() if str(column.type) in ("string", "large_string")]
                table = pa.table(columns | {name: token_ids(columns[name], backend) for name in texts})
                writer = writer or pa.ipc.new_stream(file, table.schema)
                writer.write_table(table)
            writer.close()
        with contextlib.suppress(PermissionError):  # Windows: another run was first, and reads its file already
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class TokenisedPairs(torch.utils.data.Dataset):
    """The rows of an Arrow file that ``tokenise`` wrote. Only the pages that are read take memory.

    A ``DataLoader`` gets a batch whole: ``ids`` (all tokens of column 1, then of column 2, one sentence after another),
    ``lengths`` (tokens of each sentence), ``rows`` (their numbers) and the other columns. If ``distinct``, a sentence
    that a batch holds several times comes once; ``copies`` says for each sentence of the batch which of them it is.
    """

    def __init__(self, path: Path, distinct: bool = False):
        self.distinct, self.table = distinct, Dataset.from_file(str(path)).with_format("arrow")
        self.texts = [field.name for field in self.table.data.schema if pa.types.is_list(field.type)]
        self.others = [name for name in self.table.column_names if name not in self.texts]

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, rows: list[int]) -> dict:
        found, batch = self.table[rows], {"rows": rows}
        sentences = pa.chunked_array([c for name in self.texts for c in found.column(name).chunks]).combine_chunks()
        if self.distinct:
            keys = [tuple(ids) for ids in sentences.to_pylist()]
            place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
            batch["copies"] = torch.tensor([place[key] for key in keys])
            sentences = pa.array(place, IDS)
        batch["ids"] = torch.tensor(sentences.flatten().to_numpy(), dtype=torch.long)
        batch["lengths"] = sentences.value_lengths().to_pylist()
        return batch | {name: torch.tensor(found.column(name).to_numpy()) for name in self.others}

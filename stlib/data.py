"""Corpora: the same columns whether they come with the course, from a folder of yours, or from the hub."""

import hashlib
import os
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features

from stlib.errors import UsageError
from stlib.settings import Profile
from stlib.sources import HUB_IDS, Source, columns_of, get_source, read_table

NLI_LABELS = ("entailment", "neutral", "contradiction")


class Kind(NamedTuple):
    """What a corpus of one kind has: text columns, the column of the gold value, and columns that are kept if there."""

    texts: tuple[str, ...]
    gold: str
    more: tuple[str, ...] = ()


KINDS = {
    "nli": Kind(("sentence_0", "sentence_1"), "label"),
    "sts": Kind(("sentence1", "sentence2"), "score", ("subset", "topic")),
    "classification": Kind(("text",), "label", ("label_text",)),
}
# SNLI's and MultiNLI's names of the text columns.
NLI_SPELLING = {"premise": "sentence_0", "hypothesis": "sentence_1"}
# Gold scores of published STS corpora: lowest and highest. All are brought to 0 to 5.
SCALES = {"0 to 1": (0.0, 1.0), "1 to 5": (1.0, 5.0), "0 to 5": (0.0, 5.0)}


def train_split(profile: Profile) -> str:
    """Return the NLI rows to train on: ``STLIB_NLI_SPLIT``, else the profile's own."""
    return os.environ.get("STLIB_NLI_SPLIT") or profile.train_split


# ---- the three kinds of corpora -------------------------------------------------------------------------------------


def kind_of(task: str, source: Source) -> str:
    """Return the kind of a task, one of ``KINDS``: the one whose columns its folder's first file has, or that of its hub id.

    If no kind has all its columns there, it is the nearest one: reading the task then says which column is missing.

    Raises:
        UsageError: the source lacks the task, or its file has no column of any kind.
    """
    if source.folder is None:
        if task not in HUB_IDS:
            raise UsageError(f"there is no task {task!r} on the hub: choose one of {', '.join(HUB_IDS)}")
        return "nli" if task == "snli" else "sts" if task.endswith("-sts") else "classification"
    names = columns_of(task, source)
    have = {NLI_SPELLING.get(name, name) for name in names}
    found = {kind: np.mean([name in have for name in (*wanted.texts, wanted.gold)]) for kind, wanted in KINDS.items()}
    kind = max(found, key=found.get)
    if not found[kind]:
        texts = " or ".join(", ".join(wanted.texts) for wanted in KINDS.values())
        raise UsageError(f"the task {task!r} from {source} has the columns {', '.join(names)}: name its texts {texts}")
    return kind


def nli(split: str = "train", source: Source | None = None, corpus: str = "snli") -> Dataset:
    """Return NLI pairs with the columns ``sentence_0``, ``sentence_1``, ``label`` (0 entailment, 1 neutral, 2 contradiction).

    Args:
        split: the library's split syntax: ``train``, ``validation+test``, ``train[:20000]``, ``test[:10%]``.
        source: where to read; by default what ``get_source()`` says.
        corpus: the corpus' folder, or its key in ``HUB_IDS``.

    Labels may be numbers, words, or numbers that the file itself names. Rows that annotators could not agree on
    (-1 or ``-``) are dropped; how many, is in ``dataset.info.description``.

    Raises:
        UsageError: the split or a column is missing, a label is none of the three, or no row is left.
    """
    table, where, notes = read(corpus, split, source)
    return clean_nli(table, where, notes)


def clean_nli(table: pa.Table, where: str, notes: list[str] | None = None) -> Dataset:
    """Return a table's NLI pairs in the course's columns, without rows labelled -1. ``where`` names them in errors."""
    table = checked("nli", table, where)
    labels = nli_labels(table, where)
    agreed = labels != -1
    if not agreed.any():
        raise UsageError(f"{where} has no labels, all are -1: choose another split, such as validation")
    dropped = f"{int((~agreed).sum()):,} rows labelled -1 dropped"
    table = table.set_column(2, "label", pa.array(labels)).filter(pa.array(agreed))
    return dataset_of(table, [*(notes or []), dropped])


def sts(task: str, split: str = "test", source: Source | None = None) -> Dataset:
    """Return sentence pairs with a gold similarity: ``sentence1``, ``sentence2``, ``score`` (0 to 5), ``subset`` where known.

    Scores from 0 to 1 or from 1 to 5 are brought to 0 to 5. Rows without a score are left out. Both is said in
    ``dataset.info.description``.

    Raises:
        UsageError: the source lacks the task or split, or a score is outside all three scales.
    """
    table, where, notes = read(task, split, source)
    table = checked("sts", table, where)
    scores = column_of_numbers(table, "score", where, "gold scores go from 0 to 5")
    known = ~np.isnan(scores)
    if not known.any():
        raise UsageError(f"{where} has no gold scores: choose another split")
    if not known.all():
        notes.append(f"{int((~known).sum()):,} rows without a score left out")
    name, (low, high) = scale_of(scores[known], where)
    if name != "0 to 5":
        notes.append(f"scores from {name} brought to 0 to 5")
    scores = (scores - low) * 5 / (high - low)
    return dataset_of(table.set_column(2, "score", pa.array(scores)).filter(pa.array(known)), notes)


def classification(task: str, split: str = "train", source: Source | None = None) -> Dataset:
    """Return labelled sentences: ``text``, ``label`` (whole numbers from 0), ``label_text`` where known.

    Raises:
        UsageError: the source lacks the task or split, or a label is no whole number from 0.
    """
    table, where, notes = read(task, split, source)
    table = checked("classification", table, where)
    rule = "labels are whole numbers from 0"
    labels = column_of_numbers(table, "label", where, rule)
    bad = ~((labels >= 0) & (labels % 1 == 0))
    if bad.any():
        raise UsageError(f"{where} {bad_value(table, 'label', int(bad.argmax()))}: {rule}")
    return dataset_of(table.set_column(1, "label", pa.array(labels.astype(np.int64))), notes)


def dataset_of(table: pa.Table, notes: list[str]) -> Dataset:
    """Return the rows as a ``datasets.Dataset`` whose ``info.description`` says what was found."""
    dataset = Dataset(table.replace_schema_metadata(None).combine_chunks())
    dataset.info.description = "; ".join(notes)
    return dataset


def nli_labels(table: pa.Table, where: str) -> np.ndarray:
    """Return the labels as 0, 1, 2, or -1 where annotators disagree: an int64 array, one number per row."""
    rule = "NLI labels are 0, 1 and 2, or the words entailment, neutral and contradiction, and -1 or - where annotators disagree"
    known = {"-1": -1, "-": -1} | {word: i for i, word in enumerate(NLI_LABELS)} | {str(i): i for i in range(3)}
    names = Features.from_arrow_schema(table.schema).get("label")
    named = isinstance(names, ClassLabel) and not all(name.isdigit() for name in names.names)
    codes = table["label"].combine_chunks().dictionary_encode()
    meant = []
    for value in codes.dictionary.to_pylist():
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = names.names[value] if named and value in range(len(names.names)) else str(value)
        meant.append(known.get(text.strip().lower()))
    meaning = np.array([-2 if number is None else number for number in meant], dtype=np.int64)
    missing = pc.fill_null(codes.indices, len(meaning)).to_numpy()
    labels = np.append(meaning, -2)[missing]
    bad = labels == -2
    if bad.any():
        raise UsageError(f"{where} {bad_value(table, 'label', int(bad.argmax()))}: {rule}")
    return labels


def scale_of(scores: np.ndarray, where: str) -> tuple[str, tuple[float, float]]:
    """Return the name and the bounds of the scale that gold scores have. Raises UsageError if there is none."""
    low, high = scores.min(), scores.max()
    outside = (scores < 0) | (scores > 5)
    if outside.any():
        raise UsageError(
            f"{where} has the score {scores[outside][0]:g}: gold scores go from 0 to 5 (or from 0 to 1, or from 1 to 5)"
        )
    name = "0 to 1" if high <= 1 and len(scores) > 1 else "1 to 5" if (low, high) == (1, 5) else "0 to 5"
    return name, SCALES[name]


# ---- reading and checking -------------------------------------------------------------------------------------------


def read(corpus: str, split: str, source: Source | None) -> tuple[pa.Table, str, list[str]]:
    """Return rows of a corpus as they are, what to call them in an error, and notes on what was read."""
    source = source or get_source()
    table, notes = read_table(corpus, split, source)
    place = {"mini": "the mini corpus", "hub": "the hub's corpus"}.get(source.kind) or f"folder {source.folder}, corpus"
    return table, f"{place} {corpus}, split {split!r},", notes


def checked(kind: str, table: pa.Table, where: str) -> pa.Table:
    """Return the columns that a corpus of this kind has, in order, texts as plain strings.

    Raises:
        UsageError: a column is missing or there twice, or a text is missing.
    """
    wanted, spelling = KINDS[kind], {}
    if kind == "nli":
        table, spelling = rename(table, NLI_SPELLING, where), {new: old for old, new in NLI_SPELLING.items()}
    for name in (*wanted.texts, wanted.gold):
        if name not in table.column_names:
            have = ", ".join(spelling.get(name, name) for name in table.column_names)
            raise UsageError(f"{where} has no column {spelling.get(name, name)!r} (it has: {have}): rename or add it")
    table = table.select([*wanted.texts, wanted.gold, *(name for name in wanted.more if name in table.column_names)])
    for number, name in enumerate(wanted.texts):
        table = table.set_column(number, name, checked_texts(table[name], f"{where} has", spelling.get(name, name)))
    return table


def rename(table: pa.Table, names: dict[str, str], where: str) -> pa.Table:
    """Return the table with columns renamed. Raises UsageError if it has a column under both names."""
    for old, new in names.items():
        if old in table.column_names and new in table.column_names:
            raise UsageError(f"{where} has both columns {old!r} and {new!r}, which mean the same: remove one")
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def checked_texts(column: pa.ChunkedArray, where: str, name: str) -> pa.ChunkedArray:
    """Return a column as plain strings. Raises UsageError where it holds no text, or a row of it nothing at all.

    A blank text is kept with a warning: published corpora have some (row 769 of CR's training sentences), and without
    them, sizes and scores would no longer be the published ones.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not any(is_text(column.type) for is_text in (pa.types.is_string, pa.types.is_large_string, is_string_view)):
        raise UsageError(f"{where} {column.type} in the column {name!r}, not text: write the sentences there")
    column = column.cast(pa.string())
    row = pc.index(pc.is_null(column), True).as_py()
    if row >= 0:
        raise UsageError(f"{where} no {name} in row {row + 1}: fill it in or remove the row")
    row = pc.index(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0), True).as_py()
    if row >= 0:
        warnings.warn(f"{where} a blank {name} in row {row + 1}; the row is kept", stacklevel=4)
    return column


def is_string_view(kind: pa.DataType) -> bool:
    """Return whether a column has the type of newer writers for texts, which older versions of pyarrow lack."""
    return str(kind) == "string_view"


def column_of_numbers(table: pa.Table, name: str, where: str, rule: str) -> np.ndarray:
    """Return a column as float64, NaN where a value is missing. Raises UsageError if it holds no numbers."""
    column = table[name]
    kinds = pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null
    if not any(is_kind(column.type) for is_kind in kinds):
        raise UsageError(f"{where} has values of type {column.type} in the column {name!r}, not numbers: {rule}")
    return column.cast(pa.float64()).to_numpy()


def bad_value(table: pa.Table, name: str, row: int) -> str:
    """Return what is wrong with a value, for an error: that it is missing, or what it is."""
    value = table[name][row].as_py()
    missing = value is None or value != value
    return f"has no {name} in row {row + 1}" if missing else f"has the {name} {value!r} in row {row + 1}"


# ---- identity -------------------------------------------------------------------------------------------------------


def pair_keys(pairs: pd.DataFrame) -> list[frozenset]:
    """Return one key per pair, whatever the order of its sentences, their case and the space around them."""
    sides = (pairs[side].str.strip().str.lower() for side in KINDS["sts"].texts)
    return [frozenset(pair) for pair in zip(*sides, strict=True)]


def unseen(pairs: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Return which of the STS ``pairs`` are not among ``others``: bool, shape (n,).

    STS-B was put together from the SemEval tasks (Cer et al. 2017, arXiv 1708.00055): many pairs of STS12 to STS15 are
    in its train and validation splits too. What is trained or chosen on those may be confirmed only on the rest.
    """
    seen = set(pair_keys(others))
    return np.array([key not in seen for key in pair_keys(pairs)], dtype=bool)


def fingerprint(dataset: Dataset) -> str:
    """Return a short digest of all rows, the same wherever they came from. It changes with a single character."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        for column in batch.column_names:
            digest.update(column.encode())
            digest.update("\x1f".join(map(str, batch[column].to_pylist())).encode())
    return digest.hexdigest()

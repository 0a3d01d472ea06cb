"""Corpora: the same columns whether they come with the course, from a folder of yours, or from the hub."""

import hashlib
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from stlib.errors import UsageError
from stlib.settings import STS_TASKS
from stlib.sources import HUB_IDS, Source, columns_of, get_source, joined, label_names, read_column, read_table

NLI_LABELS = ("entailment", "neutral", "contradiction")
# SNLI's and MultiNLI's names of the text columns.
NLI_SPELLING = {"premise": "sentence_0", "hypothesis": "sentence_1"}
MANY = 10  # scores that are all at most 1 are no chance on a scale to 5, if there are so many
HUB_SCALES = {"sickr-sts": (1, 5)}  # all others go from 0 to 5
BAD = -2  # stands for a label that means none of the three


class Kind(NamedTuple):
    """What a corpus of one kind has: text columns, the gold column and the rule for it, columns that are kept if there."""

    texts: tuple[str, ...]
    gold: str
    rule: str
    more: tuple[str, ...] = ()


KINDS = {
    "nli": Kind(
        ("sentence_0", "sentence_1"),
        "label",
        "NLI labels are 0, 1 and 2, or the words entailment, neutral and contradiction, and -1 or - where annotators disagree",
    ),
    "sts": Kind(
        ("sentence1", "sentence2"),
        "score",
        "gold scores go from 0 to 5 (or from 0 to 1, or from 1 to 5)",
        ("subset", "topic"),
    ),
    "classification": Kind(("text",), "label", "labels are whole numbers from 0", ("label_text",)),
}


def kind_of(task: str, source: Source) -> str:
    """Return the kind of a task, one of ``KINDS``: by the columns of its folder's first file, or by its hub id.

    Raises UsageError if the source lacks the task, or its file has no column of any kind.
    """
    if source.folder is None:
        if task not in HUB_IDS:
            raise UsageError(f"there is no task {task!r} on the hub: choose one of {', '.join(HUB_IDS)}")
        return "nli" if task == "snli" else "sts" if task in STS_TASKS else "classification"
    return nearest_kind(columns_of(task, source), f"the task {task!r} from {source}")


def nearest_kind(names: list[str], where: str) -> str:
    """Return the kind that has most of its columns among ``names``: checking it then says which one is missing.

    Raises UsageError if no kind has any.
    """
    have = {NLI_SPELLING.get(name, name) for name in names}
    found = {kind: np.mean([name in have for name in (*wanted.texts, wanted.gold)]) for kind, wanted in KINDS.items()}
    kind = max(found, key=found.get)
    if not found[kind]:
        texts = " or ".join(", ".join(wanted.texts) for wanted in KINDS.values())
        raise UsageError(f"{where} has the columns {', '.join(names)}: name its texts {texts}")
    return kind


# ---- the three kinds of corpora -------------------------------------------------------------------------------------


def nli(split: str = "train", source: Source | None = None, corpus: str = "snli") -> Dataset:
    """Return NLI pairs with the columns ``sentence_0``, ``sentence_1``, ``label`` (0 entailment, 1 neutral, 2 contradiction).

    ``split`` follows the library's syntax: ``train``, ``validation+test``, ``train[:20000]``, ``test[:10%]``. By default
    the source is what ``get_source()`` says. Labels may be numbers, words, or numbers that the file itself names. Rows that
    annotators could not agree on (-1 or ``-``) are dropped. What was found is in ``dataset.info.description``. Raises
    UsageError if the split or a column is missing, a label is none of the three, or no row is left.
    """
    return clean_nli(*read_table(corpus, split, source))


def clean_nli(table: pa.Table, where: str, notes: list[str] | tuple[()] = ()) -> Dataset:
    """Return a table's NLI pairs in the course's columns, without rows labelled -1. ``where`` names them in errors."""
    names, table = label_names(table) or [], checked("nli", table, where)
    if pa.types.is_boolean(table["label"].type):
        raise UsageError(f"{where} has values of type bool in the column 'label': {KINDS['nli'].rule}")
    known = {"-1": -1, "-": -1} | {word: i for i, word in enumerate(NLI_LABELS)} | {str(i): i for i in range(3)}
    codes, meant = table["label"].combine_chunks().dictionary_encode(), []
    for value in codes.dictionary.to_pylist():
        value = int(value) if value in range(-1, len(names) or 3) else value  # 1.0 is 1
        word = names[value] if value in range(len(names)) else str(value)
        meant.append(known.get(word.strip().lower(), BAD))
    labels = np.array([*meant, BAD])[pc.fill_null(codes.indices, len(meant)).to_numpy()]
    named = f"; the file's own names are {', '.join(names)}" if names else ""
    refuse(labels == BAD, table, "label", where, KINDS["nli"].rule + named)
    agreed = labels != -1
    if not agreed.any():
        raise UsageError(f"{where} has no labels, all are -1: choose another split, such as validation")
    own = [f"labels by the file's own names, {', '.join(names)}"] if names and names != [*NLI_LABELS] else []
    dropped = f"{np.sum(~agreed):,} rows labelled -1 dropped"
    return dataset_of("nli", table, labels, agreed, [*notes, dropped, *own])  # keeps those that are agreed on


def sts(task: str, split: str = "test", source: Source | None = None) -> Dataset:
    """Return sentence pairs with a gold similarity: ``sentence1``, ``sentence2``, ``score`` (0 to 5), ``subset`` where known.

    Scores from 0 to 1 or from 1 to 5, over all splits of the task, are brought to 0 to 5; the hub's scales are known.
    Rows without a score are left out. What was found is in ``dataset.info.description``. Raises UsageError if the source
    lacks the task or split, or a score is outside all scales.
    """
    source = source or get_source()
    table, where, notes = read_table(task, split, source)
    table = checked("sts", table, where)
    scores = numbers("sts", table, where)
    known = ~np.isnan(scores)
    if not known.any() or np.all(scores[known] == -1):
        raise UsageError(f"{where} has no gold scores: choose another split")
    refuse((scores < 0) | (scores > 5), table, "score", where, KINDS["sts"].rule)
    splits = [numbers("sts", other, where) for other in read_column(task, "score", source)] or [scores]
    splits = [part[part >= 0] for part in splits]  # those that are hidden may have -1 in their place
    found = np.concatenate(splits)
    if any(len(part) >= MANY and part.max() <= 1 < found.max() for part in splits):
        raise UsageError(f"{where} has scores from 0 to 1 in one split and above in another: bring them to one scale")
    low = 1 if (found.min(), found.max()) == (1, 5) else 0
    high = 1 if found.max() <= 1 and len(found) > 1 else 5
    if source.folder is None:  # no more than the rows asked for is read, and a few do not tell
        low, high = HUB_SCALES.get(task, (0, 5))
    if not known.all():
        notes.append(f"{np.sum(~known):,} rows without a score left out")
    brought = "" if (low, high) == (0, 5) else ", brought to 0 to 5"
    notes.append(f"scores {np.nanmin(scores):g} to {np.nanmax(scores):g} on a scale from {low} to {high}{brought}")
    return dataset_of("sts", table, (scores - low) * 5 / (high - low), known, notes)


def classification(task: str, split: str = "train", source: Source | None = None) -> Dataset:
    """Return labelled sentences: ``text``, ``label`` (whole numbers from 0), ``label_text`` where known.

    Raises UsageError if the source lacks the task or split, or a label is no whole number from 0.
    """
    return clean_numbers("classification", *read_table(task, split, source))


def clean_numbers(kind: str, table: pa.Table, where: str, notes: list[str] | tuple[()] = ()) -> Dataset:
    """Return a table's rows in the course's columns, gold as it is. Raises UsageError if a value breaks its rule."""
    table, whole = checked(kind, table, where), kind == "classification"
    values = numbers(kind, table, where)
    good = (values >= 0) & ((values % 1 == 0) if whole else (values <= 5))
    refuse(~good, table, KINDS[kind].gold, where, KINDS[kind].rule)
    return dataset_of(kind, table, values.astype(np.int64) if whole else values, good, notes)


# ---- checking -------------------------------------------------------------------------------------------------------


def checked(kind: str, table: pa.Table, where: str) -> pa.Table:
    """Return the columns that a corpus of this kind has, in order, texts as plain strings.

    A blank text is kept with a warning: published corpora have some (row 769 of CR's training sentences), and without
    them, sizes and scores would no longer be the published ones. Raises UsageError if a column is missing or there twice,
    or a text is missing or no text.
    """
    wanted, have, columns = KINDS[kind], table.column_names, {}
    for name in (*wanted.texts, wanted.gold):
        found = [other for other in have if NLI_SPELLING.get(other, other) == name]
        if not found:
            usual = {new: old for old, new in NLI_SPELLING.items()}.get(name, name)
            raise UsageError(f"{where} has no column {usual!r} (it has: {', '.join(have)}): rename or add it")
        if len(found) > 1:
            both = " and ".join(map(repr, found))
            raise UsageError(f"{where} has both columns {both}, which mean the same: remove one")
        columns[name] = found[0]
    columns |= {name: name for name in wanted.more if name in have}
    table = joined([table.select(list(columns.values()))], where)
    for name in list(columns.values())[: len(wanted.texts)]:
        texts = table[name]
        if texts.type != pa.string():
            raise UsageError(f"{where} has {texts.type} in the column {name!r}, not text: write the sentences there")
        refuse(pc.is_null(texts).to_numpy(), table, name, where, "fill it in or remove the row")
        row = pc.index(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), True).as_py()
        if row >= 0:
            warnings.warn(f"{where} has a blank {name} in row {row + 1}; the row is kept", stacklevel=3)
    return table.rename_columns(list(columns))


def numbers(kind: str, table: pa.Table, where: str) -> np.ndarray:
    """Return the gold column as float64, NaN where a value is missing. Raises UsageError if it holds no numbers."""
    name, rule = KINDS[kind].gold, KINDS[kind].rule
    are_numbers = pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null
    if not any(are(table[name].type) for are in are_numbers):
        raise UsageError(f"{where} has values of type {table[name].type} in the column {name!r}, not numbers: {rule}")
    return table[name].cast(pa.float64()).to_numpy()


def refuse(bad: np.ndarray, table: pa.Table, name: str, where: str, rule: str) -> None:
    """Raise UsageError if a value of a column is ``bad`` (bool, one per row): it names the first, or says it is missing."""
    if bad.any():
        row = int(bad.argmax())
        value = table[name][row].as_py()
        what = f"no {name}" if value is None or value != value else f"the {name} {value!r}"
        raise UsageError(f"{where} has {what} in row {row + 1}: {rule}")


def dataset_of(kind: str, table: pa.Table, gold: np.ndarray, kept: np.ndarray, notes: list[str]) -> Dataset:
    """Return the rows that are ``kept``, with their ``gold`` values; ``info.description`` says what was found."""
    table = table.set_column(len(KINDS[kind].texts), KINDS[kind].gold, pa.array(gold)).filter(pa.array(kept))
    dataset = Dataset(table.replace_schema_metadata(None).combine_chunks())
    dataset.info.description = "; ".join(notes)
    return dataset


# ---- identity -------------------------------------------------------------------------------------------------------


def unseen(pairs: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Return which of the STS ``pairs`` are not among ``others``: bool, shape (n,).

    The order of the two sentences, their case and the space around them do not matter. STS-B was put together from the
    SemEval tasks (Cer et al. 2017, arXiv 1708.00055): many pairs of STS12 to STS15 are in its train and validation splits
    too. What is trained or chosen on those may be confirmed only on the rest.
    """

    def keys(table: pd.DataFrame) -> list[frozenset]:
        sides = (table[side].str.strip().str.lower() for side in KINDS["sts"].texts)
        return [frozenset(pair) for pair in zip(*sides, strict=True)]

    seen = set(keys(others))
    return np.array([key not in seen for key in keys(pairs)], dtype=bool)


def fingerprint(dataset: Dataset) -> str:
    """Return a short digest of all rows, the same wherever they came from. It changes with a single character."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        for column in batch.column_names:
            digest.update(column.encode())
            digest.update("\x1f".join(map(str, batch[column].to_pylist())).encode())
    return digest.hexdigest()

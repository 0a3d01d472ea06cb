"""From the files that people have to a data folder: the releases of SNLI, MultiNLI and STS-B, CSV files, ``save_to_disk``."""

import csv
import json
import re
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, load_from_disk

from stlib.data import KINDS, NLI_SPELLING, clean_nli, clean_numbers, nearest_kind
from stlib.errors import UsageError
from stlib.sources import RAW_FILES, Source, find_shards, unreadable, visible

TEXTS = RAW_FILES[:-1]  # one row per line; the last kind is that of a saved data set
SPLIT = re.compile(r"(?<![a-z])(train|dev|val|test)(?:ing|idation|id)?((?:_(?:mis)?matched)?)(?![a-z])", re.IGNORECASE)
STSB = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")  # its release has no line with these names
RELEASED = {"gold_label": "label", "sentence1": "premise", "sentence2": "hypothesis"}  # SNLI's and MultiNLI's own names
KNOWN = {name for kind in KINDS.values() for name in (*kind.texts, kind.gold, *kind.more)}
KNOWN |= {*NLI_SPELLING, *RELEASED, "genre"}
QUOTED = re.compile(r'"(?:[^"]|"")*"')
NO_GOLD = {"nli": "no agreed label", "sts": "no gold score", "classification": "no label"}
csv.field_size_limit(2**31 - 1)  # a field may be a whole document


def convert(source: str | Path, folder: str | Path, name: str | None = None) -> list[str]:
    """Write the splits found in ``source`` (a file or a folder) as ``folder/NAME/SPLIT.parquet``; return what was done in lines.

    NLI pairs are called ``snli`` and STS-B ``stsbenchmark-sts``, as recipes and tasks look for these; others by their
    folder, or their file. Nothing is written before all is read. Raises UsageError if something cannot be read, is there
    twice or is there already.
    """
    source, folder = Path(source), Path(folder)
    paths = find_files(source)
    tables = with_usual_names({split: read_rows(path) for split, path in paths.items()})
    names = max((list(table) for table in tables.values()), key=lambda names: len({"label", "score"} & {*names}))
    kind = nearest_kind(names, str(source))
    if name is None:
        own = source.resolve().name if source.is_dir() else SPLIT.sub("", source.stem) or source.resolve().parent.name
        own = re.sub(r"[^\w.-]+", "-", own).strip("-_.").lower()
        name = "snli" if kind == "nli" else "stsbenchmark-sts" if kind == "sts" and "genre" in names else own
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"{name!r} cannot be the name of a corpus: give --name letters, digits, - and _")
    target = folder / name
    if target.is_dir() and (there := find_shards(name, Source("folder", folder)).keys() & tables.keys()):
        raise UsageError(f"{target} has the split {min(there)} already: name another folder, or another --name")
    words, written, lines = words_of(tables) if kind == "classification" else [], {}, []
    for split, table in tables.items():
        rows, dropped = clean(kind, table, str(paths[split]), words)
        reasons = "".join(f", {number:,} dropped ({reason})" for reason, number in dropped.items() if number)
        lines.append(f"{split}: {len(table):,} rows in ({paths[split].name}), {len(rows):,} rows out{reasons}")
        written |= {split: rows} if len(rows) else {}
    if not written:
        raise UsageError(f"{source} has no rows that can be used ({'; '.join(lines)}): check the file")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".data-", dir=folder) as temporary:
        (staged := Path(temporary, name)).mkdir()
        for split, rows in written.items():
            pq.write_table(rows, staged / f"{split}.parquet")
        for path in sorted(staged.iterdir()) if target.exists() else [staged]:
            path.rename(target / path.name if target.exists() else target)
    return [*lines, f"written: {kind} corpus {name}, in {target}; use it with --data {folder}"]


def find_files(source: Path) -> dict[str, Path]:
    """Return the file, or the folder of ``save_to_disk``, of each split: in a folder, those nearest to its top."""
    found = [source] if source.is_file() else visible(source, *TEXTS, ".json")
    found = [path.parent if path.name == "state.json" else path for path in found]
    found = [path for path in found if path.suffix in TEXTS or path.is_dir()]
    top = min((len(path.parts) for path in found), default=0)
    found = [path for path in found if len(path.parts) == top]
    if not found:
        problem = f"has no file that ends in {', '.join(TEXTS)}" if source.exists() else "does not exist"
        if visible(source, ".parquet"):
            problem = "has parquet files already, for --data"
        raise UsageError(
            f"{source} {problem}: name SNLI's, MultiNLI's or STS-B's own file, a CSV file or a saved data set"
        )
    splits = {}
    for path in sorted(found, key=lambda path: TEXTS.index(path.suffix) if path.is_file() else 0):
        match = SPLIT.search(path.stem)
        if not match and len(found) > 1:  # a list of licences, say
            continue
        word = match[1].lower() if match else "train"
        split = {"dev": "validation", "val": "validation"}.get(word, word) + (match[2].lower() if match else "")
        if split in splits and splits[split].stem != path.stem:  # SNLI's release has each split as .jsonl and as .txt
            first = splits[split].name
            raise UsageError(f"{source} has the split {split} twice, {first} and {path.name}: name one file")
        splits.setdefault(split, path)
    if not splits:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{source} has {names}: name them after their splits, such as train.csv and test.csv")
    return splits


def read_rows(path: Path) -> pd.DataFrame:
    """Return all rows of one file, or folder of ``save_to_disk``; labels that it has names for come as these, categorical."""
    try:
        if path.is_dir():
            dataset = load_from_disk(str(path))
            table = dataset.to_pandas()
            if isinstance(label := dataset.features.get("label"), ClassLabel):
                table["label"] = pd.Categorical.from_codes(table["label"].fillna(-1).astype(int), label.names)
        else:
            lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at rarer marks
            table = read_objects(lines) if path.suffix == ".jsonl" else read_fields(lines)
        if table.empty:
            raise ValueError("there are no rows")
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    return table


def with_usual_names(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the tables of all splits by the course's names of columns: releases call premises ``sentence1``, and so does STS-B."""
    labels = [table["label"] for table in tables.values() if "label" in table and "sentence1" in table]
    if any(pd.api.types.is_float_dtype(label) and (label.dropna() % 1).any() for label in labels):
        return {split: table.rename(columns={"label": "score"}) for split, table in tables.items()}  # GLUE's on the hub
    if any("score" in table for table in tables.values()):  # GLUE's own files keep the scores of the test split
        return {split: table if "score" in table else table.assign(score=None) for split, table in tables.items()}
    for split, table in tables.items():
        if "gold_label" in table:
            table = table.drop(columns="label", errors="ignore")
        if "gold_label" in table or "label" in table:
            tables[split] = table.rename(columns=RELEASED)
    return tables


def read_objects(lines: list[str]) -> pd.DataFrame:
    """Return what the course may use of the JSON object in each line. Raises ValueError for a line that holds none."""
    rows, written = [], ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    for number, line in written:
        try:
            row = dict(json.loads(line))
        except (ValueError, TypeError) as error:  # dict's own too
            raise ValueError(f"line {number} is no JSON object") from error
        rows.append({name: row[name] for name in row if name in KNOWN} or row)
    return pd.DataFrame(rows)


def read_fields(lines: list[str]) -> pd.DataFrame:
    """Return the rows of a table in text, each field a text, or null if empty.

    Between tabs, quotes are letters: the fields of SNLI and STS-B are full of lone ones. Only if all quotes of a file stand
    as a CSV writer puts them are they taken off. Raises ValueError for a line with too many or too few fields.
    """
    mark = max("\t,;", key=next(filter(str.strip, lines), "").count)
    marked = (field for line in lines for field in line.split(mark) if '"' in field)
    quoting = csv.QUOTE_NONE if mark == "\t" and not all(map(QUOTED.fullmatch, marked)) else csv.QUOTE_MINIMAL
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark, strict=True, quoting=quoting)
    rows = [(reader.line_num, row) for row in reader if row] or [(1, [])]
    names = [name.strip() for name in rows[0][1]]
    if twice := [name for name in names if name in KNOWN and names.count(name) > 1]:
        raise ValueError(f"the column {twice[0]!r} is there twice")
    if mark == "\t" and len(names) >= len(STSB) and re.fullmatch(r"\d+(\.\d+)?", names[4]):
        names, rows = STSB, [(number, row[: len(STSB)]) for number, row in rows]  # some have their licence after it
    else:
        rows = rows[1:]
    for number, row in rows:
        # MultiNLI and GLUE leave out the last fields if they are empty.
        if len(row) > len(names) or (len(row) < len(names) and not {"gold_label", "genre"} & {*names}):
            raise ValueError(f"line {number} has {len(row)} fields, not {len(names)}")
        row += [""] * (len(names) - len(row))
    table = pd.DataFrame([row for _, row in rows], columns=list(names), dtype=object)
    return table[[name for name in names if name in KNOWN]].replace("", None) if KNOWN & {*names} else table


def words_of(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Return the labels of all splits if they are words: by the numbers that a file gives them, else in the alphabet's order."""
    labels = [table["label"] for table in tables.values() if "label" in table]
    if labels and all(isinstance(label.dtype, pd.CategoricalDtype) for label in labels):
        return list(dict.fromkeys(word for label in labels for word in label.cat.categories))
    found = [label for column in labels for label in column[has_gold(column)]]
    words = any(isinstance(label, str) and not re.fullmatch(r"-?\d+(\.0*)?", label) for label in found)
    return sorted(set(map(str, found))) if words else []


def has_gold(values: pd.Series) -> pd.Series:
    """Return which of these labels or scores are one: SNLI writes ``-`` if the annotators agreed on none, and its copies -1."""
    return values.notna() & ~values.astype(str).str.strip().isin(["", "-", "-1", "-1.0"])


def clean(kind: str, table: pd.DataFrame, where: str, words: list[str]) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows of a table that can be used, in the course's columns, and how many were dropped for which reason."""
    wanted = KINDS[kind]
    texts = [name for name in table if NLI_SPELLING.get(name, name) in wanted.texts]
    whole, gold = table[texts].notna().all(axis=1), table.get(wanted.gold, pd.Series(0, table.index))
    known = has_gold(gold)
    dropped = {"missing sentence": int((~whole).sum()), NO_GOLD[kind]: int((whole & ~known).sum())}
    where += " without the rows that are dropped," if any(dropped.values()) else ""
    table = table.loc[whole & known, [name for name in table if name in {*texts, wanted.gold, *wanted.more}]].copy()
    if table.empty:
        return pa.table({}), dropped
    if words:
        table["label_text"] = table["label"].astype(str)
        table["label"] = table["label_text"].map(words.index).astype(int)
    elif kind != "nli" and wanted.gold in table:
        try:
            table[wanted.gold] = pd.to_numeric(table[wanted.gold])
        except ValueError as error:
            raise UsageError(f"{where} has a {wanted.gold} that is no number ({error}): {wanted.rule}") from error
    try:
        table = pa.Table.from_pandas(table, preserve_index=False)
    except pa.ArrowException as error:
        raise UsageError(f"{where} has columns of several types ({error.args[0]}): write them alike") from error
    cleaned = clean_nli(table, where) if kind == "nli" else clean_numbers(kind, table, where)
    return cleaned.data.table, dropped

"""From the files that people have to a data folder: the releases of SNLI, MultiNLI and STS-B, CSV files, ``save_to_disk``."""

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import load_from_disk

from stlib.data import KINDS, NLI_SPELLING, checked, clean_nli, dataset_of, nearest_kind, numbers, refuse
from stlib.errors import UsageError
from stlib.sources import RAW_FILES, Source, find_shards, joined, label_names, refuse_pointer, visible

STSB = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")  # its release has no line with their names
SPLIT = re.compile(r"(?<![a-z])(train|dev|val|test)(?:ing|idation|id)?((?:_(?:mis)?matched)?)(?![a-z])", re.IGNORECASE)
NLI_OWN = {"gold_label": "label", "sentence1": "premise", "sentence2": "hypothesis"}  # the releases' names
csv.field_size_limit(2**31 - 1)  # a field may be a whole document
KNOWN = {name for kind in KINDS.values() for name in (*kind.texts, kind.gold, *kind.more)} | {*NLI_SPELLING, *NLI_OWN}
UNKNOWN = pa.array(["", "-", "-1", "-1.0", "nan"])  # what stands for a gold value that is not known
NO_GOLD = {"nli": "no agreed label", "sts": "no gold score", "classification": "no label"}


def convert(source: str | Path, folder: str | Path, name: str | None = None) -> list[str]:
    """Write the splits found in ``source`` (a file or a folder) as ``folder/NAME/SPLIT.parquet``; return what was done in lines.

    NLI pairs are called ``snli`` and STS-B ``stsbenchmark-sts``, as recipes and tasks look for these; others by their
    folder, or their file. Nothing is written before all is read. Raises UsageError if something cannot be read, is there
    twice or is there already.
    """
    source, folder = Path(source), Path(folder)
    paths = find_files(source)
    tables = {split: read_rows(path) for split, path in paths.items()}
    names = max((table.column_names for table in tables.values()), key=lambda names: len({"label", "score"} & {*names}))
    kind = nearest_kind(names, str(source))
    name = name or ("snli" if kind == "nli" else "stsbenchmark-sts" if "genre" in names else name_of(source))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"{name!r} cannot be the name of a corpus: give --name letters, digits, - and _")
    target = folder / name
    if target.is_dir() and (there := find_shards(name, Source("folder", folder)).keys() & tables.keys()):
        raise UsageError(f"{target} has the split {min(there)} already: name another folder, or another --name")
    words = set().union(*(words_of(table) for table in tables.values())) if kind == "classification" else set()
    words = [] if all(word.isdigit() for word in words) else sorted(words)
    written, lines = {}, []
    for split, table in tables.items():
        if (gold := KINDS[kind].gold) in names and gold not in table.column_names:  # GLUE keeps those of its test split
            table = table.append_column(gold, pa.nulls(len(table)))
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


def name_of(source: Path) -> str:
    """Return the name of a corpus that is none of the course's own: that of the folder, or of the file without its split."""
    own = source.resolve().name if source.is_dir() else SPLIT.sub("", source.stem).strip("-_. ")
    return re.sub(r"[^\w.-]+", "-", own or source.resolve().parent.name).strip("-.").lower()


def find_files(source: Path) -> dict[str, Path]:
    """Return the file, or the folder of ``save_to_disk``, of each split: in a folder, those nearest to its top."""
    found = [source] if source.is_file() else visible(source, *RAW_FILES, ".json")
    found = [path.parent if path.name == "state.json" else path for path in found]
    found = [path for path in found if path.suffix in RAW_FILES[:-1] or path.is_dir()]
    found = [path for path in found if len(path.parts) == min(len(path.parts) for path in found)]
    if not found:
        problem = f"has no file that ends in {', '.join(RAW_FILES[:-1])}" if source.exists() else "does not exist"
        if source.is_dir() and visible(source, ".parquet"):
            problem = "has parquet files already, for --data"
        raise UsageError(
            f"{source} {problem}: name SNLI's, MultiNLI's or STS-B's own file, a CSV file or a saved data set"
        )
    splits = {}
    for path in sorted(found, key=lambda path: RAW_FILES.index(path.suffix) if path.is_file() else 0):
        if match := SPLIT.search(path.stem):
            split = {"dev": "validation", "val": "validation"}.get(word := match[1].lower(), word) + match[2].lower()
        elif len(found) > 1:  # a list of licences, say
            continue
        else:
            split = "train"
        if split in splits and splits[split].stem != path.stem:  # SNLI's release has each split as .jsonl and as .txt
            raise UsageError(
                f"{source} has the split {split} twice, {splits[split].name} and {path.name}: name one file"
            )
        splits.setdefault(split, path)
    if not splits:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{source} has {names}: name them after their splits, such as train.csv and test.csv")
    return splits


def read_rows(path: Path) -> pa.Table:
    """Return all rows of one file, or folder of ``save_to_disk``, with the course's names of the columns."""
    if path.is_file():
        refuse_pointer(path)
    try:
        if path.is_dir():
            dataset = load_from_disk(str(path))
            table = dataset.with_format("arrow")[:].cast(dataset.features.arrow_schema)
        else:
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                rows = [
                    {name: value if name in KNOWN else None for name, value in row.items()}
                    for row in (json_rows if path.suffix == ".jsonl" else text_rows)(file)
                ]
            names = dict.fromkeys(name for row in rows for name in row)
            table = pa.table({name: [row.get(name) for row in rows] for name in names})
            if not rows:
                raise ValueError("there are no rows")
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UsageError(f"{path} could not be read ({str(error).splitlines()[0]}): check the file") from error
    names = table.column_names
    if "score" not in names and {"label", "gold_label"} & set(names) and "sentence1" in names:
        label = table["label"] if "label" in names else None
        if (
            label is not None
            and pa.types.is_floating(label.type)
            and pc.any(pc.not_equal(pc.floor(label), label)).as_py()
        ):
            own = {"label": "score"}  # the hub's copy of GLUE's STS-B
        else:
            own = {name: NLI_OWN[name] for name in NLI_OWN if name != "gold_label" or label is None}
        metadata = table.schema.metadata  # with the names of the labels
        table = table.rename_columns([own.get(name, name) for name in names]).replace_schema_metadata(metadata)
    return table


def json_rows(lines: Iterable[str]) -> Iterator[dict]:
    """Yield the object in each line. Raises ValueError for a line that holds none."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield row


def text_rows(file: Iterable[str]) -> Iterator[dict]:
    """Yield the rows of a table in text, an empty field as None.

    Fields between tabs are taken as they are, for SNLI's and STS-B's are full of lone quotes, unless a CSV writer would write
    the file just so. Raises ValueError for a line with too many or too few fields.
    """
    lines = list(file) or [""]
    mark = max("\t,;", key=lines[0].count)
    if as_is := mark == "\t" and not is_csv(lines, mark):
        rows = ((number, line.rstrip("\r\n").split(mark)) for number, line in enumerate(lines, 1) if line.strip("\r\n"))
    else:
        reader = csv.reader(lines, delimiter=mark, strict=True)
        rows = ((reader.line_num, row) for row in reader if row)
    names = [name.strip() for name in next(rows, (1, [""]))[1]]
    if (
        mark == "\t" and len(names) >= len(STSB) and re.fullmatch(r"\d+(\.\d+)?", names[4])
    ):  # the first of STS-B's rows,
        rows = (
            (number, row[: len(STSB)]) for number, row in chain([(1, names)], rows)
        )  # some with their licence after it
        names = STSB
    for number, row in rows:
        if len(row) > len(names) or (len(row) < len(names) and (names is STSB or not as_is)):
            raise ValueError(f"line {number} has {len(row)} fields, not {len(names)}")
        yield {name: value or None for name, value in zip_longest(names, row)}


def is_csv(lines: list[str], mark: str) -> bool:
    """Return whether a CSV writer would write these very lines."""
    reader, start = csv.reader(lines, delimiter=mark, strict=True), 0
    try:
        for row in reader:
            csv.writer(written := io.StringIO(), delimiter=mark, lineterminator="").writerow(row)
            if "".join(lines[start : reader.line_num]).rstrip("\r\n") != written.getvalue():
                return False
            start = reader.line_num
    except csv.Error:
        return False
    return True


# ---- cleaning -------------------------------------------------------------------------------------------------------


def words_of(table: pa.Table) -> set[str]:
    """Return the different labels of a table that are texts, but for those that say there is none."""
    label = joined([table], "")["label"] if "label" in table.column_names else pa.array([], pa.string())
    return (
        set(label.unique().drop_null().to_pylist()) - set(UNKNOWN.to_pylist()) if label.type == pa.string() else set()
    )


def clean(kind: str, table: pa.Table, where: str, words: list[str]) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows of a table that can be used, in the course's columns, and how many were dropped for which reason."""
    wanted, names, everything = KINDS[kind], label_names(table), table
    texts = [name for name in table.column_names if NLI_SPELLING.get(name, name) in wanted.texts]
    for name in texts:
        table = table.filter(pc.is_valid(table[name]))
    dropped = {"missing sentence": len(everything) - len(table)}
    if wanted.gold in table.column_names:
        gold = joined([table.select([wanted.gold])], where)[wanted.gold]
        unknown = pc.is_in(pc.utf8_trim_whitespace(gold.cast(pa.string())), UNKNOWN)
        table = table.filter(pc.invert(pc.or_(unknown, pc.is_null(gold))))
    dropped[NO_GOLD[kind]] = len(everything) - len(table) - dropped["missing sentence"]
    where += " without the rows that are dropped," if any(dropped.values()) else ""
    if not len(table):
        return table, dropped
    if kind == "nli":
        return clean_nli(table, where).data.table, dropped
    table = checked(kind, table, where)
    gold = table[wanted.gold]
    if words and gold.type == pa.string():
        table = table.set_column(1, "label", pc.index_in(gold, pa.array(words)))
        names = words
    elif gold.type == pa.string():
        try:
            table = table.set_column(len(wanted.texts), wanted.gold, gold.cast(pa.float64()))
        except pa.ArrowException as error:
            raise UsageError(f"{where} has a {wanted.gold} that is no number ({error}): {wanted.rule}") from error
    values = numbers(kind, table, where)
    good = (values >= 0) & ((values <= 5) if kind == "sts" else (values % 1 == 0))
    refuse(~good, table, wanted.gold, where, wanted.rule)
    if kind == "classification":
        values = values.astype(np.int64)
        if names and "label_text" not in table.column_names:
            table = table.append_column("label_text", pa.array([names[value] for value in values]))
    return dataset_of(kind, table, values, good, []).data.table, dropped

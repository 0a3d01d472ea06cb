"""Where corpora come from: the course's own, a data folder of yours, or the hub.

The course's own corpora are a data folder like any other, ``stlib/mini``. A data folder has one folder per corpus and
one parquet file per split: ``CORPUS/SPLIT.parquet``, or the layouts of the hub (``CORPUS/data/SPLIT-00000-of-00002.parquet``,
``CORPUS/CONFIGURATION/SPLIT/0000.parquet``). ``python -m stlib data`` makes one of other files.
"""

import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ReadInstruction, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetsError

from stlib.errors import UsageError
from stlib.settings import STS_TASKS, Profile, get_profile

# Every hub id of the course, looked up on the hub. No copy of mpqa or trec there loads without running a script.
HUB_IDS = {
    "snli": "stanfordnlp/snli",
    **{task: f"mteb/{task}" for task in STS_TASKS},
    "mr": "cornell-movie-review-data/rotten_tomatoes",
    "cr": "SetFit/SentEval-CR",
    "subj": "SetFit/subj",
    "sst2": "SetFit/sst2",
    "banking77": "mteb/banking77",
}
# Names of shards: the hub's own (``train-00000-of-00002``), and those of its conversion to parquet.
SHARD = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-\w+)?")
RAW_FILES = (".jsonl", ".txt", ".tsv", ".csv", ".arrow")


@dataclass(frozen=True)
class Source:
    """Where corpora come from: ``mini`` (shipped with the course), ``folder`` (with its path) or ``hub``."""

    kind: str
    folder: Path | None = None

    def __post_init__(self):
        if self.kind == "mini":
            object.__setattr__(self, "folder", Path(__file__).with_name("mini"))

    def __str__(self) -> str:
        return {"mini": "mini corpora", "hub": "the hub"}.get(self.kind) or f"folder {self.folder.name}"


def get_source(data: str | Path | None = None, profile: Profile | None = None) -> Source:
    """Return the source to read: ``data`` (``mini``, ``hub`` or a folder) if given, else ``STLIB_DATA``, else the profile's.

    A relative folder may also start at the folder above, since notebooks run in ``notebooks/``. Raises UsageError if the
    folder does not exist, or holds raw files only.
    """
    data = data or os.environ.get("STLIB_DATA") or (profile or get_profile()).source
    if str(data) in ("mini", "hub"):
        return Source(str(data))
    for folder in (Path(data), Path("..") / data):
        if folder.is_dir():
            source = Source("folder", folder.resolve())
            if not corpora_of(source):
                refuse_raw(source.folder)
            return source
    raise UsageError(f"the data folder {data} does not exist: set STLIB_DATA or --data to a folder, 'hub' or 'mini'")


def corpora_of(source: Source) -> list[str]:
    """Return the names of all corpora that a source has."""
    if source.folder is None:
        return list(HUB_IDS)
    folders = [path for path in source.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(folder.name for folder in folders if visible(folder, ".parquet"))  # a link to a folder is one too


def available_tasks(tasks: tuple[str, ...], source: Source) -> tuple[list[str], list[str]]:
    """Return the tasks among ``tasks`` that ``source`` has, and those it lacks."""
    have = corpora_of(source)
    return [task for task in tasks if task in have], [task for task in tasks if task not in have]


def splits_of(task: str, source: Source) -> list[str]:
    """Return the splits that a task has in ``source``. Raises UsageError if it does not have the task."""
    return ask_hub(get_dataset_split_names, task) if source.folder is None else sorted(find_shards(task, source))


def columns_of(task: str, source: Source) -> list[str]:
    """Return the names of the columns in the first file of a task's folder. Raises UsageError if there is none."""
    return read_parquet(next(iter(find_shards(task, source).values()))[0], pq.read_schema).names


def read_column(task: str, name: str, source: Source) -> list[pa.Table]:
    """Return a column of all splits of a task in a folder, one table for each whole split that has it in any file."""
    shards = find_shards(task, source).values() if source.folder else []
    found = [[read_parquet(path, lambda path: pq.ParquetFile(path).read([name])) for path in paths] for paths in shards]
    return [joined(split, f"{source}, corpus {task},") for split in found if any(part.column_names for part in split)]


def read_table(corpus: str, split: str, source: Source | None = None) -> tuple[pa.Table, str, list[str]]:
    """Return rows of a corpus as they are, what to call them in an error, and notes on what was read.

    Raises UsageError if the corpus or the split is missing, incomplete or there twice, or a file cannot be read.
    """
    source = source or get_source()
    place = {"mini": "the mini corpus", "hub": "the hub's corpus"}.get(source.kind) or f"folder {source.folder}, corpus"
    where = f"{place} {corpus}, split {split!r},"
    if source.folder is None:
        dataset = ask_hub(load_dataset, corpus, split=split)
        table = dataset.with_format("arrow")[:].cast(dataset.features.arrow_schema)  # with the names of its labels
        return table, where, [f"{len(table):,} rows of {HUB_IDS[corpus]}"]
    shards, folder = find_shards(corpus, source), source.folder / corpus
    wanted = list(dict.fromkeys(re.findall(r"(?:^|\+)\s*(\w+)", split)))
    if missing := [name for name in wanted if name not in shards]:
        ask = "set STLIB_NLI_SPLIT or --nli-split to one of these" if corpus == "snli" else "ask for one of these"
        raise UsageError(
            f"folder {folder} has no file {missing[0]}.parquet for the split {split!r} (it has: {', '.join(sorted(shards))}): "
            f"{ask}, add the file, or use the hub (STLIB_DATA=hub)"
        )
    tables = {name: joined([read_parquet(path) for path in shards[name]], where) for name in wanted}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(table) for name, table in tables.items()})
    except (ValueError, AssertionError) as error:
        raise no_split(split, error) from error
    table = joined([tables[part.splitname].slice(part.from_, max(0, part.to - part.from_)) for part in parts], where)
    if not len(table):
        raise UsageError(f"folder {folder} has no rows in the split {split!r}: choose another file or a larger slice")
    count = sum(len(shards[name]) for name in wanted)
    return table, where, [f"{len(table):,} rows of {split} from {count} {'file' if count == 1 else 'files'}"]


def no_split(split: str, error: Exception) -> UsageError:
    """Return the sentence that says why there is no such split."""
    return UsageError(f"there is no split {split!r} ({error}): write train, validation+test or train[:6400]")


def joined(tables: list[pa.Table], where: str) -> pa.Table:
    """Return the rows of all tables, each text column as ``string``, however its writer kept it (large, view, dictionary).

    Raises UsageError if their columns have different types, or they name the numbers of their labels differently.
    """
    if len({str(label_names(table)) for table in tables}) > 1:
        raise UsageError(f"{where} has files that name their labels differently: read them one by one")
    for i, table in enumerate(tables):
        for number, field in enumerate(table.schema):
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            kind = pa.string() if str(kind) in ("large_string", "string_view") else kind
            if kind != field.type:
                tables[i] = tables[i].set_column(number, field.name, table[number].cast(kind))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UsageError(f"{where} has files whose columns differ ({error}): write them alike") from error


def label_names(table: pa.Table) -> list[str] | None:
    """Return the names that the datasets library wrote into a file for the numbers in its column ``label``, or None."""
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", "{}"))
    return ((about.get("info") or {}).get("features") or {}).get("label", {}).get("names")


def read_parquet(path: Path, read=pq.read_table):
    """Return the rows of one file, or what else ``read`` finds in it. Raises UsageError if it cannot be read."""
    try:
        return read(path)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UsageError:
    """Return the sentence that says why a file could not be read."""
    reason = str(error).splitlines()[0]
    return UsageError(
        f"{path} could not be read ({reason}): check the file, or fetch it with git lfs pull if it is a pointer"
    )


def visible(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files with these suffixes at or below ``folder``, in order, without hidden ones, as macOS and git have."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix in suffixes and path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def refuse_raw(folder: Path) -> None:
    """Raise UsageError, with the command that helps, if ``folder`` has files that ``python -m stlib data`` may read."""
    if raw := visible(folder, *RAW_FILES):
        names = ", ".join(str(path.relative_to(folder)) for path in raw[:3]) + (", …" if raw[3:] else "")
        command = f'python -m stlib data "{folder}" NEW_FOLDER'
        raise UsageError(f"folder {folder} has no parquet file but {names}: convert it with {command}")


def find_shards(corpus: str, source: Source) -> dict[str, list[Path]]:
    """Return the parquet files of each split of a corpus, in order, from a source that is a folder.

    Raises UsageError if there are none, configurations lie side by side, or shards are missing or there twice.
    """
    folder = source.folder / corpus
    if not folder.is_dir():
        raise UsageError(
            f"there is no corpus {corpus!r} in {source} (it has: {', '.join(corpora_of(source)) or 'none'}): choose one of "
            "these, or name another data folder, or hub, with --data or STLIB_DATA"
        )
    found = defaultdict(list)  # of each split: where a file is, its number among how many, and the file
    for path in visible(folder, ".parquet"):
        place, split, number, count = path.parent, path.stem, 0, 1
        if match := SHARD.fullmatch(path.stem):
            split, number, count = match["split"], int(match["number"]), int(match["count"])
        elif re.fullmatch(r"\d{4}", path.stem) and place != folder:
            place, split, number, count = place.parent, place.name, int(path.stem), None
        found[split].append((str(place.relative_to(folder)), number, count, path))
    if not found:
        refuse_raw(folder)
        raise UsageError(f"folder {folder} has no parquet file: add one for each split, or use the hub")
    if len(places := sorted({place for shards in found.values() for place, *_ in shards} - {"."})) > 1:
        names = " and ".join(map(repr, places))
        raise UsageError(f"folder {folder} has configurations side by side, {names}: keep one of them")
    for split, shards in found.items():
        count = shards[-1][2] or shards[-1][1] + 1
        if [shard[1:3] for shard in shards] != [(number, shards[-1][2]) for number in range(count)]:
            names = ", ".join(str(path.relative_to(folder)) for *_, path in shards)
            raise UsageError(
                f"folder {folder} has {len(shards)} of {count} files of the split {split!r} ({names}): add those that are "
                "missing, or remove those that are not its own"
            )
    return {split: [path for *_, path in shards] for split, shards in found.items()}


def ask_hub(question, corpus: str, **arguments):
    """Return ``question(HUB_ID, …)`` of the datasets library.

    Raises UsageError if the hub lacks it or cannot be reached, or the folder that keeps copies may not be written.
    """
    hub_id = HUB_IDS.get(corpus)
    if hub_id is None:
        raise UsageError(
            f"there is no hub id for the task {corpus!r} (only {', '.join(HUB_IDS)}): name a folder in STLIB_DATA or --data"
        )
    try:
        return question(hub_id, **arguments)
    except (OSError, ValueError, DatasetsError) as error:
        cause = (isinstance(error, DatasetsError) and error.__cause__) or error  # a full disk, say
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if "split" in arguments and isinstance(error, ValueError) and re.search("split|slice|instruction", reason):
            raise no_split(arguments["split"], error) from error
        raise UsageError(
            f"{hub_id} could not be read from the hub ({reason}): connect to it, or set STLIB_DATA to a folder with "
            f"{corpus}/, or HF_HOME to one with space that may be written, or use the profile mini"
        ) from error

"""Where corpora come from: the course's own, a data folder of yours, or the hub.

The course's own corpora are a data folder like any other, ``stlib/mini``. A data folder has one folder per corpus and
one parquet file per split: ``CORPUS/SPLIT.parquet``, or the layouts of the hub (``CORPUS/data/SPLIT-00000-of-00002.parquet``,
``CORPUS/CONFIGURATION/SPLIT/0000.parquet``).
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ReadInstruction, get_dataset_split_names, load_dataset

from stlib.errors import UsageError
from stlib.settings import STS_TASKS, Profile, get_profile

# Every hub id of the course, looked up on the hub. None: no copy there loads without running a script.
HUB_IDS = {
    "snli": "stanfordnlp/snli",
    **{task: f"mteb/{task}" for task in STS_TASKS},
    "mr": "cornell-movie-review-data/rotten_tomatoes",
    "cr": "SetFit/SentEval-CR",
    "subj": "SetFit/subj",
    "mpqa": None,
    "sst2": "SetFit/sst2",
    "trec": None,
    "banking77": "mteb/banking77",
}
# Names of shards: the hub's own (``train-00000-of-00002``), and those of its conversion to parquet.
SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-(?P<count>\d{5})(-\w+)?")
RAW_FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".arrow")


@dataclass(frozen=True)
class Source:
    """Where corpora come from: ``mini`` (shipped with the course), ``folder`` (with its path) or ``hub``."""

    kind: str
    folder: Path | None = None

    def __post_init__(self):
        if self.kind == "mini":
            object.__setattr__(self, "folder", Path(str(files("stlib") / "mini")))

    def __str__(self) -> str:
        return {"mini": "mini corpora", "hub": "the hub"}.get(self.kind) or f"folder {self.folder.name}"


def get_source(data: str | Path | None = None, profile: Profile | None = None) -> Source:
    """Return the source to read: ``data`` (``mini``, ``hub`` or a folder) if given, else ``STLIB_DATA``, else the profile's.

    A relative folder may also start at the folder above, since notebooks run in ``notebooks/``. Raises UsageError if the
    folder does not exist.
    """
    data = data or os.environ.get("STLIB_DATA") or (profile or get_profile()).source
    if str(data) in ("mini", "hub"):
        return Source(str(data))
    for folder in (Path(data), Path("..") / data):
        if folder.is_dir():
            return Source("folder", folder.resolve())
    raise UsageError(f"the data folder {data} does not exist: set STLIB_DATA or --data to a folder, 'hub' or 'mini'")


def corpora_of(source: Source) -> list[str]:
    """Return the names of all corpora that a source has."""
    if source.folder is None:
        return [task for task, hub_id in HUB_IDS.items() if hub_id]
    return sorted({path.relative_to(source.folder).parts[0] for path in source.folder.glob("*/**/*.parquet")})


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
    wanted = dict.fromkeys(re.findall(r"(?:^|\+)\s*(\w+)", split))
    for name in wanted:
        if name not in shards:
            ask = "set STLIB_NLI_SPLIT or --nli-split to one of these" if corpus == "snli" else "ask for one of these"
            raise UsageError(
                f"folder {folder} has no file {name}.parquet for the split {split!r} (it has: {', '.join(sorted(shards))}): "
                f"{ask}, add the file, or use the hub (STLIB_DATA=hub)"
            )
    tables = {name: pa.concat_tables([read_parquet(path) for path in shards[name]]) for name in wanted}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(table) for name, table in tables.items()})
    except (ValueError, AssertionError) as error:
        raise UsageError(
            f"there is no split {split!r} ({error}): write train, validation+test or train[:6400]"
        ) from error
    slices = [tables[part.splitname].slice(part.from_, max(0, part.to - part.from_)) for part in parts]
    table = pa.concat_tables(slices, promote_options="permissive")
    if not len(table):
        raise UsageError(f"folder {folder} has no rows in the split {split!r}: choose another file or a larger slice")
    count = sum(len(shards[name]) for name in wanted)
    return table, where, [f"{len(table):,} rows of {split} from {count} {'file' if count == 1 else 'files'}"]


def read_parquet(path: Path, read=pq.read_table):
    """Return the rows of one file, or what else ``read`` finds in it. Raises UsageError if it cannot be read."""
    if path.stat().st_size < 1_000 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a Git LFS pointer, not the file itself: fetch it with git lfs pull")
    try:
        return read(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} could not be read ({str(error).splitlines()[0]}): check the file") from error


def find_shards(corpus: str, source: Source) -> dict[str, list[Path]]:
    """Return the parquet files of each split of a corpus, in order, from a source that is a folder.

    Raises UsageError if there are none, the same split is in two places, or shards are missing.
    """
    folder = source.folder / corpus
    if not folder.is_dir():
        raise UsageError(
            f"there is no corpus {corpus!r} in {source} (it has: {', '.join(corpora_of(source)) or 'none'}): choose one of "
            "these, or name another data folder, or hub, with --data or STLIB_DATA"
        )
    found = defaultdict(list)  # of each split: where a file is, of how many it is one, and the file
    for path in sorted(folder.glob("**/*.parquet")):
        place, split, count = path.parent, path.stem, 1
        if match := SHARD.fullmatch(path.stem):
            split, count = match["split"], int(match["count"])
        elif re.fullmatch(r"\d{4}", path.stem) and place != folder:
            place, split, count = place.parent, place.name, int(path.stem) + 1
        found[split].append((str(place.relative_to(folder)), count, path))
    if not found:
        raw = sorted(path.name for path in folder.rglob("*") if path.suffix in RAW_FILES)
        instead = f" but {raw[0]}: convert it with python -m stlib data {folder} NEW_FOLDER" if raw else ""
        raise UsageError(f"folder {folder} has no parquet file{instead or ': add one for each split, or use the hub'}")
    for split, shards in found.items():
        places = list(dict.fromkeys(place for place, _, _ in shards))
        if len(places) > 1:
            names = " and ".join(map(repr, places))
            raise UsageError(f"folder {folder} has the split {split!r} in two places, {names}: keep one of them")
        count = shards[-1][1]
        if len(shards) != count:
            raise UsageError(
                f"folder {folder} has {len(shards)} of {count} files of the split {split!r}: add those that are missing, or "
                "remove those that are not its own"
            )
    return {split: [path for _, _, path in shards] for split, shards in found.items()}


def ask_hub(question, corpus: str, **arguments):
    """Return ``question(HUB_ID, …)`` of the datasets library. Raises UsageError if the hub lacks it or cannot be reached."""
    hub_id = HUB_IDS.get(corpus)
    if hub_id is None:
        raise UsageError(
            f"there is no hub id for the task {corpus!r}: put it into a data folder and name that with STLIB_DATA or --data"
        )
    try:
        return question(hub_id, **arguments)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{hub_id} could not be read from the hub ({reason}): connect to it, or set STLIB_DATA to a folder with "
            f"{corpus}/, or use the profile mini"
        ) from error

"""The corpora of the course: the same columns whether they are ours, in a folder of yours, or on the hub."""

import contextlib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    Features,
    Value,
    disable_progress_bars,
    enable_progress_bars,
    get_dataset_split_names,
    load_dataset,
)
from datasets.utils import are_progress_bars_disabled

from stlib.errors import UsageError
from stlib.mini import nli_grammar
from stlib.profiles import Profile, get_profile

NLI_COLUMNS = ("sentence_0", "sentence_1", "label")
NLI_LABELS = ("entailment", "neutral", "contradiction")
NLI_FEATURES = Features({"sentence_0": Value("string"), "sentence_1": Value("string"), "label": Value("int64")})
# The layout of stanfordnlp/snli: what is read from the hub or a folder is renamed to NLI_COLUMNS.
SNLI_COLUMNS = {"premise": "sentence_0", "hypothesis": "sentence_1"}
STS_COLUMNS = ("sentence1", "sentence2", "score")
CLASSIFICATION_COLUMNS = ("text", "label")
# How many rows each split of the mini NLI corpus has when none is asked for (a slice may ask for fewer or more).
MINI_NLI_ROWS = {"train": 60_000, "validation": 1_500, "test": 3_000}
MINI_STS = ("sts",)
MINI_CLASSIFICATION = ("question_topic", "opinion")

# Every hub id of the course, looked up on the hub. None: no copy there loads without running a script.
HUB_IDS = {
    "nli": "stanfordnlp/snli",
    "sts12-sts": "mteb/sts12-sts",
    "sts13-sts": "mteb/sts13-sts",
    "sts14-sts": "mteb/sts14-sts",
    "sts15-sts": "mteb/sts15-sts",
    "sts16-sts": "mteb/sts16-sts",
    "stsbenchmark-sts": "mteb/stsbenchmark-sts",
    "sickr-sts": "mteb/sickr-sts",
    "mr": "cornell-movie-review-data/rotten_tomatoes",
    "cr": "SetFit/SentEval-CR",
    "subj": "SetFit/subj",
    "mpqa": None,
    "sst2": "SetFit/sst2",
    "trec": None,
    "banking77": "mteb/banking77",
}


@dataclass(frozen=True)
class Source:
    """Where corpora come from: ``mini`` (shipped with the course), ``folder`` (with its path) or ``hub``."""

    kind: str
    folder: Path | None = None

    def __str__(self) -> str:
        return {"mini": "mini corpora", "hub": "the hub"}.get(self.kind) or f"folder {self.folder.name}"


def get_source(data: str | Path | None = None, profile: Profile | None = None) -> Source:
    """The source to read: ``data`` if given, else ``STLIB_DATA``, else the profile's own.

    ``data`` is ``mini``, ``hub`` or a folder. Raises UsageError for a folder that does not exist.
    """
    profile = profile or get_profile()
    data = data or os.environ.get("STLIB_DATA") or profile.source
    if str(data) in ("mini", "hub"):
        return Source(str(data))
    folder = find_folder(Path(data))
    if folder is None:
        raise UsageError(
            f"the data folder {data} does not exist: set STLIB_DATA or --data to a folder, 'hub' or 'mini'"
        )
    return Source("folder", folder)


def train_split(profile: Profile) -> str:
    """The NLI rows to train on: ``STLIB_NLI_SPLIT``, else the profile's own."""
    return os.environ.get("STLIB_NLI_SPLIT") or profile.train_split


def find_folder(folder: Path) -> Path | None:
    """``folder`` as seen from the current folder, else from the folder above.

    Notebooks run in ``notebooks/``, so a path that was given at the project's root still holds there.
    """
    for candidate in (folder, Path("..") / folder):
        if candidate.is_dir():
            return candidate.resolve()
    return None


# ---- NLI -----------------------------------------------------------------------------------------------------------


def nli(split: str = "train", source: Source | None = None, seed: int = 0) -> Dataset:
    """NLI pairs with the columns ``sentence_0``, ``sentence_1``, ``label`` (0 entailment, 1 neutral, 2 contradiction).

    Args:
        split: the library's split syntax: ``train``, ``validation+test``, ``train[:20000]``, ``test[:10%]``.
        source: where to read; by default what ``get_source()`` says.
        seed: of the mini corpus; another seed gives other pairs.

    Returns:
        A ``datasets.Dataset``. Rows that annotators could not agree on (label -1) are dropped; how many, is in
        ``dataset.info.description``.

    Raises:
        UsageError: the split or a column is missing, or a label is outside 0, 1, 2.
    """
    source = source or get_source()
    if source.kind == "mini":
        return mini_nli(split, seed)
    where = f"folder {source.folder / 'snli'}" if source.folder else f"the hub's {HUB_IDS['nli']}"
    return clean_nli(read(source, "nli", split), where)


def clean_nli(dataset: Dataset, where: str) -> Dataset:
    """Rename SNLI's columns, drop rows labelled -1 and count them in ``info.description``."""
    names = {old: new for old, new in SNLI_COLUMNS.items() if old in dataset.column_names}
    for column in (name for name in (*SNLI_COLUMNS, *NLI_COLUMNS[:2]) if name in dataset.column_names):
        require_texts(dataset, column, where)
    dataset = dataset.rename_columns(names)
    require_columns(dataset, NLI_COLUMNS, where)
    dataset = dataset.select_columns(list(NLI_COLUMNS))
    require_labels(dataset, where, (-1, 0, 1, 2), "NLI labels are 0, 1 and 2, and -1 where annotators disagree")
    labels = dataset.with_format("numpy")["label"][:]
    dropped = int((labels == -1).sum())
    if dropped:
        dataset = dataset.select((labels != -1).nonzero()[0])
    with quiet_reading():
        dataset = dataset.cast(NLI_FEATURES)
    dataset.info.description = f"{dropped:,} rows labelled -1 dropped"
    return dataset


def mini_nli(split: str, seed: int = 0) -> Dataset:
    """Pairs from our scene grammar, in the library's split syntax; a slice end above the usual size makes more rows."""
    parts = [parse_mini_split(part.strip()) for part in split.split("+")]
    tables = []
    for name, start, stop in parts:
        tables += [pa.Table.from_pylist(chunk) for chunk in chunks(nli_grammar.pairs(name, seed), start, stop)]
    if not tables:
        raise UsageError(f"the split {split!r} of the mini NLI corpus holds no rows: choose a larger slice")
    return clean_nli(Dataset(pa.concat_tables(tables)), "the mini NLI corpus")


def parse_mini_split(part: str) -> tuple[str, int, int]:
    """``train[10:20]`` as ("train", 10, 20). Raises UsageError for another split, or for more rows than there are."""
    match = re.fullmatch(r"(\w+)(?:\[(-?\d*%?):(-?\d*%?)\])?", part)
    if not match or match[1] not in MINI_NLI_ROWS:
        raise UsageError(
            f"the mini NLI corpus has no split {part!r}: use train, validation or test, with a slice such as "
            "train[:6400] if you like"
        )
    usual = MINI_NLI_ROWS[match[1]]
    bounds = slice(slice_bound(match[2], usual), slice_bound(match[3], usual))
    rows = max(usual, bounds.stop or 0)
    if rows > nli_grammar.MAX_PAIRS:
        raise UsageError(
            f"the mini NLI corpus has at most {nli_grammar.MAX_PAIRS:,} pairs a split: {part} asks for more"
        )
    start, stop, _ = bounds.indices(rows)
    return match[1], start, stop


def slice_bound(text: str | None, rows: int) -> int | None:
    """One bound of ``[start:end]``: a number of rows or a percentage of ``rows``."""
    if not text:
        return None
    return round(int(text[:-1]) * rows / 100) if text.endswith("%") else int(text)


def chunks(rows, start: int, stop: int | None, size: int = 10_000):
    """The rows from ``start`` to ``stop`` in lists of at most ``size``: bounded memory whatever the corpus size."""
    rows = itertools.islice(rows, start, stop)
    return iter(lambda: list(itertools.islice(rows, size)), [])


def write_mini_nli(folder: str | Path, rows: int, split: str = "train", seed: int = 0) -> Path:
    """Write ``rows`` pairs of the grammar as ``folder/snli/SPLIT.parquet``, the layout that ``--data`` reads.

    Memory stays bounded: 10,000 rows at a time. More rows than one seed may give come from the seeds after it.
    """
    path = Path(folder) / "snli" / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    schema = pa.schema([("premise", pa.string()), ("hypothesis", pa.string()), ("label", pa.int64())])
    with pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, rows, nli_grammar.MAX_PAIRS):
            stop = min(nli_grammar.MAX_PAIRS, rows - start)
            for chunk in chunks(nli_grammar.pairs(split, seed + start // nli_grammar.MAX_PAIRS), 0, stop):
                writer.write_table(pa.Table.from_pylist(chunk, schema))
    temporary.replace(path)
    return path


# ---- STS and classification ----------------------------------------------------------------------------------------


def sts(task: str, split: str = "test", source: Source | None = None) -> Dataset:
    """Sentence pairs with a gold similarity: ``sentence1``, ``sentence2``, ``score`` (0 to 5), ``subset`` where known.

    Raises UsageError for a task or split that the source does not have.
    """
    table = read_table(task, split, source, MINI_STS, STS_COLUMNS, ("subset", "topic"))
    where = f"the STS task {task!r}"
    require_scores(table, where)
    for column in STS_COLUMNS[:2]:
        require_texts(table, column, where)
    with quiet_reading():
        return table.cast_column("score", Value("float64"))


def pair_keys(pairs: pd.DataFrame) -> list[frozenset]:
    """One key for each pair, whatever the order of its sentences, their case and the space around them."""
    sides = (pairs[side].str.strip().str.lower() for side in ("sentence1", "sentence2"))
    return [frozenset(pair) for pair in zip(*sides, strict=True)]


def unseen(pairs: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Which of the STS ``pairs`` are not among ``others``, shape (n,).

    STS-B was put together from the SemEval tasks (Cer et al. 2017, arXiv 1708.00055): many pairs of STS12 to STS15 are
    in its train and validation splits too. What is trained or chosen on those may be confirmed only on the rest.
    """
    seen = set(pair_keys(others))
    return np.array([key not in seen for key in pair_keys(pairs)], dtype=bool)


def classification(task: str, split: str = "train", source: Source | None = None) -> Dataset:
    """Labelled sentences: ``text``, ``label`` (whole numbers from 0), ``label_text`` where known.

    Raises UsageError for a task or split that the source does not have.
    """
    table = read_table(task, split, source, MINI_CLASSIFICATION, CLASSIFICATION_COLUMNS, ("label_text",))
    require_texts(table, "text", f"the task {task!r}")
    require_labels(table, f"the task {task!r}", None, "labels are whole numbers from 0")
    with quiet_reading():
        return table.cast_column("label", Value("int64"))


def read_table(
    task: str, split: str, source: Source | None, mini_tasks: Sequence[str], columns: Sequence[str], more: Sequence[str]
) -> Dataset:
    """The ``columns`` of a task, which it must have, and those of ``more`` that it has."""
    source = source or get_source()
    dataset = read_mini_table(task, split, mini_tasks) if source.kind == "mini" else read(source, task, split)
    require_columns(dataset, columns, f"{task} from {source}")
    return dataset.select_columns([*columns, *(name for name in more if name in dataset.column_names)])


def mini_table(task: str, tasks: Sequence[str]) -> pd.DataFrame:
    """All splits of a mini task, which must be one of ``tasks``."""
    if task not in tasks:
        raise UsageError(
            f"there is no mini task {task!r}: choose one of {', '.join(tasks)}, or name a data folder or the hub"
        )
    return pd.read_csv(files("stlib.mini") / f"{task}.csv", encoding="utf-8")


def read_mini_table(task: str, split: str, tasks: Sequence[str]) -> Dataset:
    table = mini_table(task, tasks)
    rows = table[table["split"] == split].drop(columns="split")
    if rows.empty:
        raise UsageError(
            f"the mini task {task!r} has no split {split!r}: choose one of {', '.join(table['split'].unique())}"
        )
    return Dataset.from_pandas(rows, preserve_index=False)


def available_tasks(tasks: tuple[str, ...], source: Source) -> tuple[list[str], list[str]]:
    """The tasks among ``tasks`` that ``source`` has, and those it lacks."""
    if source.kind == "mini":
        have = set(MINI_STS + MINI_CLASSIFICATION)
    elif source.kind == "hub":
        have = {task for task, hub_id in HUB_IDS.items() if hub_id}
    else:
        have = {path.name for path in source.folder.iterdir() if splits_in(path)}
    return [task for task in tasks if task in have], [task for task in tasks if task not in have]


def splits_of(task: str, source: Source) -> list[str]:
    """The splits that a task has in ``source``. Raises UsageError where it does not have the task."""
    if source.kind == "mini":
        return sorted(mini_table(task, MINI_STS + MINI_CLASSIFICATION)["split"].unique())
    if source.kind == "folder":
        splits = splits_in(source.folder / task)
        if not splits:
            raise UsageError(
                f"folder {source.folder / task} has no parquet file: add one for each split, or use the hub"
            )
        return splits
    return ask_hub(get_dataset_split_names, task)


def splits_in(folder: Path) -> list[str]:
    """The splits whose parquet files lie in ``folder``, in our layout or the hub's."""
    return sorted({path.stem.split("-")[0] for path in folder.glob("**/*.parquet")})


@contextlib.contextmanager
def quiet_reading():
    """Read local files in silence: without bars, which are done before they can be read, and without telling the hub.

    The library counts each call of ``load_dataset`` at the hub, for local files too, and waits up to 3 s where it cannot.
    It also logs a broken file before it raises an error, which would say the same twice.
    """
    already, counting = are_progress_bars_disabled(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    verbosity = datasets.logging.get_verbosity()
    disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counting
        if not already:
            enable_progress_bars()


# ---- reading folders and the hub -----------------------------------------------------------------------------------


def read(source: Source, task: str, split: str) -> Dataset:
    """One task from a folder (``TASK/SPLIT.parquet`` or the hub's ``TASK/data/SPLIT-….parquet``) or from the hub."""
    if source.kind == "folder":
        return read_folder(source.folder / ("snli" if task == "nli" else task), split)
    return ask_hub(load_dataset, task, split=split)


def ask_hub(question: Callable, task: str, **arguments):
    """``question(HUB_ID, …)`` of the datasets library. Raises UsageError where the hub lacks the task or cannot be reached."""
    hub_id = HUB_IDS.get(task)
    if hub_id is None:
        raise UsageError(
            f"there is no hub id for the task {task!r}: put it into a data folder and name that with STLIB_DATA or --data"
        )
    try:
        return question(hub_id, **arguments)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"{hub_id} could not be read from the hub ({reason}): connect to it, or set STLIB_DATA to a folder with "
            f"{'snli' if task == 'nli' else task}/, or use the profile mini"
        ) from error


def read_folder(folder: Path, split: str) -> Dataset:
    """The rows of ``split`` (the library's syntax) from the parquet files of ``folder``."""
    wanted = [re.match(r"\s*(\w*)", part)[1] for part in split.split("+")]
    paths = {name: sorted([*folder.glob(f"{name}.parquet"), *folder.glob(f"**/{name}-*.parquet")]) for name in wanted}
    for name, found in paths.items():
        if not found:
            have = splits_in(folder)
            way_out = (
                "set STLIB_NLI_SPLIT or --nli-split to one of these"
                if folder.name == "snli"
                else "ask for one of these"
            )
            raise UsageError(
                f"folder {folder} has no file {name}.parquet for the split {split!r} (it has: {', '.join(have) or 'no parquet file'}): "
                f"{way_out}, add the file, or use the hub (STLIB_DATA=hub)"
            )
    if rows_of(itertools.chain(*paths.values())) == 0:
        raise UsageError(f"folder {folder} has no rows in the split {split!r}: choose another file or split")
    data_files = {name: [str(path) for path in found] for name, found in paths.items()}
    try:
        with quiet_reading():
            return load_dataset("parquet", data_files=data_files, split=split)
    except Exception as error:  # the library wraps a broken file in errors of many types
        raise UsageError(
            f"folder {folder} could not be read for the split {split!r} ({one_line(error)}): check its parquet files"
        ) from error


def rows_of(paths: Iterable[Path]) -> int | None:
    """How many rows some parquet files have, or None where one cannot be read."""
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (OSError, pa.ArrowInvalid):
        return None


def one_line(error: BaseException) -> str:
    """The deepest cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_columns(dataset: Dataset, columns: tuple[str, ...], where: str) -> None:
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise UsageError(
            f"{where} has no column {missing[0]!r} (it has: {', '.join(dataset.column_names)}): rename or add it"
        )


def column_of(dataset: Dataset, name: str) -> pa.ChunkedArray:
    return dataset.with_format("arrow")[:][name]


def first_row(condition: pa.ChunkedArray) -> int | None:
    """The number, from 1, of the first row where ``condition`` holds."""
    place = pc.index(condition, True).as_py()
    return None if place < 0 else place + 1


def require_texts(dataset: Dataset, column: str, where: str) -> None:
    """Raise UsageError where a column holds no text, or a row of it nothing at all.

    A blank text is kept with a warning: published corpora have some (row 769 of CR's training sentences), and without
    them, sizes and scores would no longer be the published ones.
    """
    values = column_of(dataset, column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise UsageError(f"{where} has {values.type} in the column {column!r}, not text: write the sentences there")
    row = first_row(pc.is_null(values))
    if row is not None:
        raise UsageError(f"{where} has no {column} in row {row}: fill it in or remove the row")
    row = first_row(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0))
    if row is not None:
        warnings.warn(f"{where} has a blank {column} in row {row}; the row is kept", stacklevel=4)


def require_labels(dataset: Dataset, where: str, allowed: Sequence[int] | None, rule: str) -> None:
    """Raise UsageError where a label is missing, or is none of ``allowed`` (None: any whole number from 0)."""
    values = column_of(dataset, "label")
    row = first_row(pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)))
    if row is not None:
        raise UsageError(f"{where} has no label in row {row}: {rule}")
    for value in values.unique().to_pylist():
        whole = isinstance(value, (int, float)) and float(value).is_integer()
        if not whole or (value not in allowed if allowed else value < 0):
            raise UsageError(f"{where} has the label {value!r} in row {first_row(pc.equal(values, value))}: {rule}")


def require_scores(dataset: Dataset, where: str) -> None:
    """Raise UsageError where a gold score is no number from 0 to 5."""
    values = column_of(dataset, "score")
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise UsageError(f"{where} has {values.type} in the column 'score', not numbers: gold scores go from 0 to 5")
    row = first_row(pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)))
    if row is not None:
        raise UsageError(f"{where} has no score in row {row}: gold scores go from 0 to 5")
    row = first_row(pc.invert(pc.and_(pc.greater_equal(values, 0), pc.less_equal(values, 5))))
    if row is not None:
        raise UsageError(f"{where} has the score {values[row - 1]} in row {row}: gold scores go from 0 to 5")


def fingerprint(dataset: Dataset) -> str:
    """A short digest of all rows of a dataset, the same wherever they came from. It changes with a single character."""
    import hashlib

    digest = hashlib.blake2b(digest_size=8)
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        for column in batch.column_names:
            digest.update(column.encode())
            digest.update("\x1f".join(map(str, batch[column].to_pylist())).encode())
    return digest.hexdigest()

"""Where corpora come from: layouts, shards, raw files and the hub."""

import errno
import re
import shlex
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, ReadInstruction
from datasets.exceptions import DatasetGenerationError
from datasets.inspect import SplitsNotFoundError

from stlib import data, sources
from stlib.data import nli
from stlib.errors import UsageError
from stlib.sources import Source

MINI = Source("mini")


def folder_source(folder):
    return Source("folder", folder)


@pytest.mark.parametrize("split", ["dev", "train[", "train[:0]", "train[5:2]", "train[a:b]", "train+dev", "train+"])
def test_a_bad_split_is_refused(split):
    with pytest.raises(UsageError, match=f"split {re.escape(repr(split))}"):
        nli(split, MINI)


def test_a_missing_split_names_folder_file_and_ways_out(data_folder):
    with pytest.raises(UsageError) as caught:
        nli("validation", folder_source(data_folder))
    text = str(caught.value)
    assert str(data_folder / "snli") in text
    assert "validation.parquet" in text
    assert "STLIB_NLI_SPLIT" in text
    assert "test, train" in text


def test_a_missing_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("STLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="does not exist: set STLIB_DATA"):
        sources.get_source()


def test_sources(tmp_path, monkeypatch):
    assert sources.get_source() == MINI
    assert sources.get_source("hub") == Source("hub")
    assert sources.get_source(tmp_path) == folder_source(tmp_path.resolve())
    monkeypatch.setenv("STLIB_DATA", str(tmp_path))
    assert sources.get_source() == folder_source(tmp_path.resolve())


def test_a_broken_parquet_file_is_named(data_folder):
    (data_folder / "sts13-sts" / "test.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match=r"sts13-sts.test\.parquet could not be read"):
        data.sts("sts13-sts", "test", folder_source(data_folder))


def test_the_hub_is_asked_for_the_looked_up_id(monkeypatch):
    asked = []

    def hub(hub_id, split):
        asked.append((hub_id, split))
        return Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, -1]})

    monkeypatch.setattr(sources, "load_dataset", hub)
    assert nli("train[:2]", Source("hub"))[:] == {"sentence_0": ["a"], "sentence_1": ["c"], "label": [2]}
    assert asked == [("stanfordnlp/snli", "train[:2]")]


def test_the_hub_is_asked_for_its_splits(monkeypatch):
    splits = {"SetFit/SentEval-CR": ["test", "train"]}
    monkeypatch.setattr(sources, "get_dataset_split_names", splits.get)
    assert sources.splits_of("cr", Source("hub")) == ["test", "train"]


def test_an_unreachable_hub_names_three_ways_out(monkeypatch):
    def no_hub(hub_id, split=None):
        raise ConnectionError("offline")

    monkeypatch.setattr(sources, "load_dataset", no_hub)
    monkeypatch.setattr(sources, "get_dataset_split_names", no_hub)
    with pytest.raises(UsageError, match=r"mteb/banking77 could not be read from the hub \(offline\)"):
        sources.splits_of("banking77", Source("hub"))
    with pytest.raises(
        UsageError,
        match=r"could not be read from the hub \(offline\): connect to it, or set STLIB_DATA.*or use the profile mini",
    ):
        nli("train", Source("hub"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test-00000-of-00003", "test-00002-of-00003"], "has 2 of 3 files of the split 'test'"),
        (["test-00000-of-00002-aa", "test-00000-of-00002-bb"], "has 2 of 2 files .*aa.parquet, .*bb.parquet"),
        (["test-00000-of-00001", "test"], "has 2 of 1 files"),
        (["test/0000", "test/0002"], "has 2 of 3 files"),
        (["en/test/0000", "fr/test/0000"], "side by side, 'en' and 'fr': keep one of them"),
    ],
)
def test_shards_that_are_not_whole_are_refused(data_folder, names, message):
    for name in names:
        path = data_folder / "cr" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    with pytest.raises(UsageError, match=message):
        data.classification("cr", "test", folder_source(data_folder))


def test_shards_whose_columns_differ_in_type_are_refused_and_hidden_files_left_out(data_folder):
    for number, label in enumerate(([0], ["bad"])):
        table = pa.table({"text": ["a"], "label": label})
        pq.write_table(table, data_folder / "cr" / f"test-0000{number}-of-00002.parquet")
    with pytest.raises(UsageError, match="cr, split 'test', has files whose columns differ"):
        data.classification("cr", "test", folder_source(data_folder))
    (data_folder / "cr" / "._train.parquet").write_bytes(b"macOS")
    (data_folder / "cr" / ".cache").mkdir()
    (data_folder / "cr" / ".cache" / "train.parquet").write_bytes(b"")
    assert len(data.classification("cr", "train", folder_source(data_folder))) == 40


@pytest.mark.parametrize("name", ["snli_1.0_train.jsonl", "my pairs/train.csv", "train/data-00000-of-00001.arrow"])
def test_raw_files_are_named_with_the_command_that_helps(data_folder, tmp_path_factory, name):
    raw = tmp_path_factory.mktemp("Tom's raw & other")
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).write_text("x", encoding="utf-8")
    with pytest.raises(UsageError) as caught:  # the data folder holds nothing else
        sources.get_source(raw)
    assert Path(name).name in str(caught.value)
    assert "…" not in str(caught.value)
    assert shlex.split(str(caught.value).split("convert it with ")[1]) == [
        "python",
        "-m",
        "stlib",
        "data",
        str(raw.resolve()),
        "NEW_FOLDER",
    ]
    for number in range(3):
        (raw / f"{number}.csv").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no parquet file but .*, .*, .*, …: convert"):
        sources.get_source(raw)
    shutil.copytree(raw, data_folder / "sst2")
    with pytest.raises(UsageError, match=r"convert it with python -m stlib data .*sst2"):
        data.classification("sst2", "train", folder_source(data_folder))


def test_a_folder_with_a_readme_only_has_no_parquet_file(data_folder):
    (data_folder / "mr").mkdir()
    (data_folder / "mr" / "README.md").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="mr has no parquet file: add one for each split"):
        data.classification("mr", "train", folder_source(data_folder))


def test_a_folder_of_copies_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    """Root may write anywhere: a file stands where the folder should be."""
    (tmp_path / "home").write_text("", encoding="utf-8")

    def hub(hub_id, split):
        (tmp_path / "home" / "datasets").mkdir(parents=True)

    monkeypatch.setattr(sources, "load_dataset", hub)
    with pytest.raises(UsageError, match=r"from the hub \(.*home.*or HF_HOME to one with space that may be written"):
        data.sts("sts13-sts", "test", Source("hub"))


def test_unknown_tasks_and_splits_are_refused(data_folder):
    with pytest.raises(UsageError, match="no corpus 'sts13-sts' in mini corpora"):
        data.sts("sts13-sts", "test", MINI)
    with pytest.raises(UsageError, match=r"no file train\.parquet"):
        data.sts("sts", "train", MINI)
    with pytest.raises(UsageError, match=r"no file test\.parquet"):
        data.classification("cr", "test", folder_source(data_folder))
    for source, message in [
        (Source("hub"), "no hub id"),
        (MINI, "no corpus 'mpqa' in mini"),
        (folder_source(data_folder), "no corpus 'mpqa' in folder"),
    ]:
        with pytest.raises(UsageError, match=message):
            sources.splits_of("mpqa", source)
    for task in ("mpqa", "stsb"):
        with pytest.raises(UsageError, match=rf"no hub id for the task '{task}' \(only snli, "):
            data.classification(task, "train", Source("hub"))


def test_available_tasks_says_what_is_missing(data_folder):
    have, missing = sources.available_tasks(("sts13-sts", "sts16-sts", "cr"), folder_source(data_folder))
    assert (have, missing) == (["sts13-sts", "cr"], ["sts16-sts"])
    assert sources.splits_of("cr", folder_source(data_folder)) == ["train"]
    hubs_layout = data_folder / "cr" / "data" / "train-00000-of-00001.parquet"
    hubs_layout.parent.mkdir()
    (data_folder / "cr" / "train.parquet").rename(hubs_layout)
    assert sources.available_tasks(("cr",), folder_source(data_folder)) == (["cr"], [])
    assert sources.splits_of("cr", folder_source(data_folder)) == ["train"]
    assert sources.available_tasks(("mpqa", "cr"), Source("hub")) == (["cr"], ["mpqa"])
    assert sources.available_tasks(("sts", "cr"), MINI) == (["sts"], ["cr"])


def test_what_a_folder_has_is_named_by_split_not_by_file(data_folder):
    with pytest.raises(UsageError, match=r"it has: test, train\)"):
        nli("validation", folder_source(data_folder))
    (data_folder / "snli" / "test.parquet").unlink()
    with pytest.raises(UsageError, match=r"it has: train\)"):
        nli("validation", folder_source(data_folder))


def test_a_folder_is_found_from_the_folder_of_the_notebooks(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert sources.get_source("data") == Source("folder", (tmp_path / "data").resolve())


def test_configurations_side_by_side_are_refused_whatever_splits_they_have(tmp_path):
    rows = Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [0]})
    for place, split in (("en", "train"), ("fr", "test")):
        (tmp_path / "snli" / place).mkdir(parents=True)
        rows.to_parquet(str(tmp_path / "snli" / place / f"{split}.parquet"))
    with pytest.raises(UsageError, match="configurations side by side, 'en' and 'fr': keep one of them"):
        nli("train", folder_source(tmp_path))


def test_a_corpus_that_is_a_link_to_a_folder_is_listed_and_read(data_folder, tmp_path):
    (tmp_path / "linked").mkdir()
    try:
        (tmp_path / "linked" / "snli").symlink_to(data_folder / "snli", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets no one make links")
    (tmp_path / "linked" / ".hidden").mkdir()
    shutil.copy(data_folder / "cr" / "train.parquet", tmp_path / "linked" / ".hidden")
    shutil.copy(data_folder / "cr" / "train.parquet", tmp_path / "linked" / "loose.parquet")
    source = sources.get_source(tmp_path / "linked")
    assert sources.corpora_of(source) == ["snli"]
    assert len(nli("test", source)) == 60


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), r"sts13-sts could not be read from the hub \(\[Errno 28\] No space left\): .* or HF_HOME to one with space"),
        (pa.ArrowInvalid("no parquet"), r"mteb/sts13-sts could not be read from the hub \(no parquet\): connect to it"),
        (None, r"could not be read from the hub \(An error occurred\): connect"),
    ],
)  # fmt: skip
def test_a_full_disk_and_a_bad_file_on_the_hub_are_one_sentence(monkeypatch, cause, message):
    def full(hub_id, split):
        raise DatasetGenerationError("An error occurred") from cause

    monkeypatch.setattr(sources, "load_dataset", full)
    with pytest.raises(UsageError, match=message):
        data.sts("sts13-sts", "test", Source("hub"))


@pytest.mark.parametrize("split", ["dev", "train[:9"])
def test_a_split_that_the_hub_lacks_is_no_fault_of_the_connection(monkeypatch, split):
    def read(hub_id, split):
        ReadInstruction.from_spec(split).to_absolute({"train": 9})

    monkeypatch.setattr(sources, "load_dataset", read)
    with pytest.raises(UsageError, match=rf"there is no split {re.escape(repr(split))} \(Un.*\): write train"):
        nli(split, Source("hub"))


def test_splits_that_the_hub_does_not_tell_are_one_sentence(monkeypatch):
    error = SplitsNotFoundError("The split names could not be parsed from the dataset config.")
    monkeypatch.setattr(sources, "get_dataset_split_names", mock.Mock(side_effect=error))
    with pytest.raises(UsageError, match=r"could not be read from the hub \(The split names"):
        sources.splits_of("cr", Source("hub"))


def write_scores(folder, **files):
    """Write pairs with these scores into one file each; without scores they lack the column."""
    for name, scores in files.items():
        count = 12 if scores is None else len(scores)
        rows = {"sentence1": [f"a{i}" for i in range(count)], "sentence2": ["b"] * count}
        Dataset.from_dict(rows | ({} if scores is None else {"score": scores})).to_parquet(
            str(folder / f"{name}.parquet")
        )


@pytest.mark.parametrize("split", ["test", "test[:12]", "test[12:]", "test[:3]"])
@pytest.mark.parametrize("last", [np.linspace(2, 5, 12), None])
def test_neither_a_shard_nor_a_slice_is_on_another_scale_than_its_split(data_folder, split, last):
    """The first 12 rows, which are the first file, have low scores only; one file of a split may lack its scores."""
    low, folder = np.linspace(0, 1, 12), data_folder / "sts13-sts"
    (folder / "test.parquet").unlink()
    shards = {f"test-{i:05d}-of-00003": part for i, part in enumerate((low, last, np.linspace(2, 5, 12)))}
    write_scores(folder, **shards)
    pairs = data.sts("sts13-sts", split, folder_source(data_folder))
    scores = np.concatenate([part for part in shards.values() if part is not None])
    wanted = {"test": scores, "test[:12]": low, "test[12:]": scores[12:], "test[:3]": low[:3]}[split]
    np.testing.assert_allclose(pairs["score"][:], wanted)


def test_a_first_shard_without_scores_leaves_the_others_their_vote(data_folder):
    folder = data_folder / "sts13-sts"
    write_scores(folder, **{"test": [0.5, 1.0], "train-00000-of-00002": None, "train-00001-of-00002": [0.0, 4.0]})
    assert data.sts("sts13-sts", "test", folder_source(data_folder))["score"][:] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("task", "scores", "read"),
    [
        ("sts13-sts", [0.4, 1.0], [0.4, 1.0]),
        ("sts12-sts", [1.0, 5.0], [1.0, 5.0]),
        ("sickr-sts", [1.4, 3.0], [0.5, 2.5]),
    ],
)
def test_a_slice_of_the_hub_is_on_the_scale_of_its_task(monkeypatch, task, scores, read):
    """A few rows do not show where the scale begins and ends."""
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": scores}
    monkeypatch.setattr(sources, "load_dataset", lambda hub_id, split: Dataset.from_dict(rows))
    assert data.sts(task, "test[:2]", Source("hub"))["score"][:] == pytest.approx(read)

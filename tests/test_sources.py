"""Where corpora come from: layouts, shards, raw files and the hub."""

import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

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
        (["en/test/0000", "fr/test/0000"], "in two places, 'en' and 'fr'"),
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
    raw = tmp_path_factory.mktemp("raw folder")
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).write_text("x", encoding="utf-8")
    with pytest.raises(UsageError) as caught:  # the data folder holds nothing else
        sources.get_source(raw)
    assert Path(name).name in str(caught.value)
    assert shlex.split(str(caught.value).split("convert it with ")[1]) == [
        "python",
        "-m",
        "stlib",
        "data",
        str(raw.resolve()),
        "NEW_FOLDER",
    ]
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
    with pytest.raises(UsageError, match=r"home/?.* could not be written .* set HF_HOME to a folder that may be"):
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
    with pytest.raises(UsageError, match="no hub id for the task 'mpqa'"):
        data.classification("mpqa", "train", Source("hub"))


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

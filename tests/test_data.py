import re

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

from stlib import data, sources
from stlib.data import fingerprint, nli
from stlib.errors import UsageError
from stlib.sources import Source

MINI = Source("mini")


def folder_source(folder):
    return Source("folder", folder)


def test_mini_nli_has_the_fixed_columns_and_follows_the_split_syntax():
    dataset = nli("train[:50]", MINI)
    assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
    assert {name: str(kind.dtype) for name, kind in dataset.features.items()} == {
        "sentence_0": "string",
        "sentence_1": "string",
        "label": "int64",
    }
    assert len(dataset) == 50
    both = nli("validation[:30]+test[:20]", MINI)
    assert len(both) == 50
    assert both[30] == nli("test[:1]", MINI)[0]
    assert nli("train[10:20]", MINI)[0] == dataset[10]
    assert len(nli("validation[:10%]", MINI)) == 150


@pytest.mark.parametrize("split", ["dev", "train[", "train[:0]", "train[5:2]", "train[a:b]", "train+dev", "train+"])
def test_a_bad_split_is_refused(split):
    with pytest.raises(UsageError, match=f"split {re.escape(repr(split))}"):
        nli(split, MINI)


def test_folder_in_the_hubs_layout_is_read_renamed_and_cleaned(data_folder):
    for split in ("train", "test"):
        dataset = nli(split, folder_source(data_folder))
        assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
        assert len(dataset) == 60
        assert set(dataset["label"]) == {0, 1, 2}
        assert dataset.info.description == f"61 rows of {split} from 1 file; 1 rows labelled -1 dropped"
    assert len(nli("train+test", folder_source(data_folder))) == 120
    assert len(nli("train[:30]", folder_source(data_folder))) == 30


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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"premise": ["a"], "label": [0]}, "no column 'hypothesis'"),
        ({"premise": ["a"], "hypothesis": ["b"], "label": [3]}, "label 3"),
        ({"premise": ["a"], "hypothesis": ["b"], "label": ["contradicts"]}, "label 'contradicts' in row 1"),
        (
            {"premise": ["a"], "sentence_0": ["a"], "hypothesis": ["b"], "label": [0]},
            "both columns 'premise' and 'sent",
        ),
    ],
)
def test_bad_nli_rows_are_refused(rows, message):
    with pytest.raises(UsageError, match=message):
        data.clean_nli(pa.table(rows), "the test folder")


def test_a_bad_label_is_named_with_its_folder(data_folder):
    rows = Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 7]})
    rows.to_parquet(str(data_folder / "snli" / "test.parquet"))
    with pytest.raises(
        UsageError, match=r"^folder .*snli, split 'test', has the label 7 in row 2: NLI labels are 0, 1 and 2"
    ):
        nli("test", folder_source(data_folder))


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


def test_sts_and_classification_from_mini_and_folder(data_folder):
    mini = data.sts("sts", "test", MINI)
    assert mini.column_names[:3] == ["sentence1", "sentence2", "score"]
    assert len(mini) == 210
    assert len(data.sts("sts", "validation", MINI)) == 90
    real = data.sts("sts13-sts", "test", folder_source(data_folder))
    assert real["score"][:] == [4.0, 3.0, 0.0]
    for task, classes in (("question_topic", 6), ("opinion", 2)):
        for split, rows in (("train", 180), ("test", 120)):
            dataset = data.classification(task, split, MINI)
            assert len(dataset) == rows
            assert sorted(set(dataset["label"])) == list(range(classes))
            assert dataset.column_names == ["text", "label", "label_text"]
    assert len(data.classification("cr", "train", folder_source(data_folder))) == 40


@pytest.mark.parametrize("score", [5.5, -1, 100])
def test_a_score_outside_all_scales_is_refused(data_folder, score):
    pairs = Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [5.0, score]})
    pairs.to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))
    message = rf"corpus sts13-sts, split 'test', has the score {score}: gold scores go from 0 to 5"
    with pytest.raises(UsageError, match=message):
        data.sts("sts13-sts", "test", folder_source(data_folder))


def test_rows_without_a_score_are_left_out_and_counted(data_folder):
    rows = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": [5.0, float("nan"), None]}
    Dataset.from_dict(rows).to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))
    pairs = data.sts("sts13-sts", "test", folder_source(data_folder))
    assert pairs["score"][:] == [5.0]
    assert pairs.info.description == "3 rows of test from 1 file; 2 rows without a score left out"


@pytest.mark.parametrize(
    ("scores", "read", "said"),
    [
        ([0.0, 0.5, 1.0], [0.0, 2.5, 5.0], "scores from 0 to 1 brought to 0 to 5"),
        ([1.0, 3.0, 5.0], [0.0, 2.5, 5.0], "scores from 1 to 5 brought to 0 to 5"),
        ([0.0, 3.0, 5.0], [0.0, 3.0, 5.0], ""),
        ([1.5, 3.0, 4.5], [1.5, 3.0, 4.5], ""),
    ],
)
def test_scores_are_brought_to_one_scale(data_folder, scores, read, said):
    pairs = Dataset.from_dict({"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": scores})
    pairs.to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))
    found = data.sts("sts13-sts", "test", folder_source(data_folder))
    assert found["score"][:] == read
    assert found.info.description.partition("; ")[2] == said


def test_a_missing_column_is_named_with_its_task_and_folder(data_folder):
    pd.DataFrame({"sentence": ["a"], "label": [0]}).to_parquet(data_folder / "cr" / "train.parquet")
    with pytest.raises(UsageError, match=r"corpus cr, split 'train', has no column 'text' \(it has: sentence, label"):
        data.classification("cr", "train", folder_source(data_folder))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, -2], "has the label -2 in row 2"), ([0.0, float("nan")], "has no label in row 2")],
)
def test_a_bad_label_is_named_with_its_task_and_row(data_folder, labels, message):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": labels})
    rows.to_parquet(str(data_folder / "cr" / "train.parquet"))
    with pytest.raises(UsageError, match=f"cr, split 'train', {message}: labels are whole numbers from 0"):
        data.classification("cr", "train", folder_source(data_folder))


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


def test_fingerprint_changes_with_one_character():
    rows = {"sentence_0": ["a", "b"], "sentence_1": ["c", "d"], "label": [0, 1]}
    same, other = Dataset.from_dict(rows), Dataset.from_dict({**rows, "sentence_1": ["c", "e"]})
    assert fingerprint(Dataset.from_dict(rows)) == fingerprint(same) != fingerprint(other)
    moved = Dataset.from_dict({**rows, "sentence_0": ["ab", ""]})
    assert fingerprint(same) != fingerprint(moved)


def test_a_folder_is_found_from_the_folder_of_the_notebooks(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert sources.get_source("data") == Source("folder", (tmp_path / "data").resolve())


def test_mini_sts_fills_all_bands():
    table = pd.concat(
        [data.sts("sts", split, MINI).to_pandas().assign(split=split) for split in ("validation", "test")]
    )
    assert len(table) >= 250
    assert table["score"].between(0, 5).all()
    assert (table["score"] * 2 % 1 == 0).all()
    bands = table.groupby("split")["score"].apply(lambda scores: (scores + 0.5).astype(int).value_counts())
    assert bands.unstack().notna().all(axis=None)
    assert not table.duplicated(["sentence1", "sentence2"]).any()


def test_mini_texts_do_not_repeat_across_splits():
    for task in ("question_topic", "opinion"):
        texts = [text for split in ("train", "test") for text in data.classification(task, split, MINI)["text"]]
        assert len({text.lower() for text in texts}) == len(texts) >= 240


def test_the_kind_of_a_task_is_that_of_its_columns_or_of_its_hub_id(data_folder):
    found = {task: data.kind_of(task, folder_source(data_folder)) for task in ("snli", "sts13-sts", "cr")}
    assert found == {"snli": "nli", "sts13-sts": "sts", "cr": "classification"}
    hub = {task: data.kind_of(task, Source("hub")) for task in ("snli", "sickr-sts", "banking77")}
    assert hub == {"snli": "nli", "sickr-sts": "sts", "banking77": "classification"}
    with pytest.raises(UsageError, match="no task 'stsb' on the hub"):
        data.kind_of("stsb", Source("hub"))
    pd.DataFrame({"a": ["x"], "score": [1.0]}).to_parquet(data_folder / "sts13-sts" / "test.parquet")
    assert data.kind_of("sts13-sts", folder_source(data_folder)) == "sts"  # nearest: its texts have other names
    pd.DataFrame({"a": ["x"]}).to_parquet(data_folder / "sts13-sts" / "test.parquet")
    with pytest.raises(UsageError, match=r"'sts13-sts' from .* has the columns a: name its texts"):
        data.kind_of("sts13-sts", folder_source(data_folder))

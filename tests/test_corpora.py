import pandas as pd
import pytest
from datasets import Dataset

from stlib import corpora
from stlib.corpora import Source, fingerprint, nli
from stlib.errors import UsageError

MINI = Source("mini")


def folder_source(folder):
    return Source("folder", folder)


def test_mini_nli_has_the_fixed_columns_and_follows_the_split_syntax():
    dataset = nli("train[:50]", MINI)
    assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
    assert dataset.features == corpora.NLI_FEATURES
    assert len(dataset) == 50
    both = nli("validation[:30]+test[:20]", MINI)
    assert len(both) == 50
    assert both[30] == nli("test[:1]", MINI)[0]
    assert nli("train[10:20]", MINI)[0] == dataset[10]
    assert len(nli("validation[:10%]", MINI)) == 150


def test_mini_nli_seeds_differ():
    assert nli("train[:30]", MINI)[:] != nli("train[:30]", MINI, seed=1)[:]


@pytest.mark.parametrize("split", ["dev", "train[", "train[:0]", "train[a:b]", "train+dev"])
def test_a_bad_mini_split_is_refused(split):
    with pytest.raises(UsageError, match="mini NLI corpus"):
        nli(split, MINI)


def test_folder_in_the_hubs_layout_is_read_renamed_and_cleaned(data_folder):
    for split in ("train", "test"):
        dataset = nli(split, folder_source(data_folder))
        assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
        assert len(dataset) == 60
        assert set(dataset["label"]) == {0, 1, 2}
        assert dataset.info.description == "1 rows labelled -1 dropped"
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
        corpora.get_source()


def test_sources(tmp_path, monkeypatch):
    assert corpora.get_source() == MINI
    assert corpora.get_source("hub") == Source("hub")
    assert corpora.get_source(tmp_path) == folder_source(tmp_path.resolve())
    monkeypatch.setenv("STLIB_DATA", str(tmp_path))
    assert corpora.get_source() == folder_source(tmp_path.resolve())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"premise": ["a"], "label": [0]}, "no column 'sentence_1'"),
        ({"premise": ["a"], "hypothesis": ["b"], "label": [3]}, "label 3"),
        ({"premise": ["a"], "hypothesis": ["b"], "label": ["entailment"]}, "label 'entailment'"),
    ],
)
def test_bad_nli_rows_are_refused(rows, message):
    with pytest.raises(UsageError, match=message):
        corpora.clean_nli(Dataset.from_dict(rows), "the test folder")


def test_a_bad_label_is_named_with_its_folder(data_folder):
    rows = Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 7]})
    rows.to_parquet(str(data_folder / "snli" / "test.parquet"))
    with pytest.raises(UsageError, match=r"^folder .*snli has the label 7 in row 2: NLI labels are 0, 1 and 2"):
        nli("test", folder_source(data_folder))


def test_a_broken_parquet_file_is_named(data_folder):
    (data_folder / "sts13-sts" / "test.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match="sts13-sts could not be read"):
        corpora.sts("sts13-sts", "test", folder_source(data_folder))


def test_the_hub_is_asked_for_the_looked_up_id(monkeypatch):
    asked = []

    def hub(hub_id, split):
        asked.append((hub_id, split))
        return Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, -1]})

    monkeypatch.setattr(corpora, "load_dataset", hub)
    assert nli("train[:2]", Source("hub"))[:] == {"sentence_0": ["a"], "sentence_1": ["c"], "label": [2]}
    assert asked == [("stanfordnlp/snli", "train[:2]")]


def test_the_hub_is_asked_for_its_splits(monkeypatch):
    splits = {"SetFit/SentEval-CR": ["test", "train"]}
    monkeypatch.setattr(corpora, "get_dataset_split_names", splits.get)
    assert corpora.splits_of("cr", Source("hub")) == ["test", "train"]


def test_an_unreachable_hub_names_three_ways_out(monkeypatch):
    def no_hub(hub_id, split=None):
        raise ConnectionError("offline")

    monkeypatch.setattr(corpora, "load_dataset", no_hub)
    monkeypatch.setattr(corpora, "get_dataset_split_names", no_hub)
    with pytest.raises(UsageError, match=r"mteb/banking77 could not be read from the hub \(offline\)"):
        corpora.splits_of("banking77", Source("hub"))
    with pytest.raises(
        UsageError,
        match=r"could not be read from the hub \(offline\): connect to it, or set STLIB_DATA.*or use the profile mini",
    ):
        nli("train", Source("hub"))


def test_sts_and_classification_from_mini_and_folder(data_folder):
    mini = corpora.sts("sts", "test", MINI)
    assert mini.column_names[:3] == ["sentence1", "sentence2", "score"]
    assert len(mini) == 210
    assert len(corpora.sts("sts", "validation", MINI)) == 90
    real = corpora.sts("sts13-sts", "test", folder_source(data_folder))
    assert real["score"][:] == [4.0, 3.0, 0.0]
    for task, classes in (("question_topic", 6), ("opinion", 2)):
        for split, rows in (("train", 180), ("test", 120)):
            dataset = corpora.classification(task, split, MINI)
            assert len(dataset) == rows
            assert sorted(set(dataset["label"])) == list(range(classes))
            assert dataset.column_names == ["text", "label", "label_text"]
    assert len(corpora.classification("cr", "train", folder_source(data_folder))) == 40


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (float("nan"), "has no score in row 2"),
        (5.5, r"has the score 5\.5 in row 2"),
        (-1, "has the score -1.* in row 2"),
    ],
)
def test_a_bad_score_is_named_with_its_task_and_row(data_folder, score, message):
    pairs = Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [5.0, score]})
    pairs.to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))  # NaN stays NaN; pandas would write null
    with pytest.raises(UsageError, match=f"the STS task 'sts13-sts' {message}: gold scores go from 0 to 5"):
        corpora.sts("sts13-sts", "test", folder_source(data_folder))


def test_a_missing_column_is_named_with_its_task_and_folder(data_folder):
    pd.DataFrame({"sentence": ["a"], "label": [0]}).to_parquet(data_folder / "cr" / "train.parquet")
    with pytest.raises(
        UsageError, match=rf"^cr from folder {data_folder.name} has no column 'text' \(it has: sentence, label"
    ):
        corpora.classification("cr", "train", folder_source(data_folder))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, -2], "has the label -2 in row 2"), ([0.0, float("nan")], "has no label in row 2")],
)
def test_a_bad_label_is_named_with_its_task_and_row(data_folder, labels, message):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": labels})
    rows.to_parquet(str(data_folder / "cr" / "train.parquet"))
    with pytest.raises(UsageError, match=f"the task 'cr' {message}: labels are whole numbers from 0"):
        corpora.classification("cr", "train", folder_source(data_folder))


def test_unknown_tasks_and_splits_are_refused(data_folder):
    with pytest.raises(UsageError, match="no mini task 'sts13-sts'"):
        corpora.sts("sts13-sts", "test", MINI)
    with pytest.raises(UsageError, match="no split 'train'"):
        corpora.sts("sts", "train", MINI)
    with pytest.raises(UsageError, match=r"no file test\.parquet"):
        corpora.classification("cr", "test", folder_source(data_folder))
    for source, message in [
        (Source("hub"), "no hub id"),
        (MINI, "no mini task"),
        (folder_source(data_folder), "no parq"),
    ]:
        with pytest.raises(UsageError, match=message):
            corpora.splits_of("mpqa", source)
    with pytest.raises(UsageError, match="no hub id for the task 'mpqa'"):
        corpora.classification("mpqa", "train", Source("hub"))


def test_available_tasks_says_what_is_missing(data_folder):
    have, missing = corpora.available_tasks(("sts13-sts", "sts16-sts", "cr"), folder_source(data_folder))
    assert (have, missing) == (["sts13-sts", "cr"], ["sts16-sts"])
    assert corpora.splits_of("cr", folder_source(data_folder)) == ["train"]
    hubs_layout = data_folder / "cr" / "data" / "train-00000-of-00001.parquet"
    hubs_layout.parent.mkdir()
    (data_folder / "cr" / "train.parquet").rename(hubs_layout)
    assert corpora.available_tasks(("cr",), folder_source(data_folder)) == (["cr"], [])
    assert corpora.splits_of("cr", folder_source(data_folder)) == ["train"]
    assert corpora.available_tasks(("mpqa", "cr"), Source("hub")) == (["cr"], ["mpqa"])
    assert corpora.available_tasks(("sts", "cr"), MINI) == (["sts"], ["cr"])


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


def test_a_corpus_written_to_a_folder_is_read_back(tmp_path):
    corpora.write_mini_nli(tmp_path, 2_000)
    assert nli("train", folder_source(tmp_path))[:] == nli("train[:2000]", MINI)[:]


def test_more_pairs_than_a_seed_has_come_from_the_seeds_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora.nli_grammar, "MAX_PAIRS", 30)
    monkeypatch.setitem(corpora.MINI_NLI_ROWS, "test", 30)
    corpora.write_mini_nli(tmp_path / "new" / "folder", 70, "test", seed=4)
    written = corpora.nli("test", Source("folder", tmp_path / "new" / "folder")).to_pandas()
    parts = [corpora.mini_nli(f"test[:{rows}]", seed).to_pandas() for rows, seed in ((30, 4), (30, 5), (10, 6))]
    pd.testing.assert_frame_equal(written, pd.concat(parts, ignore_index=True))
    corpora.write_mini_nli(tmp_path / "new" / "folder", 10, "test", seed=4)  # again, over the old file
    assert len(corpora.nli("test", Source("folder", tmp_path / "new" / "folder"))) == 10
    assert [path.name for path in (tmp_path / "new" / "folder" / "snli").iterdir()] == ["test.parquet"]


def test_a_folder_is_found_from_the_folder_of_the_notebooks(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert corpora.get_source("data") == Source("folder", (tmp_path / "data").resolve())


def test_an_error_is_told_by_its_deepest_cause_in_one_line():
    error = ValueError("outer")
    error.__cause__ = KeyError()
    assert corpora.one_line(error) == "KeyError"
    error.__cause__.__cause__ = OSError("the cause\nand more")
    assert corpora.one_line(error) == "the cause"


def test_mini_sts_fills_all_bands():
    table = pd.concat(
        [corpora.sts("sts", split, MINI).to_pandas().assign(split=split) for split in ("validation", "test")]
    )
    assert len(table) >= 250
    assert table["score"].between(0, 5).all()
    assert (table["score"] * 2 % 1 == 0).all()
    bands = table.groupby("split")["score"].apply(lambda scores: (scores + 0.5).astype(int).value_counts())
    assert bands.unstack().notna().all(axis=None)
    assert not table.duplicated(["sentence1", "sentence2"]).any()


def test_mini_texts_do_not_repeat_across_splits():
    for task in corpora.MINI_CLASSIFICATION:
        texts = [text for split in ("train", "test") for text in corpora.classification(task, split, MINI)["text"]]
        assert len({text.lower() for text in texts}) == len(texts) >= 240

"""Corpora of the three kinds: columns, labels, scales, identity."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from stlib import data
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


def test_folder_in_the_hubs_layout_is_read_renamed_and_cleaned(data_folder):
    for split in ("train", "test"):
        dataset = nli(split, folder_source(data_folder))
        assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
        assert len(dataset) == 60
        assert set(dataset["label"]) == {0, 1, 2}
        assert dataset.info.description == f"61 rows of {split} from 1 file; 1 rows labelled -1 dropped"
    assert len(nli("train+test", folder_source(data_folder))) == 120
    assert len(nli("train[:30]", folder_source(data_folder))) == 30


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
    message = rf"corpus sts13-sts, split 'test', has the score {float(score)} in row 2: gold scores go from 0 to 5"
    with pytest.raises(UsageError, match=message):
        data.sts("sts13-sts", "test", folder_source(data_folder))


def test_rows_without_a_score_are_left_out_and_counted(data_folder):
    rows = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": [5.0, float("nan"), None]}
    Dataset.from_dict(rows).to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))
    pairs = data.sts("sts13-sts", "test", folder_source(data_folder))
    assert pairs["score"][:] == [5.0]
    assert (
        pairs.info.description
        == "3 rows of test from 1 file; 2 rows without a score left out; scores 5 to 5 on a scale from 0 to 5"
    )


@pytest.mark.parametrize(
    ("scores", "read", "said"),
    [
        ([0.0, 0.5, 1.0], [0.0, 2.5, 5.0], "scores 0 to 1 on a scale from 0 to 1, brought to 0 to 5"),
        ([1.0, 3.0, 5.0], [0.0, 2.5, 5.0], "scores 1 to 5 on a scale from 1 to 5, brought to 0 to 5"),
        ([0.0, 3.0, 5.0], [0.0, 3.0, 5.0], "scores 0 to 5 on a scale from 0 to 5"),
        ([1.5, 3.0, 4.5], [1.5, 3.0, 4.5], "scores 1.5 to 4.5 on a scale from 0 to 5"),
    ],
)
def test_scores_are_brought_to_one_scale(data_folder, scores, read, said):
    pairs = Dataset.from_dict({"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": scores})
    pairs.to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))
    found = data.sts("sts13-sts", "test", folder_source(data_folder))
    assert found["score"][:] == read
    assert found.info.description.partition("; ")[2] == said


@pytest.mark.parametrize(
    ("read", "other", "found"),
    [
        ([1.0, 2.0, 4.0], [1.0, 5.0], [0.0, 1.25, 3.75]),  # 1 to 5, though this split does not reach 5
        ([0.0, 0.5, 1.0], [0.0, 5.0], [0.0, 0.5, 1.0]),  # 0 to 5, though this split stays below 1
        ([0.0, 0.5, 0.5], [0.9, 1.0], [0.0, 2.5, 2.5]),
        ([0.0, 3.0, 5.0], [-1.0, -1.0], [0.0, 3.0, 5.0]),  # the other split's scores are hidden
        ([1.0, 3.0, 5.0], [None, -1.0], [0.0, 2.5, 5.0]),
        ([0.0, 0.5, 1.0], None, [0.0, 2.5, 5.0]),  # the other split has no scores
    ],
)
def test_the_scale_is_that_of_all_splits(data_folder, read, other, found):
    sides = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"]}
    folder = data_folder / "sts13-sts"
    Dataset.from_dict({**sides, "score": read}).to_parquet(str(folder / "test.parquet"))
    rest = {name: texts[:2] for name, texts in sides.items()} | ({"score": other} if other else {})
    Dataset.from_dict(rest).to_parquet(str(folder / "train.parquet"))
    assert data.sts("sts13-sts", "test", folder_source(data_folder))["score"][:] == found


def test_a_score_that_is_no_number_is_refused_in_another_split_too(data_folder):
    for split, score in {"test": 4.5, "train": "high"}.items():
        pairs = Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "score": [score]})
        pairs.to_parquet(str(data_folder / "sts13-sts" / f"{split}.parquet"))
    with pytest.raises(UsageError, match=r"corpus sts13-sts, .*values of type string in the column 'score'"):
        data.sts("sts13-sts", "test", folder_source(data_folder))


def test_two_scales_in_one_task_are_refused(data_folder):
    for split, top in (("test", 1), ("train", 5)):
        rows = {"sentence1": ["a"] * 10, "sentence2": ["b"] * 10, "score": np.linspace(0, top, 10)}
        Dataset.from_dict(rows).to_parquet(str(data_folder / "sts13-sts" / f"{split}.parquet"))
    with pytest.raises(
        UsageError, match="scores from 0 to 1 in one split and above in another: bring them to one scale"
    ):
        data.sts("sts13-sts", "test", folder_source(data_folder))


def test_labels_of_type_bool_are_refused(data_folder):
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [True, False]}
    (data_folder / "other").mkdir()
    Dataset.from_dict(rows).to_parquet(str(data_folder / "other" / "train.parquet"))
    with pytest.raises(UsageError, match="values of type bool in the column 'label': NLI labels are"):
        nli("train", folder_source(data_folder), "other")


def test_hidden_scores_are_named(data_folder):
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [-1.0, -1.0]}
    Dataset.from_dict(rows).to_parquet(str(data_folder / "sts13-sts" / "test.parquet"))
    with pytest.raises(UsageError, match="has no gold scores: choose another split"):
        data.sts("sts13-sts", "test", folder_source(data_folder))


def labelled(labels, names=None, kind="int64"):
    """Rows whose file names its labels, or does not."""
    features = {"premise": Value("string"), "hypothesis": Value("string")}
    features["label"] = ClassLabel(names=names) if names else Value(kind)
    rows = {"premise": list("abcd")[: len(labels)], "hypothesis": list("efgh")[: len(labels)], "label": labels}
    return Dataset.from_dict(rows, features=Features(features))


@pytest.mark.parametrize(
    ("labels", "names", "kind", "read"),
    [
        ([1, 2, 0, -1], ["contradiction", "entailment", "neutral"], "", [0, 1, 2]),
        ([0, -1, 1], [" Neutral", "ENTAILMENT ", "contradiction"], "", [1, 0]),
        ([0, 1, 2], ["2", "1", "0"], "", [2, 1, 0]),
        ([3, 0, 1], ["entailment", "neutral", "contradiction", "-"], "", [0, 1]),
        ([0, 1], ["entailment", "neutral", "contradictory"], "", [0, 1]),  # a name that no row has
        ([0.0, 2.0, -1.0], None, "float64", [0, 2]),
        ([0, 2, -1], None, "int8", [0, 2]),
        (["Entailment ", "-", "2", "neutral"], None, "string", [0, 2, 1]),
        (["entailment", "-1"], None, "large_string", [0]),
    ],
)
def test_labels_mean_what_the_file_says(data_folder, labels, names, kind, read):
    labelled(labels, names, kind).to_parquet(str(data_folder / "snli" / "test.parquet"))
    pairs = nli("test", folder_source(data_folder))
    assert pairs["label"][:] == read
    assert pairs.features["label"].dtype == "int64"
    assert ("own names" in pairs.info.description) == bool(names)


@pytest.mark.parametrize("names", [["entailment", "neutral", "contradictory"], ["entailment", "not_entailment"]])
def test_a_label_name_that_is_none_of_the_three_is_refused(data_folder, names):
    labelled([0, len(names) - 1], names).to_parquet(str(data_folder / "snli" / "test.parquet"))
    with pytest.raises(UsageError, match=rf"in row 2: NLI labels are .* own names are entailment, .*{names[-1]}"):
        nli("test", folder_source(data_folder))


def test_splits_that_name_their_labels_differently_are_not_read_as_one(data_folder):
    labelled([0, 1], ["contradiction", "entailment"]).to_parquet(str(data_folder / "snli" / "test.parquet"))
    with pytest.raises(UsageError, match="has files that name their labels differently: read them one by one"):
        nli("train+test", folder_source(data_folder))
    assert nli("test", folder_source(data_folder))["label"][:] == [2, 0]


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


def test_fingerprint_changes_with_one_character():
    rows = {"sentence_0": ["a", "b"], "sentence_1": ["c", "d"], "label": [0, 1]}
    same, other = Dataset.from_dict(rows), Dataset.from_dict({**rows, "sentence_1": ["c", "e"]})
    assert fingerprint(Dataset.from_dict(rows)) == fingerprint(same) != fingerprint(other)
    moved = Dataset.from_dict({**rows, "sentence_0": ["ab", ""]})
    assert fingerprint(same) != fingerprint(moved)


TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(str.strip)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS, st.integers(0, 2)), min_size=2, max_size=6)
FORMS = st.tuples(
    st.integers(1, 3),
    st.sampled_from(["none", "snappy", "zstd", "gzip"]),
    st.sampled_from(TEXT_TYPES),
    st.permutations(["premise", "hypothesis", "label", "id"]),
    st.randoms(use_true_random=False),
)


@given(PAIRS, FORMS)
@settings(max_examples=40, deadline=None)
def test_a_fingerprint_is_that_of_the_rows_however_they_are_kept(tmp_path_factory, rows, form):
    shards, compression, kind, order, chance = form
    folder = tmp_path_factory.mktemp("kept")
    (folder / "snli").mkdir()
    premises, hypotheses, labels = zip(*rows, strict=True)
    texts = {"premise": pa.array(premises), "hypothesis": pa.array(hypotheses)}
    plain = pa.table({**texts, "label": list(labels), "id": list(range(len(rows)))})
    kept = {
        name: column.dictionary_encode() if "dict" in str(kind) else column.cast(kind) for name, column in texts.items()
    }
    table = pa.table({**kept, "label": plain["label"], "id": plain["id"]}).select(order)
    size = -(-len(rows) // shards)
    numbers = list(range(shards))
    chance.shuffle(numbers)  # the order in which the files are written
    for number in numbers:
        path = folder / "snli" / f"train-{number:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.slice(number * size, size), path, compression=compression)
    assert fingerprint(nli("train", folder_source(folder))) == fingerprint(data.clean_nli(plain, "here"))


@given(PAIRS, st.data())
@settings(max_examples=60, deadline=None)
def test_a_fingerprint_changes_with_any_character_label_or_order(rows, draw):
    def of(rows):
        return fingerprint(
            Dataset.from_list([dict(zip(("sentence_0", "sentence_1", "label"), row, strict=True)) for row in rows])
        )

    number = draw.draw(st.integers(0, len(rows) - 1))
    first, second, label = rows[number]
    place = draw.draw(st.integers(0, len(first) - 1))
    other = "x" if first[place] != "x" else "y"
    for changed in (
        (first[:place] + other + first[place + 1 :], second, label),
        (first, second + " ", label),
        (first, second, (label + 1) % 3),
    ):
        assert of([*rows[:number], changed, *rows[number + 1 :]]) != of(rows)
    assert (of(rows[::-1]) == of(rows)) == (rows[::-1] == rows)


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

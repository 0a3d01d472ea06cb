"""From raw files to a data folder: what people have goes in, rows are counted, and nothing is half written."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from stlib import convert, data
from stlib.__main__ import main
from stlib.sources import Source
from tests.test_command_line import fails

WORDS = data.NLI_LABELS
ROWS = [('He said "no.', "He spoke.", "entailment"), ("A girl eats.", 'She "is late', "neutral")] * 16
OPEN = ("A man.", "A boy.", "-")
FIELDS = "gold_label\tsentence1_binary_parse\tsentence1\tsentence2\tlabel1\tlabel2"


def as_jsonl(path, rows):
    lines = [json.dumps({"gold_label": w, "sentence1": a, "sentence2": b, "annotator_labels": [w]}) for a, b, w in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_text(path, rows):
    lines = [FIELDS, *(f"{w}\t( {a} )\t{a}\t{b}\t{w}" for a, b, w in rows)]  # MultiNLI leaves out empty last fields
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_csv(path, rows):
    table = pd.DataFrame(rows, columns=["premise", "hypothesis", "label"])
    table.to_csv(path, index=False)


def run(source, folder, *more):
    assert main(["data", str(source), str(folder), *more]) == 0


@pytest.mark.parametrize(
    ("write", "name", "split"),
    [
        (as_jsonl, "snli_1.0_train.jsonl", "train"),
        (as_jsonl, "snli_1.0_dev.jsonl", "validation"),
        (as_text, "multinli_1.0_dev_matched.txt", "validation_matched"),
        (as_text, "multinli_1.0_dev_mismatched.txt", "validation_mismatched"),
        (as_csv, "my-pairs.csv", "train"),
        (as_csv, "Test.CSV.csv", "test"),
    ],
)
@pytest.mark.parametrize("whole_folder", [False, True])
def test_nli_pairs(tmp_path, capsys, write, name, split, whole_folder):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / name, [*ROWS, OPEN])
    run(tmp_path / "raw" if whole_folder else tmp_path / "raw" / name, tmp_path / "data")
    out = capsys.readouterr().out
    assert f"{split}: 33 rows in ({name}), 32 rows out, 1 dropped (no agreed label)" in out
    assert "nli corpus snli" in out
    pairs = data.nli(split, Source("folder", tmp_path / "data"))
    assert [(row["sentence_0"], row["sentence_1"], WORDS[row["label"]]) for row in pairs] == ROWS


def test_a_release_with_each_split_in_two_formats(tmp_path, capsys):
    for split in ("train", "dev", "test"):
        as_jsonl(tmp_path / f"snli_1.0_{split}.jsonl", ROWS)
        as_text(tmp_path / f"snli_1.0_{split}.txt", ROWS)
    (tmp_path / "README.txt").write_text("about", encoding="utf-8")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._snli_1.0_train.jsonl").write_bytes(b"\0")
    run(tmp_path, tmp_path / "data")
    assert capsys.readouterr().out.count("32 rows in (snli_1.0_") == 3
    assert sorted(path.name for path in (tmp_path / "data" / "snli").iterdir()) == [
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


STSB = [
    ("main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane is \"taking off.\tA plane takes off."),
    ("main-news\theadlines\t2013\t2\t0.000\t\"A dog\tA tax\thttp://source\tlicence"),  # some tell where they are from
    ("main-news\theadlines\t2013\t3\t2.500\tHe said ''no''\tShe said \"yes\""),
]  # fmt: skip


@pytest.mark.parametrize("header", ["", "genre\tfile\tyear\tid\tscore\tsentence1\tsentence2\turl\tlicence\n"])
def test_sts_b(tmp_path, capsys, header):
    for split in ("train", "dev", "test"):
        text = header + "\r\n".join([*STSB, STSB[1].replace("0.000", "")] if header else STSB) + "\r\n"
        (tmp_path / f"sts-{split}.csv").write_text(text, encoding="utf-8", newline="")
    run(tmp_path, tmp_path / "data")
    out = capsys.readouterr().out
    assert "sts corpus stsbenchmark-sts" in out
    assert out.count("1 dropped (no gold score)") == (3 if header else 0)
    pairs = data.sts("stsbenchmark-sts", "validation", Source("folder", tmp_path / "data"))
    assert pairs["score"][:] == [5.0, 0.0, 2.5]
    assert pairs["sentence1"][:] == ['A plane is "taking off.', '"A dog', "He said ''no''"]
    assert pairs["sentence2"][:] == ["A plane takes off.", "A tax", 'She said "yes"']


def test_glues_sts_b_has_no_scores_in_its_test_split(tmp_path, capsys):
    names = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
    for split, count in (("train", 10), ("dev", 10), ("test", 9)):
        lines = [names[:count], [*"0gfyoss", 'a "', "b", "3.2"][:count]]
        (tmp_path / f"{split}.tsv").write_text("\n".join(map("\t".join, lines)), encoding="utf-8")
    run(tmp_path, tmp_path / "data")
    assert "test: 1 rows in (test.tsv), 0 rows out, 1 dropped (no gold score)" in capsys.readouterr().out
    assert sorted(path.stem for path in (tmp_path / "data" / "stsbenchmark-sts").iterdir()) == ["train", "validation"]


def test_scores_on_another_scale_stay_as_they_are(tmp_path):
    (tmp_path / "my sts").mkdir()
    for split, scores in (("train", "0.5,0.9"), ("test", "0.0,1.0")):
        rows = "".join(f"a{i},b,{score}\n" for i, score in enumerate(scores.split(",")))
        (tmp_path / "my sts" / f"{split}.csv").write_text("sentence1,sentence2,score\n" + rows, encoding="utf-8")
    run(tmp_path / "my sts", tmp_path / "data")
    pairs = data.sts("my-sts", "train", Source("folder", tmp_path / "data"))
    assert pairs["score"][:] == [2.5, 4.5]
    run(tmp_path / "my sts" / "test.csv", tmp_path / "data", "--name", "other")
    assert data.sts("other", "test", Source("folder", tmp_path / "data"))["score"][:] == [0, 5]


@pytest.mark.parametrize("saved", [Dataset, DatasetDict])
def test_a_saved_data_set_keeps_the_names_of_its_labels(tmp_path, capsys, saved):
    names = ["contradiction", "Entailment ", "neutral"]
    features = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=names)})
    rows = {"premise": ["a", "b", "c", None], "hypothesis": ["d", "e", "f", "g"], "label": [1, -1, 0, 2]}
    dataset = Dataset.from_dict(rows, features=features)
    (dataset if saved is Dataset else DatasetDict(train=dataset)).save_to_disk(str(tmp_path / "saved"))
    capsys.readouterr()
    run(tmp_path / "saved", tmp_path / "data")
    out = capsys.readouterr().out
    assert "4 rows in" in out
    assert "2 rows out, 1 dropped (missing sentence), 1 dropped (no agreed label)" in out
    pairs = data.nli("train", Source("folder", tmp_path / "data"))
    assert pairs.to_list() == [
        {"sentence_0": "a", "sentence_1": "d", "label": 0},
        {"sentence_0": "c", "sentence_1": "f", "label": 2},
    ]


def test_saved_glue_scores_and_topics(tmp_path, capsys):
    pairs = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [3.8, 5.0], "idx": [0, 1]}
    hidden = {**pairs, "label": [-1.0, -1.0]}
    DatasetDict(train=Dataset.from_dict(pairs), test=Dataset.from_dict(hidden)).save_to_disk(str(tmp_path / "stsb"))
    run(tmp_path / "stsb", tmp_path / "data")
    assert data.sts("stsb", "train", Source("folder", tmp_path / "data"))["score"][:] == [3.8, 5.0]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    topics = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    topics.save_to_disk(str(tmp_path / "moods" / "test"))
    run(tmp_path / "moods", tmp_path / "data")
    found = data.classification("moods", "test", Source("folder", tmp_path / "data"))
    assert found[0] == {"text": "x", "label": 1, "label_text": "good"}


def test_labels_in_words_have_the_same_number_in_all_splits(tmp_path):
    for split, rows in (("train", "x,good\ny,bad\n"), ("test", "z,ugly\nw,bad\n,bad\nv,\n")):
        (tmp_path / f"moods_{split}.csv").write_text("text,label\n" + rows, encoding="utf-8")
    run(tmp_path / "moods_train.csv", tmp_path / "one")
    assert data.classification("moods", "train", Source("folder", tmp_path / "one"))["label"][:] == [1, 0]
    run(tmp_path, tmp_path / "both", "--name", "moods")
    source = Source("folder", tmp_path / "both")
    assert data.classification("moods", "train", source)["label"][:] == [1, 0]
    assert data.classification("moods", "test", source).to_list() == [
        {"text": "z", "label": 2, "label_text": "ugly"},
        {"text": "w", "label": 0, "label_text": "bad"},
    ]


@pytest.mark.parametrize("labels", [("0", "1", "-"), ("0.0", "1.0", ""), ("0", "1.", "-1")])
def test_numbers_stay_numbers_beside_rows_without_a_label(tmp_path, labels):
    (tmp_path / "moods.csv").write_text("text,label\n" + "".join(f"x,{label}\n" for label in labels), encoding="utf-8")
    run(tmp_path / "moods.csv", tmp_path / "data")
    assert data.classification("moods", "train", Source("folder", tmp_path / "data"))[:] == {
        "text": ["x"] * 2,
        "label": [0, 1],
    }


HEAD = "premise,hypothesis,label\n"
BAD = {
    "no such file": ({}, "does not exist"),
    "no file": ({"a.md": "x"}, "has no file that ends in .jsonl, .txt, .tsv, .csv"),
    "empty": ({"train.csv": ""}, "there are no rows"),
    "header only": ({"train.csv": HEAD}, "train.csv could not be read (there are no rows)"),
    "no gold at all": ({"train.csv": HEAD + "a,b,-\n"}, "0 rows out, 1 dropped (no agreed label)"),
    "other columns": ({"train.csv": "a,b\n1,2\n"}, "has the columns a, b: name its texts"),
    "no hypothesis": ({"train.csv": "premise,label\na,0\n"}, "has no column 'hypothesis' (it has: premise, label)"),
    "a label": ({"train.csv": HEAD + "a,b,contradicts\n"}, "train.csv has the label 'contradicts' in row 1"),
    "a label after a dropped row": (
        {"train.csv": HEAD + "a,b,-\na,b,9\n"},
        "train.csv without the rows that are dropped, has the label '9' in row 1",
    ),
    "one bad split of two": ({"train.csv": HEAD + "a,b,0\n", "test.csv": HEAD + "a,b,x\n"}, "has the label 'x'"),
    "too few fields": ({"train.csv": HEAD + "a,b\n"}, "line 2 has 2 fields, not 3"),
    "too many fields": ({"train.tsv": HEAD.replace(",", "\t") + "a\tb\t0\td\n"}, "line 2 has 4 fields, not 3"),
    "quote never closed": ({"train.csv": HEAD + '"a,b,0\n'}, "could not be read (unexpected end of data)"),
    "no JSON": ({"train.jsonl": '{"premise": "a"}\n{"pre'}, "line 2 is no JSON object"),
    "no object": ({"train.jsonl": "[1]\n"}, "line 1 is no JSON object"),
    "a number for a text": ({"train.jsonl": '{"premise":1,"hypothesis":"b","label":0}'}, "has int64 in the column 'premise'"),
    "score in words": ({"test.csv": "sentence1,sentence2,score\na,b,high\n"}, "has a score that is no number"),
    "score 7": ({"test.csv": "sentence1,sentence2,score\na,b,7\n"}, "has the score 7 in row 1: gold scores go from"),
    "label 1.5": ({"test.jsonl": '{"text":"a","label":1.5}'}, "has the label 1.5 in row 1: labels are whole"),
    "one split twice": ({"train.csv": HEAD, "my-train.csv": HEAD}, "has the split train twice"),
    "no split in any name": ({"a.csv": HEAD, "b.csv": HEAD}, "name them after their splits"),
    "Git LFS": ({"train.jsonl": "version https://git-lfs.github.com/spec/v1\noid sha256:0"}, "fetch it with git lfs pull if"),
    "a column twice": ({"train.csv": "text,label,label\na,0,1\n"}, "could not be read (the column 'label' is there twice)"),
    "two kinds": ({"train.csv": HEAD + "a,b,0\n", "test.csv": "text,label\na,0\n"}, "has no column"),
    "parquet": ({"train.parquet": ""}, "parquet files already"),
    "not UTF-8": ({"train.csv": b"premise,hypothesis,label\n\xe9,b,0\n"}, "could not be read ('utf-8' codec"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_writes_nothing(tmp_path, capsys, case):
    files, message = BAD[case]
    for name, text in files.items():
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in fails(capsys, "data", tmp_path / "raw", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden"])
def test_a_name_that_is_none(tmp_path, capsys, name):
    as_csv(tmp_path / "train.csv", ROWS)
    assert "cannot be the name" in fails(capsys, "data", tmp_path / "train.csv", tmp_path / "data", "--name", name)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("there", ["train.parquet", "plain_text/train-00000-of-00001.parquet"])
def test_what_is_there_is_never_overwritten(tmp_path, capsys, there):
    old = tmp_path / "data" / "snli" / there
    old.parent.mkdir(parents=True)
    pq.write_table(pa.table({"old": [1]}), old)
    before = old.read_bytes()
    as_csv(tmp_path / "train.csv", ROWS)
    as_csv(tmp_path / "test.csv", ROWS)
    assert "has the split train already" in fails(capsys, "data", tmp_path, tmp_path / "data")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == [old]
    assert old.read_bytes() == before
    run(tmp_path / "test.csv", tmp_path / "data")
    assert (tmp_path / "data" / "snli" / "test.parquet").is_file()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys):
    def full(table, path):
        path.write_bytes(b"PAR1")
        if path.name == "train.parquet":
            raise OSError(28, "No space left on device", str(path))

    as_csv(tmp_path / "train.csv", ROWS)
    as_csv(tmp_path / "test.csv", ROWS)
    monkeypatch.setattr(convert.pq, "write_table", full)
    assert "No space left" in fails(capsys, "data", tmp_path, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


TEXT = st.text(st.characters(exclude_characters="\r\n\t\0", exclude_categories=("Cs",)), min_size=1, max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from([*WORDS, "-"])), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_sentences_come_through_in_all_formats(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    rows = [*ROWS[:2], *rows]
    as_jsonl(folder / "train.jsonl", rows)
    as_text(folder / "validation.txt", rows)
    with (folder / "test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *rows])
    lines = convert.convert(folder, folder / "data")
    kept = [(a, b, WORDS.index(word)) for a, b, word in rows if word != "-"]
    found = {
        data.fingerprint(data.nli(split, Source("folder", folder / "data")))
        for split in ("train", "validation", "test")
    }
    assert len(found) == 1
    table = data.nli("train", Source("folder", folder / "data"))
    assert list(zip(*(table[name] for name in table.column_names), strict=True)) == kept
    assert sum(f" {len(rows):,} rows in" in line and f" {len(kept):,} rows out" in line for line in lines) == 3


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tabs_with_a_csv_writers_quotes(tmp_path, end):
    rows = [('He said "no"', "a", 0), ("plain", '"', 1)]
    table = pd.DataFrame(rows, columns=["premise", "hypothesis", "label"])
    table.to_csv(tmp_path / "train.tsv", sep="\t", index=False, lineterminator=end)
    run(tmp_path / "train.tsv", tmp_path / "data")
    found = data.nli("train", Source("folder", tmp_path / "data"))
    assert [tuple(row.values()) for row in found] == rows
    assert np.asarray(found["label"]).dtype == np.int64


def test_a_quoted_field_keeps_its_blank_lines_and_lines_are_counted_as_in_the_file(tmp_path, capsys):
    rows = [("a\n\nb", "c\n\n\n", 0), ('\n"d"', "e", 2)]
    pd.DataFrame(rows, columns=["premise", "hypothesis", "label"]).to_csv(tmp_path / "train.csv", index=False)
    run(tmp_path / "train.csv", tmp_path / "data")
    found = data.nli("train", Source("folder", tmp_path / "data"))
    assert [tuple(row.values()) for row in found] == rows
    for name, text in (("train.csv", "\n" + HEAD + "\na,b,0\n\n\na,b\n"), ("train.tsv", "\n\n\ntext\tlabel\n\n\na\n")):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / name).write_text(text, encoding="utf-8")
        assert f"{name} could not be read (line 7 has" in fails(
            capsys, "data", tmp_path / "bad" / name, tmp_path / "no"
        )


def test_a_genre_makes_no_sts_b_of_other_tables(tmp_path):
    (tmp_path / "films.csv").write_text("text,label,genre\nx,0,drama\ny,1,comedy\n", encoding="utf-8")
    run(tmp_path / "films.csv", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["films"]


def test_labels_in_words_and_numbers_together_are_all_words(tmp_path):
    lines = [json.dumps({"text": text, "label": label}) for text, label in (("x", "pos"), ("y", 1), ("z", "1"))]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run(tmp_path / "mixed.jsonl", tmp_path / "data")
    found = data.classification("mixed", "train", Source("folder", tmp_path / "data"))
    assert (found["label"][:], found["label_text"][:]) == ([1, 0, 0], ["pos", "1", "1"])


def test_saved_splits_with_other_names_of_labels_share_one_list(tmp_path):
    for split, names in (("train", ["bad", "good"]), ("test", ["good", "odd"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features)
        rows.save_to_disk(str(tmp_path / "moods" / split))
    run(tmp_path / "moods", tmp_path / "data")
    found = [data.classification("moods", split, Source("folder", tmp_path / "data")) for split in ("test", "train")]
    assert [part["label"][:] for part in found] == [[0, 1], [2, 0]]

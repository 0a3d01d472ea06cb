"""Bad input, case by case, through the command line: one clear sentence, exit status 2, and nothing half written.

What is odd but can be worked with is handled, and is here too.
"""

import json
import logging
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlib import data, sources
from stlib.__main__ import main
from stlib.errors import UsageError
from stlib.evaluate import sts_scores
from stlib.model import EncodeOnce, load_classifier
from stlib.train import train
from tests.test_command_line import fails
from tests.tiny import SIZE

PAIR = ("A man sleeps.", "A person rests.")
GOOD = [(*PAIR, 0), ("A dog runs.", "A cat runs.", 2), ("A girl eats.", "She is late.", 1)] * 14  # 42 rows


def nli_table(**changes):
    """Good NLI rows, with some columns replaced (by a list, for the first rows) or left out (None)."""
    return changed(pd.DataFrame(GOOD, columns=["premise", "hypothesis", "label"]).astype({"label": object}), changes)


def sts_table(**changes):
    rows = [("a cat", "a kitten", 4.5), ("a dog", "a puppy", 3.5), ("the sun", "a tax", 0.0), ("a car", "a bus", 2.0)]
    return changed(pd.DataFrame(rows, columns=["sentence1", "sentence2", "score"]).astype({"score": object}), changes)


def topic_table(**changes):
    rows = [(f"{word} {i}", label) for i in range(20) for label, word in enumerate(("good", "bad"))]
    return changed(pd.DataFrame(rows, columns=["text", "label"]).astype({"label": object}), changes)


def write(table, folder, split):
    """Write a table as ``folder/SPLIT.parquet``. None is written as missing, NaN as a number that is none."""
    folder.mkdir(parents=True)
    columns = {name: pa.array(column, from_pandas=column.dtype.kind != "f") for name, column in table.items()}
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


@pytest.fixture(autouse=True)
def no_other_line(caplog):
    """Nothing but the one sentence: what libraries log would stand beside it on the terminal."""
    yield
    assert not [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING]


def changed(table, changes):
    for name, values in changes.items():
        if values is None:
            table = table.drop(columns=name)
        elif isinstance(values, str):
            table = table.rename(columns={name: values})
        else:
            table[name] = list(values) + list(table[name][len(values) :])
    return table.infer_objects()


LABELS = "NLI labels are 0, 1 and 2"
NLI = {
    "premise renamed": (
        nli_table(premise="text"),
        "snli, split 'train', has no column 'premise' (it has: text, hypothesis, label)",
    ),
    "hypothesis missing": (nli_table(hypothesis=None), "no column 'hypothesis'"),
    "label missing": (nli_table(label=None), "no column 'label'"),
    "label 3": (nli_table(label=[3]), f"snli, split 'train', has the label 3 in row 1: {LABELS}"),
    "label -2": (nli_table(label=[0, -2]), f"the label -2 in row 2: {LABELS}"),
    "labels in other words": (
        nli_table(label=["entails", "neutral", "contradicts"] * 14),
        f"the label 'entails' in row 1: {LABELS}",
    ),
    "label None": (nli_table(label=[None]), f"no label in row 1: {LABELS}"),
    "label 0.5": (nli_table(label=[0.5]), f"the label 0.5 in row 1: {LABELS}"),
    "label not a number": (nli_table(label=[1, float("nan")]), f"no label in row 2: {LABELS}"),
    "premise None": (nli_table(premise=["a", None]), "no premise in row 2"),
    "premise a number": (nli_table(premise=list(range(42))), "int64 in the column 'premise', not text"),
    "no rows": (nli_table()[:0], "no rows in the split 'train'"),
    "one row": (nli_table()[:1], "has 1 pairs, fewer than one batch of 32"),
    "fewer than a batch": (nli_table()[:31], "has 31 pairs, fewer than one batch of 32"),
    "only rows without a label": (nli_table(label=[-1] * 42), "has no labels, all are -1"),
    "one label only": (nli_table(label=[0] * 42), "all pairs have the label 0"),
}


@pytest.mark.parametrize("case", NLI)
def test_nli_pairs(tmp_path, capsys, case):
    table, message = NLI[case]
    write(table, tmp_path / "data" / "snli", "train")
    arguments = ["train", "--data", tmp_path / "data", "--nli-split", "train", "--out", tmp_path / "run"]
    assert message in fails(capsys, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("column", ["premise", "hypothesis"])
@pytest.mark.parametrize("text", ["", " \t\n"])
def test_a_blank_sentence_is_kept_and_said(tmp_path, column, text):
    """Published corpora have some; dropping them would change sizes and scores."""
    write(nli_table(**{column: ["a", text]}), tmp_path / "snli", "train")
    source = sources.Source("folder", tmp_path)
    with pytest.warns(UserWarning, match=f"has a blank {column} in row 2; the row is kept"):
        assert len(data.nli("train", source)) == 42
    write(sts_table(sentence2=["a", "b", text]), tmp_path / "my-sts", "test")
    with pytest.warns(UserWarning, match="corpus my-sts, split 'test', has a blank sentence2 in row 3"):
        assert len(data.sts("my-sts", "test", source)) == 4
    write(topic_table(text=[text]), tmp_path / "topics", "train")
    with pytest.warns(UserWarning, match="corpus topics, split 'train', has a blank text in row 1"):
        assert len(data.classification("topics", "train", source)) == 40


SCORES = "gold scores go from 0 to 5"
STS = {
    "sentence1 renamed": (
        sts_table(sentence1="first"),
        "corpus my-sts, split 'test', has no column 'sentence1' (it has: first,",
    ),
    "score missing": (sts_table(score=None), "no column 'score'"),
    "score in words": (sts_table(score=["high"] * 4), f"string in the column 'score', not numbers: {SCORES}"),
    "no gold scores": (sts_table(score=[None] * 4), "has no gold scores: choose another split"),
    "score infinite": (sts_table(score=[1.0, float("inf")]), f"the score inf in row 2: {SCORES}"),
    "score below 0": (sts_table(score=[-1.0]), f"the score -1.0 in row 1: {SCORES}"),
    "score above 5": (
        sts_table(score=[1.0, 5.5]),
        f"corpus my-sts, split 'test', has the score 5.5 in row 2: {SCORES}",
    ),
    "no rows": (sts_table()[:0], "no rows in the split 'test'"),
    "sentence None": (sts_table(sentence2=["a", None]), "no sentence2 in row 2"),
}


@pytest.mark.parametrize("case", STS)
def test_sts_pairs(tmp_path, capsys, tiny_model, case):
    table, message = STS[case]
    write(table, tmp_path / "data" / "my-sts", "test")
    scores = tmp_path / "scores.json"
    options = ["--data", tmp_path / "data", "--tasks", "my-sts", "--json", scores]
    assert message in fails(capsys, "evaluate", tiny_model, *options)
    assert not scores.exists()


@pytest.mark.parametrize("table", [sts_table(score=[2.0] * 4), sts_table()[:1]])
def test_sts_pairs_without_a_correlation_have_a_row_without_figures(tmp_path, capsys, tiny_model, table):
    write(table, tmp_path / "data" / "my-sts", "test")
    options = ["--data", tmp_path / "data", "--tasks", "my-sts", "--json", tmp_path / "scores.json"]
    assert main(["evaluate", str(tiny_model), *map(str, options)]) == 0
    assert re.search(rf"n={len(table)} +no correlation is defined", capsys.readouterr().out)
    (row,) = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["results"]
    assert (row["n"], row["spearman"], row["low"], row["pearson"]) == (len(table), None, None, None)


TOPIC_LABELS = "labels are whole numbers from 0"
TOPICS = {
    "text renamed": (
        topic_table(text="sentence"),
        "corpus topics, split 'train', has no column 'text' (it has: sentence, label)",
    ),
    "label missing": (topic_table(label=None), "no column 'label'"),
    "labels in words": (
        topic_table(label=["good", "bad"] * 20),
        f"string in the column 'label', not numbers: {TOPIC_LABELS}",
    ),
    "label None": (topic_table(label=[None]), f"corpus topics, split 'train', has no label in row 1: {TOPIC_LABELS}"),
    "label not a number": (topic_table(label=[0, float("nan")]), f"no label in row 2: {TOPIC_LABELS}"),
    "label 0.5": (topic_table(label=[0.5]), f"the label 0.5 in row 1: {TOPIC_LABELS}"),
    "label -2": (
        topic_table(label=[0, -2]),
        f"corpus topics, split 'train', has the label -2 in row 2: {TOPIC_LABELS}",
    ),
    "one label": (topic_table(label=[1] * 40), "no train split with two labels"),
    "no rows": (topic_table()[:0], "no rows in the split 'train'"),
    "text None": (topic_table(text=["a", "b", None]), "no text in row 3"),
    "fewer rows than folds": (topic_table()[:6], "10"),
}


@pytest.mark.parametrize("case", TOPICS)
def test_labelled_sentences(tmp_path, capsys, tiny_model, case):
    table, message = TOPICS[case]
    write(table, tmp_path / "data" / "topics", "train")
    options = ["--data", tmp_path / "data", "--tasks", "topics", "--protocol", "senteval"]
    assert message in fails(capsys, "evaluate", tiny_model, *options)


FILES = {
    "no such split": lambda path: path.rename(path.with_name("test.parquet")),
    "empty file": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "text": lambda path: path.write_text("premise,hypothesis,label\n"),
}


@pytest.mark.parametrize("case", FILES)
def test_files(tmp_path, capsys, case):
    write(nli_table(), tmp_path / "data" / "snli", "train")
    FILES[case](tmp_path / "data" / "snli" / "train.parquet")
    arguments = ["train", "--data", tmp_path / "data", "--nli-split", "train", "--out", tmp_path / "run"]
    message = fails(capsys, *arguments)
    assert "snli" in message
    assert not (tmp_path / "run").exists()


MODEL = "MODEL"  # stands for the folder of a model without a head
NAMES = {
    "recipe": (["train", "--recipe", "card2"], "no recipe 'card2'"),
    "command": (["trian"], "invalid choice: 'trian'"),
    "number": (["train", "--seed", "one"], "argument --seed: invalid int value: 'one'"),
    "profile": (["train", "--profile", "tiny"], "no profile 'tiny'"),
    "engine": (["train", "--engine", "fast"], "no engine 'fast'"),
    "split": (["train", "--nli-split", "dev"], "no file dev.parquet for the split 'dev'"),
    "split syntax": (["train", "--nli-split", "train[:x]"], "no split 'train[:x]'"),
    "recipe without its pairs": (["train", "--recipe", "sts_stage"], "no corpus 'stsbenchmark-sts' in mini corpora"),
    "NLI split for STS pairs": (["train", "--recipe", "sts_stage", "--nli-split", "test"], "leave nli_split"),
    "data": (["train", "--data", "nowhere_at_all"], "does not exist"),
    "start": (["train", "--start", "nowhere_at_all"], "does not exist"),
    "no steps": (["train", "--max-steps", "0"], "above zero"),
    "negative steps": (["train", "--max-steps", "-5"], "above zero"),
    "rows of the log": (["train", "--log-every", "0"], "log_every is 0"),
    "negative seed": (["train", "--seed", "-1"], "the seed is -1: choose a whole number from 0 to 4294967295"),
    "resume": (["train", "--resume"], "no unfinished run to resume"),
    "task": (["evaluate", "base", "--tasks", "sts,nope"], "no corpus 'nope' in mini corpora (it has: "),
    "split of STS pairs": (
        ["evaluate", "base", "--tasks", "sts:test"],
        "has no pairs with NLI labels: leave :test out",
    ),
    "no task": (["evaluate", "base", "--tasks", ","], "no task"),
    "protocol": (
        ["evaluate", MODEL, "--tasks", "opinion", "--protocol", "five"],
        "argument --protocol: invalid choice: 'five'",
    ),
    "precision": (
        ["evaluate", MODEL, "--tasks", "sts", "--precision", "int8"],
        "argument --precision: invalid choice: 'int8'",
    ),
    "model": (["evaluate", "nowhere_at_all", "--tasks", "sts"], "does not exist"),
    "head": (["evaluate", MODEL, "--tasks", "nli"], "no NLI head"),
    "half a pair": (["predict", MODEL, "--premise", "only"], "either --premise and --hypothesis, or --input"),
    "pair and file": (["predict", MODEL, "--premise", "a", "--hypothesis", "b", "--output", "x"], "either --premise"),
    "no output": (["predict", MODEL, "--input", "pairs.csv"], "or --input pairs.csv and --output"),
    "head for labels": (["predict", MODEL, "--premise", "a", "--hypothesis", "b"], "no NLI head"),
    "card": (["card", "nowhere_at_all"], "does not exist"),
    "turns": (["bench", "--rounds", "0"], "at least 1"),
    "recipe on STS pairs": (["bench", "--recipe", "sts_stage"], "needs pairs of stsbenchmark-sts: time one"),
    "recipe with a guide": (["bench", "--recipe", "ranking_guided"], "needs a second model on every batch: time one"),
    "seeds of a soup": (["train", "--recipe", "ranking_soup", "--seed", "4294967295"], "from 0 to 4294967288"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_and_numbers(tmp_path, capsys, monkeypatch, tiny_model, case):
    monkeypatch.chdir(tmp_path)
    arguments, message = NAMES[case]
    arguments = [tiny_model if argument is MODEL else argument for argument in arguments]
    if arguments[0] == "train":
        arguments = [*arguments, "--out", tmp_path / "run"]
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def break_head(folder, **config):
    path = folder / "model" / "nli_head.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **config}), encoding="utf-8")


RUNS = {
    "no head": (lambda run: (run / "model" / "nli_head.safetensors").unlink(), "no NLI head"),
    "no config of the head": (lambda run: (run / "model" / "nli_head.json").unlink(), "nli_head.json is missing"),
    "config no JSON": (lambda run: (run / "model" / "nli_head.json").write_text("{"), "nli_head.json"),
    "head of another size": (lambda run: break_head(run, in_features=12), "size mismatch for weight"),
    "too few labels": (lambda run: break_head(run, labels=["a", "b"]), "size mismatch for weight"),
    "other labels": (lambda run: break_head(run, labels=["a", "b", "c"]), "has the labels ['a', 'b', 'c'], not those of NLI"),
    "head truncated": (
        lambda run: (run / "model" / "nli_head.safetensors").write_bytes(b"\x08"), "nli_head.safetensors"
    ),
    "no run.json": (lambda run: (run / "run.json").unlink(), "no run.json"),
    "run.json no JSON": (lambda run: (run / "run.json").write_text("{"), "run.json"),
    "no model": (lambda run: shutil.rmtree(run / "model"), "model"),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_run_folders(tmp_path, capsys, tiny_run, case):
    spoil, message = RUNS[case]
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run, ignore=shutil.ignore_patterns("checkpoints"))
    spoil(run)
    assert message in fails(capsys, "predict", run, "--premise", PAIR[0], "--hypothesis", PAIR[1])


ODD = {
    "the same twice": ("A man sleeps.", "A man sleeps."),
    "10,000 words": ("word " * 10_000, "A man sleeps."),
    "emoji": ("👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽", "A family."),
    "right to left": ("שלום עולם", "مرحبا بالعالم"),
    "control characters": ("a\x00b\x07c\u200d\ufeff", "A\r\nman\rsleeps.\n"),
    "special tokens": ("[CLS] [SEP] [MASK] [PAD]", "[UNK]"),
    "one letter": ("a", "."),
    "surrogates": ("a \udcff b", "A man."),
}


@pytest.fixture(scope="module")
def classifier(tiny_run):
    return load_classifier(tiny_run, "cpu")


@pytest.mark.parametrize("case", ODD)
def test_odd_sentences_get_an_answer(classifier, case):
    chances = classifier.predict_proba(*[[sentence] for sentence in ODD[case]])
    assert chances.shape == (1, 3)
    assert np.isfinite(chances).all()
    assert chances.sum() == pytest.approx(1, abs=1e-5)


@given(st.lists(st.text(alphabet=st.characters(), max_size=80), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_text_has_an_embedding(tiny, texts):
    embeddings = EncodeOnce(tiny).encode(texts)
    assert embeddings.shape == (len(texts), SIZE)
    assert np.isfinite(embeddings).all()


def test_constant_scores_or_sentences_have_no_correlation(tiny):
    same = data.Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [2.0, 2.0]})
    for pairs, count in ((same, 2), (same.select([0]), 1)):
        with pytest.raises(
            UsageError, match=rf"{count} pairs with the gold scores \[2.\]: a .* at least two different ones"
        ):
            sts_scores(EncodeOnce(tiny), pairs, "same")
    pairs = data.Dataset.from_dict({"sentence1": ["a"] * 3, "sentence2": ["b"] * 3, "score": [1.0, 2.0, 3.0]})
    with pytest.raises(UsageError, match=r"3 pairs with the cosines .* at least two different ones"):
        sts_scores(EncodeOnce(tiny), pairs, "same")


def test_the_api_says_the_same(tmp_path):
    with pytest.raises(UsageError, match="fewer than one batch"):
        train("card", "mini", out=tmp_path / "run", nli_split="train[:5]")
    assert not (tmp_path / "run").exists()

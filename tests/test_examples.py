"""The scripts in examples/ run with sentence-transformers alone, from local files, and say what is wrong in one sentence."""

import ast
import csv
import json
import os
import re
import runpy
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from stlib.model import load_classifier

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
MINI = Path(str(files("stlib") / "mini"))
PAIRS = [("A man plays the guitar.", "A person makes music."), ("A dog runs.", "A cat, asleep.")]


def run(folder: Path, script: str, *arguments) -> str:
    """Return what a script printed, in a process where importing stlib fails."""
    (folder / "trap").mkdir(exist_ok=True)
    (folder / "trap" / "stlib.py").write_text("raise ImportError('an example imports stlib')\n")
    paths = os.pathsep.join([str(folder / "trap"), os.environ["PYTHONPATH"]])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error::DeprecationWarning:__main__",
    }
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(monkeypatch, capsys, folder: Path, script: str, *arguments) -> str:
    """Return what a script printed in this process, where importing stlib fails too: starting another one takes seconds."""
    with monkeypatch.context() as alone:
        alone.chdir(folder)
        alone.setitem(sys.modules, "stlib", None)
        alone.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return capsys.readouterr().out


def sentence_of(monkeypatch, script: str, *arguments) -> str:
    """Return the sentence with which a script ends, here in this process: starting another one takes seconds."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return str(raised.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with pairs of the mini corpora: labelled as CSV and as triplets in parquet, and with scores."""
    folder = tmp_path_factory.mktemp("data")
    pairs = pd.read_parquet(MINI / "snli" / "train.parquet").head(96)
    pairs.to_csv(folder / "pairs.csv", index=False)
    pd.DataFrame({"negative": ["n"] * 40, "anchor": ["a"] * 40, "positive": ["p"] * 40, "row": 1}).to_parquet(
        folder / "triplets.parquet"
    )
    pairs.assign(label=pairs["label"] % 2).to_csv(folder / "alike.csv", index=False)
    named = pairs.set_axis(["first", "second", "label"], axis=1)
    named.assign(id="p17")[["id", *named]].to_csv(folder / "ids.csv", index=False)
    named.assign(id=range(len(named)))[["id", *named]].to_csv(folder / "numbered.CSV", index=False)
    alone = named.set_axis(["anchor", "positive", "row"], axis=1)
    alone.loc[0, "anchor"] = None
    alone.to_csv(folder / "alone.csv", index=False)
    pd.read_parquet(MINI / "sts" / "validation.parquet").to_parquet(folder / "dev.parquet")
    pd.read_parquet(MINI / "sts" / "test.parquet").head(80).to_csv(folder / "test.csv", index=False)
    return folder


def options(data, out, train="pairs.csv", base="nowhere", **others):
    given = {"base": base, "train": data / train, "dev": data / "dev.parquet", "test": data / "test.csv", "out": out}
    given |= {"batch-size": 8, "learning-rate": 1e-3, **others}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_they_are_short_and_import_nothing_of_ours():
    assert [path.name for path in SCRIPTS] == ["classify.py", "finetune_nli.py"]
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {getattr(node, "module", None) or node.names[0].name for node in nodes}
        assert not [name for name in names if name.split(".")[0] in ("stlib", "tests", "research", "tools")]
        assert "sentence_transformers" in names


@pytest.mark.parametrize("loss", ["ranking", "cosent"])
@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_finetune(tmp_path, data, tiny_model, loss, alone, monkeypatch, capsys):
    arguments = (tmp_path, "finetune_nli.py", *options(data, "out", base=tiny_model, loss=loss, evals=3))
    printed = run(*arguments) if alone else run_here(monkeypatch, capsys, *arguments)
    figures = re.search(
        r"^Spearman x 100 on 80 test pairs: (\S+) before, (\S+) after: (\w+), (\S+) \[(\S+), (\S+)\]$",
        printed,
        re.MULTILINE,
    )
    before, after, gain, low, high = (float(figures[place]) for place in (1, 2, 4, 5, 6))
    assert gain == pytest.approx(after - before, abs=0.011)
    assert low <= gain <= high
    assert figures[3] == ("better" if low > 0 else "worse" if high < 0 else "undecided")
    # The model that is saved is the one that was scored, and the best of the curve, which begins before the first step.
    curve = [line.split() for line in printed.splitlines() if re.match(r"\d+ +\S+ +0\.\d+$", line)]
    assert len(curve) >= 3
    assert curve[0][:2] == ["0", "NaN"]
    pairs = pd.read_csv(data / "test.csv")
    model = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu", local_files_only=True)
    u, v = (model.encode(pairs[name].tolist()) for name in ("sentence1", "sentence2"))
    assert 100 * pd.Series(model.similarity_pairwise(u, v)).corr(pairs["score"], "spearman") == pytest.approx(
        after, abs=0.01
    )
    kept = json.loads(next((tmp_path / "out" / "checkpoints").glob("*/trainer_state.json")).read_text())
    best = max(float(score) for _, _, score in curve[1:])
    assert kept["best_metric"] == pytest.approx(best, abs=1e-4)


def test_training_rows(data):
    """Labelled pairs become triplets of one premise, triplets in any order come in the loss's, and CoSENT gets scores."""
    load = runpy.run_path(str(EXAMPLES / "finetune_nli.py"))["load_training"]
    pairs = pd.read_csv(data / "pairs.csv")
    labels = {(row.premise, row.hypothesis): row.label for row in pairs.itertuples()}
    triplets = load(str(data / "pairs.csv"), "ranking")
    assert len(triplets) > 20
    for row in triplets:
        assert labels[row["anchor"], row["positive"]] == 0
        assert labels[row["anchor"], row["negative"]] == 2
    assert load(str(data / "triplets.parquet"), "ranking")[0] == {"anchor": "a", "positive": "p", "negative": "n"}
    assert load(str(data / "numbered.CSV"), "ranking").to_list() == triplets.to_list()
    alone = load(str(data / "alone.csv"), "ranking")
    assert (alone.column_names, len(alone)) == (["anchor", "positive"], 95)  # without the row that lacks a text
    scored = load(str(data / "pairs.csv"), "cosent")
    assert [row["score"] for row in scored] == [{0: 1.0, 1: 0.5, 2: 0.0}[label] for label in pairs["label"]]
    assert scored.column_names == ["first", "second", "score"]


def test_verdict():
    verdict = runpy.run_path(str(EXAMPLES / "finetune_nli.py"))["verdict"]
    scores, noise = np.arange(200.0), np.random.default_rng(1).normal(size=(2, 200))
    worse, better = scores + 300 * noise[0], scores + 10 * noise[1]
    assert " better, +" in verdict(worse, better, scores)
    assert " worse, -" in verdict(better, worse, scores)
    assert " undecided, +0.00 [+0.00, +0.00]" in verdict(better, better, scores)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": "none.csv"}, r"none\.csv does not exist"),
        ({"train": "none"}, r"none is neither a \.parquet or \.csv file nor NAME:CONFIG:SPLIT on the hub"),
        (
            {"train": "dev.parquet"},
            r"dev\.parquet has sentence1, sentence2, score, topic: .* its numbers label",
        ),
        ({"train": "triplets.parquet", "loss": "cosent"}, r"triplets\.parquet has .*: .* its numbers label"),
        ({"train": "ids.csv"}, r"ids\.csv has id, first, second, label: call its texts premise and hypothesis"),
        ({"train": "alike.csv", "loss": "cosent"}, r"alike\.csv has the labels \{0, 1\}: it needs 0 for entailment"),
        ({"batch-size": 1000}, r"pairs\.csv gives \d+ rows, less than a batch"),
        ({"base": "."}, r"\. is no model folder and no model on the hub"),
        ({"out": "."}, r"is there already and not an empty folder"),
    ],
)
def test_finetune_says_what_is_wrong(tmp_path, data, monkeypatch, changes, sentence):
    def no_connection(*arguments, **options):
        raise ConnectionError("no connection")

    monkeypatch.setattr("datasets.load_dataset", no_connection)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.txt").touch()
    out = tmp_path if changes.pop("out", None) else tmp_path / "out"
    said = sentence_of(monkeypatch, "finetune_nli.py", *options(data, out, **changes))
    assert re.search(sentence, said)
    assert "\n" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.txt"]


def test_classify_as_the_package_does(tmp_path, tiny_run, monkeypatch, capsys):
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis"), *PAIRS])
    arguments = (tiny_run.model_folder, "--input", "pairs.csv", "--output", "labels.csv")
    assert "with 2 labels" in run_here(monkeypatch, capsys, tmp_path, "classify.py", *arguments)
    found = pd.read_csv(tmp_path / "labels.csv")
    classifier = load_classifier(tiny_run, "cpu")
    premises, hypotheses = map(list, zip(*PAIRS, strict=True))
    assert found["label"].tolist() == classifier.predict(premises, hypotheses)
    expected = classifier.predict_proba(premises, hypotheses)
    assert found[list(classifier.labels)].to_numpy() == pytest.approx(expected, abs=6e-5)


def test_classify_prints_one_pair(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["classify.py", str(tiny_run.model_folder), "--premise", "A.", "--hypothesis", "B."]
    )
    runpy.run_path(str(EXAMPLES / "classify.py"), run_name="__main__")
    assert re.fullmatch(r"entailment \d+%, neutral \d+%, contradiction \d+% \| A\. \| B\.\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to label"),
        (["--premise", "A."], "nothing to label"),
        (["--input", "none.csv"], r"none\.csv does not exist"),
        (["--input", "empty.csv"], r"empty\.csv has no rows"),
        (["--input", "gap.csv"], r"row 1 of gap\.csv has no premise or no hypothesis"),
        (["--input", "other.csv"], r"other\.csv has the columns sentence1;sentence2: call two of them"),
        (["--input", "latin.csv"], r"latin\.csv is no text in UTF-8"),
        (["--input", "excel.csv"], r"nli_head\.safetensors does not exist"),
        (["--input", "full.csv", "--output", "full.csv"], r"full\.csv is there already"),
        (["--input", "full.csv"], r"nli_head\.safetensors does not exist"),
    ],
)
def test_classify_says_what_is_wrong(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_text("premise,hypothesis\n")
    Path("gap.csv").write_text("premise,hypothesis\nA.,\n")
    Path("full.csv").write_text("premise,hypothesis\nA.,B.\n")
    Path("excel.csv").write_text("premise,hypothesis\nA.,B.\n", encoding="utf-8-sig")
    Path("other.csv").write_text("sentence1;sentence2\nA.;B.\n")
    Path("latin.csv").write_text("premise,hypothesis\nCafé.,B.\n", encoding="latin-1")
    said = sentence_of(monkeypatch, "classify.py", ".", *arguments)
    assert re.search(sentence, said)
    assert "\n" not in said


@pytest.mark.parametrize("damage", ["cut", "config"])
def test_classify_refuses_a_damaged_head(tmp_path, tiny_run, monkeypatch, damage):
    for path in tiny_run.model_folder.glob("nli_head.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "cut":
        (tmp_path / "nli_head.safetensors").write_bytes(b"cut off")
    else:
        (tmp_path / "nli_head.json").write_text('{"labels": ["yes", "no"], "in_features": 72}')
    said = sentence_of(monkeypatch, "classify.py", tmp_path, "--premise", "A.", "--hypothesis", "B.")
    assert "could not be read" in said
    assert "\n" not in said

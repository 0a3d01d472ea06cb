"""Checks on real corpora, where they are at hand: beside the project in CI, nowhere on a learner's machine."""

import os
import shutil
import subprocess
import sys

import contest
import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from stlib import data, evaluate, forensics, sources
from stlib.__main__ import main
from stlib.configure import load_rows
from stlib.errors import UsageError
from stlib.evaluate import probe_scores
from stlib.model import EncodeOnce, load_classifier
from stlib.recipes import STS_STAGE
from stlib.runs import Run
from stlib.train import train
from tests.conftest import REAL_DATA

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real corpora beside the project (../shared/data)"),
]
SOURCE = sources.Source("folder", REAL_DATA)


@pytest.fixture(scope="module")
def encoder(base):
    """The base model, which remembers: STS-B shares sentences with the tasks of other years."""
    return EncodeOnce(base)


@pytest.fixture
def without_training_split(tmp_path):
    """A data folder whose SNLI has validation and test pairs only."""
    (tmp_path / "data" / "snli").mkdir(parents=True)
    for split in ("validation", "test"):
        shutil.copy(REAL_DATA / "snli" / f"{split}.parquet", tmp_path / "data" / "snli")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("task", "published"),
    [("sts13-sts", 80.60), ("sts14-sts", 75.60), ("sts15-sts", 85.39), ("stsbenchmark-sts", 82.03)],
)
def test_the_base_model_scores_what_is_published(encoder, task, published):
    row, _ = evaluate.sts_scores(encoder, data.sts(task, "test", SOURCE), task)
    assert row["spearman"] == pytest.approx(published, abs=0.05)
    assert row["low"] < published < row["high"]


def test_banking77_under_mtebs_protocol_is_what_is_published(base):
    scores = probe_scores(base, "banking77", SOURCE, "mteb")
    assert scores["n"] == 3_080
    assert scores["accuracy"] == pytest.approx(80.04, abs=0.5)


def test_the_suite_gives_what_the_library_gives(base, encoder):
    """STS13 through the library's own evaluator and ``model.encode``: the same figures to 0.01."""
    pairs = data.sts("sts13-sts", "test", SOURCE)
    evaluator = EmbeddingSimilarityEvaluator(
        list(pairs["sentence1"]), list(pairs["sentence2"]), list(pairs["score"]), similarity_fn_names=["cosine"], write_csv=False
    )  # fmt: skip
    theirs = evaluator(base)
    (ours,) = evaluate.suite(encoder, ["sts13-sts"], SOURCE)
    assert ours["spearman"] == pytest.approx(100 * theirs["spearman_cosine"], abs=0.01)
    assert ours["pearson"] == pytest.approx(100 * theirs["pearson_cosine"], abs=0.01)


def test_subsets_of_sts_are_scored(encoder):
    table = evaluate.sts_table(encoder, ["sts13-sts"], SOURCE, subsets=True).set_index("subset")
    assert {"headlines", "OnWN", "FNWN"} < set(table.index)
    assert table.loc["all", "n"] == table.loc[["headlines", "OnWN", "FNWN"], "n"].sum() == 1_500


def test_stsb_shares_pairs_with_the_tests_of_other_years():
    train = data.sts("stsbenchmark-sts", "train", SOURCE).to_pandas()
    shared = [~data.unseen(train, data.sts(task, "test", SOURCE).to_pandas()) for task in contest.TESTS[:-1]]
    assert np.logical_or.reduce(shared).sum() > 4_000
    assert len(load_rows(STS_STAGE, "train", SOURCE)) == 5_749 - 17


def test_snli_is_read_with_our_columns():
    dataset = data.nli("validation+test", SOURCE)
    assert len(dataset) == 9_842 + 9_824
    assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
    assert set(dataset["label"]) == {0, 1, 2}


def test_the_missing_train_split_is_named(without_training_split):
    with pytest.raises(UsageError, match=r"snli has no file train\.parquet.*STLIB_NLI_SPLIT"):
        data.nli("train[:20000]", sources.Source("folder", without_training_split))


def sizes_of_all():
    """The rows of each split of each STS and classification task in the folder."""
    tasks = sorted(path.name for path in REAL_DATA.iterdir() if path.is_dir() and path.name != "snli")
    read = {task: data.sts if task.endswith("-sts") else data.classification for task in tasks}
    return {
        (task, split): len(read[task](task, split, SOURCE))
        for task in tasks
        for split in sources.splits_of(task, SOURCE)
    }  # fmt: skip


def test_every_corpus_in_the_folder_is_read():
    with pytest.warns(UserWarning, match="has a blank text in row") as caught:
        sizes = sizes_of_all()
    assert min(sizes.values()) > 400
    assert len(sizes) > 15
    assert [str(warning.message).split("corpus ")[1].split(",")[0] for warning in caught] == ["cr", "mpqa"]


def test_fifty_steps_on_real_pairs_beat_chance(tmp_path):
    run = train("trained_head", "small", out=tmp_path / "run", data=REAL_DATA, nli_split="validation[:1600]")
    scores = evaluate.nli_scores(load_classifier(run, "cpu"), data.nli("test[:1500]", SOURCE))
    assert scores["low"] > 0.40
    assert run.log()["loss"].iloc[-1] < run.log()["loss"].iloc[0]


def test_the_course_names_what_is_missing_before_it_starts(tmp_path, without_training_split):
    data, runs = str(without_training_split), str(tmp_path / "runs")
    environment = {**os.environ, "STLIB_PROFILE": "small", "STLIB_DATA": data, "STLIB_RUNS": runs}
    course = os.path.join(os.path.dirname(__file__), "..", "tools", "course.py")
    done = subprocess.run([sys.executable, course], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "train.parquet" in done.stderr
    assert "STLIB_NLI_SPLIT" in done.stderr


@pytest.mark.slow
def test_a_recorded_run_comes_out_again(tmp_path):
    """The first hundred steps of the card's recipe, in the rows of the record, whichever the processor and its precision."""
    arguments = {"data": str(REAL_DATA), "nli_split": "train+validation+test", "seed": 1, "log_every": 25}
    log = train("card", "small", out=tmp_path / "run", max_steps=100, **arguments).log()
    recorded = next(run for run in forensics.recorded("card", nli_split=arguments["nli_split"]) if run["seed"] == 1)
    assert list(log["step"]) == [25, 50, 75, 100]
    assert list(log["loss"]) == pytest.approx(list(recorded["loss"].values())[:4], abs=0.002)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("steps", [500, 1_000])
def test_the_cards_recipe_gives_the_cards_first_two_rows(tmp_path, steps):
    """Steps 1-500 within 0.003 of the card's 1.0795, 501-1,000 within 0.015 of 0.9939; the head keeps its bits."""
    arguments = ["--recipe", "card", "--nli-split", "validation+test", "--max-steps", str(steps), "--seed", "1"]
    run = tmp_path / "run"
    assert main(["train", *arguments, "--data", str(REAL_DATA), "--log-every", "50", "--out", str(run)]) == 0
    log, info = Run.load(run).log(), Run.load(run).info
    assert log.loc[log["step"] <= 500, "loss"].mean() == pytest.approx(1.0795, abs=0.003)
    if steps > 500:
        assert log.loc[log["step"] > 500, "loss"].mean() == pytest.approx(0.9939, abs=0.015)
    assert info["head_moved"] == 0.0
    assert (info["steps"], info["recipe"]["schedule_steps"]) == (steps, 68_668)

import copy
import json
from dataclasses import asdict

import contest
import frame
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from stlib import data, records
from stlib.recipes import CONTENDERS
from stlib.sources import Source
from tests.tiny import SIZE

# What decides how a run trains; older records lack the newer of these.
FIELDS = ("learning_rate", "warmup_steps", "weight_decay", "train_head", "head_learning_rate", "head_gain", "dropout", "loss", "multiply", "normalize", "scale", "matryoshka")  # fmt: skip

MINI = data.sts("sts", "test", Source("mini")).to_pandas()[["sentence1", "sentence2", "score"]]
TRAIN = data.sts("sts", "validation", Source("mini")).to_pandas()[["sentence1", "sentence2", "score"]]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The contest's layout with mini pairs: one of STS13 is in STS-B train too, sides exchanged."""
    folder = tmp_path_factory.mktemp("contest")
    parts = {"train": TRAIN[:60], "validation": TRAIN[60:], "test": MINI[:60]}
    (folder / contest.VALIDATION).mkdir()
    for split, rows in parts.items():
        rows.to_parquet(folder / contest.VALIDATION / f"{split}.parquet")
    for task in contest.TESTS[:-1]:
        (folder / task).mkdir()
        MINI[60:].to_parquet(folder / task / "test.parquet")
    exchanged = TRAIN[:1].rename(columns={"sentence1": "sentence2", "sentence2": "sentence1"})
    exchanged["sentence1"] = exchanged["sentence1"].str.upper()
    pd.concat([MINI[60:], exchanged]).to_parquet(folder / "sts13-sts" / "test.parquet")
    return Source("folder", folder)


@pytest.fixture(scope="module")
def judge(source, tiny):
    return contest.Judge(source, tiny, data.nli("train[:300]", Source("mini")))


def test_pairs_that_were_chosen_on_are_found_whatever_their_order(judge):
    assert [int((~rows).sum()) for rows in judge.rest.values()] == [0, 1, 0, 0, 0]
    assert not judge.rest["sts13-sts"][-1]


def test_the_base_model_does_not_beat_itself(judge, tiny):
    scores = judge.score(tiny, nli=False)
    assert scores["against_base"] == {"mean": 0, "low": 0, "high": 0, "n": 4 * 150 + 1 + 60}
    assert scores["against_base_unseen"]["n"] == 4 * 150 + 60
    assert scores["sts_mean"] == pytest.approx(np.mean(list(scores["sts"].values())), abs=0.01)


def test_scores_are_scipys(judge, tiny):
    scores = judge.score(tiny, nli=False)
    u, v = (tiny.encode(MINI[60:][side].tolist()) for side in ("sentence1", "sentence2"))
    expected = 100 * spearmanr(MINI[60:]["score"], (u * v).sum(axis=1)).statistic
    assert scores["sts"]["sts12-sts"] == pytest.approx(expected, abs=0.2)  # the judge encodes in bf16


def test_a_broken_encoder_loses(judge, tiny):
    """It takes all words for the same one: the paired interval lies below zero."""
    broken = copy.deepcopy(tiny)
    torch.nn.init.zeros_(broken[0].auto_model.embeddings.word_embeddings.weight)
    assert judge.score(broken, nli=False)["against_base"]["high"] < 0


def test_rounded_reaches_all_numbers():
    assert contest.rounded({"a": 1.23456, "b": {"c": 2.0, "n": 3}, "d": None}) == {
        "a": 1.23,
        "b": {"c": 2.0, "n": 3},
        "d": None,
    }


def test_rows_that_are_not_made_again_stay_in_their_record(tmp_path):
    def row(seed, score, versions):
        return dict.fromkeys(frame.KEPT) | {"seconds": 60, "seed": seed, "score": score, "versions": versions}

    path = tmp_path / "record.json"
    frame.record(path, "scores", "make them", [row(1, 10, "old"), row(2, 20, "old")])
    frame.record(path, "scores", "make them", frame.joined(path, [row(2, 21, "new"), row(3, 31, "new")], "seed"))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [(run["seed"], run["score"]) for run in found["runs"]] == [(1, 10), (2, 21), (3, 31)]
    assert (found["versions"], found["minutes"]) == ("old", 3)


def test_the_first_dimensions_are_scored_alone(judge, tiny, monkeypatch):
    monkeypatch.setattr(contest, "DIMENSIONS", (SIZE, 8))
    found = judge.score(tiny, nli=False)
    assert found["validation_by_dimensions"][str(SIZE)] == found["validation"]
    u, v = (tiny.encode(judge.validation[side].tolist())[:, :8] for side in ("sentence1", "sentence2"))
    cosine = (u * v).sum(axis=1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1))
    expected = 100 * spearmanr(judge.validation["score"], cosine).statistic
    assert found["validation_by_dimensions"]["8"] == pytest.approx(expected, abs=0.5)


@pytest.fixture(scope="module")
def runs():
    return records.table("better_recipes")


def test_the_recorded_winner_is_chosen_on_validation_and_confirmed_on_three_seeds(runs):
    winner = runs.groupby("contender")["validation"].mean().idxmax()
    confirmed = runs[runs["contender"] == winner]
    assert len(confirmed) == 3
    for measure in ("against_base", "against_base_unseen"):
        assert all(found["mean"] >= 0.5 and found["low"] > 0 for found in confirmed[measure])


def test_the_recorded_contenders_are_the_recipes(runs):
    """Every recorded run trained what its name says today, whatever it was called then."""
    recipes = {recipe.name: recipe for recipe in CONTENDERS}
    for run in runs.itertuples():
        name = run.contender.removesuffix("_soup")
        expected = json.loads(json.dumps(asdict(recipes[name].fitted_to(run.recipe["schedule_steps"]))))
        same = {key: value for key, value in expected.items() if key in FIELDS}
        assert {key: run.recipe.get(key, default) for key, default in same.items()} == same


def test_no_contender_is_trained_on_more_sentences_than_four_passes_over_all_pairs(runs):
    for run in runs.itertuples():
        columns = 3 if "ranking" in run.contender else 2
        batch = next(recipe.batch_size for recipe in CONTENDERS if recipe.name == run.contender.removesuffix("_soup"))
        assert run.steps * batch * columns <= 4 * 9_842 * 2 * 1.01

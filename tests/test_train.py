import itertools
import json
import math
import shutil
import threading
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import SoftmaxLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import set_seed

from stlib import data, sources
from stlib.cards import read_card, write_card
from stlib.configure import configure
from stlib.errors import UsageError
from stlib.model import load_classifier, load_encoder, save_encoder
from stlib.recipes import Recipe
from stlib.runs import SEED, Run, check_folder, one_writer
from stlib.sources import Source
from stlib.train import average, find_or_train, finish, train
from stlib.trainer import NLITrainer
from tests.conftest import assert_same_run
from tests.tiny import SIZE


def test_max_steps_never_reshapes_the_schedule(tmp_path, tiny_model):
    """Three steps of the card's recipe are its first three: 2e-5 is reached at step 1,000, not at the end of the run."""
    short = train(
        "card", "small", out=tmp_path / "run", data="mini", nli_split="train[:64]", max_steps=3, log_every=1,
        start=tiny_model,
    )  # fmt: skip
    assert short.log()["learning_rate"].tolist() == pytest.approx([0, 2e-8, 4e-8])
    assert (short.info["recipe"]["warmup_steps"], short.info["recipe"]["schedule_steps"]) == (1_000, 68_668)


def test_a_run_folder_has_all_its_parts(tiny_run, tiny_model):
    names = {path.name for path in tiny_run.folder.iterdir()}
    assert names == {"model", "log.csv", "run.json", "README.md", "card.json", "checkpoints"}
    assert {"nli_head.safetensors", "nli_head.json", "model.safetensors", "modules.json"} <= {
        p.name for p in tiny_run.model_folder.iterdir()
    }
    info = tiny_run.info
    assert (info["steps"], info["total_steps"], info["rows"], info["seed"]) == (6, 6, 384, 42)
    assert (info["recipe"]["name"], info["start"]) == ("trained_head", str(tiny_model))
    assert info["data_fingerprint"] == data.fingerprint(data.nli("train[:384]", sources.Source("mini")))
    assert {"torch", "sentence-transformers", "python"} <= set(info["versions"])
    assert info["seconds"] > 0
    assert info["peak_memory_mb"] > 100


def test_the_log_is_a_curve(tiny_run):
    log = tiny_run.log()
    assert list(log.columns) == ["step", "epoch", "loss", "learning_rate"]
    assert log["step"].tolist() == [2, 4, 6]
    assert np.isfinite(log["loss"]).all()
    assert log["epoch"].iloc[-1] == pytest.approx(1.0)


def test_the_model_loads_with_the_plain_library_and_equals_the_classifiers(tiny_run):
    plain = SentenceTransformer(str(tiny_run.model_folder), device="cpu")
    ours = load_classifier(tiny_run, "cpu").encoder
    sentences = ["A man sleeps.", "Two dogs are running in a park."]
    np.testing.assert_array_equal(plain.encode(sentences), ours.encode(sentences))
    assert np.linalg.norm(plain.encode(sentences), axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_same_seed_same_run_and_head_and_encoder_move(tiny_run, tmp_path, tiny, six_steps):
    again = train(out=tmp_path / "again", **six_steps)
    assert_same_run(again.folder, tiny_run.folder)
    assert tiny_run.info["head_moved"] > 0
    before, after = tiny.state_dict(), load_encoder(again, "cpu").state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == [
        "0.model.pooler.dense.weight",  # mean pooling does without it
        "0.model.pooler.dense.bias",
    ]


def test_a_frozen_head_does_not_move_by_one_bit(tmp_path, tiny_model, six_steps):
    set_seed(SEED)
    at_first = SoftmaxLoss(load_encoder(tiny_model, "cpu"), SIZE, num_labels=3).classifier.state_dict()
    run = train(out=tmp_path / "frozen", **{**six_steps, "recipe": "card"})
    at_last = load_file(run.model_folder / "nli_head.safetensors")
    assert all(torch.equal(at_first[name], at_last[name]) for name in at_first)
    assert run.info["head_moved"] == 0.0


def test_max_steps_stops_early_and_keeps_the_schedule(tiny_run, tmp_path, six_steps):
    run = train(out=tmp_path / "short", max_steps=4, **six_steps)
    assert (run.info["steps"], run.info["total_steps"]) == (4, 6)
    pd.testing.assert_frame_equal(run.log(), tiny_run.log().iloc[:2])


def test_a_finished_run_is_not_overwritten(tiny_run, six_steps):
    before = (tiny_run.folder / "run.json").read_bytes()
    with pytest.raises(UsageError, match="already holds a finished run"):
        train(out=tiny_run.folder, **six_steps)
    assert (tiny_run.folder / "run.json").read_bytes() == before


def test_a_start_that_the_packed_engine_does_not_know_is_refused_before_anything_is_written(
    tmp_path, tiny_model, six_steps
):
    model = load_encoder(tiny_model, "cpu")
    model[1] = Pooling(SIZE, pooling_mode="cls")
    model.save_pretrained(str(tmp_path / "cls"), create_model_card=False)
    options = {**six_steps, "start": tmp_path / "cls", "out": tmp_path / "run", "max_steps": 1}
    with pytest.raises(UsageError, match="mean pooling only: use --engine stock"):
        train(**options, engine="packed")
    assert not (tmp_path / "run").exists()
    assert train(**options, engine="stock").info["steps"] == 1


@pytest.mark.parametrize(
    "recipe", ["ranking", "ranking_pairs", "ranking_matryoshka", "ranking_soup", "cosent", "angle"]
)
def test_several_processes_do_not_rank(monkeypatch, recipe):
    """Each would rank among its own share of the batch: another loss than with one process."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match="train it with one process"):
        configure(recipe)


def test_a_file_in_the_way_is_refused(tmp_path, six_steps):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", configure(**six_steps)[0], resume=False)


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_every_step_starts_without_gradients(tmp_path, monkeypatch, six_steps, engine):
    """The library's trainer let those of the head add up from step to step until version 6.2."""
    before, step = [], NLITrainer.training_step

    def noting(self, *arguments):
        before.append([parameter.grad for parameter in self.loss.parameters()])
        return step(self, *arguments)

    monkeypatch.setattr(NLITrainer, "training_step", noting)
    train(out=tmp_path / "run", engine=engine, **six_steps)
    assert len(before) == 6
    assert all(gradient is None or not gradient.any() for gradients in before for gradient in gradients)


@pytest.mark.parametrize("engine", ["packed", "stock"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch, six_steps, engine, value):
    """At the step itself, with the batch's pairs; no row of the log has it, as a number or as zero."""
    steps, original = itertools.count(1), SoftmaxLoss.forward
    monkeypatch.setattr(SoftmaxLoss, "forward", lambda *a: original(*a) * (value if next(steps) == 5 else 1))
    seen = (
        r"rows (\d+, ){63}\d+ of the training data"
        if engine == "packed"
        else "the batch of 64 pairs that starts with '"
    )
    with pytest.raises(UsageError, match=rf"the loss is {value} at step 5, on {seen}.*lower the learning rate"):
        train(out=tmp_path / "run", engine=engine, **six_steps)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """A folder for runs, which have two steps at profile mini."""
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("STLIB_NLI_SPLIT", "train[:128]")
    return tmp_path


def test_find_or_train_loads_what_fits_and_sets_aside_what_does_not(runs, tiny_base, capsys):
    first = find_or_train("trained_head")
    assert first.folder == runs / "trained_head-mini-train_128"
    written = (first.folder / "run.json").stat().st_mtime_ns
    assert find_or_train("trained_head").folder == first.folder
    assert "loaded the run trained_head-mini-train_128: 2 steps on 128 pairs" in capsys.readouterr().out
    assert (first.folder / "run.json").stat().st_mtime_ns == written
    info = json.loads((first.folder / "run.json").read_text(encoding="utf-8"))
    info["recipe"]["learning_rate"] = 1.0
    for number in (1, 2):  # the second time, the first name is taken
        (first.folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
        assert find_or_train("trained_head").info["recipe"]["learning_rate"] < 1.0
        aside = first.folder.with_name(f"{first.folder.name}.old-{number}")
        assert f"it is now {aside.name}" in capsys.readouterr().out
        assert json.loads((aside / "run.json").read_text(encoding="utf-8")) == info
        assert (aside / "model" / "nli_head.safetensors").exists()


def test_find_or_train_sets_aside_an_unfinished_run_that_was_started_otherwise(runs, tiny_base):
    folder = runs / "trained_head-mini-train_128"
    folder.mkdir()
    (folder / "unfinished.json").write_text('{"seed": 7}', encoding="utf-8")
    assert find_or_train("trained_head").info["seed"] == SEED
    assert json.loads((folder.with_name(f"{folder.name}.old-1") / "unfinished.json").read_text()) == {"seed": 7}


def test_find_or_train_sets_aside_a_run_of_an_older_layout(runs, tiny_base):
    """Its run.json has fewer fields, and its recipe another."""
    folder = runs / "trained_head-mini-train_128"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"hours of work")
    older = {"recipe": {"name": "trained_head", "short": True}, "profile": "mini", "seed": 42, "steps": 2}
    (folder / "run.json").write_text(json.dumps(older), encoding="utf-8")
    assert find_or_train("trained_head").info["steps"] == 2
    aside = folder.with_name(f"{folder.name}.old-1")
    assert json.loads((aside / "run.json").read_text("utf-8")) == older
    assert (aside / "model" / "model.safetensors").read_bytes() == b"hours of work"


def test_find_or_train_waits_for_the_process_that_trains_the_same_run(runs, tiny_base, monkeypatch):
    """What that process has trained is loaded, not trained again."""
    folder = find_or_train("trained_head").folder
    shutil.move(folder, runs / "elsewhere")
    monkeypatch.setattr("stlib.train.carry_out", lambda *_: pytest.fail("it trained"))
    found = []
    waiting = threading.Thread(target=lambda: found.append(find_or_train("trained_head")))
    with one_writer(folder):
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        shutil.move(runs / "elsewhere", folder)
    waiting.join(20)
    assert [run.folder for run in found] == [folder]


def test_find_or_train_trains_what_was_asked(runs, monkeypatch):
    monkeypatch.setenv("STLIB_DATA", "mini")
    asked = []
    monkeypatch.setattr("stlib.train.carry_out", lambda config, rows, out, resume: asked.append((config, out, resume)))
    find_or_train()
    find_or_train("card", "full")
    (first, out, resume), (second, other, _) = asked
    assert (first.recipe.name, first.profile, out.name) == ("trained_head", "mini", "trained_head-mini-train_128")
    assert (second.recipe.name, second.profile, other.name) == ("card", "full", "card-full-train_128")
    assert not resume


def test_what_is_trained_on_is_named(tmp_path, capsys, tiny_model):
    """The mini STS task has no training split, and line, run.json and card say which one was used."""
    tried = recipe("cosine", data="sts")
    run = train(tried, "mini", out=tmp_path / "run", max_steps=1, start=tiny_model)
    assert "pairs of sts validation from mini corpora, 1 steps of 8" in capsys.readouterr().out
    assert run.info["nli_split"] == "validation"


def recipe(loss, **changes):
    return Recipe("tried", "a recipe of the tests", **{"loss": loss, "epochs": 1, "batch_size": 8, **changes})


def test_a_run_without_a_head_is_whole_but_for_the_head(tmp_path, tiny_model):
    tried = recipe("mnrl")
    run = train(tried, "mini", out=tmp_path / "run", nli_split="train[:60]", start=tiny_model)
    assert (run.info["rows"], run.info["head_moved"]) == (20, None)
    assert "MultipleNegativesRankingLoss" in (run.folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="holds no NLI head"):
        load_classifier(run, "cpu")
    assert "Semantic Similarity" in write_card(run, Source("mini")).read_text(encoding="utf-8")
    after = recipe("cosent", data="sts")
    again = train(after, "mini", out=tmp_path / "next", start=run.folder, max_steps=2)
    assert again.info["start"] == str(run.folder)
    assert Run.load(again.folder).info["rows"] == len(data.sts("sts", "validation", Source("mini")))


def test_a_head_that_sees_the_product_is_loaded_with_it(tmp_path, tiny_model):
    tried = recipe("softmax", multiply=True, normalize=False, train_head=True, batch_size=32)
    run = train(tried, "mini", out=tmp_path / "run", nli_split="train[:64]", start=tiny_model)
    loaded = load_classifier(run, "cpu")
    assert loaded.multiply
    assert loaded.head.in_features == 4 * SIZE
    assert loaded.predict_proba(["A man sleeps."], ["A person rests."]).sum() == pytest.approx(1)


def test_a_soup_is_the_mean_of_its_runs(tmp_path, tiny_model):
    soup = train(recipe("mnrl", soup=2), "mini", out=tmp_path / "soup", nli_split="train[:60]", start=tiny_model)
    parts = [Run.load(soup.folder / "parts" / f"seed{seed}") for seed in (42, 43)]
    first, second, mean = (load_file(run.model_folder / "model.safetensors") for run in (*parts, soup))
    assert mean.keys() == first.keys()
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, atol=1e-7, rtol=0)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert (soup.info["averaged"], soup.info["steps"]) == ([42, 43], sum(run.info["steps"] for run in parts))
    assert soup.log()["loss"].tolist() == pytest.approx(np.mean([run.log()["loss"] for run in parts], axis=0), abs=2e-6)
    card = (soup.folder / "README.md").read_text(encoding="utf-8")
    assert card.count("### Effective Settings") == 1  # not those of the first part too
    assert f"| steps | {soup.info['steps']} of " in card
    facts = read_card(card)
    assert facts["log"][-1][2] == pytest.approx(soup.log()["loss"].iloc[-1], abs=1e-4)
    assert (facts["dataset"]["rows"], facts["dataset"]["loss"]) == (20, "MultipleNegativesRankingLoss")
    assert facts["hyperparameters"]["seed"] == 42
    assert "Training Time" not in card  # the library knows that of the first part


def test_a_soup_of_classifiers_is_refused(tmp_path, tiny_model):
    with pytest.raises(UsageError, match="averages 2 encoders, whose heads differ"):
        train(recipe("softmax", soup=2), "mini", out=tmp_path / "soup", nli_split="train[:60]", start=tiny_model)
    assert not (tmp_path / "soup").exists()


def test_a_soup_that_cannot_start_writes_nothing(tmp_path, tiny):
    first_token = SentenceTransformer(modules=[tiny[0], Pooling(SIZE, pooling_mode="cls")], device="cpu")
    save_encoder(first_token, tmp_path / "cls", create_model_card=False)
    with pytest.raises(UsageError, match="--engine stock"):
        train(recipe("mnrl", soup=2), "mini", out=tmp_path / "soup", nli_split="train[:60]", start=tmp_path / "cls")
    assert not (tmp_path / "soup").exists()


def test_a_soup_goes_on_where_it_was_interrupted(tmp_path, tiny_model, monkeypatch):
    """Parts that are finished are not trained again; of several processes, the first one writes."""
    options = {"profile": "mini", "nli_split": "train[:60]", "start": tiny_model}
    whole = train(recipe("mnrl", soup=2), out=tmp_path / "whole", **options)
    cut = mock.patch("stlib.train.average", side_effect=KeyboardInterrupt)
    with cut, pytest.raises(KeyboardInterrupt):
        train(recipe("mnrl", soup=2), out=tmp_path / "cut", **options)
    with pytest.raises(UsageError, match=r"another recipe\.scale"):
        train(recipe("mnrl", soup=2, scale=1.0), out=tmp_path / "cut", resume=True, **options)
    monkeypatch.setattr("stlib.train.make_trainer", lambda *_: pytest.fail("it trained"))
    run = train(recipe("mnrl", soup=2), out=tmp_path / "cut", resume=True, **options)
    ours, theirs = (load_file(found.model_folder / "model.safetensors") for found in (run, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_part_of_a_soup_goes_on_where_it_was_interrupted(tmp_path, tiny_model):
    options = {"profile": "mini", "nli_split": "train[:60]", "start": tiny_model, "out": tmp_path / "soup"}
    finished = []

    def once(out, *found):
        if finished:
            raise KeyboardInterrupt
        finished.append(out.name)
        finish(out, *found)

    with mock.patch("stlib.train.finish", once), pytest.raises(KeyboardInterrupt):
        train(recipe("mnrl", soup=2), **options)
    assert (tmp_path / "soup" / "parts" / "seed43" / "unfinished.json").exists()
    assert train(recipe("mnrl", soup=2), resume=True, **options).info["averaged"] == [42, 43]


def test_the_mean_keeps_what_is_no_weight():
    one, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    other.weight.data.fill_(3)
    mean = average([one, other])
    assert mean.weight.tolist() == [2, 2]
    assert mean.num_batches_tracked.dtype == torch.int64

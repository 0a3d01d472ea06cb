import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import SoftmaxLoss
from transformers import set_seed

from stlib import corpora
from stlib.base_model import load_base
from stlib.errors import UsageError
from stlib.profiles import get_profile
from stlib.recipes import get_recipe
from stlib.runs import Run
from stlib.trainer import NLITrainer
from stlib.training import (
    SEED,
    check_folder,
    count_epochs,
    default_folder,
    expected_time,
    find_or_train,
    is_fitted,
    make_request,
    steps_an_epoch,
    train,
)
from tests.conftest import weights

TINY = {"profile": "mini", "nli_split": "train[:192]"}


@pytest.mark.parametrize(
    ("recipe", "profile", "fitted", "epochs"),
    [
        ("card", "mini", True, 1),
        ("trained_head", "mini", True, 1),
        ("card", "small", False, 4),
        ("card_as_printed", "small", False, 4),
        ("fit_defaults", "small", False, 4),
        ("trained_head", "small", True, 1),
        ("card", "full", False, 4),
        ("trained_head", "full", False, 4),
    ],
)
def test_a_recipe_of_a_length_keeps_its_schedule_but_at_mini(recipe, profile, fitted, epochs):
    assert is_fitted(get_recipe(recipe), get_profile(profile)) is fitted
    assert count_epochs(get_recipe(recipe), get_profile(profile)) == epochs


def test_max_steps_never_reshapes_the_schedule(tmp_path):
    """Three steps of the card's recipe are its first three: 2e-5 is reached at step 1,000, not at the end of the run."""
    short = train("card", "small", out=tmp_path / "run", data="mini", nli_split="train[:64]", max_steps=3, log_every=1)
    assert short.log()["learning_rate"].tolist() == pytest.approx([0, 2e-8, 4e-8])
    assert (short.info["recipe"]["warmup_steps"], short.info["recipe"]["schedule_steps"]) == (1_000, 68_668)


def test_the_expected_time_grows_with_the_steps():
    hours = re.search(r"about ([\d.]+) hours", expected_time(68_672, "packed", "bf16"))
    assert 1 < float(hours[1]) < 24
    assert expected_time(10, "packed", "bf16").startswith("about 2 minutes on two cores")
    assert expected_time(68_672, "stock", "fp32") != expected_time(68_672, "packed", "fp32")


def test_a_run_folder_has_all_its_parts(tiny_run):
    names = {path.name for path in tiny_run.folder.iterdir()}
    assert names == {"model", "log.csv", "run.json", "README.md", "card.json", "checkpoints"}
    assert {"nli_head.safetensors", "nli_head.json", "model.safetensors", "modules.json"} <= {
        p.name for p in tiny_run.model_folder.iterdir()
    }
    info = tiny_run.info
    assert (info["steps"], info["total_steps"], info["rows"], info["seed"]) == (6, 6, 192, 42)
    assert info["recipe"]["name"] == "trained_head"
    assert info["data_fingerprint"] == corpora.fingerprint(corpora.nli("train[:192]", corpora.Source("mini")))
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
    ours = tiny_run.classifier("cpu").encoder
    sentences = ["A man sleeps.", "Two dogs are running in a park."]
    np.testing.assert_array_equal(plain.encode(sentences), ours.encode(sentences))
    assert np.linalg.norm(plain.encode(sentences), axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_the_model_card_is_written_with_base_model_and_size(tiny_run):
    card = (tiny_run.folder / "README.md").read_text(encoding="utf-8")
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
    assert "loss:SoftmaxLoss" in card
    assert "192 training samples" in card
    assert str(tiny_run.folder.parent) not in card


def test_same_seed_same_run_and_head_and_encoder_move(tiny_run, tmp_path, base):
    again = train("trained_head", out=tmp_path / "again", log_every=2, **TINY)
    assert (again.folder / "log.csv").read_bytes() == (tiny_run.folder / "log.csv").read_bytes()
    for name, tensor in weights(tiny_run.folder).items():
        assert torch.equal(tensor, weights(again.folder)[name]), name
    assert tiny_run.info["head_moved"] > 0
    before, after = base.state_dict(), again.classifier("cpu").encoder.state_dict()
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 50


def test_a_frozen_head_does_not_move_by_one_bit(tmp_path):
    set_seed(SEED)
    at_first = SoftmaxLoss(load_base("cpu"), 384, num_labels=3).classifier.state_dict()
    run = train("card", out=tmp_path / "frozen", **TINY)
    at_last = load_file(run.model_folder / "nli_head.safetensors")
    assert all(torch.equal(at_first[name], at_last[name]) for name in at_first)
    assert run.info["head_moved"] == 0.0


def test_max_steps_stops_early_and_keeps_the_schedule(tiny_run, tmp_path):
    run = train("trained_head", out=tmp_path / "short", max_steps=4, log_every=2, **TINY)
    assert (run.info["steps"], run.info["total_steps"]) == (4, 6)
    pd.testing.assert_frame_equal(run.log(), tiny_run.log().iloc[:2])


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_resume_continues_exactly(tmp_path, monkeypatch, engine):
    """A run cut off after its first checkpoint and resumed ends with the same weights, bit for bit, dropout included."""
    import stlib.trainer as trainer

    class Cut(Exception):
        pass

    def cut(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Cut

    options = {"recipe": "card", "log_every": 2, "engine": engine, **TINY}
    whole = train(out=tmp_path / "whole", **options)
    monkeypatch.setattr(trainer.ProgressBar, "on_step_end", cut)
    with pytest.raises(Cut):
        train(out=tmp_path / "cut", **options)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="unfinished run"):
        Run.load(tmp_path / "cut")
    with pytest.raises(UsageError, match="continue it with --resume"):
        train(out=tmp_path / "cut", **options)
    run = train(out=tmp_path / "cut", resume=True, **options)
    assert (run.folder / "log.csv").read_bytes() == (whole.folder / "log.csv").read_bytes()
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(run.folder)[name]), name


def test_bad_input_leaves_nothing_behind(tmp_path):
    out = tmp_path / "run"
    for message, options in {
        "no recipe": {"recipe": "best"},
        "no profile": {"profile": "huge"},
        "does not exist": {"data": tmp_path / "nowhere"},
        "no split": {"nli_split": "dev"},
        "fewer than one batch": {"nli_split": "train[:31]"},
        "above zero": {"max_steps": 0},
        "no unfinished run": {"resume": True},
    }.items():
        with pytest.raises(UsageError, match=message):
            train(**{"recipe": "card", "profile": "mini", "out": out, **options})
        assert not out.exists(), message


def test_a_finished_run_is_not_overwritten(tiny_run):
    before = (tiny_run.folder / "run.json").read_bytes()
    with pytest.raises(UsageError, match="already holds a finished run"):
        train("trained_head", out=tiny_run.folder, **TINY)
    assert (tiny_run.folder / "run.json").read_bytes() == before


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", resume=False)


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_every_step_starts_without_gradients(tmp_path, monkeypatch, engine):
    """The library's trainer let those of the head add up from step to step until version 6.2."""
    before, step = [], NLITrainer.training_step

    def noting(self, *arguments):
        before.append([parameter.grad for parameter in self.loss.parameters()])
        return step(self, *arguments)

    monkeypatch.setattr(NLITrainer, "training_step", noting)
    train("trained_head", out=tmp_path / "run", engine=engine, **TINY)
    assert len(before) == 6
    assert all(gradient is None or not gradient.any() for gradients in before for gradient in gradients)


@pytest.mark.parametrize("engine", ["packed", "stock"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch, engine, value):
    """At the step itself, with the batch's pairs; no row of the log has it, as a number or as zero."""
    steps, original = itertools.count(1), SoftmaxLoss.forward
    monkeypatch.setattr(SoftmaxLoss, "forward", lambda *a: original(*a) * (value if next(steps) == 5 else 1))
    seen = (
        r"rows (\d+, ){31}\d+ of the training data"
        if engine == "packed"
        else "the batch of 32 pairs that starts with '"
    )
    with pytest.raises(UsageError, match=rf"the loss is {value} at step 5, on {seen}.*lower the learning rate"):
        train("trained_head", "mini", out=tmp_path / "run", max_steps=12, log_every=2, engine=engine)
    assert not (tmp_path / "run" / "run.json").exists()


def test_find_or_train_loads_what_fits_and_trains_what_does_not(monkeypatch, tmp_path):
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("STLIB_NLI_SPLIT", "train[:64]")
    first = find_or_train("trained_head")
    assert first.folder == tmp_path / "trained_head-mini-train_64"
    written = (first.folder / "run.json").stat().st_mtime_ns
    assert find_or_train("trained_head").folder == first.folder
    assert (first.folder / "run.json").stat().st_mtime_ns == written
    info = json.loads((first.folder / "run.json").read_text())
    info["recipe"]["learning_rate"] = 1.0
    (first.folder / "run.json").write_text(json.dumps(info))
    assert find_or_train("trained_head").info["recipe"]["learning_rate"] < 1.0


def test_find_or_train_trains_what_was_asked(monkeypatch, tmp_path):
    for name, value in {"STLIB_RUNS": str(tmp_path), "STLIB_DATA": "mini", "STLIB_NLI_SPLIT": "train[:64]"}.items():
        monkeypatch.setenv(name, value)
    started = []
    monkeypatch.setattr(
        "stlib.training.start_run", lambda plan, out, resume: started.append((plan.settings, out, resume))
    )
    find_or_train()
    find_or_train("card", "full")
    (first, out, resume), (second, other, _) = started
    assert (first["recipe"], first["profile"], out.name) == ("trained_head", "mini", "trained_head-mini-train_64")
    assert (second["recipe"], second["profile"], other.name) == ("card", "full", "card-full-train_64")
    assert not resume


def test_run_folders_are_named_after_what_was_asked():
    assert default_folder(make_request("card", "mini", None, None, None, 42)).name == "card-mini"
    name = default_folder(make_request("card", "mini", None, "validation+test", 100, 7)).name
    assert name == "card-mini-validation_test-100steps-seed7"


def test_steps_of_the_published_run():
    assert steps_an_epoch(549_367, 32) == 17_168
    assert 4 * steps_an_epoch(549_367, 32) == 68_672

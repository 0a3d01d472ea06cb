import re
import subprocess
import sys

import pytest
import torch

from stlib import settings
from stlib.configure import configure
from stlib.errors import UsageError


def test_the_profile_comes_from_argument_environment_or_default(monkeypatch):
    monkeypatch.delenv("STLIB_PROFILE")
    assert settings.get_profile().name == "mini"
    monkeypatch.setenv("STLIB_PROFILE", "small")
    assert settings.get_profile().name == "small"
    assert settings.get_profile("full").name == "full"
    monkeypatch.setenv("STLIB_PROFILE", "tiny")
    with pytest.raises(UsageError, match="mini, small, full"):
        settings.get_profile()


def test_the_full_profile_is_the_cards_run():
    full = settings.get_profile("full")
    assert (full.epochs, full.log_every, full.train_split, full.rate_scale, full.batch_scale) == (4, 500, "train", 1, 1)


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5"])
@pytest.mark.parametrize("variable", ["STLIB_MAX_STEPS", "WORLD_SIZE"])
def test_numbers_from_outside_are_whole_and_above_zero(monkeypatch, variable, text):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError, match=f"{variable} is '{text}'"):
        configure("trained_head")  # what the course asks before it starts


def test_a_number_from_outside(monkeypatch):
    assert settings.whole_number("STLIB_MAX_STEPS") is None
    monkeypatch.setenv("STLIB_MAX_STEPS", "25")
    assert settings.whole_number("STLIB_MAX_STEPS") == 25
    assert configure("trained_head")[0].last_step == 25


def test_data_come_from_where_the_profile_says(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "stlib.configure.load_rows", lambda recipe, split, source: asked.append((split, str(source))) or [0]
    )
    monkeypatch.setattr("stlib.configure.fingerprint", lambda rows: "")
    monkeypatch.setattr("stlib.configure.check_rows", lambda recipe, rows, split: None)
    for name in ("mini", "small"):
        configure("trained_head", name)
    assert asked == [("train[:8640]", "mini corpora"), ("train[:20000]", "the hub")]


def test_device_and_precision_can_be_set_from_outside(monkeypatch):
    assert settings.best_device() in ("cpu", "cuda", "mps")
    assert settings.best_precision("mps") == "fp32"
    monkeypatch.setenv("STLIB_DEVICE", "cpu")
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    assert (settings.best_device(), settings.best_precision("cuda")) == ("cpu", "fp32")


def test_a_run_has_its_devices_precision(monkeypatch):
    monkeypatch.setattr("stlib.configure.best_precision", "best of {}".format)
    assert configure("trained_head")[0].precision == f"best of {settings.best_device()}"


def test_a_clusters_own_variables_start_no_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert settings.processes() == 1
    assert settings.is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "3")  # torchrun's and accelerate's
    assert settings.processes() == 4
    assert not settings.is_first_process()


def test_runs_go_where_they_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    assert settings.runs_folder() == tmp_path
    monkeypatch.delenv("STLIB_RUNS")
    assert settings.runs_folder().name == "runs"
    assert (settings.runs_folder().parent / "pyproject.toml").exists()


def test_runs_do_not_go_into_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"STLIB_RUNS is .* which is a file: set it to a folder"):
        settings.runs_folder()


@pytest.mark.parametrize(
    ("name", "value"),
    [("DEVICE", "gpu"), ("DEVICE", "cuda"), ("PRECISION", "int8"), ("PRECISION", "fp16"), ("PRECISION", "bfloat16")],
)
def test_a_device_or_precision_that_is_not_there_is_refused(monkeypatch, name, value):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(f"STLIB_{name}", value)
    with pytest.raises(UsageError, match=f"STLIB_{name} is '{value}': set it to"):
        settings.best_precision(settings.best_device())


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function that returns what bars have written, with bars on: they are off in all other tests."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return lambda: capsys.readouterr().err


def test_a_bar_is_a_line_of_text_where_a_program_asks_for_one(monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    with settings.progress_bar(total=200, desc="training", unit="steps", delay=0) as bar:
        bar.update(34)
        bar.set_postfix(loss="0.834")
    assert re.search(r"\rtraining: 34/200 steps, \S+ left, loss=0\.834", shown())


def test_two_bars_in_text_share_one_line(monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    for _ in settings.progress_bar(range(2), desc="STS", unit="tasks", delay=0):
        list(settings.progress_bar(range(3), desc="encoding", unit="batches", delay=0))
    written = shown()
    assert "STS: 0/2 tasks" in written
    assert "encoding: 0/3 batches" in written
    assert "\n" not in written.rstrip("\n")


def test_work_of_less_than_a_second_shows_no_bar(shown):
    assert list(settings.progress_bar(range(3))) == [0, 1, 2]
    assert shown() == ""


def test_no_bar_where_they_are_off(monkeypatch, shown):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert list(settings.progress_bar(range(3), delay=0)) == [0, 1, 2]
    assert shown() == ""


def test_a_bar_needs_no_notebook():
    """In a plain process, where IPython is not imported, bars go to the terminal."""
    code = "from stlib import settings; print(list(settings.progress_bar(range(2), delay=0, desc='work')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1]\n"

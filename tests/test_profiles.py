import pytest

from stlib import profiles
from stlib.errors import UsageError
from stlib.training import check_data


def test_the_profile_comes_from_argument_environment_or_default(monkeypatch):
    monkeypatch.delenv("STLIB_PROFILE")
    assert profiles.get_profile().name == "mini"
    monkeypatch.setenv("STLIB_PROFILE", "small")
    assert profiles.get_profile().name == "small"
    assert profiles.get_profile("full").name == "full"
    monkeypatch.setenv("STLIB_PROFILE", "tiny")
    with pytest.raises(UsageError, match="mini, small, full"):
        profiles.get_profile()


def test_the_full_profile_is_the_cards_run():
    full = profiles.get_profile("full")
    assert (full.epochs, full.batch_size, full.log_every, full.train_split, full.rate_scale) == (4, 32, 500, "train", 1)


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5"])
def test_bad_max_steps_are_refused(monkeypatch, text):
    monkeypatch.setenv("STLIB_MAX_STEPS", text)
    with pytest.raises(UsageError, match="STLIB_MAX_STEPS"):
        profiles.max_steps_from_environment()
    with pytest.raises(UsageError, match="STLIB_MAX_STEPS"):
        check_data()  # what the course asks before it starts


def test_max_steps_from_the_environment(monkeypatch):
    assert profiles.max_steps_from_environment() is None
    monkeypatch.setenv("STLIB_MAX_STEPS", "25")
    assert profiles.max_steps_from_environment() == 25


def test_device_and_precision_can_be_set_from_outside(monkeypatch):
    assert profiles.best_device() in ("cpu", "cuda", "mps")
    assert profiles.best_precision("mps") == "fp32"
    monkeypatch.setenv("STLIB_DEVICE", "cpu")
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    assert (profiles.best_device(), profiles.best_precision("cuda")) == ("cpu", "fp32")


def test_runs_go_where_they_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    assert profiles.runs_folder() == tmp_path
    monkeypatch.delenv("STLIB_RUNS")
    assert profiles.runs_folder().name == "runs"
    assert (profiles.runs_folder().parent / "pyproject.toml").exists()

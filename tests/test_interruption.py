"""A run that is killed at a random moment and resumed ends as if nothing had happened."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from stlib.__main__ import main
from stlib.errors import UsageError
from stlib.runs import one_writer
from stlib.training import find_or_train, is_whole, last_checkpoint, train
from tests.conftest import weights

COMMAND = (
    sys.executable, "-m", "stlib", "train", "--recipe", "trained_head", "--nli-split", "train[:1280]", "--max-steps", "36",
    "--log-every", "3",
)  # fmt: skip


def start(out, *more):
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_runs_killed_at_a_random_moment_end_with_the_same_bits(tmp_path, kills):
    """The moment is random in time, so it falls into steps, into the writing of checkpoints and into the last writing."""
    whole = start(tmp_path / "whole")
    while not (tmp_path / "whole" / "unfinished.json").exists():
        assert whole.poll() is None, whole.stderr.read()
        time.sleep(0.01)
    begun = time.perf_counter()
    assert whole.wait() == 0, whole.stderr.read()
    length = time.perf_counter() - begun  # from the first file that a run writes to its end
    expected, log = weights(tmp_path / "whole"), (tmp_path / "whole" / "log.csv").read_bytes()

    draw = random.Random(0)
    resumed_at = []
    for number in range(3 * kills):  # a machine that has become faster ends some runs before their moment
        if len(resumed_at) == kills:
            break
        out = tmp_path / f"run{number}"
        run = start(out)
        while not (out / "unfinished.json").exists():
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.95 * length))
        run.kill()  # SIGKILL; on Windows, TerminateProcess
        if run.wait() == 0 or (out / "run.json").exists():
            length *= 0.9
            continue  # it was faster than the first one: nothing was interrupted
        again = start(out, "--resume")
        printed, errors = again.communicate()
        assert again.returncode == 0, errors.decode()
        assert (out / "log.csv").read_bytes() == log, printed.decode()
        for name, tensor in weights(out).items():
            assert torch.equal(tensor, expected[name]), (number, name)
        resumed_at.append(json.loads((out / "run.json").read_text(encoding="utf-8"))["resumed_at_step"])
        assert len(list((out / "checkpoints").glob("checkpoint-*"))) <= 2
        shutil.rmtree(out)  # a run is large
    assert len(resumed_at) == kills
    assert any(step > 0 for step in resumed_at), resumed_at


OPTIONS = {"recipe": "trained_head", "profile": "mini", "nli_split": "train[:192]", "log_every": 1}


@contextlib.contextmanager
def interrupting(monkeypatch, at_step=None):
    """Training in here is interrupted after ``at_step``, or at the moment when the finished model takes its place."""

    def cut(self, args, state, control, **kwargs):
        if state.global_step == at_step:
            raise KeyboardInterrupt

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stlib.trainer.ProgressBar.on_step_end", cut)
        patch.setattr("stlib.training.replace_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def interrupted(monkeypatch, out, at_step=None, **options):
    """Train into ``out``, and be interrupted."""
    with interrupting(monkeypatch, at_step):
        train(out=out, **options)


def test_a_half_written_checkpoint_is_passed_over(tmp_path, tiny_run, monkeypatch):
    out = tmp_path / "run"
    interrupted(monkeypatch, out, **OPTIONS)
    settings = json.loads((out / "unfinished.json").read_text(encoding="utf-8"))
    assert last_checkpoint(out, settings) == str(out / "checkpoints" / "checkpoint-6")
    state = out / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert last_checkpoint(out, settings) == str(out / "checkpoints" / "checkpoint-3")
    run = train(out=out, resume=True, **OPTIONS)
    assert run.info["resumed_at_step"] == 3
    assert all(torch.equal(tensor, weights(tiny_run.folder)[name]) for name, tensor in weights(run.folder).items())


def test_the_last_checkpoint_is_the_one_with_the_most_steps(tmp_path):
    """By number, not by name: checkpoint-500 comes after checkpoint-1000 in a list of names."""
    settings = {"recipe": "card", "processes": 1}
    for step in (500, 1_000):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}", encoding="utf-8")
        (folder / "rng_state.pth").touch()
    (tmp_path / "unfinished.json").write_text(json.dumps(settings), encoding="utf-8")
    assert last_checkpoint(tmp_path, settings) == str(tmp_path / "checkpoints" / "checkpoint-1000")
    with pytest.raises(UsageError, match="was started with recipe card, not ranking: resume it with the same settings"):
        last_checkpoint(tmp_path, {**settings, "recipe": "ranking"})


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, tiny_run, monkeypatch, capsys):
    out = tmp_path / "run"
    interrupted(monkeypatch, out, at_step=1, **OPTIONS)
    run = train(out=out, resume=True, **OPTIONS)
    assert "has no checkpoint yet: the run starts again" in capsys.readouterr().out
    assert all(torch.equal(tensor, weights(tiny_run.folder)[name]) for name, tensor in weights(run.folder).items())


def test_a_run_killed_while_its_model_was_written_trains_no_further(tmp_path, tiny_run, monkeypatch):
    """Also where it stops early: the last checkpoint is then in the middle of an epoch."""
    for name, limit in {"to the end": None, "stopped early": 4}.items():
        whole = train(out=tmp_path / f"{name}, whole", max_steps=limit, **OPTIONS)
        out = tmp_path / name
        interrupted(monkeypatch, out, max_steps=limit, **OPTIONS)
        assert (out / "model.tmp").exists()
        run = train(out=out, max_steps=limit, resume=True, **OPTIONS)
        assert run.info["steps"] == whole.info["steps"]
        assert (out / "log.csv").read_bytes() == (whole.folder / "log.csv").read_bytes()
        assert all(torch.equal(tensor, weights(whole.folder)[name]) for name, tensor in weights(out).items())
        assert not (out / "model.tmp").exists()
        assert not (out / "unfinished.json").exists()


def test_a_run_is_resumed_with_the_same_settings_only(tmp_path, monkeypatch):
    out = tmp_path / "run"
    interrupted(monkeypatch, out, at_step=3, **OPTIONS)
    for name, value in {"seed": 7, "max_steps": 5, "recipe": "card", "engine": "stock", "log_every": 2}.items():
        with pytest.raises(UsageError, match=rf"was started with {name} .*, not {value}: resume it with the same"):
            train(out=out, resume=True, **{**OPTIONS, name: value})


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "of_weights", "of_losses"), [("fp32", 1e-4, 1e-4), ("bf16", 0.02, 0.005)])
def test_another_number_of_threads_changes_the_last_digits_only(
    tmp_path, monkeypatch, precision, of_weights, of_losses
):
    """Sums are taken in another order then. After 36 steps, weights and logged losses are equal within these tolerances."""
    monkeypatch.setenv("STLIB_PRECISION", precision)
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run = start(tmp_path / threads)
        assert run.wait() == 0, run.stderr.read()
    one, two = (weights(tmp_path / threads) for threads in ("1", "2"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < of_weights
    logs = [pd.read_csv(tmp_path / threads / "log.csv")["loss"] for threads in ("1", "2")]
    assert (logs[0] - logs[1]).abs().max() < of_losses


def test_after_ctrl_c_the_next_cell_goes_on(tmp_path, monkeypatch, capsys):
    """As in a notebook: the cell that trains is interrupted, and is run again."""
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("STLIB_MAX_STEPS", "12")
    with interrupting(monkeypatch, at_step=11):
        find_or_train("trained_head", "mini")
    run = find_or_train("trained_head", "mini")
    assert run.info["resumed_at_step"] == 10
    assert "resuming trained_head at step 10" in capsys.readouterr().out
    whole = train("trained_head", "mini", out=tmp_path / "whole")
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(run.folder)[name]), name


def test_two_runs_into_one_folder(tmp_path):
    with one_writer(tmp_path / "run"), pytest.raises(UsageError, match=r"another process is training into .*run"):
        train("trained_head", "mini", out=tmp_path / "run", max_steps=2)
    assert not (tmp_path / "run").exists()


def test_a_vanished_checkpoint(tmp_path, tiny_run, monkeypatch, capsys):
    """The run starts again where all checkpoints are gone, and says so."""
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "run" / "run.json").rename(tmp_path / "run" / "unfinished.json")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert last_checkpoint(tmp_path / "run", info) is None
    assert "has no checkpoint yet: the run starts again" in capsys.readouterr().out


@contextlib.contextmanager
def mounted(folder, option):
    """A new file system in ``folder``; gives whether one could be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", folder]
    done = bool(shutil.which("mount")) and subprocess.run(command, capture_output=True, check=False).returncode == 0
    yield done
    if done:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 MB: room for two checkpoints of 270 MB it has not."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=400m") as done:
        if not done:
            pytest.skip("no file system can be mounted here")
        yield folder


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoints_before(small_disk):
    run = start(small_disk / "run")
    _, errors = run.communicate()
    assert run.returncode == 2
    assert len(errors.decode().strip().splitlines()) == 1
    assert "could not be written" in errors.decode()
    assert "make room or choose another --out" in errors.decode()
    whole = [folder for folder in (small_disk / "run" / "checkpoints").iterdir() if is_whole(folder, 1)]
    assert len(whole) == 1
    load_file(whole[0] / "model.safetensors")
    assert not (small_disk / "run" / "run.json").exists()


@pytest.fixture
def read_only(tmp_path):
    """A folder that even root may not write to, where file systems can be mounted; else one without the permission."""
    folder = tmp_path / "read_only"
    with mounted(folder, "ro") as done:
        if not done and (os.name == "nt" or os.geteuid() == 0):
            pytest.skip("there is no way to make a folder read-only here")
        if not done:
            folder.chmod(0o500)
        yield folder
        if not done:
            folder.chmod(0o700)


def test_a_read_only_folder_is_one_sentence(read_only, tiny_run, tmp_path, capsys):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("premise,hypothesis\nA man sleeps.,A man rests.\n", encoding="utf-8")
    for arguments in (
        ["train", "--recipe", "trained_head", "--nli-split", "train[:192]", "--out", str(read_only / "run")],
        ["predict", str(tiny_run.folder), "--input", str(pairs), "--output", str(read_only / "labels.csv")],
        ["evaluate", "base", "--tasks", "sts", "--json", str(read_only / "scores.json")],
    ):
        assert main(arguments) == 2, arguments
        printed = capsys.readouterr().err.strip()
        assert "Read-only file system" in printed or "Permission denied" in printed
        assert len(printed.splitlines()) == 1
    assert list(read_only.iterdir()) == []

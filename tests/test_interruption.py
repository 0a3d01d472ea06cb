"""A run that is killed at a random moment and resumed ends as if nothing had happened."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stlib.__main__ import main
from stlib.configure import configure
from stlib.errors import UsageError
from stlib.recipes import get_recipe
from stlib.runs import Run, is_whole, last_checkpoint, one_writer
from stlib.train import find_or_train, train
from tests.conftest import assert_same_run, weights


def launch(model, out, *more):
    """A process that trains ``model`` for 240 steps, with checkpoints at 120 and 240."""
    options = ("--recipe", "trained_head", "--nli-split", "train[:15360]", "--log-every", "5")
    command = [sys.executable, "-m", "stlib", "train", *options, "--start", str(model), "--out", str(out), *more]
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until_begun(process, out):
    """Return at the moment when the run's first file is there."""
    while not (out / "unfinished.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_runs_killed_at_a_random_moment_end_with_the_same_bits(tmp_path, tiny_model, kills):
    """The moment is random in time, so it falls into steps, into the writing of checkpoints and into the last writing."""
    whole = launch(tiny_model, tmp_path / "whole")
    wait_until_begun(whole, tmp_path / "whole")
    begun = time.perf_counter()
    assert whole.wait() == 0, whole.stderr.read()
    length = time.perf_counter() - begun  # from the first file that a run writes to its end

    draw = random.Random(0)
    resumed_at = []
    for number in range(3 * kills):  # a machine that has become faster ends some runs before their moment
        if len(resumed_at) == kills:
            break
        out = tmp_path / f"run{number}"
        run = launch(tiny_model, out)
        wait_until_begun(run, out)
        if number % 2 == 0:
            time.sleep(draw.uniform(0, 0.95 * length))
        else:  # soon after the first checkpoint, so that there is something to resume from
            while run.poll() is None and not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2))
        run.kill()  # SIGKILL; on Windows, TerminateProcess
        if run.wait() == 0 or (out / "run.json").exists():
            length *= 0.9
            continue  # it was faster than the first one: nothing was interrupted
        again = launch(tiny_model, out, "--resume")
        _, errors = again.communicate()
        assert again.returncode == 0, errors.decode()
        assert_same_run(out, tmp_path / "whole")
        resumed_at.append(json.loads((out / "run.json").read_text(encoding="utf-8"))["resumed_at_step"])
        assert len(list((out / "checkpoints").glob("checkpoint-*"))) <= 2
    assert len(resumed_at) == kills
    assert any(step > 0 for step in resumed_at), resumed_at


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
        patch.setattr("stlib.train.Path.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def interrupted(monkeypatch, out, at_step=None, **options):
    """Train into ``out``, and be interrupted."""
    with interrupting(monkeypatch, at_step):
        train(out=out, **options)


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_resume_continues_exactly(tmp_path, monkeypatch, six_steps, engine):
    """A run cut off after its first checkpoint and resumed ends with the same weights, bit for bit, dropout included."""
    options = {**six_steps, "recipe": replace(get_recipe("trained_head"), dropout=0.1), "engine": engine}
    whole, out = train(out=tmp_path / "whole", **options), tmp_path / "cut"
    interrupted(monkeypatch, out, at_step=5, **options)
    with pytest.raises(UsageError, match="unfinished run"):
        Run.load(out)
    with pytest.raises(UsageError, match="continue it with --resume"):
        train(out=out, **options)
    run = train(out=out, resume=True, **options)
    assert (whole.info["recipe"]["dropout"], run.info["resumed_at_step"]) == (0.1, 4)
    assert_same_run(out, whole.folder)


def test_a_half_written_checkpoint_is_passed_over(tmp_path, tiny_run, monkeypatch, six_steps):
    out = tmp_path / "run"
    interrupted(monkeypatch, out, **six_steps)
    config, _ = configure(**six_steps)
    assert last_checkpoint(out, config) == str(out / "checkpoints" / "checkpoint-6")
    state = out / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert last_checkpoint(out, config) == str(out / "checkpoints" / "checkpoint-4")
    assert train(out=out, resume=True, **six_steps).info["resumed_at_step"] == 4
    assert_same_run(out, tiny_run.folder)


def test_the_last_checkpoint_is_the_one_with_the_most_steps(tmp_path):
    """By number, not by name: checkpoint-500 comes after checkpoint-1000 in a list of names."""
    config, _ = configure("card", "mini", nli_split="train[:96]")
    for step in (500, 1_000):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}", encoding="utf-8")
        (folder / "rng_state.pth").touch()
    assert last_checkpoint(tmp_path, config) == str(tmp_path / "checkpoints" / "checkpoint-1000")


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, tiny_run, monkeypatch, capsys, six_steps):
    out = tmp_path / "run"
    interrupted(monkeypatch, out, at_step=1, **six_steps)
    assert train(out=out, resume=True, **six_steps).info["resumed_at_step"] == 0
    assert "has no checkpoint yet: the run starts again" in capsys.readouterr().out
    assert_same_run(out, tiny_run.folder)


@pytest.mark.parametrize("limit", [None, 3], ids=["to the end", "stopped early"])
def test_a_run_killed_while_its_model_was_written_trains_no_further(tmp_path, monkeypatch, six_steps, limit):
    """Also where it stops early: the last checkpoint is then in the middle of an epoch."""
    whole, out = train(out=tmp_path / "whole", max_steps=limit, **six_steps), tmp_path / "run"
    interrupted(monkeypatch, out, max_steps=limit, **six_steps)
    assert (out / "model.tmp").exists()
    if limit is None:  # a moment later: the model had its name already
        shutil.copytree(out / "model.tmp", out / "model")
    run = train(out=out, max_steps=limit, resume=True, **six_steps)
    assert run.info["steps"] == run.info["resumed_at_step"] == whole.info["steps"]
    assert_same_run(out, whole.folder)
    assert not (out / "model.tmp").exists()
    assert not (out / "unfinished.json").exists()


def test_a_run_is_resumed_with_the_same_settings_only(tmp_path, monkeypatch, six_steps):
    out = tmp_path / "run"
    interrupted(monkeypatch, out, at_step=3, **six_steps)
    changed = replace(get_recipe("trained_head"), weight_decay=0.0)  # of the same name
    others = {
        "seed": ("seed", 7), "max_steps": ("last_step", 5), "engine": ("engine", "stock"), "log_every": ("log_every", 3),
        "recipe": ("recipe.weight_decay", changed),
    }  # fmt: skip
    for name, (field, value) in others.items():
        with pytest.raises(UsageError, match=f"was started with another {field}: resume it with the same"):
            train(out=out, resume=True, **{**six_steps, name: value})


@pytest.fixture
def threads():
    """A function that sets how many threads torch computes with; the number from before comes back at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "of_weights", "of_losses"), [("fp32", 1e-5, 1e-4), ("bf16", 0.02, 0.005)])
def test_another_number_of_threads_changes_the_last_digits_only(
    tmp_path, monkeypatch, threads, six_steps, precision, of_weights, of_losses
):
    """Sums are taken in another order then. After six steps, weights and logged losses are equal within these tolerances."""
    monkeypatch.setenv("STLIB_PRECISION", precision)
    runs = []
    for number in (1, 2):
        threads(number)
        runs.append(train(out=tmp_path / str(number), **six_steps))
    one, two = (weights(run.folder) for run in runs)
    for name, tensor in one.items():
        if not name.endswith("key.bias"):  # it adds the same to all scores of a query: its gradient is rounding alone
            assert (tensor - two[name]).abs().max() < of_weights, name
    assert (runs[0].log()["loss"] - runs[1].log()["loss"]).abs().max() < of_losses


def test_after_ctrl_c_the_next_cell_goes_on(tmp_path, monkeypatch, capsys, tiny_base):
    """As in a notebook: the cell that trains is interrupted, and is run again."""
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("STLIB_NLI_SPLIT", "train[:768]")
    with interrupting(monkeypatch, at_step=11):
        find_or_train("trained_head", "mini")
    run = find_or_train("trained_head", "mini")
    assert run.info["resumed_at_step"] == 10
    assert "resuming trained_head at step 10" in capsys.readouterr().out
    assert_same_run(run.folder, train("trained_head", "mini", out=tmp_path / "whole").folder)


def test_two_runs_into_one_folder(tmp_path, six_steps):
    with one_writer(tmp_path / "run"), pytest.raises(UsageError, match=r"another process is training into .*run"):
        train(out=tmp_path / "run", **six_steps)
    assert not (tmp_path / "run").exists()


def test_a_writer_can_wait_for_the_other(tmp_path):
    entered = threading.Event()

    def second():
        with one_writer(tmp_path / "run", wait=True):
            entered.set()

    thread = threading.Thread(target=second)
    with one_writer(tmp_path / "run"):
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(20)
    thread.join()


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
def small_disk(tmp_path, tiny_run, request):
    """A file system with room for so many checkpoints as the test says, together with the small files of a run."""
    checkpoint = tiny_run.folder / "checkpoints" / "checkpoint-6"
    size = sum(-(-path.stat().st_size // 4_096) * 4_096 for path in checkpoint.iterdir())  # in pages, as on tmpfs
    with mounted(tmp_path / "disk", f"size={round(request.param * size)}") as done:
        if not done:
            pytest.skip("no file system can be mounted here")
        yield tmp_path / "disk"


@pytest.mark.parametrize("small_disk", [1.2, 1.5, 1.8], indirect=True)  # each ends in another file of the second one
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoints_before(small_disk, tiny_model, capsys):
    options = ["--recipe", "trained_head", "--nli-split", "train[:384]", "--log-every", "2"]
    assert main(["train", *options, "--start", str(tiny_model), "--out", str(small_disk / "run")]) == 2
    errors = capsys.readouterr().err
    assert len(errors.strip().splitlines()) == 1
    assert "could not be written" in errors
    assert "make room or choose another --out" in errors
    whole = [folder for folder in (small_disk / "run" / "checkpoints").iterdir() if is_whole(folder, 1)]
    assert [folder.name for folder in whole] == ["checkpoint-4"]
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


def test_a_read_only_folder_is_one_sentence(read_only, tiny_run, tiny_model, tmp_path, capsys):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("premise,hypothesis\nA man sleeps.,A man rests.\n", encoding="utf-8")
    for arguments in (
        ["train", "--nli-split", "train[:384]", "--start", str(tiny_model), "--out", str(read_only / "run")],
        ["predict", str(tiny_run.folder), "--input", str(pairs), "--output", str(read_only / "labels.csv")],
        ["evaluate", str(tiny_model), "--tasks", "sts", "--json", str(read_only / "scores.json")],
    ):
        assert main(arguments) == 2, arguments
        printed = capsys.readouterr().err.strip()
        assert "Read-only file system" in printed or "Permission denied" in printed
        assert len(printed.splitlines()) == 1
    assert list(read_only.iterdir()) == []

"""Two processes train what one does: profile mini has no dropout, so that the runs can be compared number by number."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stlib.runs import Run
from stlib.training import train

WORKER = Path(__file__).with_name("distributed_worker.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which torch lacks on Windows")


def launch(launcher, *arguments, folder):
    environment = {**os.environ, "STLIB_PRECISION": "fp32", "STLIB_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ACCELERATE = ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]


def weights(run):
    return load_file(run.model_folder / "model.safetensors") | load_file(run.model_folder / "nli_head.safetensors")


def assert_same(run, other, atol):
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=0, atol=atol, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of 50 steps in this process, which two processes must reproduce."""
    patch = pytest.MonkeyPatch()
    patch.setenv("STLIB_PRECISION", "fp32")
    run = train(
        "trained_head", "mini", out=tmp_path_factory.mktemp("alone") / "run", nli_split="train[:1600]", log_every=10
    )
    patch.undo()
    return run


def test_two_processes_train_what_one_does(alone, tmp_path):
    done = launch(TORCHRUN, WORKER, tmp_path / "run", "packed", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert (run.info["processes"], run.info["steps"]) == (2, 50)
    assert run.info["difference_between_processes"] == 0.0  # encoder and head
    assert done.stdout.count("training trained_head") == 1
    np.testing.assert_allclose(run.log()["loss"], alone.log()["loss"], atol=1e-4)
    assert_same(run, alone, atol=1e-5)


def test_a_run_of_two_processes_resumes(tmp_path):
    arguments = (WORKER, tmp_path / "run", "packed")
    assert launch(TORCHRUN, *arguments, 30, folder=tmp_path).returncode != 0
    assert (tmp_path / "run" / "unfinished.json").exists()
    resumed = launch(TORCHRUN, *arguments, "resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-2_000:]
    whole = launch(TORCHRUN, WORKER, tmp_path / "whole", "packed", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert run.info["difference_between_processes"] == 0.0
    assert_same(run, Run.load(tmp_path / "whole"), atol=0)


def test_accelerate_launch_and_the_stock_engine(tmp_path):
    options = ("-m", "stlib", "train", "--recipe", "card", "--nli-split", "train[:128]", "--engine", "stock")
    done = launch(ACCELERATE, *options, "--out", tmp_path / "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert (run.info["processes"], run.info["engine"], run.info["steps"]) == (2, "stock", 4)
    assert run.info["difference_between_processes"] == 0.0


def test_batches_that_cannot_be_shared_are_refused(tmp_path, monkeypatch):
    from stlib.errors import UsageError

    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="cannot share batches of 32"):
        train("card", "mini", out=tmp_path / "run", nli_split="train[:96]")
    assert not (tmp_path / "run").exists()

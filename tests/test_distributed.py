"""Two processes train what one does, without dropout, so that the runs can be compared number by number."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stlib.base_model import load_base
from stlib.errors import UsageError
from stlib.runs import Run
from stlib.training import train
from tests import distributed_worker
from tests.conftest import weights

WORKER = Path(__file__).with_name("distributed_worker.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which torch lacks on Windows")


def launch(launcher, *arguments, folder):
    environment = {**os.environ, "STLIB_PRECISION": "fp32", "STLIB_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
# On processors, `accelerate launch` starts several processes through MPI only, so here it starts one.
ACCELERATE = ["accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"]


def assert_same(run, other, atol):
    for name, tensor in weights(run.folder).items():
        torch.testing.assert_close(tensor, weights(other.folder)[name], rtol=0, atol=atol, msg=name)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, monkeypatch):
    """After 50 steps of the same batches: parameters within 1e-5, and their difference small against their movement."""
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    alone = distributed_worker.main(tmp_path / "alone", 50)
    done = launch(TORCHRUN, WORKER, tmp_path / "run", 50, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert (run.info["processes"], run.info["steps"]) == (2, 50)
    assert run.info["difference_between_processes"] == 0.0  # encoder and head
    assert done.stdout.count("training card") == 1  # one process speaks
    np.testing.assert_allclose(run.log()["loss"], alone.log()["loss"], atol=1e-5)
    assert_same(run, alone, atol=1e-5)
    before = {name.removeprefix("0.model."): tensor for name, tensor in load_base("cpu").state_dict().items()}
    ours, theirs = weights(run.folder), weights(alone.folder)
    moved = torch.stack([(theirs[name] - tensor).norm() for name, tensor in before.items() if name in theirs]).norm()
    apart = torch.stack([(theirs[name] - ours[name]).norm() for name in theirs]).norm()
    assert 0 < apart < 0.01 * moved


@pytest.mark.slow
def test_a_run_of_two_processes_resumes(tmp_path):
    assert launch(TORCHRUN, WORKER, tmp_path / "run", 20, 15, folder=tmp_path).returncode != 0
    assert (tmp_path / "run" / "unfinished.json").exists()
    resumed = launch(TORCHRUN, WORKER, tmp_path / "run", 20, "resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-2_000:]
    whole = launch(TORCHRUN, WORKER, tmp_path / "whole", 20, folder=tmp_path)
    assert whole.returncode == 0, whole.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert run.info["difference_between_processes"] == 0.0
    assert_same(run, Run.load(tmp_path / "whole"), atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes"), [(TORCHRUN, 2), (ACCELERATE, 1)], ids=["torchrun", "accelerate"])
def test_the_command_line_and_the_stock_engine(tmp_path, launcher, processes):
    command = ("-m", "stlib", "train") if launcher is TORCHRUN else ("--module", "stlib", "train")
    options = ("--recipe", "trained_head", "--nli-split", "train[:128]", "--engine", "stock")
    done = launch(launcher, *command, *options, "--out", tmp_path / "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert (run.info["processes"], run.info["engine"], run.info["steps"]) == (processes, "stock", 4)
    assert run.info["difference_between_processes"] == 0.0
    assert run.info["head_moved"] > 0


def test_batches_that_cannot_be_shared_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="cannot share batches of 32"):
        train("card", "mini", out=tmp_path / "run", nli_split="train[:96]")
    assert not (tmp_path / "run").exists()

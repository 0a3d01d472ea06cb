"""Two processes train what one does, without dropout, so that the runs can be compared number by number."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stlib.errors import UsageError
from stlib.runs import Run
from stlib.train import train
from tests import distributed_worker
from tests.conftest import assert_same_run, weights

WORKER = Path(__file__).with_name("distributed_worker.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which torch lacks on Windows")


def launch(launcher, *arguments, folder):
    environment = {**os.environ, "STLIB_PRECISION": "fp32", "STLIB_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
# On processors, `accelerate launch` starts several processes through MPI only, so here it starts one.
ACCELERATE = ["accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """A run of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = launch(TORCHRUN, WORKER, tiny_model, folder / "run", 20, folder=folder)
    assert done.returncode == 0, done.stderr[-2_000:]
    return Run.load(folder / "run"), done.stdout


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, monkeypatch, tiny_model, tiny, whole):
    """After 20 steps of the same batches: parameters within 1e-5, and their difference small against their movement."""
    monkeypatch.setenv("STLIB_PRECISION", "fp32")
    alone, (run, printed) = distributed_worker.main(tiny_model, tmp_path / "alone", 20), whole
    assert (run.info["processes"], run.info["steps"]) == (2, 20)
    assert run.info["difference_between_processes"] == 0.0  # encoder and head
    assert printed.count("training card") == 1  # one process speaks
    np.testing.assert_allclose(run.log()["loss"], alone.log()["loss"], atol=1e-5)
    ours, theirs = weights(run.folder), weights(alone.folder)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=name)
    before = {name.removeprefix("0.model."): tensor for name, tensor in tiny.state_dict().items()}
    moved = torch.stack([(theirs[name] - tensor).norm() for name, tensor in before.items() if name in theirs]).norm()
    apart = torch.stack([(theirs[name] - ours[name]).norm() for name in theirs]).norm()
    assert 0 < apart < 0.01 * moved


@pytest.mark.slow
def test_a_run_of_two_processes_resumes(tmp_path, tiny_model, whole):
    assert launch(TORCHRUN, WORKER, tiny_model, tmp_path / "run", 20, 15, folder=tmp_path).returncode != 0
    assert (tmp_path / "run" / "unfinished.json").exists()
    resumed = launch(TORCHRUN, WORKER, tiny_model, tmp_path / "run", 20, "resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert run.info["resumed_at_step"] > 0
    assert run.info["difference_between_processes"] == 0.0
    assert_same_run(run.folder, whole[0].folder)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes"), [(TORCHRUN, 2), (ACCELERATE, 1)], ids=["torchrun", "accelerate"])
def test_the_command_line_and_the_stock_engine(tmp_path, launcher, processes):
    command = ("-m", "stlib", "train") if launcher is TORCHRUN else ("--module", "stlib", "train")
    options = ("--recipe", "trained_head", "--nli-split", "train[:256]", "--engine", "stock")
    done = launch(launcher, *command, *options, "--out", tmp_path / "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2_000:]
    run = Run.load(tmp_path / "run")
    assert (run.info["processes"], run.info["engine"], run.info["steps"]) == (processes, "stock", 4)
    assert run.info["difference_between_processes"] == 0.0
    assert run.info["head_moved"] > 0


def test_batches_that_cannot_be_shared_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match="cannot share batches of 32"):
        train("card", "mini", out=tmp_path / "run", nli_split="train[:96]")
    assert not (tmp_path / "run").exists()

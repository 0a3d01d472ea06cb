"""The card's run at its full size: rows, steps, log, learning rates and memory, without the arithmetic of the steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stlib.cards import published_log
from stlib.recipes import CARD, linear_schedule

ROOT = Path(__file__).resolve().parents[1]


def check(result):
    assert result["rows"] == 549_367
    assert (result["steps_an_epoch"], result["steps"]) == (17_168, 68_672)
    assert result["pairs_seen"] == 4 * 549_367
    assert result["log_rows"] == 137
    card = published_log()
    assert result["log"] == [[epoch, step] for epoch, step in zip(card["epoch"], card["step"], strict=True)]
    factor = linear_schedule(CARD.warmup_steps, CARD.schedule_steps)
    for step, rate in result["learning_rates"].items():
        assert rate == pytest.approx(CARD.learning_rate * factor(int(step) - 1), rel=1e-12, abs=1e-18), step
    rates = result["learning_rates"]
    assert rates["1"] == 0.0
    assert rates["500"] == pytest.approx(2e-5 * 499 / 1_000)
    assert rates["1001"] == 2e-5
    assert 0 < rates["68668"] < 3e-10
    assert rates["68672"] == 0.0
    assert result["head_moved"] == 0.0
    assert result["checkpoints_at_the_end"] == ["checkpoint-68000", "checkpoint-68672"]
    assert result["peak_memory_mb"] < 2_000


def test_the_record():
    check(json.loads((ROOT / "stlib" / "records" / "full_run.json").read_text(encoding="utf-8")))


@pytest.mark.slow
def test_the_full_run_without_arithmetic(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "research" / "full_run.py", "--json", tmp_path / "full.json"],
        capture_output=True, text=True, check=False, env={**os.environ, "TQDM_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    check(json.loads((tmp_path / "full.json").read_text(encoding="utf-8")))

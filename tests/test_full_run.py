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
ROWS = 549_367


def check(result, rows=ROWS):
    """Rows, steps, log, rates and checkpoints of four passes over so many pairs, batch 32."""
    steps = 4 * -(-rows // 32)
    assert result["rows"] == rows
    assert (result["steps_an_epoch"], result["steps"]) == (steps // 4, steps)
    assert result["pairs_seen"] == 4 * rows
    assert [step for _, step in result["log"]] == [step for step in range(1, steps + 1) if step % 500 == 0]
    factor, rates = linear_schedule(CARD.warmup_steps, CARD.schedule_steps), result["learning_rates"]
    assert {"1", "500", "1000", "1001", str(steps)} < set(rates)
    for step, rate in rates.items():
        assert rate == pytest.approx(CARD.learning_rate * factor(int(step) - 1), rel=1e-12, abs=1e-18), step
    assert rates["1"] == 0.0
    assert rates["500"] == pytest.approx(2e-5 * 499 / 1_000)
    assert rates["1001"] == 2e-5
    assert result["head_moved"] == 0.0
    assert result["checkpoints_at_the_end"] == [f"checkpoint-{steps // 1_000 * 1_000}", f"checkpoint-{steps}"]
    assert result["peak_memory_mb"] < 2_000


def test_the_record():
    record = json.loads((ROOT / "stlib" / "records" / "full_run.json").read_text(encoding="utf-8"))
    check(record)
    assert (record["steps_an_epoch"], record["steps"], record["log_rows"]) == (17_168, 68_672, 137)
    card = published_log()
    assert record["log"] == [[epoch, step] for epoch, step in zip(card["epoch"], card["step"], strict=True)]
    assert 0 < record["learning_rates"]["68668"] < 3e-10
    assert record["learning_rates"]["68672"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS // 20, pytest.param(ROWS, marks=pytest.mark.soak)])
def test_the_full_run_without_arithmetic(tmp_path, rows):
    done = subprocess.run(
        [sys.executable, ROOT / "research" / "full_run.py", "--rows", str(rows), "--json", tmp_path / "full.json"],
        capture_output=True, text=True, check=False, env={**os.environ, "TQDM_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    check(json.loads((tmp_path / "full.json").read_text(encoding="utf-8")), rows)

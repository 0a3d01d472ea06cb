"""Prove that the card's run is set up right, without paying for its arithmetic: 549,367 pairs, 68,672 steps, 137 log rows.

    python research/full_run.py --json stlib/records/full_run.json

``--rows`` takes fewer pairs, for a try. It is ``python -m stlib train --recipe card --profile full`` on a generated corpus of exactly that size. The trainer, the
data, the schedule, the log and the checkpoints are the real ones; what is left out is the work of a step: forward and
backward pass, clipping and the optimizer's update.
"""

import argparse
import tempfile
from pathlib import Path

ROWS = 549_367


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="packed")
    parser.add_argument("--rows", type=int, default=ROWS, help="pairs of the generated corpus (default: the card's)")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    import torch
    from frame import record
    from scene_grammar import write

    from stlib.fast.trainer import PackedTrainer
    from stlib.train import train
    from stlib.trainer import NLITrainer

    rates, pairs = [], 0

    def no_work(self, model, inputs, num_items_in_batch=None):
        nonlocal pairs
        pairs += len(inputs["label"])
        return torch.tensor(1.0)

    def no_update(self, closure=None):
        rates.append(self.param_groups[0]["lr"])

    for kind in (NLITrainer, PackedTrainer):
        kind.training_step = no_work
        kind._clip_grad_norm = lambda self, model: torch.tensor(0.0)
    torch.optim.AdamW.step = no_update
    with tempfile.TemporaryDirectory() as folder:
        write(folder, options.rows)
        run = train("card", "full", out=Path(folder) / "run", data=folder, nli_split="train", engine=options.engine)
        log = run.log()
        checkpoints = sorted(path.name for path in (run.folder / "checkpoints").glob("checkpoint-*"))
    info, last = run.info, len(rates)
    kept = (1, 500, 1_000, 1_001, last // 2, last - 4, last - 3, last)
    record(
        options.json,
        "the card's recipe at profile full on generated pairs, without the arithmetic of a step",
        "python research/full_run.py",
        versions=info["versions"],
        data_fingerprint=info["data_fingerprint"],
        rows=info["rows"],
        pairs_seen=pairs,
        steps=info["steps"],
        steps_an_epoch=info["total_steps"] // info["epochs"],
        log_rows=len(log),
        log=[[round(epoch, 4), int(step)] for epoch, step in zip(log["epoch"], log["step"], strict=True)],
        learning_rates={str(step): rates[step - 1] for step in kept},
        head_moved=info["head_moved"],
        checkpoints_at_the_end=checkpoints,
        seconds_without_arithmetic=info["seconds"],
        peak_memory_mb=info["peak_memory_mb"],
    )


if __name__ == "__main__":
    main()

"""Trains a short run in one of several processes, for test_distributed.py: MODEL RUN STEPS [STEP_TO_FAIL_AT | resume]."""

import dataclasses
import sys

from stlib import trainer
from stlib.recipes import CARD
from stlib.train import train

# The card's recipe with the head trained too and a shorter warm-up; no dropout, which differs between processes.
RECIPE = dataclasses.replace(CARD, dropout=0.0, train_head=True, warmup_steps=100)


class Cut(Exception):
    """Stands for a machine that goes down."""


def main(model, run, steps, *rest):
    steps = int(steps)
    if rest and rest[0] != "resume":

        def cut(self, args, state, control, **kwargs):
            if state.global_step == int(rest[0]):
                raise Cut

        trainer.ProgressBar.on_step_end = cut
    return train(
        RECIPE, "full", out=run, data="mini", nli_split=f"train[:{32 * -(-steps // 4)}]", max_steps=steps,
        log_every=steps // 5, engine="packed", resume=list(rest) == ["resume"], start=model,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Trains a tiny run in one of several processes, for test_distributed.py: RUN ENGINE [STEP_TO_FAIL_AT | resume]."""

import sys

from stlib import trainer
from stlib.training import train

run, engine, *rest = sys.argv[1:]
if rest and rest[0] != "resume":

    class Cut(Exception):
        pass

    def cut(self, args, state, control, **kwargs):
        if state.global_step == int(rest[0]):
            raise Cut

    trainer.ProgressBar.on_step_end = cut
train("trained_head", "mini", out=run, nli_split="train[:1600]", log_every=10, engine=engine, resume=rest == ["resume"])

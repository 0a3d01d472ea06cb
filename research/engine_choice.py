"""Measure what a backward pass written by hand gains over autograd on the same packed rows, in turns in one process.

    python research/engine_choice.py --data DATA_FOLDER --json stlib/records/engine_choice.json

``engine_by_hand.py`` is that other way: the same packing, masks and number formats, every gradient written out.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from engine_by_hand import EncoderByHand
from torch import Tensor, nn
from torch.nn import functional

from stlib import data, sources
from stlib.fast.packed import PackedEncoder
from stlib.fast.trainer import keep_freed_memory
from stlib.model import load_base
from stlib.runs import versions, write_json
from stlib.settings import PRECISIONS, describe_device

BATCH, SKIPPED = 32, 3


VARIANTS = {"by hand": EncoderByHand, "autograd": PackedEncoder}


class Stepper:
    """One variant with a model, a head and an optimizer of its own: whole training steps, one after another."""

    def __init__(self, name: str, precision: str):
        torch.manual_seed(1)
        self.model = load_base("cpu").train()
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        self.encoder, self.head = VARIANTS[name](self.model, PRECISIONS[precision]), nn.Linear(3 * 384, 3)
        self.optimizer = torch.optim.AdamW([*self.model.parameters(), *self.head.parameters()], lr=2e-5, fused=True)

    def step(self, ids: Tensor, lengths: list[int], label: Tensor) -> float:
        """Train on one batch and return the loss."""
        u, v = self.encoder(ids, lengths).chunk(2)
        loss = functional.cross_entropy(self.head(torch.cat([u, v, (u - v).abs()], dim=1)), label)
        loss.backward()
        self.encoder.clip(1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def batches(dataset, count: int) -> list[tuple]:
    """Return ``count`` batches of token ids, lengths and labels."""
    tokenizer, found = load_base("cpu").tokenizer, []
    for start in range(0, count * BATCH, BATCH):
        rows = dataset.select(range(start, start + BATCH))
        sentences = tokenizer([*rows["sentence_0"], *rows["sentence_1"]], truncation=True, max_length=256)["input_ids"]
        ids = torch.tensor([number for sentence in sentences for number in sentence])
        found.append((ids, [len(sentence) for sentence in sentences], torch.tensor(rows["label"])))
    return found


def compare(pairs: list[tuple], precision: str, rounds: int) -> list[dict]:
    """Return one row per variant: median seconds per step, and the ratio to the engine by hand in the same round."""
    steppers = {name: Stepper(name, precision) for name in VARIANTS}
    seconds, losses = ({name: [] for name in VARIANTS} for _ in range(2))
    names = list(VARIANTS)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            times = []
            for batch in pairs:
                start = time.perf_counter()
                losses[name].append(steppers[name].step(*batch))
                times.append(time.perf_counter() - start)
            seconds[name].append(float(np.median(times[SKIPPED:])))
    tokens = sum(sum(lengths) for _, lengths, _ in pairs) / len(pairs)
    rows = []
    for name in names:
        ratios = [own / first for own, first in zip(seconds[name], seconds["by hand"], strict=True)]
        rows.append({
            "variant": name, "precision": precision, "tokens_per_step": round(tokens),
            "seconds_per_step": round(float(np.median(seconds[name])), 4),
            "times_by_hand": round(float(np.median(ratios)), 3),
            "lowest": round(min(ratios), 3), "highest": round(max(ratios), 3),
            "loss": round(float(np.mean(losses[name])), 4),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    real = data.nli("validation", sources.get_source(options.data))
    corpora = {"mini train[:3200]": data.nli("train[:3200]", sources.get_source("mini")), "SNLI validation": real}
    rows = [
        {"pairs": name, **row}
        for name, dataset in corpora.items()
        for precision in ("bf16", "fp32")
        for row in compare(batches(dataset, options.steps), precision, options.rounds)
    ]
    result = {
        "what": f"whole training steps of {BATCH} pairs (forward, loss, backward, clip, fused AdamW) of the packed engine by hand "
        f"and of autograd on the same packed rows, {options.rounds} rounds of {options.steps} steps in turns; the first "
        f"{SKIPPED} of a turn not timed",
        "command": f"python research/engine_choice.py --data DATA_FOLDER --steps {options.steps} --rounds {options.rounds}",
        "data_fingerprint": data.fingerprint(real),
        "hardware": describe_device(),
        "versions": versions(),
        "rows": rows,
    }
    write_json(options.json, result)


if __name__ == "__main__":
    main()

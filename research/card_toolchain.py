"""Run the published card's own toolchain, the legacy ``fit`` of sentence-transformers 4.1.0, on real training rows.

    python research/card_toolchain.py --data DATA_FOLDER --toolchain FOLDER... --json stlib/records/card_toolchain.json

``--toolchain`` names the folders that hold the unpacked packages of the card: sentence-transformers 4.1.0, transformers
4.52.4 and what these need (``pip download --no-deps``, ``pip install --target``). They come first on the path of a process
that imports nothing of ours; it records the loss of every step. Beside it, ``card`` is trained by the packed engine in
float32, with the same seeds. No pair is seen twice. What has been run already is not run again.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FINE = 25  # steps per row of the recorded curves
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", default="train")
    parser.add_argument("--toolchain", type=Path, nargs="+", required=True, help="folders with the card's packages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from frame import record

    from stlib.data import fingerprint, nli
    from stlib.settings import runs_folder
    from stlib.sources import Source

    folder = runs_folder() / "card_toolchain"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = nli(options.nli_split, Source("folder", Path(options.data)))
    pairs.to_parquet(folder / "pairs.parquet")
    runs, steps = [], len(pairs) // BATCH
    for seed in options.seeds:
        runs += [by_fit(seed, steps, folder, options.toolchain), by_recipe(seed, steps, folder, options)]
        print(*(f"{run['by']} seed {run['seed']}: {run['loss'][str(steps)]:.4f}" for run in runs[-2:]), flush=True)
    record(
        options.json,
        "loss of the card's own toolchain beside the recipe card, float32; a row is the mean over the steps since the row before",
        f"python research/card_toolchain.py --data DATA_FOLDER --nli-split {options.nli_split} --toolchain FOLDER",
        runs,
        data_fingerprint=fingerprint(pairs),
        rows=len(pairs),
        steps=steps,
        toolchain=next(run["versions"] for run in runs if run["by"] == "fit of 4.1.0"),
    )


def by_fit(seed: int, steps: int, folder: Path, toolchain: list[Path]) -> dict:
    """Return the losses of ``fit(warmup_steps=1000)``, run in a process of its own, and what it left of the head."""
    found = folder / f"fit-seed{seed}.json"
    if not found.exists():
        from stlib.model import packaged_folder

        path = os.pathsep.join(map(str, toolchain))
        command = [
            sys.executable,
            __file__,
            "--inside",
            str(packaged_folder()),
            str(folder / "pairs.parquet"),
            str(seed),
        ]
        subprocess.run([*command, str(steps), str(found)], env={**os.environ, "PYTHONPATH": path}, check=True)
    run = json.loads(found.read_text(encoding="utf-8"))
    return {**run, "loss": in_rows(run.pop("losses"))}


def by_recipe(seed: int, steps: int, folder: Path, options: argparse.Namespace) -> dict:
    """Return the losses of our recipe ``card``, trained by the packed engine in float32."""
    from stlib.runs import Run
    from stlib.train import train

    out = folder / f"card-seed{seed}"
    if (out / "run.json").exists():
        run = Run.load(out)
    else:
        os.environ["STLIB_PRECISION"] = "fp32"
        run = train(
            "card", "small", out=out, data=options.data, nli_split=options.nli_split, max_steps=steps, seed=seed,
            log_every=FINE, resume=(out / "unfinished.json").exists(),
        )  # fmt: skip
    log = run.log()
    loss = {str(step): round(value, 5) for step, value in zip(log["step"], log["loss"], strict=True)}
    about = {key: run.info[key] for key in ("seconds", "head_moved", "hardware", "precision")}
    return {"by": "recipe card", "seed": seed, **about, "loss": loss}


def in_rows(losses: list[float]) -> dict[str, float]:
    """Return the mean loss of each row of ``FINE`` steps, by its last step."""
    starts = range(0, len(losses), FINE)
    rows = {min(start + FINE, len(losses)): losses[start : start + FINE] for start in starts}
    return {str(step): round(sum(row) / len(row), 5) for step, row in rows.items()}


class Stop(Exception):
    """Ends ``fit`` once the wanted steps are done."""


def inside(base: str, pairs: str, seed: int, steps: int, target: Path) -> None:
    """Train by the legacy ``fit`` for some steps and write every step's loss; this runs with the card's packages."""
    import random

    import numpy as np
    import pandas as pd
    import sentence_transformers
    import torch
    import transformers
    from sentence_transformers import InputExample, SentenceTransformer
    from sentence_transformers.losses import SoftmaxLoss
    from torch.utils.data import DataLoader

    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    # fit shuffles with a seed of its own, 42: rows that come in another order are another order for it too.
    rows = pd.read_parquet(pairs).sample(frac=1, random_state=seed).itertuples(index=False)
    examples = [InputExample(texts=[row.sentence_0, row.sentence_1], label=row.label) for row in rows]
    losses, started = [], time.perf_counter()

    class Recorded(SoftmaxLoss):
        def forward(self, *arguments, **options):
            if len(losses) == steps:  # the last step's weights are in place
                raise Stop
            loss = super().forward(*arguments, **options)
            losses.append(loss.item())
            return loss

    model = SentenceTransformer(base, device="cpu")
    loss = Recorded(model, model.get_sentence_embedding_dimension(), num_labels=3)
    before = loss.classifier.weight.detach().clone()
    loader = DataLoader(examples, shuffle=True, batch_size=BATCH)
    with contextlib.suppress(Stop):
        model.fit(train_objectives=[(loader, loss)], epochs=4, warmup_steps=1_000, show_progress_bar=False)
    found = {
        "by": f"fit of {sentence_transformers.__version__}",
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "head_moved": float((loss.classifier.weight.detach() - before).norm()),
        "hardware": f"cpu, {torch.get_num_threads()} threads",
        "precision": "fp32",
        "versions": {
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "losses": losses,
    }
    target.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        base, pairs, seed, steps, target = sys.argv[2:]
        inside(base, pairs, int(seed), int(steps), Path(target))
    else:
        main()

"""Measure how far the packed engine's loss curve lies from the stock engine's, over several seeds.

    python research/engine_equality.py --data DATA_FOLDER --nli-split validation+test --json stlib/records/engine_equality.json

Stock runs in float32, packed in the precision of this machine; both train the recipe of the card on the same batches.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from frame import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", default="train")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from stlib.settings import best_device, best_precision

    precisions = {"stock": "fp32", "packed": best_precision(best_device())}
    runs = [
        one_run(engine, precisions[engine], seed, options) for seed in options.seeds for engine in ("packed", "stock")
    ]
    means = {
        engine: {run["seed"]: run["mean_loss"] for run in runs if run["engine"] == engine} for engine in precisions
    }
    gaps = [means["packed"][seed] - means["stock"][seed] for seed in options.seeds]
    command = (
        f"python research/engine_equality.py --data DATA_FOLDER --nli-split {options.nli_split} --steps {options.steps}"
    )
    record(
        options.json,
        f"mean training loss over the first {options.steps} steps of the card's recipe, batch 32",
        command,
        runs,
        data_fingerprint=runs[0]["data_fingerprint"],
        precision=precisions,
        gaps=[round(gap, 5) for gap in gaps],
        mean_gap=round(float(np.mean(gaps)), 5),
    )
    print(f"packed less stock: {', '.join(f'{gap:+.4f}' for gap in gaps)}, mean {np.mean(gaps):+.4f}")


def one_run(engine: str, precision: str, seed: int, options: argparse.Namespace) -> dict:
    from stlib.train import train

    os.environ["STLIB_PRECISION"] = precision
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            "card", "full", out=Path(folder) / "run", data=options.data, nli_split=options.nli_split,
            max_steps=options.steps, seed=seed, log_every=max(1, options.steps // 10), engine=engine,
        )  # fmt: skip
        log = run.log()
    result = {"engine": engine, "seed": seed, "mean_loss": round(float(log["loss"].mean()), 5)}
    print(result, flush=True)
    return {
        **result,
        "precision": precision,
        "seconds": run.info["seconds"],
        "data_fingerprint": run.info["data_fingerprint"],
        "loss": {int(step): round(loss, 5) for step, loss in zip(log["step"], log["loss"], strict=True)},
    }


if __name__ == "__main__":
    main()

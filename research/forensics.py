"""Run the hypotheses of ``stlib.forensics`` on real pairs, and record their loss curves.

    python research/forensics.py --data DATA_FOLDER --nli-split validation+test --json stlib/records/forensics.json

Each run is a run folder under ``runs/forensics``; what is there already is not trained again, and what was interrupted
is resumed, so the command can be stopped and started as you like. Hours on two cores: ``--only`` picks hypotheses.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from frame import kept, record, run_name

from stlib.forensics import AUTHOR_DISAGREES, HYPOTHESES

FINE = 50  # steps per row of the recorded curves
STEPS = {"as printed": 1_000, "head trained": 1_000, "warm-up 100": 1_000, "warm-up 10,000": 500}  # else 1,500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", default="train[:20000]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", help="names of hypotheses (default: all)")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from stlib.runs import Run
    from stlib.settings import runs_folder

    folder = runs_folder() / "forensics"
    for hypothesis in HYPOTHESES:
        for seed in options.seeds:
            if options.only is None or hypothesis in options.only:
                one_run(hypothesis, seed, options, folder)
    runs = []
    for hypothesis in HYPOTHESES:
        for seed in range(100):
            if (folder / run_name(hypothesis.name, seed) / "run.json").exists():
                runs.append(entry(hypothesis, seed, Run.load(folder / run_name(hypothesis.name, seed))))
    record(
        options.json,
        "training loss of each hypothesis on real SNLI pairs, batch 32; a row is the mean over the steps since the row before",
        f"python research/forensics.py --data DATA_FOLDER --nli-split {options.nli_split}",
        runs,
        data_fingerprint=next(run["data_fingerprint"] for run in runs if not run["noise"]),
        label_noise=round(AUTHOR_DISAGREES, 4),
    )


def noise(hypothesis: str) -> float:
    """Return the share of the training labels that a hypothesis replaces by one of the other two, at random."""
    return AUTHOR_DISAGREES if hypothesis.endswith("noisy labels") else 0.0


def one_run(hypothesis: str, seed: int, options: argparse.Namespace, folder: Path) -> None:
    """Train one hypothesis with one seed, unless that has been done."""
    from stlib.train import train

    out = folder / run_name(hypothesis, seed)
    if (out / "run.json").exists():
        return
    share = noise(hypothesis)
    data = with_noise(share, seed, options, folder) if share else options.data
    run = train(
        HYPOTHESES[hypothesis], "small", out=out, data=data, nli_split="noisy" if share else options.nli_split,
        max_steps=STEPS.get(hypothesis, 1_500), seed=seed, log_every=FINE, resume=(out / "unfinished.json").exists(),
    )  # fmt: skip
    for part in ("checkpoints", "model"):  # the curve is what counts here
        shutil.rmtree(out / part)
    log = run.log()
    print(f"{out.name}: steps 1-500 {log['loss'][log['step'] <= 500].mean():.4f}", flush=True)


def with_noise(share: float, seed: int, options: argparse.Namespace, folder: Path) -> Path:
    """A data folder whose NLI split ``noisy`` holds the same pairs, a share of the labels replaced."""
    from stlib import data, sources

    pairs = data.nli(options.nli_split, sources.Source("folder", Path(options.data))).to_pandas()
    pairs["label"] = perturb(np.asarray(pairs["label"]), share, seed)
    pairs = pairs.rename(columns={"sentence_0": "premise", "sentence_1": "hypothesis"})
    target = folder / f"noisy-seed{seed}"
    (target / "snli").mkdir(parents=True, exist_ok=True)
    pairs.to_parquet(target / "snli" / "noisy.parquet")
    return target


def perturb(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return ``labels`` (0, 1 or 2) with a random ``share`` of them replaced by one of the other two."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    changed = labels.copy()
    changed[chosen] = (changed[chosen] + random.integers(1, 3, len(chosen))) % 3
    return changed


def entry(hypothesis: str, seed: int, run) -> dict:
    """What the record keeps of a run."""
    log = run.log()
    return {
        "hypothesis": hypothesis,
        "seed": seed,
        "noise": round(noise(hypothesis), 4),
        **kept(run.info),
        "loss": {str(step): round(loss, 5) for step, loss in zip(log["step"], log["loss"], strict=True)},
    }


if __name__ == "__main__":
    main()

"""Run the hypotheses of ``stlib.forensics`` on real pairs, and record their loss curves.

    python research/forensics.py --data DATA_FOLDER --nli-split train+validation+test train --json stlib/records/forensics.json

On each split, a run ends before a pair comes twice. Each is a run folder under ``runs/forensics``; what is there already
is not trained again, and what was interrupted is resumed, so the command can be stopped and started as you like. Hours on
two cores: ``--only`` picks hypotheses.
"""

import argparse
import shutil
from pathlib import Path

from frame import kept, record, run_name

from stlib.forensics import HYPOTHESES

FINE = 25  # steps per row of the recorded curves
# These may be told apart late, and go to the end of the pairs; the others end with the card's second row.
LONG = ("card", "head trained", "1e-5 over 500", "4e-5 over 2,000")
SECOND_ROW = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", nargs="+", default=["train+validation+test", "train"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", help="names of hypotheses (default: all)")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()

    runs = []
    for split in options.nli_split:
        for seed in options.seeds:
            for hypothesis in HYPOTHESES if options.only is None else options.only:
                runs.append(one_run(hypothesis, split, seed, options.data))
    record(
        options.json,
        "training loss of each hypothesis on real SNLI pairs, batch 32, no pair seen twice; "
        "a row is the mean over the steps since the row before",
        f"python research/forensics.py --data DATA_FOLDER --nli-split {' '.join(options.nli_split)}",
        runs,
        data_fingerprint={run["nli_split"]: run["data_fingerprint"] for run in runs},
    )


def one_run(hypothesis: str, split: str, seed: int, data: str) -> dict:
    """Train one hypothesis with one seed, unless that has been done, and return what the record keeps of it."""
    from stlib.data import nli
    from stlib.runs import Run
    from stlib.settings import runs_folder
    from stlib.sources import get_source
    from stlib.train import train

    out = runs_folder() / "forensics" / split.replace("+", "_") / run_name(hypothesis, seed)
    if (out / "run.json").exists():
        run = Run.load(out)
    else:
        recipe = HYPOTHESES[hypothesis]
        once = len(nli(split, get_source(data))) // recipe.batch_size
        run = train(
            recipe, "small", out=out, data=data, nli_split=split, seed=seed, log_every=FINE,
            max_steps=once if hypothesis in LONG else min(once, SECOND_ROW), resume=(out / "unfinished.json").exists(),
        )  # fmt: skip
        for part in ("checkpoints", "model"):  # the curve is what counts here
            shutil.rmtree(out / part)
    log = run.log()
    print(f"{split} {out.name}: last row {log['loss'].iloc[-1]:.4f}", flush=True)
    loss = {str(step): round(value, 5) for step, value in zip(log["step"], log["loss"], strict=True)}
    return {"hypothesis": hypothesis, "nli_split": split, "seed": seed, **kept(run.info), "loss": loss}


if __name__ == "__main__":
    main()

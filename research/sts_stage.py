"""The stage after NLI: train on STS-B's training pairs, from the base model and from the winner of notebook 08.

    python research/sts_stage.py --data DATA_FOLDER --starts RUN RUN RUN --json stlib/records/sts_stage.json

``--starts`` are runs of the winner, one a seed; ``--from base`` needs none. With ``--add`` the record keeps its other rows. The record also counts which pairs STS-B shares with other tests.
"""

import argparse
import shutil
from pathlib import Path

from better_recipes import kept_of, load
from frame import joined, record

TASK = "stsbenchmark-sts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--starts", type=Path, nargs="+", default=[None] * 3, help="runs to start from, one a seed")
    parser.add_argument("--from", dest="origins", nargs="+", default=["winner", "base"], help="winner, base or both")
    parser.add_argument("--add", action="store_true", help="keep the record's other rows")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    if "winner" in options.origins and None in options.starts:
        parser.error("name the winner's runs with --starts, or only train --from base")
    from stlib.model import EncodeOnce, load_base
    from stlib.settings import runs_folder
    from stlib.sources import Source

    source, rows = Source("folder", Path(options.data)), []
    base, of_base = scores(EncodeOnce(load_base("cpu")), source)
    for seed, winner in enumerate(options.starts, 1):
        for name in options.origins:
            start = winner if name == "winner" else None
            out = runs_folder() / "sts_stage" / f"{name}-seed{seed}"
            if not (out / "run.json").exists():
                train_one(start, seed, out, options)
            found, cosines = scores(EncodeOnce(load(out)), source)
            rows.append({"start": name, "seed": seed, **kept_of(out), **found, **differences(cosines, of_base, source)})
            print(rows[-1], flush=True)
    if options.add:
        rows = joined(options.json, rows, "start", "seed")
    record(
        options.json,
        "CosineSimilarityLoss on STS-B's training pairs, from the base model and from the winner on NLI pairs, scored in fp32",
        "python research/sts_stage.py --data DATA_FOLDER --starts RUN RUN RUN",
        rows,
        base=base,
        shared=shared_pairs(source),
    )


def train_one(start: Path | None, seed: int, out: Path, options: argparse.Namespace) -> None:
    from stlib.train import train

    shutil.rmtree(out, ignore_errors=True)
    train("sts_stage", "full", out=out, data=options.data, seed=seed, log_every=20, start=start)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def scores(encoder, source) -> tuple[dict, dict]:
    """Spearman x 100 on STS-B validation and test, and the cosines of the test pairs."""
    from stlib.data import sts
    from stlib.evaluate import sts_scores

    rows = {split: sts_scores(encoder, sts(TASK, split, source), TASK) for split in ("validation", "test")}
    return {split: round(row["spearman"], 2) for split, (row, _) in rows.items()}, rows["test"][1]


def differences(cosines, of_base, source) -> dict:
    import numpy as np
    from contest import rounded

    from stlib.data import sts
    from stlib.measures import paired_spearman

    gold = np.asarray(sts(TASK, "test", source)["score"])
    return {"against_base": rounded(paired_spearman({TASK: gold}, {TASK: cosines}, {TASK: of_base})._asdict())}


def shared_pairs(source) -> dict[str, dict[str, int]]:
    """How many pairs of each STS-B split are in the test split of another task too, whatever their order."""
    from contest import TESTS

    from stlib.data import sts, unseen

    tests = {task: sts(task, "test", source).to_pandas() for task in TESTS}
    return {
        split: {"pairs": len(pairs), **{task: int((~unseen(pairs, test)).sum()) for task, test in tests.items()}}
        for split, pairs in ((split, sts(TASK, split, source).to_pandas()) for split in ("train", "validation"))
    }


if __name__ == "__main__":
    main()

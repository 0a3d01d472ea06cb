"""How the winner of notebook 08 grows with the number of NLI pairs, on real pairs.

    python research/more_pairs.py --data DATA_FOLDER --json stlib/records/more_pairs.json

Each point is the average of four runs. Runs are kept under ``runs/more_pairs``, as in ``research/better_recipes.py``.
``--train-data`` names another folder with NLI pairs to train on, whose ``--splits`` are other points; ``--add`` then keeps the
record's other rows:

    python research/more_pairs.py --data DATA_FOLDER --train-data MORE --splits train --add --json stlib/records/more_pairs.json

With ``--recipe ranking_pairs`` they are trained on the entailed pairs alone, without hard negatives.
"""

import argparse
from pathlib import Path

from better_recipes import cook, kept_of, load, scored
from frame import joined, record

SPLITS = ("validation[:1230]", "validation[:4920]", "validation", "validation+test")
MEMBERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--recipe", default="ranking")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help="NLI splits, from few pairs to many")
    parser.add_argument("--train-data", help="a folder with the NLI pairs to train on (default: --data)")
    parser.add_argument("--add", action="store_true", help="keep the record's other rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--train-only", action="store_true", help="train, and score another time")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from contest import Judge

    from stlib.data import nli
    from stlib.model import load_base
    from stlib.runs import read_json
    from stlib.settings import runs_folder
    from stlib.sources import Source

    source, train_data = Source("folder", Path(options.data)), options.train_data or options.data
    sizes = {split: len(nli(split, Source("folder", Path(train_data)))) for split in options.splits}
    kind = "" if options.recipe == "ranking" else f"{options.recipe}-"
    runs = [
        (split, pairs, seed, runs_folder() / "more_pairs" / f"{kind}{pairs}-seed{seed}")
        for split, pairs in sizes.items()
        for seed in options.seeds
    ]
    for split, _, seed, out in runs:
        if not (out / "run.json").exists():
            cook(options.recipe, seed, out, train_data, split, MEMBERS)
    if options.train_only:
        return
    judge, rows = Judge(source, load_base(), None), []
    for split, pairs, seed, out in runs:
        scores = scored(out / "scores.json", judge, lambda o=out: load(o), nli=False)
        rows.append({"nli_split": split, "pairs": pairs, "seed": seed, **kept_of(out), **scores})
    about = (
        f"ranking, and ranking_pairs without hard negatives, the average of {MEMBERS} runs, on growing numbers of NLI pairs "
        "and on other pairs, against the base model on STS12-15 and STS-B test; encoders scored in bf16; seconds are no timings"
    )
    command = f"python research/more_pairs.py --data DATA_FOLDER --seeds {' '.join(map(str, options.seeds))}"
    base, fingerprint = judge.score(load_base(), nli=False), rows[-1]["data_fingerprint"]
    if options.add:
        old, rows = read_json(options.json), joined(options.json, rows, "pairs", "rows", "seed")
        command += "" if options.recipe == "ranking" else f" --recipe {options.recipe}"
        command += " --train-data MORE" if options.train_data else ""
        command = f"{old['command']}; {command} --splits {' '.join(options.splits)} --add"
        fingerprint = old["data_fingerprint"]
    record(options.json, about, command, rows, data_fingerprint=fingerprint, base=base)


if __name__ == "__main__":
    main()

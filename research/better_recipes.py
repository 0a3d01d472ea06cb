"""Train and score the contenders of notebook 08, several seeds each, on real pairs.

    python research/better_recipes.py --data DATA_FOLDER --nli-split validation --json stlib/records/better_recipes.json

NLI is tested on SNLI test, so train on other pairs. Each run is a run folder under ``runs/better_recipes``; what is there
already is neither trained nor scored again. With ``--add`` the record keeps its other rows, whose folders may be gone.
``--train-data`` names another folder with NLI pairs to train on; ``--folder`` then keeps its runs apart. SoftmaxLoss on twice
as many pairs, of the training split, in half as many passes, its heads tested on another corpus too:

    python research/better_recipes.py --data DATA_FOLDER --nli-split "train[:20000]" --epochs 2 --folder training_rows \\
        --contenders softmax_frozen softmax_trained softmax_fast --mnli MORE --json stlib/records/training_rows.json
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from frame import joined, kept, record, run_name

SOUPS = {"ranking_soup": "ranking", "ranking_matryoshka_soup": "ranking_matryoshka"}
MEMBERS = 8  # runs that a soup averages: eight times one pass, where ranking_long takes eight passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", default="train[:20000]")
    parser.add_argument("--contenders", nargs="+", help="their names (default: all, and the soups)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--train-only", action="store_true", help="train, and score another time")
    parser.add_argument("--collect", action="store_true", help="train nothing: score and record what is there")
    parser.add_argument("--add", action="store_true", help="keep the record's other rows")
    parser.add_argument("--train-data", help="a folder with the NLI pairs to train on (default: --data)")
    parser.add_argument("--epochs", type=int, help="passes over the rows (default: the recipe's; soups keep theirs)")
    parser.add_argument("--folder", default="better_recipes", help="the folder of the runs, under runs/")
    parser.add_argument("--mnli", help="a folder with MultiNLI's matched validation pairs, to test heads on as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from stlib.data import nli
    from stlib.recipes import CONTENDERS, get_recipe
    from stlib.settings import runs_folder
    from stlib.sources import Source

    source, folder = Source("folder", Path(options.data)), runs_folder() / options.folder
    where = options.train_data or options.data, options.nli_split
    places = [*(c.name for c in CONTENDERS), *SOUPS]
    names = [name for name in places if name in (options.contenders or [name])]
    runs = [(name, seed, folder / run_name(name, seed)) for seed in options.seeds for name in names]
    if options.collect:
        runs = [run for run in runs if (run[2] / "run.json").exists()]
    for name, seed, out in runs:
        if (out / "run.json").exists():
            continue
        if name in SOUPS:
            cook(SOUPS[name], seed, out, *where)
        else:
            recipe = get_recipe(name)
            train_one(replace(recipe, epochs=options.epochs or recipe.epochs), seed, out, *where)
    if options.train_only:
        return
    from contest import Judge

    from stlib.model import load_base

    train_source = Source("folder", Path(where[0]))
    judge = Judge(source, load_base(), nli(options.nli_split, train_source))
    base = scored(folder / "base.json", judge, load_base)
    rows = [
        {
            "contender": name,
            "seed": seed,
            **kept_of(out),
            **scored(out / "scores.json", judge, lambda o=out: load(o), seed == 1 or options.mnli),
            **(on_mnli(out, options.mnli) if options.mnli else {}),
        }
        for name, seed, out in sorted(runs, key=lambda run: names.index(run[0]))
    ]
    if options.add:
        rows = sorted(joined(options.json, rows, "contender", "seed"), key=lambda row: places.index(row["contender"]))
    if options.json:
        heads = "heads on SNLI test and MultiNLI" if options.mnli else "heads (SNLI test) and probes for seed 1 alone"
        about = (
            "the contenders of notebook 08, trained on the same NLI pairs; chosen on STS-B train and validation, confirmed "
            f"on STS12-15 and STS-B test; {heads}; encoders scored in bf16; two runs at a time on one thread each, beside "
            "other work, so that seconds are no timings"
        )
        command = f'python research/better_recipes.py --data DATA_FOLDER --nli-split "{options.nli_split}"'
        command += f" --epochs {options.epochs}" if options.epochs else ""
        command += f" --folder {options.folder}" if options.folder != parser.get_default("folder") else ""
        command += " --mnli MORE --contenders " + " ".join(names) if options.mnli else ""
        record(options.json, about, command, rows, base=base)


def train_one(recipe, seed: int, out: Path, data: str, nli_split: str) -> None:
    from stlib.train import train

    shutil.rmtree(out, ignore_errors=True)
    train(recipe, "full", out=out, data=data, nli_split=nli_split, seed=seed, log_every=20)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def cook(recipe: str, seed: int, out: Path, data: str, nli_split: str, members: int = MEMBERS) -> None:
    """Train and average ``members`` runs of a recipe; soup 2 has the seeds 21, 22, ... Its members are removed afterwards."""
    from stlib.recipes import get_recipe

    train_one(replace(get_recipe(recipe), name=out.name, soup=members), 10 * seed + 1, out, data, nli_split)
    shutil.rmtree(out / "parts")


def kept_of(out: Path) -> dict:
    from stlib.runs import Run

    return kept(Run.load(out).info)


def load(out: Path):
    """The run's classifier, or its encoder where it has no head."""
    from stlib.model import load_model
    from stlib.runs import Run

    return load_model(Run.load(out), "cpu")


def on_mnli(out: Path, folder: str) -> dict:
    """The accuracy of a run's head on MultiNLI's matched validation pairs, in percent; None for a run without a head."""
    from stlib import evaluate
    from stlib.runs import read_json, write_json
    from stlib.sources import Source

    path = out / "mnli.json"
    if not path.exists():
        task, source, model = "mnli:validation_matched", Source("folder", Path(folder)), load(out)
        rows = list(evaluate.suite(model, [task], source, precision="bf16")) if hasattr(model, "logits_of") else [{}]
        found = {name: rows[0].get(name) for name in ("accuracy", "low", "high", "n")}
        write_json(path, {f"mnli_{name}": round(value, 2) if value else value for name, value in found.items()})
    return read_json(path)


def scored(path: Path, judge, load_model, nli: bool = True) -> dict:
    """The scores of one model, from ``path`` where they are there already."""
    from stlib.runs import write_json

    if not path.exists():
        write_json(path, judge.score(load_model(), nli))
        print(path.parent.name, path.read_text(encoding="utf-8").replace("\n", " "), flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

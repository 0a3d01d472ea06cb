"""Measure what a frozen head costs: the same budget with the head frozen and with it trained, on real pairs.

    python research/head_cost.py --data DATA_FOLDER --nli-split validation --json stlib/records/head_cost.json

Tested on SNLI test, so train on other pairs. Each run is a run folder under ``runs/head_cost``; what is there already is
not trained again.
"""

import argparse
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

from frame import kept, record, run_name

STS = ("stsbenchmark-sts", "sts13-sts", "sts14-sts", "sts15-sts")
EPOCHS = 4
RATE_SCALE = 1  # the card's own rate: warm-up and decay are fitted to the run, the rate is not raised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", default="train[:20000]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--collect", action="store_true", help="train nothing: record what is there")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from stlib.data import nli
    from stlib.recipes import CARD, FAST_HEAD
    from stlib.sources import Source

    source = Source("folder", Path(options.data))
    train_pairs, test_pairs = nli(options.nli_split, source), nli("test", source)
    steps = EPOCHS * math.ceil(len(train_pairs) / 32)
    fitted = replace(CARD, warmup_steps=steps // 10, schedule_steps=steps, learning_rate=2e-5 * RATE_SCALE)
    arms = {
        "head frozen": fitted,
        "head trained": replace(fitted, train_head=True),
        "larger, faster head": replace(fitted, **FAST_HEAD),
    }
    base = base_scores(train_pairs, test_pairs, source)
    runs = [
        {"arm": arm, "seed": seed, **one_run(arm, recipe, seed, options, source, train_pairs, test_pairs)}
        for arm, recipe in arms.items()
        for seed in options.seeds
        if not options.collect or (run_folder(arm, seed) / "scores.json").exists()
    ]
    record(
        options.json,
        "the card's recipe fitted to a short run, with its head frozen, trained, and as in our recipe (eight times as large, learning rate 0.04); tested on SNLI test",
        f"python research/head_cost.py --data DATA_FOLDER --nli-split {options.nli_split}",
        runs,
        base=base,
    )


def base_scores(train_pairs, test_pairs, source) -> dict[str, float]:
    """The same measures of the unchanged base model, unless they are there already."""
    from stlib.model import load_base
    from stlib.runs import write_json
    from stlib.settings import runs_folder

    path = runs_folder() / "head_cost" / "base.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = load_base()
        write_json(path, {"refit_accuracy": refit_accuracy(model, train_pairs, test_pairs), **sts(model, source)})
    return json.loads(path.read_text(encoding="utf-8"))


def run_folder(arm: str, seed: int) -> Path:
    from stlib.settings import runs_folder

    return runs_folder() / "head_cost" / run_name(arm, seed)


def one_run(arm: str, recipe, seed: int, options: argparse.Namespace, source, train_pairs, test_pairs) -> dict:
    """Train and score one arm with one seed, unless that has been done."""
    from stlib.evaluate import nli_scores
    from stlib.model import load_classifier
    from stlib.runs import Run, write_json
    from stlib.train import train

    out = run_folder(arm, seed)
    scored = out / "scores.json"
    if scored.exists():
        return json.loads(scored.read_text(encoding="utf-8"))
    if not (out / "run.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        train(recipe, "full", out=out, data=options.data, nli_split=options.nli_split, seed=seed, log_every=44)
    run = Run.load(out)
    classifier = load_classifier(run)
    log, accuracy = run.log(), nli_scores(classifier, test_pairs)
    scores = {
        **kept(run.info),
        "final_loss": round(float(log["loss"].iloc[-7:].mean()), 4),  # 7 x 44 = 308 steps, the last epoch
        "accuracy": round(100 * accuracy["accuracy"], 2),
        "refit_accuracy": refit_accuracy(classifier.encoder, train_pairs, test_pairs),
        **sts(classifier.encoder, source),
    }
    write_json(scored, scores)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    print(
        f"{out.name}: { ({key: scores[key] for key in ('final_loss', 'accuracy', 'refit_accuracy', *STS)}) }",
        flush=True,
    )
    return scores


def refit_accuracy(encoder, train_pairs, test_pairs) -> float:
    """Accuracy in percent of a fresh head on the finished encoder: what its embeddings hold."""
    from stlib.evaluate import nli_probe

    return round(100 * float(nli_probe(encoder, train_pairs, test_pairs).mean()), 2)


def sts(encoder, source) -> dict[str, float]:
    """Spearman x 100 of each task."""
    from stlib.evaluate import sts_table

    table = sts_table(encoder, STS, source)
    return {task: round(value, 2) for task, value in zip(table["task"], table["spearman"], strict=True)}


if __name__ == "__main__":
    main()

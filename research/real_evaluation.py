"""Score the base model, the card's recipe and a trained head on real corpora, as notebooks 05 and 06 show them.

    python research/real_evaluation.py --data DATA_FOLDER --card RUN --trained RUN --json stlib/records/evaluation.json

The runs are those of ``research/better_recipes.py`` (softmax_frozen and softmax_fast): trained on SNLI validation.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

SHOWN_PAIRS = 600  # in the picture of NLI pairs
MOVED = 8  # pairs whose rank changed most
SIMILAR = 4.0  # gold score from which an STS pair counts as one of the same meaning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--nli-split", default="validation", help="the NLI pairs that the runs were trained on")
    parser.add_argument("--card", type=Path, required=True, help="a run of the card's recipe")
    parser.add_argument("--trained", type=Path, required=True, help="a run with a trained head")
    parser.add_argument("--precision", default="fp32", help="of the encoders: fp32 or bf16")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from contest import rounded
    from frame import record

    from stlib import data, sources
    from stlib.model import load_base, load_classifier
    from stlib.runs import Run
    from stlib.settings import PROFILES

    source = sources.Source("folder", Path(options.data))
    tasks, missing = sources.available_tasks(PROFILES["full"].sts_tasks + PROFILES["full"].classification_tasks, source)
    runs = {"card recipe": Run.load(options.card), "trained head": Run.load(options.trained)}
    models = {
        "base": load_base("cpu"),
        **{name: load_classifier(run, "cpu") for name, run in runs.items()},
    }
    started, scores, cosines = time.perf_counter(), {}, {}
    for name, model in models.items():
        scores[name], cosines[name] = score(model, tasks, source, options)
        print(name, f"{time.perf_counter() - started:.0f} s", flush=True)
    record(
        options.json,
        "base model, card's recipe and trained head (research/better_recipes.py, seed 1) on real test sets, encoded in " + options.precision,
        f"python research/real_evaluation.py --data DATA_FOLDER --card RUN --trained RUN --precision {options.precision}",
        runs={name: {key: run.info[key] for key in ("recipe", "rows", "steps", "seed", "data_fingerprint")} for name, run in runs.items()},
        data_fingerprint=runs["card recipe"].info["data_fingerprint"],
        data_fingerprints={task: data.fingerprint(data.sts(task, "test", source)) for task in cosines["base"]},
        missing=missing,
        seconds=round(time.perf_counter() - started),
        plane_labels=data.nli(f"test[:{SHOWN_PAIRS}]", source)["label"][:],
        against_base=rounded(against_base(cosines, source)),
        moved={name: moved(cosines, name, source) for name in runs},
        models=rounded(scores),
    )  # fmt: skip


def score(model, tasks: list[str], source, options: argparse.Namespace) -> tuple[dict, dict]:
    """All scores of one model, and its cosines of each STS task."""
    from stlib import data
    from stlib.evaluate import in_percent, nli_probe, nli_scores, sts_scores, suite
    from stlib.measures import calibration
    from stlib.model import EncodeOnce, NLIClassifier

    classifier = model if isinstance(model, NLIClassifier) else None
    encoder = EncodeOnce(classifier.encoder if classifier else model, options.precision)
    rows = list(suite(encoder, tasks, source, subsets=True))
    train, test = data.nli(options.nli_split, source), data.nli("test", source)
    found = {
        "sts": [row for row in rows if "spearman" in row],
        "probes": [row for row in rows if "protocol" in row],
        "nli_refit": 100 * float(nli_probe(encoder, train, test).mean()),
        "geometry": geometry(encoder, source, test),
        "plane": np.round(discriminant_plane(encoder, train, test.select(range(SHOWN_PAIRS))), 2).tolist(),
    }
    if classifier:
        nli = nli_scores(classifier, test, encoder)
        table = calibration(nli["probabilities"], np.asarray(test["label"]))
        found["nli"] = {**in_percent(nli), "per_label": nli["per_label"]}
        found["nli"]["confusion"] = nli["confusion"].tolist()
        found["nli"]["calibration"] = table.reset_index().to_dict("list")
    cosines = {
        task: sts_scores(encoder, data.sts(task, "test", source), task)[1]
        for task in tasks
        if data.kind_of(task, source) == "sts"
    }
    return found, cosines


def discriminant_plane(encoder, train, test) -> np.ndarray:
    """NLI pairs of ``test`` in the plane that tells the labels of ``train`` apart best, shape (n, 2).

    Linear discriminant analysis on (u, v, |u - v|): three labels span a plane. Each axis is in deviations within a label.
    The plane is found on other pairs than it shows, so that what looks apart is apart.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from stlib.evaluate import nli_features

    found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1, n_components=2)
    found.fit(nli_features(encoder, train), np.asarray(train["label"]))
    return found.transform(nli_features(encoder, test))


def geometry(encoder, source, nli) -> dict[str, float]:
    """Uniformity and mean cosine of all STS-B test sentences; alignment of its similar pairs; cosines of NLI labels."""
    from stlib import data
    from stlib.measures import alignment, mean_cosine, uniformity

    pairs = data.sts("stsbenchmark-sts", "test", source).to_pandas()
    similar = pairs[pairs["score"] >= SIMILAR]
    everything = list(dict.fromkeys(pairs["sentence1"].tolist() + pairs["sentence2"].tolist()))
    embeddings = encoder.encode(everything)
    u, v = (encoder.encode(similar[side].tolist()) for side in ("sentence1", "sentence2"))
    first, second = (encoder.encode(list(nli[side])) for side in ("sentence_0", "sentence_1"))
    cosines, labels = (first * second).sum(axis=1), np.asarray(nli["label"])
    return {
        "n": len(everything),
        "similar_pairs": len(similar),
        "uniformity": uniformity(embeddings),
        "mean_cosine": mean_cosine(embeddings),
        "alignment": alignment(u, v),
        "nli_cosines": {name: float(cosines[labels == label].mean()) for label, name in enumerate(data.NLI_LABELS)},
    }


def gold_scores(source, tasks) -> dict[str, np.ndarray]:
    from stlib import data

    return {task: np.asarray(data.sts(task, "test", source)["score"]) for task in tasks}


def against_base(cosines: dict, source) -> dict:
    """Each model less the base model, the mean over all STS tasks, with its paired interval."""
    from stlib.measures import paired_spearman

    gold = gold_scores(source, cosines["base"])
    return {
        name: paired_spearman(gold, found, cosines["base"])._asdict()
        for name, found in cosines.items()
        if name != "base"
    }


def moved(cosines: dict, name: str, source) -> list[dict]:
    """The STS-B test pairs that the training moved most: their row, gold score and ranks, not their text."""
    task = "stsbenchmark-sts"
    gold = gold_scores(source, [task])[task]
    table = rank_changes(gold, cosines["base"][task], cosines[name][task])
    share = round(100 * float(table["towards_gold"].mean()), 1)
    rows = table.head(MOVED).assign(gold=gold[table["row"].head(MOVED)]).drop(columns="gold_rank")
    return {"task": task, "n": len(gold), "towards_gold_percent": share, "rows": rows.astype(object).to_dict("records")}


def rank_changes(gold: np.ndarray, before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """Return how training moved each pair in the order from the least to the most similar; the largest moves first.

    The columns are ``row`` (of the pair), ``gold_rank``, ``before`` and ``after`` (ranks from 1, ties share theirs),
    ``change`` (after minus before) and ``towards_gold`` (whether the pair came nearer to the rank of its gold score).
    """
    ranks = pd.DataFrame({"gold_rank": gold, "before": before, "after": after}).rank()
    distances = ranks.sub(ranks["gold_rank"], axis=0).abs()
    ranks["change"] = ranks["after"] - ranks["before"]
    ranks["towards_gold"] = distances["after"] < distances["before"]
    ranks.insert(0, "row", ranks.index)
    return ranks.sort_values("change", key=np.abs, ascending=False, kind="stable")


if __name__ == "__main__":
    main()

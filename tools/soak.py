"""Run the notebooks again and again, each time in another order, and many kernels in turn and at once.

    python tools/soak.py --json stlib/records/soak.json           twenty rounds: more than an hour on two cores
    python tools/soak.py --rounds 1 --kernels 4 --json soak.json  a look at it

A round runs every notebook and every solution with its outputs compared, offline, with runs of its own.
"""

import argparse
import concurrent.futures
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kernels", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from stlib.profiles import describe_device
    from stlib.runs import versions, write_json

    record = {
        "what": "notebooks and solutions compared, round after round in random order; notebook 01 in many kernels",
        "command": f"python tools/soak.py --rounds {options.rounds} --kernels {options.kernels}",
        "seed": options.seed,
        "hardware": describe_device(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "versions": versions(),
        "kernels": [],
        "rounds": [],
    }
    for at_once, count in ((1, options.kernels), (options.at_once, options.at_once)):
        record["kernels"].append(run_kernels(count, at_once))
        write_json(options.json, record)
    for number in range(options.rounds):  # written after each: hours should not hang on the last minute
        record["rounds"].append(run_round(number, options.seed))
        write_json(options.json, record)
    return 0 if all(result["green"] for result in [*record["rounds"], *record["kernels"]]) else 1


def run_round(number: int, seed: int) -> dict:
    """All notebooks once, in an order that the number of the round decides."""
    paths = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/**/[0-9][0-9]_*.ipynb")]
    paths = sorted(path for path in paths if ".ipynb_checkpoints" not in path)
    random.Random(f"{seed} {number}").shuffle(paths)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    result = {
        "first": paths[0],
        "green": done.returncode == 0,
        **counts,
        "seconds": round(time.perf_counter() - started),
    }
    if done.returncode:
        result["failed_cells"] = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    print(number + 1, result, flush=True)
    return result


def run_kernels(count: int, at_once: int) -> dict:
    """Notebook 01 in ``count`` kernels, ``at_once`` of them at a time; the most memory they held together, in MB."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            processes = psutil.Process().children(recursive=True)
            with_memory = 0
            for process in processes:
                try:
                    with_memory += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], with_memory)

    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        errors = [error for error in pool.map(run_kernel, range(count)) if error]
    stop.set()
    result = {"kernels": count, "at_once": at_once, "green": not errors, "errors": errors}
    result |= {"peak_memory_mb": round(peak[0] / 2**20), "seconds": round(time.perf_counter() - started)}
    print(result, flush=True)
    return result


def run_kernel(_: int) -> str | None:
    """Execute notebook 01 in a kernel of its own. Returns the error, if there was one."""
    path = ROOT / "notebooks" / "01_base_model.ipynb"
    with tempfile.TemporaryDirectory() as runs:
        environment = {**os.environ, "STLIB_RUNS": runs, "STLIB_PROFILE": "mini", "TQDM_DISABLE": "1"}
        client = NotebookClient(
            nbformat.read(path, as_version=4), timeout=900, kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        try:
            client.execute(env=environment)
        except Exception as error:  # whatever a kernel dies of is what the record is for
            return f"{type(error).__name__}: {error}"[:500]
    return None


if __name__ == "__main__":
    sys.exit(main())

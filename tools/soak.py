"""Run what takes hours: the notebooks again and again in random order, many kernels, many killed runs.

    python tools/soak.py --json stlib/records/soak.json           twenty rounds: more than two hours on two cores
    python tools/soak.py --rounds 1 --kernels 4 --json soak.json  a look at it

A round runs every notebook and every solution with its outputs compared, offline, with runs of its own. The record is
written after each part; where it is there already, the tool goes on with what it lacks, also under another Python or with
other versions of the libraries.
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

from notebooks import course_notebooks, solution_notebooks

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kernels", "rounds", "tests")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kernels", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from stlib.data import fingerprint, nli
    from stlib.profiles import describe_device, get_profile
    from stlib.runs import read_json, versions, write_json
    from stlib.sources import Source

    record = {
        "what": "notebooks and solutions compared, round after round in random order; notebook 01 in many kernels; "
        "training runs killed and resumed (tests marked soak)",
        "command": f"python tools/soak.py --rounds {options.rounds} --kernels {options.kernels}",
        "seed": options.seed,
        "hardware": describe_device(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "versions": versions(),
        "data_fingerprint": fingerprint(nli(get_profile("mini").train_split, Source("mini"))),
        **{part: [] for part in PARTS},
    }
    if options.json.exists():
        record |= {part: read_json(options.json).get(part, []) for part in PARTS}
    while (result := next_result(record, options)) is not None:
        part, found = result
        record[part].append(found)
        print(part, len(record[part]), found, flush=True)
        write_json(options.json, record)
    return 0 if all(found["green"] for part in PARTS for found in record[part]) else 1


def next_result(record: dict, options: argparse.Namespace) -> tuple[str, dict] | None:
    """The next part that the record lacks, with what came out; None where it lacks nothing."""
    if not record["kernels"]:
        return "kernels", run_kernels(options.kernels, 1)
    if len(record["kernels"]) < 2:
        return "kernels", run_kernels(options.at_once, options.at_once)
    if not record["tests"]:
        return "tests", run_pytest(["tests", "-m", "soak"])
    if len(record["rounds"]) < options.rounds:
        return "rounds", run_round(len(record["rounds"]), options.seed)
    return None


def run_round(number: int, seed: int) -> dict:
    """All notebooks once, in an order that the number of the round decides."""
    from stlib.runs import versions

    paths = sorted(path.relative_to(ROOT).as_posix() for path in [*course_notebooks(), *solution_notebooks()])
    random.Random(f"{seed} {number}").shuffle(paths)
    with_what = {name: version for name, version in versions().items() if name in ("python", "transformers")}
    return {**with_what, "first": paths[0], **run_pytest(paths)}


def run_pytest(arguments: list[str]) -> dict:
    """What a session of pytest counted, and which tests failed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    result = {"green": done.returncode == 0, **counts, "seconds": round(time.perf_counter() - started)}
    if done.returncode:
        result["failed_tests"] = re.findall(r"^(?:FAILED|ERROR) (.+)", done.stdout, re.MULTILINE)
        print(done.stdout, flush=True)  # why it failed
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
    return result | {"peak_memory_mb": round(peak[0] / 2**20), "seconds": round(time.perf_counter() - started)}


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

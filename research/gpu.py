"""Measure the course on one NVIDIA card in at most eight minutes: tests, seconds per step, loss curves, one record.

    bash research/gpu.sh --data DATA_FOLDER           on real SNLI pairs, into stlib/records/gpu.json
    bash research/gpu.sh                              on generated pairs
    bash research/gpu.sh --device cpu --steps 2       a dry run on the processor, into runs/gpu.json

Each part is a process of its own, so that one that hangs or crashes costs no other. It has a budget, and starts only where
that much time is left. The record is written anew after each part.
"""

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from unittest import mock

try:
    import frame
    import numpy as np
    import psutil
    import pytest
    import torch

    from stlib import data, forensics, model, sources
    from stlib.errors import UsageError
    from stlib.fast import bench
    from stlib.runs import read_json, write_json
    from stlib.settings import runs_folder
    from stlib.train import train
except ImportError as error:
    print(f"research/gpu: {error} for {sys.executable}: name the environment's Python with PYTHON=", file=sys.stderr)
    sys.exit(2)

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 470  # seconds in all; the rest of eight minutes is for the last writing
SEED, FINE = 1, 50  # of the curves: the seed and the steps per row, both as in stlib/records/forensics.json
FLASH, COMPILED = "stock, bf16, FlashAttention without padding", "stock, bf16, torch_compile"


def main(arguments: list[str]) -> int:
    """Run all parts, or one. Returns 0; 1 where a part failed; 2 with one sentence where nothing can be run."""
    options = parse(arguments)
    try:
        if options.part:
            _, work, settings = PARTS[options.part]
            write_json(options.result, work(options, **settings))
            return 0
        return measure(options, arguments)
    except UsageError as error:
        print(f"research/gpu: {error}", file=sys.stderr)
        return 2


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="research/gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mini", help="a folder with real corpora (default: generated pairs)")
    parser.add_argument("--json", type=Path, help="the record (default: stlib/records/gpu.json)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--steps", type=int, default=2_000, help="of the loss curves (default: 2000)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds in all (default: {LIMIT})")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # how a part is started
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.json = options.json or ROOT / ("stlib/records" if options.device == "cuda" else "runs") / "gpu.json"
    options.split = "train[:20000]" if options.data == "mini" else "validation+test"
    return options


def measure(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run the parts one after another and write the record after each."""
    if options.device == "cuda" and not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "finds no CUDA device"
        raise UsageError(f"torch {torch.__version__} {why}: an NVIDIA card, its driver and a torch for CUDA are needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part in progress ends too
    started = psutil.Process().create_time()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in [name for name in os.environ if name.startswith("STLIB_")]:
            del os.environ[name]
        os.environ.update(STLIB_DEVICE=options.device, STLIB_RUNS=folder, TQDM_DISABLE="1")
        if options.device == "cpu":
            os.environ["OMP_NUM_THREADS"] = "1"  # a dry run is no measurement, and may share its cores
        record = new_record(options)
        options.json.parent.mkdir(parents=True, exist_ok=True)

        def save(name: str, found: dict) -> None:
            record["parts"][name] = found
            record["curves"] = beside_a_processor(record)
            record["seconds"] = round(time.time() - started, 1)
            frame.record(options.json, **record)
            print(f"{record['seconds']:6.1f} s  {name}: {found['state']} {found.get('why', '')}", flush=True)

        budgets = {name: budget for name, (budget, *_) in PARTS.items()}
        if beside_a_processor(record)["same_data_as_recorded"]:
            del budgets["curve_cpu"]
        run = functools.partial(run_part, arguments, Path(folder))
        work_through(budgets, lambda: options.limit - (time.time() - started), run, save)
    return int(any(part["state"] == "failed" or not part.get("green", True) for part in record["parts"].values()))


def work_through(budgets: dict[str, float], left, run, save) -> None:
    """Run each part whose budget is within ``left()`` seconds, and save what came out or why it was skipped."""
    for name, budget in budgets.items():
        rest = max(left(), 0)
        if rest < budget:
            save(name, {"state": "skipped", "why": f"it may take {budget} s, and {rest:.0f} s were left"})
        else:
            save(name, run(name, budget))


def run_part(arguments: list[str], folder: Path, name: str, budget: float) -> dict:
    """Run one part in a process of its own, for ``budget`` seconds at most. Returns its state, seconds and result."""
    result, log, began = folder / f"{name}.json", folder / f"{name}.txt", time.monotonic()
    command = [sys.executable, __file__, *arguments, "--part", name, "--result", result]
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=budget, check=False)
            found = {"state": "failed", "why": f"exit status {done.returncode}"}
        except subprocess.TimeoutExpired:
            found = {"state": "stopped", "why": f"it was not done after {budget} s"}
    if result.exists():
        found = {"state": "done", **read_json(result)}
    else:
        text = log.read_text(encoding="utf-8", errors="replace").replace(str(ROOT), ".")
        found["output"] = [line[:300] for line in text.splitlines()[-10:]]
    return {"budget": budget, "seconds": round(time.monotonic() - began, 1), **found}


class Outcomes:
    """A plugin of pytest that keeps how each test ended and what it measured."""

    def __init__(self):
        self.tests = {}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            why = {} if report.passed else {"why": str(report.longrepr).replace(str(ROOT), ".")[-500:]}
            name = report.nodeid.split("::")[-1]
            self.tests[name] = {"outcome": report.outcome, **dict(report.user_properties), **why}


def run_tests(options) -> dict:
    """Return the outcomes of the tests marked ``cuda``."""
    os.environ["STLIB_CUDA_TESTS_ON"] = options.device
    outcomes, file = Outcomes(), ROOT / "tests" / "test_cuda.py"
    choice = ["-o", "addopts=", "-p", "no:cacheprovider", "-m", "cuda", f"--rootdir={ROOT}", str(file)]
    return {"green": int(pytest.main(choice, plugins=[outcomes])) == 0, "tests": outcomes.tests}


def run_bench(options, batch: int, added: str | None = None) -> dict:
    """Time the steps of both engines in two precisions, or of stock fp32 and the variant ``added``, in turns."""
    dry, medians, one_turn = options.device == "cpu", defaultdict(list), bench.one_turn
    bench.BATCH, steps, rounds = (2, bench.SKIPPED + 2, 1) if dry else (batch, 44, 3)
    variants = bench.BOTH_ENGINES if added is None else (bench.VARIANTS[0], bench.Variant(added, native=True))
    if added == FLASH:
        try:  # on a sentence: old cards refuse only there
            with torch.autocast(options.device, torch.float16):
                unpadded(model.load_base(options.device)).encode(["one sentence"])
        except (ImportError, ValueError, RuntimeError, OSError) as error:
            return {"state": "skipped", "why": str(error).splitlines()[0]}

    def turn(variant, *rest):
        with tuned_library(variant.name, dry):
            times, loss = one_turn(variant, *rest)
        medians[variant.name].append(float(np.median(times)))
        return times, loss

    with mock.patch.object(bench, "one_turn", turn):
        table = bench.compare(pairs_of(options), steps, rounds, variants, functools.partial(print, flush=True))
    rows = table.to_dict("records")
    for row in rows:
        pairs = list(zip(medians["stock"], medians[row["variant"]], strict=True))
        row["milliseconds_by_round"] = [round(1_000 * own, 2) for _, own in pairs]
        row["times_stock_by_round"] = [round(stock / own, 2) for stock, own in pairs]
    return {"batch": bench.BATCH, "steps": steps, "rounds": rounds, "rows": rows}


def tuned_library(name: str, dry: bool):
    """Return a context in which a turn of ``stlib.fast.bench`` uses what ``name`` asks for and a ``Variant`` cannot say."""
    torch.compiler.reset()  # after some compilations of one function, torch would go on without compiling
    if name == FLASH:
        return mock.patch.object(bench, "load_base", lambda device: unpadded(model.load_base(device)))
    # Without tf32=False, torch_compile would switch TF32 on for all turns after it.
    options = {"torch_compile": True, "torch_compile_backend": "eager" if dry else "inductor", "tf32": False}
    arguments = bench.SentenceTransformerTrainingArguments
    tuned = functools.partial(arguments, **options) if name == COMPILED else arguments
    return mock.patch.object(bench, "SentenceTransformerTrainingArguments", tuned)


def unpadded(model):
    """Give ``model`` FlashAttention, so that the library lays a column's sentences in a row instead of padding them.

    Where the package flash-attn is not installed, the library takes the kernel that the package kernels brings.
    """
    model[0].auto_model.set_attn_implementation("flash_attention_2")
    model[0].unpad_inputs = True
    if not model[0].can_flatten_inputs:
        raise ValueError("FlashAttention is there, but the library pads all the same")
    return model


def run_curve(options, engine: str, steps: int = 2_000, **environment: str) -> dict:
    """Train the first steps of python -m stlib train --recipe card --profile full, and return the loss."""
    os.environ.update(environment)
    out, steps = runs_folder() / options.part, min(steps, options.steps)
    choices = {"data": options.data, "nli_split": options.split, "max_steps": steps, "seed": SEED, "log_every": FINE}
    run = train("card", "full", out, engine=engine, **choices)
    log, kept = run.log(), ("engine", "precision", "hardware", "steps", "seconds", "peak_memory_mb")
    loss = {str(step): round(value, 5) for step, value in zip(log["step"], log["loss"], strict=True)}
    return {"run": {key: run.info[key] for key in kept}, "bands": bands(loss), "loss": loss}


def bands(loss: dict[str, float]) -> dict[str, float]:
    """Return the mean of the first 100 steps and of each 500; ``loss`` has means since the row before, by their last step."""
    rows = {int(step): value for step, value in loss.items()}
    spans = [(0, 100), *((start, start + 500) for start in range(0, 2_000, 500))]
    means = {(a, b): np.mean([value for step, value in rows.items() if a < step <= b]) for a, b in spans if b in rows}
    return {f"{a + 1}-{b}": round(float(mean), 5) for (a, b), mean in means.items()}


def beside_a_processor(record: dict) -> dict:
    """Return the bands of a processor, recorded on the same pairs or made here, and the card's minus their mean."""
    recorded = [run for run in forensics.recorded("card") if run["data_fingerprint"] == record["data_fingerprint"]]
    found = {name: part["bands"] for name, part in record["parts"].items() if "bands" in part}
    processor = {f"recorded, seed {run['seed']}": bands(run["loss"]) for run in recorded}
    processor |= {f"made here, seed {SEED}": found.pop("curve_cpu")} if "curve_cpu" in found else {}
    above = defaultdict(dict)
    for name, own in found.items():
        for span, loss in own.items():
            others = [curve[span] for curve in processor.values() if span in curve]
            above[name] |= {span: round(loss - float(np.mean(others)), 5)} if others else {}
    return {"same_data_as_recorded": bool(recorded), "processor": processor, "card_minus_processor": above}


def pairs_of(options):
    return data.nli(options.split, sources.get_source(options.data))


def new_record(options) -> dict:
    """Return the record as it is before the first part."""
    pairs, dry = pairs_of(options), "a dry run on the processor, no result: " if options.device == "cpu" else ""
    data = "" if options.data == "mini" else " --data DATA_FOLDER"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True, check=False).stdout if shutil.which(query[0]) else ""
    return {
        "what": f"{dry}tests marked cuda, seconds per step in turns, the card's recipe for {options.steps:,} steps",
        "command": f"python research/gpu.py --device {options.device} --steps {options.steps}{data}",
        "data": f"{len(pairs):,} pairs: {options.split} from {sources.get_source(options.data)}",
        "data_fingerprint": data.fingerprint(pairs),
        "nvidia_smi": card.strip(),  # name, memory, driver
        "cuda": torch.version.cuda,
        "limit_seconds": options.limit,
        "parts": {},
    }


PARTS = {  # the seconds that each may take, its function, what the function is told
    "tests": (110, run_tests, {}),
    "bench_32": (75, run_bench, {"batch": 32}),
    "curve_packed": (90, run_curve, {"engine": "packed"}),
    "curve_stock": (100, run_curve, {"engine": "stock", "STLIB_PRECISION": "fp32"}),
    "curve_cpu": (75, run_curve, {"engine": "packed", "steps": 100, "STLIB_DEVICE": "cpu"}),
    "bench_256": (75, run_bench, {"batch": 256}),
    "flash_32": (45, run_bench, {"batch": 32, "added": FLASH}),
    "flash_256": (45, run_bench, {"batch": 256, "added": FLASH}),
    "compile_32": (100, run_bench, {"batch": 32, "added": COMPILED}),
    "compile_256": (100, run_bench, {"batch": 256, "added": COMPILED}),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the core course: notebooks 01 to 06 in order, with progress, and a table of what came out.

    python tools/course.py                  profile mini, no network, minutes on two cores
    STLIB_PROFILE=small STLIB_DATA=… python tools/course.py

The executed notebooks and their figures go to runs/course/; the committed notebooks stay as they are.
"""

import base64
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from notebooks import course_notebooks

ROOT = Path(__file__).resolve().parents[1]
CORE = ("01", "02", "03", "04", "05", "06")


def main() -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the library warns about forks otherwise
    from stlib.errors import UsageError
    from stlib.profiles import runs_folder
    from stlib.training import check_data

    try:
        check_data()
    except UsageError as error:
        print(f"course: {error}", file=sys.stderr)
        return 2
    out = runs_folder() / "course"
    (out / "figures").mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for path in course_notebooks():
        if path.name[:2] in CORE and not run_notebook(path, out):
            return 1
    print(f"\ncourse finished in {(time.perf_counter() - started) / 60:.1f} minutes\n")
    print(summary(out))
    return 0


def run_notebook(path: Path, out: Path) -> bool:
    """Execute one notebook into ``out``. Returns whether it ran to its end; says where it stopped if not."""
    notebook = nbformat.read(path, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    bar = tqdm(total=cells, desc=path.stem, unit="cell", file=sys.stdout, disable=False, ncols=90)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda **_: bar.update(1),
    )
    try:
        client.execute()
    except CellExecutionError as error:
        bar.close()
        print(f"course: {path.name} stopped: {error.ename}: {error.evalue}", file=sys.stderr)
        return False
    finally:
        nbformat.write(notebook, out / path.name)
    bar.close()
    save_figures(notebook, path.stem, out / "figures")
    return True


def save_figures(notebook, name: str, folder: Path) -> None:
    """Write every picture of an executed notebook as a PNG file."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    for number, picture in enumerate(pictures, 1):
        (folder / f"{name}-{number}.png").write_bytes(base64.b64decode(picture))


def summary(out: Path) -> str:
    """What was trained, on what, and how it did, from the run folder that the notebooks wrote."""
    from stlib.runs import Run
    from stlib.training import SEED, default_folder, make_request

    run = Run.load(default_folder(make_request("trained_head", None, None, None, None, SEED)))
    info = run.info
    sts = json.loads((run.folder / "sts.json").read_text(encoding="utf-8"))
    scores = json.loads((run.folder / "classification.json").read_text(encoding="utf-8"))
    nli = scores["nli"]
    rows = [
        (
            "trained",
            f"all-MiniLM-L6-v2, recipe {info['recipe']['name']}, profile {info['profile']}, {info['precision']}",
        ),
        ("on", f"{info['rows']:,} pairs: {info['nli_split']} from {info['source']} ({info['data_fingerprint']})"),
        ("steps", f"{info['steps']:,} of {info['batch_size']} pairs in {info['seconds']:.0f} s on {info['hardware']}"),
        ("final loss", f"{info['final_loss']:.3f}"),
        (
            "NLI accuracy",
            f"{100 * nli['accuracy']:.1f} % [{100 * nli['low']:.1f}, {100 * nli['high']:.1f}] on {nli['n']:,} test pairs",
        ),
    ]
    for task, trained in sts["trained"].items():
        rows.append((task, f"Spearman {trained:.2f} (base model {sts['base'][task]:.2f}, n = {sts['n'][task]:,})"))
    for task, trained in scores["trained"].items():
        rows.append((task, f"accuracy {trained:.1f} % (base model {scores['base'][task]:.1f} %)"))
    rows += [("run folder", shown(run.folder)), ("figures", shown(out / "figures"))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}s}  {text}" for name, text in rows)


def shown(path: Path) -> str:
    """A path as seen from the project's root, where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())

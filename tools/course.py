"""Run the core course: notebooks 01 to 06 in order, with progress, and a table of what came out.

    python tools/course.py                  profile mini, no network, minutes on two cores
    STLIB_PROFILE=small STLIB_DATA=… python tools/course.py

While a notebook works, the kernel of the next one starts and imports, and waits for its turn. The executed notebooks and
their figures go to runs/course/; the committed notebooks stay as they are.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from notebooks import course_notebooks
from stlib.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
CORE = ("01", "02", "03", "04", "05", "06")
AHEAD = 2  # code cells that run before a notebook's turn: the set-up cell and the imports
PAUSE = 10  # seconds between two lines where the output is no terminal


def main() -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the library warns about forks otherwise
    sys.stdout.reconfigure(errors="replace")  # a heading may have letters that a pipe on Windows lacks
    started = time.perf_counter()
    paths = [path for path in course_notebooks() if path.name[:2] in CORE]
    try:
        out = asyncio.run(run_course(paths, prepare, Screen(sys.stdout)))
    except UsageError as error:
        print(f"course: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncourse: interrupted, and all kernels are shut down", file=sys.stderr)
        return 130
    if out is None:
        return 1
    print(f"\ncourse finished in {(time.perf_counter() - started) / 60:.1f} minutes\n")
    print(summary(out))
    return 0


def prepare() -> Path:
    """Return the new folder of the executed notebooks. Raises UsageError where the data cannot be had."""
    from stlib.profiles import runs_folder  # seconds of imports, while the first kernel starts
    from stlib.training import check_data

    check_data()
    out = runs_folder() / "course"
    (out / "figures").mkdir(parents=True, exist_ok=True)
    return out


async def run_course(paths: list[Path], prepare: Callable[[], Path], screen: "Screen") -> Path | None:
    """Run the notebooks in order, one kernel ahead, and return the folder with them, or None where one stopped."""
    try:
        ahead = Notebook(paths[0])
        prepared = asyncio.create_task(asyncio.to_thread(prepare))
        await screen.follow(prepared, lambda seconds: f"checking the data, {clock(seconds)}")
        out = prepared.result()
        for following in [*paths[1:], None]:
            current, ahead = ahead, following and Notebook(following)
            if not await finish(current, out, screen):
                return None
        return out
    finally:
        await cancel_all()


async def finish(notebook: "Notebook", out: Path, screen: "Screen") -> bool:
    """Let a notebook run to its end and write it to ``out``. Returns False, and says why, where it stopped before."""
    notebook.turn.set()
    try:
        await screen.follow(notebook.task, notebook.progress)
    finally:
        nbformat.write(notebook.nb, out / notebook.path.name)
    error = notebook.task.exception()
    if error is None:
        save_figures(notebook.nb, notebook.path.stem, out / "figures")
        return True
    name, text = type(error).__name__, str(error)
    if isinstance(error, CellExecutionError):
        name, text = error.ename, error.evalue
    print(f"course: {notebook.path.name} stopped: {name}: {text.partition(chr(10))[0]}", file=sys.stderr)
    return False


async def cancel_all() -> None:
    """Cancel what still runs, such as the kernel that was started ahead, and wait until it is gone."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Notebook(NotebookClient):
    """A notebook that runs in a task of its own, and waits for its turn after two code cells."""

    def __init__(self, path: Path):
        super().__init__(
            nbformat.read(path, as_version=4),
            timeout=None,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": str(path.parent)}},
            shutdown_kernel="immediate",  # a kernel that is asked to end takes seconds, and has nothing left to write
        )
        self.path, self.turn = path, asyncio.Event()
        self.done, self.doing, self.bar = 0, "the kernel starts", ""
        self.task = asyncio.create_task(self.async_execute(env={**os.environ, "STLIB_PROGRESS": "text"}))

    @contextlib.asynccontextmanager
    async def async_setup_kernel(self, **options):
        """Start a kernel, and end it whatever happens. The library's own way would take over Ctrl-C for one notebook."""
        self.create_kernel_manager()
        try:
            await self.async_start_new_kernel(**options)
            await self.async_start_new_kernel_client()
            yield
        finally:
            if self.km is not None:
                await self._async_cleanup_kernel()

    async def async_execute_cell(self, cell, cell_index, **options):
        """Execute a cell, and note which one runs and how many are done."""
        code = cell.cell_type == "code"
        if code and self.done >= AHEAD:
            await self.turn.wait()
        if code:
            self.doing, self.bar = what_runs(self.nb.cells, cell_index), ""
        await super().async_execute_cell(cell, cell_index, **options)
        self.done += code

    def output(self, outs, msg, display_id, cell_index):
        """Keep a cell's output, all but its bars."""
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stderr":
            content["text"], self.bar = take_bars(content["text"], self.bar)
            if not content["text"]:
                return None
        return super().output(outs, msg, display_id, cell_index)

    def progress(self, seconds: float) -> str:
        """Return the line that says how far the notebook is, and what its cell does."""
        cells = sum(cell.cell_type == "code" for cell in self.nb.cells)
        now = f" · {self.bar or self.doing}" if self.done < cells else ""
        return f"{self.path.stem} {self.done}/{cells} cells, {clock(seconds)}{now}"


def what_runs(cells: list, index: int) -> str:
    """Return the heading of the section that a cell is in, or the cell's first line where there is none."""
    before = "\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    headings = re.findall(r"^##+ (.+)", before, re.MULTILINE)
    return headings[-1] if headings else cells[index].source.partition("\n")[0]


def take_bars(text: str, bar: str) -> tuple[str, str]:
    """Return what a cell wrote to stderr without the lines that a bar draws, and what the bar shows now.

    A bar starts its line anew with a carriage return, and may end it with a line feed that comes on its own. Where the
    text has neither, the bar is what it was.
    """
    if bar and text == "\n":
        return "", ""
    lines = re.split(r"(?<=\n)", text)
    drawn = [line for line in lines if "\r" in line]
    kept = "".join(line for line in lines if "\r" not in line)
    return kept, drawn[-1].rpartition("\r")[2].strip() if drawn else bar


class Screen:
    """One line of progress, drawn again and again on a terminal and printed every ten seconds elsewhere."""

    def __init__(self, file):
        self.file, self.printed = file, -PAUSE

    async def follow(self, task: asyncio.Task, line: Callable[[float], str]) -> None:
        """Show the line, which is told the seconds so far, until the task is done."""
        started = time.monotonic()
        while not task.done():
            self.show(line(time.monotonic() - started))
            await asyncio.wait({task}, timeout=0.5)
        self.show(line(time.monotonic() - started), last=True)

    def show(self, text: str, last: bool = False) -> None:
        """Draw the text over the one before, or print it where its time has come or it is the last of its kind."""
        if self.file.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="\n" if last else "", file=self.file, flush=True)
        elif last or time.monotonic() - self.printed >= PAUSE:
            self.printed = time.monotonic()
            print(text, file=self.file, flush=True)


def clock(seconds: float) -> str:
    """Return minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


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

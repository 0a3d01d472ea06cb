"""Run the core course: notebooks 01 to 06 in order, with progress, and a table of what came out.

One kernel runs them all, so that the libraries are imported once; each notebook starts with an empty namespace. (The tests
give each a kernel of its own.) The executed notebooks and their figures go to runs/course/; the committed ones stay as they are.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

sys.modules["rfc3987_syntax"] = None  # takes a second to import, for a check of addresses that no notebook needs

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from notebooks import HOW, ROOT, course_notebooks, pictures
from stlib.errors import UsageError

QUIET = {"TOKENIZERS_PARALLELISM": "false"}  # the library warns about forks otherwise
PAUSE = 10  # seconds between two lines if the output is no terminal
# What the kernel is asked first and last. This process itself imports nothing that takes long.
# Python's collector takes a second of the time in which the libraries are imported, and a quarter whenever a trainer calls it.
BEFORE = """import gc
gc.disable()
from stlib import configure, data, settings
configure.configure("trained_head"), data.nli("test")  # what cannot be had is said before anything is trained
print((settings.runs_folder() / "course").resolve())
gc.freeze(), gc.enable()"""
AFTER = "from stlib.train import find_or_train\nprint(find_or_train().folder)"
SUMMARY = """
trained           all-MiniLM-L6-v2, recipe {recipe[name]}, profile {profile}, {precision}
on                {rows:,} pairs: {nli_split} from {source} ({data_fingerprint})
steps             {steps:,} of {batch_size} pairs in {seconds:.0f} s on {hardware}
final loss        {final_loss:.3f}
NLI accuracy      {nli[accuracy]:.1%} [{nli[low]:.1%}, {nli[high]:.1%}] on {nli[n]:,} test pairs"""


def main() -> int:
    sys.stdout.reconfigure(errors="replace")  # a heading may have letters that a pipe on Windows lacks
    started = time.perf_counter()
    try:
        found = asyncio.run(run_course(course_notebooks()[:6], BEFORE, AFTER, Screen(sys.stdout)))
    except UsageError as error:
        print(f"course: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncourse: interrupted, and the kernel is shut down", file=sys.stderr)
        return 130
    if found is None:
        return 1
    print(f"\ncourse finished in {(time.perf_counter() - started) / 60:.1f} minutes")
    summarise(Path(found.splitlines()[-1]))
    return 0


async def run_course(paths: list[Path], before: str, after: str, screen: "Screen") -> str | None:
    """Return what the code ``after`` prints in the kernel of the notebooks, or None if a notebook stopped.

    The code ``before`` prints the folder for the executed notebooks. Raises the UsageError that it raises.
    """
    # A kernel that is asked to end takes seconds, and has nothing left to write.
    resources = {"metadata": {"path": str(paths[0].parent)}}
    kernel = Kernel(new_notebook(), timeout=None, shutdown_kernel="immediate", resources=resources, **HOW)
    kernel.screen = screen
    kernel.create_kernel_manager()
    try:
        await kernel.async_start_new_kernel(env={**QUIET, **os.environ, "STLIB_PROGRESS": "text"})
        await kernel.async_start_new_kernel_client()
        out = Path((await kernel.run(new_notebook(cells=[new_code_cell(before)]), "checking the data")).strip())
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            try:
                await kernel.run(notebook, path.stem)
            except Exception as error:  # whatever it is: of the cell, or of a kernel that has died
                name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
                print(f"course: {path.name} stopped: {name}: {text.partition(chr(10))[0]}", file=sys.stderr)
                return None
            finally:
                nbformat.write(notebook, out / path.name)
            for number, picture in enumerate(pictures(*notebook.cells), 1):
                (out / "figures" / f"{path.stem}-{number}.png").write_bytes(picture)
        return await kernel.run(new_notebook(cells=[new_code_cell(after)]), "putting the results together")
    except CellExecutionError as error:
        raise UsageError(error.evalue) if error.ename == "UsageError" else error from None
    finally:
        await kernel._async_cleanup_kernel()


class Kernel(NotebookClient):
    """A kernel that runs one notebook after another, each in an empty namespace, and shows how far it is."""

    async def run(self, notebook, name: str) -> str:
        """Return what the first cell of a notebook prints, once all are done; show its line until then."""
        self.nb, self.name, self.done, self.doing, self.bar = notebook, name, 0, "", ""
        started, task = time.monotonic(), asyncio.ensure_future(self.run_cells())
        try:
            while not task.done():
                self.screen.show(self.line(time.monotonic() - started))
                await asyncio.wait({task}, timeout=0.5)
        finally:  # also if this is cancelled, by Ctrl-C
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.screen.show(self.line(time.monotonic() - started), last=True)
        await task
        return "".join(out.text for out in notebook.cells[0].get("outputs", []) if out.output_type == "stream")

    async def run_cells(self) -> None:
        self.reset_execution_trackers()
        self.kc.execute("%reset_selective -f .\nOut.clear()", silent=True)  # %reset waits for the garbage too
        for index, cell in enumerate(self.nb.cells):
            self.doing, self.bar = what_runs(self.nb.cells, index), ""
            await self.async_execute_cell(cell, index, execution_count=self.done + 1)
            self.done = self.code_cells_executed
        self.set_widgets_metadata()

    def line(self, seconds: float) -> str:
        """Return how far the notebook is, and what its cell does."""
        cells = sum(cell.cell_type == "code" for cell in self.nb.cells)
        count = f" {self.done}/{cells} cells" if cells > 1 else ""  # one alone is no notebook, but asked by the course
        now = f" · {self.bar or self.doing}" if count and self.done < cells else ""
        return f"{self.name}{count}, {int(seconds) // 60}:{int(seconds) % 60:02d}{now}"

    def output(self, outs, msg, display_id, cell_index):
        """Keep a cell's output, all but its bars."""
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stderr":
            content["text"], self.bar = take_bars(content["text"], self.bar)
        if content.get("text") != "":
            return super().output(outs, msg, display_id, cell_index)


def what_runs(cells: list, index: int) -> str:
    """Return the heading of the section that a cell is in, or the cell's first line if there is none."""
    before = "\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    headings = re.findall(r"^##+ (.+)", before, re.MULTILINE)
    return headings[-1] if headings else cells[index].source.partition("\n")[0]


def take_bars(text: str, bar: str) -> tuple[str, str]:
    """Return what a cell wrote to stderr without the lines that a bar draws, and what the bar shows now.

    A bar starts its line with a carriage return, and may end it with a line feed that comes alone.
    """
    if bar and text == "\n":
        return "", ""
    drawn = re.findall(r"\r([^\r\n]*)", text)
    return re.sub(r".*\r.*\n?", "", text), drawn[-1].strip() if drawn else bar


class Screen:
    """One line of progress: redrawn on a terminal, printed every ten seconds elsewhere."""

    def __init__(self, file):
        self.file, self.printed = file, -PAUSE

    def show(self, text: str, last: bool = False) -> None:
        """Draw the text over the one before, or print it if its time has come or it is the last of its kind."""
        if self.file.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="\n" if last else "", file=self.file, flush=True)
        elif last or time.monotonic() - self.printed >= PAUSE:
            self.printed = time.monotonic()
            print(text, file=self.file, flush=True)


def summarise(run: Path) -> None:
    """Print what was trained, on what, and how it did, from the run folder that the notebooks wrote."""
    about, sts, scores = (json.loads((run / f"{name}.json").read_bytes()) for name in ("run", "sts", "classification"))
    print(SUMMARY.format(**about, nli=scores["nli"]))
    for task, score in sts["trained"].items():
        print(f"{task:16}  Spearman {score:.2f} (base model {sts['base'][task]:.2f}, n = {sts['n'][task]:,})")
    for task, score in scores["trained"].items():
        print(f"{task:16}  accuracy {score:.1f}% (base model {scores['base'][task]:.1f}%)")
    for name, path in {"run folder": run, "figures": run.parent / "course" / "figures"}.items():
        print(f"{name:16}  {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


if __name__ == "__main__":
    sys.exit(main())

"""Run the core course: notebooks 01 to 06 in order, with progress, and a table of what came out.

    python tools/course.py                  profile mini, no network, minutes on two cores
    STLIB_PROFILE=small STLIB_DATA=… python tools/course.py

One kernel runs them all, so that the libraries are imported once; each notebook starts with an empty namespace. (The tests
give each a kernel of its own.) The executed notebooks and their figures go to runs/course/; the committed ones stay as they are.
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
from collections.abc import Awaitable, Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from notebooks import course_notebooks
from stlib.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
CORE = ("01", "02", "03", "04", "05", "06")
PAUSE = 10  # seconds between two lines where the output is no terminal
# What the kernel does first and last. This process itself imports nothing that takes long.
IMPORT = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import course; sys.path.pop(0)\n"
PREPARE, SUMMARISE = IMPORT + "course.prepare()", IMPORT + "course.summarise()"


def main() -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the library warns about forks otherwise
    sys.stdout.reconfigure(errors="replace")  # a heading may have letters that a pipe on Windows lacks
    started = time.perf_counter()
    paths = [path for path in course_notebooks() if path.name[:2] in CORE]
    try:
        summary = asyncio.run(run_course(paths, PREPARE, SUMMARISE, Screen(sys.stdout)))
    except UsageError as error:
        print(f"course: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncourse: interrupted, and the kernel is shut down", file=sys.stderr)
        return 130
    if summary is None:
        return 1
    print(f"\ncourse finished in {(time.perf_counter() - started) / 60:.1f} minutes\n")
    print(summary, end="")
    return 0


def prepare() -> None:
    """Print the folder for the executed notebooks. Raises UsageError if the data cannot be had."""
    from stlib.profiles import runs_folder
    from stlib.training import check_data

    check_data()
    print((runs_folder() / "course").resolve())


async def run_course(paths: list[Path], before: str, after: str, screen: "Screen") -> str | None:
    """Run the notebooks in order in one kernel, and return what it prints at the end, or None if a notebook stopped.

    Args:
        before: code for the kernel that prints the folder for the executed notebooks.
        after: code for the kernel that prints the result.

    Raises:
        UsageError: ``before`` raised one.
    """
    client = Client(new_notebook(), "", paths[0].parent)
    client.create_kernel_manager()
    try:
        await client.async_start_new_kernel(env={**os.environ, "STLIB_PROGRESS": "text"})
        await client.async_start_new_kernel_client()
        out = Path((await ask(client, before, "checking the data", screen)).strip())
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for path in paths:
            notebook = Client(nbformat.read(path, as_version=4), path.stem, path.parent, client)
            if not await finish(notebook, out / path.name, screen):
                return None
        return await ask(client, after, "putting the results together", screen)
    finally:
        await client._async_cleanup_kernel()


async def ask(kernel: "Client", code: str, doing: str, screen: "Screen") -> str:
    """Return what ``code`` prints in the kernel. Raises UsageError with its text if the code raises one."""
    client = Client(new_notebook(cells=[new_code_cell(code)]), doing, kernel.folder, kernel)
    try:
        await screen.follow(client.async_execute(), lambda seconds: f"{doing}, {clock(seconds)}")
    except CellExecutionError as error:
        if error.ename == "UsageError":
            raise UsageError(error.evalue) from None
        raise
    return "".join(output.text for output in client.nb.cells[0].outputs if output.output_type == "stream")


async def finish(notebook: "Client", target: Path, screen: "Screen") -> bool:
    """Let a notebook run to its end and write it to ``target``. Return False, and say why, if it stopped before."""
    try:
        await screen.follow(notebook.async_execute(), notebook.progress)
    except Exception as error:  # whatever it is: of the cell, or of a kernel that has died
        name, text = type(error).__name__, str(error)
        if isinstance(error, CellExecutionError):
            name, text = error.ename, error.evalue
        print(f"course: {target.name} stopped: {name}: {text.partition(chr(10))[0]}", file=sys.stderr)
        return False
    finally:
        nbformat.write(notebook.nb, target)
    save_figures(notebook.nb, target.stem, target.parent / "figures")
    return True


class Client(NotebookClient):
    """A notebook that runs in the kernel of another one, in an empty namespace."""

    def __init__(self, notebook, name: str, folder: Path, kernel: "Client | None" = None):
        super().__init__(
            notebook,
            timeout=None,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": str(folder)}},
            shutdown_kernel="immediate",  # a kernel that is asked to end takes seconds, and has nothing left to write
        )
        self.name, self.folder = name, folder
        self.done, self.doing, self.bar = 0, "", ""
        if kernel is not None:
            self.km, self.kc = kernel.km, kernel.kc

    @contextlib.asynccontextmanager
    async def async_setup_kernel(self, **options):
        """Empty the namespace of the kernel, which is there already and stays."""
        self.kc.execute("%reset_selective -f .\nOut.clear()", silent=True)  # %reset waits for the garbage too
        yield

    async def async_execute_cell(self, cell, cell_index, **options):
        """Execute a cell, and note which one runs and how many are done."""
        code = cell.cell_type == "code"
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
        return f"{self.name} {self.done}/{cells} cells, {clock(seconds)}{now}"


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

    async def follow(self, work: Awaitable, line: Callable[[float], str]) -> None:
        """Show the line, which is told the seconds so far, until the work is done; raise what it raises."""
        started, task = time.monotonic(), asyncio.ensure_future(work)
        try:
            while not task.done():
                self.show(line(time.monotonic() - started))
                await asyncio.wait({task}, timeout=0.5)
        finally:  # also where this is cancelled, by Ctrl-C
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.show(line(time.monotonic() - started), last=True)
        await task

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


def summarise() -> None:
    """Print what was trained, on what, and how it did, from the run folder that the notebooks wrote."""
    from stlib.profiles import runs_folder
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
    rows += [("run folder", shown(run.folder)), ("figures", shown(runs_folder() / "course" / "figures"))]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:{width}s}  {text}" for name, text in rows))


def shown(path: Path) -> str:
    """A path as seen from the project's root, where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())

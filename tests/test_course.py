"""The course runs notebooks in order, one kernel ahead, and says on one line what runs."""

import asyncio
import io
import re
import signal
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from stlib.errors import UsageError

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import course

# The first cell of every notebook: what the others use to note that they ran, and to wait for another notebook's cell.
START = """
import sys, time
from pathlib import Path

def note(name):
    with Path("events.txt").open("a") as file:
        file.write(name + "\\n")

def wait_for(name):
    deadline = time.monotonic() + 60
    while name not in Path("events.txt").read_text().split():
        assert time.monotonic() < deadline, f"{name} never ran"
        time.sleep(0.05)

def draw(text, seconds=0):
    print("\\r" + text, end="", file=sys.stderr, flush=True)
    time.sleep(seconds)
"""


class Terminal(io.StringIO):
    """A terminal that notes what is written to it, and calls ``react`` where that has ``trigger`` in it."""

    def __init__(self, trigger=None, react=None):
        super().__init__()
        self.trigger, self.react = trigger, react

    def isatty(self):
        return True

    def write(self, text):
        super().write(text)
        if self.trigger and self.trigger in text:
            self.trigger = None
            self.react()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that writes notebooks, runs them as a course, and returns the folder with what came out."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(notebooks: dict[str, list], file=None):
        for name, cells in notebooks.items():
            made = [cell if not isinstance(cell, str) else new_code_cell(cell) for cell in [START, *cells]]
            nbformat.write(new_notebook(cells=made), tmp_path / f"{name}.ipynb")
        paths = [tmp_path / f"{name}.ipynb" for name in notebooks]
        return asyncio.run(course.run_course(paths, lambda: make_folder(tmp_path), course.Screen(file or Terminal())))

    return run


def make_folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "figures").mkdir(parents=True)
    return tmp_path / "out"


def kernels() -> list:
    """All kernels that this process has started and that still run."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if any("ipykernel" in word for word in child.cmdline())]


def test_the_next_kernel_starts_ahead_and_waits_for_its_turn(run, tmp_path):
    terminal = Terminal()
    first = ["note('a2')", "wait_for('b2'); time.sleep(0.3); note('a3')"]
    out = run({"a": first, "b": ["note('b2')", "note('b3')"], "c": ["note('c2')", "note('c3')"]}, terminal)
    events = (tmp_path / "events.txt").read_text().split()
    assert sorted(events) == ["a2", "a3", "b2", "b3", "c2", "c3"]
    assert events.index("b2") < events.index("a3") < events.index("b3") < events.index("c3")
    assert events.index("a3") < events.index("c2"), "more than one kernel was ahead"
    assert sorted(path.name for path in out.glob("*.ipynb")) == ["a.ipynb", "b.ipynb", "c.ipynb"]
    ends = [line.split("\r")[-1].split(",")[0] for line in terminal.getvalue().split("\n")]
    assert ends == ["checking the data", "a 3/3 cells", "b 3/3 cells", "c 3/3 cells", ""]
    assert not kernels()


def test_the_line_shows_the_cells_bar_and_the_written_notebook_does_not(run):
    terminal = Terminal()
    bars = (
        "print('a warning', file=sys.stderr); draw('training: 1/9 steps'); draw('training: 2/9 steps', 1.2); draw('')"
    )
    heading = new_markdown_cell("Text.\n\n## 2. Train it\n\nMore text.")
    out = run({"a": ["import os; print(os.environ['STLIB_PROGRESS'])", heading, bars, "time.sleep(1)"]}, terminal)
    shown = terminal.getvalue()
    assert re.search(r"a 2/4 cells, \d:\d\d · training: 2/9 steps", shown)
    assert shown.rindex("training: 2/9 steps") < shown.rindex(" · 2. Train it")
    outputs = [cell.outputs for cell in nbformat.read(out / "a.ipynb", as_version=4).cells if cell.cell_type == "code"]
    assert outputs[1] == [new_output("stream", name="stdout", text="text\n")]
    assert outputs[2] == [new_output("stream", name="stderr", text="a warning\n")]


def test_a_notebook_that_raises_stops_the_course_and_the_kernel_ahead(run, tmp_path, capsys):
    broken = ["note('a2')", "wait_for('b2')", "print('so far'); raise ValueError('no such thing\\nsecond line')"]
    assert run({"a": broken, "b": ["note('b2')", "note('b3')"]}) is None
    assert capsys.readouterr().err == "course: a.ipynb stopped: ValueError: no such thing\n"
    assert not kernels()
    assert "b3" not in (tmp_path / "events.txt").read_text()
    assert "so far" in (tmp_path / "out" / "a.ipynb").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "b.ipynb").exists()


def test_what_fails_ahead_is_said_when_its_turn_comes(run, tmp_path, capsys):
    out = run({"a": ["note('a2')", "wait_for('b2')", "time.sleep(0.3)"], "b": ["note('b2'); 1 / 0", ""]})
    assert out is None
    assert capsys.readouterr().err == "course: b.ipynb stopped: ZeroDivisionError: division by zero\n"
    executed = nbformat.read(tmp_path / "out" / "a.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells] == [1, 2, 3, 4]


def test_a_kernel_that_dies_stops_the_course(run, capsys):
    assert run({"a": ["import os; os._exit(1)"]}) is None
    assert capsys.readouterr().err == "course: a.ipynb stopped: DeadKernelError: Kernel died\n"


def test_ctrl_c_shuts_down_all_kernels(run, tmp_path):
    terminal = Terminal("training", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run({"a": ["note('a2')", "wait_for('b2'); draw('training', 60)"], "b": ["note('b2')", "note('b3')"]}, terminal)
    assert not kernels()
    assert (tmp_path / "out" / "a.ipynb").exists()
    assert "b3" not in (tmp_path / "events.txt").read_text()


def test_missing_data_stops_the_course_before_its_third_cell(tmp_path):
    cells = [new_code_cell(f"open('{number}.txt', 'w').close()") for number in (1, 2, 3)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")

    def prepare():
        while not (tmp_path / "2.txt").exists():
            time.sleep(0.05)
        time.sleep(0.3)
        raise UsageError("there is no such folder")

    with pytest.raises(UsageError, match="there is no such folder"):
        asyncio.run(course.run_course([tmp_path / "a.ipynb"], prepare, course.Screen(Terminal())))
    assert not kernels()
    assert not (tmp_path / "3.txt").exists()


def test_main_says_in_one_sentence_what_went_wrong(monkeypatch, capsys):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")

    def stopped_by(error):
        async def run_course(*_):
            if error:
                raise error

        monkeypatch.setattr(course, "run_course", run_course)
        return course.main(), capsys.readouterr().err

    assert stopped_by(None) == (1, "")
    assert stopped_by(UsageError("no data")) == (2, "course: no data\n")
    assert stopped_by(KeyboardInterrupt()) == (130, "\ncourse: interrupted, and all kernels are shut down\n")


def test_a_pipe_gets_a_plain_line_now_and_then(run):
    file = io.StringIO()
    run({"a": ["draw('training: 1/9 steps', 1.2)"], "b": ["1"]}, file)
    lines = file.getvalue().split("\n")
    assert [line.split(",")[0] for line in lines] == ["checking the data"] * 2 + ["a 2/2 cells", "b 2/2 cells", ""]
    assert "\r" not in file.getvalue()


def test_lines_are_printed_ten_seconds_apart_where_nothing_is_redrawn(monkeypatch):
    file, now = io.StringIO(), [100.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    screen = course.Screen(file)
    for second in range(25):
        now[0] = 100.0 + second
        screen.show(str(second))
    screen.show("end", last=True)
    assert file.getvalue().split() == ["0", "10", "20", "end"]


def test_a_line_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    screen = course.Screen(terminal)
    screen.show("x" * 50)
    screen.show("short", last=True)
    assert terminal.getvalue() == "\r" + "x" * 19 + "\rshort" + " " * 14 + "\n"


@pytest.mark.parametrize(
    ("text", "before", "kept", "bar"),
    [
        ("plain\n", "3/9", "plain\n", "3/9"),
        ("\r4/9", "3/9", "", "4/9"),
        ("\r4/9\r5/9", "", "", "5/9"),
        ("\r9/9\r   \r", "8/9", "", ""),
        ("a warning\n\r1/9", "", "a warning\n", "1/9"),
        ("\r9/9\nafter\n", "8/9", "after\n", "9/9"),
        ("\n", "9/9", "", ""),
        ("\n", "", "\n", ""),
    ],
)
def test_bars_are_told_from_other_lines(text, before, kept, bar):
    assert course.take_bars(text, before) == (kept, bar)


def test_a_cell_is_named_by_its_section_or_its_first_line():
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("import os\nimport sys"),
        new_markdown_cell("## 1. Load\n\ntext"),
        new_code_cell("# ## a comment"),
        new_markdown_cell("text"),
        new_code_cell("model = 1"),
    ]
    assert [course.what_runs(cells, index) for index in (1, 3, 5)] == ["import os", "1. Load", "1. Load"]

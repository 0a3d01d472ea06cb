"""The course runs notebooks in order in one kernel, and says on one line what runs."""

import asyncio
import io
import re
import signal
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from stlib.errors import UsageError

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import course

# The first cell of every notebook: what the others use to draw a bar.
START = """
import sys, time

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
    """A function that writes notebooks, runs them as a course, and returns what the kernel printed at the end."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(
        notebooks: dict[str, list], file=None, before=f"print({str(tmp_path / 'out')!r})", after="print('the end')"
    ):
        for name, cells in notebooks.items():
            made = [cell if not isinstance(cell, str) else new_code_cell(cell) for cell in [START, *cells]]
            nbformat.write(new_notebook(cells=made), tmp_path / f"{name}.ipynb")
        paths = [tmp_path / f"{name}.ipynb" for name in notebooks]
        return asyncio.run(course.run_course(paths, before, after, course.Screen(file or Terminal())))

    return run


def cells_of(path: Path) -> list:
    """The executed code cells of a notebook that the course has written."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def kernels() -> list:
    """All kernels that this process has started and that still run."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "ipykernel_launcher" in child.cmdline()]


def test_one_kernel_runs_all_in_order_each_in_an_empty_namespace(run, tmp_path):
    terminal = Terminal()
    ask = "import os; print(os.getpid(), 'mine' in globals()); mine = 1"
    assert run({"b": [ask, "print(mine)"], "a": [ask]}, terminal) == "the end\n"
    said = [cells_of(tmp_path / "out" / f"{name}.ipynb")[1].outputs[0].text.split() for name in "ba"]
    assert said[0] == said[1] == [said[0][0], "False"]
    ends = [line.split("\r")[-1].split(",")[0] for line in terminal.getvalue().split("\n")]
    assert ends == ["checking the data", "b 3/3 cells", "a 2/2 cells", "putting the results together", ""]
    assert not kernels()


def test_the_line_shows_the_cells_bar_and_the_written_notebook_does_not(run, tmp_path):
    terminal = Terminal()
    bars = (
        "print('a warning', file=sys.stderr); draw('training: 1/9 steps'); draw('training: 2/9 steps', 1.2); draw('')"
    )
    heading = new_markdown_cell("Text.\n\n## 2. Train it\n\nMore text.")
    run({"a": ["import os; print(os.environ['STLIB_PROGRESS'])", heading, bars, "time.sleep(1)"]}, terminal)
    shown = terminal.getvalue()
    assert re.search(r"a 2/4 cells, \d:\d\d · training: 2/9 steps", shown)
    assert shown.rindex("training: 2/9 steps") < shown.rindex(" · 2. Train it")
    outputs = [cell.outputs for cell in cells_of(tmp_path / "out" / "a.ipynb")]
    assert outputs[1] == [new_output("stream", name="stdout", text="text\n")]
    assert outputs[2] == [new_output("stream", name="stderr", text="a warning\n")]


def test_a_notebook_that_raises_stops_the_course(run, tmp_path, capsys):
    broken = ["print('so far'); raise ValueError('no such thing\\nsecond line')"]
    assert run({"a": broken, "b": ["1"]}) is None
    assert capsys.readouterr().err == "course: a.ipynb stopped: ValueError: no such thing\n"
    assert not kernels()
    assert cells_of(tmp_path / "out" / "a.ipynb")[1].outputs[0].text == "so far\n"
    assert not (tmp_path / "out" / "b.ipynb").exists()


def test_a_kernel_that_dies_stops_the_course(run, capsys):
    assert run({"a": ["import os; os._exit(1)"]}) is None
    assert capsys.readouterr().err == "course: a.ipynb stopped: DeadKernelError: Kernel died\n"


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, which a worker of the tests ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_shuts_down_the_kernel(run, tmp_path, ctrl_c):
    terminal = Terminal("training", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run({"a": ["draw('training', 60)"], "b": ["1"]}, terminal)
    assert not kernels()
    assert (tmp_path / "out" / "a.ipynb").exists()
    assert not (tmp_path / "out" / "b.ipynb").exists()


def test_missing_data_stops_the_course_before_its_first_notebook(run, tmp_path):
    before = "from stlib.errors import UsageError\nraise UsageError('there is no such folder')"
    with pytest.raises(UsageError, match=r"^there is no such folder$"):
        run({"a": ["1"]}, before=before)
    assert not kernels()
    assert not (tmp_path / "out").exists()


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
    assert stopped_by(KeyboardInterrupt()) == (130, "\ncourse: interrupted, and the kernel is shut down\n")


def test_a_pipe_gets_a_plain_line_now_and_then(run):
    file = io.StringIO()
    run({"a": ["draw('training: 1/9 steps', 1.2)"], "b": ["1"]}, file)
    lines = file.getvalue().split("\n")
    assert [line.split(",")[0] for line in lines] == [
        *["checking the data"] * 2, "a 2/2 cells", "b 2/2 cells", "putting the results together", ""
    ]  # fmt: skip
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

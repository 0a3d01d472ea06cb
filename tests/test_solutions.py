"""The solutions, executed here cell by cell: they print what is committed.

A kernel for each of them would spend most of its time on imports.
"""

import ast
import contextlib
import io
import logging
import os
import random
import re
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval.plugin import coalesce_streams, find_comment_markers, get_sanitize_patterns

from tests.nbval_numbers import declared_tolerance, figures

plt.switch_backend("agg")

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
PATTERNS = get_sanitize_patterns((ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8"))
NO_TEXT = {"image/png", "application/vnd.jupyter.widget-view+json"}  # what nbval does not compare either
# A kernel shows none of these, and pytest shows them all.
HIDDEN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


@contextlib.contextmanager
def left_as_found():
    """Undo what a notebook changes for the whole process."""
    loggers = [found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    levels = [logger.level for logger in loggers]
    folder, path, environment = Path.cwd(), sys.path[:], dict(os.environ)
    seeds = random.getstate(), np.random.get_state(), torch.get_rng_state()
    plt.close("all")  # of other tests
    try:
        with mpl.rc_context():
            yield
    finally:
        plt.close("all")
        pd.reset_option("^display")
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.chdir(folder)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        for restore, seed in zip((random.setstate, np.random.set_state, torch.set_rng_state), seeds, strict=True):
            restore(seed)


@pytest.fixture(autouse=True)
def own_state():
    with left_as_found():
        yield


class Cell:
    """One cell at work; ``outputs`` are what a kernel would have sent."""

    def __init__(self):
        self.outputs = []

    def run(self, source: str, name: str, namespace: dict) -> None:
        body = ast.parse(source, name).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), name, "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace) if last else None
        if value is not None:
            self.outputs.append(new_output("execute_result", DisplayFormatter().format(value)[0]))

    def show(self, *_, **__) -> None:
        """Draw the open figures, as ``plt.show()`` and the end of a cell do in a notebook."""
        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()
            self.outputs.append(new_output("display_data", {"text/plain": repr(figure)}))
        plt.close("all")

    def wrote(self, stream: str, text: str) -> None:
        if text:
            self.outputs.append(new_output("stream", name=stream, text=text))


def execute(notebook, name: str) -> list[tuple]:
    """Return each code cell with the outputs that it has now, all executed in order and in one namespace."""
    executed, namespace = [], {"__name__": "__main__"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with warnings.catch_warnings(record=True) as warned, pytest.MonkeyPatch.context() as patch:
        for category in HIDDEN_WARNINGS:
            warnings.simplefilter("ignore", category)
        for number, cell in enumerate(cells):
            now, out, err = Cell(), io.StringIO(), io.StringIO()
            patch.setattr(plt, "show", now.show)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                now.run(cell.source, f"{name}, cell {number}", namespace)
                now.show()
            now.wrote("stdout", out.getvalue())
            now.wrote("stderr", err.getvalue() + "".join(str(found.message) for found in warned))
            warned.clear()
            executed.append((cell, now.outputs))
    return executed


def texts(outputs: list, tolerance=None) -> dict[str, list]:
    """Return what the outputs say, by stream or MIME type; a committed error, too, which nothing here can equal.

    Numbers in them equal others as in the notebooks, within the cell's ``tolerance``.
    """
    found = {}
    for output in coalesce_streams(outputs):
        said = {output.name: output.text} if output.output_type == "stream" else output.get("data", {"error": output})
        for kind in said.keys() - NO_TEXT:
            text = sanitized(said[kind])
            found.setdefault(kind, []).append(figures(text, tolerance) if isinstance(text, str) else text)
    return found


def sanitized(text):
    for pattern, replacement in PATTERNS if isinstance(text, str) else ():
        text = re.sub(pattern, replacement, text)
    return text


def compare(notebook, name: str) -> None:
    """Execute a notebook; raise AssertionError at the first cell that says something else than before."""
    for cell, outputs in execute(notebook, name):
        if dict(find_comment_markers(cell.source)).get("check", True):
            tolerance = declared_tolerance(cell.source)
            assert texts(cell.outputs, tolerance) == texts(outputs, tolerance), f"{name}:\n{cell.source}"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_the_solutions_print_what_is_committed(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    compare(nbformat.read(path, as_version=4), path.name)


def printed(text: str, stream: str = "stdout"):
    return new_output("stream", name=stream, text=text)


def result(**data):
    return new_output("execute_result", {kind.replace("_", "/"): text for kind, text in data.items()})


def notebook_of(source: str, *outputs):
    """A notebook that makes ``x`` in a first cell, and then has one with these outputs."""
    cells = [new_code_cell("x = 41 + 1"), new_code_cell(source, outputs=list(outputs))]
    return new_notebook(cells=cells)


FRAME = "import pandas as pd\npd.DataFrame({'a': [1.5]})"
FRAME_HTML = pd.DataFrame({"a": [1.5]})._repr_html_()
FIGURE = "import matplotlib.pyplot as plt\nfigure = plt.figure(figsize=(4, 3), dpi=100)\nplt.show()"


@pytest.mark.parametrize(
    ("source", "outputs"),
    [
        ("print('x is', x)", [printed("x is 42\n")]),
        ("print('x is', x)", [printed("x is "), printed("42\n")]),
        ("x", [result(text_plain="42")]),
        ("print(x)\n{'b': x, 'a': None}", [printed("42\n"), result(text_plain="{'b': 42, 'a': None}")]),
        (FRAME, [result(text_plain="     a\n0  1.5", text_html=FRAME_HTML)]),
        (FIGURE, [new_output("display_data", {"text/plain": "<Figure size 400x300 with 0 Axes>", "image/png": "..."})]),
        (FIGURE.replace("plt.show()", ""), [new_output("display_data", {"text/plain": "<Figure size 400x300 with 0 Axes>"})]),
        ("import sys\nprint('careful', file=sys.stderr)", [printed("careful\n", "stderr")]),
        ("import warnings\nwarnings.warn('old', DeprecationWarning)", []),
        ("# NBVAL_IGNORE_OUTPUT\nprint(x)", [printed("another number\n")]),
        ("print('loaded the run a: 3 steps')", [printed("loaded the run a: 400 steps\n")]),
        ("print('profile mini: GPU here (cuda)')", [printed("profile mini: no GPU here\n")]),
    ],
)  # fmt: skip
def test_the_same_outputs_pass(source, outputs):
    compare(notebook_of(source, *outputs), "a notebook")


@pytest.mark.parametrize(
    ("source", "outputs"),
    [
        ("print('x is', x)", [printed("x is 43\n")]),
        ("print('x is', x)", [printed("x was 42\n")]),
        ("print('x is', x)", [printed("x is 42\n", "stderr")]),
        ("print('x is', x)", []),
        ("y = x", [printed("42\n")]),
        ("x", [result(text_plain="43")]),
        ("x", []),
        ("y = x", [result(text_plain="42")]),
        ("x", [result(text_plain="42", text_html="<b>42</b>")]),
        (FRAME, [result(text_plain="     a\n0  1.5", text_html=FRAME_HTML.replace("1.5", "1.7"))]),
        (FRAME, [result(text_plain="     a\n0  1.7", text_html=FRAME_HTML)]),
        (FIGURE, [new_output("display_data", {"text/plain": "<Figure size 400x301 with 0 Axes>"})]),
        (FIGURE, []),
        ("import sys\nprint('careful', file=sys.stderr)", []),
        ("import warnings\nwarnings.warn('careful')", []),
        ("print('loaded a run: 3 steps')", [printed("loaded a run: 400 steps\n")]),
        ("x", [new_output("error", ename="NameError", evalue="x", traceback=[])]),
    ],
)
def test_another_output_fails(source, outputs):
    with pytest.raises(AssertionError, match="a notebook:"):
        compare(notebook_of(source, *outputs), "a notebook")


def test_an_error_in_a_cell_fails():
    with pytest.raises(NameError, match="unknown"):
        compare(notebook_of("print(unknown)", printed("42\n")), "a notebook")


def test_a_notebook_leaves_nothing_behind(tmp_path):
    source = f"""
import logging, os, random, sys
import matplotlib.pyplot as plt, numpy as np, pandas as pd, torch
plt.rcParams["font.size"] = 33
plt.figure()
pd.set_option("display.precision", 1)
os.chdir({str(tmp_path)!r})
os.environ["STLIB_RUNS"] = "elsewhere"
sys.path.append("elsewhere")
logging.getLogger("stlib.test").setLevel(logging.ERROR)
random.seed(1), np.random.seed(1), torch.manual_seed(1)"""

    def state():
        values = [plt.rcParams["font.size"], pd.get_option("display.precision"), Path.cwd()]
        values += [dict(os.environ), sys.path[:], logging.getLogger("stlib.test").level]
        return [*values, random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = state()
    with left_as_found():
        execute(notebook_of(source), "a notebook")
        assert all(one != other for one, other in zip(before, state(), strict=True))
    assert state() == before
    assert not plt.get_fignums()

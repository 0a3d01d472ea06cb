"""Outputs of notebooks are compared number by number: which differences pass, and which fail."""

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests.nbval_numbers import NUMBER, declared_tolerance, settled

ROOT = Path(__file__).resolve().parents[1]
# committed, fresh, whether they agree
PAIRS = {
    "one unit": ("accuracy 0.832", "accuracy 0.833", True),
    "two units": ("accuracy 0.832", "accuracy 0.834", False),
    "a word": ("accuracy 0.832", "precision 0.832", False),
    "a missing line": ("a 0.1\nb 0.2\n", "a 0.1\n", False),
    "an additional line": ("a 0.1\n", "a 0.1\nb\n", False),
    "a whole number": ("210 pairs", "211 pairs", False),
    "thousands": ("1,500 pairs", "1,501 pairs", False),
    "thousands without their mark": ("1,500 pairs", "1500 pairs", True),
    "thousands with a fraction": ("1,234.56 s", "1,234.57 s", True),
    "percent": ("84.3 % [81.4, 85.0]", "84.2 % [81.5, 85.0]", True),
    "an end of an interval": ("[81.4, 85.0]", "[81.4, 85.2]", False),
    "plus or minus": ("63.0 ± 0.5", "63.1 ± 0.4", True),
    "plus or minus, by two": ("63.0 ± 0.5", "63.0 ± 0.7", False),
    "a sign": ("-0.66", "+0.66", False),
    "across zero": ("+0.00", "-0.01", True),
    "a typographic minus": ("−0.66", "-0.66", True),
    "an exponent": ("1.50e-05", "1.51e-05", True),
    "an exponent, by two": ("1.50e-05", "1.52e-05", False),
    "another exponent": ("1.50e-05", "1.50e-04", False),
    "a rate without a decimal point": ("2e-05", "3e-05", False),
    "trimmed zeros": ("{'neutral': 0.8}", "{'neutral': 0.81}", True),
    "trimmed zeros, by two": ("{'neutral': 0.8}", "{'neutral': 0.82}", False),
    "a whole number that becomes a fraction": ("epoch 1", "epoch 1.1", False),
    "a version": ("torch 2.13.0", "torch 2.13.1", False),
    "a name with digits": ("sts12-sts 61.2", "sts13-sts 61.2", False),
    "a digest": ("fingerprint 77f687d6e4b7cfc9", "fingerprint 77f687d6e4b7cfc8", False),
    "a range": ("rows 2-5", "rows 2-6", False),
    "columns that moved": ("      loss\n0    9.99\n1    1.00", "       loss\n0    10.00\n1     1.00", True),
    "columns that moved, by two": ("      loss\n0    9.99\n1    1.00", "       loss\n0    10.01\n1     1.00", False),
    "spaces alone": ("a 0.1", "a  0.1", False),
    "no number": ("True", "False", False),
    "a number that is gone": ("nan", "0.1", False),
    "a table": ("<td>0.832</td>", "<td>0.831</td>", True),
    "a table, by two": ("<td>0.832</td>", "<td>0.830</td>", False),
    "comma-separated": ("3,0.75,0.25", "3,0.76,0.24", True),
    "a factor": ("4.08x", "4.10x", False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_agrees(name):
    committed, fresh, agree = PAIRS[name]
    assert (settled(committed, fresh) == committed) is agree
    assert settled(committed, committed) == committed


def test_what_is_left_is_what_differs():
    assert settled("a 0.11 b 0.20 c", "a 0.12 b 0.25 d") == "a 0.11 b 0.25 d"


@pytest.mark.parametrize(("fresh", "agree"), [("0.85", True), ("0.852", True), ("0.853", False), ("0.812", True)])
def test_a_declared_tolerance_is_absolute(fresh, agree):
    assert (settled("0.832", fresh, Decimal("0.02")) == "0.832") is agree


def test_a_declared_tolerance_of_one_lets_whole_numbers_differ():
    assert settled("34 % of 210", "35 % of 210", Decimal(1)) == "34 % of 210"
    assert settled("34 % of 210", "36 % of 210", Decimal(1)) != "34 % of 210"


@pytest.mark.parametrize("line", ["", " 0.02", " trained figures", " -1 trained figures", " 0.02 -", " 0.02why"])
def test_a_tolerance_needs_a_number_and_a_reason(line):
    with pytest.raises(ValueError, match="reason"):
        declared_tolerance(f"x = 1\n# NBVAL_TOLERANCE{line}\nprint(x)")
    assert declared_tolerance("print('# NBVAL_TOLERANCE')") is None
    assert declared_tolerance("# NBVAL_TOLERANCE 0.02 trained figures differ") == Decimal("0.02")
    assert declared_tolerance("# NBVAL_TOLERANCE 3 a trained model's figures differ") == Decimal("3")


def test_numbers_are_found_whole():
    text = "1,500 of 12,345.67: +1.18 [-4.1, 1e-5], 6.2.0, sts12, (8, 384), 2-5, 0. 0. 50%"
    assert NUMBER.findall(text) == ["1,500", "12,345.67", "+1.18", "-4.1", "1e-5", "8", "384", "2", "5", "0", "0", "50"]


TABLE = "import pandas as pd\npd.DataFrame({{'score': [{}, 0.5]}})"
ERR = "import sys\nprint({!r}, file=sys.stderr)"
TOLERANCE = "# NBVAL_TOLERANCE 0.02 trained figures differ\nprint('score {}')"
# name: (cell, as executed, as committed, whether it passes)
CELLS = {
    "one unit": ("print('score {}')", "0.832", "0.831", True),
    "two units": ("print('score {}')", "0.832", "0.830", False),
    "word": ("print({!r})", "score 0.832", "value 0.832", False),
    "line": ("print({!r})", "a 0.832", "a 0.832\nb 0.1", False),
    "whole": ("print({})", "210", "211", False),
    "table, one unit": (TABLE, "0.832", "0.831", True),
    "table, two units": (TABLE, "0.832", "0.830", False),
    "stderr, one unit": (ERR, "took 0.12", "took 0.13", True),
    "stderr, a word": (ERR, "took 0.12", "lost 0.12", False),
    "within": (TOLERANCE, "0.832", "0.850", True),
    "beyond": (TOLERANCE, "0.832", "0.853", False),
    "no reason": ("# NBVAL_TOLERANCE 0.02\nprint('score {}')", "0.832", "0.832", False),
    "muted": ("# NBVAL_IGNORE_OUTPUT\nprint('score {}')", "0.832", "9.9", True),
}


def committed_outputs(source: str, value: str, number: int) -> list:
    """Return the outputs that nbformat would hold if the cell had been executed with ``value``."""
    if source == TABLE:
        frame = pd.DataFrame({"score": [float(value), 0.5]})
        # Made from text, so that "0.830" keeps its last digit, which a table of floats shows as all others do.
        data = {"text/plain": repr(frame), "text/html": frame._repr_html_()}
        return [new_output("execute_result", data, execution_count=number)]
    stream = "stderr" if source == ERR else "stdout"
    text = f"score {value}" if "score" in source else value
    return [new_output("stream", name=stream, text=f"{text}\n")]


def test_notebooks_that_must_fail_and_pass(tmp_path):
    """Each case is one cell of a notebook, run by pytest as the course's are."""
    cells = []
    for number, (source, executed, committed, _) in enumerate(CELLS.values(), start=1):
        outputs = committed_outputs(source, committed, number)
        cells.append(new_code_cell(source.format(executed), outputs=outputs, execution_count=number))
    nbformat.write(new_notebook(cells=cells), tmp_path / "cases.ipynb")
    plugin = ["-p", "tests.nbval_numbers", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", "-q"]
    command = [sys.executable, "-m", "pytest", *plugin, "--nbval", "--nbval-current-env", "cases.ipynb"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    found = re.findall(r"^(PASSED|FAILED) cases\.ipynb::Cell (\d+)", done.stdout, re.MULTILINE)
    outcomes = {list(CELLS)[int(number)]: outcome == "PASSED" for outcome, number in found}
    assert outcomes == {name: passes for name, (*_, passes) in CELLS.items()}, done.stdout
    assert "and the reason" in done.stdout


def test_the_course_uses_it(request):
    assert request.config.pluginmanager.has_plugin("tests.nbval_numbers")

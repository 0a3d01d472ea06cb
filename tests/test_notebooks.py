"""An audit of the notebooks themselves: executed in order, no errors, few mutes, each with its reason."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
COURSE = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
MUTES = re.compile(r"^# NBVAL_(IGNORE_OUTPUT|SKIP|RAISES_EXCEPTION)$", re.MULTILINE)
LONGEST_CELL = 25


def cells(path, kind):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind and cell.source.strip()]


def by_name(path):
    return path.stem


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=by_name)
def test_executed_in_order_without_errors(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=by_name)
def test_mutes_are_few_and_have_a_reason(path):
    code = cells(path, "code")
    muted = [cell for cell in code if MUTES.search(cell.source) or "nbval" in str(cell.metadata.get("tags", ""))]
    assert len(muted) <= max(2, len(code) // 4)
    for cell in muted:
        assert re.match(r"# NBVAL_\w+\n# why: \w+", cell.source), cell.source
        assert "NBVAL_SKIP" not in cell.source


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_anatomy(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    for part in (
        "**You will do",
        "**You will learn",
        "**You need",
        "## Check yourself",
        "## Exercises",
        "## In practice",
    ):
        assert part in text, part
    assert cells(path, "code")[0].source.count("stlib.setup(") == 1
    assert (ROOT / "notebooks" / "solutions" / f"{path.name[:2]}_solutions.ipynb").exists()


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_every_figure_has_alt_text_after_it(path):
    notebook = nbformat.read(path, as_version=4)
    figures = 0
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        if pictures:
            figures += 1
            assert following is not None
            assert following.cell_type == "markdown"
            assert re.match(r"\*\*Figure: .{20,}", following.source), following.source[:80]
            assert cell.source.rstrip().endswith("plt.show()")
    assert figures >= 1


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=by_name)
def test_no_long_cells_no_machine_paths_no_shell(path):
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= LONGEST_CELL
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE)
    text = json.dumps(nbformat.read(path, as_version=4))
    assert not re.search(r"/home/|/root/|/Users/|/tmp/|C:\\\\", text)
    assert str(ROOT) not in text


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_each_notebook_stands_alone(path):
    """No notebook reads what another one writes, unless through ``find_or_train``, which builds it when it is missing."""
    for cell in cells(path, "code"):
        assert not re.search(r"\.ipynb|runs[/\"']|%run|%store", cell.source), cell.source


def test_links_between_files_lead_somewhere():
    for path in [*COURSE, *SOLUTIONS, ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(((?!http|#|mailto)[^)\s\\]+)\)", text):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


def test_navigation_and_metadata_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "notebooks.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

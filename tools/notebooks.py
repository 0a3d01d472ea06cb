"""Make the notebooks ready to commit: stamp what is generated, execute at profile mini, strip what varies.

Generated are the badges, the set-up cell, the folded solutions and the navigation bar of each notebook. Their cells have a tag.

python tools/notebooks.py                 all notebooks
python tools/notebooks.py 03 05           only these
python tools/notebooks.py --no-execute    generated cells and metadata only
python tools/notebooks.py --check         fail where any generated cell or metadata would change
"""

import argparse
import base64
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

# The figures of the README: the picture above the Markdown cell that starts so, in that notebook.
FIGURES = {
    "loss_curves.png": ("04_loss_curve.ipynb", "**Figure: both curves over a logarithmic step axis.**"),
    "contest.png": ("08_better_recipes.ipynb", "**Figure: the contest on validation pairs.**"),
    "waterfall.png": ("10_train_faster.ipynb", "**Figure: the record of the long measurement.**"),
}


FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab's word for it, and Colab's
SETUP = """\
# @title Set-up: nothing to do where the course is installed; elsewhere it fetches the course and what is missing
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = ADDRESS
alone = False
if importlib.util.find_spec("stlib") is None:
    course = next((folder for folder in Path.cwd().parents if (folder / "stlib").is_dir()), Path("course").resolve())
    alone = course not in Path.cwd().parents
    if alone and not course.exists():
        if not REPOSITORY:
            raise RuntimeError("this notebook is alone: clone the course, and open it from the folder notebooks")
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(course)], check=True)
    sys.path.insert(0, str(course))
importlib.import_module("stlib.setup").prepare(alone)"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="such as 03; all by default")
    parser.add_argument("--no-execute", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    paths = course_notebooks()
    stale = []
    for path in [*paths, *solution_notebooks()]:
        if options.numbers and path.name[:2] not in options.numbers:
            continue
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        stamp(notebook, path, paths)
        if not (options.no_execute or options.check):
            execute(notebook, path)
        tidy(notebook)
        after = nbformat.writes(notebook) + "\n"
        if options.check:
            if after != before:
                stale.append(path.name)
        elif after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            print(f"wrote {path.name}")
        for figure in () if options.check else [name for name, (source, _) in FIGURES.items() if source == path.name]:
            (ROOT / "docs").mkdir(exist_ok=True)
            (ROOT / "docs" / figure).write_bytes(picture_before(notebook, FIGURES[figure][1]))
    if stale:
        print(f"not up to date: {', '.join(stale)}; run make notebooks", file=sys.stderr)
    return 1 if stale else 0


def picture_before(notebook, start: str) -> bytes:
    """The PNG of the cell above the Markdown cell that starts with ``start``."""
    at = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith(start))
    return base64.b64decode(
        next(o["data"]["image/png"] for o in notebook.cells[at - 1].outputs if "image/png" in o.get("data", {}))
    )


def course_notebooks() -> list[Path]:
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def solution_notebooks() -> list[Path]:
    return sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))


def course_settings() -> dict[str, str]:
    """``repository`` and ``branch``, as ``pyproject.toml`` has them."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]


def github_name(repository: str) -> str | None:
    """OWNER/NAME of an address on GitHub, the only one that Colab, Kaggle and Binder open; None for any other."""
    host = "https://github.com/"
    return repository.removeprefix(host).removesuffix(".git") if repository.startswith(host) else None


def colab_badge(place: str) -> str:
    """A badge that opens OWNER/NAME/blob/BRANCH/PATH on Colab."""
    host = "https://colab.research.google.com"
    return f"[![Open in Colab]({host}/assets/colab-badge.svg)]({host}/github/{place})"


def title(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ").strip()
    raise ValueError(f"{path.name} has no title")


def stamp(notebook, path: Path, paths: list[Path], repository: str | None = None) -> None:
    """Put every generated cell anew. ``repository`` is the address, by default the one in ``pyproject.toml``."""
    settings = course_settings()
    repository = settings["repository"] if repository is None else repository
    add_setup(notebook, SETUP.replace("ADDRESS", json.dumps(repository)))
    if path in paths:
        add_badges(notebook, path, repository, settings["branch"])
        add_solutions(notebook, NOTEBOOKS / "solutions" / f"{path.name[:2]}_solutions.ipynb")
        add_navigation(notebook, path, paths)


def add_setup(notebook, source: str) -> None:
    """Make the first code cell the set-up cell; what it printed stays, as the next run prints the same."""
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    if "setup" in notebook.cells[first].metadata.get("tags", []):
        notebook.cells[first].source = source
    else:
        notebook.cells.insert(first, made("code", source, "setup"))


def made(kind: str, source: str, tag: str):
    """A new cell with one tag."""
    new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    return new(source, metadata={"tags": [tag]})


def drop(notebook, tag: str) -> None:
    notebook.cells = [cell for cell in notebook.cells if tag not in cell.metadata.get("tags", [])]


def add_badges(notebook, path: Path, repository: str, branch: str) -> None:
    """Badges under the title that open the notebook on Colab and Kaggle, which know GitHub's addresses only."""
    drop(notebook, "badges")
    name = github_name(repository)
    if name is None:
        return
    place = f"{name}/blob/{branch}/notebooks/{path.name}"
    badges = [
        colab_badge(place),
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{place})",
    ]
    notebook.cells.insert(1, made("markdown", "\n".join(badges), "badges"))


def add_solutions(notebook, solutions: Path) -> None:
    """A folded solution below each template of an exercise, from the code of the solutions notebook."""
    drop(notebook, "solution")
    answers = read_solutions(solutions)
    for cell in list(notebook.cells):
        found = re.search(r"check\(\"\d\d\.(\d)\"", cell.source) if cell.cell_type == "code" else None
        if found:
            text = f"<details><summary>Solution of exercise {found[1]}</summary>\n\n```python\n{answers[found[1]]}\n```\n\n</details>"
            notebook.cells.insert(notebook.cells.index(cell) + 1, made("markdown", text, "solution"))


def read_solutions(path: Path) -> dict[str, str]:
    """The code of each exercise: that of the cells between its heading, ``## 1. …``, and the next."""
    answers, number = {}, None
    for cell in nbformat.read(path, as_version=4).cells:
        heading = re.match(r"## (\d)\. ", cell.source) if cell.cell_type == "markdown" else None
        number = heading[1] if heading else number
        if cell.cell_type == "code" and number:
            answers[number] = "\n\n\n".join(filter(None, [answers.get(number), cell.source]))
    return answers


def add_navigation(notebook, path: Path, paths: list[Path]) -> None:
    """Put the bar with the previous and the next notebook at the end, in a cell tagged ``navigation``."""
    at = paths.index(path)
    links = []
    if at > 0:
        links.append(f"Previous: [{title(paths[at - 1])}]({paths[at - 1].name})")
    links.append("[Course map](../README.md#course-map)")
    if at + 1 < len(paths):
        links.append(f"Next: [{title(paths[at + 1])}]({paths[at + 1].name})")
    drop(notebook, "navigation")
    notebook.cells.append(made("markdown", "---\n\n" + " · ".join(links), "navigation"))


def execute(notebook, path: Path) -> None:
    """Run all cells at profile mini, without progress bars, in the notebook's folder."""
    os.environ.update(
        TQDM_DISABLE="1", STLIB_PROFILE="mini", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1"
    )
    for name in ("STLIB_DATA", "STLIB_NLI_SPLIT", "STLIB_MAX_STEPS"):
        os.environ.pop(name, None)
    print(f"executing {path.name}", flush=True)
    client = NotebookClient(
        notebook,
        timeout=1_800,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()


def tidy(notebook) -> None:
    """Keep only what is the same on every machine: one kernel name, numbered cell ids, no time stamps."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells, 1):
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
            for output in cell.outputs:  # a widget lives as long as its kernel; the picture beside it stays
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        cell["id"] = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if "setup" in cell.metadata.get("tags", []):
            cell.metadata.update(FOLDED)


def joined(outputs: list) -> list:
    """The outputs with neighbouring pieces of one stream put together: where they break is a matter of timing."""
    result = []
    for output in outputs:
        previous = result[-1] if result else None
        if previous and output.output_type == previous.output_type == "stream" and output.name == previous.name:
            previous.text += output.text
        else:
            result.append(output)
    return result


if __name__ == "__main__":
    sys.exit(main())

"""Make the notebooks ready to commit: stamp what is generated, execute at profile mini, strip what varies.

Generated are the badges, the set-up cell (that of notebook 01 in all), the folded solutions and the navigation bar.
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
HOW = {"extra_arguments": ["--IPKernelApp.log_level=40"], "coalesce_streams": True}  # a kernel runs a notebook
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]
BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{0})
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{0})"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", help="such as 03; all by default")
    parser.add_argument("--no-execute", action="store_true", help="stamp and strip only")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if anything would change")
    options = parser.parse_args()
    texts = {}
    for path in [*course_notebooks(), *course_notebooks("solutions/")]:
        if options.numbers and path.name[:2] not in options.numbers:
            continue
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook, path)
        if not (options.no_execute or options.check):
            print(f"executing {path.name}", flush=True)
            outside = {name: value for name, value in os.environ.items() if name[:6] != "STLIB_" or name[6:] == "RUNS"}
            client = NotebookClient(notebook, timeout=1_800, resources={"metadata": {"path": str(path.parent)}}, **HOW)
            client.execute(env={**outside, **QUIET, "STLIB_PROFILE": "mini"})
        tidy(notebook)
        texts[path] = nbformat.writes(notebook) + "\n"
        for at, cell in enumerate(() if options.check else notebook.cells):
            for tag in filter(
                lambda tag: tag.endswith(".png"), tags(cell)
            ):  # the figure above it is shown elsewhere too
                (ROOT / "docs" / tag).write_bytes(pictures(notebook.cells[at - 1])[0])
    return write(texts, options.check)


def write(texts: dict[Path, str], check: bool) -> int:
    """Write the files whose text differs and return 0; or, to check, name them and return 1 if there are any."""
    stale = [path for path, text in texts.items() if text != path.read_text(encoding="utf-8")]
    for path in () if check else stale:
        path.write_text(texts[path], encoding="utf-8", newline="\n")
        print(f"wrote {path.name}")
    if check and stale:
        print(f"not up to date: {', '.join(path.name for path in stale)}; run make stamp", file=sys.stderr)
    return int(check and bool(stale))


def course_notebooks(folder: str = "") -> list[Path]:
    return sorted((ROOT / "notebooks" / folder).glob("[0-9][0-9]_*.ipynb"))


def pictures(*cells) -> list[bytes]:
    """Return the pictures among the outputs of cells, as PNG files."""
    found = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data["image/png"]) for data in found if "image/png" in data]


def title(path: Path) -> str:
    """Return the first heading of a notebook."""
    text = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.source[:2] == "# ")
    return text.partition("\n")[0][2:].strip()


def badges(repository: str, name: str) -> str:
    """Return badges that open a notebook on Colab and Kaggle, which know GitHub's addresses only; else ""."""
    host, owned = "https://github.com/", repository.removesuffix(".git")
    place = f"{owned.removeprefix(host)}/blob/{SETTINGS['branch']}/notebooks/{name}"
    return BADGES.format(place) if owned.startswith(host) else ""


def stamp(notebook, path: Path, repository: str | None = None) -> None:
    """Replace every generated cell. ``repository`` is the address, by default the one in ``pyproject.toml``."""
    repository, paths = SETTINGS["repository"] if repository is None else repository, course_notebooks()
    cells = [cell for cell in notebook.cells if not {"badges", "solution", "navigation"} & tags(cell)]
    first = next(cell for cell in nbformat.read(paths[0], as_version=4).cells if "setup" in tags(cell))
    setup = next(cell for cell in cells if "setup" in tags(cell))  # its output stays: it is always the same
    setup.source = re.sub("(?m)^REPOSITORY = .*", f"REPOSITORY = {json.dumps(repository)}", first.source)
    setup.metadata = first.metadata
    if path in paths:
        cells = with_solutions(cells, path.parent / "solutions" / f"{path.name[:2]}_solutions.ipynb")
        if links := badges(repository, path.name):
            cells.insert(1, made(links, "badges", "remove-cell"))
        at = paths.index(path)
        links = [f"Previous: [{title(before)}]({before.name})" for before in paths[max(at - 1, 0) : at]]
        links += ["[Course map](../README.md#course-map)"]
        links += [f"Next: [{title(after)}]({after.name})" for after in paths[at + 1 : at + 2]]
        cells.append(made("---\n\n" + " · ".join(links), "navigation", "remove-cell"))
    notebook.cells = cells


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def made(source: str, *tags: str):
    """Return a new Markdown cell; the site leaves out what is tagged ``remove-cell``."""
    return nbformat.v4.new_markdown_cell(source, metadata={"tags": list(tags)})


def with_solutions(cells: list, solutions: Path) -> list:
    """Return the cells with a folded solution below each template: the code under the heading ``## 1. …`` there."""
    answers, number, result = {}, None, []
    for cell in nbformat.read(solutions, as_version=4).cells:
        heading = re.match(r"## (\d)\. ", cell.source) if cell.cell_type == "markdown" else None
        number = heading[1] if heading else number
        if cell.cell_type == "code":
            answers.setdefault(number, []).append(cell.source)
    for cell in cells:
        result.append(cell)
        if cell.cell_type == "code" and (found := re.search(r"check\(\"\d\d\.(\d)\"", cell.source)):
            fold = f"<details><summary>Solution of exercise {found[1]}</summary>\n\n```python\n"
            result.append(made(fold + "\n\n\n".join(answers[found[1]]) + "\n```\n\n</details>", "solution"))
    return result


def tidy(notebook) -> None:
    """Keep only what is the same on every machine: one kernel name, numbered cell ids, no time stamps."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number:02d}"
        kept = ("tags", "jupyter", "cellView") if "setup" in tags(cell) else ("tags",)
        cell.metadata = {name: cell.metadata[name] for name in kept if cell.metadata.get(name)}
        for output in cell.get("outputs", []):  # a widget lives as long as its kernel; the picture beside it stays
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


if __name__ == "__main__":
    sys.exit(main())

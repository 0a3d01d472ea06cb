"""Make notebooks and README ready to commit: stamp what is generated, execute at profile mini, strip what varies.

Generated are the badges, the set-up cell (that of notebook 01 in all), the folded solutions, the navigation bar, and the course
map of the README. The address in badges and set-up cells is that of this copy, so a fork needs no edit.
"""

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
HOW = {"extra_arguments": ["--IPKernelApp.log_level=40"], "coalesce_streams": True}  # a kernel runs a notebook
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
ADDRESS = r'^REPOSITORY = "(.*)"$'
TITLE = r"^# (.+)"
REMOTE = re.compile(r"(?:\w+://)?(?:[^@/]*@)?([\w-]+(?:\.[\w-]+)+)(?::\d+)?[:/](.+?)(?:\.git)?/?")  # of no local folder
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?\n(<!-- end -->)", re.DOTALL)
BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{0})
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{0})"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", help="such as 03; all by default")
    parser.add_argument("--no-execute", action="store_true", help="stamp and strip only")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if anything would change")
    parser.add_argument("--workspace", metavar="DIR", help="only copy the notebooks to a new folder, to work in")
    options = parser.parse_args()
    if options.workspace is not None:
        if not options.workspace or Path(options.workspace).exists():
            parser.error(f"{options.workspace or 'no name'} is no new folder: name one, as in DIR=../my_course")
        shutil.copytree(ROOT / "notebooks", options.workspace, ignore=shutil.ignore_patterns(".*"))
        print(f"workspace: open it with {Path(sys.executable).parent / 'jupyter'} lab {options.workspace}")
        return 0
    # A check takes the address that is there, so that what was stamped in one copy passes the tests in another.
    repository = first(ADDRESS, course_notebooks()[0]) if options.check else address()
    tables = {"badges": badges(repository, "01_base_model.ipynb"), "course-map": course_map()}
    readme = BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]]}\n{block[3]}", README.read_text(encoding="utf-8"))
    texts = {README: readme}
    for path in [*course_notebooks(), *course_notebooks("solutions/")]:
        if options.numbers and path.name[:2] not in options.numbers:
            continue
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook, path, repository)
        if not (options.no_execute or options.check):
            print(f"executing {path.name}", flush=True)
            outside = {name: value for name, value in os.environ.items() if name[:6] != "STLIB_" or name[6:] == "RUNS"}
            client = NotebookClient(notebook, timeout=1_800, resources={"metadata": {"path": str(path.parent)}}, **HOW)
            client.execute(env={**outside, **QUIET, "STLIB_PROFILE": "mini"})
        tidy(notebook)
        texts[path] = nbformat.writes(notebook) + "\n"
        for above, cell in () if options.check else pairwise(notebook.cells):
            for name in {tag for tag in tags(cell) if tag.endswith(".png")}:  # this figure is shown elsewhere too
                (ROOT / "docs" / name).write_bytes(pictures(above)[0])
    stale = [path for path, text in texts.items() if text != path.read_text(encoding="utf-8")]
    for path in stale:
        print(f"{path.name} is not up to date: run make stamp" if options.check else f"wrote {path.name}")
        if not options.check:
            path.write_text(texts[path], encoding="utf-8", newline="\n")
    return int(options.check and bool(stale))


def course_notebooks(folder: str = "") -> list[Path]:
    return sorted((ROOT / "notebooks" / folder).glob("[0-9][0-9]_*.ipynb"))


def pictures(*cells) -> list[bytes]:
    """Return the pictures among the outputs of cells, as PNG files."""
    found = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data["image/png"]) for data in found if "image/png" in data]


def first(pattern: str, path: Path) -> str:
    """Return what the group of a pattern is where it first matches a line in the cells of a notebook."""
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    return re.search(pattern, text, re.MULTILINE)[1]


def badges(repository: str, name: str) -> str:
    """Return badges that open a notebook on Colab and Kaggle, which know GitHub's addresses only; else ""."""
    host, _, owned = repository.partition("https://github.com/")
    return BADGES.format(f"{owned}/blob/main/notebooks/{name}") if owned and not host else ""


def address() -> str:
    """Return the address of this copy, which the workflow knows that stamps it, or else its git remote; or ""."""
    if "GITHUB_REPOSITORY" in os.environ:
        return "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}".format(**os.environ)
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    found = REMOTE.fullmatch(asked.stdout.strip())  # its host and path, without the name and token that it may hold
    return f"https://{found[1]}/{found[2]}" if found else ""


def stamp(notebook, path: Path, repository: str) -> None:
    """Replace every generated cell; ``repository`` is the address in badges and set-up cell, "" if there is none."""
    paths = course_notebooks()
    cells = [cell for cell in notebook.cells if not {"badges", "solution", "navigation"} & tags(cell)]
    model = next(cell for cell in nbformat.read(paths[0], as_version=4).cells if "setup" in tags(cell))
    setup = next(cell for cell in cells if "setup" in tags(cell))  # its output stays: it is always the same
    setup.source = re.sub(ADDRESS, f'REPOSITORY = "{repository}"', model.source, flags=re.MULTILINE)
    setup.metadata = model.metadata
    if path in paths:
        cells = with_solutions(cells, path.parent / "solutions" / f"{path.name[:2]}_solutions.ipynb")
        if links := badges(repository, path.name):
            cells.insert(1, made(links, "badges", "remove-cell"))
        at = paths.index(path)
        links = [f"Previous: [{first(TITLE, before)}]({before.name})" for before in paths[max(at - 1, 0) : at]]
        links += ["[Course map](../README.md#course-map)"]
        links += [f"Next: [{first(TITLE, after)}]({after.name})" for after in paths[at + 1 : at + 2]]
        cells.append(made("---\n\n" + " · ".join(links), "navigation", "remove-cell"))
    notebook.cells = cells


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def made(source: str, *tags: str):
    """Return a new Markdown cell; the site leaves out what is tagged ``remove-cell``."""
    return nbformat.v4.new_markdown_cell(source, metadata={"tags": list(tags)})


def with_solutions(cells: list, solutions: Path) -> list:
    """Return the cells with a folded solution below each template: code and text under the heading ``## 1. …`` there."""
    answers, texts, number, result = defaultdict(list), defaultdict(list), "", []
    for cell in nbformat.read(solutions, as_version=4).cells:
        if heading := re.match(r"## (\d)\. ", cell.source):
            number = heading[1]
        else:
            (answers if cell.cell_type == "code" else texts)[number].append(cell.source)
    for cell in cells:
        result.append(cell)
        if cell.cell_type == "code" and (found := re.search(r"check\(\"\d\d\.(\d)\"", cell.source)):
            code = "\n\n\n".join(answers[found[1]])
            text = "\n\n".join([f"```python\n{code}\n```", *texts[found[1]]])
            fold = f"<details><summary>Solution of exercise {found[1]}</summary>\n\n{text}\n\n</details>"
            result.append(made(fold, "solution"))
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


def course_map() -> str:
    """Return one row per notebook: what you do there, and its time."""
    patterns = TITLE, r"^\*\*You will do:\*\* (.+?)\.(?:\s|$)", r"^- \*Time:\* (.+?) on two CPU cores"
    found = [(path.name, *(first(pattern, path) for pattern in patterns)) for path in course_notebooks()]
    rows = [f"| [{name[:2]} {title}](notebooks/{name}) | {task} | {time} |" for name, title, task, time in found]
    return "\n".join(["| notebook | you will | time on two CPU cores |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    sys.exit(main())

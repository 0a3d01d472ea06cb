"""Build the course into a static site: the README, the notebooks with their outputs, the solutions and the glossary.

    python tools/book.py            build/book, with the pages' sources in build/book_source

The notebooks are not run again. Sphinx does the building, MyST-NB reads the notebooks, and the theme is the Sphinx Book Theme.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from notebooks import course_notebooks, solution_notebooks, title

ROOT = Path(__file__).resolve().parents[1]
SOURCE, SITE = ROOT / "build" / "book_source", ROOT / "build" / "book"
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "notebooks/*.ipynb",
    "notebooks/*.md",
    "notebooks/solutions/*.ipynb",
    "docs/*.md",
)
FILES = (
    "LICENSE",
    "CITATION.cff",
    "Makefile",
    "docs/*.png",
    "stlib/records/*.json",
    "tools/*.py",
)  # what pages link to
ELSEWHERE = {"setup", "badges", "navigation"}  # tags of cells that serve in a notebook only


def main() -> int:
    gather()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        ROOT / "docs",
        SOURCE,
        SITE,
    ]
    done = subprocess.run(command, check=False)
    if done.returncode == 0:
        print(f"built {SITE.relative_to(ROOT)}: open {(SITE / 'index.html').relative_to(ROOT)}")
    return done.returncode


def gather() -> None:
    """Copy what the site shows into ``build/book_source``, with the README as its first page."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for path in (path for pattern in (*PAGES, *FILES) for path in sorted(ROOT.glob(pattern))):
        place = SOURCE / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            nbformat.write(prepared(nbformat.read(path, as_version=4)), place)
        else:
            shutil.copy(path, place)
    for page in (*SOURCE.rglob("*.md"), *SOURCE.rglob("*.ipynb")):
        text = page.read_text(encoding="utf-8").replace("README.md", "index.md")
        page.write_text(
            text.replace("(notebooks/solutions)", "(notebooks/solutions/01_solutions.ipynb)"), encoding="utf-8"
        )
    (SOURCE / "README.md").rename(SOURCE / "index.md")
    with (SOURCE / "index.md").open("a", encoding="utf-8") as file:
        file.write("\n" + contents())


def prepared(notebook):
    """A notebook for the site: without what serves on other machines only, and with alt text on each figure."""
    notebook.cells = [cell for cell in notebook.cells if not ELSEWHERE & set(cell.metadata.get("tags", []))]
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            cell.metadata["mystnb"] = {"image": {"alt": plain(following.source)}}
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):  # pandas leaves the corner of a table as an empty heading
                output["data"]["text/html"] = "".join(output["data"]["text/html"]).replace("<th></th>", "<td></td>")
    return notebook


def plain(figure: str) -> str:
    """The text of a Markdown cell that describes a figure, without its marks."""
    return re.sub(r"[*`$]|\[([^\]]*)\]\([^)]*\)", r"\1", figure.split("\n\n")[0]).removeprefix("Figure: ").strip()


def contents() -> str:
    """The tables of contents of the first page, which make the site's side bar."""
    parts = {
        "Notebooks": [f"{path.name[:2]} {title(path)} <notebooks/{path.stem}>" for path in course_notebooks()],
        "Solutions": [f"Solutions {path.name[:2]} <notebooks/solutions/{path.stem}>" for path in solution_notebooks()],
        "More": ["notebooks/glossary", "CONTRIBUTING", "CHANGELOG", "docs/tests", "docs/licences"],
    }
    return "\n".join(
        "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
        for caption, pages in parts.items()
    )


if __name__ == "__main__":
    sys.exit(main())

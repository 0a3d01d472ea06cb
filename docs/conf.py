"""Settings of the site that ``make book`` builds from the README, the notebooks with their outputs and the other pages."""

import os
import re
import shutil
from pathlib import Path

from docutils import nodes

from tools.notebooks import TITLE, course_notebooks, first

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}".format(**os.environ) if "GITHUB_REPOSITORY" in os.environ else ""

author = "The authors of the course"
project = "Fine-tune sentence embeddings"
html_title = project
language = "en"
extensions = ["myst_nb", "sphinx-mathjax-offline"]  # formulas need no connection
root_doc = "README"
include_patterns = ["*.md", "notebooks/*.ipynb", "notebooks/*.md", "notebooks/solutions/*.ipynb", "docs/*.md"]
exclude_patterns = [".*", "build", "runs", "stlib", "tests", "tools", "research", "**/.ipynb_checkpoints"]
nb_render_markdown_format = "gfm"  # cards have tables
nb_execution_mode = "off"  # the committed outputs are tested where they are made
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    **({"repository_url": REPOSITORY, "use_repository_button": True} if REPOSITORY else {}),
}
templates_path = ["templates"]
html_sidebars = {"**": ["home.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
# With their numbers, by which the text calls them.
NUMBERED = "\n".join(f"{path.name[:2]} {first(TITLE, path)} <notebooks/{path.stem}>" for path in course_notebooks())
CONTENTS = f"""
```{{toctree}}
:hidden:
:caption: Notebooks

{NUMBERED}
```
```{{toctree}}
:hidden:
:glob:
:caption: Solutions

notebooks/solutions/*
```
```{{toctree}}
:hidden:
:glob:
:caption: More

notebooks/glossary
CONTRIBUTING
CHANGELOG
docs/*
```
"""


def setup(app) -> None:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", make_accessible)
    app.connect("build-finished", write_index)


def add_contents(app, page: str, content: list[str]) -> None:
    """Add the tables of contents, which make the side bar, to the first page: a reader on GitHub would see their source."""
    if page == root_doc:
        content[0] += CONTENTS


def make_accessible(app, doctree) -> None:
    """Give each figure the text below it as its alt text, and empty corners of tables no heading, or a word."""
    silent = []
    for node in list(doctree.findall()):
        if isinstance(node, nodes.image) and not node.get("alt"):
            silent.append(node)
        elif isinstance(node, nodes.paragraph) and node.astext().startswith("Figure: "):
            for image in silent:
                image["alt"] = re.sub(r"\s+", " ", node.astext()).removeprefix("Figure: ")
            silent = []
        elif isinstance(node, nodes.raw):
            text = node.astext().replace("<th></th>", "<td></td>")
            node.children = [nodes.Text(text)]
        elif isinstance(node, nodes.thead):
            for corner in [entry for entry in node.findall(nodes.entry) if not entry.astext()]:
                corner += nodes.paragraph(text="row")


def write_index(app, error) -> None:
    """Let the site's address open the README."""
    if error is None and app.builder.name == "html":
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")

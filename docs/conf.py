"""Settings of the site that ``make book`` builds. The pages come from ``tools/book.py``."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]["repository"]

project = "Fine-tune sentence embeddings"
html_title = project
language = "en"
extensions = ["myst_nb", "sphinx-mathjax-offline"]  # formulas need no connection
nb_execution_mode = "off"  # the committed outputs are tested where they are made
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["build"]
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
templates_path = [str(ROOT / "docs" / "templates")]
html_sidebars = {"**": ["home.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_copy_source = False
html_show_sourcelink = False
html_static_path = []

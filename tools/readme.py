"""Regenerate the course map and the table of results of README.md from notebooks and records: write it, or --check it."""

import re
import sys

import nbformat
import pandas as pd

from notebooks import ROOT, SETTINGS, badges, course_notebooks, title, write
from stlib import records

BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?\n(<!-- end -->)", re.DOTALL)


def main() -> int:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]]()}\n{block[3]}", text)
    return write({ROOT / "README.md": text}, "--check" in sys.argv)


def course_map() -> str:
    """Return one row per notebook: what you do there, and its time."""
    rows = []
    for path in course_notebooks():
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        task = re.search(r"^\*\*You will do:\*\* (.+?)\.(?:\s|$)", text, re.MULTILINE)[1]
        time = re.search(r"^- \*Time:\* (.+?) on two CPU cores", text, re.MULTILINE)[1]
        rows.append((f"[{path.name[:2]} {title(path)}](notebooks/{path.name})", task, time))
    return table(("notebook", "you will", "time on two CPU cores"), rows)


def contest() -> str:
    """Return the contest of notebook 08, the best on validation pairs first."""
    record = records.load("better_recipes")
    runs = pd.DataFrame([*record["runs"], {"contender": "base model", **record["base"]}])
    kinds = {"seed": "nunique", "validation": "mean", "sts_mean": "mean", "nli_refit": "mean"}
    found = runs.groupby("contender").agg(kinds).sort_values("validation", ascending=False)
    rows = [(name, seeds or "-", *(f"{score:.1f}" for score in scores)) for name, seeds, *scores in found.itertuples()]
    return table(("recipe", "seeds", "STS, validation", "STS, test mean", "NLI, fresh head"), rows)


def table(columns, rows) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (columns, ["---"] * len(columns), *rows))


BLOCKS = {
    "badges": lambda: badges(SETTINGS["repository"], "01_base_model.ipynb"),
    "course-map": course_map,
    "contest": contest,
}

if __name__ == "__main__":
    sys.exit(main())

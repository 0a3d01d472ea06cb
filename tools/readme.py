"""Regenerate the course map and the table of results of README.md from notebooks and records: write it, or --check it."""

import re
import sys

import nbformat
import pandas as pd

from notebooks import BADGES, ROOT, SETTINGS, course_notebooks, github_place, title, write
from stlib import records

BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?\n(<!-- end -->)", re.DOTALL)


def main() -> int:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]]()}\n{block[3]}", text)
    return write({ROOT / "README.md": text}, "--check" in sys.argv)


def badges() -> str:
    place = github_place(SETTINGS["repository"], "notebooks/01_base_model.ipynb")
    return BADGES.format(place) if place else ""


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
    rows = []
    for name, group in sorted(runs.groupby("contender"), key=lambda item: -item[1]["validation"].mean()):
        lowest, highest, seeds = group["validation"].min(), group["validation"].max(), group["seed"].nunique()
        scores = [f"{group[score].mean():.1f}" for score in ("validation", "sts_mean", "nli_refit")]
        scores[0] += f" ({lowest:.1f} to {highest:.1f})" if seeds > 1 else ""
        rows.append((name, seeds or "-", *scores))
    return table(("recipe", "seeds", "STS, validation", "STS, test mean", "NLI, fresh head"), rows)


def table(columns, rows) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (columns, ["---"] * len(columns), *rows))


BLOCKS = {"badges": badges, "course-map": course_map, "contest": contest}

if __name__ == "__main__":
    sys.exit(main())

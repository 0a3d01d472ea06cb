"""Regenerate the tables of README.md and docs/results.md from notebooks and records, and environment.yml.

python tools/readme.py            write them
python tools/readme.py --check    fail if any of them would change
"""

import re
import sys
import tomllib

import nbformat
import pandas as pd

from notebooks import BADGES, ROOT, SETTINGS, course_notebooks, github_place, title, write
from stlib import forensics, records

BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?\n(<!-- end -->)", re.DOTALL)


def main() -> int:
    texts = {ROOT / name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md")}
    texts = {path: BLOCK.sub(lambda at: f"{at[1]}{BLOCKS[at[2]]()}\n{at[3]}", text) for path, text in texts.items()}
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    texts[ROOT / "environment.yml"] = ENVIRONMENT.format(re.match(r">=(3\.\d+)", requires)[1])
    return write(texts, "--check" in sys.argv)


def table(found: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    lines = [found.columns, ["---"] * len(found.columns), *found.astype(object).fillna("-").values]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def course_map() -> str:
    rows = []
    for path in course_notebooks():
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        task = re.search(r"^\*\*You will do:\*\* (.+?)\.(?:\s|$)", text, re.MULTILINE)[1]
        time = re.search(r"^- \*Time:\* (.+?) on two CPU cores", text, re.MULTILINE)[1]
        rows.append([f"[{path.name[:2]} {title(path)}](notebooks/{path.name})", task, time])
    return table(pd.DataFrame(rows, columns=["notebook", "you will", "two CPU cores"]))


def contest() -> str:
    base = {"contender": "base model", **records.load("better_recipes")["base"]}
    runs = pd.DataFrame([*records.load("better_recipes")["runs"], base]).groupby("contender")
    found = runs[["validation", "sts_mean", "nli_refit"]].mean().sort_values("validation", ascending=False).round(1)
    found.columns = ["STS, validation", "STS, test mean", "NLI, fresh head"]
    return table(found.assign(seeds=runs["seed"].nunique()).replace({"seeds": {0: "-"}}).reset_index(names="recipe"))


def hypotheses() -> str:
    found = forensics.verdicts(forensics.card_rows(forensics.curves(forensics.recorded())))
    found = found[found["row"] <= 1_000].dropna(subset="mean")
    cells = [f"{row.mean:.4f} ± {row.spread:.4f}" for row in found.itertuples()]
    shown = found.assign(cell=cells).pivot(index="hypothesis", columns="row", values="cell")
    card = found.groupby("row")["card"].first().map("{:.4f}".format)
    shown = pd.concat([card.rename("the published card").to_frame().T, shown.loc[found["hypothesis"].unique()]])
    return table(shown.set_axis(["steps 1-500", "steps 501-1,000"], axis=1).reset_index(names="hypothesis"))


def speed() -> str:
    rows = pd.DataFrame(records.load("bench_cpu")["rows"])
    rows = rows[["variant", "seconds_a_step", "times_stock", "lowest", "highest", "peak_memory_mb", "loss_gap"]]
    return table(rows.rename(columns=lambda name: name.replace("_a_", " per ").replace("_", " ")))


def head_cost() -> str:
    return table(forensics.with_spread(forensics.cost_table(forensics.cost_record())).reset_index())


BLOCKS = {
    "badges": lambda: BADGES.format(place) if (place := github_place(SETTINGS["repository"], FIRST)) else "",
    "course-map": course_map,
    "contest": contest,
    "hypotheses": hypotheses,
    "head-cost": head_cost,
    "speed": speed,
}
FIRST = "notebooks/01_base_model.ipynb"
ENVIRONMENT = """\
# conda env create -f environment.yml; Binder reads this file too. Made by tools/readme.py; the packages are those of
# requirements.txt.
name: stlib-course
channels:
  - conda-forge
dependencies:
  - python={}
  - pip
  - pip:
      - -r requirements.txt
      - -e .
"""

if __name__ == "__main__":
    sys.exit(main())

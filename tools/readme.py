"""Regenerate the tables of the README, the course map from the notebooks and the results from the records, and environment.yml.

python tools/readme.py            write them
python tools/readme.py --check    fail where any of them would change
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pandas as pd

from notebooks import colab_badge, course_notebooks, course_settings, github_name, title

ROOT = Path(__file__).resolve().parents[1]
README, ENVIRONMENT = ROOT / "README.md", ROOT / "environment.yml"
BLOCK = re.compile(r"<!-- generated: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for path, text in ((README, readme(README.read_text(encoding="utf-8"))), (ENVIRONMENT, environment())):
        if text != path.read_text(encoding="utf-8"):
            stale.append(path.name)
            if not options.check:
                path.write_text(text, encoding="utf-8", newline="\n")
                print(f"wrote {path.name}")
    if options.check and stale:
        print(f"not up to date: {', '.join(stale)}; run make stamp", file=sys.stderr)
    return 1 if options.check and stale else 0


def readme(text: str) -> str:
    """The README with every generated block made anew."""
    return BLOCK.sub(lambda block: f"<!-- generated: {block[1]} -->\n{BLOCKS[block[1]]()}\n<!-- end -->", text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def badges() -> str:
    """Badges that lead to the repository, or a line without an address to lead to."""
    settings = course_settings()
    name, branch = github_name(settings["repository"]), settings["branch"]
    if name is None:
        return ""
    address = f"https://github.com/{name}"
    return "\n".join(
        [
            f"[![Tests]({address}/actions/workflows/test.yml/badge.svg)]({address}/actions/workflows/test.yml)",
            colab_badge(f"{name}/blob/{branch}/notebooks/01_base_model.ipynb"),
            f"[![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/notebooks/01_base_model.ipynb)",
        ]
    )


def course_map() -> str:
    """One row a notebook: what you do there, and its times."""
    rows = []
    for path in course_notebooks():
        text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
        task = re.search(r"^\*\*You will do:\*\* (.+?)\.(?:\s|$)", text, re.MULTILINE)[1]
        times = re.search(r"^- \*Time:\* (.+?large GPU \(\w+\))", text, re.MULTILINE)[1]
        times = re.split(r"(?<=\)), ", times)
        times = [re.sub(r" on (two CPU cores|a Colab T4 machine|a large GPU)", "", time) for time in times]
        rows.append([f"[{path.name[:2]} {title(path)}](notebooks/{path.name})", task, *times])
    return table(["notebook", "you will", "two CPU cores", "Colab, T4", "large GPU"], rows)


CONTENDERS = {  # what the README calls the contenders of notebook 08
    "ranking_soup": "**ranking_soup**",
    "ranking": "ranking, one run",
    "softmax_product": "SoftmaxLoss, fast head, u * v",
    "softmax_fast": "SoftmaxLoss, fast head",
    "ranking_matryoshka_soup": "ranking_soup with MatryoshkaLoss",
    "ranking_long": "ranking, eight slow passes",
    "cosent": "CoSENT on label scores",
    "softmax_free": "SoftmaxLoss without Normalize, as in the SBERT paper",
    "softmax_trained": "SoftmaxLoss, head trained at the encoder's rate",
    "softmax_frozen": "SoftmaxLoss, head frozen: the card's recipe",
}


def contest() -> str:
    """The contest of notebook 08, the best on validation pairs first."""
    from stlib import records

    runs, base = records.table("better_recipes"), records.load("better_recipes")["base"]
    rows = [
        (
            base["validation"],
            ["base model", "-", f"{base['validation']:.1f}", f"{base['sts_mean']:.1f}", f"{base['nli_refit']:.1f}"],
        )
    ]
    for name, group in runs.groupby("contender"):
        found, seeds = group["validation"], len(group)
        spread = f" ({found.min():.1f} to {found.max():.1f})" if seeds > 1 else ""
        score = f"{found.mean():.1f}"
        score = f"**{score}**" if name == "ranking_soup" else score
        mean = f"{group['sts_mean'].mean():.1f}"
        mean = f"**{mean}**" if name == "ranking_soup" else mean
        nli = f"{group['nli_refit'].dropna().mean():.1f}"
        rows.append((found.mean(), [CONTENDERS[name], seeds, score + spread, mean, nli]))
    rows.sort(key=lambda row: -row[0])
    return table(["recipe", "seeds", "STS, validation", "STS, test mean", "NLI, fresh head"], [row for _, row in rows])


HYPOTHESES = {  # what the README calls the hypotheses of notebook 07
    "card": "**head frozen, 2e-5, warm-up 1,000** (recipe `card`)",
    "head trained": "the same, head trained",
    "as printed": "as printed: 5e-5, no warm-up, head trained",
    "warm-up 100": "head frozen, warm-up 100",
    "warm-up 10,000": "head frozen, warm-up 10,000 (the default of `fit`)",
    "card, noisy labels": "`card` with 6.9 % of the labels replaced",
    "head trained, noisy labels": "head trained with 6.9 % of the labels replaced",
}


def hypotheses() -> str:
    """Mean loss over the card's first two rows, hypothesis by hypothesis."""
    from stlib import forensics

    found = forensics.verdicts(forensics.card_rows(forensics.curves(forensics.recorded())))
    card = found.drop_duplicates("row").set_index("row")["card"]
    rows = [["the published card", f"{card[500]:.4f}", f"{card[1000]:.4f}"]]
    for name, label in HYPOTHESES.items():
        of_name = found[found["hypothesis"] == name].set_index("row")
        rows.append([label, *(with_spread(of_name, row) for row in (500, 1000))])
    return table(["hypothesis", "steps 1-500", "steps 501-1,000"], rows)


def with_spread(found: pd.DataFrame, row: int) -> str:
    if row not in found.index or pd.isna(found.loc[row, "mean"]):  # that run was not taken so far
        return "-"
    return f"{found.loc[row, 'mean']:.4f} ± {found.loc[row, 'spread']:.4f}"


def head_cost() -> str:
    """What a frozen head cost, measure by measure."""
    from stlib import forensics, records

    found = forensics.with_spread(forensics.cost_table(records.load("head_cost")))
    return table(
        ["measure", *found.columns], [[name, *row] for name, row in zip(found.index, found.values, strict=True)]
    )


def speed() -> str:
    """A training step, variant by variant."""
    from stlib import records

    rows = [
        [
            row["variant"],
            f"{row['seconds_a_step']:.3f}",
            f"{row['times_stock']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})",
            f"{100 * row['share_of_product_rate']:.0f}%",
            f"{row['peak_memory_mb']:,}",
            f"{row['loss_gap']:+.4f}",
        ]
        for row in records.load("bench_cpu")["rows"]
    ]
    columns = ["variant", "seconds a step", "times stock (lowest to highest)", "share of the products' rate"]
    return table([*columns, "peak memory (MB)", "loss gap"], rows)


def soak() -> str:
    """What the record of the soak says, in sentences."""
    from stlib import records

    record = records.load("soak")
    rounds = pd.DataFrame(record["rounds"])
    green = int(rounds["green"].sum())
    by_python = ", ".join(
        f"{len(group)} with Python {python} and transformers {transformers}"
        for (python, transformers), group in rounds.groupby(["python", "transformers"])
    )
    kernels = "; ".join(
        f"{found['kernels']} kernels, {found['at_once']} at a time: {'no error' if found['green'] else 'ERRORS'}, "
        f"{found['peak_memory_mb']:,} MB at most"
        for found in record["kernels"]
    )
    aim = "" if len(rounds) >= 20 else " so far (twenty are the aim)"
    killed = "the same bits" if all(found["green"] for found in record["tests"]) else "NOT the same bits"
    return (
        f"The soak ([record](stlib/records/soak.json)). All notebooks and solutions in random order, outputs compared: "
        f"{green} green of {len(rounds)} rounds in a row{aim}: {by_python}. Notebook 01 in many kernels: {kernels}, on a "
        f"machine with {record['memory_mb']:,} MB. Twenty runs killed at random moments and resumed: {killed}."
    )


BLOCKS = {
    "soak": soak,
    "badges": badges,
    "course-map": course_map,
    "contest": contest,
    "hypotheses": hypotheses,
    "head-cost": head_cost,
    "speed": speed,
}


def environment() -> str:
    """conda's file: the lowest Python that pyproject.toml allows, and the packages of requirements.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = re.match(r">=(3\.\d+)", project["requires-python"])[1]
    return "\n".join(
        [
            "# conda env create -f environment.yml; Binder reads this file too. Made by tools/readme.py; the packages are those of",
            "# requirements.txt.",
            "name: stlib-course",
            "channels:",
            "  - conda-forge",
            "dependencies:",
            f"  - python={python}",
            "  - pip",
            "  - pip:",
            "      - -r requirements.txt",
            "      - -e .",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

"""Quantities that several pages print, and the lines in which they print them: each has one value."""

import re

from tests.nbval_numbers import value_and_unit
from tests.prose import COURSE, ROOT, output_of, read

NUMBER, OTHER = r"([-+]?[\d,]+(?:\.\d+)?)", r"\S+"
INTERVAL = rf"{OTHER} to {OTHER}"


def columns(start: str, *parts: str) -> str:
    """Return the pattern of a line of a printed table, one part per column; ``NUMBER`` is the column that counts."""
    return rf"^ *{start} +" + r" +".join(parts)


def contest(recipe: str) -> dict[str, list[str]]:
    """Return seeds and three figures of a recipe of the contest, in the README's table and in the tables of notebook 08."""
    skipped, dash = rf"(?:{OTHER} +)", rf"\| {recipe} \| [-\d]+ \|"
    seeds = {f"{recipe}: seeds": [rf"\| {recipe} \| (\d) \|", columns(recipe, r"(\d)", *[OTHER] * 9) + "$"]}
    return (seeds if recipe != "base model" else {}) | {
        f"{recipe}: STS, validation": [
            rf"{dash} {NUMBER}",
            columns(recipe, r"(?:-|\d)", NUMBER, *[OTHER] * 8) + "$",
        ],
        f"{recipe}: STS, test mean": [
            rf"{dash} {OTHER} \| {NUMBER}",
            rf"^ *{recipe} +{skipped}{{5}}{NUMBER}$",
        ],
        f"{recipe}: NLI, fresh head": [
            rf"{dash} {OTHER} \| {OTHER} \| {NUMBER}",
            columns(recipe, r"(?:-|\d)", *[OTHER] * 4, NUMBER, *[OTHER] * 4) + "$",
        ],
    }


def base_on(task: str, name: str, place: int) -> dict[str, list[str]]:
    """Return the base model's score on an STS test set, measured and published, wherever it is printed."""
    before = rf"(?:{OTHER} +){{{place}}}"
    return {
        f"base model on {name}": [
            columns(task, r"[\d,]+", NUMBER, OTHER, OTHER, OTHER, OTHER),  # notebook 05
            rf"^ *base model +{before}{NUMBER}(?: +[\d.]+){{{5 - place}}}$",  # notebook 08
            rf"^{task} +Spearman {OTHER} \(base model {NUMBER},",  # the course on real data
            rf"^ *{name} +.*± .* ± {OTHER} +{NUMBER}$",  # notebook 07
            rf"^\| {name} \| [\d,]+ \| {NUMBER} \[",
            *([rf"^ *base model: {OTHER} +{NUMBER}$", rf"base model has {NUMBER} on STS-B"] if place == 4 else []),
        ],
        f"base model on {name}, published": [
            columns(task, r"[\d,]+", OTHER, OTHER, OTHER, NUMBER, OTHER),
            rf"^\| {name} \| [\d,]+ \| {OTHER} \[[^|]*\| {NUMBER} \|",
        ],
    }


RECIPES = ["ranking_soup", "ranking", "ranking_long", "ranking_matryoshka_soup", "base model", "cosent"]
RECIPES += [
    "ranking_unique",
    "ranking_guided",
    "softmax_product",
    "softmax_fast",
    "softmax_free",
    "softmax_trained",
    "softmax_frozen",
]
TASKS = {
    "sts12-sts": "STS12",
    "sts13-sts": "STS13",
    "sts14-sts": "STS14",
    "sts15-sts": "STS15",
    "stsbenchmark-sts": "STS-B",
}
QUANTITIES = {
    # The run trained_head-mini, which the notebooks share.
    "trained run: steps": [rf"^{NUMBER} steps of 64, 1 epoch", rf"loaded the run trained_head-mini: {NUMBER} steps"],
    "trained run: pairs": [r"1 epoch\(s\) of ([\d,]+) pairs", rf"trained_head-mini: \d+ steps on {NUMBER} pairs"],
    "trained run: final loss": [r"^26 +135 +1\.000 +(\S+)$", r"^15 +(0\.\d+) \(mean over the steps"],
    "trained run: NLI accuracy": [
        rf"^accuracy {NUMBER}, interval",
        rf"trained run labels {NUMBER} %",
    ],
    "trained run: NLI accuracy, low end": [
        rf"^accuracy {OTHER} interval {NUMBER} to",
        rf"trained run labels {OTHER} % \[{NUMBER},",
    ],
    "trained run: NLI accuracy, high end": [
        rf"^accuracy {OTHER} interval {OTHER} to {NUMBER}, macro",
        rf"trained run labels {OTHER} % \[{OTHER} {NUMBER}\]",
    ],
    "random head: NLI accuracy": [
        columns("validation accuracy", NUMBER, r"0\.\d+") + "$",
        rf"a random head, {NUMBER} %",
    ],
    "trained run: Spearman on mini STS": [
        columns("sts", "210", OTHER, INTERVAL, NUMBER, INTERVAL),
        rf"^trained head +Spearman {NUMBER} ",
        rf"Spearman on the mini STS set is {NUMBER}",
    ],
    "base model: Spearman on mini STS": [
        columns("sts", "210", NUMBER, INTERVAL),
        rf"^base +Spearman {NUMBER} ",
        rf"mini STS set is [\d.]+, the base model's {NUMBER}",
        rf"^6 layers, mean pooling: Spearman {NUMBER} on 210 pairs",
    ],
    "trained run less base on mini STS, low end": [
        rf"^sts, trained less base: {NUMBER} to",
        rf"^trained head +Spearman .* (?:less|minus) base: {OTHER} \[{NUMBER},",
    ],
    "trained run less base on mini STS, high end": [
        rf"^sts, trained (?:less|minus) base: {OTHER} to {NUMBER},",
        rf"^trained head +Spearman .* (?:less|minus) base: {OTHER} \[{OTHER} {NUMBER}\]",
    ],
    # The published card.
    "card: plateau of the loss": [
        rf"the card's plateau:? {NUMBER}",
        rf"^card, plateau +loss {NUMBER}",
        rf"plateau is {NUMBER}",
        rf"^after step 60,000: 17 rows, mean {NUMBER}",
    ],
    "card: row 500": [
        columns("500", OTHER, NUMBER),
        rf"^0\.0291 +500 +{NUMBER}",
        rf"^card, first row +loss {NUMBER}",
        columns("the published card", NUMBER, OTHER),
    ],
    # Records.
    "base model: NLI, fresh head, SNLI test": [
        columns("base model", "-", OTHER, "-", NUMBER),
        rf"^    base: {NUMBER}$",  # notebook 06, of a fresh head
        rf"NLI accuracy, fresh head .*± {OTHER} +{NUMBER}$",
    ],
    "frozen head: NLI accuracy": [rf"^NLI accuracy +{NUMBER} ±", rf"frozen\s+NLI accuracy is {NUMBER} ±"],
    "frozen head: STS-B": [rf"^STS-B +{NUMBER} ±", rf"and STS-B {NUMBER} ±"],
    "winner after the STS stage, seed 1": [rf"^winner +1: {OTHER} +{NUMBER}", rf"STS-B test is {NUMBER}, "],
    "winner less base model, all pairs, seed 1": [rf"^ *seed 1: 11,987 pairs {NUMBER} ", rf"three seeds, {NUMBER} \["],
    "base model: Banking77, mteb": [columns("mteb +banking77", OTHER, NUMBER), rf"MTEB's protocol: {NUMBER} measured"],
    "base model: Banking77, published": [
        columns("mteb +banking77", OTHER, OTHER, OTHER, OTHER, NUMBER),
        rf"measured \(in bf16\), {NUMBER} published",
    ],
    "packed bf16: times stock": [
        columns("packed, bf16", "bf16", OTHER, NUMBER),
        rf"Packed bf16 is {NUMBER} times",
        rf"frozen head costs, {NUMBER} times the speed",
    ],
    "packed bf16: seconds per step": [
        columns("packed, bf16", "bf16", NUMBER),
        r"in bf16, packed\s+\S+ s and ([\d.]+) s",
    ],
    "stock fp32: seconds per step": [columns("stock", "fp32", NUMBER), rf"stock takes {NUMBER} s in float32"],
}
for recipe in RECIPES:
    QUANTITIES |= contest(recipe)
for place, (task, name) in enumerate(TASKS.items()):
    QUANTITIES |= base_on(task, name, place)
del QUANTITIES["base model on STS12, published"]  # on one page only, as its test set differs from the published one


def pages() -> dict[str, str]:
    """Return what is searched: all outputs of each notebook, the README and the page of results."""
    outputs = {path.name[:2]: "\n".join(map(output_of, read(path).cells)) for path in COURSE}
    return outputs | {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md")}


def found(patterns: list[str], texts: dict[str, str]) -> list[tuple[str, str]]:
    """Return each value that is printed for a quantity, with its page."""
    values = ((page, pattern, text) for page, text in texts.items() for pattern in patterns)
    return [(page, match[1]) for page, pattern, text in values for match in re.finditer(pattern, text, re.MULTILINE)]


def agree(one: str, other: str) -> bool:
    """Return whether two values are one number, rounded to the digits of the shorter; 0.832 and 83.2 % are."""
    (a, unit), (b, other_unit) = value_and_unit(one), value_and_unit(other)
    if 0 < abs(a) < 1 < abs(b):
        a, unit = a * 100, unit * 100
    elif 0 < abs(b) < 1 < abs(a):
        b, other_unit = b * 100, other_unit * 100
    coarser = max(unit or 1, other_unit or 1)
    if unit == other_unit:
        return a == b
    return abs(a - b) <= coarser / 2


def disagreements(texts: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return the quantities that have more than one value, with all their places."""
    everywhere = {name: found(patterns, texts) for name, patterns in QUANTITIES.items()}
    return {
        name: places
        for name, places in everywhere.items()
        if any(not agree(one, other) for _, one in places for _, other in places)
    }

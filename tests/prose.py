"""Numbers in the text of notebooks, and the outputs and code near them that should show the same numbers."""

import re
from decimal import Decimal
from functools import cache
from pathlib import Path

import nbformat

from tests.nbval_numbers import NUMBER, value_and_unit

ROOT = Path(__file__).resolve().parents[1]
COURSE = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NOT_PROSE = [
    r"```.*?```",  # code, which is checked where it runs
    r"`[^`]*`",
    r"\$[^$]+\$",
    r"\]\([^)]*\)",  # targets of links
    r"<[^>]+>",
    r"\b\d{4}\.\d{4,5}\b",  # arXiv
    r"(?i)\b(?:versions?|python|transformers|torch|numpy|library|before) \(?\d+\.\d+(?:(?:, | and | or | to )\d+\.\d+)*",
    r"(?i)\b(?:sections?|tables?|figures?) \d+\.\d+",  # of a paper
    r"\b[01]\d\.\d\b",  # exercise 05.1
    r"CC BY \d\.\d|Apache-\d\.\d|Apache \d\.\d",
]
DECIMAL = re.compile(r"(?<![\w.,])[-+−]?\d+(?:,\d{3})*\.\d+(?!\w|\.\d)")
SECTION = re.compile(r"^## +(?:(\d+)\. )?(.*)$", re.MULTILINE)


@cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


def output_of(cell) -> str:
    """Return what a cell shows as text, with each table once."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return "\n".join(text for text in shown if not text.startswith("<Figure size"))


def numbers_in(text: str) -> frozenset[Decimal]:
    return frozenset(abs(value_and_unit(number)[0]) for number in NUMBER.findall(text))


@cache
def sections(path: Path) -> list[dict]:
    """Return the parts of a notebook from one heading of the second level to the next: ``number``, ``title``, ``cells``.

    The number is empty before section 1 and in the closing parts, which sum up: the quiz, the exercises and so on.
    """
    found = [{"number": "", "title": "beginning", "cells": []}]
    for index, cell in enumerate(read(path).cells):
        if cell.cell_type == "markdown" and (heading := SECTION.search(cell.source)):
            found.append({"number": heading[1] or "", "title": heading[2], "cells": []})
        found[-1]["cells"].append((index, cell))
    return found


@cache
def shown(path: Path, number: str | None = None) -> frozenset[Decimal]:
    """Return the numbers in outputs and code of a section, or of the whole notebook."""
    parts = [part for part in sections(path) if number is None or part["number"] == number]
    cells = [cell for part in parts for _, cell in part["cells"] if cell.cell_type == "code"]
    return numbers_in("\n".join(f"{cell.source}\n{output_of(cell)}" for cell in cells))


def is_shown(written: str, text: str, numbers: frozenset[Decimal]) -> bool:
    """Return whether a number of ``text`` is one of ``numbers``, rounded, or one of them as percent or in millions."""
    value, unit = value_and_unit(written)
    scales = [Decimal(1), *([Decimal(100)] if re.search("%|percent| x 100", text) else [])]
    scales += [Decimal("1e-6")] if f"{written} million" in text else []
    return any(abs(number * scale - abs(value)) <= unit / 2 for number in numbers for scale in scales)


def near(path: Path, part: dict, text: str) -> frozenset[Decimal]:
    """Return the numbers that a text may quote: of its section, and of sections and notebooks that it names.

    Parts without a number sum up, so the whole notebook is near them, and its solutions.
    """
    found = shown(path, part["number"] or None)
    for number in re.findall(r"[Ss]ections? (\d+)", text):
        found |= shown(path, number)
    named = {
        name
        for group in re.findall(r"[Nn]otebooks? ((?:\d\d(?:, | and | to )?)+)", text)
        for name in re.findall(r"\d\d", group)
    }
    for other in COURSE:
        if other.name[:2] in named:
            found |= shown(other)
    if not part["number"]:
        found |= shown(path.parent / "solutions" / f"{path.name[:2]}_solutions.ipynb")
    return found


def unsupported(path: Path) -> list[tuple[int, str, str]]:
    """Return the numbers with a decimal point that no output or code near them shows: cell, number, words around it."""
    found = []
    for part in sections(path):
        for index, cell in part["cells"]:
            if cell.cell_type != "markdown":
                continue
            text = cell.source
            for pattern in NOT_PROSE:
                text = re.sub(pattern, " ", text, flags=re.DOTALL)
            pool = near(path, part, text)
            for match in DECIMAL.finditer(text):
                written = match[0]
                if not is_shown(written, text, pool):
                    around = text[max(0, match.start() - 45) : match.end() + 25]
                    found.append((index, written, " ".join(around.split())))
    return found

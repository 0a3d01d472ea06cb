"""One quantity has one number, numbers in the prose are shown near it, and outputs show numbers rather than True."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.prose import COURSE, DECIMAL, output_of, read, unsupported
from tests.quantities import QUANTITIES, agree, disagreements, found, pages

# Quantities that have more than one number today, and why. Nothing may be added; what agrees again must go.
DISAGREE: dict[str, str] = {}
# Numbers that no output has to show, by notebook: cited figures with their source, and examples made up for a question.
CITED = {
    "02": {"16.30": "made up for an exercise", "0.14": "16.44 minus that"},
    "03": {"1.609": "ln 5", "2.7": "a version"},
    "04": {"0.55": "made up for a question", "0.001": "made up for an exercise"},
    "05": {"0.3": "an example of a model's scale", "77.8": "made up for a question"},
    "06": {"0.90": "made up for a question", "0.947": "follows from it", "0.316": "follows from it"},
    "07": {
        "6.8": "Bowman et al. 2015, table 2",
        "98.0": "Bowman et al. 2015, table 2",
        "6.9": "6.8 / 98.0",
        "6.2": "a version",
    },
    "08": {"0.5": "the score that a neutral pair is given"},
    "10": {"0.004": "made up for a question"},
}
# Of the lines that notebooks print, so many in 100 may say True or False.
MOST_BOOLEANS = 3
MOST_MUTED = 3


def by_number(path):
    return path.name[:2]


def test_one_quantity_has_one_number():
    found_now = disagreements(pages())
    assert {name: places for name, places in found_now.items() if name not in DISAGREE} == {}
    assert sorted(DISAGREE.keys() - found_now.keys()) == [], "these agree again: take them off the list"


@pytest.mark.parametrize("name", QUANTITIES)
def test_each_quantity_is_found_on_several_pages(name):
    """A quantity that is looked for in vain would never disagree."""
    assert len({page for page, _ in found(QUANTITIES[name], pages())}) >= 2


@pytest.mark.parametrize("page", ["05", "README.md", "docs/results.md"])
def test_another_number_is_noticed(page):
    texts = pages()
    texts[page] = texts[page].replace("135 steps", "22 steps").replace("78.1 |", "78.3 |").replace("81.9 %", "81.6 %")
    assert len(disagreements(texts)) == len(DISAGREE) + 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.832", "83.2", True),
        ("0.832", "0.829", False),
        ("0.9069", "0.907", True),
        ("81", "80.6", True),
        ("81", "80.4", False),
        ("61.2", "61.19", True),
        ("61.20", "61.19", False),
        ("8,640", "8640", True),
        ("270", "22", False),
        ("-4.1", "-4.12", True),
    ],
)
def test_numbers_agree_to_the_digits_of_the_shorter(one, other, same):
    assert agree(one, other) is same
    assert agree(other, one) is same


@pytest.mark.parametrize("path", COURSE, ids=by_number)
def test_numbers_in_the_prose_are_shown_near_it(path):
    number = path.name[:2]
    hidden = [entry for entry in unsupported(path) if entry[1].lstrip("-+−") not in CITED.get(number, {})]
    assert not hidden, "\n".join(f"[{cell}] {written}: … {words} …" for cell, written, words in hidden)


@pytest.mark.parametrize("path", COURSE, ids=by_number)
def test_cited_numbers_are_there(path):
    written = {match.lstrip("-+−") for cell in read(path).cells for match in DECIMAL.findall(cell.source)}
    assert not CITED.get(path.name[:2], {}).keys() - written


MADE = {
    "in the output": ("It is 0.83.", []),
    "as percent": ("It is 83.2 %.", []),
    "in the code": ("At a rate of 0.25.", []),
    "wrong": ("It is 0.84.", ["0.84"]),
    "in another section": ("It is 0.71.", ["0.71"]),
    "in a section that is named": ("It is 0.71, as in section 2.", []),
    "in code of the text": ("`x = 0.99` and [arXiv 1908.10084](https://example.org/0.77), version 6.2", []),
}


@pytest.mark.parametrize("name", MADE)
def test_the_prose_is_really_read(tmp_path, name):
    text, expected = MADE[name]

    def code(source, printed):
        return new_code_cell(source, outputs=[new_output("stream", text=printed)])

    cells = [new_markdown_cell("# A\n\nThis says 0.71 and 0.832."), new_markdown_cell("## 1. One")]
    cells += [code("rate = 0.25", "accuracy 0.832"), new_markdown_cell(text)]
    cells += [new_markdown_cell("## 2. Two"), code("x", "0.71"), new_markdown_cell("## Quiz\n\nBoth 0.71 and 0.832.")]
    (tmp_path / "solutions").mkdir()
    for path in (tmp_path / "01_made.ipynb", tmp_path / "solutions" / "01_solutions.ipynb"):
        nbformat.write(new_notebook(cells=cells if path.parent == tmp_path else []), path)
    assert [written for _, written, _ in unsupported(tmp_path / "01_made.ipynb")] == expected


def printed_lines() -> list[str]:
    texts = [output_of(cell) for path in COURSE for cell in read(path).cells]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def test_outputs_show_numbers_rather_than_true():
    lines = printed_lines()
    booleans = [line for line in lines if re.search(r"\b(?:True|False)\b", line)]
    assert len(lines) > 300
    assert 100 * len(booleans) / len(lines) <= MOST_BOOLEANS, "\n".join(booleans)


def test_muted_cells_do_not_get_more():
    cells = [cell for path in COURSE for cell in read(path).cells if cell.cell_type == "code"]
    muted = [cell for cell in cells if re.search(r"^# NBVAL_(?:IGNORE_OUTPUT|SKIP)", cell.source, re.MULTILINE)]
    assert 0 < len(muted) <= MOST_MUTED

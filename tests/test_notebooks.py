"""An audit of the notebooks themselves: executed in order, no errors, few mutes, each with its reason."""

import functools
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from tools import notebooks as tool

ROOT = Path(__file__).resolve().parents[1]
COURSE = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
GLOSSARY = ROOT / "notebooks" / "glossary.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TABLE_HEAD = re.compile(r"^(\|.*\|)\n\|[ :|-]+\|$", re.MULTILINE)
MUTES = re.compile(r"^# NBVAL_(IGNORE_OUTPUT|SKIP|RAISES_EXCEPTION)$", re.MULTILINE)
LONGEST_CELL = 25
CLOSING = ("## Check yourself", "## Quiz", "## Exercises", "## In practice", "## What to read")
HOW = r"\((?:measured|estimated)\)"
TIME = re.compile(rf"^- \*Time:\* .+ two CPU cores {HOW}, .+ Colab T4 machine {HOW}, .+ large GPU {HOW}", re.MULTILINE)
CHECK = re.compile(r"check\(\"(\d\d\.\d)\"")


@functools.cache
def read(path):
    return nbformat.read(path, as_version=4)


def cells(path, kind):
    return [cell for cell in read(path).cells if cell.cell_type == kind and cell.source.strip()]


def prose(path):
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def by_name(path):
    return path.stem


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=by_name)
def test_executed_in_order_without_errors(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=by_name)
def test_mutes_are_few_and_have_a_reason(path):
    code = cells(path, "code")
    muted = [cell for cell in code if MUTES.search(cell.source) or "nbval" in str(cell.metadata.get("tags", ""))]
    assert len(muted) <= max(2, len(code) // 4)
    for cell in muted:
        assert re.match(r"# NBVAL_\w+\n# why: \w+", cell.source), cell.source
        assert "NBVAL_SKIP" not in cell.source


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_anatomy(path):
    text = prose(path)
    parts = ["# ", "**You will do", "**You will learn", "**You need", *CLOSING, "[Course map]"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert TIME.search(text)
    assert "setup" in cells(path, "code")[0].metadata["tags"]
    assert cells(path, "code")[1].source.count("stlib.setup(") == 1
    assert (ROOT / "notebooks" / "solutions" / f"{path.name[:2]}_solutions.ipynb").exists()


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_quiz_has_folded_answers(path):
    quiz = prose(path).split("## Quiz")[1].split("## Exercises")[0]
    assert quiz.count("**Question.**") >= 4
    assert quiz.count("**Question.**") == len(
        re.findall(r"<details><summary>Answer</summary>\n\n.+?\n\n</details>", quiz, re.S)
    )


def checked(path) -> dict[str, str]:
    """The exercises that a notebook checks, and what the check printed there."""
    found = {}
    for cell in cells(path, "code"):
        for exercise in CHECK.findall(cell.source):
            found[exercise] = "".join(output.get("text", "") for output in cell.outputs)
    return found


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_checks_fail_on_the_templates_and_pass_on_the_solutions(path):
    number = path.name[:2]
    templates, solutions = checked(path), checked(ROOT / "notebooks" / "solutions" / f"{number}_solutions.ipynb")
    assert len(templates) >= 3
    assert list(templates) == list(solutions) == [f"{number}.{place + 1}" for place in range(len(templates))]
    for exercise in templates:
        assert f"exercise {exercise}: not yet: " in templates[exercise]
        assert f"exercise {exercise}: solved" in solutions[exercise]


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_exercises_rise_in_difficulty_and_unfold_their_solution(path):
    text = prose(path)
    levels = re.findall(r"^### Exercise (\d) · .+ \((easy|medium|hard)\)$", text, re.MULTILINE)
    assert [int(number) for number, _ in levels] == list(range(1, len(levels) + 1))
    ranks = [("easy", "medium", "hard").index(level) for _, level in levels]
    assert ranks == sorted(ranks)
    assert ranks[-1] > ranks[0]
    assert text.count("<details><summary>Solution of exercise ") == len(levels) == len(checked(path))


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_every_figure_has_alt_text_after_it(path):
    cells, figures = read(path).cells, 0
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        if pictures:
            figures += 1
            assert following is not None
            assert following.cell_type == "markdown"
            assert re.match(r"\*\*Figure: .{20,}", following.source), following.source[:80]
            assert cell.source.rstrip().endswith(".show()")
    assert figures >= 1


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=by_name)
def test_no_long_cells_no_machine_paths_no_shell(path):
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= LONGEST_CELL
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE)
    text = json.dumps(read(path))
    assert not re.search(r"/home/|/root/|/Users/|/tmp/|C:\\\\", text)
    assert str(ROOT) not in text


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_each_notebook_stands_alone(path):
    """No notebook reads what another one writes, unless through ``find_or_train``, which builds it when it is missing."""
    for cell in cells(path, "code"):
        assert not re.search(r"\.ipynb|runs[/\"']|%run|%store", cell.source), cell.source


OUTLINE = ("You will", "You need", "Question.", "Figure: ", "You can now", "Doubt", "Try on your own data")


def bold_terms(path) -> set[str]:
    """What a notebook sets in bold, less the fixed words of its outline: the terms that it explains."""
    bold = re.findall(r"(?<!\*)\*\*([^*\n]+)\*\*", prose(path))
    return {text.lower() for text in bold if not text.startswith(OUTLINE)}


def test_the_glossary_has_every_term_and_nothing_else():
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    entries = dict(
        re.match(r"- \*\*(.+?)\*\* \(\[\d\d\]\((.+?)\)\): .{15,}", line).groups() for line in lines if line[:1] == "-"
    )
    terms = {path.name: bold_terms(path) for path in COURSE}
    assert set().union(*terms.values()) == {term.lower() for term in entries}
    for term, name in entries.items():
        assert term.lower() in terms[name], f"{name} does not explain {term}"
    assert list(entries) == sorted(entries, key=str.lower)


OUT_OF_SIGHT = r"```.*?```|<details>.*?</details>|\]\([^)]*\)|\$[^$]*\$"  # code, folds, links' targets, formulas


def sentences(path) -> list[int]:
    """The number of words of each sentence of a notebook's prose: no code, tables, quizzes' folds or links' targets."""
    text = re.sub(OUT_OF_SIGHT + "|`[^`]*`", "word", prose(path), flags=re.DOTALL)
    paragraphs = [
        part
        for part in re.split(r"\n\s*\n|\n(?=[-\d|#])", text)
        if not part.lstrip().startswith(("|", "#", "-", "**Figure"))
    ]
    return [
        len(sentence.split())
        for part in paragraphs
        for sentence in re.split(r"(?<=[.!?])\s", part)
        if len(sentence.split()) > 2
    ]


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_sentences_are_short(path):
    lengths = sentences(path)
    assert len(lengths) > 40
    assert sum(lengths) / len(lengths) <= 18
    assert max(lengths) <= 45


def words_in_sight(path) -> int:
    """The words of a notebook's prose: letters only, without what is folded, code blocks, formulas and links' targets."""
    text = re.sub(OUT_OF_SIGHT + "|<[^>]*>", " ", prose(path), flags=re.DOTALL)
    return len(re.findall(r"[^\W\d_][\w'’-]*", text))


@pytest.mark.parametrize("path", COURSE, ids=by_name)
def test_a_notebook_is_read_in_a_quarter_of_an_hour(path):
    assert 1_500 <= words_in_sight(path) <= 3_000


def test_every_column_of_a_table_has_a_name():
    """A screen reader reads a column's name before each cell of it."""
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES} | {
        path: prose(path) for path in COURSE + SOLUTIONS
    }
    tables = [(path.name, head) for path, text in texts.items() for head in TABLE_HEAD.findall(text)]
    assert len(tables) > 10
    for name, head in tables:
        assert all(cell.strip() for cell in head.strip().strip("|").split("|")), f"{name}: {head}"


def test_links_between_files_lead_somewhere():
    for path in [*COURSE, *SOLUTIONS, *PAGES]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(((?!http|#|mailto)[^)\s\\]+)\)", text):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


def test_every_test_that_the_readme_names_is_there():
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/promises.md")]
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", "\n".join(texts))
    assert len(named) > 10
    for file, test in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, f"{file}::{test}"


def run_tool(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["notebooks", *map(str, arguments)])
    return tool.main()


def test_what_is_generated_is_up_to_date(monkeypatch, capsys):
    """Badges, set-up cells, folded solutions and navigation; the README's tables."""
    assert run_tool(monkeypatch, "--check") == 0, capsys.readouterr().out


def test_a_workspace_is_a_copy_that_is_never_overwritten(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "my course"
    assert run_tool(monkeypatch, "--workspace", folder) == 0
    copied = {path.relative_to(folder) for path in folder.rglob("*.*")}
    assert copied == {path.relative_to(ROOT / "notebooks") for path in [*COURSE, *SOLUTIONS, GLOSSARY]}
    (folder / COURSE[0].name).write_text("mine", encoding="utf-8")
    for taken in (folder, ""):
        with pytest.raises(SystemExit, match="2"):
            run_tool(monkeypatch, "--workspace", taken)
    assert "my course is no new folder: name one" in capsys.readouterr().err
    assert (folder / COURSE[0].name).read_text(encoding="utf-8") == "mine"

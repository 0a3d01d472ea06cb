"""The laws of the house: what is small stays small, imports run downward, and calls say what they mean."""

import ast
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "stlib"
# The floors, ground floor first: a room imports from its own floor, without a circle, and from those below it. A folder
# stands for all that it holds.
FLOORS = [
    {"__init__", "errors", "settings", "records", "mini"},
    {"sources"},
    {"data"},
    {"convert"},
    {"model"},
    {"recipes", "measures"},
    {"runs"},
    {"configure", "trainer", "fast.packed", "fast.tokens"},
    {"fast.trainer"},
    {"evaluate", "fast.bench"},
    {"cards"},
    {"train"},
    {"plots", "panels", "forensics", "setup", "auditing"},
    {"__main__", "predict"},
    {"exercises"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
BUDGETS = {
    "stlib without exercises": (5_000, ["stlib/**/*.py"], ["stlib/exercises/*.py"]),
    "stlib/exercises": (800, ["stlib/exercises/*.py"], []),
    "tools": (365, ["tools/*"], []),
    "README.md": (130, ["README.md"], []),
    "Makefile": (60, ["Makefile"], []),
}
LONGEST_FILE, MOST_PARAMETERS, USED_BY_NOTEBOOKS = 350, 7, 4_200
NOT_COUNTED = {"exercises", "records", "fast.bench"}  # in what notebooks use


def find(*patterns: str) -> list[Path]:
    found = (path for pattern in patterns for path in ROOT.glob(pattern))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def module_of(path: Path) -> str:
    """Return the module's name inside stlib: ``fast.packed``, ``exercises`` for its ``__init__``, ``__init__`` at the top."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in find("stlib/**/*.py")}


def room_of(module: str) -> str:
    """Return the room that a module belongs to: itself, or the folder that stands for all that it holds."""
    return module if module in FLOOR else module.split(".")[0]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST, here: str = "") -> set[str]:
    """Return the modules of stlib that an import statement names; ``here`` is the package of a relative import."""
    if isinstance(node, ast.Import):
        names = [name.name for name in node.names]
    elif isinstance(node, ast.ImportFrom):
        above = ["stlib", *filter(None, here.split("."))]
        start = above[: len(above) - node.level + 1] if node.level else []
        base = ".".join([*start, *filter(None, [node.module])])
        names = [f"{base}.{name.name}" for name in node.names] or [base]
    else:
        return set()
    return {resolved(name.removeprefix("stlib").lstrip(".")) for name in names if name.split(".")[0] == "stlib"}


@cache
def homes() -> dict[str, str]:
    """Return where the names come from that the package itself offers: ``stlib.sts`` from ``data``."""
    (table,) = (node for node in ast.walk(tree_of(MODULES["__init__"])) if isinstance(node, ast.Dict))
    return {name: room for room, names in ast.literal_eval(table).items() for name in names}


def resolved(name: str) -> str:
    """Return the longest part of a dotted name that is a module: ``data.nli`` is of ``data``, and so is ``sts``."""
    if name not in MODULES and name in homes():
        return homes()[name]
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def imports(module: str) -> set[str]:
    """Return what a module of stlib imports from stlib, anywhere in it."""
    path = MODULES[module]
    here = module if path.name == "__init__.py" else module.rpartition(".")[0]
    here = "" if here == "__init__" else here
    return set().union(*(imported(node, here) for node in ast.walk(tree_of(path)))) - {module}


def functions(path: Path) -> list:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("what", BUDGETS)
def test_what_is_small_stays_small(what):
    most, patterns, without = BUDGETS[what]
    counted = set(find(*patterns)) - set(find(*without))
    assert counted
    assert sum(map(lines, counted)) <= most, {path.name: lines(path) for path in sorted(counted)}


def test_no_file_is_long():
    found = find("stlib/**/*.py", "tools/*.py", "research/*.py", "tests/**/*.py", "*.py", "docs/*.py")
    assert len(found) > 50
    long = {str(path.relative_to(ROOT)): lines(path) for path in found if lines(path) > LONGEST_FILE}
    assert not long


def test_notebooks_use_little():
    """All that their cells import, and what that imports, directly or not."""
    waiting, used = {"__init__"}, set()
    for path in find("notebooks/[0-9][0-9]_*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                for node in ast.walk(ast.parse(cell.source)):
                    waiting |= imported(node)
                    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "stlib":
                        waiting.add(resolved(node.attr))
    while waiting - used:
        module = (waiting - used).pop()
        used.add(module)
        waiting |= {part for part in imports(module) if room_of(part) not in NOT_COUNTED}
    counted = {module: lines(MODULES[module]) for module in used if room_of(module) not in NOT_COUNTED}
    assert len(counted) > 5
    assert sum(counted.values()) <= USED_BY_NOTEBOOKS, counted


def test_every_room_has_its_floor():
    assert {module for module in MODULES if room_of(module) not in FLOOR and module != "fast"} == set()


def test_imports_run_downward():
    """The package's own front, ``stlib/__init__.py``, may name what stands above it: it loads that when it is asked for."""
    upward = []
    for module in MODULES.keys() - {"__init__", "fast"}:
        for other in imports(module) - {"__init__", "fast"}:
            own, below = FLOOR.get(room_of(module), -1), FLOOR.get(room_of(other), 99)
            if room_of(module) != room_of(other) and below > own:
                upward.append(f"{module} imports {other}")
    assert not sorted(upward)


def test_there_is_no_circle():
    """Modules go away one by one, those first that import nothing of what is left."""
    left = {module: imports(module) - {"__init__"} for module in MODULES if module != "__init__"}
    while free := [module for module in left if not left[module] & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_nothing_is_imported_inside_a_function():
    """But on the command line, which has no time for what its command does not need, and in the set-up of a notebook.

    That runs before anything is installed.
    """
    inside = set()
    for module in MODULES.keys() - {"__main__", "__init__", "setup"}:
        for function in functions(MODULES[module]):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    inside.add(f"{module}.{function.name}: {ast.unparse(node)}")
    assert not sorted(inside)


def test_no_function_has_many_parameters():
    many = []
    for path in find("stlib/**/*.py", "tools/*.py", "research/*.py"):
        for function in functions(path):
            every = function.args
            named = [each.arg for each in (*every.posonlyargs, *every.args, *every.kwonlyargs)]
            count = len([name for name in named if name not in ("self", "cls")])
            if count > MOST_PARAMETERS:
                many.append(f"{path.relative_to(ROOT)}: {function.name} has {count}")
    assert not many


def test_no_call_has_three_nones_in_a_row():
    silent = []
    for path in find("stlib/**/*.py", "tools/*.py", "research/*.py", "tests/**/*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                given = "".join(
                    "N" if isinstance(part, ast.Constant) and part.value is None else "-" for part in node.args
                )
                if "NNN" in given:
                    silent.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    assert not silent


def test_the_package_does_not_know_what_made_its_records():
    scripts = {path.stem for path in find("research/*.py")} | {"research", "tools", "tests"}
    assert len(scripts) > 10
    wrong = []
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            wrong += [f"{module} imports {name}" for name in names if name.split(".")[0] in scripts]
    assert not wrong

"""Set-up: it installs nothing where the course is installed, and everything in an empty folder on a strange machine."""

import contextlib
import importlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from packaging.requirements import Requirement

import stlib
from stlib.errors import UsageError
from stlib.plots import COLORS
from tools import notebooks as tool

setup = importlib.import_module("stlib.setup")  # the module: ``stlib.setup`` is its function

ROOT = Path(__file__).resolve().parents[1]
COURSE = tool.course_notebooks()
ADDRESS = "https://github.com/someone/some-course"
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


@pytest.fixture(autouse=True)
def own_machine(monkeypatch):
    for variable in setup.HOSTS:
        monkeypatch.delenv(variable, raising=False)


def stamped(path: Path, address: str):
    notebook = nbformat.read(path, as_version=4)
    tool.stamp(notebook, path, address)
    return notebook


def tagged(notebook, tag: str) -> list[str]:
    return [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_nothing_but_the_standard_library_is_imported_before_anything_is_installed():
    code = "import importlib; importlib.import_module('stlib.setup')"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_set_up_says_what_is_used_and_sets_the_look(capsys):
    with plt.rc_context():
        assert stlib.setup("small").name == "small"
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == COLORS
        assert plt.rcParams["axes.grid"]
    assert logging.getLogger("httpx").level == logging.ERROR
    assert capsys.readouterr().out.startswith("profile small: data from ")


def test_where_the_course_is_installed_nothing_is_done(capsys, monkeypatch):
    monkeypatch.setattr(setup, "install", lambda *_: pytest.fail("something was installed"))
    setup.prepare()
    assert capsys.readouterr().out == "set-up: nothing to do, the course is installed here\n"


def test_on_colab_what_is_there_is_kept(capsys, monkeypatch):
    asked = {}
    monkeypatch.setattr(setup, "install", lambda wanted, kept: asked.update(wanted=wanted, kept=kept))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setenv("PYTHONPATH", "")  # prepare() adds to it
    setup.prepare()
    assert asked["wanted"] == DEPENDENCIES
    assert asked["kept"]["torch"] == importlib.metadata.version("torch")
    assert capsys.readouterr().out.startswith("set-up on Colab: installed nothing; kept torch ")
    assert str(ROOT) in os.environ["PYTHONPATH"]


def test_a_checkout_without_its_packages_says_so(monkeypatch):
    monkeypatch.setattr(setup, "installed", lambda: {"torch": "2.13.0"})
    with pytest.raises(UsageError, match=r"^the course needs sentence-transformers>=.*: start it with make lab"):
        setup.prepare()


@pytest.mark.parametrize("version", ["6.1.0", "7.0.0"])
def test_a_package_that_is_too_old_or_too_new_is_named(monkeypatch, version):
    there = setup.installed()
    monkeypatch.setattr(setup, "installed", lambda: {**there, "sentence-transformers": version})
    with pytest.raises(UsageError, match=r"^the course needs sentence-transformers>=6\.2,<7: start it with make lab"):
        setup.prepare()


@pytest.mark.parametrize(
    ("requirement", "version", "met"),
    [
        ("torch>=2.6", "2.13.0+cpu", True),
        ("torch>=2.6", "2.5.1", False),
        ("datasets>=4.1", "4", False),
        ("datasets>=4.0", "4", True),
        ("datasets>=4", "4.0.0", True),
        ("sentence-transformers>=6.2,<7", "6.10", True),
        ("sentence-transformers>=6.2,<7", "7", False),
        ("gt==0.1.0", "0.1", True),
        ("gt==0.1.0", "0.1.1", False),
    ],
)
def test_versions_are_compared_as_numbers(requirement, version, met):
    name = requirement.split("=")[0].rstrip("<>=")
    assert setup.is_met(requirement, {name: version}) == met
    assert not setup.is_met(requirement, {})


def test_of_two_copies_the_one_that_an_import_finds_counts(monkeypatch, tmp_path):
    for place, version in (("first", "6.0"), ("second", "5.4")):
        folder = tmp_path / place / f"twice-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: twice\nVersion: {version}\n", encoding="utf-8")
    monkeypatch.setattr("sys.path", [str(tmp_path / "first"), str(tmp_path / "second"), *sys.path])
    assert setup.installed()["twice"] == "6.0"


def test_what_cannot_be_installed_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UsageError, match=r"pip could not install what the course needs: .*torch") as caught:
        setup.install(["torch>=999"], {"torch": importlib.metadata.version("torch")})
    assert "\n" not in str(caught.value)


def test_every_notebook_has_the_same_cell():
    cells = [
        tagged(nbformat.read(path, as_version=4), "setup")
        for path in [*COURSE, *(ROOT / "notebooks" / "solutions").glob("*.ipynb")]
    ]
    assert len(cells) == 20
    assert all(cell == cells[0] and len(cell) == 1 for cell in cells)


def test_badges_follow_the_address():
    for path in COURSE:
        (badges,) = tagged(stamped(path, ADDRESS), "badges")
        for host in ("https://colab.research.google.com/github", "https://github.com"):
            assert f"{host}/someone/some-course/blob/main/notebooks/{path.name}" in badges
        assert json.dumps(ADDRESS) in tagged(stamped(path, ADDRESS), "setup")[0]
        assert not tagged(stamped(path, ""), "badges")


def lone(tmp_path, address: str, *arguments) -> subprocess.CompletedProcess:
    """What the set-up cell does in an empty folder, on a machine without the course."""
    (cell,) = tagged(stamped(COURSE[0], address), "setup")
    (tmp_path / "cell.py").write_text(cell, encoding="utf-8")
    command = [sys.executable, *arguments, tmp_path / "cell.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("address", ["", "file:///there/is/no/such/course"])
def test_a_lone_notebook_that_cannot_fetch_the_course_names_the_line_to_type(tmp_path, address):
    said = lone(tmp_path, address, "-I", "-S").stderr
    assert "no course here: run !git clone ADDRESS course in a cell" in said
    assert "Traceback" not in said


def test_a_lone_notebook_takes_the_course_that_was_fetched_by_hand(tmp_path):
    """Its set-up is a stand-in that tells where it is from."""
    (tmp_path / "course" / "stlib").mkdir(parents=True)
    (tmp_path / "course" / "stlib" / "__init__.py").touch()
    (tmp_path / "course" / "stlib" / "setup.py").write_text("def prepare():\n    print(__file__)\n", encoding="utf-8")
    assert lone(tmp_path, "", "-I", "-S").stdout.strip() == str(tmp_path / "course" / "stlib" / "setup.py")


def test_a_notebook_shows_an_error_of_set_up_as_one_sentence():
    shell = InteractiveShell.instance()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert not shell.run_cell("from stlib.errors import UsageError\nraise UsageError('no such package')").success
    assert shown.getvalue().strip() == "UsageError: no such package"


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/someone/some-course.git", ADDRESS),
        ("https://someone:secret@github.com/someone/some-course", ADDRESS),
        ("git@github.com:someone/some-course.git", ADDRESS),
        ("ssh://git@github.com:22/someone/some-course.git", ADDRESS),
        ("https://gitlab.example.org/a/b/course.git", "https://gitlab.example.org/a/b/course"),
        ("/home/someone/some-course", ""),
        ("../some-course", ""),
        ("file:///srv/some-course.git", ""),
        ("C:/courses/some-course", ""),
        ("", ""),
    ],
)
def test_the_address_is_that_of_the_remote_without_a_secret(monkeypatch, remote, address):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    answer = subprocess.CompletedProcess([], 0 if remote else 2, f"{remote}\n")
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: answer)
    assert tool.address() == address


def test_the_workflow_that_stamps_knows_the_address(monkeypatch):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/some-course")
    assert tool.address() == ADDRESS


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The address of a bare clone of the course as it is now."""
    folder = tmp_path_factory.mktemp("repository")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so there is nothing to clone")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (folder / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "work" / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        [*author, "commit", "-qm", "all"],
        ["clone", "-q", "--bare", ".", "../course.git"],
    ):
        subprocess.run(["git", *command], cwd=folder / "work", check=True, capture_output=True)
    return (folder / "course.git").as_uri()


@pytest.mark.slow
def test_alone_on_a_strange_machine(repository, tmp_path, monkeypatch):
    """As on Colab: torch, numpy and an older library are there, the folder is empty but for the notebook."""
    monkeypatch.setenv("PYTHONPATH", "")  # pip has to reach its index: here the tests are not offline
    venv.create(tmp_path / "machine", with_pip=True)
    python = tmp_path / "machine" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    link_installed(["torch", "numpy", "ipykernel", "sentence-transformers"], tmp_path / "machine")
    older = ["--no-deps", "sentence-transformers==6.1.0"]
    subprocess.run([python, "-m", "pip", "install", "-q", *older], check=True, capture_output=True)
    before = state(python)
    kernel = tmp_path / "jupyter" / "kernels" / "machine"
    kernel.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "machine", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.delenv("STLIB_RUNS")
    monkeypatch.setenv("STLIB_MAX_STEPS", "20")  # that it trains there is enough
    (tmp_path / "content").mkdir()
    notebook, resources = stamped(COURSE[2], repository), {"metadata": {"path": str(tmp_path / "content")}}
    NotebookClient(notebook, timeout=1_500, kernel_name="machine", resources=resources).execute()
    said = next(cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])).outputs[0].text
    assert said.startswith("set-up on Colab: fetched the course, installed ")
    assert f"kept torch {before['torch'][0]}, numpy {before['numpy'][0]}" in said
    after = state(python)
    assert after["torch"] == before["torch"]
    assert after["numpy"] == before["numpy"]
    assert after["sentence-transformers"][0] == importlib.metadata.version("sentence-transformers")


def link_installed(names: list[str], machine: Path) -> None:
    """Give another environment distributions that are installed here, and all that they need: pip would take minutes."""
    there = Path(sysconfig.get_path("purelib", "venv", {"base": str(machine), "platbase": str(machine)}))
    waiting, linked = list(names), set()
    while waiting:
        found = importlib.metadata.distribution(waiting.pop())
        if found.name in linked:
            continue
        linked.add(found.name)
        for file in found.files:
            if ".." not in file.parts and file.locate().exists():  # scripts lie above
                (there / file).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file.locate(), there / file)
                except OSError:  # another file system
                    shutil.copy2(file.locate(), there / file)
        needed = map(Requirement, found.requires or [])
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def state(python: Path) -> dict[str, list]:
    """Version and age of the installed packages of another environment."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower(): [d.version, d._path.stat().st_mtime_ns] for d in m.distributions()}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)

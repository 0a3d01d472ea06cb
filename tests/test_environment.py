"""What is pinned is what is installed, and the three files that name packages agree."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import stlib

ROOT = Path(__file__).resolve().parents[1]


def requirements(name: str = "requirements.txt") -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-book.txt"])
def test_every_requirement_is_exact(name):
    for requirement in requirements(name):
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement


def test_pinned_versions_are_inside_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pinned = {requirement.name.lower(): requirement for requirement in requirements()}
    for text in (text for group in groups for text in group):
        wanted = Requirement(text)
        version = str(pinned[wanted.name.lower()].specifier).removeprefix("==")
        assert wanted.specifier.contains(Version(version)), text


def test_installed_versions_are_the_pinned_ones():
    here = [
        requirement for requirement in requirements() if requirement.marker is None or requirement.marker.evaluate()
    ]
    differ = {}
    for requirement in here:
        installed = importlib.metadata.version(requirement.name)
        if not requirement.specifier.contains(Version(installed).public, prereleases=True):
            differ[requirement.name] = installed
    if differ and not (ROOT / ".venv").exists():
        pytest.skip(f"not the pinned environment: {differ}")
    assert not differ


def test_nothing_installed_is_in_conflict():
    """Every installed distribution finds what it requires, in a version that it accepts."""
    installed = {canonicalize_name(found.name): found for found in importlib.metadata.distributions()}
    conflicts, checked = [], 0
    for name, distribution in installed.items():
        for wanted in map(Requirement, distribution.requires or []):
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                checked += 1
                there = installed.get(canonicalize_name(wanted.name))
                if there is None or not wanted.specifier.contains(there.version, prereleases=True):
                    conflicts.append(f"{name} requires {wanted}, here is {there and there.version}")
    assert checked > 200
    assert not conflicts


def test_conda_installs_the_same_file():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "- -r requirements.txt" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = re.match(r">=(3\.\d+),", project["requires-python"])[1]
    assert f"- python={lowest}\n" in text


def test_the_sites_packages_come_on_top():
    course = {requirement.name for requirement in requirements()}
    assert not course & {requirement.name for requirement in requirements("requirements-book.txt")}


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project == stlib.__version__ == citation["version"]
    assert f"## {project} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_call_what_is_there(path):
    """Every file and make target that a workflow names exists."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    for name in re.findall(r"[\w./-]+\.(?:py|txt)\b", commands):
        assert (ROOT / name).exists(), name


def test_tab_completes_the_public_names():
    assert {"nli", "sts", "load_base", "find_or_train", "plots", "prepare", "setup"} <= set(dir(stlib))
    for name in dir(stlib):
        assert getattr(stlib, name), name
    assert callable(stlib.train.train)  # a module, as stlib.plots is, whatever was imported before
    with pytest.raises(AttributeError, match="no attribute 'nowhere'"):
        _ = stlib.nowhere


def test_import_stays_quick():
    code = "import sys, stlib; print(sorted(set(sys.modules) & {'torch', 'transformers', 'datasets', 'matplotlib'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Where a notebook runs, and what has to be installed there: what the set-up cell of every notebook calls.

On Colab and Kaggle the machine's own torch and numpy stay as they are. Exact pins break there as soon as the platform
moves on (d2l-en, issues 2474 and 2638), so only what is missing from the ranges of ``pyproject.toml`` is installed.
Nothing but the standard library is imported here, because nothing else may be installed yet.
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from stlib.errors import UsageError

KEPT = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
)  # the platform's own, built for its accelerator and already loaded
HOSTS = {"COLAB_RELEASE_TAG": "Colab", "KAGGLE_KERNEL_RUN_TYPE": "Kaggle"}  # variables that these hosts set
ROOT = Path(__file__).resolve().parents[1]


def prepare(alone: bool = False) -> None:
    """Make the course's packages ready, and say in one line what was done.

    Args:
        alone: whether the notebook was opened alone, and the set-up cell fetched the course: then the environment is
            not the course's own.

    Raises:
        UsageError: packages are missing or too old on a machine of your own, or could not be installed.
    """
    host = next((name for variable, name in HOSTS.items() if os.environ.get(variable)), None)
    before, wanted = installed(), ranges(ROOT / "pyproject.toml")
    if host is None and not alone:
        lacking = [name for name in map(name_of, wanted) if name not in before]
        old = [text.split(",")[0] for text in wanted if is_too_old(text, before.get(name_of(text)))]
        if lacking or old:
            raise UsageError(
                f"{', '.join(lacking + old)} is missing here: start the course with make lab, or as README.md says"
            )
        print("set-up: nothing to do, the course is installed here")
        return
    install(wanted, {name: before[name] for name in KEPT if name in before})
    # Subprocesses find the course by this variable, the notebook itself by sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    after = installed()
    new = [f"{name} {version}" for name, version in sorted(after.items()) if before.get(name) != version]
    kept = [f"{name} {after[name]}" for name in KEPT if name in before]
    print(
        f"set-up{f' on {host}' if host else ''}: {'fetched the course, ' if alone else ''}"
        f"installed {', '.join(new) or 'nothing'}; kept {', '.join(kept) or 'nothing'}"
    )


def installed() -> dict[str, str]:
    """The version of every installed distribution."""
    importlib.invalidate_caches()
    return {
        distribution.name.lower().replace("_", "-"): distribution.version
        for distribution in distributions()
        if distribution.name
    }


def ranges(pyproject: Path) -> list[str]:
    """What the package depends on, as version ranges."""
    return tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]


def name_of(requirement: str) -> str:
    """``datasets`` of ``datasets>=4.0``."""
    return re.match(r"[\w.-]+", requirement)[0].lower()


def is_too_old(requirement: str, version: str | None) -> bool:
    """Whether ``version`` is below the lowest one that ``requirement`` (such as ``datasets>=4.0``) allows."""
    lowest = re.search(r">=([\d.]+)", requirement)
    return bool(lowest and version) and numbers(version) < numbers(lowest[1])


def numbers(version: str) -> list[int]:
    """``2.13.0+cpu`` as [2, 13, 0]."""
    return [int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split(".")]


def install(requirements: list[str], kept: dict[str, str]) -> None:
    """Install what is missing from ``requirements``, and leave the packages in ``kept`` at their versions."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    importlib.invalidate_caches()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = lines[0].removeprefix("ERROR: ") if lines else "pip gave no reason"
        raise UsageError(f"pip could not install what the course needs: {reason}")

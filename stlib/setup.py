"""What every notebook does first: ``prepare()`` installs what is missing, ``setup()`` chooses the profile and the look of figures.

Only the standard library is imported here, because nothing else may be installed when ``prepare()`` runs. On Colab and Kaggle
the machine's own torch and numpy stay as they are. Exact pins break there as soon as the platform moves on (d2l-en, issues
2474 and 2638), so only what is missing from the ranges of ``pyproject.toml`` is installed.
"""

import importlib
import logging
import os
import subprocess
import sys
import tempfile
import tomllib
import warnings
from importlib.metadata import distributions
from pathlib import Path

from stlib.errors import UsageError

KEPT = ("torch", "torchvision", "torchaudio", "numpy")  # built for the platform's accelerator, and already loaded
HOSTS = {"COLAB_RELEASE_TAG": "Colab", "KAGGLE_KERNEL_RUN_TYPE": "Kaggle"}  # variables that these hosts set
ROOT = Path(__file__).resolve().parents[1]


def setup(profile: str | None = None):
    """Return the profile (``mini``, ``small`` or ``full``), and say in one line what will be used.

    Known noise is quietened and the look of figures set.
    """
    import matplotlib.pyplot as plt

    from stlib import plots, settings, sources

    chosen = settings.get_profile(profile)
    for name in ("httpx", "filelock", "sentence_transformers"):  # notes that a learner can do nothing about
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message="IProgress not found")
    plt.rcParams.update(plots.LOOK)
    device = settings.best_device()
    machine = "no GPU here" if device == "cpu" else f"GPU here ({device})"
    print(f"profile {chosen.name}: data from {sources.get_source(None, chosen)}; {machine}")
    return chosen


def prepare() -> None:
    """Make the course's packages ready, and say in one line what was done.

    Raises UsageError if packages are missing or out of range on a machine of your own, or cannot be installed.
    """
    host = next((name for variable, name in HOSTS.items() if os.environ.get(variable)), None)
    alone = Path("course").resolve() == ROOT  # the set-up cell has fetched the course: nothing here is the course's own
    before = installed()
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    if not host and not alone:
        if missing := [text for text in wanted if not is_met(text, before)]:
            raise UsageError(f"the course needs {', '.join(missing)}: start it with make lab, or as README.md says")
        print("set-up: nothing to do, the course is installed here")
        return
    there = {name: before[name] for name in KEPT if name in before}
    install(wanted, there)
    # Subprocesses find the course by this variable, the notebook itself by sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    after = installed()
    new = [f"{name} {version}" for name, version in sorted(after.items()) if before.get(name) != version]
    kept = [f"{name} {after[name]}" for name in there]
    print(
        f"set-up{f' on {host}' if host else ''}: {'fetched the course, ' if alone else ''}"
        f"installed {', '.join(new) or 'nothing'}; kept {', '.join(kept) or 'nothing'}"
    )


def installed() -> dict[str, str]:
    """Return the version of every installed distribution: of several copies, the one that an import finds."""
    importlib.invalidate_caches()
    return {
        found.name.lower().replace("_", "-"): found.version for found in reversed(list(distributions())) if found.name
    }


def is_met(requirement: str, versions: dict[str, str]) -> bool:
    """Return whether ``versions`` has what ``requirement`` (such as ``datasets>=4.0,<5``) names, within its bounds."""
    from packaging.requirements import Requirement  # there wherever a notebook runs: its kernel needs it too

    wanted = Requirement(requirement)
    version = versions.get(wanted.name.lower())
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def install(requirements: list[str], kept: dict[str, str]) -> None:
    """Install what is missing from ``requirements``, and leave the packages in ``kept`` at their versions."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = lines[0].removeprefix("ERROR: ") if lines else "pip gave no reason"
        raise UsageError(f"pip could not install what the course needs: {reason}")

"""What every test session shares, the notebooks' kernels included: profile mini, no bars, runs of its own, no network."""

import atexit
import os
import runpy
import shutil
import tempfile
from pathlib import Path

import pytest

# Outputs of notebooks are compared number by number, and their kernels start quickly.
pytest_plugins = ["tests.nbval_numbers", "tests.forked_kernels"]

_root = Path(__file__).parent
_offline = _root / "tests" / "offline"

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and torch reads this when it is imported. All else they inherit from the session.
    os.environ.update(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
    )
else:
    os.environ.update(TQDM_DISABLE="1", STLIB_PROFILE="mini")
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    for name in ("STLIB_DATA", "STLIB_NLI_SPLIT", "STLIB_MAX_STEPS"):  # device and precision may be chosen
        os.environ.pop(name, None)

    # A fresh folder for runs, so that a run of yesterday's code cannot make today's tests pass.
    os.environ["STLIB_RUNS"] = tempfile.mkdtemp(prefix="stlib-test-runs-")
    atexit.register(shutil.rmtree, os.environ["STLIB_RUNS"], ignore_errors=True)

    # No connection leaves this machine, from this process or from any that it starts; attempts are noted and fail the session.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_offline), os.environ.get("PYTHONPATH")]))
    os.environ["STLIB_BLOCKED"] = str(Path(os.environ["STLIB_RUNS"]) / "blocked.txt")
runpy.run_path(str(_offline / "sitecustomize.py"))
_blocked = Path(os.environ["STLIB_BLOCKED"])

# tests/test_solutions.py executes these, without a kernel for each. Named on the command line, they get one all the same.
collect_ignore_glob = ["notebooks/solutions/*"]

# One worker trains in notebook 03 what many others load, while the other has the unit tests; then what takes longest comes
# first, so that both are busy to the end.
ORDER = ["test_notebooks", "03", "units", "08", "10", "02", "07", "test_solutions", "06", "05", "01", "09", "04"]
# Of the slow tests, those that take minutes: they start first, so that no worker waits for one at the end.
LONGEST = [
    "test_alone_on_a_strange_machine",
    "test_runs_killed_at_a_random_moment_end_with_the_same_bits",
    "test_banking77_under_mtebs_protocol_is_what_is_published",
]


def pytest_collection_modifyitems(config, items):
    """Sort the files, unless the command line names some; and the longest of the tests that it names."""

    def place(item):
        name = item.path.stem if item.path.suffix == ".py" else item.path.stem[:2]
        return ORDER.index(name if name in ORDER else "units")

    if config.args == config.getini("testpaths"):
        items.sort(key=place)
    else:
        items.sort(key=lambda item: getattr(item, "originalname", None) not in LONGEST)


def pytest_sessionfinish(session, exitstatus):
    """Fail where anything wanted to leave the machine, even if it took no for an answer."""
    if _blocked.exists() and not hasattr(session.config, "workerinput"):
        session.exitstatus = 1


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter):
    """Say so below everything else: each test may have passed."""
    yield
    if _blocked.exists():
        terminalreporter.section("attempts to connect", red=True)
        terminalreporter.line(_blocked.read_text(encoding="utf-8"))
        terminalreporter.line(
            "The session fails: the tests are offline, and something wanted to leave this machine.", red=True
        )

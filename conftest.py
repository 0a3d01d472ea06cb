"""What every test session shares, the notebooks' kernels included: profile mini, no bars, runs of its own, no network."""

import atexit
import os
import runpy
import shutil
import tempfile
from pathlib import Path

os.environ.update(TQDM_DISABLE="1", STLIB_PROFILE="mini")
os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
for name in ("STLIB_DATA", "STLIB_NLI_SPLIT", "STLIB_MAX_STEPS", "STLIB_DEVICE", "STLIB_PRECISION"):
    os.environ.pop(name, None)

# A fresh folder for runs, so that a run of yesterday's code cannot make today's tests pass.
_runs = tempfile.mkdtemp(prefix="stlib-test-runs-")
os.environ["STLIB_RUNS"] = _runs
atexit.register(shutil.rmtree, _runs, ignore_errors=True)

# No connection leaves this machine, from this process or from any that it starts; attempts are noted and fail the session.
_offline = Path(__file__).parent / "tests" / "offline"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_offline), os.environ.get("PYTHONPATH")]))
_blocked = Path(_runs) / "blocked.txt"
os.environ["STLIB_BLOCKED"] = str(_blocked)
runpy.run_path(str(_offline / "sitecustomize.py"))


def pytest_sessionfinish(session, exitstatus):
    """Fail where anything wanted to leave the machine, even if it took no for an answer."""
    if _blocked.exists():
        print(f"\nthe tests are offline, but there were attempts to connect:\n{_blocked.read_text(encoding='utf-8')}")
        session.exitstatus = 1

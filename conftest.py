"""What every test session shares, the notebooks' kernels included: profile mini, no bars, runs of its own."""

import atexit
import os
import shutil
import tempfile

os.environ.update(TQDM_DISABLE="1", STLIB_PROFILE="mini")
os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
for name in ("STLIB_DATA", "STLIB_NLI_SPLIT", "STLIB_MAX_STEPS", "STLIB_DEVICE", "STLIB_PRECISION"):
    os.environ.pop(name, None)

# A fresh folder for runs, so that a run of yesterday's code cannot make today's tests pass.
_runs = tempfile.mkdtemp(prefix="stlib-test-runs-")
os.environ["STLIB_RUNS"] = _runs
atexit.register(shutil.rmtree, _runs, ignore_errors=True)

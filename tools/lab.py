"""Open the course in JupyterLab: notebook 01, its table of contents beside it, and the kernel of this environment.

python tools/lab.py [options of jupyter lab]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST = "notebooks/01_base_model.ipynb"
TABLE_OF_CONTENTS = "@jupyterlab/toc:plugin"  # its name in a saved layout
NOTEBOOK = f"notebook:{FIRST}"
WORKSPACE = {
    "metadata": {"id": "course"},
    "data": {
        "layout-restorer:data": {
            "main": {"dock": {"type": "tab-area", "currentIndex": 0, "widgets": [NOTEBOOK]}, "current": NOTEBOOK},
            "left": {"collapsed": False, "visible": True, "current": TABLE_OF_CONTENTS, "widgets": [TABLE_OF_CONTENTS]},
            "relativeSizes": [0.2, 0.8, 0],
        },
        NOTEBOOK: {"data": {"path": FIRST, "factory": "Notebook"}},
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the notebooks folder is")
    options, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        # A folder of its own keeps the workspaces of your other projects as they are; this environment's kernel goes
        # before one of the same name elsewhere.
        environment = {**os.environ, "JUPYTERLAB_WORKSPACES_DIR": folder, "JUPYTER_PREFER_ENV_PATH": "1"}
        layout = Path(folder) / "course.json"
        layout.write_text(json.dumps(WORKSPACE), encoding="utf-8")
        jupyter = [sys.executable, "-m", "jupyterlab"]
        subprocess.run([*jupyter, "workspaces", "import", layout], env=environment, check=True, capture_output=True)
        address = f"--LabApp.default_url=/lab/workspaces/course/tree/{FIRST}"
        try:
            return subprocess.run(
                [*jupyter, f"--notebook-dir={options.folder}", address, *others], env=environment, check=False
            ).returncode
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())

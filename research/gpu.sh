#!/usr/bin/env bash
# Run research/gpu.py with the Python that PYTHON names, else the one on PATH: bash research/gpu.sh [--data FOLDER] [--json FILE]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
if ! command -v "$python" > /dev/null; then
    echo "research/gpu.sh: there is no $python here: put the environment's python on PATH, or name it with PYTHON=" >&2
    exit 2
fi
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$here/gpu.py" "$@"

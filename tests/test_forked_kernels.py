"""A forked kernel is in the state in which Jupyter starts one, but for the libraries that it has imported."""

import json
import os
import sys
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel
from nbval.kernel import RunningKernel

STATE = """
import json, os, signal, sys
before = [name for name in sys.modules if name.partition(".")[0] in ("stlib", "research", "matplotlib")]
import datasets, matplotlib, pandas, sentence_transformers, torch
print(json.dumps({
    "ours or drawn": before,
    "path": sys.path,
    "folder": os.getcwd(),
    "environment": {name: value for name, value in os.environ.items() if not name.startswith(("JPY_", "LINES", "COLUMNS"))},
    "group": os.getpgid(0) == os.getpid(),
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "columns": pandas.get_option("display.max_columns"),
    "backend": matplotlib.get_backend(),
    "threads": torch.get_num_threads(),
}))
"""


def said(manager, client) -> dict:
    outputs = []
    try:
        reply = client.execute_interactive(STATE, output_hook=outputs.append, timeout=120)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok", reply["content"]
    text = "".join(output["content"]["text"] for output in outputs if output["msg_type"] == "stream")
    return json.loads(text.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
def test_a_forked_kernel_is_as_jupyter_starts_one(tmp_path):
    quick = RunningKernel("python3", cwd=str(tmp_path))
    forked = Path(f"/proc/{quick.km.provisioner.process.pid}/cmdline").read_text(encoding="utf-8")
    assert "ipykernel_launcher" not in forked
    ordinary = start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=dict(os.environ))
    assert said(quick.km, quick.kc) == said(*ordinary)

"""The tests themselves are offline: connections are refused here, in subprocesses and in kernels, and every attempt is noted."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from jupyter_client.manager import start_new_kernel

ATTEMPT = "import urllib.request\nurllib.request.urlopen('http://example.org', timeout=5)"


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """The attempts of these tests are noted elsewhere, so that they do not fail the session."""
    monkeypatch.setenv("STLIB_BLOCKED", str(tmp_path / "blocked.txt"))
    return tmp_path / "blocked.txt"


def test_this_process_is_offline(notes):
    with pytest.raises(OSError, match=r"the tests are offline, and something wanted to reach example\.org"):
        urllib.request.urlopen("http://example.org", timeout=5)
    with socket.socket() as connection, pytest.raises(OSError, match=r"wanted to reach 192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))
    noted = notes.read_text(encoding="utf-8")
    assert "example.org\n" in noted
    assert "192.0.2.1\n" in noted


def test_so_are_subprocesses(notes):
    done = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the tests are offline" in done.stderr
    assert notes.exists()


def test_so_are_kernels(notes):
    manager, client = start_new_kernel(kernel_name="python3", env=dict(os.environ))
    try:
        reply = client.execute_interactive(ATTEMPT, output_hook=lambda _: None, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "the tests are offline" in reply["content"]["evalue"]
    assert notes.exists()


def test_this_machine_can_be_reached(notes):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
    assert not notes.exists()

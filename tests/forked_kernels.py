"""Notebooks' kernels, forked from a process that has imported the libraries: imports alone take a kernel six seconds.

Each notebook has a process for itself still, with nothing of ours in it before its first cell. Linux only: elsewhere a
fork of such a process is not safe, and Jupyter starts each kernel as ever.
"""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from unittest import mock

import nbval.kernel
from jupyter_client.provisioning import local_provisioner

LIBRARIES = ["ipykernel.kernelapp", "datasets", "sentence_transformers"]  # not matplotlib: a kernel chooses its backend
CONTEXT = multiprocessing.get_context("forkserver")


class ForkedKernel(CONTEXT.Process):
    """A kernel, with what jupyter_client asks of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, connection_file: str, folder: str, environment: dict, path: list[str]):
        super().__init__(daemon=True)  # it ends with the tests
        self.connection_file, self.folder, self.environment, self.path = connection_file, folder, environment, path

    def run(self):
        """Become the kernel, in the state in which Jupyter starts one."""
        from ipykernel.kernelapp import launch_new_instance

        os.setsid()  # its signals are not those of the tests
        for stream in (1, 2):  # what cells print travels as messages
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os.chdir(self.folder)
        os.environ.update(self.environment, JPY_PARENT_PID=str(os.getppid()))
        sys.path[:] = self.path
        multiprocessing.set_start_method(None, force=True)
        sys.modules["pandas"].set_option("display.max_columns", 20)  # what it takes if a kernel imports it
        launch_new_instance(argv=["-f", self.connection_file])

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


@functools.cache
def path_of_a_kernel() -> list[str]:
    """Return where a new Python process looks for modules; pytest has added to the path of this one."""
    ask = "import json, sys; print(json.dumps(sys.path[1:]))"
    return json.loads(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)


def pytest_configure():
    """Let nbval start such kernels in this process."""
    if sys.platform != "linux":
        return
    CONTEXT.set_forkserver_preload(LIBRARIES)
    start_new_kernel = nbval.kernel.start_new_kernel

    def launch(command, *, env, cwd, **_):
        kernel = ForkedKernel(command[command.index("-f") + 1], cwd, env, path_of_a_kernel())
        kernel.start()
        while os.getpgid(kernel.pid) != kernel.pid:  # before, Jupyter would take the tests for the kernel's group
            time.sleep(0.01)
        return kernel

    def start_quickly(*arguments, **options):
        with mock.patch.object(local_provisioner, "launch_kernel", launch):
            return start_new_kernel(*arguments, **options)

    nbval.kernel.start_new_kernel = start_quickly

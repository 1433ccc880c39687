"""The service as a process of its own: started, killed, stopped and started again on the same file."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx2

START_S = 60
STOP_S = 30
SERVE = (sys.executable, "-m", "memory_service", "serve")
_HIDDEN = (
    "_PROXY",
    "OPENAI_",
    "AZURE_",
    "COSMOS_",
    "STORE_URL",
    "REDIS_",
    "MEMORY_DRIVER",
    "KILL_AT",
    "AUTH_MODE",
    "ERASURES_FILE",
    "RATE_LIMIT_",
)


def _held_port() -> socket.socket:
    """Return a socket that does not listen: while it is there the system gives its port to nobody who asks for any."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that names it may have it
    held.bind(("127.0.0.1", 0))
    return held


class ServiceProcess:
    """One service on one folder and one port of 127.0.0.1; `command` is what serves. It is killed when a block ends."""

    def __init__(self, folder: Path, command: Sequence[str] = SERVE, **settings: str) -> None:
        self._port = _held_port()
        port = self._port.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "service.log"
        self._folder = folder
        self._command = command
        self._environment = {
            **{name: value for name, value in os.environ.items() if not any(part in name.upper() for part in _HIDDEN)},
            "STORE_URL": f"sqlite:///{folder}/memory.db",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        if self._process is not None:
            await self._process.wait()
        self._port.close()

    async def start(self, **settings: str) -> float:
        """Start it; returns the seconds until it answered. A process that dies first gives its log as the error."""
        began = time.monotonic()
        await self.spawn(**settings)
        await self._answering()
        return time.monotonic() - began

    async def spawn(self, **settings: str) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=self._folder, env={**self._environment, **settings}, stdout=log, stderr=log
            )

    async def _answering(self) -> None:
        assert self._process is not None
        async with httpx2.AsyncClient(trust_env=False) as http, asyncio.timeout(START_S):
            while self._process.returncode is None:
                try:
                    if (await http.get(f"{self.url}/health")).status_code == 200:
                        return
                except httpx2.TransportError:
                    await asyncio.sleep(0.01)
        raise RuntimeError(f"the service ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, if it is alive: nothing in the process gets to run."""
        self._signal(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self._signal(signal.SIGTERM)
        return await self.ended(STOP_S)

    async def ended(self, timeout_s: float) -> int:
        """Wait for its end; returns the exit status, negative for a signal. Raises TimeoutError."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

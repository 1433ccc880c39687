"""The servers that are measured: processes of their own on free ports of 127.0.0.1, stopped by their id."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import httpx2
import msgspec

from memory_service.settings import known_settings

ROOT = Path(__file__).resolve().parents[1]
START_S, STOP_S, QUIET_S = 30, 20, 120
_URL = re.compile(r"on (http://127\.0\.0\.1:\d+)")


class Server(msgspec.Struct, frozen=True):
    pid: int
    url: str

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port


@contextmanager
def work_folder(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards; in `parent`, so on a disk of the caller's choice."""
    with TemporaryDirectory(prefix="memory-benchmark-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def real_service(folder: Path, **changes: str) -> Iterator[Server]:
    """The service with its defaults but these, its record in `folder` unless they name another store.

    It sees no setting of the caller's.
    """
    settings = {"STORE_URL": f"sqlite:///{folder}/memory.db", **changes, "HOST": "127.0.0.1", "PORT": "0"}
    with _process(["-m", "memory_service", "serve"], folder / "service.log", settings) as server:
        yield server


@contextmanager
def quiet_service(folder: Path, **changes: str) -> Iterator[Server]:
    """The service of `benchmarks.quiet` with these settings, its log in `folder`."""
    with _process(["-m", "benchmarks.quiet"], folder / "service.log", changes) as server:
        yield server


@contextmanager
def bare_application(folder: Path) -> Iterator[Server]:
    """The application of `benchmarks.bare`."""
    with _process(["-m", "benchmarks.bare"], folder / "bare.log", {}) as server:
        yield server


@contextmanager
def _process(arguments: list[str], log: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=log.parent, env=environment(settings), stdout=sink, stderr=sink
        )
    try:
        yield Server(process.pid, _url(process, log))
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    ours = {*known_settings(), "AZURE_OPENAI_KEY"}
    kept = {n: v for n, v in os.environ.items() if n.upper() not in ours and not n.upper().endswith("_PROXY")}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until it tells where it listens."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if found := _URL.search(log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise RuntimeError(f"it did not start:\n{log.read_text()}")


def wait_until_quiet(server: Server) -> None:
    """Wait until a service has done its background work, so that no run pays for the one before it."""
    deadline = time.monotonic() + QUIET_S
    with httpx2.Client(base_url=server.url, trust_env=False) as http:
        while time.monotonic() < deadline:
            queues = http.get("/stats").json()["queues"]
            if not queues["waiting"] and not queues["running"]:
                return
            time.sleep(0.05)
    print("the service is still busy in the background; what follows pays for it", file=sys.stderr, flush=True)


def resident_bytes(pid: int) -> int:
    """Memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float | None:
    """Processor time a process has used; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

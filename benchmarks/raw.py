"""What the disk and the engine under the store can do at most: turns of the same bytes written past the store.

One thread writes and callers wait on the event loop, as in the store; what is left out is all that makes it a store:
versions, owners, refusals, reading back.
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import apsw

from memory_service.stores.sqlite.schema import open_writer

GROUP = 512
CHUNKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows of one statement: few enough statements to keep all of them prepared."""
STOP_S = 30
_sync = getattr(os, "fdatasync", os.fsync)

INSERT = "INSERT INTO turns (owner, session, seq, turn_id, body, compressed) VALUES "
UPDATE = (
    "UPDATE sessions SET version = column2, touched_at = column3, unreflected_turns = column4, head = column5 FROM "
    "(VALUES {rows}) WHERE id = column1"
)
OWNERS = "INSERT INTO owners (tenant_id, user_id, epoch) VALUES ('default', ?, 'first')"
SESSIONS = (
    "INSERT INTO sessions (owner, session_id, version, status, touched_at, unreflected_turns, live_after, head)"
    " VALUES (?, ?, 1, 'active', 0, 0, 0, ?)"
)


class Row(NamedTuple):
    """A turn that is to be written: of which session (from 1), under which number, and both as JSON."""

    session: int
    seq: int
    turn_id: str
    body: str
    head: str


Waiting = tuple[Row, "asyncio.Future[None]"]


class Engine(ABC):
    """One thread takes what is waiting, `most` at a time, and writes it; then all of them are woken by one call."""

    most = GROUP

    def __init__(self, path: Path, sessions: int) -> None:
        self._path, self._sessions = path, sessions
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raw-writer", daemon=True)
        self.commits = self.groups = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.open()
        self._thread.start()

    def write(self, row: Row) -> asyncio.Future[None]:
        """Queue a turn; the future is done once it is durable."""
        future = self._loop.create_future()
        self._queue.put((row, future))
        return future

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join(STOP_S)
        self.close()

    def _run(self) -> None:
        while group := self._next_group():
            error: Exception | None = None
            try:
                self.make_durable([row for row, _ in group])
            except Exception as exc:  # whoever waits must hear of it
                error = exc
            self.commits += len(group)
            self.groups += 1
            self._loop.call_soon_threadsafe(_wake, [future for _, future in group], error)

    def _next_group(self) -> list[Waiting]:
        group = [self._queue.get()]
        while len(group) < self.most:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                break
        return [waiting for waiting in group if waiting is not None]  # it is stopped when nobody waits any more

    @abstractmethod
    def open(self) -> None: ...
    @abstractmethod
    def make_durable(self, rows: Sequence[Row]) -> None: ...
    @abstractmethod
    def close(self) -> None: ...
    @abstractmethod
    def found(self) -> dict[int, list[int]]:
        """Open what was closed anew and return the numbers of the turns that are there, by session."""


def _wake(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class Grouped(Engine):
    """SQLite through apsw, a transaction for all that wait: tables, indexes and pragmas are those of the store."""

    def open(self) -> None:
        self._db = open_writer(self._path)
        with self._db:
            for session in range(1, self._sessions + 1):
                self._db.execute(OWNERS, (f"user-{session}",))
                self._db.execute(SESSIONS, (session, f"session-{session}", "{}"))

    def make_durable(self, rows: Sequence[Row]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._put(rows)
        self._db.execute("COMMIT")

    def _put(self, rows: Sequence[Row]) -> None:
        for part in in_chunks(rows):
            values = [value for row in part for value in (row.session, row.session, row.seq, row.turn_id, row.body)]
            self._db.execute(INSERT + ", ".join(["(?, ?, ?, ?, ?, NULL)"] * len(part)), values)

    def close(self) -> None:
        self._db.close()

    def found(self) -> dict[int, list[int]]:
        db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        there: dict[int, list[int]] = {}
        for session, seq in db.execute("SELECT session, seq FROM turns ORDER BY session, seq"):
            there.setdefault(session, []).append(seq)
        db.close()
        return there


class GroupedWithHeads(Grouped):
    """The same, and each session's head with its turn: the rows that the store writes."""

    def _put(self, rows: Sequence[Row]) -> None:
        super()._put(rows)
        for part in in_chunks(rows):
            values = [value for row in part for value in (row.session, row.seq + 1, row.seq, row.seq, row.head)]
            self._db.execute(UPDATE.format(rows=", ".join(["(?, ?, ?, ?, ?)"] * len(part))), values)


class OneByOne(Grouped):
    """The same as `Grouped`, with a transaction for each turn."""

    most = 1


class Log(Engine):
    """A file that only grows, synced for all that wait: the least a durable write can be."""

    def open(self) -> None:
        self._file = self._path.open("ab", buffering=0)

    def make_durable(self, rows: Sequence[Row]) -> None:
        self._file.write(b"".join(b"%d %d %b\n" % (row.session, row.seq, row.body.encode()) for row in rows))
        _sync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def found(self) -> dict[int, list[int]]:
        there: dict[int, list[int]] = {}
        with self._path.open("rb") as file:
            for line in file:
                session, seq, _ = line.split(b" ", 2)
                there.setdefault(int(session), []).append(int(seq))
        return there


ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "apsw, in groups": Grouped,
    "apsw, in groups, with heads": GroupedWithHeads,
    "apsw, one by one": OneByOne,
    "log, fdatasync": Log,
}


def in_chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    begin = 0
    for size in CHUNKS:
        while len(rows) - begin >= size:
            yield rows[begin : begin + size]
            begin += size

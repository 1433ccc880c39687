"""The one thread that writes: it takes every commit that is waiting and makes them durable together.

Group commit: each commit is applied under a savepoint, so that one refused leaves the others alone; one
COMMIT with `synchronous=FULL` makes all of them durable; then all waiters are woken by one call into the loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import apsw

from memory_service.errors import (
    MemoryServiceError,
    Overloaded,
    StorageFull,
    StoreFailed,
    StoreUnavailable,
)
from memory_service.points import Point, nowhere
from memory_service.stores.base import Commit
from memory_service.stores.settling import Settling, settle
from memory_service.stores.sqlite.alike import Alike, NotAll, Row, alike, prepare, write_alike
from memory_service.stores.sqlite.log import COMMITS, Log
from memory_service.stores.sqlite.rows import apply
from memory_service.stores.sqlite.schema import BUSY_MS

logger = logging.getLogger(__name__)

Change = Callable[[apsw.Connection], Any]
"""What is done inside the open transaction; what it returns is for who waits for it."""
Waiting = tuple[Change | Commit, "asyncio.Future[Any]", Alike | None]
"""With what the commit writes, if many do alike: rows made by the loop, which has their values at hand."""
Settled = tuple["asyncio.Future[Any]", Any]

MAX_GROUP = 512
"""Commits that are made durable together, at most; the thread is handed half of that at once."""
TOGETHER = 2
"""From so many rows on they are written together: one alone is written as quickly by itself."""
MAX_WAITING = 10_000
CLEARING_S, CLEARED_AGAIN_S = 0.5, 5.0
"""So long clearing the log waits for those who read, and so long after that it is tried again."""
STALLED_S = 2.0
"""A group that takes longer than this says that the disk is not keeping up: more is not taken in until it is done."""


class Displaced(Exception):
    """The files that are written are no longer those a new start would find."""


class Writer:
    """Owns the writing connection. `submit` is for the event loop's thread.

    `in_place` tells whether the files it writes still have their names: nothing is acknowledged into others.
    """

    def __init__(
        self,
        db: apsw.Connection,
        loop: asyncio.AbstractEventLoop,
        point: Point = nowhere,
        in_place: Callable[[], bool] = lambda: True,
    ) -> None:
        self._in_place = in_place
        self._db = db
        self._log = Log(db)
        prepare(db)
        self._loop = loop
        self._point = point
        self._queue: SimpleQueue[list[Waiting] | None] = SimpleQueue()
        self._come: list[Waiting] = []
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._stopping, self._may_write = False, True
        self.broken = asyncio.Event()
        self.waiting = 0
        self._group_begun_s: float | None = None
        self._log_to_clear = False
        self._cleared_from_s = 0.0
        self.commits = 0
        self.groups = 0

    def start(self) -> None:
        self._thread.start()

    def submit(self, commit: Commit) -> asyncio.Future[None]:
        """Queue a commit; the future is done once it is durable or refused. Raises Overloaded, StoreUnavailable."""
        return self._queued(commit)

    def change(self, change: Change) -> asyncio.Future[Any]:
        """Queue any change, in the same way."""
        return self._queued(change)

    def _queued(self, change: Change | Commit) -> asyncio.Future[Any]:
        self.require_room()
        written = alike(change) if isinstance(change, Commit) else None
        self.waiting += 1
        future: asyncio.Future[Any] = Settling(loop=self._loop)
        if not self._come:
            # once for all that come in this round of the loop: whenever the thread is woken it asks for the interpreter
            self._loop.call_soon(self._hand_over)
        self._come.append((change, future, written))
        return future

    def _hand_over(self) -> None:
        come, self._come = self._come, []
        half = MAX_GROUP // 2
        for first in range(0, len(come), half):
            self._queue.put(come[first : first + half])

    async def clear_log(self) -> None:
        """Leave nothing in the log of what was written over or deleted before."""
        self._log_to_clear = True
        await self.change(lambda db: None)

    def require_room(self) -> None:
        """Raises what `submit` would raise now."""
        if self._stopping:
            raise StoreUnavailable("the store is closing")
        if self.broken.is_set():
            raise StoreFailed
        if self.waiting >= MAX_WAITING or self._stalled():
            raise Overloaded

    def _stalled(self) -> bool:
        begun_s = self._group_begun_s
        return begun_s is not None and time.monotonic() - begun_s > STALLED_S

    async def stop(self) -> None:
        """Write what is waiting, then close."""
        self._stopping = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        try:
            self._db.close()
        except apsw.Error as exc:
            # Closing moves the log into the file. Where that fails nothing is lost: the next start reads the log.
            logger.warning("the database was not closed in order", extra={"reason": type(exc).__name__})

    def _run(self) -> None:
        while group := self._next_group():
            self._group_begun_s = time.monotonic()
            outcomes = self._write(group)
            self.commits += len(group)
            self.groups += 1
            self._loop.call_soon_threadsafe(self._wake, outcomes)
            self._tend_log(group)
            self._group_begun_s = None

    def _tend_log(self, group: list[Waiting]) -> None:
        """Look after the log, once those who waited were told, so that they do not wait for this."""
        if not self._may_write:
            return
        try:
            # what is not alike may be of any size, and counts for many
            self._log.tend(sum(1 if written is not None else COMMITS for _, _, written in group))
        except Exception as exc:
            logger.warning("the log could not be moved", extra={"reason": type(exc).__name__})
            self._refusal(exc)  # nobody's: but where a disk fails nothing more is written

    def _next_group(self) -> list[Waiting]:
        """Wait for a commit and take all that have come meanwhile; empty once stopped."""
        group = self._queue.get()
        if group is None:
            return []
        while len(group) <= MAX_GROUP // 2:
            try:
                more = self._queue.get_nowait()
            except Empty:
                break
            if more is None:
                self._queue.put(None)  # finish this group, stop at the next
                break
            group += more
        return group

    def _write(self, group: list[Waiting]) -> list[Settled]:
        if not self._may_write:
            return [(future, StoreFailed()) for _, future, _ in group]
        try:
            outcomes = self._applied_all(group)
            self._require_in_place()
            self._point("after_commit")
            if self._log_to_clear:
                self._clear_log()
        except Exception as exc:
            # The whole group is undone and nobody is acknowledged. SQLite may have rolled back already.
            # Whatever it was, the waiters must hear of it: a writer that dies in silence hangs every request.
            with suppress(apsw.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            return [(future, self._refusal(exc)) for _, future, _ in group]
        return outcomes

    def _clear_log(self) -> None:
        """Move the log into the file and cut it to nothing. If somebody reads long, such as a backup, it is tried again
        with a later group: who writes must not be held up by that.
        """
        if time.monotonic() < self._cleared_from_s:
            return
        self._db.set_busy_timeout(int(CLEARING_S * 1000))
        try:
            ((busy, *_),) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._log_to_clear = bool(busy)
        except (apsw.BusyError, apsw.FullError):
            busy = True
        finally:
            self._db.set_busy_timeout(BUSY_MS)
        if busy:
            self._cleared_from_s = time.monotonic() + CLEARED_AGAIN_S

    def _require_in_place(self) -> None:
        if not self._in_place():
            raise Displaced

    def _refusal(self, exc: Exception) -> StoreUnavailable:
        """Say what befell a group. After an I/O error nothing more is written: what a failed sync left of the
        pages before it is unknown, and only reading the file anew tells.
        """
        error = StoreUnavailable(f"SQLite: {type(exc).__name__}")
        if isinstance(exc, apsw.FullError):
            error = StorageFull("the disk is full; nothing was stored")
        elif isinstance(exc, apsw.IOError | apsw.CorruptError | Displaced):
            error = StoreFailed()
            self._may_write = False
            logger.critical("the store failed while writing", extra={"reason": type(exc).__name__})
            self._loop.call_soon_threadsafe(self.broken.set)
        error.__cause__ = exc
        return error

    def _applied_all(self, group: list[Waiting]) -> list[Settled]:
        """Apply a group and make it durable: what many do alike together, if that can be, and all else one by one.

        Nobody has been told of any of them yet, so it does not matter that some take place before their turn.
        """
        rows: dict[str, list[Row]] = defaultdict(list)
        for _, _, written in group:
            if written is not None:
                rows[written.into] += written.rows
        rows = {into: of_all for into, of_all in rows.items() if len(of_all) >= TOGETHER}
        if len(rows) == 1 and all(written is not None and written.into in rows for _, _, written in group):
            ((into, of_all),) = rows.items()
            self._point("before_commit")
            if self._written(into, of_all):  # outside a transaction: it is durable by now
                return [(future, None) for _, future, _ in group]
            rows = {}
        self._db.execute("BEGIN IMMEDIATE")
        done = [into for into, of_all in rows.items() if self._written(into, of_all)]
        outcomes = [
            (future, None if written is not None and written.into in done else self._applied(change))
            for change, future, written in group
        ]
        self._point("before_commit")
        self._db.execute("COMMIT")
        return outcomes

    def _written(self, into: str, rows: list[Row]) -> bool:
        """Write what is alike, all of it or nothing; returns which."""
        try:
            write_alike(self._db, into, rows)
        except NotAll:
            return False
        return True

    def _applied(self, change: Change | Commit) -> Any:
        self._db.execute("SAVEPOINT one")
        outcome = None
        try:
            if isinstance(change, Commit):
                self._apply(change)
            else:
                outcome = change(self._db)
        except MemoryServiceError as refusal:
            self._db.execute("ROLLBACK TO one; RELEASE one")
            return refusal
        self._db.execute("RELEASE one")
        return outcome

    def _apply(self, commit: Commit) -> None:
        if apply(self._db, commit):
            self._log_to_clear = True

    def _wake(self, outcomes: list[Settled]) -> None:
        self.waiting -= len(outcomes)
        settle(outcomes)

"""The one thread that writes: it takes every commit that is waiting and makes them durable together.

Group commit: each commit is applied under a savepoint, so that one refused leaves the others alone; one
COMMIT with `synchronous=FULL` makes all of them durable; then all waiters are woken by one call into the loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

import apsw

from memory_service.errors import (
    MemoryServiceError,
    Overloaded,
    StaleVersion,
    StorageFull,
    StoreFailed,
    StoreUnavailable,
)
from memory_service.points import Point, nowhere
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn
from memory_service.stores.bodies import micros, micros_or_none, text_of
from memory_service.values import Memory, Request, Scope, Session, Sitting, Turn, Vector

logger = logging.getLogger(__name__)

Waiting = tuple[Commit, "asyncio.Future[None]"]
Settled = tuple["asyncio.Future[None]", Exception | None]

MAX_GROUP = 512
MAX_WAITING = 10_000
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
        self._loop = loop
        self._point = point
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._stopping = False
        self.broken = asyncio.Event()
        self.waiting = 0
        self._group_begun_s: float | None = None
        self.commits = 0
        self.groups = 0

    def start(self) -> None:
        self._thread.start()

    def submit(self, commit: Commit) -> asyncio.Future[None]:
        """Queue a commit; the future is done once it is durable or refused. Raises Overloaded, StoreUnavailable."""
        self.require_room()
        self.waiting += 1
        future = self._loop.create_future()
        self._queue.put((commit, future))
        return future

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
            self._group_begun_s = None
            self.commits += len(group)
            self.groups += 1
            self._loop.call_soon_threadsafe(self._wake, outcomes)

    def _next_group(self) -> list[Waiting]:
        """Wait for a commit and take all that have come meanwhile; empty once stopped."""
        first = self._queue.get()
        if first is None:
            return []
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if item is None:
                self._queue.put(None)  # finish this group, stop at the next
                break
            group.append(item)
        return group

    def _write(self, group: list[Waiting]) -> list[Settled]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            outcomes: list[Settled] = [(future, self._applied(commit)) for commit, future in group]
            self._point("before_commit")
            self._db.execute("COMMIT")
            self._require_in_place()
            self._point("after_commit")
        except Exception as exc:
            # The whole group is undone and nobody is acknowledged. SQLite may have rolled back already.
            # Whatever it was, the waiters must hear of it: a writer that dies in silence hangs every request.
            with suppress(apsw.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            return [(future, self._refusal(exc)) for _, future in group]
        return outcomes

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
            logger.critical("the store failed while writing", extra={"reason": type(exc).__name__})
            self._loop.call_soon_threadsafe(self.broken.set)
        error.__cause__ = exc
        return error

    def _applied(self, commit: Commit) -> MemoryServiceError | None:
        self._db.execute("SAVEPOINT one")
        try:
            apply(self._db, commit)
        except MemoryServiceError as refusal:
            self._db.execute("ROLLBACK TO one; RELEASE one")
            return refusal
        self._db.execute("RELEASE one")
        return None

    def _wake(self, outcomes: list[Settled]) -> None:
        self.waiting -= len(outcomes)
        for future, error in outcomes:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


def apply(db: apsw.Connection, commit: Commit) -> None:
    """Write one commit into the open transaction. Raises StaleVersion or DuplicateTurn."""
    owner = _owner(db, commit.scope)
    if commit.request is not None:
        _put_request(db, owner, commit.request, commit.turns[0])
    if commit.session is not None:
        session = _put_session(db, owner, commit.session)
        for turn in commit.turns:
            _put_turn(db, owner, session, turn)
    for sitting in commit.sittings:
        _put_sitting(db, owner, sitting)
    for memory in commit.memories:
        _put_memory(db, owner, memory)
    for vector in commit.vectors:
        _put_vector(db, owner, vector)


def _one(db: apsw.Connection, sql: str, values: tuple[object, ...]) -> int | None:
    for (found,) in db.execute(sql, values):
        return int(found)
    return None


def _owner(db: apsw.Connection, scope: Scope) -> int:
    named = (scope.tenant_id, scope.user_id)
    found = _one(db, "SELECT id FROM owners WHERE tenant_id = ? AND user_id = ?", named)
    if found is None:
        db.execute("INSERT INTO owners (tenant_id, user_id) VALUES (?, ?)", named)
        return db.last_insert_rowid()
    return found


def _put_session(db: apsw.Connection, owner: int, head: Session) -> int:
    state = (head.version, head.status, micros(head.touched_at), head.unreflected_turns, head.live_after, text_of(head))
    if head.version == 1:
        sql = (
            "INSERT INTO sessions (version, status, touched_at, unreflected_turns, live_after, head, owner, session_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, session_id) DO NOTHING RETURNING id"
        )
        row = _one(db, sql, (*state, owner, head.session_id))
    else:
        sql = (
            "UPDATE sessions SET version = ?, status = ?, touched_at = ?, unreflected_turns = ?, live_after = ?,"
            " head = ? WHERE owner = ? AND session_id = ? AND version = ? RETURNING id"
        )
        row = _one(db, sql, (*state, owner, head.session_id, head.version - 1))
    if row is None:
        raise StaleVersion
    return row


def _put_request(db: apsw.Connection, owner: int, request: Request, turn: Turn) -> None:
    db.execute("DELETE FROM requests WHERE made_at < ?", (micros(request.made_at - REQUESTS_KEPT),))
    sql = "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1"
    effect = (request.digest, turn.session_id, turn.turn_id, micros(request.made_at))
    if _one(db, sql, (owner, request.key, *effect)) is None:
        raise DuplicateRequest


def _put_turn(db: apsw.Connection, owner: int, session: int, turn: Turn) -> None:
    try:
        db.execute(
            "INSERT INTO turns (owner, session, seq, turn_id, body) VALUES (?, ?, ?, ?, ?)",
            (owner, session, turn.seq, turn.turn_id, text_of(turn)),
        )
    except apsw.ConstraintError as exc:
        raise (DuplicateTurn if "turn_id" in str(exc) else StaleVersion) from exc


def _put_sitting(db: apsw.Connection, owner: int, sitting: Sitting) -> None:
    session = _one(db, "SELECT id FROM sessions WHERE owner = ? AND session_id = ?", (owner, sitting.session_id))
    state = (
        sitting.version,
        sitting.reflection,
        micros(sitting.due_at),
        micros_or_none(sitting.lease_until),
        text_of(sitting),
    )
    if sitting.version == 1:
        sql = (
            "INSERT INTO sittings (version, reflection, due_at, lease_until, body, session, first_seq)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1"
        )
        row = _one(db, sql, (*state, session, sitting.first_seq)) if session else None
    else:
        sql = (
            "UPDATE sittings SET version = ?, reflection = ?, due_at = ?, lease_until = ?, body = ?"
            " WHERE session = ? AND first_seq = ? AND version = ? RETURNING 1"
        )
        row = _one(db, sql, (*state, session, sitting.first_seq, sitting.version - 1))
    if row is None:
        raise StaleVersion


def _put_memory(db: apsw.Connection, owner: int, memory: Memory) -> None:
    # REPLACE gives the row a new id: readers that follow ids as a cursor see the memory again.
    db.execute("DELETE FROM vectors WHERE owner = ? AND item_id = ?", (owner, memory.memory_id))
    db.execute(
        "INSERT OR REPLACE INTO memories (owner, memory_id, kind, created_at, superseded, body)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            owner,
            memory.memory_id,
            memory.kind,
            micros(memory.created_at),
            memory.valid_to is not None,
            text_of(memory),
        ),
    )


ITEMS: dict[bool, str] = {
    True: "UPDATE turns SET space = ? WHERE id = ? AND owner = ? RETURNING 1",
    False: "UPDATE memories SET space = ? WHERE id = ? AND owner = ? RETURNING 1",
}


def _put_vector(db: apsw.Connection, owner: int, vector: Vector) -> None:
    marked = _one(db, ITEMS["#" in vector.item_id], (vector.space, vector.token, owner))
    if marked:  # otherwise the item was written anew since: its vector would be of other words
        db.execute(
            "INSERT OR REPLACE INTO vectors (owner, item_id, space, data) VALUES (?, ?, ?, ?)",
            (owner, vector.item_id, vector.space, vector.data),
        )

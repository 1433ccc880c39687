"""One PostgreSQL database: calls with a time limit, tried again where that makes sense, and counted.

Each call is one statement, sent unprepared and committed by itself: it costs one round trip and needs nothing of the
connection before or after it, so any pooler may stand between.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from memory_service.errors import StorageFull, StoreUnavailable, UnsafeStart

logger = logging.getLogger(__name__)

T = TypeVar("T")
Row = tuple[Any, ...]
Values = Sequence[Any] | Mapping[str, Any]

MOST_CONNECTIONS = 10
CONNECT_S = 3
CALL_S = 5.0
"""For one answer."""
VERB_S = 12.0
"""For a call and all its retries; after that no further one is begun."""
REST_S = 1.0
"""For which nobody asks after one who waited in vain: those in the queue behind it do not each wait as long again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
OF_EVERY_CONNECTION: dict[str, Any] = {"autocommit": True, "prepare_threshold": None, "connect_timeout": CONNECT_S}

DISK_FULL = "53100"
PASSING = ("08", "40", "53", "55P03", "57", "25006")
"""Beginnings of codes of what passes: connections, deadlocks, resources, shutdowns, a primary that became a standby."""


NOT_CONNECTED = {
    "resolve host": "there is no host of the name",
    "Connection refused": "nothing listens at the host and port",
    "timeout expired": "the host did not answer in time",
    "No such file": "there is no socket of that name",
    "authentication failed": "the server refused the user or the password",
    "does not exist": "there is no such database or user",
    "connection option": "the address is not one",
}
"""What the driver says where there is no connection, and what that means."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a call may take, in seconds."""

    wait_s: float
    """For a connection."""
    call_s: float
    """For one answer."""
    verb_s: float
    """For the call and all its retries; after that no further one is begun."""
    whole_s: float = math.inf
    """After which it is cut off, whatever is under way."""
    rest_s: float = 0.0
    """For which calls are refused after one that failed, if for `call_s` no other was answered."""


class Client:
    def __init__(self, url: str) -> None:
        self._url = url
        self._closing = False
        self._answered_at = self._rests_until = -math.inf
        self.round_trips: Counter[str] = Counter()

    async def start(self, stack: AsyncExitStack, prepare: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> None:
        """Connect, prepare the database, and open the pool. Raises UnsafeStart."""
        try:
            await self.alone(prepare)
            await self.open(stack, least_connections=1, reconnect_s=VERB_S)
        except (psycopg.Error, OSError, UnicodeError) as exc:
            raise UnsafeStart(f"STORE_URL: PostgreSQL could not be opened: {reason_of(exc)}") from exc

    async def alone(self, work: Callable[[AsyncConnection[Any]], Awaitable[T]], within_s: float | None = None) -> T:
        """Do something once, over a connection of its own; what takes longer than so is cut off.

        Raises psycopg.Error, OSError, UnicodeError, TimeoutError.
        """
        loop = asyncio.get_running_loop()
        until = None if within_s is None else loop.time() + within_s
        async with asyncio.timeout_at(until):
            db = await AsyncConnection.connect(self._url, **OF_EVERY_CONNECTION)
        async with db:
            overdue = None if until is None else loop.call_at(until, _cut, db)
            try:
                return await work(db)
            finally:
                if overdue is not None:
                    overdue.cancel()

    async def open(self, stack: AsyncExitStack, *, least_connections: int, reconnect_s: float) -> None:
        """Open the pool. It does not wait for connections: whether there is a server, the first call finds out.

        `reconnect_s`: for which a connection that is refused is tried again, unasked.
        """
        self._pool = AsyncConnectionPool(
            self._url,
            min_size=least_connections,
            max_size=MOST_CONNECTIONS,
            reconnect_timeout=reconnect_s,
            open=False,
            kwargs=OF_EVERY_CONNECTION,
        )
        stack.push_async_callback(self._close)
        await self._pool.open()

    async def _close(self) -> None:
        self._closing = True
        await self._pool.close()

    def usage(self) -> dict[str, Any]:
        return {"verbs": {verb: {"round_trips": count} for verb, count in sorted(self.round_trips.items())}}

    async def rows(self, verb: str, sql: str, values: Values = (), limits: Limits | None = None) -> list[Row]:
        """Execute one statement."""

        async def work(db: AsyncConnection[Any], _: bool) -> list[Row]:
            return await (await self.execute(db, verb, sql, values)).fetchall()

        return await self.call(work, limits)

    async def execute(self, db: AsyncConnection[Any], verb: str, sql: str, values: Values) -> AsyncCursor[Any]:
        """Execute a statement inside a `call`: one round trip, counted for the verb."""
        self.round_trips[verb] += 1
        return await db.execute(sql.encode(), values)

    async def call(self, work: Callable[[AsyncConnection[Any], bool], Awaitable[T]], limits: Limits | None = None) -> T:
        """Do something with a connection; what failed in passing is done again, and told that it may be done already.

        Raises psycopg.Error for what will not pass, StorageFull, StoreUnavailable; after the last the outcome of a
        write is unknown.
        """
        loop = asyncio.get_running_loop()
        limits = limits or Limits(wait_s=CALL_S, call_s=CALL_S, verb_s=VERB_S, rest_s=REST_S)
        began, attempt = loop.time(), 0
        if began < self._rests_until:
            raise StoreUnavailable("PostgreSQL has not answered for a while")
        while not self._closing:
            try:
                async with self._pool.connection(timeout=limits.wait_s) as db:
                    overdue = loop.call_at(min(loop.time() + limits.call_s, began + limits.whole_s), _cut, db)
                    try:
                        return await self._answer(work(db, attempt > 0))
                    finally:
                        overdue.cancel()
            except (psycopg.Error, PoolTimeout, OSError) as exc:
                pause_s = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
                if _sqlstate(exc) == DISK_FULL:
                    raise StorageFull("the database has no room left; nothing was stored") from exc
                if not passes(exc):
                    raise
                if loop.time() + pause_s > began + limits.verb_s:
                    self._rest(limits)
                    raise StoreUnavailable(f"PostgreSQL: {reason_of(exc)}") from exc
                logger.info("asking PostgreSQL again", extra={"reason": reason_of(exc)})
            await self._pool.drain()  # one that is gone is seldom alone: after a restart of the server all are
            await asyncio.sleep(pause_s)
            attempt += 1
        raise StoreUnavailable("the store is closing")

    async def _answer(self, work: Awaitable[T]) -> T:
        try:
            answer = await work
        except psycopg.Error as exc:
            if not passes(exc):
                self._note_answer()
            raise
        self._note_answer()
        return answer

    def _note_answer(self) -> None:
        self._answered_at, self._rests_until = asyncio.get_running_loop().time(), -math.inf

    def _rest(self, limits: Limits) -> None:
        """Refuse calls for a while, unless others were answered lately: then it is not the server."""
        now = asyncio.get_running_loop().time()
        if now - self._answered_at >= limits.call_s:
            self._rests_until = now + limits.rest_s


def _cut(db: AsyncConnection[Any]) -> None:
    """Hang up on a server that does not answer. Asking it to cancel would mean waiting for it again."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(db.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _sqlstate(exc: Exception) -> str:
    return (exc.sqlstate or "") if isinstance(exc, psycopg.Error) else ""


def passes(exc: Exception) -> bool:
    """Whether it may be otherwise the next time, with nobody doing anything about it."""
    if not isinstance(exc, psycopg.Error):
        return True
    return _sqlstate(exc).startswith(PASSING) or (
        not exc.sqlstate and isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    )


def reason_of(exc: Exception) -> str:
    """What happened, in words that hold nothing of what was sent."""
    why = f" ({why})" if (why := _why_not_connected(exc)) else ""
    return f"{type(exc).__name__} {_sqlstate(exc)}".rstrip() + why


def _why_not_connected(exc: Exception) -> str:
    """In our words: those of the driver may quote the address, and with it a password that holds an `@`."""
    if not isinstance(exc, psycopg.Error) or exc.sqlstate:
        return ""
    return next((means for said, means in NOT_CONNECTED.items() if said in str(exc)), "")

"""One PostgreSQL database: calls with a time limit, tried again where that makes sense, and counted.

Each call is one statement, sent unprepared and committed by itself: it costs one round trip and needs nothing of the
connection before or after it, so any pooler may stand between.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

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
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0

DISK_FULL = "53100"
PASSING = ("08", "40", "53", "55P03", "57", "25006")
"""Beginnings of codes of what passes: connections, deadlocks, resources, shutdowns, a primary that became a standby."""


class Client:
    def __init__(self, url: str) -> None:
        self._url = url
        self._closing = False
        self.round_trips: Counter[str] = Counter()

    async def start(self, stack: AsyncExitStack, prepare: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> None:
        """Connect, prepare the database, and open the pool. Raises UnsafeStart."""
        try:
            first = await AsyncConnection.connect(
                self._url, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_S
            )
            async with first:
                await prepare(first)
            self._pool = AsyncConnectionPool(
                self._url,
                min_size=1,
                max_size=MOST_CONNECTIONS,
                timeout=CALL_S,
                reconnect_timeout=VERB_S,
                open=False,
                kwargs={"autocommit": True, "prepare_threshold": None, "connect_timeout": CONNECT_S},
            )
            stack.push_async_callback(self._close)
            await self._pool.open()
        except (psycopg.Error, OSError, UnicodeError) as exc:
            raise UnsafeStart(f"STORE_URL: PostgreSQL could not be opened: {_reason(exc)}") from exc

    async def _close(self) -> None:
        self._closing = True
        await self._pool.close()

    def usage(self) -> dict[str, Any]:
        return {"verbs": {verb: {"round_trips": count} for verb, count in sorted(self.round_trips.items())}}

    async def rows(self, verb: str, sql: str, values: Values = ()) -> list[Row]:
        """Execute one statement."""

        async def work(db: AsyncConnection[Any], _: bool) -> list[Row]:
            return await (await self.execute(db, verb, sql, values)).fetchall()

        return await self.call(work)

    async def execute(self, db: AsyncConnection[Any], verb: str, sql: str, values: Values) -> AsyncCursor[Any]:
        """Execute a statement inside a `call`: one round trip, counted for the verb."""
        self.round_trips[verb] += 1
        return await db.execute(sql.encode(), values)

    async def call(self, work: Callable[[AsyncConnection[Any], bool], Awaitable[T]]) -> T:
        """Do something with a connection; what failed in passing is done again, and told that it may be done already.

        Raises psycopg.Error for what will not pass, StorageFull, StoreUnavailable; after the last the outcome of a
        write is unknown.
        """
        loop = asyncio.get_running_loop()
        until, attempt = loop.time() + VERB_S, 0
        while True:
            if self._closing:
                raise StoreUnavailable("the store is closing")
            try:
                async with self._pool.connection() as db:
                    overdue = loop.call_later(CALL_S, _cut, db)
                    try:
                        return await work(db, attempt > 0)
                    finally:
                        overdue.cancel()
            except (psycopg.Error, PoolTimeout, OSError) as exc:
                pause_s = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
                if _sqlstate(exc) == DISK_FULL:
                    raise StorageFull("the database has no room left; nothing was stored") from exc
                if not _passes(exc):
                    raise
                if loop.time() + pause_s > until:
                    raise StoreUnavailable(f"PostgreSQL: {_reason(exc)}") from exc
                logger.info("asking PostgreSQL again", extra={"reason": _reason(exc)})
            await self._pool.drain()  # one that is gone is seldom alone: after a restart of the server all are
            await asyncio.sleep(pause_s)
            attempt += 1


def _cut(db: AsyncConnection[Any]) -> None:
    """Hang up on a server that does not answer. Asking it to cancel would mean waiting for it again."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(db.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _sqlstate(exc: Exception) -> str:
    return (exc.sqlstate or "") if isinstance(exc, psycopg.Error) else ""


def _passes(exc: Exception) -> bool:
    if not isinstance(exc, psycopg.Error):
        return True
    return _sqlstate(exc).startswith(PASSING) or (
        not exc.sqlstate and isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    )


def _reason(exc: Exception) -> str:
    """What happened, in words that hold nothing of what was sent."""
    return f"{type(exc).__name__} {_sqlstate(exc)}".rstrip()

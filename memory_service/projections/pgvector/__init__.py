"""The engine in PostgreSQL with pgvector: a table of copies, which a person may query with SQL too.

It may be in the database of the record or in any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection

from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.projections.base import SEARCH_S, WRITE_S, Copy, Floats, Projection
from memory_service.projections.pgvector.rows import (
    COLUMNS,
    document_of_copies,
    document_of_vectors,
    parts,
    size_of,
    size_of_vector,
)
from memory_service.projections.pgvector.schema import TABLES, prepare
from memory_service.projections.pgvector.search import question
from memory_service.settings import Settings
from memory_service.stores.base import Sought
from memory_service.stores.indexing import Splitting
from memory_service.stores.postgres.client import Client, Limits, Row, Values, passes, reason_of
from memory_service.values import Scope

logger = logging.getLogger(__name__)

START_S = 3.0
"""A start waits no longer for the server; without it, the first call that finds it there prepares it."""
WAIT_S, RETRY_S = 1.2, 0.5
"""For a connection; and for trying again what failed at once, as all connections do after a restart of the server."""
SHARE = 0.9
"""Of the time that a verb has, after which we hang up: a server that hangs could not be told to cancel."""
FORM = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
REFUSALS = ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "does not exist")
"""What a server says to whom it turns away, in English; of a connection that fails there is no code."""

KEY = ("tenant_id", "user_id", "item_id")
READ = {"words": "given.words::tsvector", "embedding": "given.embedding::vector"}
LATER = ("space", "embedding")
# A vector is of a text: it stays as long as that does, unless another comes.
PUT = f"""
INSERT INTO memory_copies AS kept (tenant_id, user_id, {", ".join(COLUMNS)})
SELECT %(tenant)s, %(user)s, {", ".join(READ.get(name, f"given.{name}") for name in COLUMNS)}
FROM json_to_recordset(%(rows)s::json) AS given({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())})
ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in (*KEY, *LATER))},
    {
    ", ".join(
        f"{name} = CASE WHEN excluded.embedding IS NULL AND excluded.digest = kept.digest"
        f" THEN kept.{name} ELSE excluded.{name} END"
        for name in LATER
    )
}
"""
OF_USER = "tenant_id = %(tenant)s AND user_id = %(user)s"
PUT_VECTORS = f"""
UPDATE memory_copies AS kept SET embedding = given.embedding::vector,
    space = CASE WHEN given.embedding IS NULL THEN NULL ELSE %(space)s END
FROM json_to_recordset(%(rows)s::json) AS given(item_id text, embedding text)
WHERE {OF_USER} AND kept.item_id = given.item_id
"""
REMOVE = f"DELETE FROM memory_copies WHERE {OF_USER} AND item_id = ANY(%(ids)s)"
FORGET = f"DELETE FROM memory_copies WHERE {OF_USER}"
HELD = f"SELECT item_id, digest FROM memory_copies WHERE {OF_USER}"
CHECK = """
SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
    ARRAY(SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL)
"""


class PGVector(Projection):
    name = "pgvector"
    native_errors = (psycopg.Error, OSError, StoreUnavailable, UnsafeStart)
    takes_vectors = True

    def __init__(self, url: str, *, search_s: float = SEARCH_S, write_s: float = WRITE_S) -> None:
        super().__init__(search_s=search_s, write_s=write_s)
        self._client = Client(url)
        self._splitting = Splitting()
        self.made = None
        self._preparing = asyncio.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        url = settings.database_url.get_secret_value().strip()
        if not url:
            raise UnsafeStart(f"MEMORY_DRIVER=pgvector needs DATABASE_URL: {FORM}")
        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except (psycopg.ProgrammingError, UnicodeError):
            raise UnsafeStart(f"DATABASE_URL: write {FORM}") from None  # what was raised quotes the URL
        return cls(url)

    async def start(self, stack: AsyncExitStack) -> None:
        self._splitting.start(stack)
        await self._client.open(stack, least_connections=0, reconnect_s=0)
        try:
            await self._prepared(START_S)
        except UnsafeStart as exc:
            raise UnsafeStart(f"MEMORY_DRIVER={self.name}: {exc}") from exc
        except UnicodeError as exc:
            raise UnsafeStart(f"DATABASE_URL: write {FORM}") from exc
        except (psycopg.Error, OSError) as exc:  # a TimeoutError is an OSError
            if refused := _refusal(exc):
                raise UnsafeStart(
                    f"MEMORY_DRIVER={self.name}: the database of DATABASE_URL refuses: {refused}"
                ) from exc
            logger.warning(
                "a memory driver's engine does not answer; it is prepared when it does",
                extra={"driver": self.name, "reason": reason_of(exc)},
            )

    async def _prepared(self, within_s: float) -> None:
        """Make the tables, if this has not been done since the start, or some are gone. Raises UnsafeStart."""
        if self.made is not None:
            return
        async with self._preparing:
            if self.made is None:
                self.made = await self._client.alone(prepare, within_s)

    async def _ready(self, within_s: float) -> None:
        """Before a verb: of what it needs an operator for, nobody else hears."""
        try:
            await self._prepared(within_s)
        except UnsafeStart as exc:
            logger.error(  # noqa: TRY400 (all is said)
                "a memory driver's engine cannot be used", extra={"driver": self.name, "reason": str(exc)}
            )
            raise

    async def _put(self, scope: Scope, copies: Sequence[Copy]) -> None:
        latest = {copy.id: copy for copy in copies}  # one statement writes a row once
        for part in parts(latest.values(), size_of):
            rows = await self._splitting.run(sum(map(size_of, part)), partial(document_of_copies, part))
            await self._write("put", PUT, {**_names(scope), "rows": rows})

    async def _put_vectors(self, scope: Scope, space: str, vectors: Mapping[str, Floats]) -> None:
        for part in parts(vectors.items(), lambda given: size_of_vector(given[1])):
            rows = await asyncio.to_thread(document_of_vectors, part)
            await self._write("put_vectors", PUT_VECTORS, {**_names(scope), "space": space, "rows": rows})

    async def _remove(self, scope: Scope, ids: Sequence[str]) -> None:
        if ids:
            await self._write("remove", REMOVE, {**_names(scope), "ids": list(ids)})

    async def _forget(self, scope: Scope) -> None:
        await self._write("forget", FORGET, _names(scope))

    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        asked = question(scope, sought, limit)
        if asked is None:
            return []
        rows = await self._read("search", *asked, self._search_s)
        self.made = rows[0][0]  # somebody else may have made them anew
        return [item_id for _, item_id in rows if item_id is not None]

    async def _held(self, scope: Scope) -> dict[str, str]:
        return dict(await self._read("held", HELD, _names(scope), self._write_s))

    async def _check(self) -> dict[str, Any]:
        ((server, extension, tables),) = await self._read("check", CHECK, (list(TABLES),), self._search_s)
        if len(tables) < len(TABLES):
            self.made = None
        return {"postgres": server, "pgvector": extension, "tables": {name: name in tables for name in TABLES}}

    async def _drop(self) -> None:
        async with self._preparing:
            self.made = await self._client.alone(partial(prepare, anew=True), SHARE * self._write_s)

    async def _read(self, verb: str, sql: str, values: Values, within_s: float) -> list[Row]:
        limits = _limits(within_s)
        await self._ready(limits.whole_s)
        with self._noticed():
            return await self._client.rows(verb, sql, values, limits)

    async def _write(self, verb: str, sql: str, values: Values) -> None:
        async def work(db: AsyncConnection[Any], _: bool) -> None:
            await self._client.execute(db, verb, sql, values)

        limits = _limits(self._write_s)
        await self._ready(limits.whole_s)
        with self._noticed():
            await self._client.call(work, limits)

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Where a table is gone they are made again by the next verb."""
        try:
            yield
        except psycopg.errors.UndefinedTable:
            self.made = None
            raise


def _limits(verb_s: float) -> Limits:
    whole_s = SHARE * verb_s
    return Limits(wait_s=min(WAIT_S, whole_s), call_s=whole_s, verb_s=RETRY_S, whole_s=whole_s)


def _refusal(exc: Exception) -> str:
    """In words that hold nothing of the URL, why asking again would not help; empty if it may."""
    said = next((words for words in REFUSALS if words in str(exc)), "")
    return said or ("" if passes(exc) else reason_of(exc))


def _names(scope: Scope) -> dict[str, Any]:
    return {"tenant": scope.tenant_id, "user": scope.user_id}

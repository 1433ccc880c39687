"""Numbered SQL scripts that bring a schema up to date, applied by whichever process comes first, and what they need."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import psycopg
from psycopg import AsyncConnection

from memory_service.errors import UnsafeStart

OURS = 0x6D656D6F7279
"""Names our lock among all advisory locks of the database. One for all our schemas: an extension is of all of them."""
OLDEST = 140000


class Change:
    """A schema that is being changed: `applied` are the numbers of its scripts that were."""

    def __init__(self, db: AsyncConnection[Any], table: str, scripts: Mapping[int, str], applied: set[int]) -> None:
        self._db, self._table, self._scripts = db, table, scripts
        self.applied = applied

    async def wait_no_longer_than(self, lock_s: float) -> None:
        """For a table that another connection holds: until we have it, nobody else gets at it either."""
        await self._db.execute("SELECT set_config('lock_timeout', %s, true)", (f"{lock_s}s",))

    async def apply(self, *, without: Collection[int] = ()) -> None:
        """Apply all scripts that were not yet, in their order."""
        for number, script in self._scripts.items():
            if number not in self.applied and number not in without:
                digest = hashlib.sha256(script.encode()).hexdigest()
                await self._db.execute(script.encode())
                await self._db.execute(f"INSERT INTO {self._table} VALUES (%s, %s)".encode(), (number, digest))
                self.applied.add(number)


@asynccontextmanager
async def changing(
    db: AsyncConnection[Any], table: str, scripts: Mapping[int, str], *, anew: str = ""
) -> AsyncIterator[Change]:
    """A block in which this process alone changes a schema, all or nothing. Raises UnsafeStart.

    `table` holds what was applied. `anew`: SQL that takes away what is there, with that table, to begin with.
    """
    try:
        async with db.transaction():
            # Held until the transaction ends, and by nothing longer: it must work through a proxy that shares
            # connections.
            await db.execute("SELECT pg_advisory_xact_lock(%s)", (OURS,))
            if anew:
                await db.execute(anew.encode())
            await db.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (number integer PRIMARY KEY, sha256 text NOT NULL)".encode()
            )
            rows = await (await db.execute(f"SELECT number FROM {table}".encode())).fetchall()
            applied = {number for (number,) in rows}
            if newer := applied - scripts.keys():
                raise UnsafeStart(f"the database was written by a newer version of this service (schema {max(newer)})")
            yield Change(db, table, scripts, applied)
    except psycopg.errors.LockNotAvailable as exc:
        reason = "the schema must be changed, and another connection holds a table (a backup?)"
        raise UnsafeStart(f"{reason}; start again when it is done") from exc


def scripts_of(package: str | None) -> dict[int, str]:
    """The scripts in a package's folder `migrations`, by number."""
    assert package
    files = resources.files(package).joinpath("migrations").iterdir()
    found = {int(file.name[:4]): file.read_text("utf-8") for file in files if file.name.endswith(".sql")}
    return dict(sorted(found.items()))


async def make_extension(db: AsyncConnection[Any]) -> psycopg.Error | None:
    """Give the database pgvector, if that is allowed; returns what it was refused by, or None. In a transaction."""
    try:
        async with db.transaction():
            await db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.Error as exc:
        return exc
    return None


async def has_type(db: AsyncConnection[Any], name: str) -> bool:
    """Whether there is a type of this name, in the search path."""
    found = await (await db.execute("SELECT to_regtype(%s) IS NOT NULL", (name,))).fetchone()
    return bool(found and found[0])


async def require_usable(db: AsyncConnection[Any]) -> None:
    """Raises UnsafeStart for a server that is too old or takes no writes, and a database that holds not all letters."""
    if db.info.server_version < OLDEST:
        raise UnsafeStart(f"PostgreSQL 14 or later is needed; this is {db.info.server_version // 10000}")
    asked = await db.execute("SELECT current_setting('server_encoding'), pg_is_in_recovery()")
    ((encoding, standby),) = await asked.fetchall()
    if encoding != "UTF8":
        raise UnsafeStart(f"the database must be in UTF8; this one is in {encoding}")
    if standby:
        raise UnsafeStart("this PostgreSQL server is a standby, which takes no writes")

"""The tables of copies: made by numbered scripts, by whichever process comes first, beside whatever else is there."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncConnection

from memory_service.errors import UnsafeStart
from memory_service.stores.postgres import scripts
from memory_service.stores.postgres.client import passes

APPLIED = "memory_copies_migrations"
TABLES = ("memory_copies", "memory_copies_made", APPLIED)
ANEW = "".join(f"DROP TABLE IF EXISTS {table};" for table in TABLES)
ARE_THERE = "SELECT count(*) FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL"
LOCK_S = 3
"""For which a change of the schema waits for a table."""
WHAT_TO_RUN = "run once, in the database of DATABASE_URL: CREATE EXTENSION vector;"
NOT_ALLOWED = (
    f"pgvector is missing, and the role of DATABASE_URL may not make it. As a superuser (in a cloud: as the server's "
    f"administrator) {WHAT_TO_RUN}"
)
NOT_INSTALLED = (
    f"pgvector is not installed on this server. Install it (a package such as postgresql-16-pgvector; in a cloud it is "
    f"allowed by a setting), then, as a superuser, {WHAT_TO_RUN}"
)
NO_TABLES = (
    "the role of DATABASE_URL may not make tables. As the owner of the database run, with the role's name: "
    "GRANT USAGE, CREATE ON SCHEMA public TO ...;"
)


async def prepare(db: AsyncConnection[Any], *, anew: bool = False) -> str:
    """Bring the tables up to date, one process at a time, all or nothing.

    `anew`: begin with none, as is done where some are gone. Returns their generation. Raises UnsafeStart for what only
    an operator mends.
    """
    await scripts.require_usable(db)
    begin = ANEW if anew or await _are_some_gone(db) else ""
    try:
        async with scripts.changing(db, APPLIED, scripts.scripts_of(__package__), anew=begin) as change:
            await _require_extension(db)
            await change.wait_no_longer_than(LOCK_S)
            await change.apply()
            made = await (await db.execute("SELECT generation FROM memory_copies_made")).fetchone()
            assert made is not None
            return str(made[0])
    except psycopg.errors.InsufficientPrivilege as exc:
        raise UnsafeStart(NO_TABLES) from exc


async def _are_some_gone(db: AsyncConnection[Any]) -> bool:
    there = await (await db.execute(ARE_THERE, (list(TABLES),))).fetchone()
    return there is not None and 0 < there[0] < len(TABLES)


async def _require_extension(db: AsyncConnection[Any]) -> None:
    refused = await scripts.make_extension(db)
    if isinstance(refused, psycopg.errors.InsufficientPrivilege):
        raise UnsafeStart(NOT_ALLOWED) from refused
    if refused and passes(refused):
        raise refused
    if refused:
        raise UnsafeStart(f"{NOT_INSTALLED} ({type(refused).__name__})") from refused
    if not await scripts.has_type(db, "vector"):
        raise UnsafeStart(
            "pgvector is in a schema that is not in the search path: ALTER EXTENSION vector SET SCHEMA public;"
        )

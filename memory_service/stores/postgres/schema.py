"""The schema this code expects: numbered migrations, applied by whichever process comes first."""

from __future__ import annotations

import hashlib
import logging
from importlib import resources
from typing import Any

import psycopg
from psycopg import AsyncConnection

from memory_service.errors import UnsafeStart

logger = logging.getLogger(__name__)

OURS = 0x6D656D6F7279
"""Names our lock among all advisory locks of the database."""
OLDEST = 140000
SEARCH = 2
"""Number of the migration that needs pgvector."""
IS_WHOLE = """
SELECT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = to_regclass('search_entries') AND attname = 'direction' AND NOT attisdropped)
"""
ANEW = """
ALTER TABLE owners DROP COLUMN IF EXISTS indexed;
DROP TABLE IF EXISTS search_entries;
DROP FUNCTION IF EXISTS commit_with_entries;
DELETE FROM memory_migrations WHERE number = 2;
"""
LOCK_S = 3
"""For which a change of the schema waits for a table: until it has it, nobody else gets at the table either."""
SYNCING = ["fsync", "full_page_writes"]
"""Settings of the server without which a commit may be gone, or the database damaged, after a power cut."""


async def migrate(db: AsyncConnection[Any], *, searched: bool) -> str:
    """Bring the schema up to date, one process at a time, all or nothing. Raises UnsafeStart.

    `searched`: with what a search by the database needs, if that can be had; returns what it lacks.
    """
    async with db.transaction():
        # Held until the transaction ends, and by nothing longer: it must work through a proxy that shares connections.
        await db.execute("SELECT pg_advisory_xact_lock(%s)", (OURS,))
        await db.execute(
            "CREATE TABLE IF NOT EXISTS memory_migrations (number integer PRIMARY KEY, sha256 text NOT NULL)"
        )
        rows = await (await db.execute("SELECT number, sha256 FROM memory_migrations")).fetchall()
        applied, ours = dict(rows), _ours()
        newer = applied.keys() - {number for number, _ in ours}
        if newer:
            raise UnsafeStart(f"the database was written by a newer version of this service (schema {max(newer)})")
        lacking = await _lacking(db) if searched else ""
        await db.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_S}s",))
        try:
            if SEARCH in applied and searched and not lacking and await _is_broken(db):
                await db.execute(ANEW)
                del applied[SEARCH]
            for number, script in ours:
                digest = hashlib.sha256(script.encode()).hexdigest()
                if number not in applied and (number != SEARCH or (searched and not lacking)):
                    await db.execute(script.encode())
                    await db.execute("INSERT INTO memory_migrations VALUES (%s, %s)", (number, digest))
        except psycopg.errors.LockNotAvailable as exc:
            reason = "the schema must be changed, and another connection holds a table (a backup?)"
            raise UnsafeStart(f"{reason}; start again when it is done") from exc
    return lacking


async def _is_broken(db: AsyncConnection[Any]) -> bool:
    """Whether the entries are gone. With the extension go its columns; without it a dump is restored without them."""
    found = await (await db.execute(IS_WHOLE)).fetchone()
    if found and found[0]:
        return False
    logger.warning("the entries to search by were dropped; they are begun anew")
    return True


async def _lacking(db: AsyncConnection[Any]) -> str:
    """What is not there that a search by the database needs; it is made if that is allowed."""
    try:
        async with db.transaction():
            await db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.Error as exc:
        return f"no pgvector: CREATE EXTENSION vector was refused ({type(exc).__name__})"
    found = await (await db.execute("SELECT to_regtype('halfvec') IS NOT NULL")).fetchone()
    return "" if found and found[0] else "pgvector 0.7 or later, in the search path, is needed"


async def require_usable(db: AsyncConnection[Any]) -> list[str]:
    """Return which settings of `SYNCING` are off. Raises UnsafeStart."""
    if db.info.server_version < OLDEST:
        raise UnsafeStart(f"PostgreSQL 14 or later is needed; this is {db.info.server_version // 10000}")
    asked = await db.execute(
        "SELECT current_setting('server_encoding'), pg_is_in_recovery(),"
        " ARRAY(SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name)",
        (SYNCING,),
    )
    ((encoding, standby, off),) = await asked.fetchall()
    if encoding != "UTF8":
        raise UnsafeStart(f"the database must be in UTF8; this one is in {encoding}")
    if standby:
        raise UnsafeStart("this PostgreSQL server is a standby, which takes no writes")
    return list(off)


def _ours() -> list[tuple[int, str]]:
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8"))
        for file in resources.files(__package__).joinpath("migrations").iterdir()
        if file.name.endswith(".sql")
    )

"""The schema this code expects: numbered migrations, applied by whichever process comes first."""

from __future__ import annotations

import logging
from typing import Any

from psycopg import AsyncConnection

from memory_service.stores.postgres import scripts

logger = logging.getLogger(__name__)

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
    async with scripts.changing(db, "memory_migrations", scripts.scripts_of(__package__)) as change:
        lacking = await _lacking(db) if searched else ""
        await change.wait_no_longer_than(LOCK_S)
        if SEARCH in change.applied and searched and not lacking and await _is_broken(db):
            await db.execute(ANEW)
            change.applied.remove(SEARCH)
        await change.apply(without=() if searched and not lacking else (SEARCH,))
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
    if refused := await scripts.make_extension(db):
        return f"no pgvector: CREATE EXTENSION vector was refused ({type(refused).__name__})"
    return "" if await scripts.has_type(db, "halfvec") else "pgvector 0.7 or later, in the search path, is needed"


async def require_usable(db: AsyncConnection[Any]) -> list[str]:
    """Return which settings of `SYNCING` are off. Raises UnsafeStart."""
    await scripts.require_usable(db)
    asked = await db.execute(
        "SELECT ARRAY(SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name)", (SYNCING,)
    )
    ((off,),) = await asked.fetchall()
    return list(off)

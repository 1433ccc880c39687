"""What drivers lack of users in PostgreSQL: marked by triggers on a user's row, asked and kept by one statement each.

Leases are those of any process: one that is gone keeps its until it ends. A commit locks its user's row and then that
user's mirrors; all that is here locks mirrors alone, so neither waits for the other in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import AsyncConnection

from memory_service.stores.base import Entries
from memory_service.stores.bodies import (
    MIRROR_COLUMNS,
    memory_of,
    micros,
    micros_or_none,
    mirror_of,
    turn_of,
    turns_named,
)
from memory_service.stores.mirrors import Mirror
from memory_service.stores.postgres.client import Client, Row
from memory_service.values import Scope, Vector

USERS_AT_ONCE = 10_000
"""Who are noted by one statement: it has the time of a call, and commits of these users wait for it."""

IS_FOLLOWED = "SELECT EXISTS (SELECT FROM drivers WHERE name = %s)"
NOTE = """
WITH page AS MATERIALIZED (SELECT id, tenant_id, user_id FROM owners WHERE id > %(after)s ORDER BY id LIMIT %(limit)s),
noted AS (
    INSERT INTO mirrors (driver, tenant_id, user_id) SELECT %(driver)s, tenant_id, user_id FROM page ORDER BY id
    ON CONFLICT (driver, tenant_id, user_id) DO UPDATE
        SET cursor = 'null', begun = mirrors.begun + 1, changed = mirrors.changed + 1 WHERE %(anew)s
)
SELECT max(id) FROM page
"""
DROP = """
WITH gone AS (
    DELETE FROM mirrors WHERE ctid = ANY(ARRAY(SELECT ctid FROM mirrors WHERE driver = %s LIMIT %s)) RETURNING 1
)
SELECT count(*) FROM gone
"""
# What this same call has leased, before its answer was lost, is its own. By their places, since the planner does not
# know how few there will be; one that moves meanwhile is left for the next time.
CLAIM = f"""
UPDATE mirrors SET lease_until = %(lease_until)s WHERE ctid = ANY((
    ARRAY(
        SELECT ctid FROM mirrors
        WHERE %(again)s AND driver = %(driver)s AND mirrored < changed AND lease_until = %(lease_until)s
        LIMIT %(limit)s FOR UPDATE
    ) || ARRAY(
        SELECT ctid FROM mirrors
        WHERE driver = %(driver)s AND mirrored < changed AND (lease_until IS NULL OR lease_until <= %(now)s)
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ))[:%(limit)s])
RETURNING {MIRROR_COLUMNS}
"""
NAMED = "driver = %(driver)s AND tenant_id = %(tenant)s AND user_id = %(user)s"
OURS = f"{NAMED} AND lease_until IS NOT DISTINCT FROM %(ours)s"
# The row of a user who was erased, and has been forgotten, would be the last that is kept of them. Where the answer was
# lost, what was written under this lease is its own work; so is a row that is gone.
PUT = f"""
WITH gone AS (
    DELETE FROM mirrors WHERE {OURS} AND begun = %(begun)s AND %(caught_up)s AND changed <= %(changed)s
        AND NOT EXISTS (SELECT FROM owners WHERE tenant_id = %(tenant)s AND user_id = %(user)s)
    RETURNING true
), kept AS (
    UPDATE mirrors SET written_under = %(ours)s,
        target = CASE WHEN begun = %(begun)s THEN %(target)s ELSE target END,
        cursor = CASE WHEN begun = %(begun)s THEN %(cursor)s ELSE cursor END,
        mirrored = CASE WHEN begun = %(begun)s AND %(caught_up)s THEN %(changed)s ELSE mirrored END,
        lease_until = CASE WHEN begun = %(begun)s THEN %(lease_until)s::bigint END
    WHERE {OURS} AND NOT EXISTS (TABLE gone)
    RETURNING begun = %(begun)s
)
TABLE gone UNION ALL TABLE kept
UNION ALL SELECT begun = %(begun)s FROM mirrors
    WHERE %(again)s AND {NAMED} AND lease_until IS DISTINCT FROM %(ours)s AND written_under = %(ours)s
UNION ALL SELECT true WHERE %(again)s AND %(caught_up)s AND NOT EXISTS (SELECT FROM mirrors WHERE {NAMED})
"""
FIND = f"SELECT {MIRROR_COLUMNS} FROM mirrors WHERE {NAMED}"
LAGGING = "SELECT count(*) FROM mirrors WHERE driver = %s AND mirrored < changed"
ITEMS = """
WITH mine AS MATERIALIZED (SELECT id FROM owners WHERE tenant_id = %(tenant)s AND user_id = %(user)s)
SELECT 'turn', '', turns.body, NULL::bytea
    FROM unnest(%(sessions)s::text[], %(numbers)s::bigint[]) AS named(session_id, seq)
    JOIN sessions ON sessions.owner = (SELECT id FROM mine) AND sessions.session_id = named.session_id
    JOIN turns ON turns.session = sessions.id AND turns.seq = named.seq
UNION ALL
SELECT 'memory', '', body, NULL FROM memories WHERE owner = (SELECT id FROM mine) AND memory_id = ANY(%(names)s)
UNION ALL
SELECT 'vector', item_id, '', data FROM vectors
    WHERE owner = (SELECT id FROM mine) AND item_id = ANY(%(names)s) AND space = %(space)s
"""


class Mirrors:
    """How far drivers have followed, and what they ask for by name."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def follow(self, driver: str, anew: bool) -> None:
        """Note everybody, some at a time, where that is to be done; and only then let commits know of the driver."""
        ((is_followed,),) = await self._client.rows("follow", IS_FOLLOWED, (driver,))
        after: int | None = None if is_followed and not anew else 0
        while after is not None:
            values = {"driver": driver, "anew": anew, "after": after, "limit": USERS_AT_ONCE}
            ((after,),) = await self._client.rows("follow", NOTE, values)
        if not is_followed:
            await self._client.rows("follow", "SELECT follow_driver(%s)", (driver,))

    async def unfollow(self, driver: str) -> None:
        gone = USERS_AT_ONCE
        while gone == USERS_AT_ONCE:
            ((gone,),) = await self._client.rows("unfollow", DROP, (driver, USERS_AT_ONCE))
        await self._client.rows("unfollow", "SELECT unfollow_driver(%s)", (driver,))

    async def claim(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        values = {"driver": driver, "now": micros(now), "lease_until": micros(lease_until), "limit": limit}
        return [mirror_of(driver, row) for row in await self._told_again("claim_mirrors", CLAIM, values)]

    async def put(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
        values = {
            **_named(mirror.scope, mirror.driver),
            "target": mirror.target,
            "cursor": msgspec.json.encode(mirror.cursor).decode(),
            "changed": mirror.changed,
            "begun": mirror.begun,
            "ours": micros_or_none(mirror.lease_until),
            "caught_up": caught_up,
            "lease_until": micros_or_none(lease_until),
        }
        rows = await self._told_again("put_mirror", PUT, values)
        return any(counts for (counts,) in rows)

    async def find(self, scope: Scope, driver: str) -> Mirror:
        rows = await self._client.rows("mirror", FIND, _named(scope, driver))
        return mirror_of(driver, rows[0]) if rows else Mirror(scope=scope, driver=driver)

    async def lagging(self, driver: str) -> int:
        ((count,),) = await self._client.rows("lagging", LAGGING, (driver,))
        return int(count)

    async def items(self, scope: Scope, item_ids: Sequence[str], space: str) -> Entries:
        turns = turns_named(item_ids)
        values = {
            "tenant": scope.tenant_id,
            "user": scope.user_id,
            "sessions": [session_id for session_id, _ in turns],
            "numbers": [number for _, number in turns],
            "names": list(item_ids),
            "space": space,
        }
        rows = await self._client.rows("items", ITEMS, values)
        found = [turn_of(body) for kind, _, body, _ in rows if kind == "turn"]
        return Entries(
            turns=sorted(found, key=lambda turn: (turn.session_id, turn.seq)),
            memories=[memory_of(body) for kind, _, body, _ in rows if kind == "memory"],
            vectors=[
                Vector(item_id=item_id, token=0, space=space, data=data)
                for kind, item_id, _, data in rows
                if kind == "vector"
            ],
            cursor=None,
            more=False,
        )

    async def _told_again(self, verb: str, sql: str, values: dict[str, Any]) -> list[Row]:
        """Execute a statement that wants to know whether it may have been executed before."""

        async def work(db: AsyncConnection[Any], again: bool) -> list[Row]:
            return await (await self._client.execute(db, verb, sql, {**values, "again": again})).fetchall()

        return await self._client.call(work)


def _named(scope: Scope, driver: str) -> dict[str, Any]:
    return {"driver": driver, "tenant": scope.tenant_id, "user": scope.user_id}

"""What of the database nobody has touched for long."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.bodies import memory_of, micros
from memory_service.stores.postgres.client import Client
from memory_service.values import Scope, SessionKey

# Of each state an index by age: a query over both would read all that is old before it gives the first.
SESSIONS = """
SELECT touched_at, tenant_id, user_id, session_id FROM sessions JOIN owners ON owners.id = owner
WHERE status = '{status}' AND touched_at <= %(since)s AND {whose} ORDER BY touched_at LIMIT %(limit)s
"""
MEMORIES = """
SELECT tenant_id, user_id, body FROM memories JOIN owners ON owners.id = owner
WHERE kind = 'memory' AND NOT superseded AND created_at <= %(since)s AND {whose}
    AND coalesce(updated_at::timestamptz <= %(moment)s, true) AND NOT settled
    AND NOT EXISTS (
        SELECT FROM sessions WHERE sessions.owner = memories.owner AND sessions.session_id = memories.session_id)
ORDER BY created_at LIMIT %(limit)s
"""


class Aging:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def sessions(self, of: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        of_each = (SESSIONS.format(status=status, whose=_whose(of)) for status in ("active", "ended"))
        sql = f"({') UNION ALL ('.join(of_each)}) ORDER BY touched_at LIMIT %(limit)s"
        rows = await self._client.rows("aged_sessions", sql, _values(of, untouched_since, limit))
        return [SessionKey(scope=_scope(tenant, user), session_id=name) for _, tenant, user, name in rows]

    async def memories(self, of: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        values = {**_values(of, unchanged_since, limit), "moment": unchanged_since}
        rows = await self._client.rows("aged_memories", MEMORIES.format(whose=_whose(of)), values)
        return [AgedMemory(scope=_scope(tenant, user), memory=memory_of(body)) for tenant, user, body in rows]


def _whose(of: Tenants) -> str:
    return "tenant_id = %(only)s" if of.only is not None else "NOT tenant_id = ANY(%(but)s::text[])"


def _values(of: Tenants, since: datetime, limit: int) -> dict[str, Any]:
    return {"only": of.only, "but": list(of.but), "since": micros(since), "limit": limit}


def _scope(tenant_id: str, user_id: str) -> Scope:
    return Scope(tenant_id=tenant_id, user_id=user_id)

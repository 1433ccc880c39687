"""What of the file nobody has touched for long: each a function over a connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import apsw
import msgspec

from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.bodies import memory_of, micros
from memory_service.values import Scope, SessionKey

# Of each state an index by age: a query over both would read all that is old before it gives the first.
SESSIONS = """
SELECT touched_at, tenant_id, user_id, session_id FROM sessions CROSS JOIN owners ON owners.id = owner
WHERE status = '{status}' AND touched_at <= ? AND {whose} ORDER BY touched_at LIMIT ?
"""
# A time in a body ends in Z, with microseconds before it or without: as texts they sort when that is off.
MEMORIES = """
SELECT tenant_id, user_id, body FROM memories CROSS JOIN owners ON owners.id = owner
WHERE kind = 'memory' AND superseded = 0 AND created_at <= ? AND {whose}
    AND coalesce(rtrim(body ->> '$.updated_at', 'Z') <= rtrim(?, 'Z'), 1)
    AND NOT coalesce(body ->> '$.pinned', 0) AND NOT coalesce(body ->> '$.edited', 0)
    AND NOT EXISTS (
        SELECT 1 FROM sessions WHERE sessions.owner = memories.owner AND session_id = body ->> '$.session_id')
ORDER BY created_at LIMIT ?
"""


def sessions(db: apsw.Connection, of: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
    whose, value = _whose(of)
    rows: list[Any] = []
    for status in ("active", "ended"):
        sql = SESSIONS.format(status=status, whose=whose)
        rows += db.execute(sql, (micros(untouched_since), value, limit))
    rows.sort(key=lambda row: row[0])
    return [SessionKey(scope=_scope(tenant, user), session_id=name) for _, tenant, user, name in rows[:limit]]


def memories(db: apsw.Connection, of: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
    whose, value = _whose(of)
    since = str(msgspec.to_builtins(unchanged_since))
    rows = db.execute(MEMORIES.format(whose=whose), (micros(unchanged_since), value, since, limit))
    return [AgedMemory(scope=_scope(tenant, user), memory=memory_of(str(body))) for tenant, user, body in rows]


def _whose(of: Tenants) -> tuple[str, str]:
    if of.only is not None:
        return "tenant_id = ?", of.only
    return "tenant_id NOT IN (SELECT value FROM json_each(?))", msgspec.json.encode(of.but).decode()


def _scope(tenant_id: Any, user_id: Any) -> Scope:
    return Scope(tenant_id=tenant_id, user_id=user_id)

"""What the gateway asks of the file: each a function over a connection."""

from __future__ import annotations

import apsw

from memory_service.stores.bodies import memory_of, session_of
from memory_service.stores.gateway import Unrefined
from memory_service.values import Scope, Session

SESSIONS = "SELECT head FROM sessions JOIN owners ON owners.id = owner WHERE tenant_id = ? AND user_id = ?"
WHOSE = """
SELECT tenant_id, user_id FROM (
    SELECT owner FROM sessions WHERE session_id = ?
    UNION SELECT owner FROM memories WHERE kind = 'memory' AND body ->> '$.session_id' = ?
) AS who CROSS JOIN owners ON owners.id = owner WHERE tenant_id = ?
"""
ROUGH = """
SELECT tenant_id, user_id, body FROM memories JOIN owners ON owners.id = owner
WHERE body ->> '$.rough' IS NOT NULL ORDER BY memories.id LIMIT ?
"""


def sessions(db: apsw.Connection, scope: Scope) -> list[Session]:
    return [session_of(head) for (head,) in db.execute(SESSIONS, (scope.tenant_id, scope.user_id))]


def whose(db: apsw.Connection, tenant_id: str, session_id: str) -> list[Scope]:
    rows = db.execute(WHOSE, (session_id, session_id, tenant_id))
    return [Scope(tenant_id=tenant, user_id=user) for tenant, user in rows]


def due_memories(db: apsw.Connection, limit: int) -> list[Unrefined]:
    return [
        Unrefined(scope=Scope(tenant_id=tenant, user_id=user), memory=memory_of(body))
        for tenant, user, body in db.execute(ROUGH, (limit,))
    ]

"""What the gateway asks of the database."""

from __future__ import annotations

from memory_service.stores.bodies import memory_of, session_of
from memory_service.stores.gateway import Unrefined
from memory_service.stores.postgres.client import Client
from memory_service.values import Scope, Session

SESSIONS = "SELECT head FROM sessions JOIN owners ON owners.id = owner WHERE tenant_id = %s AND user_id = %s"
WHOSE = """
SELECT tenant_id, user_id FROM (
    SELECT owner FROM sessions WHERE session_id = %s
    UNION SELECT owner FROM memories WHERE kind = 'memory' AND session_id = %s
) AS who JOIN owners ON owners.id = owner WHERE tenant_id = %s
"""
ROUGH = """
SELECT tenant_id, user_id, body FROM memories JOIN owners ON owners.id = owner
WHERE rough ORDER BY memories.id LIMIT %s
"""


class OfGateway:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def sessions(self, scope: Scope) -> list[Session]:
        rows = await self._client.rows("sessions", SESSIONS, (scope.tenant_id, scope.user_id))
        return [session_of(head) for (head,) in rows]

    async def whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        rows = await self._client.rows("whose", WHOSE, (session_id, session_id, tenant_id))
        return [Scope(tenant_id=tenant, user_id=user) for tenant, user in rows]

    async def due_memories(self, limit: int) -> list[Unrefined]:
        return [
            Unrefined(scope=Scope(tenant_id=tenant, user_id=user), memory=memory_of(body))
            for tenant, user, body in await self._client.rows("due_memories", ROUGH, (limit,))
        ]

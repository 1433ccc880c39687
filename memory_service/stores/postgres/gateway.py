"""What the gateway asks of the database."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from memory_service.stores.base import Commit
from memory_service.stores.bodies import memory_of, session_of
from memory_service.stores.gateway import Unrefined
from memory_service.stores.postgres.client import Client
from memory_service.stores.postgres.commits import Commits
from memory_service.values import Memory, Scope, Session

SESSIONS = "SELECT head FROM sessions JOIN owners ON owners.id = owner WHERE tenant_id = %s AND user_id = %s"
WHOSE = """
SELECT tenant_id, user_id FROM (
    SELECT owner FROM sessions WHERE session_id = %s
    UNION SELECT owner FROM memories WHERE kind = 'memory' AND (body::json ->> 'session_id') = %s
) AS who JOIN owners ON owners.id = owner WHERE tenant_id = %s
"""
ROUGH = """
SELECT memories.id, tenant_id, user_id, body FROM memories JOIN owners ON owners.id = owner
WHERE (body::json ->> 'rough') IS NOT NULL ORDER BY memories.id LIMIT %s
"""
LOCK = "SELECT id FROM owners WHERE tenant_id = %s AND user_id = %s FOR UPDATE"
HELD = """
SELECT memories.id, body FROM memories JOIN owners ON owners.id = owner
WHERE tenant_id = %s AND user_id = %s AND memory_id = %s
"""


class OfGateway:
    def __init__(self, client: Client, commits: Commits) -> None:
        self._client, self._commits = client, commits

    async def sessions(self, scope: Scope) -> list[Session]:
        rows = await self._client.rows("sessions", SESSIONS, (scope.tenant_id, scope.user_id))
        return [session_of(head) for (head,) in rows]

    async def whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        rows = await self._client.rows("whose", WHOSE, (session_id, session_id, tenant_id))
        return [Scope(tenant_id=tenant, user_id=user) for tenant, user in rows]

    async def due_memories(self, limit: int) -> list[Unrefined]:
        return [
            Unrefined(scope=Scope(tenant_id=tenant, user_id=user), token=token, memory=memory_of(body))
            for token, tenant, user, body in await self._client.rows("due_memories", ROUGH, (limit,))
        ]

    async def put_in_place(self, item: Unrefined, memory: Memory) -> bool:
        """Under the lock of the user's row, which every commit takes first."""
        change = await self._commits.change_of(Commit(scope=item.scope, memories=(memory,)))
        owner = (item.scope.tenant_id, item.scope.user_id)

        async def work(db: AsyncConnection[Any], again: bool) -> bool:
            async with db.transaction():
                await self._client.execute(db, "put_in_place", LOCK, owner)
                rows = await (
                    await self._client.execute(db, "put_in_place", HELD, (*owner, memory.memory_id))
                ).fetchall()
                if not rows or rows[0][0] != item.token:
                    # the answer to an earlier try may have been lost: then what is there is its own work
                    return again and bool(rows) and memory_of(rows[0][1]) == memory
                await self._client.execute(db, "put_in_place", self._commits.sql, (*owner, change, False))
            return True

        return await self._client.call(work)

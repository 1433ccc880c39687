"""What the gateway asks of the account: two questions over all partitions of a tenant, and a conditioned write."""

from __future__ import annotations

import asyncio

from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.gateway import Unrefined
from memory_service.values import Scope, Session

SESSIONS = "SELECT c.body FROM c WHERE c.type = 'head'"
HEADS = "SELECT c.owner FROM c WHERE c.type = 'head' AND c.session = @session AND STARTSWITH(c.owner, @tenant)"
MEMORIES = (
    "SELECT DISTINCT c.owner FROM c WHERE c.type = 'memory' AND c.kind = 'memory' AND c.session = @session"
    " AND STARTSWITH(c.owner, @tenant)"
)
ROUGH = "SELECT TOP {limit} c.owner, c.written, c.body FROM c WHERE c.rough = true ORDER BY c.written"


class OfGateway:
    """Memories that callers write have ids of their own choice, so they may be in either container of memories."""

    def __init__(self, client: Client, names: Names) -> None:
        self._client, self._names = client, names

    async def sessions(self, scope: Scope) -> list[Session]:
        owner = doc.owner_of(scope)
        rows = await self._client.rows("sessions", self._names.interactions, SESSIONS, {}, owner)
        return [doc.session_of(row) for row in rows]

    async def whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        values = {"session": session_id, "tenant": doc.owner_of(Scope(tenant_id=tenant_id, user_id=""))}
        asked = [(self._names.interactions, HEADS), *((name, MEMORIES) for name in self._names.of_memories)]
        found = await asyncio.gather(*(self._client.rows("whose", name, sql, values) for name, sql in asked))
        owners = dict.fromkeys(row["owner"] for rows in found for row in rows)
        return [doc.scope_of({"owner": owner}) for owner in owners]

    async def due_memories(self, limit: int) -> list[Unrefined]:
        sql = ROUGH.format(limit=int(limit))
        asked = (self._client.rows("due_memories", name, sql, {}) for name in self._names.of_memories)
        rows = [row for rows in await asyncio.gather(*asked) for row in rows]
        rows.sort(key=lambda row: int(row["written"]))
        return [_unrefined(row) for row in rows[:limit]]


def _unrefined(row: Document) -> Unrefined:
    return Unrefined(scope=doc.scope_of(row), memory=doc.memory_of(row))

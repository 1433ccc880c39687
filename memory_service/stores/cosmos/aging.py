"""What of the account nobody has touched for long: one question over all partitions of a container."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memory_service.stores.aging import AgedMemory, Tenants, is_aged
from memory_service.stores.bodies import micros
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.values import Scope, SessionKey

PAGE = 500
"""Memories that are looked at together: whether one was edited stands in it, whether it has a session elsewhere."""


class Aging:
    def __init__(self, client: Client, names: Names) -> None:
        self._client, self._names = client, names

    async def sessions(self, of: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        if not limit:
            return []
        where, values = _whose(of)
        sql = (
            f"SELECT TOP {int(limit)} c.owner, c.session FROM c"
            f" WHERE c.type = 'head' AND c.touched <= @since AND {where} ORDER BY c.touched"
        )
        values["since"] = micros(untouched_since)
        rows = await self._client.rows("aged_sessions", self._names.interactions, sql, values)
        return [SessionKey(scope=doc.scope_of(row), session_id=row["session"]) for row in rows]

    async def memories(self, of: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        found: list[AgedMemory] = []
        for container in self._names.of_memories:  # ids are of the callers' choice: they may be in either
            found += await self._memories_in(container, of, unchanged_since, limit)
        found.sort(key=lambda aged: aged.memory.created_at)
        return found[:limit]

    async def _memories_in(self, container: str, of: Tenants, since: datetime, limit: int) -> list[AgedMemory]:
        where, values = _whose(of)
        values["since"] = micros(since)
        found: list[AgedMemory] = []
        seen, more = 0, True
        while more and len(found) < limit:
            sql = (
                "SELECT c.owner, c.body FROM c WHERE c.type = 'memory' AND c.kind = 'memory' AND c.current = true"
                f" AND c.created <= @since AND {where} ORDER BY c.created OFFSET {seen} LIMIT {PAGE}"
            )
            rows = await self._client.rows("aged_memories", container, sql, values)
            seen, more = seen + len(rows), len(rows) == PAGE
            aged = [AgedMemory(scope=doc.scope_of(row), memory=doc.memory_of(row)) for row in rows]
            found += await self._of_no_session([one for one in aged if is_aged(one.memory, since)])
        return found[:limit]

    async def _of_no_session(self, aged: Sequence[AgedMemory]) -> list[AgedMemory]:
        names = sorted({one.memory.session_id for one in aged if one.memory.session_id})
        sql = "SELECT c.owner, c.session FROM c WHERE c.type = 'head' AND ARRAY_CONTAINS(@names, c.session)"
        interactions = self._names.interactions
        rows = await self._client.rows("aged_memories", interactions, sql, {"names": names}) if names else []
        there = {(doc.scope_of(row), row["session"]) for row in rows}
        return [one for one in aged if (one.scope, one.memory.session_id) not in there]


def _whose(of: Tenants) -> tuple[str, Document]:
    """A condition on owners, and its values."""
    if of.only is not None:
        return "STARTSWITH(c.owner, @tenant)", {"tenant": _owners_of(of.only)}
    values: Document = {f"but{number}": _owners_of(tenant_id) for number, tenant_id in enumerate(of.but)}
    return " AND ".join(["true", *(f"NOT STARTSWITH(c.owner, @{name})" for name in values)]), values


def _owners_of(tenant_id: str) -> str:
    """How the partitions of a tenant's users begin."""
    return doc.owner_of(Scope(tenant_id=tenant_id, user_id=""))

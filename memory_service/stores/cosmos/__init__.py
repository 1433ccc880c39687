"""The store in Azure Cosmos DB, which many processes may share.

Every user is one partition: no verb of one user can see another's, and what one commit writes is in one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import islice
from typing import Any, Self

import msgspec
from azure.core.exceptions import AzureError
from azure.cosmos.aio import DatabaseProxy

from memory_service.errors import UnsafeStart
from memory_service.points import Point, nowhere
from memory_service.settings import SearchedBy, Settings
from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.base import ALL, REQUESTS_KEPT, Capabilities, Commit, Entries, Sought, Store
from memory_service.stores.bodies import MICROSECOND, Kinds, Place, micros
from memory_service.stores.cosmos.aging import Aging
from memory_service.stores.cosmos.client import Client, Refused
from memory_service.stores.cosmos.commits import Commits
from memory_service.stores.cosmos.containers import LACKING, Names, create_missing, require_names
from memory_service.stores.cosmos.documents import (
    Document,
    effect_of,
    head_id,
    memory_id,
    memory_of,
    owner_of,
    request_id,
    scope_of,
    session_of,
    sitting_of,
    turn_id,
    turn_of,
)
from memory_service.stores.cosmos.erasing import Erasing
from memory_service.stores.cosmos.feed import Cursor, epoch_in, page_of, sorted_changes
from memory_service.stores.cosmos.gateway import OfGateway
from memory_service.stores.cosmos.keys import Keys
from memory_service.stores.cosmos.mirrors import Mirrors
from memory_service.stores.cosmos.moving import Moving
from memory_service.stores.cosmos.quarantine import Quarantines
from memory_service.stores.cosmos.search import Search
from memory_service.stores.exports import Erased, Exported, Exports, Users
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.gateway import Unrefined
from memory_service.stores.indexing import Index, decided
from memory_service.stores.keys import ApiKey
from memory_service.stores.mirrors import Mirror
from memory_service.stores.quarantine import Quarantine, Quarantined
from memory_service.values import (
    Effect,
    Hot,
    Memory,
    ReflectionState,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Unembedded,
)

USERS_AT_ONCE = 8
"""Whose partitions are looked through at the same time."""
IDS_A_QUESTION = 200


class CosmosStore(Store):
    capabilities = Capabilities(durability="quorum", exclusive=False, most_turns=50, most_bytes=600_000)
    native_errors = (OSError, AzureError, Refused)
    damage_errors = (msgspec.DecodeError,)

    def __init__(self, client: Client, names: Names, searched: SearchedBy = "auto", point: Point = nowhere) -> None:
        self._client = client
        self._names = names
        self._index = Index()
        self._search = Search(client, names)
        self._wanted = searched
        self._commits = Commits(client, names, self._index, point)
        self._moving = Moving(client, names, self._commits, self._index)
        self._erasing = Erasing(client, names, self._moving)
        self._quarantines = Quarantines(client, names, self._moving, self._commits, self._erasing)
        self._mirrors = Mirrors(client, names)
        self._api_keys = Keys(client, names)
        self._gateway = OfGateway(client, names)
        self._aging = Aging(client, names)

    @classmethod
    def from_settings(cls, settings: Settings, point: Point = nowhere) -> Self:
        if not settings.cosmos_endpoint:
            raise UnsafeStart("STORE_URL=cosmos: needs COSMOS_ENDPOINT beside it")
        require_names(settings)
        key = settings.cosmos_key.get_secret_value()
        client = Client(settings.cosmos_endpoint, key, settings.cosmos_database_name)
        return cls(client, Names.of(settings), settings.store_search, point)

    async def start(self, stack: AsyncExitStack) -> None:
        self._index.start(stack)  # before the client, so ended after it: nothing is written that is not indexed
        await self._client.start(stack, self._prepare)

    async def _prepare(self, database: DatabaseProxy) -> None:
        without = await create_missing(database, self._names, self._wanted)
        self._index.kept = not without
        lacking = f"without {LACKING}: {', '.join(without)}" if without else ""
        if self._wanted != "process" and not lacking:
            lacking = await self._search.refusal()
        self.searched_by, self.searched_why = decided(self._wanted, lacking)

    def usage(self) -> dict[str, Any]:
        return {"commits": self._commits.count, **self._client.meter.usage()}

    async def _commit(self, commit: Commit) -> None:
        await self._commits.write(commit)

    # One session

    async def _load(self, key: SessionKey) -> Hot | None:
        found = await self._find("load", key.scope, head_id(key.session_id))
        if found is None:
            return None
        head = session_of(found)
        if not head.live_turns:
            return Hot(session=head)
        turns = await self._turns_of("load", key, head.live_after, head.live_turns)
        return Hot(session=head, turns=tuple(turns))

    async def _head(self, key: SessionKey) -> Session | None:
        found = await self._find("head", key.scope, head_id(key.session_id))
        return session_of(found) if found else None

    async def _turns(self, key: SessionKey, after: int, limit: int) -> list[Turn]:
        return await self._turns_of("turns", key, after, limit)

    async def _turns_of(self, verb: str, key: SessionKey, after: int, limit: int) -> list[Turn]:
        where = "c.type = 'turn' AND c.session = @session AND c.seq > @after"
        values = {"session": key.session_id, "after": after}
        sql = _first(limit, "c.body", where, "c.seq")
        rows = await self._rows(verb, self._names.interactions, sql, values, key.scope) if limit else []
        return [turn_of(row) for row in rows]

    async def _find_turn(self, key: SessionKey, its_id: str) -> Turn | None:
        found = await self._find("find_turn", key.scope, turn_id(key.session_id, its_id))
        return turn_of(found) if found else None

    async def _find_turns(self, key: SessionKey, turn_ids: tuple[str, ...]) -> list[Turn]:
        if len(turn_ids) == 1:  # a third of what a question costs
            found = await self._find_turn(key, turn_ids[0])
            return [found] if found else []
        ids = [turn_id(key.session_id, its_id) for its_id in turn_ids]
        parts = (ids[start : start + IDS_A_QUESTION] for start in range(0, len(ids), IDS_A_QUESTION))
        sql = "SELECT c.body FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"
        asked = (self._rows("find_turns", self._names.interactions, sql, {"ids": part}, key.scope) for part in parts)
        return [turn_of(row) for rows in await asyncio.gather(*asked) for row in rows]

    async def _find_effect(self, scope: Scope, request_key: str) -> Effect | None:
        found = await self._find("find_effect", scope, request_id(request_key))
        if found is None or found["made"] < self._commits.newest_request - REQUESTS_KEPT // MICROSECOND:
            return None
        return effect_of(found)

    async def _sittings(self, key: SessionKey) -> list[Sitting]:
        sql = _first(ALL, "c.body", "c.type = 'sitting' AND c.session = @session", "c.first")
        rows = await self._rows("sittings", self._names.interactions, sql, {"session": key.session_id}, key.scope)
        return [sitting_of(row) for row in rows]

    # One user

    async def _memories(
        self, scope: Scope, kinds: Kinds, since: datetime | None, limit: int, superseded: bool, after: Place | None
    ) -> list[Memory]:
        if not kinds or not limit:
            return []
        where = "c.type = 'memory' AND ARRAY_CONTAINS(@kinds, c.kind)"
        values: Document = {"kinds": list(kinds)}
        if since is not None:
            where, values = f"{where} AND c.created >= @since", {**values, "since": micros(since)}
        if after is not None:
            where += " AND (c.created < @last OR (c.created = @last AND c.name > @name))"
            values |= {"last": micros(after[0]), "name": after[1]}
        if not superseded:
            where += " AND c.current = true"
        sql = _first(limit, "c.body", where, "c.created DESC, c.name ASC")
        asked = (self._rows("memories", name, sql, values, scope) for name in self._names.of_memories)
        found = [memory_of(row) for rows in await asyncio.gather(*asked) for row in rows]
        found.sort(key=lambda memory: memory.memory_id)
        found.sort(key=lambda memory: memory.created_at, reverse=True)
        return found[:limit]

    async def _find_memory(self, scope: Scope, its_id: str) -> Memory | None:
        container = self._names.of_memory(its_id)
        found = await self._client.find("find_memory", container, memory_id(its_id), owner_of(scope))
        return memory_of(found) if found else None

    async def _entries(self, scope: Scope, cursor: Any, space: str, limit: int) -> Entries:
        here: Cursor = cursor or Cursor()
        if not here.waiting:
            owner = owner_of(scope)
            feeds = zip(self._names.all, here.feeds, strict=True)
            read = await asyncio.gather(*(self._client.changes("entries", name, owner, after) for name, after in feeds))
            changes, then = [found for found, _ in read], tuple(after for _, after in read)
            here = here.with_changes(sorted_changes(changes), then, epoch_in(changes))
        return page_of(here, space, limit)

    async def _items(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries:
        return await self._search.items(scope, item_ids, space)

    async def _narrows(self, scope: Scope) -> bool:
        if self._wanted == "auto" and self.searched_by == "store":
            return await self._search.is_large(scope)
        return self.searched_by == "store"

    async def _candidates(self, scope: Scope, sought: Sought, limit: int) -> Entries:
        return await self._search.candidates(scope, sought, limit)

    # What drivers lack

    async def _follow(self, driver: str, anew: bool) -> None:
        await self._mirrors.follow(driver, anew, self._moving.users)

    async def _unfollow(self, driver: str) -> None:
        await self._mirrors.unfollow(driver)

    async def _claim_mirrors(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        return await self._mirrors.claim(driver, now, lease_until, limit)

    async def _put_mirror(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
        return await self._mirrors.put(mirror, caught_up, lease_until)

    async def _mirror(self, scope: Scope, driver: str) -> Mirror:
        return await self._mirrors.find(scope, driver)

    async def _lagging(self, driver: str) -> int:
        return await self._mirrors.lagging(driver)

    # What the gateway asks

    async def _sessions(self, scope: Scope) -> list[Session]:
        return await self._gateway.sessions(scope)

    async def _whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        return await self._gateway.whose(tenant_id, session_id)

    async def _due_memories(self, limit: int) -> list[Unrefined]:
        return await self._gateway.due_memories(limit)

    # What nobody has touched for long

    async def _aged_sessions(self, whose: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        return await self._aging.sessions(whose, untouched_since, limit)

    async def _aged_memories(self, whose: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        return await self._aging.memories(whose, unchanged_since, limit)

    # All users

    async def _due_reflections(self, now: datetime, limit: int, scope: Scope | None) -> list[tuple[Scope, Sitting]]:
        where = "c.type = 'sitting' AND c.reflection = 'pending' AND c.due <= @now AND c.lease <= @now"
        return await self._sittings_of("due_reflections", where, {"now": micros(now)}, limit, scope)

    async def _reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        where = "c.type = 'sitting' AND c.tenant = @tenant AND c.reflection = @state"
        return await self._sittings_of("reflections", where, {"tenant": tenant_id, "state": state}, limit)

    async def _sittings_of(
        self, verb: str, where: str, values: Document, limit: int, scope: Scope | None = None
    ) -> list[tuple[Scope, Sitting]]:
        sql = _first(limit, "c.owner, c.body", where, "c.due")
        rows = await self._rows(verb, self._names.interactions, sql, values, scope) if limit else []
        return [(scope_of(row), sitting_of(row)) for row in rows]

    async def _due_sessions(self, untouched_since: datetime, unreflected_turns: int, limit: int) -> list[SessionKey]:
        where = "c.type = 'head' AND c.status = 'active' AND c.touched <= @since AND c.unreflected >= @turns"
        sql = _first(limit, "c.owner, c.session", where, "c.touched")
        values = {"since": micros(untouched_since), "turns": unreflected_turns}
        rows = await self._rows("due_sessions", self._names.interactions, sql, values) if limit else []
        return [SessionKey(scope=scope_of(row), session_id=row["session"]) for row in rows]

    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
        # no space at all sorts before any
        columns = "c.owner, c.type, c.space, c.written, c.body"
        sql = _first(limit, columns, "c.space != @space", "c.space, c.written")
        found: list[Document] = []
        whose = iter((None,) if users is None else users)
        while len(found) < limit and (some := list(islice(whose, USERS_AT_ONCE))):
            asked = (
                self._rows("due_vectors", name, sql, {"space": space}, scope)
                for scope in some
                for name in self._names.all
            )
            found += [row for rows in await asyncio.gather(*asked) for row in rows]
        found.sort(key=lambda row: (row["space"], row["written"]))
        return [_unembedded(row) for row in found[:limit]]

    # All that is kept of a user

    async def _users(self, cursor: Any, limit: int) -> Users:
        return await self._moving.users(cursor, limit)

    async def _export(self, scope: Scope, cursor: Any, limit: int) -> Exports:
        return await self._moving.export(scope, cursor, limit)

    async def _restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        await self._moving.restore(scope, things)

    async def _epoch(self, scope: Scope) -> str:
        return await self._commits.epoch(owner_of(scope))

    async def _erase(self, scope: Scope, erasure_id: str) -> Erased:
        return await self._erasing.erase(scope, erasure_id)

    async def _forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        return await self._erasing.forget(scope, what, erasure_id)

    async def _quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        return await self._quarantines.move(scope, what)

    async def _note_erasures(self, erasure_ids: Collection[str]) -> None:
        await self._erasing.note(erasure_ids)

    async def _erasures(self) -> set[str]:
        return await self._erasing.erasures()

    async def _put_key(self, key: ApiKey) -> None:
        await self._api_keys.put(key)

    async def _find_key(self, key_id: str) -> ApiKey | None:
        return await self._api_keys.find(key_id)

    async def _keys(self, tenant_id: str | None) -> list[ApiKey]:
        return await self._api_keys.of_tenant(tenant_id)

    async def _clock(self) -> datetime | None:
        await self._ping()
        return self._client.meter.dated_at

    async def _ping(self) -> None:
        await self._client.find("ping", self._names.interactions, "ping", "ping")

    # Reading

    async def _find(self, verb: str, scope: Scope, document_id: str) -> Document | None:
        return await self._client.find(verb, self._names.interactions, document_id, owner_of(scope))

    async def _rows(
        self, verb: str, container: str, sql: str, values: Document, scope: Scope | None = None
    ) -> list[Document]:
        return await self._client.rows(verb, container, sql, values, owner_of(scope) if scope else None)


def _first(limit: int, columns: str, where: str, order: str) -> str:
    top = f"TOP {int(limit)} " if limit < ALL else ""
    return f"SELECT {top}{columns} FROM c WHERE {where} ORDER BY {order}"


def _unembedded(row: Document) -> Unembedded:
    if row["type"] == "turn":
        return Unembedded(scope=scope_of(row), token=row["written"], turn=turn_of(row))
    return Unembedded(scope=scope_of(row), token=row["written"], memory=memory_of(row))

"""The store in PostgreSQL, which many processes may share.

Each verb is one statement. What one commit writes is written by a function of the database (`commit_change`), which
locks the user's row first: of one user one commit is made after the other, of many as many as there are.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Self

import msgspec
import psycopg
from psycopg import AsyncConnection

from memory_service.errors import UnsafeStart
from memory_service.points import Point, nowhere
from memory_service.settings import SearchedBy, Settings
from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.base import Capabilities, Commit, Entries, Sought, Store
from memory_service.stores.bodies import (
    Kinds,
    Place,
    memory_of,
    micros,
    moment,
    session_of,
    sitting_of,
    turn_of,
    window_of,
)
from memory_service.stores.exports import Erased, Exported, Exports, Users
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.gateway import Unrefined
from memory_service.stores.indexing import Index, decided
from memory_service.stores.keys import ApiKey
from memory_service.stores.mirrors import Mirror
from memory_service.stores.postgres.aging import Aging
from memory_service.stores.postgres.client import Client, Row
from memory_service.stores.postgres.commits import Commits
from memory_service.stores.postgres.erasing import Erasing
from memory_service.stores.postgres.gateway import OfGateway
from memory_service.stores.postgres.keys import Keys
from memory_service.stores.postgres.mirrors import Mirrors
from memory_service.stores.postgres.moving import Moving
from memory_service.stores.postgres.schema import migrate, require_usable
from memory_service.stores.postgres.search import Search
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
    Vector,
)

logger = logging.getLogger(__name__)

OWNER = "(SELECT id FROM owners WHERE tenant_id = %s AND user_id = %s)"
SESSION = f"(SELECT id FROM sessions WHERE owner = {OWNER} AND session_id = %s)"

LOAD = f"""
SELECT head, body FROM sessions LEFT JOIN turns ON turns.session = sessions.id AND seq > live_after
WHERE sessions.owner = {OWNER} AND session_id = %s ORDER BY seq
"""
ENTRIES = """
WITH mine AS (SELECT id, epoch FROM owners WHERE tenant_id = %(tenant)s AND user_id = %(user)s)
SELECT -1 AS written, 'epoch' AS kind, epoch AS item_id, '' AS body, NULL::bytea AS data FROM mine
UNION ALL
(SELECT * FROM (
    (SELECT written, 'turn' AS kind, '' AS item_id, body, NULL::bytea AS data FROM turns
     WHERE owner = (SELECT id FROM mine) AND written > %(after)s ORDER BY written LIMIT %(limit)s)
    UNION ALL
    (SELECT written, 'memory', '', body, NULL FROM memories
     WHERE owner = (SELECT id FROM mine) AND written > %(after)s ORDER BY written LIMIT %(limit)s)
    UNION ALL
    (SELECT written, 'vector', item_id, '', data FROM vectors
     WHERE owner = (SELECT id FROM mine) AND written > %(after)s AND space = %(space)s ORDER BY written LIMIT %(limit)s)
) AS entries ORDER BY written LIMIT %(limit)s)
ORDER BY written
"""
SITTINGS = """
SELECT tenant_id, user_id, body FROM sittings JOIN owners ON owners.id = owner
WHERE {where} ORDER BY due_at LIMIT %s
"""
DUE_VECTORS = """
SELECT tenant_id, user_id, kind, due.id, body FROM (
    (SELECT owner, id, 'turn' AS kind, space, body FROM turns WHERE space IS NULL ORDER BY id LIMIT %(limit)s)
    UNION ALL
    (SELECT owner, id, 'memory', space, body FROM memories WHERE space IS NULL ORDER BY id LIMIT %(limit)s)
    UNION ALL
    (SELECT owner, id, 'turn', space, body FROM turns
     WHERE space < %(space)s OR space > %(space)s ORDER BY space, id LIMIT %(limit)s)
    UNION ALL
    (SELECT owner, id, 'memory', space, body FROM memories
     WHERE space < %(space)s OR space > %(space)s ORDER BY space, id LIMIT %(limit)s)
) AS due JOIN owners ON owners.id = owner ORDER BY space NULLS FIRST, kind DESC, due.id LIMIT %(limit)s
"""


class PostgresStore(Store):
    capabilities = Capabilities(durability="fsync", exclusive=False)
    native_errors = (OSError, psycopg.Error)
    damage_errors = (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted, msgspec.DecodeError)

    def __init__(self, url: str, searched: SearchedBy = "auto", point: Point = nowhere) -> None:
        self._client = Client(url)
        self._index = Index()
        self._search = Search(self._client)
        self._wanted = searched
        self._commits = Commits(self._client, self._index, point)
        self._moving = Moving(self._client, self._index)
        self._erasing = Erasing(self._client, self._moving)
        self._mirrors = Mirrors(self._client)
        self._api_keys = Keys(self._client)
        self._gateway = OfGateway(self._client)
        self._aging = Aging(self._client)

    @classmethod
    def from_settings(cls, settings: Settings, point: Point = nowhere) -> Self:
        """`postgresql://USER:PASSWORD@HOST/DATABASE`, as every client of PostgreSQL takes it."""
        try:
            psycopg.conninfo.conninfo_to_dict(settings.store_url)
        except psycopg.ProgrammingError as exc:
            raise UnsafeStart("STORE_URL: write postgresql://USER:PASSWORD@HOST:5432/DATABASE") from exc
        return cls(settings.store_url, settings.store_search, point)

    async def start(self, stack: AsyncExitStack) -> None:
        self._index.start(stack)  # before the client, so ended after it: nothing is written that is not indexed
        await self._client.start(stack, self._prepare)

    async def _prepare(self, db: AsyncConnection[Any]) -> None:
        if off := await require_usable(db):
            self.capabilities = Capabilities(durability="relaxed", exclusive=False)
            reason = f"off: {', '.join(off)}"
            logger.warning("PostgreSQL does not sync: a power cut may lose what was answered", extra={"reason": reason})
        lacking = await migrate(db, searched=self._wanted != "process")
        self._index.kept = not lacking and self._wanted != "process"
        self.searched_by, self.searched_why = decided(self._wanted, lacking)

    def usage(self) -> dict[str, Any]:
        return {"commits": self._commits.count, **self._client.usage()}

    async def _commit(self, commit: Commit) -> None:
        await self._commits.write(commit)

    # One session

    async def _load(self, key: SessionKey) -> Hot | None:
        rows = await self._client.rows("load", LOAD, _names(key))
        if not rows:
            return None
        return Hot(session=session_of(rows[0][0]), turns=tuple(turn_of(body) for _, body in rows if body is not None))

    async def _head(self, key: SessionKey) -> Session | None:
        sql = f"SELECT head FROM sessions WHERE owner = {OWNER} AND session_id = %s"
        rows = await self._client.rows("head", sql, _names(key))
        return session_of(rows[0][0]) if rows else None

    async def _turns(self, key: SessionKey, after: int, limit: int) -> list[Turn]:
        sql = f"SELECT body FROM turns WHERE session = {SESSION} AND seq > %s ORDER BY seq LIMIT %s"
        return [turn_of(body) for (body,) in await self._client.rows("turns", sql, (*_names(key), after, limit))]

    async def _find_turn(self, key: SessionKey, turn_id: str) -> Turn | None:
        sql = f"SELECT body FROM turns WHERE session = {SESSION} AND turn_id = %s"
        rows = await self._client.rows("find_turn", sql, (*_names(key), turn_id))
        return turn_of(rows[0][0]) if rows else None

    async def _find_turns(self, key: SessionKey, turn_ids: tuple[str, ...]) -> list[Turn]:
        sql = f"SELECT body FROM turns WHERE session = {SESSION} AND turn_id = ANY(%s)"
        rows = await self._client.rows("find_turns", sql, (*_names(key), list(turn_ids)))
        return [turn_of(body) for (body,) in rows]

    async def _find_effect(self, scope: Scope, request_key: str) -> Effect | None:
        sql = f"SELECT digest, session_id, turn_id FROM requests WHERE owner = {OWNER} AND request_key = %s"
        for digest, session_id, turn_id in await self._client.rows("find_effect", sql, (*_owner(scope), request_key)):
            return Effect(digest=digest, session_id=session_id, turn_id=turn_id)
        return None

    async def _sittings(self, key: SessionKey) -> list[Sitting]:
        sql = f"SELECT body FROM sittings WHERE session = {SESSION} ORDER BY first_seq"
        return [sitting_of(body) for (body,) in await self._client.rows("sittings", sql, _names(key))]

    # One user

    async def _memories(
        self, scope: Scope, kinds: Kinds, since: datetime | None, limit: int, superseded: bool, after: Place | None
    ) -> list[Memory]:
        sql = (
            f"SELECT body FROM memories WHERE owner = {OWNER} AND kind = ANY(%s) AND created_at >= %s"
            " AND superseded <= %s AND created_at <= %s AND (created_at < %s OR memory_id > %s)"
            " ORDER BY created_at DESC, memory_id LIMIT %s"
        )
        least, last, name = window_of(since, after)
        values = (*_owner(scope), list(kinds), least, superseded, last, last, name, limit)
        return [memory_of(body) for (body,) in await self._client.rows("memories", sql, values)]

    async def _find_memory(self, scope: Scope, memory_id: str) -> Memory | None:
        sql = f"SELECT body FROM memories WHERE owner = {OWNER} AND memory_id = %s"
        rows = await self._client.rows("find_memory", sql, (*_owner(scope), memory_id))
        return memory_of(rows[0][0]) if rows else None

    async def _entries(self, scope: Scope, cursor: Any, space: str, limit: int) -> Entries:
        after = cursor or 0
        values = {"tenant": scope.tenant_id, "user": scope.user_id, "after": after, "space": space, "limit": limit}
        found = await self._client.rows("entries", ENTRIES, values)
        epoch, rows = (found[0][2], found[1:]) if found else ("", [])
        return Entries(
            turns=[turn_of(body) for _, kind, _, body, _ in rows if kind == "turn"],
            memories=[memory_of(body) for _, kind, _, body, _ in rows if kind == "memory"],
            vectors=[
                Vector(item_id=item_id, token=0, space=space, data=data)
                for _, kind, item_id, _, data in rows
                if kind == "vector"
            ],
            cursor=rows[-1][0] if rows else after,
            more=len(rows) == limit,
            epoch=epoch,
        )

    async def _items(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries:
        return await self._mirrors.items(scope, item_ids, space)

    async def _narrows(self, scope: Scope) -> bool:
        return self.searched_by == "store" and await self._search.narrows(scope, small=self._wanted == "store")

    async def _candidates(self, scope: Scope, sought: Sought, limit: int) -> Entries:
        return await self._search.candidates(scope, sought, limit)

    # What drivers lack

    async def _follow(self, driver: str, anew: bool) -> None:
        await self._mirrors.follow(driver, anew)

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
        where = "reflection = 'pending' AND due_at <= %s AND (lease_until IS NULL OR lease_until <= %s)"
        values: tuple[Any, ...] = (micros(now), micros(now))
        if scope is not None:
            where, values = f"{where} AND owner = {OWNER}", (*values, *_owner(scope))
        rows = await self._client.rows("due_reflections", SITTINGS.format(where=where), (*values, limit))
        return [(_scope(row), sitting_of(row[2])) for row in rows]

    async def _reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        sql = SITTINGS.format(where="reflection = %s AND tenant_id = %s")
        rows = await self._client.rows("reflections", sql, (state, tenant_id, limit))
        return [(_scope(row), sitting_of(row[2])) for row in rows]

    async def _due_sessions(self, untouched_since: datetime, unreflected_turns: int, limit: int) -> list[SessionKey]:
        sql = (
            "SELECT tenant_id, user_id, session_id FROM sessions JOIN owners ON owners.id = owner"
            " WHERE status = 'active' AND touched_at <= %s AND unreflected_turns >= %s ORDER BY touched_at LIMIT %s"
        )
        rows = await self._client.rows("due_sessions", sql, (micros(untouched_since), unreflected_turns, limit))
        return [SessionKey(scope=_scope(row), session_id=row[2]) for row in rows]

    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
        rows = await self._client.rows("due_vectors", DUE_VECTORS, {"space": space, "limit": limit})
        return [_unembedded(row) for row in rows]

    # All that is kept of a user

    async def _users(self, cursor: Any, limit: int) -> Users:
        return await self._moving.users(cursor, limit)

    async def _export(self, scope: Scope, cursor: Any, limit: int) -> Exports:
        return await self._moving.export(scope, cursor, limit)

    async def _restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        await self._moving.restore(scope, things)

    async def _epoch(self, scope: Scope) -> str:
        return await self._erasing.epoch(scope)

    async def _erase(self, scope: Scope, erasure_id: str) -> Erased:
        return await self._erasing.erase(scope, erasure_id)

    async def _forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        return await self._erasing.forget(scope, what, erasure_id)

    async def _quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        return await self._erasing.quarantine(scope, what)

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
        ((now,),) = await self._client.rows("clock", "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return moment(now)

    async def _ping(self) -> None:
        await self._client.rows("ping", "SELECT 1")


def _owner(scope: Scope) -> tuple[str, str]:
    return scope.tenant_id, scope.user_id


def _names(key: SessionKey) -> tuple[str, str, str]:
    return *_owner(key.scope), key.session_id


def _scope(row: Row) -> Scope:
    return Scope(tenant_id=row[0], user_id=row[1])


def _unembedded(row: Row) -> Unembedded:
    _, _, kind, token, body = row
    if kind == "turn":
        return Unembedded(scope=_scope(row), token=token, turn=turn_of(body))
    return Unembedded(scope=_scope(row), token=token, memory=memory_of(body))

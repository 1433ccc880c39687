"""The embedded store: one SQLite file, one process, one writer thread, readers of their own.

Readers run on a few threads, one connection each; a verb is one function there, so its statements see
one state and cannot be cut in half by a cancellation.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw
import msgspec

from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.points import Point, nowhere
from memory_service.settings import Settings
from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.base import Capabilities, Commit, Entries, Store
from memory_service.stores.bodies import (
    Kinds,
    Place,
    memory_of,
    micros,
    session_of,
    sitting_of,
    turn_of,
    window_of,
)
from memory_service.stores.exports import Erased, Exported, Exports, Users
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.gateway import Unrefined
from memory_service.stores.keys import ApiKey
from memory_service.stores.mirrors import Mirror
from memory_service.stores.quarantine import Quarantine, Quarantined
from memory_service.stores.sqlite import aging, erasing, gateway, keys, mirrors, moving, searchable
from memory_service.stores.sqlite.rows import OF_TURN, epoch_of
from memory_service.stores.sqlite.schema import in_place, open_reader, open_writer, owned
from memory_service.stores.sqlite.searchable import NAMED, OWNER
from memory_service.stores.sqlite.writer import Writer
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

T = TypeVar("T")
READERS = 4

SESSION = f"(SELECT id FROM sessions WHERE owner = {OWNER} AND session_id = ?)"


class SQLiteStore(Store):
    capabilities = Capabilities(durability="fsync", exclusive=True)
    native_errors = (OSError, apsw.Error)
    damage_errors = (apsw.CorruptError, apsw.NotADBError, msgspec.DecodeError, UnicodeDecodeError)

    def __init__(self, path: Path, point: Point = nowhere) -> None:
        self._path = path
        self._point = point
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []

    @classmethod
    def from_settings(cls, settings: Settings, point: Point = nowhere) -> Self:
        """`sqlite:///PATH`: three slashes and a relative path, four and an absolute one."""
        url = settings.store_url
        path = url.removeprefix("sqlite:///")
        if path == url or not path or path.startswith(":"):
            raise UnsafeStart("STORE_URL: write sqlite:///PATH, such as sqlite:///./data/memory.db")
        return cls(Path(path), point)

    async def start(self, stack: AsyncExitStack) -> None:
        self._path = stack.enter_context(owned(self._path))
        db = await asyncio.to_thread(open_writer, self._path, self._point)
        self._writer = Writer(db, asyncio.get_running_loop(), self._point, in_place(self._path))
        self._writer.start()
        stack.push_async_callback(self._writer.stop)
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")
        stack.push_async_callback(self._close_readers)

    async def _close_readers(self) -> None:
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()

    def require_room(self) -> None:
        self._writer.require_room()

    async def failed(self) -> None:
        await self._writer.broken.wait()

    def usage(self) -> dict[str, Any]:
        return {
            "waiting_commits": self._writer.waiting,
            "commits": self._writer.commits,
            "groups": self._writer.groups,
        }

    def _commit(self, commit: Commit) -> asyncio.Future[None]:
        return self._writer.submit(commit)

    async def _read(self, verb: Callable[[apsw.Connection], T]) -> T:
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self._on_reader, verb)
        except RuntimeError as exc:  # the readers were shut down
            raise StoreUnavailable("the store is closing") from exc
        return await reading

    def _on_reader(self, verb: Callable[[apsw.Connection], T]) -> T:
        if not hasattr(self._local, "db"):
            self._local.db = open_reader(self._path)
            self._connections.append(self._local.db)
        db: apsw.Connection = self._local.db
        db.execute("BEGIN")  # one state for all statements of the verb
        try:
            return verb(db)
        finally:
            db.execute("COMMIT")

    async def _load(self, key: SessionKey) -> Hot | None:
        def verb(db: apsw.Connection) -> Hot | None:
            rows = db.execute(
                f"SELECT id, head, live_after FROM sessions WHERE owner = {OWNER} AND session_id = ?", _names(key)
            )
            for session, head, live_after in rows:
                live = db.execute(
                    f"SELECT {OF_TURN} FROM turns WHERE session = ? AND seq > ? ORDER BY seq", (session, live_after)
                )
                return Hot(session=session_of(head), turns=tuple(turn_of(body) for (body,) in live))
            return None

        return await self._read(verb)

    async def _head(self, key: SessionKey) -> Session | None:
        sql = f"SELECT head FROM sessions WHERE owner = {OWNER} AND session_id = ?"
        return await self._read(lambda db: next((session_of(head) for (head,) in db.execute(sql, _names(key))), None))

    async def _turns(self, key: SessionKey, after: int, limit: int) -> list[Turn]:
        sql = f"SELECT {OF_TURN} FROM turns WHERE session = {SESSION} AND seq > ? ORDER BY seq LIMIT ?"
        return await self._read(lambda db: [turn_of(body) for (body,) in db.execute(sql, (*_names(key), after, limit))])

    async def _find_turn(self, key: SessionKey, turn_id: str) -> Turn | None:
        sql = f"SELECT {OF_TURN} FROM turns WHERE session = {SESSION} AND turn_id = ?"
        return await self._read(
            lambda db: next((turn_of(b) for (b,) in db.execute(sql, (*_names(key), turn_id))), None)
        )

    async def _find_turns(self, key: SessionKey, turn_ids: tuple[str, ...]) -> list[Turn]:
        sql = f"SELECT {OF_TURN} FROM turns WHERE session = {SESSION} AND turn_id IN {NAMED}"
        values = (*_names(key), msgspec.json.encode(turn_ids).decode())
        return await self._read(lambda db: [turn_of(body) for (body,) in db.execute(sql, values)])

    async def _find_effect(self, scope: Scope, request_key: str) -> Effect | None:
        sql = f"SELECT digest, session_id, turn_id FROM requests WHERE owner = {OWNER} AND request_key = ?"

        def verb(db: apsw.Connection) -> Effect | None:
            for digest, session_id, turn_id in db.execute(sql, (*_owner(scope), request_key)):
                return Effect(digest=digest, session_id=session_id, turn_id=turn_id)
            return None

        return await self._read(verb)

    async def _sittings(self, key: SessionKey) -> list[Sitting]:
        sql = f"SELECT body FROM sittings WHERE session = {SESSION} ORDER BY first_seq"
        return await self._read(lambda db: [sitting_of(body) for (body,) in db.execute(sql, _names(key))])

    async def _memories(
        self, scope: Scope, kinds: Kinds, since: datetime | None, limit: int, superseded: bool, after: Place | None
    ) -> list[Memory]:
        places = ", ".join("?" * len(kinds))
        sql = (
            f"SELECT body FROM memories WHERE owner = {OWNER} AND kind IN ({places}) AND created_at >= ?"
            " AND superseded <= ? AND created_at <= ? AND (created_at < ? OR memory_id > ?)"
            " ORDER BY created_at DESC, memory_id LIMIT ?"
        )
        least, last, name = window_of(since, after)
        values = (*_owner(scope), *kinds, least, superseded, last, last, name, limit)
        return await self._read(lambda db: [memory_of(body) for (body,) in db.execute(sql, values)])

    async def _find_memory(self, scope: Scope, memory_id: str) -> Memory | None:
        sql = f"SELECT body FROM memories WHERE owner = {OWNER} AND memory_id = ?"
        values = (*_owner(scope), memory_id)
        found = await self._read(lambda db: [memory_of(body) for (body,) in db.execute(sql, values)])
        return found[0] if found else None

    async def _entries(self, scope: Scope, cursor: Any, space: str, limit: int) -> Entries:
        return await self._read(lambda db: searchable.entries(db, scope, cursor or (0, 0, 0), space, limit))

    async def _items(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries:
        return await self._read(lambda db: searchable.items(db, scope, item_ids, space))

    async def _vectors(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> list[Vector]:
        return await self._read(lambda db: searchable.vectors(db, scope, item_ids, space))

    # What drivers lack

    async def _follow(self, driver: str, anew: bool) -> None:
        await self._writer.change(lambda db: mirrors.follow(db, driver, anew))

    async def _unfollow(self, driver: str) -> None:
        await self._writer.change(lambda db: mirrors.unfollow(db, driver))

    async def _claim_mirrors(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        claimed: list[Mirror] = await self._writer.change(lambda db: mirrors.claim(db, driver, now, lease_until, limit))
        return claimed

    async def _put_mirror(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
        return bool(await self._writer.change(lambda db: mirrors.put(db, mirror, caught_up, lease_until)))

    async def _mirror(self, scope: Scope, driver: str) -> Mirror:
        return await self._read(lambda db: mirrors.find(db, scope, driver))

    async def _lagging(self, driver: str) -> int:
        return await self._read(lambda db: mirrors.lagging(db, driver))

    # What the gateway asks

    async def _sessions(self, scope: Scope) -> list[Session]:
        return await self._read(lambda db: gateway.sessions(db, scope))

    async def _whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        return await self._read(lambda db: gateway.whose(db, tenant_id, session_id))

    async def _due_memories(self, limit: int) -> list[Unrefined]:
        return await self._read(lambda db: gateway.due_memories(db, limit))

    # What nobody has touched for long

    async def _aged_sessions(self, whose: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        return await self._read(lambda db: aging.sessions(db, whose, untouched_since, limit))

    async def _aged_memories(self, whose: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        return await self._read(lambda db: aging.memories(db, whose, unchanged_since, limit))

    # All users

    async def _due_reflections(self, now: datetime, limit: int, scope: Scope | None) -> list[tuple[Scope, Sitting]]:
        sql = (
            "SELECT tenant_id, user_id, body FROM sittings JOIN owners ON owners.id = owner"
            " WHERE reflection = 'pending' AND due_at <= ?"
            f" AND (lease_until IS NULL OR lease_until <= ?) {'AND owner = ' + OWNER if scope else ''}"
            " ORDER BY due_at LIMIT ?"
        )
        values = (micros(now), micros(now), *(_owner(scope) if scope else ()), limit)
        return await self._read(lambda db: [(_scope(t, u), sitting_of(body)) for t, u, body in db.execute(sql, values)])

    async def _reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        sql = (
            "SELECT tenant_id, user_id, body FROM sittings JOIN owners ON owners.id = owner"
            " WHERE reflection = ? AND tenant_id = ? ORDER BY due_at LIMIT ?"
        )
        values = (state, tenant_id, limit)
        return await self._read(lambda db: [(_scope(t, u), sitting_of(body)) for t, u, body in db.execute(sql, values)])

    async def _due_sessions(self, untouched_since: datetime, unreflected_turns: int, limit: int) -> list[SessionKey]:
        sql = (
            "SELECT tenant_id, user_id, session_id FROM sessions JOIN owners ON owners.id = owner"
            " WHERE status = 'active' AND touched_at <= ? AND unreflected_turns >= ? ORDER BY touched_at LIMIT ?"
        )
        values = (micros(untouched_since), unreflected_turns, limit)
        return await self._read(
            lambda db: [SessionKey(scope=_scope(t, u), session_id=s) for t, u, s in db.execute(sql, values)]
        )

    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
        return await self._read(lambda db: searchable.due_vectors(db, space, limit))

    # All that is kept of a user

    async def _users(self, cursor: Any, limit: int) -> Users:
        return await self._read(lambda db: moving.users(db, cursor, limit))

    async def _export(self, scope: Scope, cursor: Any, limit: int) -> Exports:
        return await self._read(lambda db: moving.export(db, scope, cursor, limit))

    def _restore(self, scope: Scope, things: Sequence[Exported]) -> asyncio.Future[None]:
        return self._writer.change(lambda db: moving.restore(db, scope, things))

    async def _epoch(self, scope: Scope) -> str:
        return await self._read(lambda db: epoch_of(db, scope))

    async def _erase(self, scope: Scope, erasure_id: str) -> Erased:
        return await self._cleared(lambda db: erasing.erase(db, scope, erasure_id))

    async def _forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        return await self._cleared(lambda db: erasing.forget(db, scope, what, erasure_id))

    async def _cleared(self, change: Callable[[apsw.Connection], Erased]) -> Erased:
        """Delete, and see to it that the log does not keep what is deleted either."""
        erased: Erased = await self._writer.change(change)
        await self._writer.clear_log()
        return erased

    async def _quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        counts: Quarantined = await self._writer.change(lambda db: erasing.quarantine(db, scope, what))
        return counts

    async def _note_erasures(self, erasure_ids: Collection[str]) -> None:
        await self._writer.change(lambda db: erasing.note(db, *erasure_ids))

    async def _erasures(self) -> set[str]:
        return await self._read(erasing.erasures)

    async def _put_key(self, key: ApiKey) -> None:
        await self._writer.change(lambda db: keys.put(db, key))

    async def _find_key(self, key_id: str) -> ApiKey | None:
        return await self._read(lambda db: keys.find(db, key_id))

    async def _keys(self, tenant_id: str | None) -> list[ApiKey]:
        return await self._read(lambda db: keys.of_tenant(db, tenant_id))

    async def _ping(self) -> None:
        await self._read(lambda db: db.execute("SELECT 1 FROM owners LIMIT 1").fetchall())


def _owner(scope: Scope) -> tuple[str, str]:
    return scope.tenant_id, scope.user_id


def _names(key: SessionKey) -> tuple[str, str, str]:
    return *_owner(key.scope), key.session_id


def _scope(tenant_id: str, user_id: str) -> Scope:
    return Scope(tenant_id=tenant_id, user_id=user_id)

"""Stores that misbehave as real ones do: they suspend, they fail, they hang. Not mocks: what they keep is kept.

A fake that never suspends hides every race; `YieldingStore` gives way to other tasks around each verb.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, Self, TypeVar

from memory_service.points import Point, nowhere
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.base import Commit, Entries, Store
from memory_service.stores.bodies import Kinds, Place
from memory_service.stores.exports import Erased, Exported, Exports, Users
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.gateway import Unrefined
from memory_service.stores.keys import ApiKey
from memory_service.stores.mirrors import Mirror
from memory_service.stores.quarantine import Quarantine, Quarantined
from memory_service.stores.transient import TransientStore
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

T = TypeVar("T")


def store_of(record: str | Settings) -> Store:
    """The store of a STORE_URL, or of settings; it is not opened yet."""
    return make_store(Settings(_env_file=None, store_url=record) if isinstance(record, str) else record)


@asynccontextmanager
async def opened(record: str | Settings) -> AsyncIterator[Store]:
    """An open store; it is closed when the block ends."""
    async with AsyncExitStack() as stack:
        store = store_of(record)
        await store.start(stack)
        yield store


class YieldingStore(Store):
    """Another store (dictionaries, unless given), suspending before and after each verb; `calls` counts by verb."""

    capabilities = TransientStore.capabilities

    def __init__(self, inner: Store | None = None) -> None:
        self.inner = inner or TransientStore()
        self.calls: Counter[str] = Counter()

    @classmethod
    def from_settings(cls, settings: Settings, point: Point = nowhere) -> Self:
        return cls()

    async def start(self, stack: AsyncExitStack) -> None:
        await self.inner.start(stack)

    async def _around(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        self.calls[verb] += 1
        await asyncio.sleep(0)
        result = await work()
        await asyncio.sleep(0)
        return result

    async def _commit(self, commit: Commit) -> None:
        await self._around("commit", lambda: self.inner.commit(commit))

    async def _load(self, key: SessionKey) -> Hot | None:
        return await self._around("load", lambda: self.inner.load(key))

    async def _head(self, key: SessionKey) -> Session | None:
        return await self._around("head", lambda: self.inner.head(key))

    async def _turns(self, key: SessionKey, after: int, limit: int) -> list[Turn]:
        return await self._around("turns", lambda: self.inner.turns(key, after, limit))

    async def _find_turn(self, key: SessionKey, turn_id: str) -> Turn | None:
        return await self._around("find_turn", lambda: self.inner.find_turn(key, turn_id))

    async def _find_turns(self, key: SessionKey, turn_ids: tuple[str, ...]) -> list[Turn]:
        return await self._around("find_turns", lambda: self.inner.find_turns(key, turn_ids))

    async def _sittings(self, key: SessionKey) -> list[Sitting]:
        return await self._around("sittings", lambda: self.inner.sittings(key))

    async def _memories(
        self, scope: Scope, kinds: Kinds, since: datetime | None, limit: int, superseded: bool, after: Place | None
    ) -> list[Memory]:
        return await self._around(
            "memories",
            lambda: self.inner.memories(scope, kinds, since=since, limit=limit, superseded=superseded, after=after),
        )

    async def _find_memory(self, scope: Scope, memory_id: str) -> Memory | None:
        return await self._around("find_memory", lambda: self.inner.find_memory(scope, memory_id))

    async def _entries(self, scope: Scope, cursor: Any, space: str, limit: int) -> Entries:
        return await self._around("entries", lambda: self.inner.entries(scope, cursor, space, limit))

    async def _items(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries:
        return await self._around("items", lambda: self.inner.items(scope, item_ids, space))

    async def _follow(self, driver: str, anew: bool) -> None:
        await self._around("follow", lambda: self.inner.follow(driver, anew=anew))

    async def _unfollow(self, driver: str) -> None:
        await self._around("unfollow", lambda: self.inner.unfollow(driver))

    async def _claim_mirrors(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        return await self._around("claim_mirrors", lambda: self.inner.claim_mirrors(driver, now, lease_until, limit))

    async def _put_mirror(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
        return await self._around(
            "put_mirror", lambda: self.inner.put_mirror(mirror, caught_up=caught_up, lease_until=lease_until)
        )

    async def _mirror(self, scope: Scope, driver: str) -> Mirror:
        return await self._around("mirror", lambda: self.inner.mirror(scope, driver))

    async def _lagging(self, driver: str) -> int:
        return await self._around("lagging", lambda: self.inner.lagging(driver))

    async def _sessions(self, scope: Scope) -> list[Session]:
        return await self._around("sessions", lambda: self.inner._sessions(scope))

    async def _whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        return await self._around("whose", lambda: self.inner.whose(tenant_id, session_id))

    async def _due_memories(self, limit: int) -> list[Unrefined]:
        return await self._around("due_memories", lambda: self.inner.due_memories(limit))

    async def _due_reflections(self, now: datetime, limit: int, scope: Scope | None) -> list[tuple[Scope, Sitting]]:
        return await self._around("due_reflections", lambda: self.inner.due_reflections(now, limit, scope))

    async def _aged_sessions(self, whose: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        return await self._around("aged_sessions", lambda: self.inner.aged_sessions(whose, untouched_since, limit))

    async def _aged_memories(self, whose: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        return await self._around("aged_memories", lambda: self.inner.aged_memories(whose, unchanged_since, limit))

    async def _find_effect(self, scope: Scope, request_key: str) -> Effect | None:
        return await self._around("find_effect", lambda: self.inner.find_effect(scope, request_key))

    async def _reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        return await self._around("reflections", lambda: self.inner.reflections(tenant_id, state, limit))

    async def _due_sessions(self, untouched_since: datetime, unreflected_turns: int, limit: int) -> list[SessionKey]:
        return await self._around(
            "due_sessions", lambda: self.inner.due_sessions(untouched_since, unreflected_turns, limit)
        )

    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
        return await self._around("due_vectors", lambda: self.inner.due_vectors(space, limit, users))

    async def _users(self, cursor: Any, limit: int) -> Users:
        return await self._around("users", lambda: self.inner.users(cursor, limit))

    async def _export(self, scope: Scope, cursor: Any, limit: int) -> Exports:
        return await self._around("export", lambda: self.inner.export(scope, cursor, limit))

    async def _restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        await self._around("restore", lambda: self.inner.restore(scope, things))

    async def _epoch(self, scope: Scope) -> str:
        return await self._around("epoch", lambda: self.inner.epoch(scope))

    async def _erase(self, scope: Scope, erasure_id: str) -> Erased:
        return await self._around("erase", lambda: self.inner.erase(scope, erasure_id))

    async def _forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        return await self._around("forget", lambda: self.inner.forget(scope, what, erasure_id))

    async def _quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        return await self._around("quarantine", lambda: self.inner.quarantine(scope, what))

    async def _note_erasures(self, erasure_ids: Collection[str]) -> None:
        await self._around("note_erasures", lambda: self.inner.note_erasures(erasure_ids))

    async def _erasures(self) -> set[str]:
        return await self._around("erasures", self.inner.erasures)

    async def _put_key(self, key: ApiKey) -> None:
        await self._around("put_key", lambda: self.inner.put_key(key))

    async def _find_key(self, key_id: str) -> ApiKey | None:
        return await self._around("find_key", lambda: self.inner.find_key(key_id))

    async def _keys(self, tenant_id: str | None) -> list[ApiKey]:
        return await self._around("keys", lambda: self.inner.keys(tenant_id))

    async def _clock(self) -> datetime | None:
        return await self._around("clock", self.inner.clock)

    async def _ping(self) -> None:
        await self._around("ping", self.inner.ping)


class FaultyStore(YieldingStore):
    """Fails or hangs at the verbs it was told to, the next time each is called."""

    def __init__(self, inner: Store | None = None) -> None:
        super().__init__(inner)
        self._failures: dict[str, tuple[Exception, bool]] = {}
        self._hangs: dict[str, Hang] = {}

    def fail_at(self, verb: str, error: Exception, *, after: bool = False) -> None:
        """The next call fails: before it does anything, or only after it took effect (its answer is lost)."""
        self._failures[verb] = (error, after)

    def hang_at(self, verb: str) -> Hang:
        """The next call waits, before it does anything, until the returned hang is released."""
        self._hangs[verb] = Hang()
        return self._hangs[verb]

    async def _around(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        if hang := self._hangs.pop(verb, None):
            hang.reached.set()
            await hang.released.wait()
        error, after = self._failures.pop(verb, (None, False))
        if error is not None and not after:
            raise error
        result = await super()._around(verb, work)
        if error is not None:
            raise error
        return result


class Hang:
    """A verb that hangs. `await reached.wait()` until it does, then `release()` it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    def release(self) -> None:
        self.released.set()

"""Hot sessions: LRU and TTL, one live object per session, single-flight restore.

The pool is a cache of what is stored and may drop anything at any time: eviction is `del`. A session's
object lives at least as long as somebody holds it, so there are never two of one session.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol
from weakref import WeakValueDictionary

from memory_service.points import Point, nowhere
from memory_service.stores.base import Commit
from memory_service.telling import Context, LongTerm
from memory_service.values import Hot, Scope, Session, SessionKey

Load = Callable[[SessionKey], Awaitable[Hot | None]]
Look = Callable[[SessionKey], Awaitable[Session | None]]
Write = Callable[[Commit], Awaitable[None]]
Tell = Callable[[SessionKey, Hot], None]
Clock = Callable[[], float]


class HotSession:
    """The one live object of a session. `hot` is what is stored, or None where that must be asked.

    `context` is the last context made, and `context_of` the very objects it was made from.
    """

    __slots__ = ("__weakref__", "context", "context_of", "hot", "lock", "used_at")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.hot: Hot | None = None
        self.context: Context | None = None
        self.context_of: tuple[Hot, LongTerm] | None = None
        self.used_at = 0.0

    def show(self, hot: Hot | None) -> None:
        self.hot = hot
        self.context = self.context_of = None


class SessionPool:
    """Sessions by key. `load` asks the store; `write` commits to it. The clock is monotonic seconds.

    Where others write the same record, `look` gives a session's head as stored: what is held is held against it
    at each use, and loaded anew if it moved. `tell` is told what a session has become, for whoever else holds it.
    """

    def __init__(
        self,
        load: Load,
        write: Write,
        *,
        max_sessions: int,
        ttl_s: float,
        look: Look | None = None,
        tell: Tell | None = None,
        clock: Clock = time.monotonic,
        point: Point = nowhere,
    ) -> None:
        self._load = load
        self._look = look
        self._write = write
        self._tell = tell
        self._clock = clock
        self._shelf = _Shelf(max_sessions, ttl_s, clock, point)
        self._living: WeakValueDictionary[SessionKey, HotSession] = WeakValueDictionary()
        self.max_sessions, self.ttl_s = max_sessions, ttl_s
        self.hits = self.misses = self.committing = 0

    @property
    def exclusive(self) -> bool:
        """Nobody else writes: what is held is what is stored."""
        return self._look is None

    def lease(self, key: SessionKey, *, checked: bool = True) -> Lease:
        """Borrow a session, alone: one borrower at a time. `hot` is None if there is no such session.

        Not `checked`, it may be what somebody else has moved on from: for whoever is going to commit to it anyway,
        and believes nothing else that it says.
        """
        return Lease(self, key, checked)

    async def borrow(self, key: SessionKey, checked: bool) -> HotSession:
        """Return a session, locked and as stored. For `Lease`, which gives it back."""
        entry = self._living.get(key)
        if entry is None:
            entry = self._living[key] = HotSession()
        await entry.lock.acquire()
        try:
            if checked and self._look is not None:
                await self._check(key, entry)
            if entry.hot is None:
                self.misses += 1
                entry.show(await self._load(key))
            else:
                self.hits += 1
        except BaseException:
            entry.lock.release()
            raise
        return entry

    def give_back(self, key: SessionKey, entry: HotSession, *, sound: bool) -> None:
        """End a lease; a `sound` one counts as a use."""
        entry.lock.release()
        if sound:
            self._keep(key, entry)

    async def _check(self, key: SessionKey, entry: HotSession) -> None:
        """Let go of what is held if it is behind what is stored."""
        if self._look is None or entry.hot is None:
            return
        head = await self._look(key)
        held = (
            entry.hot
        )  # not what it was before: another reader may have loaded something older than we have just seen
        if held is not None and not (head is not None and is_no_older(held.session, head)):
            entry.show(None)

    async def commit(self, key: SessionKey, entry: HotSession, commit: Commit, then: Hot) -> None:
        """Write, then show `then`. Readers see the former state until it is durable.

        If the write fails, what is stored is unknown here: it is asked for at the next lease.
        """
        self.committing += 1
        try:
            await self._write(commit)
        except BaseException:
            entry.show(None)
            raise
        finally:
            self.committing -= 1
        entry.show(then)
        if self._tell is not None:
            self._tell(key, then)

    def let_go(self, key: SessionKey, incarnation: str, version: int) -> None:
        """Drop a session that somebody else is said to have moved on, unless what is held is that or became of it.

        What is said may be late or wrong: it is only asked for again.
        """
        entry = self._living.get(key)
        if entry is None or entry.hot is None:
            return
        held = entry.hot.session
        if held.incarnation != incarnation or held.version < version:
            entry.show(None)
            self._shelf.pop(key)

    def forget(self, scope: Scope) -> None:
        """Drop all sessions of a user: what is stored is not what is held."""
        for key in [key for key in self._living if key.scope == scope]:
            self._living[key].show(None)
            self._shelf.pop(key)

    def held(self, key: SessionKey) -> Hot | None:
        """Look at a session as `use` would return it; it does not count as a use."""
        entry = self._shelf.get(key) if self._look is None else None
        return None if entry is None else entry.hot

    def use(self, key: SessionKey) -> HotSession | None:
        """Return a session as last committed, without a wait, if it is hot and nobody else can have written it."""
        used = self._shelf.use(key) if self._look is None else None
        self.hits += used is not None
        return used

    async def read(self, key: SessionKey, *, checked: bool = True) -> HotSession:
        """Return a session as last committed; a hot one that nobody else can write costs neither a wait nor I/O."""
        used = self.use(key)
        if used is not None:
            return used
        entry = self._living.get(key)
        if entry is not None and checked and self._look is not None:
            await self._check(key, entry)
        if entry is not None and entry.hot is not None:
            self.hits += 1
            self._keep(key, entry)
            return entry
        async with self.lease(key, checked=checked) as entry:
            return entry

    def _keep(self, key: SessionKey, entry: HotSession) -> None:
        if entry.hot is not None:
            self._shelf.keep(key, entry)

    async def evict_idle(self) -> int:
        """Drop sessions untouched for the TTL; returns how many."""
        return self._shelf.expire()

    def evict_all(self) -> None:
        """Drop every session; nothing is lost, everything is asked for again."""
        self._shelf.clear()

    def stats(self) -> dict[str, Any]:
        """Seed names first; ages are seconds since last use."""
        self._shelf.expire()
        ages = self._shelf.ages()
        return {
            "total_sessions": len(ages),
            "dirty_sessions": self.committing,
            "max_capacity": self.max_sessions,
            "coherence": "exclusive" if self.exclusive else "validate",
            "utilization": len(ages) / self.max_sessions if self.max_sessions else 0.0,
            "ttl_seconds": self.ttl_s,
            "avg_age_seconds": sum(ages) / len(ages) if ages else 0.0,
            "oldest_age_seconds": max(ages, default=0.0),
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self._shelf.evictions,
        }


class Tier(Protocol):
    """Where replicas that share a record show each other what they hold of it."""

    async def start(self, stack: AsyncExitStack, moved: Callable[[SessionKey, str, int], None]) -> None: ...
    async def load(self, key: SessionKey) -> Hot | None:
        """Return the session as last committed, or None."""

    def keep_soon(self, key: SessionKey, hot: Hot) -> None:
        """Take note of what a session has become; neither waits nor fails."""

    async def forget(self, scope: Scope) -> bool:
        """Delete all that is kept of a user; returns whether it was done."""

    def stats(self) -> dict[str, Any]: ...


def is_no_older(one: Session, other: Session) -> bool:
    """Tell whether a head is the other, or what became of it."""
    return one == other or (one.incarnation == other.incarnation and one.version > other.version)


class Lease:
    """What `async with` borrows a session by."""

    __slots__ = ("_checked", "_entry", "_key", "_pool")

    def __init__(self, pool: SessionPool, key: SessionKey, checked: bool) -> None:
        self._pool, self._key, self._checked = pool, key, checked

    async def __aenter__(self) -> HotSession:
        self._entry = await self._pool.borrow(self._key, self._checked)
        return self._entry

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.give_back(self._key, self._entry, sound=kind is None)


class _Shelf:
    """Holds sessions by last use: the least recently used go first, those idle for the TTL in any case."""

    def __init__(self, max_sessions: int, ttl_s: float, clock: Clock, point: Point) -> None:
        self._max_sessions, self._ttl_s, self._clock, self._point = max_sessions, ttl_s, clock, point
        self._entries: OrderedDict[SessionKey, HotSession] = OrderedDict()
        """The one that was used longest ago is the first."""
        self.evictions = 0

    def get(self, key: SessionKey) -> HotSession | None:
        return self._entries.get(key)

    def use(self, key: SessionKey) -> HotSession | None:
        """The session, if it is here and hot; it then counts as used now."""
        entry = self._entries.get(key)
        if entry is None or entry.hot is None:
            return None
        entry.used_at = self._clock()
        self._entries.move_to_end(key)
        return entry

    def keep(self, key: SessionKey, entry: HotSession) -> None:
        if not self._max_sessions:
            return
        entry.used_at = self._clock()
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_sessions:
            self._drop_oldest()

    def pop(self, key: SessionKey) -> None:
        self._entries.pop(key, None)

    def ages(self) -> list[float]:
        """Seconds since each was used."""
        now = self._clock()
        return [now - entry.used_at for entry in self._entries.values()]

    def expire(self) -> int:
        idle_since, before = self._clock() - self._ttl_s, self.evictions
        while self._entries and next(iter(self._entries.values())).used_at <= idle_since:
            self._drop_oldest()
        return self.evictions - before

    def _drop_oldest(self) -> None:
        self.evictions += 1
        self._point("in_eviction")
        self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()

"""The store contract: the system of record behind everything.

Public verbs do the duties once (translation of foreign errors, shielding, limits); a backend writes the
underscore verbs. `tests/stores/contract.py` holds every backend to what is said here.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self, TypeVar

from memory_service.errors import MemoryServiceError
from memory_service.points import Point, nowhere
from memory_service.settings import Settings
from memory_service.stores.aging import AgeVerbs
from memory_service.stores.bodies import Kinds, Place
from memory_service.stores.erasures import ErasureVerbs
from memory_service.stores.exports import Exported, Exports, Users
from memory_service.stores.gateway import GatewayVerbs
from memory_service.stores.keys import KeyVerbs
from memory_service.stores.mirrors import MirrorVerbs
from memory_service.stores.settling import settled
from memory_service.stores.translating import Errors, Translated
from memory_service.values import (
    Durability,
    Effect,
    Hot,
    Kind,
    Memory,
    Only,
    ReflectionState,
    Request,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Unembedded,
    Value,
    Vector,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

ALL = 1_000_000_000
CANDIDATES = 50
"""Of each kind of index, how many of the best it gives to be ranked; docs/explanation/recall.md says why so many."""
REQUESTS_KEPT = timedelta(days=3)
"""How long a request's name is remembered at least; older ones go when new ones come. A day is what is promised:
a clock that is set ahead by a day must not make a retry a new turn.
"""


class Commit(Value, frozen=True, kw_only=True):
    """One change of one user's memory, all or nothing.

    `session` and `sittings` carry the version they will have, one above the one they replace (1: new).
    Turns continue the session's sequence. Memories and vectors are upserted by id. `request` names the request
    that stores the first of the turns; the name is kept with it. `unchanged` are the states in which some of its
    memories were read, and must still be; `absent` are ids of others under which there was nothing, and must still be
    nothing. `epoch` is that of the user when what it is made from was read: with it, what was erased since cannot come
    back.
    """

    scope: Scope
    session: Session | None = None
    turns: tuple[Turn, ...] = ()
    sittings: tuple[Sitting, ...] = ()
    memories: tuple[Memory, ...] = ()
    vectors: tuple[Vector, ...] = ()
    request: Request | None = None
    epoch: str | None = None
    unchanged: tuple[Memory, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def is_conditional(self) -> bool:
        """Whether it hangs on what is there of its memories."""
        return bool(self.unchanged or self.absent)

    @property
    def is_searchable(self) -> bool:
        """Whether it writes anything that recall finds."""
        return bool(self.turns or self.memories or self.vectors)


class DuplicateRequest(MemoryServiceError):
    """A request of this name has had its effect already; nothing was written."""


class DuplicateTurn(MemoryServiceError):
    """A turn of this `turn_id` is in the session already; nothing was written."""


class Capabilities(Value, frozen=True, kw_only=True):
    """What a backend promises; the conformance suite holds it to each."""

    durability: Durability
    exclusive: bool
    """One process owns the record: what this process holds in memory cannot be stale."""
    most_turns: int = ALL
    """How many turns one commit may hold, and how many bytes (`most_bytes`) of what they say."""
    most_bytes: int = ALL


class Entries(Value, frozen=True, kw_only=True):
    """Searchable items of one user committed since a cursor, oldest first; `more` says to ask again.

    What was read in another `epoch` may hold what was erased since: it counts no more, nor does its cursor.
    """

    turns: list[Turn]
    memories: list[Memory]
    vectors: list[Vector]
    cursor: Any
    more: bool
    epoch: str = ""


class Sought(Value, frozen=True, kw_only=True):
    """What a search is for: stems and a vector (of `space`) of the question, of which either may be missing.

    `question`: as it was asked. `with_extracts`: whether what was only picked and quoted counts too.
    """

    stems: tuple[str, ...]
    vector: Any
    space: str
    kinds: tuple[Kind, ...]
    with_extracts: bool = False
    question: str = ""
    only: Only = Only()


class Store(MirrorVerbs, ErasureVerbs, KeyVerbs, GatewayVerbs, AgeVerbs, ABC):
    """A system of record. All verbs act inside one scope but `users`, `whose`, `due_*`, `aged_*`, and
    those of drivers and keys.

    All verbs raise StoreUnavailable if the backend fails, StoreCorrupt if what it holds of this is damaged.
    """

    capabilities: Capabilities
    searched_by: Literal["process", "store"] = "process"
    """Who narrows a user's memory to a question. `store`: the backend, for all whom it `narrows`."""
    searched_why: str = "this store has no indexes to search by"
    """Why so, in words for those who run the service."""
    native_errors: ClassVar[Errors] = (OSError,)
    damage_errors: ClassVar[Errors] = ()
    """By which a backend says that what it holds is damaged; looked at before `native_errors`."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings, point: Point = nowhere) -> Self: ...

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open, migrate, and push onto `stack` what must be closed. Raises UnsafeStart."""

    async def commit(self, commit: Commit) -> None:
        """Write one change; when this returns it is as durable as `capabilities.durability` says.

        Settles even when the caller is cancelled: a write under way cannot be called back, so whoever
        reads next must find it either there or not there.
        Raises StaleVersion if the head, a sitting or a memory moved, or something was erased since `epoch`;
        DuplicateTurn, DuplicateRequest, Overloaded; then nothing is written.
        """
        if commit.turns and commit.session is None:
            raise ValueError("turns are committed with the head that counts them")
        with self._translated():
            await settled(self._commit(commit))

    async def load(self, key: SessionKey) -> Hot | None:
        """Return the head and the live turns as last committed, or None. Two round trips at most."""
        with self._translated():
            hot = await self._load(key)
        return hot and hot.sharing()  # it is held for long

    async def head(self, key: SessionKey) -> Session | None:
        """Return the head as last committed, or None: what it costs least to see whether anything moved."""
        with self._translated():
            return await self._head(key)

    async def turns(self, key: SessionKey, after: int = 0, limit: int = ALL) -> list[Turn]:
        """Return the turns with `seq > after`, in order; empty for an unknown session."""
        with self._translated():
            return await self._turns(key, after, limit)

    async def find_turn(self, key: SessionKey, turn_id: str) -> Turn | None:
        with self._translated():
            return await self._find_turn(key, turn_id)

    async def find_effect(self, scope: Scope, request_key: str) -> Effect | None:
        """Return what the request of this name did, as long as it is remembered."""
        with self._translated():
            return await self._find_effect(scope, request_key)

    async def sittings(self, key: SessionKey) -> list[Sitting]:
        """Return the session's sittings that were handed to reflection, oldest first."""
        with self._translated():
            return await self._sittings(key)

    async def memories(
        self,
        scope: Scope,
        kinds: Sequence[Kind],
        *,
        since: datetime | None = None,
        limit: int = ALL,
        superseded: bool = False,
        after: Place | None = None,
    ) -> list[Memory]:
        """Return memories of these kinds, newest (`created_at`) first, then by id: those that come `after` a place."""
        with self._translated():
            return await self._memories(scope, tuple(kinds), since, limit, superseded, after)

    async def find_memory(self, scope: Scope, memory_id: str) -> Memory | None:
        """Return the memory of this id, superseded or deleted ones too."""
        with self._translated():
            return await self._find_memory(scope, memory_id)

    async def entries(self, scope: Scope, cursor: Any, space: str, limit: int = 2000) -> Entries:
        """Return what recall searches, committed since `cursor` (None: from the start).

        Vectors are those of `space` alone, none earlier than its item. A memory written again comes again;
        the later one holds.
        """
        with self._translated():
            return await self._entries(scope, cursor, space, limit)

    async def items(self, scope: Scope, item_ids: Collection[str], space: str) -> Entries:
        """Return turns and memories by their names among searchable items, and their vectors of a space.

        In no order but that of turns within a session. What is not there is left out; what is superseded is not.
        """
        with self._translated():
            return await self._items(scope, tuple(item_ids), space)

    async def vectors(self, scope: Scope, item_ids: Collection[str], space: str) -> list[Vector]:
        """Return the vectors that these items have in a space, in no order."""
        with self._translated():
            return await self._vectors(scope, tuple(item_ids), space)

    async def narrows(self, scope: Scope) -> bool:
        """Return whether to ask for `candidates` of this user, because to read all there is (`entries`) is dearer.

        One round trip at most, and cheap beside either. Never where `searched_by` is `process`.
        """
        with self._translated():
            return await self._narrows(scope)

    async def candidates(self, scope: Scope, sought: Sought, limit: int = CANDIDATES) -> Entries:
        """Return what of a user's memory may answer a question: at least the best so many by words and by vector.

        In no order but that of turns within a session, with all vectors of the space that they have; superseded
        memories are left out. Only where `searched_by` is `store`.
        """
        with self._translated():
            return await self._candidates(scope, sought, limit)

    async def due_reflections(
        self, now: datetime, limit: int, scope: Scope | None = None
    ) -> list[tuple[Scope, Sitting]]:
        """Return pending sittings (of one user, or all) that are due and unleased, longest due first."""
        with self._translated():
            return await self._due_reflections(now, limit, scope)

    async def reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        """Return sittings of a tenant's users whose reflection is in this state, longest due first."""
        with self._translated():
            return await self._reflections(tenant_id, state, limit)

    async def due_sessions(self, untouched_since: datetime, unreflected_turns: int, limit: int) -> list[SessionKey]:
        """Return active sessions untouched since then that hold at least so many unreflected turns, oldest first."""
        with self._translated():
            return await self._due_sessions(untouched_since, unreflected_turns, limit)

    async def due_vectors(self, space: str, limit: int, users: Collection[Scope] | None = None) -> list[Unembedded]:
        """Return items that have no vector in `space`, oldest first: of all users, or of these at least.

        To look through everybody's is dear in some stores; one to which it is not may do so in any case.
        """
        with self._translated():
            return await self._due_vectors(space, limit, users)

    async def users(self, cursor: Any = None, limit: int = 1000) -> Users:
        """Return users of whom anything is kept, each once, in no particular order."""
        with self._translated():
            return await self._users(cursor, limit)

    async def export(self, scope: Scope, cursor: Any = None, limit: int = 1000) -> Exports:
        """Return all that is kept of a user: sessions and sittings, names of requests, then turns and memories.

        Each kind in the order of its names, but turns in that in which they were written; so in every store.

        What is written meanwhile may be in it or not: who needs one state keeps writers away.
        """
        with self._translated():
            return await self._export(scope, cursor, limit)

    async def restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        """Write exported things as they are, in this order, in place of what is there by the same names.

        A session comes before its turns and sittings. No version is looked at: nobody else may be writing this user.
        """
        with self._translated():
            await settled(self._restore(scope, things))

    def require_room(self) -> None:
        """Raise Overloaded or StoreFailed if a commit would be refused now."""

    async def failed(self) -> None:
        """Wait until the store has broken in a way that only a new start mends; most never do."""
        await asyncio.Event().wait()

    async def clock(self) -> datetime | None:
        """Return the time as the backend has it, to a second; None where it has no other than this process."""
        with self._translated():
            return await self._clock()

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the backend answers."""
        with self._translated():
            await self._ping()

    def usage(self) -> dict[str, Any]:
        """Counters for monitoring; cheap, no I/O."""
        return {}

    async def _clock(self) -> datetime | None:
        return None

    def _translated(self) -> Translated:
        return Translated(type(self).__name__, self.native_errors, self.damage_errors)

    @abstractmethod
    def _commit(self, commit: Commit) -> Awaitable[None]: ...
    @abstractmethod
    async def _load(self, key: SessionKey) -> Hot | None: ...
    @abstractmethod
    async def _head(self, key: SessionKey) -> Session | None: ...
    @abstractmethod
    async def _turns(self, key: SessionKey, after: int, limit: int) -> list[Turn]: ...
    @abstractmethod
    async def _find_turn(self, key: SessionKey, turn_id: str) -> Turn | None: ...
    @abstractmethod
    async def _find_effect(self, scope: Scope, request_key: str) -> Effect | None: ...
    @abstractmethod
    async def _sittings(self, key: SessionKey) -> list[Sitting]: ...
    @abstractmethod
    async def _memories(
        self, scope: Scope, kinds: Kinds, since: datetime | None, limit: int, superseded: bool, after: Place | None
    ) -> list[Memory]: ...
    @abstractmethod
    async def _find_memory(self, scope: Scope, memory_id: str) -> Memory | None: ...
    @abstractmethod
    async def _entries(self, scope: Scope, cursor: Any, space: str, limit: int) -> Entries: ...
    @abstractmethod
    async def _items(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries: ...
    async def _vectors(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> list[Vector]:
        return (await self._items(scope, item_ids, space)).vectors

    async def _narrows(self, scope: Scope) -> bool:
        return False

    async def _candidates(self, scope: Scope, sought: Sought, limit: int) -> Entries:
        raise NotImplementedError(f"{type(self).__name__} does not search by itself")

    @abstractmethod
    async def _due_reflections(self, now: datetime, limit: int, scope: Scope | None) -> list[tuple[Scope, Sitting]]: ...
    @abstractmethod
    async def _reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]: ...
    @abstractmethod
    async def _due_sessions(
        self, untouched_since: datetime, unreflected_turns: int, limit: int
    ) -> list[SessionKey]: ...
    @abstractmethod
    async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]: ...
    @abstractmethod
    async def _users(self, cursor: Any, limit: int) -> Users: ...
    @abstractmethod
    async def _export(self, scope: Scope, cursor: Any, limit: int) -> Exports: ...
    @abstractmethod
    def _restore(self, scope: Scope, things: Sequence[Exported]) -> Awaitable[None]: ...
    @abstractmethod
    async def _ping(self) -> None: ...

"""The part of a store that the gateway and lists of messages need: who has a session, which of many turns are there,
and memories that a model is still to write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

from memory_service.values import Memory, Scope, Session, SessionKey, Turn, Value


class Unrefined(Value, frozen=True, kw_only=True):
    """A memory that is `rough`, and whose it is."""

    scope: Scope
    memory: Memory


class GatewayVerbs(ABC):
    """All raise what every verb of a store raises. `whose` and `due_memories` look across users."""

    async def sessions(self, scope: Scope, limit: int) -> list[Session]:
        """Return the heads of a user's sessions, newest (`created_at`) first, then by id."""
        with self._translated():
            heads = await self._sessions(scope)
        heads.sort(key=lambda head: head.session_id)
        heads.sort(key=lambda head: head.created_at, reverse=True)
        return heads[:limit]

    async def whose(self, tenant_id: str, session_id: str) -> list[Scope]:
        """Return the users of a tenant who have a session of this id, or a memory (of that kind) of one; in no order.

        An index answers it: what others have costs nothing.
        """
        with self._translated():
            return await self._whose(tenant_id, session_id)

    async def find_turns(self, key: SessionKey, turn_ids: Sequence[str]) -> list[Turn]:
        """Return those that are there, each once, in no order. What it costs does not grow with the session."""
        with self._translated():
            return await self._find_turns(key, tuple(dict.fromkeys(turn_ids)))

    async def due_memories(self, limit: int) -> list[Unrefined]:
        """Return memories of all users that are `rough`, longest written first."""
        with self._translated():
            return await self._due_memories(limit)

    @abstractmethod
    def _translated(self) -> AbstractContextManager[None]: ...
    @abstractmethod
    async def _sessions(self, scope: Scope) -> list[Session]: ...
    @abstractmethod
    async def _whose(self, tenant_id: str, session_id: str) -> list[Scope]: ...
    @abstractmethod
    async def _find_turns(self, key: SessionKey, turn_ids: tuple[str, ...]) -> list[Turn]: ...
    @abstractmethod
    async def _due_memories(self, limit: int) -> list[Unrefined]: ...

"""The part of a store that tells what nobody has touched for long: what retention erases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import datetime

from memory_service.values import Memory, Scope, SessionKey, Value


class Tenants(Value, frozen=True, kw_only=True):
    """One tenant (`only`), or all but some."""

    only: str | None = None
    but: tuple[str, ...] = ()

    def include(self, tenant_id: str) -> bool:
        return tenant_id == self.only if self.only is not None else tenant_id not in self.but


class AgedMemory(Value, frozen=True, kw_only=True):
    """A memory that was kept for long, and whose it is."""

    scope: Scope
    memory: Memory


class AgeVerbs(ABC):
    """All raise what every verb of a store raises, and look across users.

    What is given comes by an index on its age: what is younger costs nothing, and what is as old and another tenant's
    only that it is passed over, so that it cannot fill a page.
    """

    async def aged_sessions(self, whose: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]:
        """Return sessions, active or ended, untouched since then, longest untouched first."""
        with self._translated():
            return await self._aged_sessions(whose, untouched_since, limit)

    async def aged_memories(self, whose: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]:
        """Return memories that callers wrote, unchanged since then and of no session on record, oldest first.

        Those of a session go with it. What somebody pinned or edited is not among them, nor is what was deleted.
        """
        with self._translated():
            return await self._aged_memories(whose, unchanged_since, limit)

    @abstractmethod
    def _translated(self) -> AbstractContextManager[None]: ...
    @abstractmethod
    async def _aged_sessions(self, whose: Tenants, untouched_since: datetime, limit: int) -> list[SessionKey]: ...
    @abstractmethod
    async def _aged_memories(self, whose: Tenants, unchanged_since: datetime, limit: int) -> list[AgedMemory]: ...


def is_aged(memory: Memory, unchanged_since: datetime) -> bool:
    """Whether a memory is one of those, if it is of no session on record."""
    return (
        memory.kind == "memory"
        and not memory.is_settled
        and memory.valid_to is None
        and max(memory.created_at, memory.updated_at or memory.created_at) <= unchanged_since
    )

"""Deleting what is kept of a user, so that it does not come back: the verbs of a store about it.

What was read before may still be held: by a job that works on it, by another process. All of it is of an earlier
*epoch* of the user, by which both are told: a commit that names it is refused, and entries of it count no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection
from contextlib import AbstractContextManager

from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.quarantine import Quarantine, Quarantined
from memory_service.stores.settling import settled
from memory_service.values import Scope


class ErasureVerbs(ABC):
    """The part of a store that is about erasing. All raise what every verb of a store raises."""

    async def epoch(self, scope: Scope) -> str:
        """Return the name of a user's present epoch: another one whenever something of the user was erased."""
        with self._translated():
            return await self._epoch(scope)

    async def erase(self, scope: Scope, erasure_id: str = "") -> Erased:
        """Delete all that is kept of a user, and note by which erasure. What is committed meanwhile may stay."""
        with self._translated():
            return await settled(self._erase(scope, erasure_id))

    async def forget(self, scope: Scope, what: Forgetting, erasure_id: str = "") -> Erased:
        """Delete a session or a turn with what was derived from it alone, and note by which erasure.

        Returns how much went; nothing, if there is no such session or turn.
        """
        with self._translated():
            return await settled(self._forget(scope, what, erasure_id))

    async def quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        """Put turns of a session in quarantine, or let them out, with what was derived from them.

        Twice is once. If it fails, some of it may be done: to be asked for again. Returns how much it was; nothing, if
        there is no such session.
        """
        with self._translated():
            return await settled(self._quarantine(scope, what))

    async def note_erasures(self, erasure_ids: Collection[str]) -> None:
        """Note erasures that there was nothing to be done for."""
        with self._translated():
            await self._note_erasures(erasure_ids)

    async def erasures(self) -> set[str]:
        """Return the ids of all erasures that were noted."""
        with self._translated():
            return await self._erasures()

    @abstractmethod
    def _translated(self) -> AbstractContextManager[None]: ...
    @abstractmethod
    async def _epoch(self, scope: Scope) -> str: ...
    @abstractmethod
    def _erase(self, scope: Scope, erasure_id: str) -> Awaitable[Erased]: ...
    @abstractmethod
    def _forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Awaitable[Erased]: ...
    @abstractmethod
    def _quarantine(self, scope: Scope, what: Quarantine) -> Awaitable[Quarantined]: ...
    @abstractmethod
    async def _note_erasures(self, erasure_ids: Collection[str]) -> None: ...
    @abstractmethod
    async def _erasures(self) -> set[str]: ...

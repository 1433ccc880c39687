"""Answers to questions that were asked a moment ago, kept as long as nothing is new of the user.

Whether something is new the store is asked each time, by the cursor at which the answer was found: so an answer is the
same as a search would give, in every replica, and a repeated question costs no model, no engine and no ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from cachetools import LRUCache
from msgspec import Struct, field

from memory_service.corpus import Hit
from memory_service.stores.base import Store
from memory_service.values import Scope

T = TypeVar("T")

MOST_OF_A_USER = 32
HIT_BYTES = 1500
"""Estimate of what a hit costs beside its text."""


class _OfUser(Struct):
    """What a user's memory was asked since it last changed: all found at one cursor, with vectors of one space."""

    cursor: Any
    space: str
    answers: dict[Hashable, tuple[float, list[Hit]]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        hits = [hit for _, found in self.answers.values() for hit in found]
        return sum(len(hit.item.text) for hit in hits) + HIT_BYTES * (len(hits) + len(self.answers) + 1)


class QueryCache:
    """`kept_s`: for so long at most; 0 keeps nothing. `clock`: monotonic seconds."""

    def __init__(self, store: Store, *, max_bytes: int, kept_s: float, clock: Callable[[], float]) -> None:
        self._store, self._kept_s, self._clock = store, kept_s, clock
        self._users: LRUCache[Scope, _OfUser] = LRUCache(max_bytes, getsizeof=lambda kept: kept.size_bytes)
        self.hits = 0

    async def find(self, scope: Scope, question: Hashable, space: str) -> list[Hit] | None:
        """Return what was answered to a question, if a search would answer it now; else None."""
        kept = self._users.get(scope)
        if kept is None or kept.space != space or question not in kept.answers:
            return None
        asked_s, hits = kept.answers[question]
        if self._clock() - asked_s >= self._kept_s or await self._is_anything_new(scope, kept):
            self.forget(scope)
            return None
        self.hits += 1
        return hits

    async def _is_anything_new(self, scope: Scope, kept: _OfUser) -> bool:
        entries = await self._store.entries(scope, kept.cursor, kept.space, 1)
        return bool(entries.turns or entries.memories or entries.vectors)

    def keep(self, scope: Scope, question: Hashable, space: str, cursor: Any, hits: list[Hit]) -> None:
        """Keep an answer that was found at a cursor of the store."""
        if not self._kept_s:
            return
        kept = self._users.get(scope)
        if kept is None or (kept.cursor, kept.space) != (cursor, space) or len(kept.answers) >= MOST_OF_A_USER:
            kept = _OfUser(cursor, space)
        kept.answers[question] = self._clock(), hits
        if kept.size_bytes <= self._users.maxsize:
            self._users[scope] = kept  # set anew: its size has changed
        else:
            self.forget(scope)

    def forget(self, scope: Scope) -> None:
        """Drop all answers to a user."""
        self._users.pop(scope, None)

    def clear(self) -> None:
        """Drop everybody's: those who are asked are others now."""
        self._users.clear()

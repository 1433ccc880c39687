"""Answers to questions that were asked a moment ago, kept as long as nothing is new of the user.

Whether something is new, or was erased, the store is asked each time, by where the answer was found: so an answer is
the same as a search would give, in every replica, and a repeated question costs no model, no engine and no ranking.

Replicas show each other what they have answered, if there is a place for it (Redis): which items, with what scores, at
which cursor. What these items say is read from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Any, Protocol

import msgspec
from cachetools import LRUCache
from msgspec import Struct, field

from memory_service.corpus import Hit, Item, Parts, item_of, items_of, whole_of
from memory_service.stores.base import Store
from memory_service.values import Scope, Value

MOST_OF_A_USER = 32
HIT_BYTES = 1500
"""Estimate of what a hit costs beside its text."""


class SharedAnswers(Protocol):
    """Where replicas show each other what they answered; it may forget anything, and fails without a word."""

    async def find_answer(self, scope: Scope, name: str) -> bytes | None: ...
    async def keep_answer(self, scope: Scope, name: str, body: bytes, ttl_s: float) -> None: ...


class _Shown(Struct, frozen=True):
    """What is shown of an answer: where it was found, and of each hit its id, score and parts."""

    cursor: int
    epoch: str
    hits: list[tuple[str, float, Parts]]


_encoder = msgspec.json.Encoder(order="deterministic")
_shown_of = msgspec.json.Decoder(_Shown).decode


class Seen(Value, frozen=True, kw_only=True):
    """How far what the store holds of a user was looked through."""

    cursor: Any
    epoch: str


class _OfUser(Struct):
    """What a user's memory was asked since it last changed: all found at one place, with vectors of one space."""

    seen: Seen
    space: str
    answers: dict[Hashable, tuple[float, list[Hit]]] = field(default_factory=dict)
    size_bytes: int = HIT_BYTES

    def add(self, question: Hashable, asked_s: float, hits: list[Hit]) -> None:
        """Keep an answer in place of an earlier one."""
        _, before = self.answers.get(question, (0, None))
        self.size_bytes += _size(hits) - (_size(before) if before is not None else 0)
        self.answers[question] = asked_s, hits


def _size(hits: list[Hit]) -> int:
    return sum(len(hit.item.text) for hit in hits) + HIT_BYTES * (len(hits) + 1)


class QueryCache:
    """`kept_s`: for so long at most; 0 keeps nothing. `clock`: monotonic seconds."""

    def __init__(
        self,
        store: Store,
        *,
        max_bytes: int,
        kept_s: float,
        clock: Callable[[], float],
        shared: SharedAnswers | None = None,
    ) -> None:
        self._store, self._kept_s, self._clock = store, kept_s, clock
        self._shared = shared if kept_s else None
        self._users: LRUCache[Scope, _OfUser] = LRUCache(max_bytes, getsizeof=lambda kept: kept.size_bytes)
        self.hits = self.hits_of_others = 0

    async def find(self, scope: Scope, question: Hashable, space: str) -> list[Hit] | None:
        """Return what was answered to a question, if a search would answer it now; else None."""
        kept = self._users.get(scope)
        if kept is None or kept.space != space or question not in kept.answers:
            return await self._find_shared(scope, question, space) if self._shared else None
        asked_s, hits = kept.answers[question]
        if self._clock() - asked_s >= self._kept_s or not await self._still_is(scope, kept.seen, space):
            self._users.pop(scope, None)
            return None
        self.hits += 1
        return hits

    async def _still_is(self, scope: Scope, seen: Seen, space: str) -> bool:
        """Whether nothing came to what was seen, and nothing of it was erased."""
        entries = await self._store.entries(scope, seen.cursor, space, 1)
        return entries.epoch == seen.epoch and not (entries.turns or entries.memories or entries.vectors)

    async def _find_shared(self, scope: Scope, question: Hashable, space: str) -> list[Hit] | None:
        assert self._shared is not None
        body = await self._shared.find_answer(scope, _name_of(question, space))
        if body is None:
            return None
        try:
            shown = _shown_of(body)
        except msgspec.DecodeError:
            return None
        items = await self._items(scope, {item_id for item_id, _, _ in shown.hits})
        if any(item_id not in items for item_id, _, _ in shown.hits):
            return None
        seen = Seen(cursor=shown.cursor, epoch=shown.epoch)
        if not await self._still_is(scope, seen, space):  # last: if not, the items are as they were then
            return None
        hits = [Hit(items[item_id], score, parts) for item_id, score, parts in shown.hits]
        self.hits_of_others += 1
        self._keep_here(scope, question, space, seen, hits)
        return hits

    async def _items(self, scope: Scope, ids: set[str]) -> dict[str, Item]:
        """What these say now, by id."""
        held = await self._store.items(scope, set(map(whole_of, ids)), "")
        said = [item for turn in held.turns for item in items_of(turn)]
        return {item.id: item for item in (*said, *map(item_of, held.memories))}

    async def keep(self, scope: Scope, question: Hashable, space: str, seen: Seen, hits: list[Hit]) -> None:
        """Keep an answer and where it was found; others are shown it where the store's cursors are numbers."""
        if not self._kept_s:
            return
        self._keep_here(scope, question, space, seen, hits)
        if self._shared is not None and isinstance(seen.cursor, int):
            shown = _Shown(seen.cursor, seen.epoch, [(hit.item.id, hit.score, hit.parts) for hit in hits])
            body = _encoder.encode(shown)
            await self._shared.keep_answer(scope, _name_of(question, space), body, self._kept_s)

    def _keep_here(self, scope: Scope, question: Hashable, space: str, seen: Seen, hits: list[Hit]) -> None:
        kept = self._users.get(scope)
        if kept is None or (kept.seen, kept.space) != (seen, space) or len(kept.answers) >= MOST_OF_A_USER:
            kept = _OfUser(seen, space)
        kept.add(question, self._clock(), hits)
        if kept.size_bytes <= self._users.maxsize:
            self._users[scope] = kept  # set anew: its size has changed
        else:
            self._users.pop(scope, None)

    def forget(self, scope: Scope) -> None:
        """Drop all answers to a user that are held here; those shown to others end by themselves."""
        self._users.pop(scope, None)

    def clear(self) -> None:
        """Drop everybody's that are held here: those who are asked hold something else now."""
        self._users.clear()


def _name_of(question: Hashable, space: str) -> str:
    return blake2b(_encoder.encode((question, space)), digest_size=16).hexdigest()

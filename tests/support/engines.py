"""Engines that follow the record: none; and one of the tests' own, which can be told to fail or to hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from memory_service.breaker import Breaker
from memory_service.embedding import Embedding
from memory_service.engines import Engines
from memory_service.llm.base import Embedder
from memory_service.mirroring import Mirroring
from memory_service.projections import make_projection
from memory_service.projections.base import Copy, Floats, Projection
from memory_service.query_cache import QueryCache
from memory_service.recall import Recall
from memory_service.settings import Settings
from memory_service.stores.base import Sought, Store
from memory_service.text import Tokenizer
from memory_service.values import Scope
from tests.support.values import NOON


def no_engines(store: Store) -> Engines:
    return Engines(store, Mirroring(store, str, now=lambda: NOON), lambda name: make_projection(name, Settings()))


def plain_recall(store: Store, embedder: Embedder, cache_bytes: int) -> Recall:
    """A recall that asks no engine and remembers no answer."""
    answers = QueryCache(store, max_bytes=1, kept_s=0, clock=time.monotonic)
    return Recall(store, Embedding(store, embedder, Breaker()), no_engines(store), answers, cache_bytes=cache_bytes)


class Away(OSError):
    """The shelf is out of reach."""


class ShelfEngine(Projection):
    """Keeps copies on a shelf and gives way to other tasks before and after each verb; finds what shares a word.

    `away`: every verb fails. `fails_at`: these verbs do. `hang`: every verb waits, but for no longer than 0.2 or 0.5 s,
    until it is set; `go_on`: those that are asked from now on do not. `calls`: verbs, as they were asked.
    """

    name = "shelf"
    native_errors = (Away,)
    takes_vectors = True

    def __init__(self) -> None:
        super().__init__(search_s=20, write_s=20)
        self.shelf: dict[Scope, dict[str, Copy]] = {}
        self.away = False
        self.fails_at: set[str] = set()
        self.hangs: asyncio.Event | None = None
        self.calls: list[str] = []
        self._tokenize = Tokenizer()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls()

    def hang(self) -> asyncio.Event:
        self._search_s, self._write_s, self.hangs = 0.2, 0.5, asyncio.Event()
        return self.hangs

    def go_on(self) -> None:
        self._search_s, self._write_s, self.hangs = 20, 20, None

    async def start(self, stack: AsyncExitStack) -> None:
        """Nothing to open."""

    async def _answer(self, verb: str) -> None:
        self.calls.append(verb)
        await asyncio.sleep(0)
        if self.hangs is not None:
            await self.hangs.wait()
        if self.away or verb in self.fails_at:
            raise Away

    def _of(self, scope: Scope) -> dict[str, Copy]:
        return self.shelf.setdefault(scope, {})

    async def _put(self, scope: Scope, copies: Sequence[Copy]) -> None:
        await self._answer("put")
        self._of(scope).update({copy.id: copy for copy in copies})
        await asyncio.sleep(0)

    async def _put_vectors(self, scope: Scope, space: str, vectors: Mapping[str, Floats]) -> None:
        await self._answer("put_vectors")
        held = self._of(scope)
        for item_id in vectors.keys() & held.keys():
            copy = held[item_id]
            vector = vectors[item_id]
            held[item_id] = Copy(item=copy.item, is_extract=copy.is_extract, space=space, vector=vector)

    async def _remove(self, scope: Scope, ids: Sequence[str]) -> None:
        await self._answer("remove")
        for item_id in ids:
            self._of(scope).pop(item_id, None)

    async def _forget(self, scope: Scope) -> None:
        await self._answer("forget")
        self.shelf.pop(scope, None)

    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        await self._answer("search")
        return [
            copy.id
            for copy in self._of(scope).values()
            if copy.item.kind in sought.kinds
            and (sought.with_extracts or not copy.is_extract)
            and copy.item.is_of(sought.only)
            and not set(sought.stems).isdisjoint(self._tokenize(copy.words))
        ][: 2 * limit]

    async def _held(self, scope: Scope) -> dict[str, str]:
        await self._answer("held")
        return {copy.id: copy.digest for copy in self._of(scope).values()}

    async def _check(self) -> dict[str, Any]:
        await self._answer("check")
        return {"shelves": len(self.shelf)}

    async def _drop(self) -> None:
        await self._answer("drop")
        self.shelf.clear()


class OtherShelf(ShelfEngine):
    name = "other"

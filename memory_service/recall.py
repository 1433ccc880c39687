"""Retrieve: what one user's memory holds on a question.

The searchable items of recently active users are kept in memory (`Corpus`), brought up to date from the
store before each search, so a fact stored a moment ago is found; its vector follows when it is computed.
Where a store has indexes of its own, it narrows the memories that are too large to be read for that. Where engines are
to be asked (MEMORY_DRIVER), they narrow instead. Whoever narrows, what is found is told and ranked here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from cachetools import LRUCache

from memory_service.corpus import Corpus, Hit, Item
from memory_service.embedding import Embedding
from memory_service.engines import Engines
from memory_service.stores.base import CANDIDATES, Entries, Sought, Store
from memory_service.text import Tokenizer
from memory_service.values import Kind, Only, Scope, Value

logger = logging.getLogger(__name__)

T = TypeVar("T")

SEARCHED: tuple[Kind, ...] = ("message", "summary", "insight", "memory", "episode", "knowledge")
"""Kinds a search looks at unless told otherwise, extracts left out; chunks only repeat what messages say."""


class Retrieved(Value, frozen=True, kw_only=True):
    """Hits, best first; `degraded` names what the search had to do without."""

    hits: list[Hit]
    degraded: tuple[str, ...] = ()


class _Searchable:
    """One user's corpus and how far it has followed the store."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.begin("")

    def begin(self, space: str) -> None:
        """Know nothing yet, to be filled with what is there in a vector space."""
        self.corpus = Corpus()
        self.cursor: Any = None
        self.space = space


async def _known(answer: T) -> T:
    return answer


class Recall:
    def __init__(self, store: Store, embedding: Embedding, engines: Engines, *, cache_bytes: int) -> None:
        self._store = store
        self._embedding = embedding
        self._engines = engines
        self._cache: LRUCache[Scope, _Searchable] = LRUCache(cache_bytes, getsizeof=lambda kept: kept.corpus.size_bytes)
        self._tokenize = Tokenizer()
        self.searches = self.by_store = self.degraded = self.too_large = 0

    async def start(self, stack: AsyncExitStack) -> None:
        # one thread: the tokenizer is for one at a time, and numpy gains nothing from more on the same corpus
        self._thread = stack.enter_context(ThreadPoolExecutor(1, "recall"))

    async def retrieve(
        self,
        scope: Scope,
        question: str,
        limit: int,
        kinds: Collection[Kind] | None = None,
        only: Only | None = None,
        by_words: bool = False,
        drivers: Sequence[str] | None = None,
    ) -> Retrieved:
        """Return the items nearest to the question: of these kinds, or of all that say something of their own.

        The only request that waits for a model: the question is embedded; if that fails, keywords alone
        decide and the answer says so. `by_words`: they alone shall decide, and no model is asked. `drivers`: who is
        asked, in this order, before the record; those of the service unless told.
        """
        self.searches += 1
        only = only or Only()
        asked = self._engines.order if drivers is None else tuple(drivers)
        # the store would narrow to others than what is restricted
        narrows = _known(False) if asked or only != Only() else self._is_narrowed(scope)
        embedding = _known(None) if by_words else self._embedding.question(question)
        vector, narrowed = await asyncio.gather(embedding, narrows)
        sought = Sought(
            stems=tuple(await self._in_thread(self._tokenize.of_question, question)),
            vector=vector,
            space=self._embedding.space,
            kinds=SEARCHED if kinds is None else tuple(kinds),
            with_extracts=kinds is not None,
            question=question,
            only=only,
        )
        lacks_vector = vector is None and not by_words
        self.degraded += lacks_vector
        hits, driver_failed = await self._find(scope, sought, limit, asked, narrowed)
        without = (("vector", lacks_vector), ("driver", driver_failed))
        return Retrieved(hits=hits, degraded=tuple(name for name, lacks in without if lacks))

    async def _find(
        self, scope: Scope, sought: Sought, limit: int, drivers: Sequence[str], narrowed: bool
    ) -> tuple[list[Hit], bool]:
        """Ask the drivers, else the store if it narrows, else look through all that there is.

        Returns besides whether a driver failed.
        """
        most, failed = max(CANDIDATES, limit), False
        if drivers:
            found = await self._engines.narrow(scope, sought, most, drivers)
            if found.entries is not None:
                return await self._ranked(found.entries, sought, limit), found.failed
            failed = found.failed
        if narrowed:
            self.by_store += 1
            return await self._ranked(await self._store.candidates(scope, sought, most), sought, limit), failed
        return await self._in_corpus(scope, lambda corpus: self._search(corpus, sought, limit)), failed

    async def newest(self, scope: Scope, limit: int, only: Only | None = None) -> list[Item]:
        """Return what the memory of a user holds, newest first: all that says something of its own."""
        return await self._in_corpus(scope, lambda corpus: corpus.newest(SEARCHED, limit, only))

    async def _is_narrowed(self, scope: Scope) -> bool:
        """Whether the store narrows a user's memory to the question: not one that is here, whatever its size."""
        kept = self._cache.get(scope)
        is_here = kept is not None and kept.space == self._embedding.space
        return not is_here and await self._store.narrows(scope)

    async def _in_corpus(self, scope: Scope, look: Callable[[Corpus], list[T]]) -> list[T]:
        """Look into all that there is of a user, brought up to date."""
        searchable = self._searchable(scope)
        async with searchable.lock:
            await self._follow(scope, searchable)
            found: list[T] = await self._in_thread(look, searchable.corpus)
            return found

    async def _ranked(self, candidates: Entries, sought: Sought, limit: int) -> list[Hit]:
        """Rank what somebody has narrowed to, as everything of a user is where nobody does."""
        corpus = Corpus()
        await self._in_thread(self._add, corpus, candidates)
        hits: list[Hit] = await self._in_thread(self._search, corpus, sought, limit)
        return hits

    def _search(self, corpus: Corpus, sought: Sought, limit: int) -> list[Hit]:
        return corpus.search(
            sought.question,
            sought.stems,
            sought.vector,
            keyword_weight=self._embedding.keyword_weight,
            kinds=sought.kinds,
            limit=limit,
            with_extracts=sought.with_extracts,
            only=None if sought.only == Only() else sought.only,
        )

    def forget(self, scope: Scope) -> None:
        """Drop a user's corpus; it is built anew from the store when next asked for."""
        self._cache.pop(scope, None)

    def _searchable(self, scope: Scope) -> _Searchable:
        searchable = self._cache.get(scope)
        if searchable is None:
            searchable = self._cache[scope] = _Searchable()
        return searchable

    async def _follow(self, scope: Scope, searchable: _Searchable) -> None:
        """Bring a corpus up to what the store holds now."""
        if searchable.space != self._embedding.space:
            searchable.begin(self._embedding.space)
        more = True
        while more:
            entries = await self._store.entries(scope, searchable.cursor, searchable.space)
            if entries.turns or entries.memories or entries.vectors:
                await self._in_thread(self._add, searchable.corpus, entries)
            searchable.cursor, more = entries.cursor, entries.more
        if searchable.corpus.size_bytes <= self._cache.maxsize:
            self._cache[scope] = searchable  # set anew: its size has changed
        else:
            self.too_large += 1
            self._cache.pop(scope, None)  # not to be kept: the next search builds it anew

    def _add(self, corpus: Corpus, entries: Entries) -> None:
        for turn in entries.turns:
            corpus.add_turn(turn, self._tokenize)
        for memory in entries.memories:
            corpus.add_memory(memory, self._tokenize)
        for vector in entries.vectors:
            corpus.add_vector(vector)

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def stats(self) -> dict[str, Any]:
        return {
            "searched_by": self._store.searched_by,
            "searched_why": self._store.searched_why,
            "searches": self.searches,
            "searches_by_store": self.by_store,
            "degraded": self.degraded,
            "too_large_to_cache": self.too_large,
            "cached_users": len(self._cache),
            "cached_bytes": self._cache.currsize,
            **self._embedding.stats(),
        }

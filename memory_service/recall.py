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
from memory_service.query_cache import QueryCache, Seen
from memory_service.stores.base import CANDIDATES, Entries, Sought, Store
from memory_service.text import Tokenizer
from memory_service.values import Kind, Memory, Only, Scope, Value
from memory_service.weighed import State, Weighed

logger = logging.getLogger(__name__)

T = TypeVar("T")

SEARCHED: tuple[Kind, ...] = ("message", "summary", "insight", "memory", "episode", "knowledge")
"""Kinds a search looks at unless told otherwise, extracts left out; chunks only repeat what messages say."""


SMALL, FEW = 2000, 24
"""So many items are searched for so many words in half a millisecond: sooner than a thread is given the work, and takes
its turn.
"""
SHARE = 8
"""Of the bytes for what is held ready, one in so many is for memories that are weighed by themselves."""
LITTLE = 1500
"""So many characters are cut into words, or embedded, in less than that."""


class Retrieved(Value, frozen=True, kw_only=True):
    """Hits, best first; `degraded` names what the search had to do without."""

    hits: list[Hit]
    degraded: tuple[str, ...] = ()


class _Found(Value, frozen=True, kw_only=True):
    """What a search has found; `seen`: with all that the store held up to there, if that is known."""

    hits: list[Hit]
    seen: Seen | None = None
    driver_failed: bool = False


class _Searchable:
    """One user's corpus and how far it has followed the store."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.looks = self.followed = 0
        """Times that the store was asked what is new, and which of them was the last that told."""
        self.begin("")

    def begin(self, space: str) -> None:
        """Know nothing yet, to be filled with what is there in a vector space."""
        self.corpus = Corpus()
        self.cursor: Any = None
        self.space = space
        self.epoch: str | None = None


async def _known(answer: T) -> T:
    return answer


def _is_little(entries: Entries) -> bool:
    """Whether to take these in takes no longer than to hand them over."""
    items = len(entries.turns) + len(entries.memories)
    if max(items, len(entries.vectors)) > LITTLE // 100:
        return False
    said = sum(len(message.content) for turn in entries.turns for message in turn.messages)
    return said + sum(len(memory.text) for memory in entries.memories) <= LITTLE


class Recall:
    def __init__(
        self, store: Store, embedding: Embedding, engines: Engines, answers: QueryCache, *, cache_bytes: int
    ) -> None:
        self._store = store
        self._embedding = embedding
        self._engines, self._answers = engines, answers
        self._weighed_before: LRUCache[Scope, Weighed] = LRUCache(
            cache_bytes // SHARE, getsizeof=lambda kept: kept.size_bytes
        )
        self._cache: LRUCache[Scope, _Searchable] = LRUCache(
            cache_bytes - self._weighed_before.maxsize, getsizeof=lambda kept: kept.corpus.size_bytes
        )
        self.forgotten = 0
        """Times that something was forgotten: what was read before the last of them is not held."""
        # one for the thread and one for the loop: a tokenizer is for one at a time
        self._tokenize, self._tokenize_here = Tokenizer(), Tokenizer()
        self.searches = self.by_store = self.degraded = self.too_large = 0

    async def start(self, stack: AsyncExitStack) -> None:
        # one thread, for what is large: numpy gains nothing from more on the same corpus
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
        if only.min_trust != Only().min_trust:
            asked = ()  # of trust they know nothing: what they narrow to may be all that is not wanted
        wanted = SEARCHED if kinds is None else tuple(kinds)
        asked_for = (question, limit, wanted, kinds is None, only, by_words, asked)
        answered = await self._answers.find(scope, asked_for, self._embedding.space)
        if answered is not None:
            return Retrieved(hits=answered)
        narrows = None if asked or self._store.searched_by == "process" else self._is_narrowed(scope, only)
        embedding = _known(None) if by_words else self._embedding.question(question)
        vector, narrowed = (await asyncio.gather(embedding, narrows)) if narrows else (await embedding, False)
        sought = Sought(
            stems=await self._stems(question),
            vector=vector,
            space=self._embedding.space,
            kinds=wanted,
            with_extracts=kinds is not None,
            question=question,
            only=only,
        )
        lacks_vector = vector is None and not by_words
        self.degraded += lacks_vector
        found = await self._find(scope, sought, limit, asked, narrowed)
        degraded = ("vector",) * lacks_vector + ("driver",) * found.driver_failed
        if not degraded and found.seen is not None:
            await self._answers.keep(scope, asked_for, sought.space, found.seen, found.hits)
        return Retrieved(hits=found.hits, degraded=degraded)

    async def _stems(self, question: str) -> tuple[str, ...]:
        if len(question) <= LITTLE:
            return tuple(self._tokenize_here.of_question(question))
        return tuple(await self._in_thread(self._tokenize.of_question, question))

    async def _find(self, scope: Scope, sought: Sought, limit: int, drivers: Sequence[str], narrowed: bool) -> _Found:
        """Ask the drivers, else the store if it narrows, else look through all that there is."""
        most, failed = max(CANDIDATES, limit), False
        if drivers:
            driven = await self._engines.narrow(scope, sought, most, drivers)
            if driven.entries is not None:
                hits = await self._ranked(driven.entries, sought, limit)
                seen = Seen(cursor=driven.entries.cursor, epoch=driven.entries.epoch)
                return _Found(hits=hits, seen=seen, driver_failed=driven.failed)
            failed, narrowed = driven.failed, await self._is_narrowed(scope, sought.only)
        if narrowed:
            self.by_store += 1
            candidates = await self._store.candidates(scope, sought, most)
            return _Found(hits=await self._ranked(candidates, sought, limit), driver_failed=failed)
        words = len(sought.stems)
        hits, seen = await self._in_corpus(scope, lambda corpus: self._search(corpus, sought, limit), words)
        return _Found(hits=hits, seen=seen, driver_failed=failed)

    async def among(
        self, scope: Scope, memories: Sequence[Memory], question: str, limit: int, *, epoch: str, forgotten: int
    ) -> list[Hit]:
        """Return which of these memories of a user, all of one kind, are nearest to a question.

        Where all that there is of the user would have to be read for a search, these alone are weighed. `epoch` of the
        user and `forgotten` here: from before they were read.
        """
        kinds = tuple({memory.kind for memory in memories})
        if self._engines.order or self._is_here(scope) or await self._is_narrowed(scope, Only()):
            ids = {memory.memory_id for memory in memories}
            found = await self.retrieve(scope, question, limit, kinds)
            return [hit for hit in found.hits if hit.item.id in ids]
        sought = Sought(
            stems=await self._stems(question),
            vector=await self._embedding.question(question),
            space=self._embedding.space,
            kinds=kinds,
            with_extracts=True,
            question=question,
        )
        weighed = await self._weighed(scope, memories, State(sought.space, epoch))
        words = len(sought.stems)
        hits = await self._looked(lambda corpus: self._search(corpus, sought, limit), weighed.corpus, words)
        if forgotten == self.forgotten and weighed.size_bytes <= self._weighed_before.maxsize:
            self._weighed_before[scope] = weighed
        return hits

    async def _weighed(self, scope: Scope, memories: Sequence[Memory], state: State) -> Weighed:
        """These memories, ready to be searched: what was weighed of a user before is taken along."""
        weighed = self._weighed_before.pop(scope, None)  # nobody else's meanwhile, and gone if what follows is cut off
        if weighed is None or not weighed.is_worth_keeping(state, memories):
            weighed = Weighed(state)
        new = weighed.new(memories)
        vectors = await self._store.vectors(scope, weighed.without_vector(new), state.space)
        await self._take_in(weighed.corpus, Entries(turns=[], memories=new, vectors=vectors, cursor=None, more=False))
        weighed.follow(memories, new, vectors)
        return weighed

    async def newest(self, scope: Scope, limit: int, only: Only | None = None) -> list[Item]:
        """Return what the memory of a user holds, newest first: all that says something of its own."""
        items, _ = await self._in_corpus(scope, lambda corpus: corpus.newest(SEARCHED, limit, only))
        return items

    async def _is_narrowed(self, scope: Scope, only: Only) -> bool:
        """Whether the store narrows a user's memory to the question: not one that is here, whatever its size; and not
        where the search is restricted, for it would narrow to others.
        """
        return not self._is_here(scope) and only == Only() and await self._store.narrows(scope)

    def _is_here(self, scope: Scope) -> bool:
        kept = self._cache.get(scope)
        return kept is not None and kept.space == self._embedding.space

    async def _in_corpus(self, scope: Scope, look: Callable[[Corpus], list[T]], words: int = 0) -> tuple[list[T], Seen]:
        """Look into all that there is of a user, for so many words, once it is up to date; returns besides up to where.

        The store is asked once for all who wait here together: what it tells after they came holds for each of them.
        """
        searchable = self._searchable(scope)
        looks = searchable.looks
        async with searchable.lock:
            if searchable.followed <= looks or searchable.space != self._embedding.space:
                await self._follow(scope, searchable)
            seen = Seen(cursor=searchable.cursor, epoch=searchable.epoch or "")
            return await self._looked(look, searchable.corpus, words), seen

    async def _looked(self, look: Callable[[Corpus], list[T]], corpus: Corpus, words: int) -> list[T]:
        if len(corpus) <= SMALL and words <= FEW:
            return look(corpus)
        found: list[T] = await self._in_thread(look, corpus)
        return found

    async def _ranked(self, candidates: Entries, sought: Sought, limit: int) -> list[Hit]:
        """Rank what somebody has narrowed to, as everything of a user is where nobody does."""
        corpus = Corpus()
        await self._in_thread(self._add, corpus, candidates, self._tokenize)
        return await self._looked(lambda corpus: self._search(corpus, sought, limit), corpus, len(sought.stems))

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
        """Drop what is held of a user; it is built anew from the store when next asked for."""
        self.forgotten += 1
        self._cache.pop(scope, None)
        self._weighed_before.pop(scope, None)
        self._answers.forget(scope)

    def forget_answers(self) -> None:
        """Drop what was answered to everybody: those who are asked hold something else now."""
        self._answers.clear()

    def _searchable(self, scope: Scope) -> _Searchable:
        searchable = self._cache.get(scope)
        if searchable is None:
            searchable = self._cache[scope] = _Searchable()
        return searchable

    async def _follow(self, scope: Scope, searchable: _Searchable) -> None:
        """Bring a corpus up to what the store holds now."""
        if searchable.space != self._embedding.space:
            searchable.begin(self._embedding.space)
        searchable.looks = look = searchable.looks + 1
        more = True
        while more:
            entries = await self._store.entries(scope, searchable.cursor, searchable.space)
            if searchable.epoch not in (None, entries.epoch):  # something of it was erased
                searchable.begin(searchable.space)
                continue
            searchable.epoch = entries.epoch
            if entries.turns or entries.memories or entries.vectors:
                await self._take_in(searchable.corpus, entries)
            searchable.cursor, more = entries.cursor, entries.more
        searchable.followed = look
        if self._cache.get(scope) is not searchable:
            return  # it was forgotten meanwhile, and may hold what is to be forgotten
        if searchable.corpus.size_bytes <= self._cache.maxsize:
            self._cache[scope] = searchable  # set anew: its size has changed
        else:
            self.too_large += 1
            self._cache.pop(scope, None)  # not to be kept: the next search builds it anew

    async def _take_in(self, corpus: Corpus, entries: Entries) -> None:
        if len(corpus) <= SMALL and _is_little(entries):
            self._add(corpus, entries, self._tokenize_here)
        else:
            await self._in_thread(self._add, corpus, entries, self._tokenize)

    def _add(self, corpus: Corpus, entries: Entries, tokenize: Tokenizer) -> None:
        for turn in entries.turns:
            corpus.add_turn(turn, tokenize)
        for memory in entries.memories:
            corpus.add_memory(memory, tokenize)
        corpus.add_vectors(entries.vectors)

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def stats(self) -> dict[str, Any]:
        return {
            "searched_by": self._store.searched_by,
            "searched_why": self._store.searched_why,
            "searches": self.searches,
            "searches_by_store": self.by_store,
            "searches_repeated": self._answers.hits,
            "searches_repeated_of_others": self._answers.hits_of_others,
            "degraded": self.degraded,
            "too_large_to_cache": self.too_large,
            "cached_users": len(self._cache),
            "cached_bytes": self._cache.currsize + self._weighed_before.currsize,
            **self._embedding.stats(),
        }

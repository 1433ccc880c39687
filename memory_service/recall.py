"""Retrieve: what one user's memory holds on a question. And embedding, in the background, what is new.

The searchable items of recently active users are kept in memory (`Corpus`), brought up to date from the
store before each search, so a fact stored a moment ago is found; its vector follows when it is computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from cachetools import LRUCache

from memory_service.corpus import Corpus, Hit
from memory_service.errors import ModelError
from memory_service.llm.base import Embedder
from memory_service.stores.base import Commit, Entries, Store
from memory_service.text import LONGEST_KEY, Tokenizer, embedding_key
from memory_service.values import Kind, Scope, Unembedded, Value, Vector, turn_item_id

logger = logging.getLogger(__name__)

SEARCHED: tuple[Kind, ...] = ("message", "summary", "insight", "memory", "episode", "knowledge")
"""Kinds a search looks at unless told otherwise, extracts left out; chunks only repeat what messages say."""
EMBEDDED_AT_ONCE = 128
GATHER_S = 0.05
LONGEST_REST_S = 1.0


class Retrieved(Value, frozen=True, kw_only=True):
    """Hits, best first; `degraded` names what the search had to do without."""

    hits: list[Hit]
    degraded: tuple[str, ...] = ()


class _Searchable:
    """One user's corpus and how far it has followed the store."""

    def __init__(self) -> None:
        self.corpus = Corpus()
        self.cursor: Any = None
        self.lock = asyncio.Lock()


class Recall:
    def __init__(self, store: Store, embedder: Embedder, *, cache_bytes: int, gather_s: float = GATHER_S) -> None:
        self._store = store
        self._gather_s = gather_s
        self._embedder = embedder
        self._cache: LRUCache[Scope, _Searchable] = LRUCache(cache_bytes, getsizeof=lambda kept: kept.corpus.size_bytes)
        self._tokenize = Tokenizer()
        self.searches = self.embedded = self.degraded = self.too_large = 0

    async def start(self, stack: AsyncExitStack) -> None:
        # one thread: the tokenizer is for one at a time, and numpy gains nothing from more on the same corpus
        self._thread = stack.enter_context(ThreadPoolExecutor(1, "recall"))

    async def retrieve(
        self, scope: Scope, question: str, limit: int, kinds: Collection[Kind] | None = None
    ) -> Retrieved:
        """Return the items nearest to the question: of these kinds, or of all that say something of their own.

        The only request that waits for a model: the question is embedded; if that fails, keywords alone
        decide and the answer says so.
        """
        self.searches += 1
        degraded: tuple[str, ...] = ()
        try:
            vector = (await self._embedder.embed([question]))[0]
        except ModelError as exc:
            logger.warning("search without vectors", extra={"reason": exc.code})
            self.degraded += 1
            vector, degraded = None, ("vector",)
        searchable = self._searchable(scope)
        async with searchable.lock:
            await self._follow(scope, searchable)
            hits = await self._in_thread(self._search, searchable.corpus, question, vector, kinds, limit)
        return Retrieved(hits=hits, degraded=degraded)

    def _search(
        self, corpus: Corpus, question: str, vector: Any, kinds: Collection[Kind] | None, limit: int
    ) -> list[Hit]:
        return corpus.search(
            question,
            self._tokenize.of_question(question),
            vector,
            keyword_weight=self._embedder.keyword_weight,
            kinds=SEARCHED if kinds is None else kinds,
            limit=limit,
            with_extracts=kinds is not None,
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
        more = True
        while more:
            entries = await self._store.entries(scope, searchable.cursor, self._embedder.space)
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

    async def embed_due(self) -> None:
        """Give vectors to everything that has none in the present space. May be cut off anywhere, and run twice.

        In no hurry: it lets turns gather, and works half of the time, so that requests are not held up.
        """
        await asyncio.sleep(self._gather_s)
        while due := await self._store.due_vectors(self._embedder.space, EMBEDDED_AT_ONCE):
            began = time.monotonic()
            keys = [_keys(item) for item in due]
            rows = await self._embedder.embed([key for of_item in keys for key in of_item])
            vectors: dict[Scope, list[Vector]] = defaultdict(list)
            start = 0
            for item, of_item in zip(due, keys, strict=True):
                data = rows[start : start + len(of_item)].tobytes()
                start += len(of_item)
                vectors[item.scope].append(
                    Vector(item_id=_item_id(item), token=item.token, space=self._embedder.space, data=data)
                )
            await asyncio.gather(
                *(self._store.commit(Commit(scope=scope, vectors=tuple(own))) for scope, own in vectors.items())
            )
            self.embedded += len(due)
            await asyncio.sleep(min(time.monotonic() - began, LONGEST_REST_S))

    def stats(self) -> dict[str, Any]:
        return {
            "searches": self.searches,
            "degraded": self.degraded,
            "embedded": self.embedded,
            "too_large_to_cache": self.too_large,
            "cached_users": len(self._cache),
            "cached_bytes": self._cache.currsize,
            "vector_space": self._embedder.space,
        }


def _item_id(item: Unembedded) -> str:
    if item.turn is not None:
        return turn_item_id(item.turn.session_id, item.turn.seq)
    assert item.memory is not None
    return item.memory.memory_id


def _keys(item: Unembedded) -> Sequence[str]:
    if item.turn is not None:
        return [embedding_key(message.role, message.name, message.content) for message in item.turn.messages]
    assert item.memory is not None
    return [item.memory.text[:LONGEST_KEY]]

"""Vectors: of a question at once, of everything stored in the background.

An embedder that fails is left alone for a while; what has no vector yet is in the store, and the next turn or
sweep asks again. A text that the embedder will not take, though it takes plain words, holds up no other: it is
given zeros and is found by its keywords.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from memory_service.breaker import Breaker
from memory_service.errors import BadModelOutput, ModelError, ModelRefused, ModelUnavailable
from memory_service.llm.base import Embedder
from memory_service.stores.base import Commit, Store
from memory_service.text import LONGEST_KEY, embedding_key
from memory_service.values import Scope, Unembedded, Vector, turn_item_id

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
    from numpy.typing import NDArray
else:
    from memory_service.late import np

logger = logging.getLogger(__name__)

EMBEDDED_AT_ONCE = 128
GATHER_S = 0.2
LONGEST_REST_S = 1.0
PATIENCE_S = 10.0
"""For so long what was rung for gives way to requests; then it is done in any case, or it would pile up."""
PLAIN_WORDS = "hello"
UNKNOWN = "unknown"


Outcome = Literal["done", "failed", "gave way"]


class Embedding:
    """`clean` is done to every text before it is embedded; `busy` tells whether requests need the time themselves."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        breaker: Breaker,
        *,
        gather_s: float = GATHER_S,
        clean: Callable[[str], str] = str,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gather_s, self._clean, self._busy, self._clock = gather_s, clean, busy, clock
        self._store, self._embedder, self._breaker = store, embedder, breaker
        self.keyword_weight = embedder.keyword_weight
        self._at_once = EMBEDDED_AT_ONCE
        self._rung: set[Scope] = set()
        self._rung_at_s = 0.0
        """When the first of them was rung for."""
        self._alone = asyncio.Lock()
        self.embedded = self.refused = self.failed = 0

    @property
    def space(self) -> str:
        """Name of the present vector space; one that holds nothing as long as the embedder has not answered."""
        return self._embedder.space or UNKNOWN

    @property
    def known_space(self) -> str:
        """Its name; empty as long as the embedder has not answered."""
        return self._embedder.space or ""

    async def question(self, text: str) -> NDArray[np.float32] | None:
        """Return the vector of a question; None if the embedder fails, or failed a moment ago."""
        if self._breaker.wait_s():
            return None
        try:
            with self._breaker.watched():
                rows = await self._embedder.embed([self._clean(text)])
        except ModelError as exc:
            logger.warning("search without vectors", extra={"reason": exc.code})
            return None
        vector: NDArray[np.float32] = rows[0]
        return vector

    async def at_once(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors of texts; None if the embedder is not a local one, or fails."""
        if not self._embedder.local:
            return None
        try:
            return await self._embedder.embed(texts)
        except ModelError:
            return None

    def ring(self, scope: Scope) -> None:
        """Note that a user has something new, for the next `embed_rung`."""
        if not self._rung:
            self._rung_at_s = self._clock()
        self._rung.add(scope)

    async def embed_rung(self) -> bool:
        """Give vectors to what the users have that were rung for; a store need not be looked through for it.

        Returns whether it gave way to requests before it was done: to be called again as soon as they leave time.
        """
        await asyncio.sleep(self._gather_s)
        users, rung_at_s = tuple(self._rung), self._rung_at_s
        self._rung.clear()
        if not users:
            return False
        outcome = await self._embed(users, lambda: self._busy() and self._clock() - rung_at_s < PATIENCE_S)
        if outcome != "done":
            self._rung.update(users)
            self._rung_at_s = rung_at_s
        return outcome == "gave way"

    async def embed_due(self) -> None:
        """Give vectors to everything that has none in the present space. May be cut off anywhere, and run twice."""
        await asyncio.sleep(self._gather_s)
        await self._embed(None)

    async def _embed(self, users: tuple[Scope, ...] | None, gives_way: Callable[[], bool] = lambda: False) -> Outcome:
        """Embed what is due of these users, or of all: until it is done, the embedder fails, or it has to give way.

        In no hurry: it lets turns gather, and works half of the time, so that requests are not held up.
        """
        async with self._alone:
            return await self._embed_in_batches(users, gives_way)

    async def _embed_in_batches(self, users: tuple[Scope, ...] | None, gives_way: Callable[[], bool]) -> Outcome:
        while not gives_way():
            due = await self._store.due_vectors(self.space, asked := self._at_once, users)
            if not due:
                return "done"
            if self._breaker.wait_s():
                return "failed"
            began = time.monotonic()
            keys = await asyncio.to_thread(self._keys, due)
            try:
                with self._breaker.watched():
                    if self._embedder.space is None:
                        await self._width()
                        continue  # now it is known what is due
                    texts = [key for of_item in keys for key in of_item]
                    rows = await self._rows(texts) if texts else np.zeros((0, 0), np.float32)
            except ModelError as exc:
                logger.warning("embedding failed", extra={"reason": exc.code})
                self.failed += 1
                self._at_once = max(self._at_once // 2, 1)  # it may be slow, and get through fewer in its time
                return "failed"
            self._at_once = min(self._at_once * 2, EMBEDDED_AT_ONCE)
            await self._keep(due, [len(of_item) for of_item in keys], rows)
            if users is not None and len(due) < asked:
                return "done"  # what came meanwhile has rung again
            await asyncio.sleep(min(time.monotonic() - began, LONGEST_REST_S))
        return "gave way"

    def _keys(self, due: Sequence[Unembedded]) -> list[list[str]]:
        return [[self._clean(key) for key in _keys(item)] for item in due]

    async def _rows(self, texts: Sequence[str], width: int = 0) -> NDArray[np.float32]:
        """Embed texts, in ever smaller parts if some are refused; zeros for those that are refused alone."""
        try:
            return await self._embedder.embed(texts)
        except (BadModelOutput, ModelRefused):
            width = width or await self._width()
        if len(texts) == 1:
            self.refused += 1
            return np.zeros((1, width), np.float32)
        middle = len(texts) // 2
        halves = [await self._rows(texts[:middle], width), await self._rows(texts[middle:], width)]
        if halves[0].shape[1] != halves[1].shape[1]:
            raise ModelUnavailable("the embedder changed its dimensions meanwhile")
        return np.concatenate(halves)

    async def _width(self) -> int:
        """Make sure that the embedder is well, so that it is the text it will not take; returns its dimensions."""
        try:
            width: int = (await self._embedder.embed([PLAIN_WORDS])).shape[1]
        except (BadModelOutput, ModelRefused) as exc:
            raise ModelUnavailable("the embedder has no usable vector for plain words either") from exc
        return width

    async def _keep(self, due: list[Unembedded], counts: list[int], rows: NDArray[np.float32]) -> None:
        vectors: dict[Scope, list[Vector]] = defaultdict(list)
        start, space = 0, self.space
        for item, count in zip(due, counts, strict=True):
            data = rows[start : start + count].tobytes()
            start += count
            vector = Vector(item_id=_item_id(item), token=item.token, space=space, data=data, texts=count)
            vectors[item.scope].append(vector)
        await asyncio.gather(
            *(self._store.commit(Commit(scope=scope, vectors=tuple(own))) for scope, own in vectors.items())
        )
        self.embedded += len(due)

    def stats(self) -> dict[str, Any]:
        return {
            "embedded": self.embedded,
            "embedding_failures": self.failed,
            "texts_refused": self.refused,
            "embedder": self._breaker.state,
            "vector_space": self.space,
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
    return [item.memory.text[:LONGEST_KEY]] if item.memory.text else []  # of a deleted one there is nothing to embed

"""Memories that were stored as an extract of what was said: written anew by a model, in the background.

What is to be written says so in its row. A failed attempt leaves it there for the next round; what somebody changed or
deleted meanwhile stays as they made it. May be cut off anywhere, and run twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from memory_service.breaker import Breaker
from memory_service.errors import ModelError, ModelUnavailable, StaleVersion
from memory_service.llm.base import Reader
from memory_service.reading import parts_of
from memory_service.redaction import Redactor
from memory_service.stores.base import Commit, Store
from memory_service.stores.gateway import Unrefined
from memory_service.text import LONGEST_KEY
from memory_service.values import EXTRACTIVE, Memory, Message, Scope, Turn

logger = logging.getLogger(__name__)

REFINED_AT_ONCE = 50
MOST_ATTEMPTS = 3
"""After so many answers that were of no use the extract stays. A model that does not answer may be asked for ever."""


class Refiner:
    """Nothing is refined where there is no model: then the extract is all there is."""

    def __init__(
        self, store: Store, reader: Reader, breaker: Breaker, redactor: Redactor, *, now: Callable[[], datetime]
    ) -> None:
        self._store, self._reader, self._breaker, self._redactor, self._now = store, reader, breaker, redactor, now
        self.wanted = reader.name != EXTRACTIVE
        self.refined = self.failed = self.given_up = 0

    async def refine_due(self, changed: Callable[[Scope], None]) -> None:
        """Write what is due, unless the model is to be left alone; `changed` is told whose memories are other ones."""
        more = self.wanted
        while more:
            due = await self._store.due_memories(REFINED_AT_ONCE)
            refined = 0
            for item in due:
                if self._breaker.wait_s():
                    return
                refined += await self._refine(item, changed)
            more = refined > 0 and len(due) == REFINED_AT_ONCE

    async def _refine(self, item: Unrefined, changed: Callable[[Scope], None]) -> bool:
        """Write one; returns whether it is done with."""
        try:
            text = await self._written(item.memory)
        except ModelUnavailable as exc:
            return self._failed(exc)  # of the next one the model may know more
        except ModelError as exc:
            self._failed(exc)
            return await self._put(item, self._tried(item.memory), changed)
        self.refined += 1
        return await self._put(item, self._done(item.memory, text), changed)

    async def _written(self, memory: Memory) -> str:
        text = ""
        said = as_turns(_of(memory), memory.created_at)
        for part in parts_of([*map(self._redactor.turn, said)]):
            with self._breaker.watched():
                text = await self._reader.compact(text, part)
        return text

    def _failed(self, reason: ModelError) -> bool:
        logger.warning("a memory was not refined", extra={"reason": reason.code})
        self.failed += 1
        return False

    def _tried(self, memory: Memory) -> Memory:
        assert memory.rough is not None
        tried = replace(memory.rough, attempts=memory.rough.attempts + 1)
        if tried.attempts < MOST_ATTEMPTS:
            return replace(memory, rough=tried)
        self.given_up += 1
        return replace(memory, rough=None)

    def _done(self, memory: Memory, text: str) -> Memory:
        return replace(
            memory,
            text=text[:LONGEST_KEY],
            model=self._reader.name,
            prompt_version=self._reader.prompt_version,
            updated_at=self._now(),
            rough=None,
        )

    async def _put(self, item: Unrefined, memory: Memory, changed: Callable[[Scope], None]) -> bool:
        with suppress(StaleVersion):  # somebody changed or deleted it meanwhile
            await self._store.commit(Commit(scope=item.scope, memories=(memory,), unchanged=(item.memory,)))
            changed(item.scope)
        return memory.rough is None

    def stats(self) -> dict[str, Any]:
        return {"refined": self.refined, "failed_attempts": self.failed, "given_up": self.given_up}


def as_turns(messages: Sequence[Message], at: datetime) -> list[Turn]:
    """Messages of no session, as what reads conversations takes them."""
    return [
        Turn(session_id="", seq=seq, turn_id="", messages=(message,), created_at=at, received_at=at)
        for seq, message in enumerate(messages, 1)
    ]


def _of(memory: Memory) -> Sequence[Message]:
    assert memory.rough is not None
    return memory.rough.messages

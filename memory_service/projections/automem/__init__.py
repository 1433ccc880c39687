"""AutoMem as an engine: memories of a graph with vectors, behind an HTTP API.

It makes its own ids, so what is put is first deleted by its tag, then stored: doing it twice is doing it once. A user's
memories are told from all others by a tag that each search must have; what AutoMem adds to an answer by its own lights
is passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Self
from urllib.parse import quote

import httpx2
import msgspec

from memory_service.errors import DriverUnavailable, UnsafeStart
from memory_service.projections.automem.api import TAGS_A_URL, Api, Refused, TokenRefused, Unusable
from memory_service.projections.automem.copies import (
    EVERYTHING,
    Mark,
    bears,
    held_of,
    item_tag,
    mark_of,
    memories_of,
    own_tag,
    place_tag,
    user_tag,
)
from memory_service.projections.base import LONGEST_WRITE_S, SEARCH_S, WRITE_S, Copy, NotTaken, Projection
from memory_service.settings import Settings
from memory_service.stores.base import Sought
from memory_service.values import Scope

logger = logging.getLogger(__name__)

CALLS_A_WRITE = 10
"""How many times as long as one answer a write may take: it asks several times."""
MEMORIES_A_CALL, BYTES_A_CALL = 100, 1_000_000
"""AutoMem takes 500, but embeds them before it answers."""
PAGE = 200
MOST_RESULTS = 100
LONGEST_QUESTION, MOST_EXCLUDED = 1500, 25
"""Bytes of a question in the URL and excluded tags beside it; of more tags the results are looked at here."""
NOBODY = "ams-nobody"


class AutoMem(Projection):
    """`refused` counts memories that AutoMem did not take: of their users it lacks something as long as it does not."""

    name = "automem"
    native_errors: ClassVar[tuple[type[Exception], ...]] = (httpx2.HTTPError, Unusable)

    def __init__(self, api: Api, timeout_s: float) -> None:
        write_s = min(max(WRITE_S, CALLS_A_WRITE * timeout_s), LONGEST_WRITE_S)
        super().__init__(search_s=min(SEARCH_S, timeout_s), write_s=write_s)
        self._api = api
        self._said = ""
        self.refused = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        timeout_s = settings.automem_timeout
        return cls(Api(settings.automem_url, settings.automem_api_token.get_secret_value(), timeout_s), timeout_s)

    async def start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._api.close)
        try:
            async with asyncio.timeout(self._search_s):
                await self._api.tagged(NOBODY, limit=1)
        except TokenRefused:
            raise UnsafeStart("AUTOMEM_API_TOKEN: AutoMem refuses the token, or none was given") from None
        except self.native_errors + (TimeoutError,) as exc:  # noqa: RUF005 (mypy reads no unpacking here)
            logger.warning(
                "AutoMem does not answer: it is asked again when it is needed",
                extra={"driver": self.name, "reason": type(exc).__name__},
            )

    @asynccontextmanager
    async def _asked(self, limit_s: float) -> AsyncIterator[None]:
        """Tell also what AutoMem answered, which may be for an operator to mend; also while it is left alone for it."""
        try:
            async with super()._asked(limit_s):
                yield
        except NotTaken:
            raise
        except DriverUnavailable as exc:
            cause = exc.__cause__
            if cause is not None:
                self._said = f": {cause}" if isinstance(cause, Unusable) else ""
            raise DriverUnavailable(f"{exc}{self._said}") from cause

    async def _put(self, scope: Scope, copies: Sequence[Copy]) -> None:
        latest = {copy.id: copy for copy in copies}
        await self._remove(scope, list(latest))
        refused = 0
        for batch in _batches(memory for copy in latest.values() for memory in memories_of(scope, copy)):
            refused += await self._stored(batch)
        if refused:
            self.refused += refused
            facts = {"driver": self.name, "refused": refused}
            logger.warning("AutoMem refuses memories; the record answers in their stead", extra=facts)
            raise NotTaken("AutoMem refuses some of it")

    async def _stored(self, memories: list[bytes]) -> int:
        """Store all but those that AutoMem refuses; returns how many these are. It takes all of a batch or none."""
        try:
            await self._api.store(memories)
        except Refused:
            if len(memories) == 1:
                return 1
            half = len(memories) // 2
            return await self._stored(memories[:half]) + await self._stored(memories[half:])
        return 0

    async def _remove(self, scope: Scope, ids: Sequence[str]) -> None:
        tags = [item_tag(scope, id) for id in ids]
        for first in range(0, len(tags), TAGS_A_URL):
            await self._api.delete(tags[first : first + TAGS_A_URL])

    async def _forget(self, scope: Scope) -> None:
        await self._api.delete([user_tag(scope)])

    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        places, excluded = _places(scope, sought), [own_tag(scope, tag) for tag in sorted(sought.only.without_tags)]
        asked: dict[str, Any] = {
            # twice as many: several may be pieces of one text
            "limit": MOST_RESULTS if excluded else min(MOST_RESULTS, 2 * limit),
            "tags": places,
            "tag_mode": "any",
            "tag_match": "exact",
            "adaptive_floor": "false",
        }
        question = _sendable(sought.question or " ".join(sought.stems))
        asked |= {"query": question} if question else {}
        asked |= {"exclude_tags": excluded[:MOST_EXCLUDED]} if excluded else {}
        answer = await self._api.recall(asked)
        memories = (result.memory for result in answer.results)
        wanted = (m for m in memories if bears(m, set(places)) and not bears(m, set(excluded)))
        ids = dict.fromkeys(mark.item_id for mark in _marks(scope, wanted))
        return list(ids)[: 2 * limit]

    async def _held(self, scope: Scope) -> dict[str, str]:
        marks: list[Mark] = []
        offset, has_more = 0, True
        while has_more:
            page = await self._api.tagged(user_tag(scope), limit=PAGE, offset=offset)
            marks += _marks(scope, page.memories)
            offset, has_more = offset + len(page.memories), page.has_more and bool(page.memories)
        return held_of(marks)

    async def _check(self) -> dict[str, Any]:
        """Tell its health as it does itself; whether it can be asked at all, a question tells that needs the token."""
        health = await self._api.health()
        await self._api.tagged(NOBODY, limit=1)
        return {**msgspec.to_builtins(health), "refused": self.refused}

    async def _drop(self) -> None:
        await self._api.delete([EVERYTHING])


def _places(scope: Scope, sought: Sought) -> list[str]:
    only = sought.only
    return [
        place_tag(scope, kind, is_extract, only.session_id, only.category)
        for kind in sought.kinds
        for is_extract in ((False, True) if sought.with_extracts else (False,))
    ]


def _marks(scope: Scope, memories: Iterable[dict[str, Any]]) -> Iterator[Mark]:
    return (mark for memory in memories if (mark := mark_of(scope, memory)) is not None)


def _batches(memories: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for memory in memories:
        if batch and (len(batch) == MEMORIES_A_CALL or size + len(memory) > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append(memory)
        size += len(memory)
    if batch:
        yield batch


def _sendable(question: str) -> str:
    """Return the beginning of a question, as much as fits into a URL."""
    words = question.strip()[:LONGEST_QUESTION]
    while len(quote(words)) > LONGEST_QUESTION:
        words = words[: len(words) * 9 // 10]
    return words.strip()

"""What a store with indexes of its own keeps of an item to find it by, and who searches where there is one.

Such a store only narrows: what comes back is ranked as everywhere, by words and exact vectors. So what is indexed
depends on no formula and on no model:

`words`: the stems of an item, each once, spelled so that whatever the database does to words leaves them alone.
`direction`: one vector of 256 numbers for an item, whatever its own are.

Should one of the two ever have to be made otherwise, it needs another name: a record is searched by its store only
where it was written with both.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import cache
from hashlib import blake2b, shake_256
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_service.errors import UnsafeStart
from memory_service.settings import SearchedBy
from memory_service.text import Tokenizer
from memory_service.values import Memory, Turn, Vector, turn_item_id

logger = logging.getLogger(__name__)

T = TypeVar("T")
Floats = NDArray[np.float32]
Columns = dict[str, Any]

DIMENSIONS = 256
MOST_WORDS = 20_000
"""Different words of an item that are indexed: some 200 KB. In Cosmos DB an item has 2 MB at most, with its text and
vectors."""
MOST_TERMS = 30
"""Words of a question that are asked for. Each makes it dearer. How many a Cosmos DB account takes we found nowhere
documented: a start asks for as many.
"""
READ_WHOLE_TURNS = 500
"""A memory of up to so many turns is read whole; docs/explanation/recall.md has what that costs beside a search."""
LONGEST_PLAIN = 24
SHORT = 4000
"""Characters that are split at once: a third of a millisecond."""
STEPS = 1000
"""Directions are written as whole numbers, of this length in all: three digits are enough to narrow by."""


def decided(wanted: SearchedBy, lacking: str) -> tuple[Literal["process", "store"], str]:
    """Who narrows, and why so, in words for those who run the service.

    `lacking`: what the store would need to do it; empty where it can. Raises UnsafeStart where it must and cannot.
    """
    if wanted == "process":
        return "process", "STORE_SEARCH=process"
    if not lacking:
        whom = f"users with more than {READ_WHOLE_TURNS} turns" if wanted == "auto" else "all users"
        return "store", f"STORE_SEARCH={wanted}: {whom}"
    if wanted == "store":
        raise UnsafeStart(f"STORE_SEARCH=store: {lacking}")
    logger.warning("the store does not search", extra={"reason": lacking})
    return "process", lacking


def word_of(stem: str) -> str:
    """Spell a stem for the database: letters and digits that are one word to any tokenizer.

    No English ending and no stop word ends in q, so nothing is taken off it and it is not passed over.
    """
    plain = stem.isascii() and stem.isalnum() and len(stem) <= LONGEST_PLAIN
    return f"{stem if plain else blake2b(stem.encode(), digest_size=4).hexdigest()}q"


def words_of(stems: Iterable[str]) -> str:
    return " ".join(list(dict.fromkeys(map(word_of, stems)))[:MOST_WORDS])


def terms_of(stems: Sequence[str]) -> list[str]:
    """Words to ask for: if there are too many, the longest, for these are the rarest."""
    words = dict.fromkeys(map(word_of, sorted(stems, key=len, reverse=True)))
    return list(words)[:MOST_TERMS]


@cache
def _signs(dimensions: int) -> Floats:
    """The directions onto which vectors of so many dimensions are projected: the same in all versions, for ever."""
    drawn = shake_256(b"directions of memory").digest(dimensions * DIMENSIONS // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(dimensions, DIMENSIONS)
    return bits.astype(np.float32) * 2 - 1


def direction_of(rows: Floats) -> list[int] | None:
    """Where an item's vectors point to on the average, in 256 numbers; None if that is nowhere."""
    mean = rows.mean(axis=0, dtype=np.float64)
    if len(mean) != DIMENSIONS:
        mean = mean @ _signs(len(mean))
    length = float(np.linalg.norm(mean))
    if not 0 < length < np.inf:
        return None
    numbers: list[int] = np.rint(mean * (STEPS / length)).astype(int).tolist()
    return numbers


def _words_of_turn(turn: Turn, tokenize: Tokenizer) -> str:
    return words_of(stem for said in turn.messages for stem in tokenize(f"{said.speaker}: {said.content}"))


def _columns_of_memory(memory: Memory, tokenize: Tokenizer) -> Columns:
    return {"words": words_of(tokenize(memory.text)), "extract": memory.is_extract}


def _columns(turns: Sequence[Turn], memories: Sequence[Memory], tokenize: Tokenizer) -> dict[str, Columns]:
    of_turns = {turn_item_id(turn.session_id, turn.seq): {"words": _words_of_turn(turn, tokenize)} for turn in turns}
    return of_turns | {memory.memory_id: _columns_of_memory(memory, tokenize) for memory in memories}


class Splitting:
    """Does what needs a tokenizer: with short texts at once, with long ones not on the event loop, one at a time, and
    short ones do not queue behind them."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()

    def start(self, stack: AsyncExitStack) -> None:
        self._tokenize, self._tokenize_long = Tokenizer(), Tokenizer()  # each for one thread at a time
        stack.callback(self._close)

    def _close(self) -> None:
        del self._tokenize, self._tokenize_long

    async def run(self, characters: int, work: Callable[[Tokenizer], T]) -> T:
        if characters <= SHORT:
            return work(self._tokenize)
        return await asyncio.to_thread(self._run_long, work, self._tokenize_long)

    def _run_long(self, work: Callable[[Tokenizer], T], tokenize: Tokenizer) -> T:
        with self._one_at_a_time:
            return work(tokenize)


class Index:
    """Makes what is written beside an item to find it by: nothing unless the store keeps an index."""

    def __init__(self) -> None:
        self.kept = False
        self._splitting = Splitting()

    def start(self, stack: AsyncExitStack) -> None:
        self._splitting.start(stack)
        stack.callback(self._close)

    def _close(self) -> None:
        self.kept = False

    async def columns(self, turns: Sequence[Turn], memories: Sequence[Memory]) -> dict[str, Columns]:
        """By item."""
        if not self.kept or not (turns or memories):
            return {}
        said = sum(len(message.content) for turn in turns for message in turn.messages)
        remembered = sum(len(memory.text) for memory in memories)
        return await self._splitting.run(said + remembered, lambda tokenize: _columns(turns, memories, tokenize))

    def direction(self, vector: Vector) -> Columns:
        """The column of an item. It takes the place of that of another space even if there is none."""
        if not self.kept:
            return {}
        numbers = np.frombuffer(vector.data, np.float32)
        whole = len(numbers) and len(numbers) % vector.texts == 0
        return {"direction": direction_of(numbers.reshape(vector.texts, -1)) if whole else None}

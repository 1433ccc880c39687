"""The account's own search: what it indexes of an item, and the questions that narrow a user's memory by it.

It only narrows: what comes back is ranked as everywhere, by words and exact vectors. So what is indexed depends on no
formula and on no model:

`words`: the stems of an item, each once, spelled so that whatever the account does to words leaves them alone.
`direction`: one vector of 256 numbers for an item, whatever its own are.

Should one of the two ever have to be made otherwise, it needs another name: a container is searched by the account only
if it was made with both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import cache
from hashlib import blake2b, shake_256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_service.errors import StoreUnavailable
from memory_service.stores.base import Commit, Entries, Sought
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.containers import DIMENSIONS, Names
from memory_service.stores.cosmos.documents import (
    Document,
    item_id_of,
    memory_of,
    owner_of,
    turn_of,
    vector_of,
    vector_property,
)
from memory_service.text import Tokenizer
from memory_service.values import EXTRACTIVE, KINDS, Memory, Scope, Turn, Vector, turn_item_id

Floats = NDArray[np.float32]

MOST_WORDS = 20_000
"""Different words of an item that are indexed: some 200 KB. An item has 2 MB at most, with its text and vectors."""
MOST_TERMS = 30
"""Words of a question that are asked for. Each makes it dearer. How many an account takes we found nowhere documented:
a start asks for as many.
"""
READ_WHOLE_TURNS = 500
"""A memory of up to so many turns is read whole: with what was learned from them that costs what one search by the
account does, some 220 RU, and each search after it 3. To read more pays only for who searches again soon.
"""
LONGEST_PLAIN = 24
STEPS = 1000
"""Directions are written as whole numbers, of this length in all: three digits are enough to narrow by."""


# What is indexed


def word_of(stem: str) -> str:
    """Spell a stem for the account: letters and digits that are one word to any tokenizer.

    No English ending and no stop word ends in q, so nothing is taken off it and it is not passed over.
    """
    plain = stem.isascii() and stem.isalnum() and len(stem) <= LONGEST_PLAIN
    return f"{stem if plain else blake2b(stem.encode(), digest_size=4).hexdigest()}q"


def words_of(stems: Iterable[str]) -> str:
    return " ".join(list(dict.fromkeys(map(word_of, stems)))[:MOST_WORDS])


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


def _turn_columns(turn: Turn, tokenize: Tokenizer) -> Document:
    stems = (stem for said in turn.messages for stem in tokenize(f"{said.speaker}: {said.content}"))
    return {"words": words_of(stems), "texts": len(turn.messages)}


def _memory_columns(memory: Memory, tokenize: Tokenizer) -> Document:
    return {"words": words_of(tokenize(memory.text)), "extract": memory.model == EXTRACTIVE}


class Index:
    """What is written beside an item for the account to find it by: nothing unless its containers index it."""

    def __init__(self) -> None:
        self.kept = False
        self._one_at_a_time = threading.Lock()

    def start(self, stack: AsyncExitStack) -> None:
        self._tokenize = Tokenizer()
        stack.callback(self._close)

    def _close(self) -> None:
        self.kept = False
        del self._tokenize

    async def columns(self, commit: Commit) -> dict[str, Document]:
        """By item. Long texts take long to split: not on the event loop."""
        if not self.kept or not (commit.turns or commit.memories):
            return {}
        return await asyncio.to_thread(self._columns, commit, self._tokenize)

    def _columns(self, commit: Commit, tokenize: Tokenizer) -> dict[str, Document]:
        with self._one_at_a_time:
            turns = {turn_item_id(turn.session_id, turn.seq): _turn_columns(turn, tokenize) for turn in commit.turns}
            return turns | {memory.memory_id: _memory_columns(memory, tokenize) for memory in commit.memories}

    def direction(self, vector: Vector, texts: int) -> Document:
        """The column of an item of so many texts. It takes the place of that of another space even if there is none."""
        if not self.kept:
            return {}
        numbers = np.frombuffer(vector.data, np.float32)
        whole = len(numbers) and len(numbers) % texts == 0
        return {"direction": direction_of(numbers.reshape(texts, -1)) if whole else None}


# What is asked


class Search:
    """Narrows one user's memory by the account's indexes."""

    def __init__(self, client: Client, names: Names) -> None:
        self._client = client
        self._names = names

    async def refusal(self) -> str:
        """Ask of nobody's memory as much as a search may ask; returns why the account would not answer it, if so."""
        stems = tuple(f"word{number}" for number in range(MOST_TERMS))
        nobody = Sought(stems=stems, vector=np.ones(DIMENSIONS, np.float32), space="", kinds=KINDS)
        try:
            await self.candidates(Scope(user_id="", tenant_id=""), nobody, 1)
        except StoreUnavailable as exc:
            return f"the account refused a search: {exc}"
        return ""

    async def is_large(self, scope: Scope) -> bool:
        """Whether a memory is dearer to read whole than to narrow. The index counts, in one request."""
        sql = "SELECT VALUE COUNT(1) FROM c WHERE c.type = 'turn'"
        counts: list[Any] = await self._client.rows("narrows", self._names.interactions, sql, owner=owner_of(scope))
        return bool(sum(counts) > READ_WHOLE_TURNS)  # a sum: a page may count but a part

    async def candidates(self, scope: Scope, sought: Sought, limit: int) -> Entries:
        """The best of each container by words, and the best by vector.

        Without a vector also the turns beside those found: it is what answers them that a vector finds, and words do
        not. docs/explanation/recall.md has the figures.
        """
        owner = owner_of(scope)
        asked = (self._asked(name, where, sought, owner, limit) for name, where in self._places(sought))
        rows = [row for found in await asyncio.gather(*asked) for row in found]
        if sought.vector is None:
            rows += await self._beside(rows, sought, owner)
        rows.sort(key=lambda row: int(row["written"]))  # of one that changed between two answers the later is kept
        return _entries({item_id_of(row): row for row in rows}, sought.space)

    def _places(self, sought: Sought) -> Iterator[tuple[str, str]]:
        """Containers that may hold what is sought, with what it must be there."""
        if "message" in sought.kinds:
            yield self._names.interactions, "c.type = 'turn'"
        kinds = ", ".join(f"'{kind}'" for kind in sought.kinds if kind != "message")
        if kinds:
            where = f"c.type = 'memory' AND c.current = true AND c.kind IN ({kinds})"
            for name in self._names.of_memories:
                yield name, where if sought.with_extracts else f"{where} AND c.extract = false"

    async def _asked(self, name: str, where: str, sought: Sought, owner: str, limit: int) -> list[Document]:
        begin = f"SELECT TOP {int(limit)} {_columns(sought.space)} FROM c WHERE {where}"
        asked = []
        if sought.stems:
            asked.append(self._by_words(name, begin, _terms(sought.stems), owner))
        if sought.vector is not None and (direction := direction_of(sought.vector.reshape(1, -1))):
            asked.append(self._by_vector(name, begin, direction, sought.space, owner))
        return [row for found in await asyncio.gather(*asked) for row in found]

    async def _by_words(self, name: str, begin: str, terms: str, owner: str) -> list[Document]:
        # The terms stand in the query itself, which `word_of` makes harmless: with parameters the SDK may fail to see
        # that this query needs a plan.
        sql = f"{begin} AND FullTextContainsAny(c.words, {terms}) ORDER BY RANK FullTextScore(c.words, {terms})"
        # How rare a word is, is counted among what the user has, not among what strangers said.
        return await self._client.rows("candidates", name, sql, owner=owner, full_text_score_scope="Local")

    async def _by_vector(self, name: str, begin: str, direction: list[int], space: str, owner: str) -> list[Document]:
        sql = f"{begin} AND c.space = @space ORDER BY VectorDistance(c.direction, @direction)"
        values: Document = {"space": space, "direction": direction}
        return await self._client.rows("candidates", name, sql, values, owner)

    async def _beside(self, rows: list[Document], sought: Sought, owner: str) -> list[Document]:
        """The turns before and after those found."""
        wanted: dict[str, set[int]] = {}
        for row in rows:
            if row["type"] == "turn":
                wanted.setdefault(row["session"], set()).update((row["seq"] - 1, row["seq"] + 1))
        if not wanted:
            return []
        places: list[str] = []
        values: Document = {}
        for number, (session, seqs) in enumerate(wanted.items()):
            places.append(f"(c.session = @s{number} AND ARRAY_CONTAINS(@n{number}, c.seq))")
            values |= {f"s{number}": session, f"n{number}": sorted(seqs)}
        sql = f"SELECT {_columns(sought.space)} FROM c WHERE c.type = 'turn' AND ({' OR '.join(places)})"
        return await self._client.rows("candidates", self._names.interactions, sql, values, owner)


def _columns(space: str) -> str:
    return f"c.type, c.session, c.seq, c.name, c.written, c.body, c.{vector_property(space)}"


def _terms(stems: Sequence[str]) -> str:
    """The longest, for these are the rarest."""
    words = dict.fromkeys(map(word_of, sorted(stems, key=len, reverse=True)))
    return ", ".join(f"'{word}'" for word in list(words)[:MOST_TERMS])


def _entries(found: dict[str, Document], space: str) -> Entries:
    turns = [turn_of(row) for row in found.values() if row["type"] == "turn"]
    memories = [memory_of(row) for row in found.values() if row["type"] == "memory"]
    vectors: list[Any] = [vector_of(row, space) for row in found.values()]
    return Entries(
        turns=sorted(turns, key=lambda turn: (turn.session_id, turn.seq)),
        memories=memories,
        vectors=[vector for vector in vectors if vector is not None],
        cursor=None,
        more=False,
    )

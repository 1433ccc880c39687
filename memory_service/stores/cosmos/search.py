"""The questions that narrow a user's memory by the account's own indexes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from memory_service.errors import StoreUnavailable
from memory_service.stores import indexing
from memory_service.stores.base import Entries, Sought
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import (
    Document,
    item_id_of,
    memory_id,
    memory_of,
    owner_of,
    turn_of,
    vector_of,
    vector_property,
)
from memory_service.stores.indexing import DIMENSIONS, MOST_TERMS, direction_of, terms_of
from memory_service.values import KINDS, Scope


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
        return bool(sum(counts) > indexing.READ_WHOLE_TURNS)  # a sum: a page may count but a part

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
        return await self._turns_at("candidates", wanted, sought.space, owner)

    async def items(self, scope: Scope, item_ids: Sequence[str], space: str) -> Entries:
        """Turns and memories by their names among searchable items."""
        owner = owner_of(scope)
        wanted: dict[str, set[int]] = {}
        ids: dict[str, list[str]] = {}
        for item_id in item_ids:
            session_id, _, seq = item_id.rpartition("#")
            if session_id and seq.isdecimal():
                wanted.setdefault(session_id, set()).add(int(seq))
            else:
                ids.setdefault(self._names.of_memory(item_id), []).append(memory_id(item_id))
        sql = f"SELECT {_columns(space)} FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"
        found = await asyncio.gather(
            self._turns_at("items", wanted, space, owner),
            *(self._client.rows("items", name, sql, {"ids": named}, owner) for name, named in ids.items()),
        )
        return _entries({item_id_of(row): row for rows in found for row in rows}, space)

    async def _turns_at(self, verb: str, wanted: dict[str, set[int]], space: str, owner: str) -> list[Document]:
        """Turns by their places in their sessions."""
        if not wanted:
            return []
        places: list[str] = []
        values: Document = {}
        for number, (session, seqs) in enumerate(wanted.items()):
            places.append(f"(c.session = @s{number} AND ARRAY_CONTAINS(@n{number}, c.seq))")
            values |= {f"s{number}": session, f"n{number}": sorted(seqs)}
        sql = f"SELECT {_columns(space)} FROM c WHERE c.type = 'turn' AND ({' OR '.join(places)})"
        return await self._client.rows(verb, self._names.interactions, sql, values, owner)


def _columns(space: str) -> str:
    return f"c.type, c.session, c.seq, c.name, c.written, c.body, c.{vector_property(space)}"


def _terms(stems: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in terms_of(stems))


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

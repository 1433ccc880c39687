"""One commit in Cosmos DB: one transactional batch, conditioned on versions, and what its outcome was.

What has to be together is in one partition of one container: the head, turns, sittings, the request's name. Memories
are in containers of their own, out of a batch's reach. They are written first: their ids come from their origin, so a
commit that is done again writes them again; one that is going to be refused is found out by a look before.

Every batch may be sent again: its conditions let it take effect once. What it finds then is its own effect, which the
commit's mark on its first document tells from another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any
from uuid import uuid4

import msgspec

from memory_service.errors import ContentTooLarge, MemoryServiceError, StaleVersion
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn
from memory_service.stores.bodies import micros
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.client import MOST_BYTES, Client, Refused
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.search import Index
from memory_service.values import Memory, Request, Session, Sitting, Vector, effect_of, turn_item_id

MOST_OPERATIONS = 100
PART_BYTES = 900_000
"""Of what need not be written together: larger bodies hold up the loop while they are sent."""

VERB = "commit"
Operation = tuple[Any, ...]
Step = tuple[Operation, type[MemoryServiceError]]
"""An operation of a batch, and what it means if it is the one that is refused."""


class Commits:
    def __init__(self, client: Client, names: Names, index: Index) -> None:
        self._client = client
        self._names = names
        self._index = index
        self.stamps = doc.Stamps()
        self.count = 0
        self.newest_request = 0
        """When the newest request of all that were committed here was made: older names end with time."""

    async def write(self, commit: Commit) -> None:
        owner = doc.owner_of(commit.scope)
        indexed = await self._index.columns(commit)
        if commit.memories:
            if commit.session is not None or commit.sittings:
                await self._look_before(commit, owner)
            await self._write_memories(commit.memories, owner, indexed)
        if commit.session is not None or commit.sittings:
            await self._write_together(commit, owner, indexed)
        if commit.vectors:
            await self._write_vectors(commit.vectors, owner)
        self.count += 1

    # Memories

    async def _look_before(self, commit: Commit, owner: str) -> None:
        """Raise what the batch would be refused with, so that no memory of it is written."""
        sql = "SELECT c.id, c.version, c.made FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"
        names = [doc.head_id(commit.session.session_id)] if commit.session else []
        names += [doc.sitting_id(sitting) for sitting in commit.sittings]
        names += [doc.turn_id(turn.session_id, turn.turn_id) for turn in commit.turns]
        names += [doc.request_id(commit.request.key)] if commit.request else []
        rows = await self._client.rows(VERB, self._names.interactions, sql, {"ids": names}, owner)
        held = {row["id"]: row for row in rows}
        if commit.request and _is_kept(held.get(doc.request_id(commit.request.key)), commit.request):
            raise DuplicateRequest
        versioned: list[tuple[str, Session | Sitting]] = [(doc.sitting_id(s), s) for s in commit.sittings]
        if commit.session:
            versioned.append((doc.head_id(commit.session.session_id), commit.session))
        if any(held.get(name, {}).get("version", 0) != value.version - 1 for name, value in versioned):
            raise StaleVersion
        if any(doc.turn_id(turn.session_id, turn.turn_id) in held for turn in commit.turns):
            raise DuplicateTurn

    async def _write_memories(self, memories: Sequence[Memory], owner: str, indexed: dict[str, Document]) -> None:
        by_container: dict[str, list[Operation]] = {}
        for memory in memories:
            columns = indexed.get(memory.memory_id, {})
            document = {"owner": owner, **doc.memory_document(memory, self.stamps.next()), **columns}
            by_container.setdefault(self._names.of_memory(memory.memory_id), []).append(("upsert", (document,)))
        await asyncio.gather(*(self.send_in_parts(name, own, owner) for name, own in by_container.items()))

    async def send_in_parts(self, container: str, operations: list[Operation], owner: str) -> None:
        """Write what need not be written together."""
        for part in _parts(operations):
            await self._send(container, part, owner)

    async def _send(self, container: str, operations: list[Operation], owner: str) -> None:
        # The SDK takes the conditions out of what it is given: sent once more as it is, a batch would have none.
        if sum(map(_bytes, operations)) > MOST_BYTES:
            raise ContentTooLarge(MOST_BYTES)
        await self._client.call(VERB, container, lambda items: items.execute_item_batch(deepcopy(operations), owner))

    # The batch

    async def _write_together(
        self, commit: Commit, owner: str, indexed: dict[str, Document], former_name: Document | None = None
    ) -> None:
        """`indexed`: columns to find turns by. `former_name`: of a request so long ago that its name is free again."""
        mark = uuid4().hex
        steps = list(self._steps(commit, owner, mark, indexed, former_name))
        if len(steps) > MOST_OPERATIONS:
            raise ContentTooLarge(MOST_BYTES)
        if commit.request is not None:
            self.newest_request = max(self.newest_request, micros(commit.request.made_at))
        try:
            await self._send(self._names.interactions, [operation for operation, _ in steps], owner)
        except Refused as refused:
            meaning = steps[refused.index][1]
            if await self._stands(steps[-1 if commit.turns else 0][0], mark, owner):
                return
            if meaning is DuplicateRequest and commit.request is not None and former_name is None:
                name = doc.request_id(commit.request.key)
                held = await self._client.find(VERB, self._names.interactions, name, owner)
                if held is not None and not _is_kept(held, commit.request):
                    await self._write_together(commit, owner, indexed, held)
                    return
            raise meaning from refused

    def _steps(
        self, commit: Commit, owner: str, mark: str, indexed: dict[str, Document], former_name: Document | None
    ) -> Iterator[Step]:
        """In this order a refusal names the first of the reasons there are."""
        marked = {"owner": owner, "commit": mark}
        if commit.request is not None:
            name = {**doc.request_document(commit.request, effect_of(commit.request, commit.turns[0])), **marked}
            yield _create(name) if former_name is None else _replace(name, former_name), DuplicateRequest
        if commit.session is not None:
            head = commit.session
            whole = {**doc.head_document(head), **marked}
            yield _versioned(head.version, whole, {**doc.head_columns(head), "commit": mark}), StaleVersion
        for sitting in commit.sittings:
            whole = {**doc.sitting_document(sitting, commit.scope.tenant_id), **marked}
            yield _versioned(sitting.version, whole, {**doc.sitting_columns(sitting), "commit": mark}), StaleVersion
        for turn in commit.turns:
            columns = indexed.get(turn_item_id(turn.session_id, turn.seq), {})
            yield _create({**doc.turn_document(turn, self.stamps.next()), **columns, **marked}), DuplicateTurn

    async def _stands(self, operation: Operation, mark: str, owner: str) -> bool:
        """Whether a batch that was refused had taken effect before, and its answer was lost.

        A turn is never written over, so its mark is for good. Of a head or a sitting that somebody changed since it
        cannot be told: then it counts as refused.
        """
        named = operation[1][0]
        name = named["id"] if isinstance(named, dict) else named
        held = await self._client.find(VERB, self._names.interactions, name, owner)
        return held is not None and held.get("commit") == mark

    # Vectors

    async def _write_vectors(self, vectors: Sequence[Vector], owner: str) -> None:
        turns = await self._turns_of([vector for vector in vectors if "#" in vector.item_id], owner)
        by_container: dict[str, list[Operation]] = {}
        for vector in vectors:
            memory: Document = {"id": doc.memory_id(vector.item_id)}
            item = turns.get(vector.item_id) if "#" in vector.item_id else memory
            if item is not None:
                columns = {**doc.vector_columns(vector), **self._index.direction(vector, item.get("texts", 1))}
                patch = _patch(item["id"], columns, f"c.written = {vector.token}")
                by_container.setdefault(self._names.of_item(vector.item_id), []).append(patch)
        for container, operations in by_container.items():
            await self.send_each(operations, container, owner)

    async def _turns_of(self, vectors: Sequence[Vector], owner: str) -> dict[str, Document]:
        """Documents of turns, without bodies: a vector names its turn by its number, they are by its `turn_id`."""
        if not vectors:
            return {}
        columns = "c.id, c.type, c.session, c.seq, c.texts"
        sql = f"SELECT {columns} FROM c WHERE c.type = 'turn' AND ARRAY_CONTAINS(@tokens, c.written)"
        tokens = {"tokens": [vector.token for vector in vectors]}
        rows = await self._client.rows(VERB, self._names.interactions, sql, tokens, owner)
        return {doc.item_id_of(row): row for row in rows}

    async def send_each(self, operations: list[Operation], container: str, owner: str) -> None:
        """Do those that can be done: a vector's item is still as it was, a document to delete is still there."""
        for part in _parts(operations):
            while part:
                try:
                    await self._send(container, part, owner)
                except Refused as refused:
                    del part[refused.index]
                else:
                    break


def _is_kept(held: Document | None, request: Request) -> bool:
    return held is not None and held["made"] >= micros(request.made_at - REQUESTS_KEPT)


def _create(whole: Document) -> Operation:
    return "create", (whole,)


def _replace(whole: Document, former: Document) -> Operation:
    return "replace", (whole["id"], whole), {"if_match_etag": former["_etag"]}


def _versioned(version: int, whole: Document, columns: Document) -> Operation:
    """Write what has this version in place of the one before it."""
    if version == 1:
        return _create(whole)
    return _patch(whole["id"], columns, f"c.version = {version - 1}")


def _patch(name: str, columns: Document, condition: str) -> Operation:
    changes = [{"op": "set", "path": f"/{column}", "value": value} for column, value in columns.items()]
    return "patch", (name, changes), {"filter_predicate": f"FROM c WHERE {condition}"}


def _parts(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Cut what need not be written together into batches."""
    part: list[Operation] = []
    size = 0
    for operation in operations:
        more = _bytes(operation)
        if part and (len(part) == MOST_OPERATIONS or size + more > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(operation)
        size += more
    if part:
        yield part


def _bytes(operation: Operation) -> int:
    return len(msgspec.json.encode(operation)) + 100

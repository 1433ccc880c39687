"""Memories of a commit: written before its batch, which cannot reach them, and taken back if that is refused.

Each bears the mark of the commit that wrote it. One that goes with a batch is written on condition that it is still as
it was read, so that what is taken back is never what another commit has written meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.batches import VERB, Operation
from memory_service.stores.cosmos.client import Client, Refused
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.values import Memory

T = TypeVar("T")

logger = logging.getLogger(__name__)

ATTEMPTS = 5
Held = dict[str, Document]
"""Documents of memories by their id; `indexed`: parts of them, by that of the memory."""


class Memories:
    def __init__(self, client: Client, names: Names, stamps: doc.Stamps) -> None:
        self._client, self._names, self._stamps = client, names, stamps

    async def held(self, memories: Iterable[Memory], owner: str) -> Held:
        """Read what is there under the ids of these."""
        sql = "SELECT * FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"

        async def ask(container: str, ids: list[str]) -> list[Document]:
            return await self._client.rows(VERB, container, sql, {"ids": ids}, owner)

        ids = self._by_container(memories, _id)
        found = await asyncio.gather(*(ask(container, of_it) for container, of_it in ids.items()))
        return {document["id"]: document for documents in found for document in documents}

    async def put(self, memories: Sequence[Memory], owner: str, indexed: Held) -> None:
        """Write them, whatever is there."""
        await self._write(memories, owner, lambda memory: ("upsert", (self._document(memory, owner, indexed),)))

    async def put_in_place_of(
        self, former: Held, memories: Sequence[Memory], owner: str, mark: str, indexed: Held
    ) -> bool:
        """Write them if all is as it was; returns whether they are written. Otherwise some of them may be."""

        def operation(memory: Memory) -> Operation:
            whole = {**self._document(memory, owner, indexed), "commit": mark}
            before = former.get(whole["id"])
            return batches.replace(whole, before) if before else batches.create(whole)

        try:
            await self._write(memories, owner, operation)
        except Refused:  # by another's, or by our own after an answer that was lost
            held = await self.held(memories, owner)
            return all(held.get(_id(memory), {}).get("commit") == mark for memory in memories)
        return True

    async def take_back(self, former: Held, memories: Sequence[Memory], owner: str, mark: str) -> None:
        """Make it as it was before `put_in_place_of`, but for what another commit wrote since."""
        for _ in range(ATTEMPTS):
            with suppress(Refused):  # one was given its vector meanwhile, or written by another
                await self._try_to_take_back(former, memories, owner, mark)
                return
        logger.warning("memories of a refused commit stay", extra={"count": len(memories)})

    async def _try_to_take_back(self, former: Held, memories: Sequence[Memory], owner: str, mark: str) -> None:
        held = await self.held(memories, owner)

        def operation(memory: Memory) -> Operation:
            before, ours = former.get(_id(memory)), held[_id(memory)]
            if before is None:
                return batches.delete(ours)
            return batches.replace(doc.own_of(before), ours)

        ours = [memory for memory in memories if held.get(_id(memory), {}).get("commit") == mark]
        await self._write(ours, owner, operation)

    async def _write(self, memories: Sequence[Memory], owner: str, operation: Callable[[Memory], Operation]) -> None:
        async def write(container: str, operations: list[Operation]) -> None:
            await batches.send_in_parts(self._client, container, operations, owner)

        by_container = self._by_container(memories, operation)
        outcomes = await asyncio.gather(*(write(*own) for own in by_container.items()), return_exceptions=True)
        for outcome in outcomes:  # looked at when all have settled: none is still being written
            if outcome is not None:
                raise outcome

    def _by_container(self, memories: Iterable[Memory], made: Callable[[Memory], T]) -> dict[str, list[T]]:
        found: dict[str, list[T]] = {}
        for memory in memories:
            found.setdefault(self._names.of_memory(memory.memory_id), []).append(made(memory))
        return found

    def _document(self, memory: Memory, owner: str, indexed: Held) -> Document:
        found_by = indexed.get(memory.memory_id, {})
        return {"owner": owner, **doc.memory_document(memory, self._stamps.next()), **found_by}


def _id(memory: Memory) -> str:
    return doc.memory_id(memory.memory_id)

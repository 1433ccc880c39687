"""One commit in Cosmos DB: one transactional batch, conditioned on versions, and what its outcome was.

What has to be together is in one partition of one container: the head, turns, sittings, the request's name. Memories
are in containers of their own, out of a batch's reach. They are written first: their ids come from their origin, so a
commit that was cut off is done again and writes them again; those of one that is refused are taken back.

Every batch may be sent again: its conditions let it take effect once. What it finds then may be its own effect, which
the commit's mark tells from another's: on a turn, which is never written over, or on a receipt where there is none.

At most a hundred documents are written together. No verb makes that many: a turn, a head, a sitting, a name and a
receipt go with one another, and whoever writes more sittings (`replay`) or turns does so in several commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from memory_service.errors import MemoryServiceError, StaleVersion
from memory_service.points import Point, nowhere
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn
from memory_service.stores.bodies import micros, require_unchanged
from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.batches import VERB, Operation
from memory_service.stores.cosmos.client import Client, Refused
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.memories import ATTEMPTS, Memories
from memory_service.stores.indexing import Index
from memory_service.values import Request, Session, Sitting, Vector, effect_of, turn_item_id

REFUSALS = (StaleVersion, DuplicateTurn, DuplicateRequest)
Step = tuple[Operation, type[MemoryServiceError]]
"""An operation of a batch, and what it means if it is the one that is refused."""


@dataclass(frozen=True)
class Writing:
    """A commit on its way: whose it is, its mark, and by item the bodies of turns and what it is found by."""

    commit: Commit
    owner: str
    indexed: dict[str, Document]
    bodies: dict[str, str]
    mark: str = field(default_factory=lambda: uuid4().hex)


class Commits:
    def __init__(self, client: Client, names: Names, index: Index, point: Point = nowhere) -> None:
        self._client = client
        self._names = names
        self._index = index
        self._point = point
        self.stamps = doc.Stamps()
        self._memories = Memories(client, names, self.stamps)
        self.count = 0
        self.newest_request = 0
        """When the newest request of all that were committed here was made: older names end with time."""

    async def write(self, commit: Commit) -> None:
        indexed = await self._index.columns(commit.turns, commit.memories)
        writing = Writing(commit, doc.owner_of(commit.scope), indexed, await doc.bodies_of(commit.turns))
        self._point("before_commit")
        if commit.session is None and not commit.sittings:
            await self._require_epoch(commit, writing.owner)
        if commit.session is None and not commit.sittings and not commit.is_conditional:
            await self._memories.put(commit.memories, writing.owner, writing.indexed)
        elif commit.memories:
            await self._write_after_memories(writing)
        else:
            await self._write_together(writing)
        if commit.vectors:
            await self._write_vectors(commit.vectors, writing.owner)
        self._point("after_commit")
        self.count += 1

    # Memories and what goes with them

    async def _write_after_memories(self, writing: Writing) -> None:
        owner, mark = writing.owner, writing.mark
        memories = list({memory.memory_id: memory for memory in writing.commit.memories}.values())
        batches.require_room([operation for operation, _ in self._steps(writing, None)])
        for _ in range(ATTEMPTS):
            await self._look_before(writing.commit, owner)
            former = await self._memories.held(memories, owner)
            for read in writing.commit.unchanged:
                held = former.get(doc.memory_id(read.memory_id))
                require_unchanged(read, doc.memory_of(held) if held else None)
            if any(doc.memory_id(name) in former for name in writing.commit.absent):
                raise StaleVersion
            try:
                if await self._memories.put_in_place_of(former, memories, owner, mark, writing.indexed):
                    self._point("after_memories")
                    return await self._write_together(writing)
            except REFUSALS:
                await self._memories.take_back(former, memories, owner, mark)
                raise
            await self._memories.take_back(former, memories, owner, mark)
        raise StaleVersion  # others write the same memories all the time

    async def _look_before(self, commit: Commit, owner: str) -> None:
        """Raise what the batch would be refused with, so that no memory of it is written."""
        await self._require_epoch(commit, owner)
        sql = "SELECT c.id, c.version, c.made FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"
        names = [doc.head_id(commit.session.session_id)] if commit.session else []
        names += [doc.sitting_id(sitting) for sitting in commit.sittings]
        names += [doc.turn_id(turn.session_id, turn.turn_id) for turn in commit.turns]
        names += [doc.request_id(commit.request.key)] if commit.request else []
        rows = await self._client.rows(VERB, self._names.interactions, sql, {"ids": names}, owner)
        held = {row["id"]: row for row in rows}
        if commit.request and _is_kept(held.get(doc.request_id(commit.request.key)), commit.request):
            raise DuplicateRequest
        versions: list[tuple[str, Session | Sitting]] = [(doc.sitting_id(s), s) for s in commit.sittings]
        if commit.session:
            versions.append((doc.head_id(commit.session.session_id), commit.session))
        if any(held.get(name, {}).get("version", 0) != value.version - 1 for name, value in versions):
            raise StaleVersion
        if any(doc.turn_id(turn.session_id, turn.turn_id) in held for turn in commit.turns):
            raise DuplicateTurn

    # The batch

    async def _write_together(self, writing: Writing, former_name: Document | None = None) -> None:
        """`former_name`: of a request so long ago that its name is free again."""
        commit, owner = writing.commit, writing.owner
        steps = list(self._steps(writing, former_name))
        if commit.request is not None:
            self.newest_request = max(self.newest_request, micros(commit.request.made_at))
        operations = [operation for operation, _ in steps]
        try:
            await batches.send(self._client, self._names.interactions, operations, owner)
        except Refused as refused:
            meaning = steps[refused.index][1]
            if await self._stands(operations[-1], writing.mark, owner):
                return
            if meaning is DuplicateRequest and commit.request is not None and former_name is None:
                name = doc.request_id(commit.request.key)
                held = await self._client.find(VERB, self._names.interactions, name, owner)
                if held is not None and not _is_kept(held, commit.request):
                    await self._write_together(writing, held)
                    return
            raise meaning from refused

    def _steps(self, writing: Writing, former_name: Document | None) -> Iterator[Step]:
        """In this order a refusal names the first of the reasons there are. The last creates what bears the mark."""
        commit, marked = writing.commit, {"owner": writing.owner, "commit": writing.mark}
        for operation in self._in_epoch(writing):
            yield operation, StaleVersion
        if commit.request is not None:
            name = {**doc.request_document(commit.request, effect_of(commit.request, commit.turns[0])), **marked}
            yield batches.create(name) if former_name is None else batches.replace(name, former_name), DuplicateRequest
        if commit.session is not None:
            head = commit.session
            whole = {**doc.head_document(head), **marked}
            yield batches.versioned(head.version, whole, doc.head_columns(head), doc.lineage_of(head)), StaleVersion
        for sitting in commit.sittings:
            whole = {**doc.sitting_document(sitting, commit.scope.tenant_id), **marked}
            yield batches.versioned(sitting.version, whole, doc.sitting_columns(sitting)), StaleVersion
        for turn in commit.turns:
            item_id = turn_item_id(turn.session_id, turn.seq)
            found_by = writing.indexed.get(item_id, {})
            whole = doc.turn_document(turn, self.stamps.next(), writing.bodies[item_id])
            yield batches.create({**whole, **found_by, **marked}), DuplicateTurn
        if not commit.turns:
            yield batches.create({**doc.receipt_document(writing.mark), **marked}), StaleVersion

    def _in_epoch(self, writing: Writing) -> list[Operation]:
        """Operations that are refused if the epoch is another, and change nothing."""
        epoch = writing.commit.epoch
        if epoch == doc.FIRST_EPOCH:  # which has no document: there must be room for one
            return [batches.create({**doc.epoch_document(epoch), "owner": writing.owner}), ("delete", (doc.EPOCH_ID,))]
        if not epoch:
            return []
        return [batches.patch(doc.EPOCH_ID, {"epoch": epoch}, f"c.epoch = {doc.quoted(epoch)}")]

    async def _require_epoch(self, commit: Commit, owner: str) -> None:
        """For what is in no batch with it. Raises StaleVersion."""
        if commit.epoch and await self.epoch(owner) != commit.epoch:
            raise StaleVersion

    async def epoch(self, owner: str) -> str:
        held = await self._client.find("epoch", self._names.interactions, doc.EPOCH_ID, owner)
        return str(held["epoch"]) if held else doc.FIRST_EPOCH

    async def _stands(self, last: Operation, mark: str, owner: str) -> bool:
        """Whether a batch that was refused had taken effect before, and its answer was lost."""
        name = last[1][0]["id"]
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
                columns = {**doc.vector_columns(vector), **self._index.direction(vector)}
                patch = batches.patch(item["id"], columns, f"c.written = {vector.token}")
                by_container.setdefault(self._names.of_item(vector.item_id), []).append(patch)
        for container, operations in by_container.items():
            # of those whose item is no longer as it was the words are gone
            await batches.send_each(self._client, container, operations, owner)

    async def _turns_of(self, vectors: Sequence[Vector], owner: str) -> dict[str, Document]:
        """Documents of turns, without bodies: a vector names its turn by its number, they are by its `turn_id`."""
        if not vectors:
            return {}
        columns = "c.id, c.type, c.session, c.seq"
        sql = f"SELECT {columns} FROM c WHERE c.type = 'turn' AND ARRAY_CONTAINS(@tokens, c.written)"
        tokens = {"tokens": [vector.token for vector in vectors]}
        rows = await self._client.rows(VERB, self._names.interactions, sql, tokens, owner)
        return {doc.item_id_of(row): row for row in rows}


def _is_kept(held: Document | None, request: Request) -> bool:
    return held is not None and held["made"] >= micros(request.made_at - REQUESTS_KEPT)

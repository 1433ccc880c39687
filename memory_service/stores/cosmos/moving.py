"""All that is kept of a user: out of the containers, and into them; and who the users are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from heapq import merge
from itertools import islice
from typing import Any

from memory_service.stores.base import Commit
from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.batches import Operation
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.commits import Commits
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.mirrors import OF_USERS
from memory_service.stores.exports import Exported, Exports, Users, exported_item
from memory_service.stores.indexing import Index
from memory_service.values import Scope, Session

Cursor = tuple[int, Any]
"""Which of the steps, and where to go on in it."""
Found = tuple[list[Document], Any]
"""What a step gives, and where to go on in it; None behind its last."""

OF_TYPE = "SELECT * FROM c WHERE c.type = @type"
BY_SESSION, AS_WRITTEN = f"{OF_TYPE} ORDER BY c.session", f"{OF_TYPE} ORDER BY c.written"


def _of_head(document: Document) -> Exported:
    return Exported(session=doc.session_of(document))


def _of_sitting(document: Document) -> Exported:
    return Exported(sitting=doc.sitting_of(document))


def _of_request(document: Document) -> Exported:
    return Exported(request=doc.request_of(document), effect=doc.effect_of(document))


def _of_item(document: Document) -> Exported:
    value = doc.turn_of(document) if document["type"] == "turn" else doc.memory_of(document)
    vector = doc.vector_of(document, document["space"])
    return exported_item(value, document["space"], vector.data if vector else None)


class Moving:
    def __init__(self, client: Client, names: Names, commits: Commits, index: Index) -> None:
        self._client, self._names, self._commits, self._index = client, names, commits, index
        self._steps: Sequence[tuple[Callable[[str, Any, int], Awaitable[Found]], Callable[[Document], Exported]]] = (
            (self._heads, _of_head),
            (self._sittings, _of_sitting),
            (self._requests, _of_request),
            (self._turns, _of_item),
            (self._memories, _of_item),
        )

    async def users(self, cursor: tuple[int, str] | None, limit: int) -> Users:
        """Owners container by container; those of an earlier container were given there."""
        number, after = cursor or (0, "")
        where = f"c.owner > @after AND {OF_USERS}"
        sql = f"SELECT TOP {int(limit)} c.owner FROM c WHERE {where} ORDER BY c.owner"
        rows = await self._client.rows("users", self._names.all[number], sql, {"after": after})
        owners = list(dict.fromkeys(row["owner"] for row in rows))
        given = await self._in_earlier(number, owners)
        scopes = [doc.scope_of({"owner": owner}) for owner in owners if owner not in given]
        if owners:
            return Users(scopes=scopes, cursor=(number, owners[-1]), more=True)
        more = number + 1 < len(self._names.all)
        return Users(scopes=scopes, cursor=(number + 1, "") if more else (number, after), more=more)

    async def _in_earlier(self, number: int, owners: list[str]) -> set[str]:
        sql = f"SELECT DISTINCT VALUE c.owner FROM c WHERE ARRAY_CONTAINS(@owners, c.owner) AND {OF_USERS}"
        found: set[Any] = set()
        for container in self._names.all[:number] if owners else ():
            found.update(await self._client.rows("users", container, sql, {"owners": owners}))
        return found

    async def export(self, scope: Scope, cursor: Cursor | None, limit: int) -> Exports:
        number, place = cursor or (0, None)
        things: list[Exported] = []
        while number < len(self._steps) and len(things) < limit:
            step, made_of = self._steps[number]
            rows, place = await step(doc.owner_of(scope), place, limit - len(things))
            things += map(made_of, rows)
            number += place is None
        return Exports(things=things, cursor=(number, place), more=number < len(self._steps))

    async def _heads(self, owner: str, place: Any, limit: int) -> Found:
        values = {"type": "head"}
        return await self._client.page("export", self._names.interactions, BY_SESSION, values, owner, place, limit)

    async def _sittings(self, owner: str, place: Any, limit: int) -> Found:
        """Those of one session come as they were made: each behind the one before."""
        values = {"type": "sitting"}
        return await self._client.page("export", self._names.interactions, BY_SESSION, values, owner, place, limit)

    async def _turns(self, owner: str, place: Any, limit: int) -> Found:
        values = {"type": "turn"}
        return await self._client.page("export", self._names.interactions, AS_WRITTEN, values, owner, place, limit)

    async def _requests(self, owner: str, place: Any, limit: int) -> Found:
        """There is no index by which they could be asked for in order; they are small, and of the last days alone."""
        if place is None:
            found = await self._client.rows("export", self._names.interactions, OF_TYPE, {"type": "request"}, owner)
            place = sorted(found, key=lambda row: str(row["name"]))
        return place[:limit], place[limit:] or None

    async def _memories(self, owner: str, place: Any, limit: int) -> Found:
        sql = f"SELECT TOP {int(limit)} * FROM c WHERE c.type = 'memory' AND c.name > @after ORDER BY c.name"
        found = [
            await self._client.rows("export", container, sql, {"after": place or ""}, owner)
            for container in self._names.of_memories
        ]
        rows = list(islice(merge(*found, key=lambda row: str(row["name"])), limit))
        return rows, rows[-1]["name"] if rows else None

    async def documents(self, scope: Scope, things: Sequence[Exported]) -> dict[str, list[Document]]:
        """Things as they are kept, by container."""
        turns = [thing.turn for thing in things if thing.turn]
        bodies = await doc.bodies_of(turns)
        indexed = await self._index.columns(turns, [thing.memory for thing in things if thing.memory])
        by_container: dict[str, list[Document]] = {}
        for thing in things:
            container, document = self._placed(thing, scope, bodies)
            whole = {"owner": doc.owner_of(scope), **document, **indexed.get(thing.item_id, {})}
            by_container.setdefault(container, []).append(whole)
        return by_container

    async def restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        for container, documents in (await self.documents(scope, things)).items():
            operations: list[Operation] = [("upsert", (whole,)) for whole in documents]
            await batches.send_in_parts(self._client, container, operations, doc.owner_of(scope))

    async def go_on(self, scope: Scope, session: Session) -> None:
        """Write a head in place of the version before it. Raises StaleVersion."""
        await self._commits.write(Commit(scope=scope, session=session))

    def _placed(self, thing: Exported, scope: Scope, bodies: dict[str, str]) -> tuple[str, Document]:
        """The container it belongs to, and its document."""
        if thing.session is not None:
            return self._names.interactions, doc.head_document(thing.session)
        if thing.sitting is not None:
            return self._names.interactions, doc.sitting_document(thing.sitting, scope.tenant_id)
        if thing.request is not None and thing.effect is not None:
            return self._names.interactions, doc.request_document(thing.request, thing.effect)
        stamp = self._commits.stamps.next()
        if thing.turn is not None:
            document = doc.turn_document(thing.turn, stamp, bodies[thing.item_id])
            return self._names.interactions, {**document, **self._vector_of(thing)}
        assert thing.memory is not None
        container = self._names.of_memory(thing.memory.memory_id)
        return container, {**doc.memory_document(thing.memory, stamp), **self._vector_of(thing)}

    def _vector_of(self, thing: Exported) -> Document:
        if thing.vector is None:
            return {}
        return {**doc.vector_columns(thing.vector), **self._index.direction(thing.vector)}

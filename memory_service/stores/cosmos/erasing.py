"""Taking what is kept of a user away from the containers: all of it, a session, or a turn.

It takes many batches, and any of them may be the last. So a new epoch comes first, by which work that has read what is
to go is refused; a session's head goes last, so that whoever asks again goes on; and what drivers have to forget is
said when it can be read no more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import uuid4

from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.batches import Operation
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.mirrors import MIRROR, erased
from memory_service.stores.cosmos.moving import Moving
from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting, Forgotten, Held, forgotten
from memory_service.values import Scope, Session

ERASED_AS = {"head": "sessions", "sitting": "sittings", "request": "requests", "turn": "turns", "memory": "memories"}
STAYS = (MIRROR, "epoch")
ERASURES = "~erasures"
"""The partition of what was erased: those of users have a bar in their names."""
OF_SESSION = "SELECT TOP 1000 c.id, c.type, c.body, c._etag FROM c WHERE c.session = @session"


class Erasing:
    def __init__(self, client: Client, names: Names, moving: Moving) -> None:
        self._client, self._names, self._moving = client, names, moving

    async def erasures(self) -> set[str]:
        sql = "SELECT VALUE c.name FROM c"
        found: list[Any] = await self._client.rows("erasures", self._names.interactions, sql, {}, ERASURES)
        return set(map(str, found))

    async def erase(self, scope: Scope, erasure_id: str) -> Erased:
        """The last look is where the mirrors are: who begins to follow meanwhile is found by it, or reads nothing."""
        owner, gone = doc.owner_of(scope), Counter[str]()
        found = await self._in_interactions(owner)
        if any(row["type"] not in STAYS for row in found) or await self._has_memories(owner):
            await self.begin_epoch(owner)
            found = await self._erase_page(self._names.interactions, owner, gone)
            for container in self._names.of_memories:
                while await self._erase_page(container, owner, gone):
                    pass
        while gone or any(row["type"] != "epoch" for row in found):
            found = await self._erase_page(self._names.interactions, owner, gone)
            if all(row["type"] in STAYS for row in found):
                await self._begin_mirrors_anew(found, owner)
                break
        await self.note([erasure_id])
        return Erased(**gone)

    async def forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        owner = doc.owner_of(scope)
        found = await self._of_session(owner, what)
        if not found or (what.seq is not None and not any(row["type"] == "turn" for row in found)):
            return Erased()
        if what.spares(_head_in(found), [doc.sitting_of(row) for row in found if row["type"] == "sitting"]):
            return Erased()
        await self.begin_epoch(owner)
        with_it = forgotten(what, await self._held(owner, what, await self._of_session(owner, what)))
        gone = Counter({"memories": len(with_it.memories)})
        await self._write_memories(scope, with_it)
        if what.seq is None:
            while found := await self._of_session(owner, what):
                rest = [row for row in found if row["type"] != "head"]
                await self._delete(rest or found, owner, gone)
            gone["sessions"] = 1
        else:
            await self._write_turns(scope, what, with_it)
            gone["turns"] = len(with_it.turns)
        await self.begin_mirrors_anew(owner)
        await self.note([erasure_id])
        return Erased(**gone)

    async def _write_turns(self, scope: Scope, what: Forgetting, with_it: Forgotten) -> None:
        """Raises StaleVersion if it was for room and the session has moved: then it is to be done again."""
        things = [thing for thing in with_it.left if not thing.memory]
        heads = [thing.session for thing in things if thing.session] if what.after is not None else []
        await self._moving.restore(scope, [thing for thing in things if not (thing.session and heads)])
        for head in heads:
            await self._moving.go_on(scope, head)

    async def begin_epoch(self, owner: str) -> None:
        epoch = {**doc.epoch_document(uuid4().hex), "owner": owner}
        await batches.send(self._client, self._names.interactions, [("upsert", (epoch,))], owner, "erase")

    async def note(self, erasure_ids: Collection[str]) -> None:
        noted = (
            {"id": f"erasure:{one}", "type": "erasure", "name": one, "owner": ERASURES} for one in erasure_ids if one
        )
        operations: list[Operation] = [("upsert", (document,)) for document in noted]
        await batches.send_in_parts(self._client, self._names.interactions, operations, ERASURES)

    async def _in_interactions(self, owner: str) -> list[Document]:
        sql = "SELECT TOP 1000 c.id, c.type FROM c"
        return await self._client.rows("erase", self._names.interactions, sql, {}, owner)

    async def _has_memories(self, owner: str) -> bool:
        sql = "SELECT TOP 1 c.id FROM c"
        asked = (self._client.rows("erase", name, sql, {}, owner) for name in self._names.of_memories)
        return any(await asyncio.gather(*asked))

    async def _erase_page(self, container: str, owner: str, gone: Counter[str]) -> list[Document]:
        """Delete some of a user's documents in a container; returns what was there."""
        sql = "SELECT TOP 1000 c.id, c.type FROM c"
        found = await self._client.rows("erase", container, sql, {}, owner)
        deletions: list[Operation] = [("delete", (row["id"],)) for row in found if row["type"] not in STAYS]
        await batches.send_each(self._client, container, deletions, owner)
        gone.update(ERASED_AS[row["type"]] for row in found if row["type"] in ERASED_AS)
        return found

    async def _of_session(self, owner: str, what: Forgetting) -> list[Document]:
        """Documents of a session and of the names of requests that stored it; or those that concern one turn.

        With a turn the name of its request stays: otherwise a repeat of that would bring the words back.
        """
        sql = f"{OF_SESSION} AND (c.type != 'turn' OR @seq = 0 OR (c.seq >= @first AND c.seq <= @seq))"
        values = {"session": what.session_id, "first": what.first or 0, "seq": what.seq or 0}
        found = await self._client.rows("forget", self._names.interactions, sql, values, owner)
        if what.seq is not None:
            return found
        sql = "SELECT c.id, c.type, c.body FROM c WHERE c.type = 'request'"
        names = await self._client.rows("forget", self._names.interactions, sql, {}, owner)
        return found + [row for row in names if doc.effect_of(row).session_id == what.session_id]

    async def _held(self, owner: str, what: Forgetting, found: list[Document]) -> Held:
        sql = "SELECT c.body FROM c WHERE c.type = 'memory'"
        asked = (self._client.rows("forget", name, sql, {}, owner) for name in self._names.of_memories)
        memories = [doc.memory_of(row) for rows in await asyncio.gather(*asked) for row in rows]
        turns = [doc.turn_of(row) for row in found if row["type"] == "turn" and what.seq is not None]
        return Held(
            session=_head_in(found),
            sittings=[doc.sitting_of(row) for row in found if row["type"] == "sitting"],
            turns=turns,
            memories=memories,
        )

    async def _write_memories(self, scope: Scope, with_it: Forgotten) -> None:
        by_container: dict[str, list[Operation]] = {}
        for name in with_it.memories:
            by_container.setdefault(self._names.of_memory(name), []).append(("delete", (doc.memory_id(name),)))
        for container, deletions in by_container.items():
            await batches.send_each(self._client, container, deletions, doc.owner_of(scope))
        await self._moving.restore(scope, [thing for thing in with_it.left if thing.memory])

    async def _delete(self, found: Sequence[Document], owner: str, gone: Counter[str]) -> None:
        """A head only if nobody added to its session since it was read: otherwise there is more to delete before it."""
        deletions: list[Operation] = [
            batches.delete(row) if row["type"] == "head" else ("delete", (row["id"],)) for row in found
        ]
        await batches.send_each(self._client, self._names.interactions, deletions, owner)
        gone.update(ERASED_AS[row["type"]] for row in found if row["type"] in ERASED_AS)

    async def begin_mirrors_anew(self, owner: str) -> None:
        await self._begin_mirrors_anew(await self._in_interactions(owner), owner)

    async def _begin_mirrors_anew(self, found: Iterable[Document], owner: str) -> None:
        operations = [erased(row["id"]) for row in found if row["type"] == MIRROR]
        await batches.send_each(self._client, self._names.interactions, operations, owner)


def _head_in(found: Sequence[Document]) -> Session | None:
    return next((doc.session_of(row) for row in found if row["type"] == "head"), None)

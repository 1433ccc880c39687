"""Putting turns in quarantine, and letting them out: over several containers, so not at once.

What is read before it is hidden must not come back. So of a quarantine the words go first, then a new epoch begins, by
which work that has read them is refused, and what had been written by then is looked for after that. Of a release they
come last: as long as they are not there, whoever asks again finds what is still to be done. Nothing is written over
that another has changed meanwhile: then it is looked at once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.base import Commit
from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos import documents as doc
from memory_service.stores.cosmos.client import Client, Refused
from memory_service.stores.cosmos.commits import Commits
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.cosmos.erasing import Erasing
from memory_service.stores.cosmos.moving import Moving
from memory_service.stores.exports import Exported
from memory_service.stores.quarantine import Concerned, Quarantine, Quarantined, Rewritten, rewritten
from memory_service.values import Scope

VERB = "quarantine"
ATTEMPTS = 10
SITTINGS_AT_ONCE = 50
OF_SESSION = "SELECT * FROM c WHERE c.session = @session AND c.type IN ('head', 'sitting', 'turn')"
MEMORIES = "SELECT * FROM c WHERE c.type = 'memory'"


class _Seen:
    """What is to become of what was read, and the documents it was read from, by their ids."""

    def __init__(self, then: Rewritten, rows: dict[str, Document]) -> None:
        self.then, self.rows = then, rows


class Quarantines:
    def __init__(self, client: Client, names: Names, moving: Moving, commits: Commits, erasing: Erasing) -> None:
        self._client, self._names, self._moving = client, names, moving
        self._commits, self._erasing = commits, erasing

    async def move(self, scope: Scope, what: Quarantine) -> Quarantined:
        owner, what = doc.owner_of(scope), replace(what, again=not what.release)
        first = await self._look(scope, what)
        if first.then.session is None:
            return first.then.counts
        if what.release:
            await self._release(scope, what)
        else:
            await self._hide(scope, what)
        await self._erasing.begin_mirrors_anew(owner)
        return first.then.counts

    async def _hide(self, scope: Scope, what: Quarantine) -> None:
        await self._put_turns(scope, what)
        await self._erasing.begin_epoch(doc.owner_of(scope))
        await self._put_derived(scope, what)

    async def _release(self, scope: Scope, what: Quarantine) -> None:
        await self._erasing.begin_epoch(doc.owner_of(scope))
        await self._put_derived(scope, what)
        await self._put_turns(scope, what)
        await self._erasing.begin_epoch(doc.owner_of(scope))

    async def _put_turns(self, scope: Scope, what: Quarantine) -> None:
        for _ in range(ATTEMPTS):
            seen = await self._look(scope, what)
            if await self._replace(scope, seen, [Exported(turn=turn) for turn in seen.then.turns]):
                return
        raise StaleVersion

    async def _put_derived(self, scope: Scope, what: Quarantine) -> None:
        """Write the memories, and then what is to be read once more."""
        for _ in range(ATTEMPTS):
            seen = await self._look(scope, what)
            if not await self._replace(scope, seen, [Exported(memory=memory) for memory in seen.then.memories]):
                continue
            try:
                await self._read_anew(scope, seen.then)
            except StaleVersion:
                continue
            return
        raise StaleVersion

    async def _read_anew(self, scope: Scope, then: Rewritten) -> None:
        """Raises StaleVersion if the head or a sitting has moved."""
        first, rest = then.sittings[:SITTINGS_AT_ONCE], then.sittings[SITTINGS_AT_ONCE:]
        await self._commits.write(Commit(scope=scope, session=then.session, sittings=first))
        for start in range(0, len(rest), SITTINGS_AT_ONCE):
            await self._commits.write(Commit(scope=scope, sittings=rest[start : start + SITTINGS_AT_ONCE]))

    async def _look(self, scope: Scope, what: Quarantine) -> _Seen:
        owner = doc.owner_of(scope)
        values = {"session": what.session_id}
        found = await self._client.rows(VERB, self._names.interactions, OF_SESSION, values, owner)
        heads = [doc.session_of(row) for row in found if row["type"] == "head"]
        if not heads:
            return _Seen(Rewritten(counts=Quarantined()), {})
        of_memories = [
            row
            for container in self._names.of_memories
            for row in await self._client.rows(VERB, container, MEMORIES, {}, owner)
        ]
        held = Concerned(
            session=heads[0],
            sittings=sorted(
                (doc.sitting_of(row) for row in found if row["type"] == "sitting"), key=lambda one: one.first_seq
            ),
            turns=sorted((doc.turn_of(row) for row in found if row["type"] == "turn"), key=lambda turn: turn.seq),
            memories=[doc.memory_of(row) for row in of_memories],
        )
        return _Seen(rewritten(what, held), {row["id"]: row for row in (*found, *of_memories)})

    async def _replace(self, scope: Scope, seen: _Seen, things: Sequence[Exported]) -> bool:
        """Write things in place of what was seen; returns whether all of it was still so."""
        whole = True
        for container, documents in (await self._moving.documents(scope, things)).items():
            operations = [batches.replace(document, seen.rows[document["id"]]) for document in documents]
            for part in batches.in_parts(operations):
                try:
                    await batches.send(self._client, container, part, doc.owner_of(scope), VERB)
                except Refused:
                    whole = False
        return whole

"""What a user may do about their memories: see them, correct one, pin it, have some deleted.

What somebody changed by hand stays so: a reflection writes over none of it (`Memory.is_settled`). What a correction
replaces is not kept: it may be what is to be gone. Of what is deleted its place is left, so that it does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from memory_service.context import summary_id
from memory_service.errors import MemoryNotFound, StaleVersion
from memory_service.last_word import deleted, repeats
from memory_service.learned import without_statement
from memory_service.stores.base import ALL, Commit, Store
from memory_service.stores.bodies import Place
from memory_service.values import OWN, Kind, Memory, Scope, SessionKey, Sitting

MOMENT = timedelta(microseconds=1)
ATTEMPTS = 10
"""At changing a memory that others change at the same time."""


class Rights:
    """`changed` is told whose memories are other ones now: of what it holds of them nothing counts any more."""

    def __init__(self, store: Store, changed: Callable[[Scope], None], *, now: Callable[[], datetime]) -> None:
        self._store, self._changed, self._now = store, changed, now

    async def page(
        self, scope: Scope, kinds: Collection[Kind], limit: int, *, after: Place | None = None, superseded: bool = False
    ) -> tuple[list[Memory], Place | None]:
        """Return memories of a user, newest first, and from where to go on; None: there are no more.

        Without those that were deleted or are in quarantine, of which there may be some on the way: a page may hold
        fewer than `limit`.
        """
        found = await self._store.memories(scope, list(kinds), limit=limit, superseded=superseded, after=after)
        last = (found[-1].created_at, found[-1].memory_id) if len(found) == limit else None
        return [memory for memory in found if not (memory.is_deleted or memory.withheld)], last

    async def find(self, scope: Scope, memory_id: str) -> Memory:
        """Return a memory of a user, superseded or not; as long as it is in quarantine there is none.

        Raises MemoryNotFound.
        """
        memory = await self._store.find_memory(scope, memory_id)
        if memory is None or memory.is_deleted or memory.withheld or memory.kind not in OWN:
            raise MemoryNotFound
        return memory

    async def edit(
        self, scope: Scope, memory_id: str, changes: Mapping[str, Any], expected: datetime | None = None
    ) -> Memory:
        """Change fields of a memory; returns what it is now. From then on none of it changes by itself.

        `expected` is the `changed_at` it must have. Raises MemoryNotFound, StaleVersion.
        """
        for _ in range(ATTEMPTS):
            held = await self.find(scope, memory_id)
            if expected is not None and changed_at(held) != expected:
                raise StaleVersion
            try:
                return await self._put(scope, held, self._edited(held, changes))
            except StaleVersion:  # somebody else was quicker, or a reflection
                continue
        raise StaleVersion

    def _edited(self, held: Memory, changes: Mapping[str, Any]) -> Memory:
        now = max(self._now(), (held.updated_at or min(held.created_at, self._now())) + MOMENT)
        memory = replace(held, **changes, updated_at=now, rough=None)
        if memory.valid_to is None:  # also when what has replaced it comes back from quarantine
            memory = replace(memory, superseded_by=None)
        if memory.text != held.text:  # its user's own words now
            memory = replace(memory, confidence=1.0, model=None, prompt_version=None, trust="high")
            memory = replace(memory, metadata=_of_other_words(memory, is_given="metadata" in changes))
        return replace(memory, edited=True) if changes.keys() - {"pinned"} else memory

    async def delete(self, scope: Scope, memory_ids: Sequence[str]) -> list[str]:
        """Delete memories of any kind, so that no word of them is left; returns ids of those there were.

        What is in no summary goes together, with what is kept of the same behind it.
        """
        held = await self._store.items(scope, list(dict.fromkeys(memory_ids)), "")
        gone = [memory for memory in held.memories if not memory.is_deleted]
        others = [memory for memory in gone if memory.kind != "summary"]
        if others:
            with_them = (*others, *await self._repeats(scope, others))
            memories = tuple(deleted(memory, self._now()) for memory in with_them)
            await self._store.commit(Commit(scope=scope, memories=memories))
            self._changed(scope)
        for memory in gone:
            if memory.kind == "summary":
                await self._delete_summary(scope, memory)
        return [memory.memory_id for memory in gone]

    async def _repeats(self, scope: Scope, memories: Iterable[Memory]) -> list[Memory]:
        insights = [memory for memory in memories if memory.kind == "insight" and memory.text]
        if not insights:
            return []
        return repeats(insights, await self._store.memories(scope, ["insight"], limit=ALL, superseded=True))

    async def _delete_summary(self, scope: Scope, held: Memory) -> None:
        for _ in range(ATTEMPTS):
            try:
                await self._put(scope, held, held.deleted(self._now()))
            except StaleVersion:  # its sitting is just being read
                held = await self._store.find_memory(scope, held.memory_id) or held
            else:
                return
        raise StaleVersion

    async def _put(self, scope: Scope, held: Memory, memory: Memory) -> Memory:
        """Write a memory in place of what it was. Raises StaleVersion."""
        sittings: tuple[Sitting, ...] = ()
        memories = [memory]
        if memory.text != held.text:
            sittings = await self._sittings_of(scope, held, memory.text)
            memories += [deleted(one, self._now()) for one in await self._repeats(scope, [held])]
        await self._store.commit(Commit(scope=scope, sittings=sittings, memories=tuple(memories), unchanged=(held,)))
        self._changed(scope)
        return memory

    async def _sittings_of(self, scope: Scope, held: Memory, text: str) -> tuple[Sitting, ...]:
        """Of a summary its sitting, which holds it too, to be gone on from."""
        if held.kind != "summary" or not held.session_id:
            return ()
        sittings = await self._store.sittings(SessionKey(scope=scope, session_id=held.session_id))
        return tuple(
            # whoever is reading it has been overtaken, so that it may be read again at once
            replace(sitting, summary=text, lease_until=None, version=sitting.version + 1)
            for sitting in sittings
            if summary_id(held.session_id, sitting.first_seq) == held.memory_id
        )


def _of_other_words(memory: Memory, *, is_given: bool) -> dict[str, Any]:
    """Its metadata without what was taken from the words that it had before, if it is not that of the new ones."""
    if memory.kind == "insight" and not is_given:
        return without_statement(memory.metadata)
    taken = ("topics", "entities") if memory.kind in ("summary", "chunk") else ()
    return {**memory.metadata, **{name: [] for name in taken if name in memory.metadata}}


def changed_at(memory: Memory) -> datetime:
    """When somebody changed a memory last, or else when it became one: what tells two states of it apart."""
    return memory.updated_at or memory.created_at

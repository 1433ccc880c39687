"""Brings engines what they lack of the record, user by user.

What is lacking, the record says; a run may be cut off anywhere and be repeated. A claim keeps two from bringing what is
the same user's at once: the later of two texts of a memory must not be overtaken by the earlier.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from memory_service.corpus import item_of, items_of, whole_of
from memory_service.errors import DriverUnavailable, Unavailable
from memory_service.projections.base import Copy, Floats, NotTaken, Projection
from memory_service.redaction import Redactor
from memory_service.stores.base import Entries, Store
from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope, Vector, turn_item_id

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
else:
    from memory_service.late import np

PAGE = 500
USERS_AT_ONCE = 8
LEASE = timedelta(seconds=150)
"""For a page of one user: no engine may take longer for it. A process that is killed leaves its claims for so long, but
over SQLite, where the next start takes them back."""
RETRY_S = 2.0
GATHER_S = 1.0
"""What comes in so long is brought together: to look for what is due costs a store in the cloud something each time."""


class Mirroring:
    """`space` names the present vector space, or is empty as long as none is known. `redactor` goes over each copy."""

    def __init__(
        self,
        store: Store,
        space: Callable[[], str],
        *,
        now: Callable[[], datetime],
        gather_s: float = GATHER_S,
        redactor: Redactor | None = None,
    ) -> None:
        self._store, self._space, self._now, self._gather_s = store, space, now, gather_s
        self.redactor = redactor or Redactor(())
        self._alone: dict[str, asyncio.Lock] = {}
        self.copied = self.removed = 0

    async def catch_up(self, name: str, engine_of: Callable[[str], Projection | None]) -> float | None:
        """Bring an engine all it lacks; returns after how many seconds to try again if it failed.

        In no hurry: what is new has its vector a moment later, and is then brought once. `engine_of` tells the one that
        is in use, when it is its turn.
        """
        await asyncio.sleep(self._gather_s)
        async with self.held_off(name):
            while True:
                engine = engine_of(name)
                if engine is None:
                    return None
                if engine.breaker.state == "open":
                    return RETRY_S
                now = self._now()
                claimed = await self._store.claim_mirrors(name, now, now + LEASE, USERS_AT_ONCE)
                went_well = await asyncio.gather(*(self._bring(engine, mirror) for mirror in claimed))
                if not all(went_well):
                    return RETRY_S
                if len(claimed) < USERS_AT_ONCE:  # what has come meanwhile has rung again
                    return None

    async def _bring(self, engine: Projection, mirror: Mirror) -> bool:
        """Bring what is lacking of one user; returns whether that could be done."""
        try:
            mirror, more = await self._begun(engine, mirror), True
            space = space_of(mirror.target)
            while more:
                entries = await self._store.entries(mirror.scope, mirror.cursor, space, PAGE)
                await self._hand_over(engine, mirror.scope, space, entries)
                mirror, more = replace(mirror, cursor=entries.cursor), entries.more
                if more:
                    lease_until = self._now() + LEASE
                    if not await self._store.put_mirror(mirror, caught_up=False, lease_until=lease_until):
                        return True  # another's by now, or to begin anew: it is due
                    mirror = replace(mirror, lease_until=lease_until)
            await self._store.put_mirror(mirror)
        except NotTaken:  # tried again when the claim ends
            return True
        except Unavailable:  # the engine, or the store
            with suppress(Unavailable):  # else the claim ends by itself
                await self._store.put_mirror(mirror, caught_up=False)
            return False
        return True

    async def _begun(self, engine: Projection, mirror: Mirror) -> Mirror:
        """From where to go on. Into other tables, or with vectors of another space, all is brought once more."""
        space = (self._space() or space_of(mirror.target)) if engine.takes_vectors else ""
        target = target_of(await engine.generation(), space)
        if mirror.cursor is not None and mirror.target == target:
            return mirror
        await engine.forget(mirror.scope)
        return replace(mirror, target=target, cursor=None)

    async def _hand_over(self, engine: Projection, scope: Scope, space: str, entries: Entries) -> None:
        rows = dict(rows_of(entries.vectors, await self._lengths(scope, entries)))
        bare = await asyncio.to_thread(lambda: list(copies_of(entries, self.redactor)))
        if engine.needs_vectors:
            rows |= await self._vectors_of([copy for copy in bare if copy.id not in rows], scope, space)
        copies = [replace_vector(copy, space, rows.pop(copy.id, None)) for copy in bare]
        gone = [memory.memory_id for memory in entries.memories if memory.valid_to is not None]
        if gone:
            await engine.remove(scope, gone)
        if copies:
            await engine.put(scope, copies)
        if rows:
            await engine.put_vectors(scope, space, rows)
        self.copied += len(copies)
        self.removed += len(gone)

    async def _vectors_of(self, copies: Sequence[Copy], scope: Scope, space: str) -> dict[str, Floats]:
        """The vectors of these as they are now. Raises DriverUnavailable as long as one of them has none."""
        if not copies:
            return {}
        held = await self._store.items(scope, {whole_of(copy.id) for copy in copies}, space)
        rows = dict(rows_of(held.vectors, await self._lengths(scope, held)))
        if any(copy.id not in rows for copy in copies):
            raise DriverUnavailable("some of it has no vector yet")
        return rows

    async def _lengths(self, scope: Scope, entries: Entries) -> dict[str, int]:
        """How many messages each turn has that there are vectors of: it may have been brought before them."""
        here = {turn_item_id(turn.session_id, turn.seq): len(turn.messages) for turn in entries.turns}
        named = {vector.item_id for vector in entries.vectors if "#" in vector.item_id}
        if named <= here.keys():
            return here
        before = await self._store.items(scope, named - here.keys(), "")
        return here | {turn_item_id(turn.session_id, turn.seq): len(turn.messages) for turn in before.turns}

    @asynccontextmanager
    async def held_off(self, name: str) -> AsyncIterator[None]:
        """A block in which this process brings an engine nothing else."""
        async with self._alone.setdefault(name, asyncio.Lock()):
            yield

    def stats(self) -> dict[str, int]:
        return {"copied": self.copied, "removed": self.removed}


def target_of(generation: str, space: str) -> str:
    """Names what an engine is brought into: its tables as they were made, and the space of vectors."""
    return f"{generation}|{space}"


def generation_of(target: str) -> str:
    return target.partition("|")[0]


def space_of(target: str) -> str:
    return target.partition("|")[2]


def copies_of(entries: Entries, redactor: Redactor) -> Iterator[Copy]:
    """What of these an engine is to keep. Of a memory that is there twice the later counts."""
    for turn in entries.turns:
        yield from (Copy(item=item) for item in items_of(redactor.turn(turn)))
    for memory in {memory.memory_id: memory for memory in entries.memories}.values():
        if memory.valid_to is None:
            yield Copy(item=item_of(redactor.memory(memory)), is_extract=memory.is_extract)


def rows_of(vectors: Iterable[Vector], lengths: Mapping[str, int]) -> Iterator[tuple[str, Floats]]:
    """The vectors, each by the name of the message or memory it is of. `lengths`: how many messages a turn has."""
    for vector in vectors:
        numbers = np.frombuffer(vector.data, np.float32)
        if "#" not in vector.item_id:
            yield from [(vector.item_id, numbers)] if len(numbers) else []  # else there was nothing to embed
        elif length := lengths.get(vector.item_id):
            for position, row in enumerate(numbers.reshape(length, -1)):
                yield f"{vector.item_id}.{position}", row


def replace_vector(copy: Copy, space: str, vector: Floats | None) -> Copy:
    return copy if vector is None else replace(copy, space=space, vector=vector)

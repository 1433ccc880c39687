"""The engines that follow the record: which there are, in which order they are asked, and what they answer.

An engine narrows a user's memory to what may answer a question. What it lacks is added, and all is told from the
record. One that fails, or is too far behind, is passed over for the next; behind the last stands the record itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from msgspec.structs import replace

from memory_service.corpus import whole_of
from memory_service.errors import DriverNotFound, DriverUnavailable
from memory_service.mirroring import Mirroring, generation_of, space_of
from memory_service.projections.base import Projection
from memory_service.stores.base import Entries, Sought, Store
from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope, Value, turn_item_id

NAME = re.compile(r"[A-Za-z0-9._:@-]{1,200}(#\d{1,18}\.\d{1,9})?", re.ASCII)
"""Of an item. What an engine tells besides names nothing."""
MOST_LACKING = 500
"""Of a user an engine may lack so much: it is read and searched at each question. If it is more the record is asked."""


class Narrowed(Value, frozen=True, kw_only=True):
    """What may answer a question, told from the record; None: the record is to be asked. `failed`: an engine was."""

    entries: Entries | None = None
    failed: bool = False


class Engines:
    """`make` makes an engine by its name. Raises UnsafeStart where it cannot."""

    def __init__(self, store: Store, mirroring: Mirroring, make: Callable[[str], Projection]) -> None:
        self._store, self._mirroring, self._make = store, mirroring, make
        self.redactor = mirroring.redactor
        self._engines: dict[str, Projection] = {}
        self._stacks: dict[str, AsyncExitStack] = {}
        self._generations: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self.order: tuple[str, ...] = ()
        """Who is asked, one after the other."""
        self.answered = self.passed_over = 0

    async def start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._close)

    async def _close(self) -> None:
        async with AsyncExitStack() as closing:
            for stack in self._stacks.values():
                closing.push_async_callback(stack.aclose)

    @property
    def names(self) -> tuple[str, ...]:
        """All that are kept up with the record, whether they are asked or not."""
        return tuple(self._engines)

    def engine(self, name: str) -> Projection:
        """Raises DriverNotFound for one that is not used."""
        if name not in self._engines:
            raise DriverNotFound
        return self._engines[name]

    async def use(self, names: Sequence[str]) -> None:
        """See to it that these are there and kept up with the record. Raises UnsafeStart; then nothing changes."""
        async with self._changing:
            for name in names:
                if name not in self._engines:
                    async with AsyncExitStack() as stack:
                        engine = self._make(name)
                        await engine.start(stack)
                        await self._store.follow(name)
                        self._stacks[name] = stack.pop_all()
                    self._engines[name] = engine

    async def fill_anew(self, name: str) -> None:
        """Let an engine forget all it holds and be brought everything again; until then the record is asked."""
        self.engine(name)
        await self._store.follow(name, anew=True)

    async def let_go(self, name: str) -> None:
        """Take away all that an engine holds, and keep it up no more. Raises DriverUnavailable; then it goes on.

        What another process is just bringing it may stay.
        """
        async with self._changing, self._mirroring.held_off(name):
            engine = self.engine(name)
            await self.fill_anew(name)  # first: if the rest is cut off, what is not there is not thought to be
            await engine.drop()
            await self._store.unfollow(name)
            self.order = tuple(one for one in self.order if one != name)
            del self._engines[name]
            await self._stacks.pop(name).aclose()

    async def catch_up(self, name: str) -> float | None:
        """Bring an engine what it lacks; returns after how many seconds to try again if it failed."""
        return await self._mirroring.catch_up(name, self._engines.get)

    async def narrow(self, scope: Scope, sought: Sought, limit: int, order: Sequence[str] | None = None) -> Narrowed:
        """Ask the engines, each only if the one before it cannot answer."""
        failed, sought = False, replace(sought, question=self.redactor.text(sought.question))
        for name in self.order if order is None else order:
            try:
                entries = await self._ask(name, scope, sought, limit)
            except DriverUnavailable:
                failed = True
                continue
            if entries is not None:
                self.answered += 1
                return Narrowed(entries=entries, failed=failed)
        self.passed_over += 1
        return Narrowed(failed=failed)

    async def _ask(self, name: str, scope: Scope, sought: Sought, limit: int) -> Entries | None:
        """What an engine finds, and what it lacks; None if that is too much."""
        engine = self.engine(name)
        before = await self._store.mirror(scope, name)
        if before.cursor is None or not await self._has_what_was_brought(name, engine, before, sought):
            return None
        lacks = await self._store.entries(scope, before.cursor, sought.space, MOST_LACKING)
        changed = len(lacks.memories)  # of each the engine may name what it was
        if lacks.more or changed > limit:
            return None
        found = [item_id for item_id in await engine.search(scope, sought, limit + changed) if NAME.fullmatch(item_id)]
        late = {vector.item_id for vector in lacks.vectors}  # by these it could not find them
        held, after, is_there = await asyncio.gather(
            self._store.items(scope, {*map(whole_of, found), *late}, sought.space),
            self._store.mirror(scope, name),
            self._has_what_was_brought(name, engine, before, sought),
        )
        if after.begun != before.begun or not is_there:  # it may have forgotten what it should have found
            return None
        return merged(held, lacks)

    async def _has_what_was_brought(self, name: str, engine: Projection, mirror: Mirror, sought: Sought) -> bool:
        """Whether its tables are still those, and its vectors of the space of the question."""
        generation = await engine.generation()
        if generation != generation_of(mirror.target):
            await self._begin_anew(name, generation)
            return False
        space = space_of(mirror.target)
        return not engine.takes_vectors or sought.vector is None or space == sought.space

    async def _begin_anew(self, name: str, generation: str) -> None:
        """Once for each generation: everybody of whom it was brought something before is to be brought it again."""
        if self._generations.get(name) != generation:
            self._generations[name] = generation
            await self.fill_anew(name)

    async def state(self) -> list[dict[str, Any]]:
        """How each engine fares, in the order in which they are asked; it is asked too."""
        names = dict.fromkeys((*self.order, *self._engines))
        return [await self.state_of(name) for name in names]

    async def state_of(self, name: str) -> dict[str, Any]:
        asked = self.order.index(name) + 1 if name in self.order else None
        return {
            "name": name,
            "asked": asked,
            "lagging_users": await self._store.lagging(name),
            **await self.check(name),
        }

    async def check(self, name: str) -> dict[str, Any]:
        """Ask an engine whether it is there."""
        try:
            told = await self.engine(name).check()
        except DriverUnavailable as exc:
            return {"connected": False, "error": str(exc)}
        return {"connected": True, **told}

    def stats(self) -> dict[str, Any]:
        return {
            "asked": list(self.order),
            "answered": self.answered,
            "answered_by_record": self.passed_over,
            **self._mirroring.stats(),
            "engines": {
                name: {"state": "up" if engine.breaker.state == "closed" else "down", "failures": engine.failures}
                for name, engine in self._engines.items()
            },
        }


def merged(held: Entries, lacking: Entries) -> Entries:
    """What was found together with what was not there to be found; of a memory in both, what it is now."""
    turns = {turn_item_id(turn.session_id, turn.seq): turn for turn in (*held.turns, *lacking.turns)}
    memories = {memory.memory_id: memory for memory in (*lacking.memories, *held.memories)}
    return Entries(
        turns=sorted(turns.values(), key=lambda turn: (turn.session_id, turn.seq)),
        memories=list(memories.values()),
        vectors=[*held.vectors, *lacking.vectors],
        cursor=lacking.cursor,
        more=False,
        epoch=lacking.epoch,
    )

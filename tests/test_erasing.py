"""Who reads or writes while something is being erased holds none of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from memory_service.erasing import Erasing
from memory_service.errors import StoreUnavailable
from memory_service.pool import SessionPool
from memory_service.rights import Rights
from memory_service.stores.exports import Erased
from memory_service.tombstones import Tombstones
from memory_service.values import Hot, Scope
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, begin

KEY = a_key()


class World:
    """`changed`: of whom it was told that something is no more."""

    def __init__(self, tombstones: Tombstones | None = None) -> None:
        self.store = FaultyStore()
        self.pool = SessionPool(self.store.load, self.store.commit, max_sessions=10, ttl_s=60)
        self.changed: list[Scope] = []
        rights = Rights(self.store, self.changed.append, now=lambda: NOON)
        self.erasing = Erasing(self.store, self.pool, rights, tombstones, self.changed.append, now=lambda: NOON)

    async def read(self) -> Hot | None:
        return (await self.pool.read(KEY)).hot

    async def meanwhile(self, verb: str, erasing: Awaitable[Erased]) -> Hot | None:
        """Read the session while the store is at it, and then let it go on; returns what was read."""
        hang = self.store.hang_at(verb)
        task = asyncio.ensure_future(erasing)
        await hang.reached.wait()
        reading = asyncio.ensure_future(self.read())
        await asyncio.sleep(0)
        hang.release()
        await task
        return await reading


async def test_a_session_that_was_read_while_its_user_was_erased_is_not_held() -> None:
    world = World()
    await begin(world.store, KEY, turns=2)
    await world.meanwhile("erase", world.erasing.user(KEY.scope))
    assert await world.read() is None
    assert world.changed == [KEY.scope]


async def test_a_session_that_was_read_while_it_was_erased_is_not_held() -> None:
    world = World()
    await begin(world.store, KEY, turns=2)
    await world.meanwhile("forget", world.erasing.session(KEY))
    assert await world.read() is None


async def test_of_a_session_that_was_read_while_a_turn_was_erased_the_turn_is_not_held() -> None:
    world = World()
    await begin(world.store, KEY, turns=2)
    await world.read()
    for hot in (await world.meanwhile("forget", world.erasing.turn(KEY, 1)), await world.read()):
        assert hot is not None  # who asks meanwhile waits: a summary may be made of what is read
        assert [bool(turn.messages) for turn in hot.turns] == [False, True]


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done and not told"])
async def test_what_failed_is_carried_out_by_the_next_sweep(tmp_path: Path, after: bool) -> None:
    world = World(Tombstones(tmp_path / "erasures"))
    await begin(world.store, KEY, turns=2)
    world.store.fail_at("erase", StoreUnavailable("away"), after=after)
    with pytest.raises(StoreUnavailable):
        await world.erasing.user(KEY.scope)
    await world.erasing.finish()
    assert await world.store.load(KEY) is None
    assert len(await world.store.erasures()) == 1
    world.store.calls.clear()
    await world.erasing.finish()
    assert not world.store.calls, "there is nothing left to be done"

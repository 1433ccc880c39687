"""What an engine is brought: all that is on record, each time something is new, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import numpy as np
import pytest

from memory_service.corpus import whole_of
from memory_service.errors import DriverUnavailable, StoreUnavailable
from memory_service.mirroring import LEASE, PAGE, RETRY_S, Mirroring
from memory_service.projections.base import Copy, NotTaken
from memory_service.stores.base import Commit
from memory_service.values import EXTRACTIVE, Memory, Scope, knowledge_of
from tests.support.background import until
from tests.support.engines import ShelfEngine
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, a_memory, a_scope, a_vector, begin

SHELF, SPACE = "shelf", "space"
ANA, BEN = a_scope(), a_scope("ben")


class World:
    """A store that is followed, an engine, and a clock and a vector space that a test may change."""

    def __init__(self) -> None:
        self.store, self.engine = FaultyStore(), ShelfEngine()
        self.now, self.space = NOON, SPACE
        self.mirroring = self.new_mirroring()

    def new_mirroring(self) -> Mirroring:
        """That of another process."""
        return Mirroring(self.store, lambda: self.space, now=lambda: self.now, gather_s=0)

    async def remember(self, *memories: Memory, scope: Scope = ANA) -> None:
        await self.store.commit(Commit(scope=scope, memories=memories))

    async def embed(self, space: str = SPACE) -> None:
        """Give everything a vector of one number: of a message its place in its turn, from 1."""
        for item in await self.store.due_vectors(space, 1000):
            numbers = [1.0] if item.memory else [1.0, 2.0]
            data = np.array(numbers, np.float32).tobytes()
            await self.store.commit(Commit(scope=item.scope, vectors=(a_vector(item, space, data),)))

    async def catch_up(self) -> float | None:
        return await self.mirroring.catch_up(SHELF, lambda _: self.engine)

    def texts(self, scope: Scope = ANA) -> dict[str, str]:
        return {copy.id: copy.item.text for copy in self.engine.shelf.get(scope, {}).values()}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.store.follow(SHELF)
    yield world


async def test_messages_and_memories_are_brought_each_by_itself(world: World) -> None:
    await begin(world.store, a_key(), turns=2)
    await world.remember(a_memory("m", text="likes tea"), a_memory("x", text="hello", model=EXTRACTIVE))
    await world.remember(a_memory("k", kind="knowledge", text="rain"), scope=knowledge_of("default"))
    assert await world.catch_up() is None
    said = {f"s#{seq}.{place}": text for seq in (1, 2) for place, text in enumerate(("hello", "You said: hello"))}
    assert world.texts() == said | {"m": "likes tea", "x": "hello"}
    assert world.texts(knowledge_of("default")) == {"k": "rain"}
    assert {copy.id for copy in world.engine.shelf[ANA].values() if copy.is_extract} == {"x"}
    assert (world.mirroring.stats(), await world.store.lagging(SHELF)) == ({"copied": 7, "removed": 0}, 0)


async def test_what_is_there_is_not_brought_again(world: World) -> None:
    await begin(world.store, a_key(), turns=3)
    await world.catch_up()
    before = len(world.engine.calls)
    await world.catch_up()
    assert len(world.engine.calls) == before
    await world.remember(a_memory("m"))
    await world.catch_up()
    assert world.engine.calls[before:] == ["put"]


async def test_what_is_written_anew_or_deleted_is_so_in_the_engine(world: World) -> None:
    await world.remember(a_memory("m", text="likes tea"), a_memory("n"), a_memory("o", text="lives in Porto"))
    await world.catch_up()
    later = a_memory("p", text="lives in Faro")
    old = a_memory("o", text="lives in Porto").superseded(later)
    await world.remember(a_memory("m", text="likes rum"), a_memory("n").deleted(NOON), old, later)
    await world.catch_up()
    assert world.texts() == {"m": "likes rum", "p": "lives in Faro"}


async def test_a_vector_that_comes_later_is_given_to_what_is_there(world: World) -> None:
    await begin(world.store, a_key(), turns=1)
    await world.remember(a_memory("m"))
    await world.catch_up()
    assert all(copy.vector is None for copy in world.engine.shelf[ANA].values())
    await world.embed()
    await world.catch_up()
    vectors = {name: (copy.space, list(copy.vector)) for name, copy in world.engine.shelf[ANA].items()}  # type: ignore[arg-type]
    assert vectors == {"s#1.0": (SPACE, [1.0]), "s#1.1": (SPACE, [2.0]), "m": (SPACE, [1.0])}
    assert world.engine.calls.count("put") == 1


async def test_vectors_that_are_there_are_brought_with_their_items(world: World) -> None:
    await world.remember(a_memory("m"))
    await world.embed()
    await world.catch_up()
    assert world.engine.calls == ["forget", "put"]
    assert world.engine.shelf[ANA]["m"].space == SPACE


async def test_an_engine_that_needs_vectors_lacks_what_has_none_until_it_has_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShelfEngine, "needs_vectors", True)
    await begin(world.store, a_key(), turns=1)
    await world.remember(a_memory("m"))
    assert (await world.catch_up(), world.texts()) == (RETRY_S, {})
    assert (await world.store.lagging(SHELF), world.engine.breaker.state) == (1, "closed")
    await world.embed()
    assert await world.catch_up() is None
    assert all(copy.vector is not None for copy in world.engine.shelf[ANA].values())
    await world.remember(a_memory("m", text="likes rum"), a_memory("n").deleted(NOON))
    await world.embed()
    await world.catch_up()
    assert world.texts()["m"] == "likes rum"


async def test_an_engine_whose_tables_are_others_is_brought_everything_again(world: World) -> None:
    for scope in (ANA, BEN):
        await world.remember(a_memory("m"), scope=scope)
    await world.catch_up()
    world.engine.shelf.clear()  # its database is another one now
    world.engine.made = "another"
    for scope in (ANA, BEN):
        await world.remember(a_memory("n"), scope=scope)
    assert await world.catch_up() is None
    assert (set(world.texts()), set(world.texts(BEN))) == ({"m", "n"}, {"m", "n"})


async def test_what_an_engine_does_not_take_is_tried_again_when_the_claim_has_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = world.engine._put

    async def takes_nothing_of_ana(scope: Scope, copies: Sequence[Copy]) -> None:
        if scope == ANA:
            raise NotTaken("too large")
        await put(scope, copies)

    monkeypatch.setattr(world.engine, "_put", takes_nothing_of_ana)
    for scope in (ANA, BEN):
        await world.remember(a_memory("m"), scope=scope)
    assert await world.catch_up() is None
    assert (world.texts(), set(world.texts(BEN)), world.engine.breaker.state) == ({}, {"m"}, "closed")
    assert await world.store.lagging(SHELF) == 1
    monkeypatch.setattr(world.engine, "_put", put)
    await world.catch_up()
    assert world.texts() == {}
    world.now += LEASE
    await world.catch_up()
    assert (set(world.texts()), await world.store.lagging(SHELF)) == ({"m"}, 0)


async def test_in_another_vector_space_all_is_brought_once_more(world: World) -> None:
    await world.remember(a_memory("m"))
    await world.embed()
    await world.catch_up()
    world.space = "another"
    await world.embed("another")
    await world.catch_up()
    assert world.engine.shelf[ANA]["m"].space == "another"
    world.space = ""  # the embedder has not said a word since the start
    await world.remember(a_memory("n"))
    await world.catch_up()
    assert set(world.texts()) == {"m", "n"}
    assert world.engine.shelf[ANA]["m"].space == "another"


async def test_more_than_a_page_is_brought_page_by_page(world: World) -> None:
    many = PAGE + 20
    await world.remember(*(a_memory(f"m{number}") for number in range(many)))
    await world.catch_up()
    assert (len(world.texts()), world.engine.calls) == (many, ["forget", "put", "put"])


async def test_many_users_are_brought_in_turn(world: World) -> None:
    for number in range(30):
        await world.remember(a_memory("m", text=f"of {number}"), scope=a_scope(f"user{number}"))
    await world.catch_up()
    texts = [world.texts(a_scope(f"user{number}")) for number in range(30)]
    assert texts == [{"m": f"of {number}"} for number in range(30)]


async def test_an_engine_that_is_away_is_brought_everything_when_it_is_back(world: World) -> None:
    await world.remember(a_memory("m"))
    world.engine.away = True
    assert await world.catch_up() == RETRY_S
    await world.remember(a_memory("n"))
    assert (await world.catch_up(), await world.store.lagging(SHELF)) == (RETRY_S, 1)
    world.engine.away = False
    assert await world.catch_up() is None
    assert set(world.texts()) == {"m", "n"}


async def test_an_engine_that_fails_again_and_again_is_left_alone_for_a_while(world: World) -> None:
    world.engine.away = True
    for number in range(20):
        await world.remember(a_memory("m"), scope=a_scope(f"user{number}"))
        assert await world.catch_up() == RETRY_S
    assert len(world.engine.calls) < 5
    assert world.engine.breaker.state == "open"
    claims = world.store.calls["claim_mirrors"]
    await world.catch_up()
    assert world.store.calls["claim_mirrors"] == claims


async def test_an_engine_that_hangs_is_given_up_on(world: World) -> None:
    await world.remember(a_memory("m"))
    world.engine.hang()
    assert await world.catch_up() == RETRY_S
    world.engine.go_on()
    assert await world.catch_up() is None
    assert set(world.texts()) == {"m"}


async def test_a_run_that_is_cut_off_is_done_again_when_its_lease_has_ended(world: World) -> None:
    await world.remember(a_memory("m"))
    world.engine.hangs = asyncio.Event()
    run = asyncio.create_task(world.catch_up())
    await until(lambda: world.engine.calls == ["forget"])
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    world.engine.go_on()
    other = world.new_mirroring()
    assert await other.catch_up(SHELF, lambda _: world.engine) is None
    assert world.texts() == {}
    world.now += LEASE
    await other.catch_up(SHELF, lambda _: world.engine)
    assert set(world.texts()) == {"m"}


@pytest.mark.parametrize("verb", ["entries", "put_mirror", "claim_mirrors", "items"])
async def test_a_store_that_fails_on_the_way_loses_nothing(world: World, verb: str) -> None:
    await begin(world.store, a_key(), turns=2)
    await world.catch_up()
    await world.embed()
    await world.remember(a_memory("m"))
    world.store.fail_at(verb, OSError("the disk"))
    with suppress(StoreUnavailable):
        assert await world.catch_up() == RETRY_S
    world.now += LEASE
    assert await world.catch_up() is None
    assert len(world.texts()) == 5
    assert all(copy.vector is not None for copy in world.engine.shelf[ANA].values() if "#" in copy.id)


async def test_an_erased_user_is_forgotten_and_one_who_comes_back_begins_anew(world: World) -> None:
    for scope in (ANA, BEN):
        await world.remember(a_memory("m", text="before"), scope=scope)
    await world.catch_up()
    await world.store.erase(ANA)
    await world.catch_up()
    assert (world.texts(), world.texts(BEN)) == ({}, {"m": "before"})
    await world.store.erase(BEN)
    await world.remember(a_memory("n", text="after"), scope=BEN)
    await world.catch_up()
    assert world.texts(BEN) == {"n": "after"}


async def test_one_who_is_erased_while_being_brought_is_forgotten_afterwards(world: World) -> None:
    await world.remember(a_memory("m"))
    await world.catch_up()
    await world.remember(a_memory("n"))
    world.engine.hangs = asyncio.Event()
    run = asyncio.create_task(world.catch_up())
    await until(lambda: world.engine.calls == ["forget", "put", "put"])
    await world.store.erase(ANA)
    world.engine.hangs.set()
    await run
    await world.catch_up()
    assert world.texts() == {}
    assert await world.store.lagging(SHELF) == 0


async def test_two_processes_bring_the_later_of_two_texts(world: World) -> None:
    mirrorings = [world.new_mirroring() for _ in range(3)]
    for number in range(20):
        await world.remember(a_memory("m", text=f"text {number}"))
        await asyncio.gather(*(one.catch_up(SHELF, lambda _: world.engine) for one in mirrorings))
    await world.catch_up()
    assert world.texts() == {"m": "text 19"}


def test_the_name_of_a_message_tells_its_turn() -> None:
    assert [whole_of(name) for name in ("s.1#3.0", "s#12.1", "memory_1.2", "m")] == ["s.1#3", "s#12", "memory_1.2", "m"]


async def test_an_engine_that_failed_a_moment_ago_says_so_at_once() -> None:
    engine = ShelfEngine()
    engine.away = True
    for _ in range(3):
        with pytest.raises(DriverUnavailable, match="shelf: Away"):
            await engine.check()
    with pytest.raises(DriverUnavailable, match="left alone"):
        await engine.check()
    assert len(engine.calls) == 3

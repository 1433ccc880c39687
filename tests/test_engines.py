"""Recall through engines that follow the record: they narrow, the record tells; whoever is away is done without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from memory_service.app import Surroundings, make_parts, open_service
from memory_service.engines import MOST_LACKING
from memory_service.errors import DriverNotFound, UnsafeStart
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.projections.base import FAILURES, REST_S
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Commit, Sought
from memory_service.telling import Document
from memory_service.values import Message, Only, Scope, SessionKey, knowledge_of
from tests.support.background import settled, until
from tests.support.engines import ShelfEngine
from tests.support.stores import FaultyStore
from tests.support.values import a_memory

SHELF, OTHER = "tests.support.engines:ShelfEngine", "tests.support.engines:OtherShelf"
ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")
MakeSettings = Callable[..., Settings]


class World:
    def __init__(self, service: MemoryService) -> None:
        self.service = service

    def engine(self, name: str = SHELF) -> ShelfEngine:
        engine = self.service.engines.engine(name)
        assert isinstance(engine, ShelfEngine)
        return engine

    async def caught_up(self, name: str = SHELF) -> None:
        """Wait until an engine has everything, the vectors too, which are brought after what they are of."""

        async def nobody_lags() -> bool:
            await settled(self.service)
            return (await self.service.engines.state_of(name))["lagging_users"] == 0

        await until(nobody_lags)

    async def found(self, question: str, scope: Scope = ANA, **how: Any) -> tuple[list[str], tuple[str, ...]]:
        retrieved = await self.service.recall(scope, question, 10, how.pop("only", Only()), **how)
        return [hit.item.text for hit in retrieved.hits], retrieved.degraded

    async def say(self, text: str, session_id: str = "s", scope: Scope = ANA) -> None:
        await self.service.start_session(scope, session_id, restore=True)
        draft = Draft(messages=(Message(role="user", content=text),))
        await self.service.store_turn(SessionKey(scope=scope, session_id=session_id), draft)

    @property
    def answered(self) -> tuple[int, int]:
        """Searches that an engine answered, and those it could not."""
        stats = self.service.stats()["drivers"]
        return stats["answered"], stats["answered_by_record"]


@pytest.fixture
async def make_world(make_settings: MakeSettings) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(memory_driver: str, **changes: Any) -> World:
            settings = make_settings(**{"query_cache_seconds": 0, **changes}, memory_driver=memory_driver)
            return World(await stack.enter_async_context(open_service(settings, Surroundings(gather_s=0.001))))

        yield make


@pytest.fixture
async def world(make_world: Callable[..., Any]) -> World:
    made: World = await make_world(SHELF)
    return made


async def test_what_an_engine_finds_is_told_from_the_record_as_the_record_would(world: World) -> None:
    for text in ("Ana eats no walnuts", "It rained at sea", "Ben grows walnuts on a hill"):
        await world.say(text)
        await world.service.memories.remember(ANA, f"noted: {text}", tags=("note",), metadata={"of": text})
    await world.caught_up()
    through = await world.service.recall(ANA, "walnuts", 10, Only())
    alone = await world.service.recall(ANA, "walnuts", 10, Only(), drivers=())
    assert world.answered == (1, 0)
    told = {hit.item.id: hit.item for hit in alone.hits}
    assert all(told[hit.item.id] == hit.item for hit in through.hits)
    assert sum("walnuts" in hit.item.text for hit in through.hits) == 4
    assert through.degraded == ()


async def test_what_was_stored_a_moment_ago_is_found_though_no_engine_has_it(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().hang()  # the engine takes nothing more ...
    await world.say("Hazelnuts and walnuts are fine since May")
    await world.service.memories.remember(ANA, "walnuts, again")
    await asyncio.sleep(0)
    world.engine().go_on()  # ... but it answers
    texts, degraded = await world.found("walnuts")
    assert set(texts) == {"Ana eats no walnuts", "Hazelnuts and walnuts are fine since May", "walnuts, again"}
    assert degraded == ()


async def test_a_deleted_memory_is_not_told_though_the_engine_still_has_it(world: World) -> None:
    memory = await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    before = dict(world.engine().shelf[ANA])
    await world.service.delete_memory(ANA, memory.memory_id)
    await world.caught_up()
    assert world.engine().shelf[ANA] == {}
    world.engine().shelf[ANA] = before  # a request of before, that arrives late
    assert await world.found("walnuts") == ([], ())


async def test_what_an_engine_tells_of_another_user_is_nothing(world: World) -> None:
    await world.service.memories.remember(BEN, "Ben eats no walnuts")
    await world.service.memories.remember(ANA, "Ana likes tea")
    await world.caught_up()
    shelf = world.engine().shelf
    shelf[ANA].update(shelf[BEN])
    assert await world.found("walnuts") == ([], ())


async def test_restrictions_hold_through_an_engine_and_for_what_it_lacks(world: World) -> None:
    await world.service.memories.remember(ANA, "walnuts one", session_id="a", tags=("x",))
    await world.caught_up()
    world.engine().hang()
    await world.service.memories.remember(ANA, "walnuts two", session_id="b")
    await world.service.memories.remember(ANA, "walnuts three", session_id="a")
    world.engine().go_on()
    assert set((await world.found("walnuts", only=Only(session_id="a")))[0]) == {"walnuts one", "walnuts three"}
    without = Only(without_tags=frozenset({"x"}))
    assert set((await world.found("walnuts", only=without))[0]) == {"walnuts two", "walnuts three"}


async def test_what_is_trusted_is_asked_of_the_record_for_engines_know_nothing_of_trust(world: World) -> None:
    await world.say("Ana eats no walnuts")
    key = SessionKey(scope=ANA, session_id="s")
    for number in range(60):  # more than an engine is asked for
        said = Message(role="tool", content=f"walnuts walnuts walnuts {number}")
        await world.service.store_turn(key, Draft(messages=(said,)))
    await world.caught_up()
    assert await world.found("walnuts", only=Only(min_trust="normal")) == (["Ana eats no walnuts"], ())
    assert world.answered == (0, 0)
    assert "Ana eats no walnuts" not in (await world.found("walnuts"))[0]
    assert world.answered == (1, 0)


async def test_knowledge_is_found_through_an_engine_too(world: World) -> None:
    await world.service.memories.put_document(
        "default", Document(doc_id="d", content="Walnuts grow on trees", category="Food")
    )
    await world.caught_up()
    assert set(world.engine().shelf) == {knowledge_of("default")}
    retrieved = await world.service.recall_knowledge("default", "walnuts", 5, "FOOD")
    assert [hit.item.text for hit in retrieved.hits] == ["Walnuts grow on trees"]
    assert world.answered == (1, 0)
    assert (await world.service.recall_knowledge("default", "walnuts", 5, "else")).hits == []


async def test_without_an_engine_the_record_answers_and_says_so_until_it_is_back(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().away = True
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ("driver",))
    await world.service.memories.remember(ANA, "walnuts, stored while it was away")
    texts, degraded = await world.found("walnuts")
    assert (len(texts), degraded) == (2, ("driver",))
    world.engine().away = False
    await world.caught_up()  # by itself
    assert (await world.found("walnuts"))[1] == ()
    assert len(world.engine().shelf[ANA]) == 2


async def test_nobody_waits_long_for_an_engine_that_hangs_and_soon_nobody_at_all(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().hang()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        assert await world.found("walnuts") == (["Ana eats no walnuts"], ("driver",))
    rests = (loop.time() - began) / REST_S  # after each it is tried once
    assert world.engine().calls.count("search") <= FAILURES + 1 + rests < 20


async def test_the_next_engine_is_asked_where_the_first_is_away(make_world: Callable[..., Any]) -> None:
    world: World = await make_world(f"{SHELF}, {OTHER}")
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    for name in (SHELF, OTHER):
        await world.caught_up(name)
    assert (await world.found("walnuts"), world.engine(OTHER).calls.count("search")) == (
        (["Ana eats no walnuts"], ()),
        0,
    )
    world.engine().away = True
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ("driver",))
    assert (world.engine(OTHER).calls.count("search"), world.answered) == (1, (2, 0))
    world.engine(OTHER).away = True
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ("driver",))
    assert world.answered == (2, 1)


async def test_an_engine_that_is_far_behind_is_not_asked(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().hang()
    for number in range(MOST_LACKING // 100 + 1):
        drafts = [f"note {number} {place}" for place in range(100)]
        await asyncio.gather(*(world.service.memories.remember(ANA, text) for text in drafts))
    searches = world.engine().calls.count("search")
    texts, degraded = await world.found("walnuts")
    assert (texts[0], degraded) == ("Ana eats no walnuts", ())
    assert world.engine().calls.count("search") == searches


async def test_a_new_engine_is_brought_what_was_there_before_it(
    make_world: Callable[..., Any], make_settings: MakeSettings
) -> None:
    async with open_service(make_settings()) as service:
        await service.memories.remember(ANA, "Ana eats no walnuts")
    world: World = await make_world(SHELF)
    await world.caught_up()
    assert len(world.engine().shelf[ANA]) == 1


async def test_engines_may_be_switched_while_the_service_runs(make_world: Callable[..., Any]) -> None:
    world: World = await make_world("builtin")
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    assert (await world.found("walnuts"), world.answered) == ((["Ana eats no walnuts"], ()), (0, 0))
    await world.service.drivers.switch([SHELF])
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ())
    await world.caught_up()
    before, _ = world.answered
    await world.found("walnuts")
    assert world.answered[0] == before + 1
    await world.service.drivers.switch([])
    await world.found("walnuts")
    assert world.answered[0] == before + 1
    with pytest.raises(UnsafeStart, match="there is no 'unknown'"):
        await world.service.drivers.switch([SHELF, "unknown"])
    assert world.service.engines.order == ()


async def test_an_engine_that_begins_anew_is_not_asked_until_it_is_full(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().shelf[ANA].clear()  # somebody was at its tables
    assert await world.found("walnuts") == ([], ())
    await world.service.drivers.rebuild(SHELF)
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ())
    await world.caught_up()
    assert (await world.found("walnuts"), len(world.engine().shelf[ANA])) == ((["Ana eats no walnuts"], ()), 1)


async def test_what_an_engine_finds_while_it_begins_anew_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()

    async def forgets_meanwhile(scope: Scope, sought: Sought, limit: int) -> list[str]:
        await world.service.drivers.rebuild(SHELF)
        return []

    monkeypatch.setattr(world.engine(), "_search", forgets_meanwhile)
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ())


async def test_what_a_database_finds_that_was_put_in_the_place_of_another_is_not_believed(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().shelf.clear()
    world.engine().made = "another"
    assert await world.found("walnuts") == (["Ana eats no walnuts"], ())
    await world.service.sweep()
    await until(lambda: ANA in world.engine().shelf)


async def test_answers_of_an_engine_that_was_amiss_are_forgotten_with_it(make_world: Callable[..., Any]) -> None:
    world: World = await make_world(SHELF, query_cache_seconds=60)
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    for amend in (world.service.drivers.rebuild, world.service.drivers.drop):
        world.engine().shelf[ANA].clear()
        await world.service.memories.remember(ANA, "another note")
        await world.caught_up()
        world.engine().shelf[ANA].clear()
        assert await world.found("walnuts") == ([], ())
        await amend(SHELF)
        assert await world.found("walnuts") == (["Ana eats no walnuts"], ())
        if amend == world.service.drivers.rebuild:
            await world.caught_up()


async def test_what_the_sweep_gives_a_vector_is_brought_it(make_settings: MakeSettings) -> None:
    store = FaultyStore()
    await store.commit(Commit(scope=ANA, memories=(a_memory("m", text="Ana eats no walnuts"),)))
    around = Surroundings(gather_s=0.001)
    parts = make_parts(make_settings(memory_driver=SHELF), store, OfflineReader(), LocalEmbedder(), around)
    async with AsyncExitStack() as stack:
        await parts.engines.start(stack)
        await parts.engines.use([SHELF])
        await parts.scheduler.start(stack)
        embedding = store.hang_at("due_vectors")
        await parts.background.sweep()
        engine = parts.engines.engine(SHELF)
        assert isinstance(engine, ShelfEngine)
        await until(lambda: [copy.vector is None for copy in engine.shelf.get(ANA, {}).values()] == [True])
        embedding.release()
        await until(lambda: [copy.vector is None for copy in engine.shelf[ANA].values()] == [False])


async def test_an_engine_that_is_let_go_holds_nothing_and_is_kept_up_no_more(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    engine = world.engine()
    await world.service.drivers.drop(SHELF)
    assert (engine.shelf, world.service.engines.names, world.service.engines.order) == ({}, (), ())
    await world.service.memories.remember(ANA, "walnuts again")
    assert len((await world.found("walnuts"))[0]) == 2
    assert engine.shelf == {}
    for verb in (world.service.drivers.drop, world.service.drivers.rebuild):
        with pytest.raises(DriverNotFound):
            await verb(SHELF)
    await world.service.drivers.switch([SHELF])
    await world.caught_up()
    assert len(world.engine().shelf[ANA]) == 2


async def test_a_restart_goes_on_where_the_engine_was(
    make_world: Callable[..., Any], make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ShelfEngine()
    monkeypatch.setattr(ShelfEngine, "from_settings", lambda settings: engine)
    settings = make_settings(memory_driver=SHELF)
    async with open_service(settings) as service:
        await service.memories.remember(ANA, "Ana eats no walnuts")
        await World(service).caught_up()
    calls = len(engine.calls)
    async with open_service(settings) as service:
        await service.memories.remember(ANA, "walnuts again")
        await World(service).caught_up()
        assert "forget" not in engine.calls[calls:]
        assert len(engine.shelf[ANA]) == 2


async def test_stats_tell_how_engines_fare(world: World) -> None:
    await world.service.memories.remember(ANA, "Ana eats no walnuts")
    await world.caught_up()
    world.engine().away = True
    for _ in range(FAILURES):
        await world.found("walnuts")
    stats = world.service.stats()["drivers"]
    assert stats["asked"] == [SHELF]
    assert stats["engines"][SHELF]["state"] == "down"
    assert stats["engines"][SHELF]["failures"] >= FAILURES
    state = await world.service.engines.state_of(SHELF)
    assert (state["connected"], state["asked"]) == (False, 1)

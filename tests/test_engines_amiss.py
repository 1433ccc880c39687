"""Engines that are behind, emptied, refusing, or wrong: what they do to a question, which must find what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from memory_service import cli
from memory_service.app import Surroundings, make_parts, make_service, open_service
from memory_service.errors import DriverUnavailable
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.memories import MemoryDraft
from memory_service.projections.base import Copy
from memory_service.settings import Settings
from memory_service.stores.base import Sought
from memory_service.stores.sqlite import SQLiteStore
from memory_service.telling import Document
from memory_service.values import Scope
from tests.automem.launcher import AutoMemServer
from tests.support.background import until
from tests.support.engines import ShelfEngine
from tests.support.stores import FaultyStore
from tests.test_engines import ANA, SHELF, World

HERE = "tests.test_engines_amiss"
MakeSettings = Callable[..., Settings]
MakeWorld = Callable[..., Any]


class BestFew(ShelfEngine):
    """Names no more than it was asked for, short texts first."""

    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        ids = await super()._search(scope, sought, 10_000)
        return sorted(ids, key=lambda item_id: len(self._of(scope)[item_id].words))[:limit]


class ByMeaning(ShelfEngine):
    """Finds by vectors alone."""

    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        await self._answer("search")
        near = [copy for copy in self._of(scope).values() if copy.vector is not None and sought.vector is not None]
        return [copy.id for copy in sorted(near, key=lambda copy: -float(copy.vector @ sought.vector))[:limit]]  # type: ignore[operator]


@pytest.fixture
async def make_world(make_settings: MakeSettings) -> AsyncIterator[MakeWorld]:
    async with AsyncExitStack() as stack:

        async def make(memory_driver: str, **changes: Any) -> World:
            settings = make_settings(memory_driver=memory_driver, query_cache_seconds=0, **changes)
            return World(await stack.enter_async_context(open_service(settings, Surroundings(gather_s=0.001))))

        yield make


# Behind


@pytest.mark.parametrize("then", ["rewritten", "deleted"])
async def test_what_is_no_more_so_crowds_out_nothing_that_is(make_world: MakeWorld, then: str) -> None:
    name = f"{HERE}:BestFew"
    world: World = await make_world(name)
    drafts = [MemoryDraft(text="tea", memory_id=f"m{number}") for number in range(60)]
    kept = MemoryDraft(text="In a very long line somebody says that there is tea somewhere", memory_id="kept")
    await world.service.memories.remember_many(ANA, [*drafts, kept])
    await world.caught_up(name)
    world.engine(name).fails_at = {"put", "remove", "forget", "put_vectors"}
    for draft in drafts:
        if then == "deleted":
            await world.service.delete_memory(ANA, draft.memory_id)
    if then == "rewritten":
        await world.service.memories.remember_many(
            ANA, [MemoryDraft(text="rum", memory_id=d.memory_id) for d in drafts]
        )
    assert await world.found("tea", by_words=True, drivers=(name,)) == ([kept.text], ())


async def test_knowledge_that_was_deleted_hides_no_other(make_world: MakeWorld) -> None:
    name = f"{HERE}:BestFew"
    world: World = await make_world(name)
    for number in range(60):
        await world.service.memories.put_document("default", Document(doc_id=f"d{number}", content="tea", category="x"))
    await world.service.memories.put_document(
        "default", Document(doc_id="kept", content="There is tea, they say", category="x")
    )
    await world.caught_up(name)
    world.engine(name).fails_at = {"put", "remove", "forget", "put_vectors"}
    for number in range(60):
        await world.service.delete_document("default", f"d{number}")
    found = await world.service.recall_knowledge("default", "tea", 5, None)
    assert [hit.item.text for hit in found.hits] == ["There is tea, they say"]


async def test_what_has_its_vector_on_record_alone_is_found_by_meaning(make_settings: MakeSettings) -> None:
    store, name = FaultyStore(), f"{HERE}:ByMeaning"
    settings, around = make_settings(memory_driver=name, query_cache_seconds=0), Surroundings(gather_s=0.001)
    parts = make_parts(settings, store, OfflineReader(), LocalEmbedder(), around)
    world = World(make_service(settings, parts, around))
    async with AsyncExitStack() as stack:
        await parts.recall.start(stack)
        await parts.engines.start(stack)
        await parts.engines.use([name])
        await parts.scheduler.start(stack)
        engine = world.engine(name)
        engine.fails_at = {"put_vectors"}
        embedding = store.hang_at("due_vectors")
        await world.service.memories.remember(ANA, "I like hazelnuts and almonds")
        await until(lambda: [copy.vector is None for copy in engine.shelf.get(ANA, {}).values()] == [True])
        embedding.release()
        await until(lambda: "put_vectors" in engine.calls)
        engine.breaker.succeeded()  # it answers questions
        assert await world.found("hazelnut almonds nut") == (["I like hazelnuts and almonds"], ())
        assert world.answered == (1, 0)


# Emptied


async def brought(settings: Settings) -> None:
    """A record of one memory, which its engine has."""
    async with open_service(settings, Surroundings(gather_s=0.001)) as service:
        await service.memories.remember(ANA, "walnuts")
        await World(service).caught_up("pgvector")


async def found_anew(settings: Settings) -> list[str]:
    async with open_service(settings, Surroundings(gather_s=0.001)) as service:
        world = World(service)
        before, _ = await world.found("walnuts")
        await world.service.sweep()
        await world.caught_up("pgvector")
        after, _ = await world.found("walnuts")
        assert world.answered[0] > 0
        assert before == after
        return after


@pytest.fixture
def settings(make_settings: MakeSettings, postgres_url: str) -> Settings:
    return make_settings(memory_driver="pgvector", database_url=postgres_url, query_cache_seconds=0)


async def test_tables_that_migrate_has_made_in_another_database_are_not_thought_to_be_full(
    settings: Settings, postgres_url: str
) -> None:
    await brought(settings)
    with psycopg.connect(postgres_url) as db:
        db.execute("DROP TABLE memory_copies, memory_copies_made, memory_copies_migrations")
    await cli.prepare(settings, fresh=False)
    assert await found_anew(settings) == ["walnuts"]


async def test_a_fresh_beginning_that_is_cut_off_hides_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await brought(settings)
    follow, calls = SQLiteStore.follow, 0

    async def dies_the_second_time(store: SQLiteStore, driver: str, *, anew: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        await follow(store, driver, anew=anew)

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteStore, "follow", dies_the_second_time)
        with pytest.raises(KeyboardInterrupt):
            await cli.prepare(settings, fresh=True)
    assert await found_anew(settings) == ["walnuts"]


@pytest.mark.parametrize(
    "gone", ["memory_copies", "memory_copies_migrations", "memory_copies, memory_copies_made, memory_copies_migrations"]
)
async def test_tables_dropped_beneath_a_running_service_come_back_full(
    settings: Settings, postgres_url: str, gone: str
) -> None:
    async with open_service(settings, Surroundings(gather_s=0.001)) as service:
        world = World(service)
        await service.memories.remember(ANA, "walnuts")
        await world.caught_up("pgvector")
        with psycopg.connect(postgres_url) as db:
            db.execute(f"DROP TABLE {gone}".encode())
        assert (await world.found("walnuts"))[0] == ["walnuts"]

        async def is_back() -> bool:
            assert (await world.found("walnuts"))[0] == ["walnuts"]
            await service.sweep()
            try:
                return len(await service.engines.engine("pgvector").held(ANA)) == 1
            except DriverUnavailable:
                return False

        await until(is_back)


async def test_tables_that_another_process_has_emptied_are_not_believed(settings: Settings, postgres_url: str) -> None:
    async with open_service(settings, Surroundings(gather_s=0.001)) as service:
        world = World(service)
        await service.memories.remember(ANA, "walnuts")
        await world.caught_up("pgvector")
        other = type(service.engines.engine("pgvector")).from_settings(settings)
        async with AsyncExitStack() as stack:
            await other.start(stack)
            await other.drop()
        for _ in range(3):
            assert (await world.found("walnuts"))[0] == ["walnuts"]


# Refusing


async def test_what_automem_refused_for_a_while_is_found(make_world: MakeWorld, automem_server: AutoMemServer) -> None:
    automem_server.fails({"path": "/memory/batch", "status": 400})
    world: World = await make_world("automem", automem_url=automem_server.url)
    await world.service.memories.remember(ANA, "walnuts")
    await until(lambda: world.service.engines.engine("automem").refused)  # type: ignore[attr-defined]
    automem_server.fails()
    await world.service.memories.remember(ANA, "peas")
    assert (await world.found("walnuts", by_words=True))[0] == ["walnuts"]


# Let go


async def test_nothing_that_was_being_brought_is_left_where_an_engine_was_dropped(make_world: MakeWorld) -> None:
    world: World = await make_world(SHELF)
    engine = world.engine()
    put, arrived, go = engine._put, asyncio.Event(), asyncio.Event()

    async def slowly(scope: Scope, copies: Sequence[Copy]) -> None:
        arrived.set()
        await go.wait()
        await put(scope, copies)

    engine._put = slowly  # type: ignore[method-assign]
    await world.service.memories.remember(ANA, "a secret that is to go")
    await arrived.wait()
    dropping = asyncio.create_task(world.service.drivers.drop(SHELF))
    await asyncio.sleep(0)
    go.set()
    await dropping
    assert not any(engine.shelf.values())


async def test_one_whose_drop_failed_is_kept_up_as_before(make_world: MakeWorld) -> None:
    world: World = await make_world(SHELF)
    await world.service.memories.remember(ANA, "walnuts")
    await world.caught_up()
    world.engine().fails_at = {"drop"}
    with pytest.raises(DriverUnavailable):
        await world.service.drivers.drop(SHELF)
    world.engine().fails_at = set()
    await world.service.memories.remember(ANA, "more walnuts")
    await world.caught_up()
    before = world.answered[0]
    assert len((await world.found("walnuts"))[0]) == 2
    assert world.answered[0] == before + 1


# Wrong


@pytest.mark.parametrize("over", ["sqlite", "postgres"])
async def test_ids_that_are_nowhere_on_record_do_no_harm(
    make_world: MakeWorld, over: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [
        "",
        "#",
        "a#b#c",
        "s#x.0",
        "s#x",
        f"s#{'9' * 20}.0",
        "s#-1.0",
        "s#1",
        "s#1.5.5",
        "x" * 9000,
        "\x00",
        "\ud800",
    ]
    odd += ["s#\u0661.0", "a'b", "s#1_0.0", "~", "s# 1.0", "memory_of_nobody"]
    more = {} if over == "sqlite" else {"store_url": request.getfixturevalue("postgres_url")}
    world: World = await make_world(SHELF, **more)
    await world.service.memories.remember(ANA, "walnuts")
    await world.caught_up()
    search = world.engine()._search

    async def oddly(scope: Scope, sought: Sought, limit: int) -> list[str]:
        return [*odd, *await search(scope, sought, limit)]

    monkeypatch.setattr(world.engine(), "_search", oddly)
    assert await world.found("walnuts", by_words=True) == (["walnuts"], ())
    assert world.answered == (1, 0)


async def test_a_mistake_of_an_engine_costs_no_answer_and_tells_no_words(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world: World = await make_world(SHELF)
    await world.service.memories.remember(ANA, "walnuts")
    await world.caught_up()

    async def wrongly(scope: Scope, sought: Sought, limit: int) -> list[str]:
        raise ValueError(f"what is {sought.question}?")

    monkeypatch.setattr(world.engine(), "_search", wrongly)
    assert await world.found("walnuts") == (["walnuts"], ("driver",))
    (record,) = [record for record in caplog.records if "a mistake" in record.message]
    assert record.__dict__["reason"].startswith("ValueError at test_engines_amiss.py:")
    assert "what is" not in caplog.text

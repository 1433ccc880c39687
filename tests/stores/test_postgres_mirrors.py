"""What drivers lack, in PostgreSQL: several processes at once, a database that was there before, lost answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psycopg
import pytest
from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.stores.mirrors import Mirror
from memory_service.stores.postgres import mirrors, scripts
from tests.postgres.proxy import Proxy, pooling
from tests.stores.contract_mirrors import ANA, BEN, DRIVER, Engine, claim, read_on, remember, users
from tests.stores.postgres_database import everything, rows, settings_for
from tests.support.stores import opened
from tests.support.values import a_memory, a_scope, minutes


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    async with opened(postgres_url) as store:
        yield store


@pytest.fixture
async def other(postgres_url: str, store: Store) -> AsyncIterator[Store]:
    """As another process has it."""
    async with opened(postgres_url) as other:
        yield other


# Several processes


async def test_two_that_claim_at_once_have_nobody_in_common(store: Store, other: Store) -> None:
    await store.follow(DRIVER)
    scopes = [a_scope(f"user{number:02}") for number in range(40)]
    await asyncio.gather(*(remember(store, scope=scope) for scope in scopes))
    parts = await asyncio.gather(*(claim((store, other)[n % 2], limit=7, until=minutes(n + 1)) for n in range(8)))
    claimed = users([mirror for part in parts for mirror in part])
    claimed += users(await claim(store, limit=100))  # who was locked in that moment is passed over
    assert sorted(claimed) == [scope.user_id for scope in scopes]


async def test_whom_another_is_claiming_is_passed_over_and_not_waited_for(store: Store, postgres_url: str) -> None:
    await store.follow(DRIVER)
    for scope in (ANA, BEN):
        await remember(store, scope=scope)
    async with await psycopg.AsyncConnection.connect(postgres_url) as another:
        await another.execute("UPDATE mirrors SET lease_until = 9999999999999999 WHERE user_id = 'ana'")
        async with asyncio.timeout(10):
            assert users(await claim(store)) == ["ben"]
        await another.commit()
    assert await claim(store) == []


async def test_a_driver_that_is_followed_by_another_process_too_keeps_its_leases(store: Store, other: Store) -> None:
    await store.follow(DRIVER)
    await remember(store)
    (mirror,) = await claim(store)
    await other.follow(DRIVER)
    assert await claim(other) == []
    assert await store.put_mirror(mirror)


async def test_who_is_written_while_users_are_claimed_waits_for_nobody_in_a_circle(
    store: Store, other: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scopes, drivers = [a_scope(f"user{number}") for number in range(6)], ["one", "two", "three"]
    await asyncio.gather(*(place.follow(name) for name in drivers for place in (store, other)))

    async def write(number: int) -> None:
        for round_ in range(15):
            for scope in scopes:
                await remember((store, other)[number % 2], f"{round_}", scope, f"m{number}")
        await other.erase(scopes[number])

    async def follow(driver: str, place: Store) -> None:
        while not writing.done() or await place.lagging(driver):
            for mirror in await claim(place, driver, limit=3):
                await place.put_mirror((await read_on(place, mirror))[1])

    writing = asyncio.gather(*(write(number) for number in range(4)))
    async with asyncio.timeout(60):
        await asyncio.gather(writing, *(follow(name, place) for name in drivers for place in (store, other)))
    assert "asking PostgreSQL again" not in caplog.messages, "somebody met a deadlock"


async def test_who_begins_to_be_written_while_a_driver_is_new_is_not_missed(store: Store, postgres_url: str) -> None:
    """It does not see the driver yet, and is not seen by whoever notes all users."""
    async with await psycopg.AsyncConnection.connect(postgres_url) as commit:
        await commit.execute("INSERT INTO owners (tenant_id, user_id) VALUES ('default', 'ana')")
        await commit.execute("UPDATE owners SET written = 1")
        following = asyncio.create_task(store.follow(DRIVER))
        async with asyncio.timeout(10):
            while not rows(postgres_url, "SELECT FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await commit.commit()
        await following
    assert users(await claim(store)) == ["ana"]


async def test_many_users_are_noted_some_at_a_time(
    store: Store, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "USERS_AT_ONCE", 3)
    await asyncio.gather(*(remember(store, scope=a_scope(f"user{number}")) for number in range(8)))
    await store.follow(DRIVER)
    assert len(await claim(store)) == 8
    await store.follow(DRIVER, anew=True)
    assert {mirror.begun for mirror in await claim(store, now=minutes(9))} == {1}
    await store.unfollow(DRIVER)
    assert "mirrors" not in everything(postgres_url)
    assert rows(postgres_url, "SELECT * FROM drivers") == []


# A database that was there before


@pytest.mark.parametrize("searched", ["process", "auto"])
async def test_a_database_of_the_former_schema_is_followed_from_the_start(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, searched: str
) -> None:
    settings = settings_for(postgres_url, store_search=searched)
    with monkeypatch.context() as before:
        ours = scripts.scripts_of("memory_service.stores.postgres")
        before.setattr(scripts, "scripts_of", lambda _: {number: ours[number] for number in (1, 2)})
        async with opened(settings) as store:
            await remember(store, "before")
    async with opened(settings) as store:
        await remember(store, "not followed yet", BEN)
        await store.follow(DRIVER)
        assert [(m.scope, m.cursor) for m in await claim(store)] == [(ANA, None), (BEN, None)]
        await remember(store, scope=a_scope("cleo"))
        assert users(await claim(store)) == ["cleo"]
    applied = rows(postgres_url, "SELECT number FROM memory_migrations ORDER BY number")
    assert applied == [(number,) for number in sorted(ours) if number != 2 or searched != "process"]
    async with opened(postgres_url) as store:  # what it is searched by may come after
        await remember(store, scope=a_scope("dan"))
        assert users(await claim(store)) == ["dan"]


# Items by name


async def test_names_that_nothing_can_have_are_passed_over(store: Store) -> None:
    await remember(store)
    found = await store.items(ANA, ["s#x", "#1", "1", f"s#{'9' * 30}", "", "m"], "space")
    assert [memory.memory_id for memory in found.memories] == ["m"]


# A lost answer


@pytest.fixture
async def line(postgres_url: str) -> AsyncIterator[tuple[Proxy, Store]]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(pooling(postgres_url))
        yield proxy, await stack.enter_async_context(opened(proxy.url))


async def test_a_claim_whose_answer_was_lost_returns_whom_it_has_leased(line: tuple[Proxy, Store]) -> None:
    proxy, store = line
    await store.follow(DRIVER)
    for number in range(4):
        await remember(store, scope=a_scope(f"user{number}"))
    proxy.drop_answers()
    claimed = await claim(store, limit=2)
    assert len(claimed) == 2
    assert len(await claim(store, until=minutes(2))) == 2, "nobody stays leased for no one"
    assert all([await store.put_mirror(mirror) for mirror in claimed])


@pytest.mark.parametrize("prolonged", [None, minutes(9)], ids=["ended", "prolonged"])
async def test_a_mirror_whose_answer_was_lost_is_kept_once_and_said_to_be(
    line: tuple[Proxy, Store], prolonged: object
) -> None:
    proxy, store = line
    await store.follow(DRIVER)
    await remember(store)
    (mirror,) = await claim(store)
    _, then = await read_on(store, mirror)
    proxy.drop_answers()
    assert await store.put_mirror(then, lease_until=prolonged)
    held = await store.mirror(ANA, DRIVER)
    assert (held.cursor, held.lease_until) == (then.cursor, prolonged)
    assert await store.lagging(DRIVER) == 0


async def test_the_last_of_an_erased_user_is_done_also_when_its_answer_was_lost(
    line: tuple[Proxy, Store], postgres_url: str
) -> None:
    proxy, store = line
    await store.follow(DRIVER)
    await remember(store)
    await Engine(store).catch_up()
    await store.erase(ANA)
    (mirror,) = await claim(store)
    proxy.drop_answers()
    assert await store.put_mirror(mirror)
    assert everything(postgres_url) == {}


async def test_a_mirror_that_counts_no_more_does_not_count_when_its_answer_was_lost_either(
    line: tuple[Proxy, Store],
) -> None:
    proxy, store = line
    await store.follow(DRIVER)
    await remember(store)
    (mirror,) = await claim(store)
    _, then = await read_on(store, mirror)
    await store.follow(DRIVER, anew=True)
    proxy.drop_answers()
    assert not await store.put_mirror(then)
    (again,) = await claim(store)
    assert again.cursor is None
    proxy.drop_answers()
    assert not await store.put_mirror(replace(then, lease_until=minutes(2)), caught_up=False), "another's"
    assert await store.put_mirror(again)


async def test_what_was_written_under_a_lease_counts_though_another_holds_the_next(
    store: Store, postgres_url: str
) -> None:
    """As where an answer is lost, and it takes long to ask again."""
    await store.follow(DRIVER)
    await remember(store)
    (mine,) = await claim(store)
    assert await store.put_mirror(mine, caught_up=False)
    (others,) = await claim(store, until=minutes(3))
    told = await put_again(store, mine)
    assert told
    assert not await put_again(store, replace(mine, lease_until=minutes(2)))
    assert (await store.mirror(ANA, DRIVER)).lease_until == others.lease_until


async def put_again(store: Store, mirror: Mirror) -> bool:
    """The second time the statement is sent, and nothing came back the first time."""
    client = store._client

    async def call(work: object) -> object:
        async with client._pool.connection() as db:
            return await work(db, True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "call", call)
        return bool(await store.put_mirror(mirror, caught_up=False))


async def test_a_commit_marks_its_user_once_also_when_its_answer_was_lost(line: tuple[Proxy, Store]) -> None:
    proxy, store = line
    await store.follow(DRIVER)
    proxy.drop_answers()
    await store.commit(Commit(scope=ANA, memories=(a_memory("m"),)))
    engine = Engine(store)
    assert await engine.catch_up() == ["ana"]
    assert await engine.catch_up() == []

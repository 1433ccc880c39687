"""What drivers lack, in Cosmos DB: what it costs, changes found by their time, several processes, lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.cosmos import CosmosClient
from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.stores.cosmos import feed, mirrors
from memory_service.values import Hot
from tests.cosmos.launcher import KEY, CosmosServer
from tests.stores.contract_mirrors import ANA, BEN, DRIVER, Engine, claim, read_on, remember, users
from tests.stores.contract_moving import a_life, all_of, all_users
from tests.stores.cosmos_account import documents, settings_for
from tests.support.stores import opened
from tests.support.values import a_key, a_memory, a_scope, a_session, a_vector, begin, embed_all, minutes, next_turn

LOST = {"op": "batch", "drop": "after", "times": 1}


@pytest.fixture
async def store(cosmos_server: CosmosServer) -> AsyncIterator[Store]:
    async with opened(settings_for(cosmos_server)) as store:
        await store.entries(a_scope("nobody"), None, "space")  # what the SDK asks for once, it has
        yield store


@pytest.fixture
async def other(store: Store, cosmos_server: CosmosServer) -> AsyncIterator[Store]:
    """As another process has it."""
    async with opened(settings_for(cosmos_server)) as other:
        yield other


def ops(server: CosmosServer) -> list[str]:
    return [call["op"] for call in server.calls() if not call["op"].startswith("GET ")]


def ours(server: CosmosServer) -> list[dict[str, Any]]:
    return [found for found in documents(server, "interactions") if found["type"] in ("mirror", "driver")]


def change(server: CosmosServer, kind: str, **values: Any) -> None:
    """Write over what is kept of drivers, around the store."""
    with CosmosClient(server.url, KEY) as client:
        items = client.get_database_client("agent_memory").get_container_client("interactions")
        for document in ours(server):
            if document["type"] == kind:
                items.replace_item(document["id"], {**document, **values})


# What it costs


@pytest.mark.parametrize("followed", [False, True])
async def test_a_commit_costs_the_same_whether_a_driver_is_followed_or_not(
    store: Store, cosmos_server: CosmosServer, followed: bool
) -> None:
    hot = Hot(session=await begin(store, a_key()))
    if followed:
        await store.follow(DRIVER)
        await Engine(store).catch_up()
    cosmos_server.calls()
    commit, _ = next_turn(hot, a_key())
    await store.commit(commit)
    (call,) = cosmos_server.calls()
    assert (call["op"], call["ru"]) == ("batch", 10)


async def test_an_erasure_costs_the_same_where_no_driver_is_followed(store: Store, cosmos_server: CosmosServer) -> None:
    await begin(store, a_key(), turns=2)
    cosmos_server.calls()
    await store.erase(ANA)
    assert sorted(ops(cosmos_server)) == ["batch"] * 2 + ["query"] * 5
    await store.erase(ANA)
    assert ops(cosmos_server) == ["query"] * 3


async def test_a_driver_that_is_not_followed_costs_one_look(store: Store, cosmos_server: CosmosServer) -> None:
    cosmos_server.calls()
    await claim(store)
    assert await store.lagging(DRIVER) == 0
    assert ops(cosmos_server) == ["read", "read"]


async def test_a_look_is_a_question_a_container_and_one_for_whom_there_is(
    store: Store, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remember(store)
    await store.follow(DRIVER)
    await Engine(store).catch_up()
    monkeypatch.setattr(mirrors, "SKEW_S", 0)
    await asyncio.sleep(1.1)  # what is older than the last look is not asked for again
    await claim(store)
    cosmos_server.calls()
    await asyncio.sleep(1.1)
    assert await claim(store) == []
    assert ops(cosmos_server) == ["read"] + ["query"] * 3 + ["batch"] + ["query"]


# Found by their time


async def test_a_change_within_the_same_second_is_found_and_brought_once(
    store: Store, cosmos_server: CosmosServer
) -> None:
    await store.follow(DRIVER)
    engine, times = Engine(store), []
    while len(set(times)) == len(times):  # a slow machine needs several tries to do it twice within a second
        said = f"{len(times)}"
        await remember(store, said)
        assert await engine.catch_up() == ["ana"]
        assert (await engine.catch_up(), engine.held) == ([], {ANA: {"m": said}})
        times += [document["_ts"] for document in documents(cosmos_server, "insights")]


async def test_who_was_written_while_nobody_looked_for_long_is_found(
    store: Store, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SKEW_S", 0), ("LOOK_S", 2), ("OWNERS_AT_ONCE", 1)):
        monkeypatch.setattr(mirrors, name, value)
    await store.follow(DRIVER)
    (driver,) = ours(cosmos_server)
    change(cosmos_server, "driver", since=driver["since"] - 5)
    for number in range(4):
        await remember(store, scope=a_scope(f"user{number}"))
        await begin(store, a_key(user_id=f"another{number}"), turns=1)
        await asyncio.sleep(0.8)
    assert len(await claim(store)) == 8
    (then,) = [document for document in ours(cosmos_server) if document["type"] == "driver"]
    assert then["since"] > driver["since"]


async def test_what_was_noted_by_one_is_not_noted_again_by_another(store: Store, other: Store) -> None:
    await store.follow(DRIVER)
    await remember(store)
    assert [await place.lagging(DRIVER) for place in (store, other)] == [1, 1]
    (mirror,) = await claim(store)
    assert await other.lagging(DRIVER) == 1
    assert mirror.changed == 1
    _, then = await read_on(store, mirror)
    assert await store.put_mirror(then)
    assert [await place.lagging(DRIVER) for place in (store, other)] == [0, 0]


# Where a driver is


async def test_a_long_way_goes_on_where_it_was_in_another_process(store: Store, other: Store) -> None:
    for number in range(6):
        await remember(store, memory_id=f"m{number}")
    await begin(store, a_key(), turns=3)
    for item in (await store.due_vectors("space", 100))[:5]:
        await store.commit(Commit(scope=ANA, vectors=(a_vector(item),)))
    await store.follow(DRIVER)
    (mirror,) = await claim(store)
    first, mirror = await read_on(store, mirror, limit=3)
    second, mirror = await read_on(store, mirror, limit=2)
    assert await store.put_mirror(mirror, caught_up=False)
    (mirror,) = await claim(other)
    assert await other.put_mirror(mirror, caught_up=False)  # given back as it was
    (mirror,) = await claim(other)
    third, _ = await read_on(other, mirror)
    found = [memory.memory_id for page in (first, second, third) for memory in page.memories]
    found += [turn.turn_id for page in (first, second, third) for turn in page.turns]
    assert sorted(found) == ["m0", "m1", "m2", "m3", "m4", "m5", "t1", "t2", "t3"]


async def test_what_changed_since_it_was_given_comes_again(store: Store) -> None:
    await store.follow(DRIVER)
    for number in range(3):
        await remember(store, memory_id=f"m{number}")
    (mirror,) = await claim(store)
    first, mirror = await read_on(store, mirror, limit=2)
    given = [memory.memory_id for memory in first.memories]
    await remember(store, "other words", memory_id=given[0])
    await embed_all(store)
    assert await store.put_mirror(mirror, caught_up=False)
    (mirror,) = await claim(store)
    rest, _ = await read_on(store, mirror)
    assert sorted(memory.memory_id for memory in rest.memories) == sorted({"m0", "m1", "m2"} - {given[1]})
    assert len(rest.vectors) == 3, "of what was given without, the vector alone"


async def test_where_too_much_is_known_of_items_some_come_again_and_none_is_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_KEPT", 1)
    await store.follow(DRIVER)
    engine = Engine(store)
    await begin(store, a_key(), turns=3)
    await engine.catch_up()
    await embed_all(store)
    (mirror,) = await claim(store)
    rest, _ = await read_on(store, mirror)
    assert [turn.seq for turn in rest.turns] == [1, 2]
    assert len(rest.vectors) == 3


# Several processes


async def test_two_that_claim_at_once_have_nobody_in_common(store: Store, other: Store) -> None:
    await store.follow(DRIVER)
    scopes = [a_scope(f"user{number:02}") for number in range(20)]
    await asyncio.gather(*(remember(store, scope=scope) for scope in scopes))
    parts = await asyncio.gather(*(claim((store, other)[n % 2], until=minutes(n + 1)) for n in range(4)))
    claimed = users([mirror for part in parts for mirror in part])
    assert sorted(claimed) == [scope.user_id for scope in scopes]


async def test_two_that_begin_to_follow_at_once_both_follow(store: Store, other: Store) -> None:
    await remember(store)
    await remember(store, scope=BEN)
    await asyncio.gather(store.follow(DRIVER), other.follow(DRIVER), store.follow(DRIVER))
    engine = Engine(other)
    assert await engine.catch_up() == ["ana", "ben"]
    assert await claim(store) == []


async def test_a_driver_that_is_followed_by_another_process_too_keeps_its_leases(store: Store, other: Store) -> None:
    await store.follow(DRIVER)
    await remember(store)
    (mirror,) = await claim(store)
    await other.follow(DRIVER)
    assert await claim(other) == []
    assert await store.put_mirror(mirror)


async def test_what_is_left_of_a_driver_that_was_followed_before_is_relied_on_no_more(
    store: Store, cosmos_server: CosmosServer
) -> None:
    """As where whoever ended it was ended on the way."""
    await store.follow(DRIVER)
    await remember(store)
    await Engine(store).catch_up()
    cosmos_server.fails({"op": "query", "status": 403})
    with pytest.raises(Exception, match="403"):
        await store.unfollow(DRIVER)
    cosmos_server.fails()
    await remember(store, memory_id="n")
    assert await claim(store) == []
    await store.follow(DRIVER)
    (mirror,) = await claim(store)
    assert mirror.cursor is None


# Erased


async def test_who_is_erased_is_no_user_any_more_while_drivers_have_yet_to_forget_them(
    store: Store, cosmos_server: CosmosServer
) -> None:
    await store.follow(DRIVER)
    await a_life(store)
    await Engine(store).catch_up()
    await store.erase(ANA)
    assert (await all_users(store), await all_of(store)) == ([], [])
    assert await store.lagging(DRIVER) == 1
    await store.erase(ANA)
    await Engine(store).catch_up()
    assert [document["type"] for document in ours(cosmos_server)] == ["driver"]


async def test_who_is_followed_for_the_first_time_while_being_erased_is_forgotten(
    store: Store, other: Store, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.follow(DRIVER)
    await begin(store, a_key(), turns=1)
    await remember(store)
    rows, reached, may_go_on = store._client.rows, asyncio.Event(), asyncio.Event()

    async def held_up(verb: str, container: str, sql: str, *given: Any, **named: Any) -> list[Any]:
        if container == "insights" and "TOP 1000" in sql:
            reached.set()
            await may_go_on.wait()
        return await rows(verb, container, sql, *given, **named)

    monkeypatch.setattr(store._client, "rows", held_up)
    erasing = asyncio.create_task(store.erase(ANA))
    await reached.wait()
    (mirror,) = await claim(other)
    entries, then = await read_on(other, mirror)
    assert [memory.memory_id for memory in entries.memories] == ["m"], "it was still there"
    may_go_on.set()
    await erasing
    assert not await other.put_mirror(then)
    (again,) = await claim(other)
    assert again.cursor is None
    assert await other.put_mirror(again)
    assert [document["type"] for document in ours(cosmos_server)] == ["driver"]


async def test_who_was_erased_before_being_followed_leaves_nothing(store: Store, cosmos_server: CosmosServer) -> None:
    """Found before, noted after."""
    await store.follow(DRIVER)
    await remember(store)
    assert await store.lagging(DRIVER) == 1
    (mirror,) = [document for document in ours(cosmos_server) if document["type"] == "mirror"]
    await store.erase(ANA)
    change(cosmos_server, "mirror", begun=mirror["begun"], perhaps_gone=mirror["perhaps_gone"])
    await Engine(store).catch_up()
    assert [document["type"] for document in ours(cosmos_server)] == ["driver"]


async def test_who_comes_back_while_they_are_forgotten_is_followed_on(
    store: Store, cosmos_server: CosmosServer
) -> None:
    await store.follow(DRIVER)
    await remember(store)
    engine = Engine(store)
    await engine.catch_up()
    await store.erase(ANA)
    (mirror,) = await claim(store)
    await remember(store, "after", memory_id="n")
    _, then = await read_on(store, mirror)
    assert await store.put_mirror(then)
    assert [document["type"] for document in ours(cosmos_server)] == ["mirror", "driver"]
    await store.erase(ANA)
    (again,) = await claim(store)
    assert again.cursor is None


# Lost answers


STEPS = [(False, step) for step in ("look", "note", "claim", "put")] + [
    (True, step) for step in ("note", "claim", "put")
]


@pytest.mark.parametrize(("known", "step"), STEPS)
async def test_a_step_whose_answer_was_lost_is_done_once(
    store: Store, cosmos_server: CosmosServer, known: bool, step: str
) -> None:
    await store.follow(DRIVER)
    engine = Engine(store)
    if known:
        await remember(store, "likes rum")
        await engine.catch_up()
    await remember(store)
    steps = [name for is_known, name in STEPS if is_known == known]
    cosmos_server.fails({**LOST, "skip": steps.index(step)})
    assert await engine.catch_up() == ["ana"]
    assert [call["fault"] for call in cosmos_server.calls() if call.get("fault")], "it was lost"
    assert (await engine.catch_up(), engine.held) == ([], {ANA: {"m": "likes tea"}})
    assert (await store.mirror(ANA, DRIVER)).changed == 1 + known


async def test_the_last_of_an_erased_user_is_done_also_when_answers_are_lost(
    store: Store, cosmos_server: CosmosServer
) -> None:
    await store.follow(DRIVER)
    await remember(store)
    await Engine(store).catch_up()
    cosmos_server.fails({**LOST, "times": 2})
    await store.erase(ANA)
    (mirror,) = await claim(store)
    assert mirror.cursor is None
    cosmos_server.fails(LOST)
    assert await store.put_mirror(mirror)
    assert [document["type"] for document in ours(cosmos_server)] == ["driver"]


async def test_a_mirror_that_was_prolonged_is_kept_once_and_another_s_is_not_taken_for_one_s_own(
    store: Store, cosmos_server: CosmosServer
) -> None:
    await store.follow(DRIVER)
    await remember(store)
    (mirror,) = await claim(store)
    _, then = await read_on(store, mirror)
    cosmos_server.fails(LOST)
    assert await store.put_mirror(then, caught_up=False, lease_until=minutes(9))
    cosmos_server.fails(LOST)
    assert not await store.put_mirror(then, caught_up=False), "its lease is another by now"
    cosmos_server.fails()
    assert await store.put_mirror(replace(then, lease_until=minutes(9)))


async def test_whatever_is_written_while_a_mirror_is_kept_is_not_lost(
    store: Store, other: Store, cosmos_server: CosmosServer
) -> None:
    await store.follow(DRIVER)
    await remember(store)
    (mirror,) = await claim(store)
    _, then = await read_on(store, mirror)
    cosmos_server.fails({"op": "batch", "body": "cursor", "delay_ms": 700, "times": 1})
    putting = asyncio.create_task(store.put_mirror(then))
    await asyncio.sleep(0.2)
    await remember(other, memory_id="n")
    assert await other.lagging(DRIVER) == 1  # noted in between
    assert await putting
    (again,) = await claim(other)
    entries, _ = await read_on(other, again)
    assert [memory.memory_id for memory in entries.memories] == ["n"]


# Items by name


async def test_items_of_many_sessions_are_one_question_a_container(store: Store, cosmos_server: CosmosServer) -> None:
    names = []
    for number in range(12):
        commit, _ = next_turn(Hot(session=a_session(f"s{number}")), a_key(f"s{number}"))
        await store.commit(Commit(scope=ANA, session=a_session(f"s{number}")))
        await store.commit(replace(commit, session=a_session(f"s{number}").with_turn(commit.turns[0])))
        names.append(f"s{number}#1")
    await store.commit(Commit(scope=ANA, memories=(a_memory("m"), a_memory("summary_s", kind="summary"))))
    cosmos_server.calls()
    found = await store.items(ANA, [*names, "m", "summary_s", "unknown"], "space")
    assert (len(found.turns), len(found.memories)) == (12, 2)
    assert ops(cosmos_server) == ["query"] * 3


async def test_names_that_nothing_can_have_are_passed_over(store: Store) -> None:
    await remember(store)
    found = await store.items(ANA, ["s#x", "#1", "1", f"s#{'9' * 30}", "", "m"], "space")
    assert [memory.memory_id for memory in found.memories] == ["m"]

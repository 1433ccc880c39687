"""The store in Cosmos DB when the service does not answer, or says no: what was acknowledged is there exactly once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos import CosmosClient
from msgspec.structs import replace

from memory_service.errors import ContentTooLarge, StaleVersion, StoreThrottled, StoreUnavailable, UnsafeStart
from memory_service.stores.base import Commit, DuplicateRequest, DuplicateTurn, Store
from memory_service.stores.cosmos import batches, client
from memory_service.stores.cosmos.erasing import Erasing
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.quarantine import Quarantine
from memory_service.values import Effect, Hot, Request, SessionKey
from tests.cosmos.launcher import KEY as ACCOUNT_KEY
from tests.cosmos.launcher import CosmosServer
from tests.stores.contract_erasing import ANA, resting_on
from tests.stores.contract_quarantine import OF_TURN_2, exported, poisoned, shown, words
from tests.stores.contract_quarantine import named as named_turns
from tests.stores.cosmos_account import everything, settings_for
from tests.support.background import until
from tests.support.stores import opened
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_session,
    a_sitting,
    a_turn,
    a_vector,
    begin,
    embed_all,
    minutes,
    next_turn,
)

KEY = a_key()

LOST = {"drop": "after"}
NEVER_ARRIVED = {"drop": "before"}
PASSING: list[dict[str, Any]] = [
    LOST,
    NEVER_ARRIVED,
    *({"status": status} for status in (408, 410, 449, 500, 503)),
    *({"status": 410, "substatus": moved_or_split} for moved_or_split in (1000, 1002, 1007, 1008)),
    {"status": 404, "substatus": 1002},
    {"status": 429, "retry_after_ms": 20},
    {"status": 429, "retry_after_ms": 700},
    {"status": 403, "substatus": 5300},
]

TWICE = PASSING[:-1]
"""A sign-in that has run out is made anew once."""


def named(fault: dict[str, Any]) -> str:
    return "-".join(f"{name}={value}" for name, value in fault.items())


@pytest.fixture
async def store(cosmos_server: CosmosServer) -> AsyncIterator[Store]:
    async with opened(settings_for(cosmos_server)) as store:
        yield store


@pytest.fixture
async def hot(store: Store) -> Hot:
    """A session with two turns."""
    await begin(store, KEY, turns=2)
    found = await store.load(KEY)
    assert found is not None
    return found


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is one second for all retries; what is answered is answered at once, but on a slow machine."""
    monkeypatch.setattr(client, "VERB_S", 1.0)


async def said(store: Store, key: SessionKey = KEY) -> list[str]:
    turns = await store.turns(key)
    assert [turn.seq for turn in turns] == list(range(1, len(turns) + 1))
    return [turn.messages[0].content for turn in turns]


# A fault that passes


@pytest.mark.parametrize(
    "fault", [{"times": 1, **fault} for fault in PASSING] + [{"times": 2, **fault} for fault in TWICE], ids=named
)
async def test_a_turn_is_stored_exactly_once_whatever_befalls_the_call(
    store: Store, hot: Hot, cosmos_server: CosmosServer, fault: dict[str, Any]
) -> None:
    cosmos_server.fails({"op": "batch", **fault})
    commit, then = next_turn(hot, KEY, text="third")
    await store.commit(replace(commit, request=Request(key="k", digest="d", made_at=NOON)))
    assert await said(store) == ["hello", "hello", "third"]
    assert await store.load(KEY) == then
    assert await store.find_effect(KEY.scope, "k") == Effect(digest="d", session_id="s", turn_id="t3")
    with pytest.raises(StaleVersion):
        await store.commit(commit)
    with pytest.raises(DuplicateRequest):
        await store.commit(replace(commit, request=Request(key="k", digest="d", made_at=NOON)))


@pytest.mark.parametrize("fault", PASSING, ids=named)
async def test_a_session_a_head_and_a_sitting_are_written_once_as_well(
    store: Store, cosmos_server: CosmosServer, fault: dict[str, Any]
) -> None:
    head = a_session()
    sitting = a_sitting()
    ended = head.ended("client")
    for commit in (
        Commit(scope=KEY.scope, session=head),
        Commit(scope=KEY.scope, session=ended),
        Commit(scope=KEY.scope, sittings=(sitting,)),
        Commit(scope=KEY.scope, sittings=(sitting.claimed(NOON),), memories=(a_memory("m"),)),
    ):
        cosmos_server.fails({"op": "batch", "times": 1, **fault})
        await store.commit(commit)
    assert await store.load(KEY) == Hot(session=ended)
    assert await store.sittings(KEY) == [sitting.claimed(NOON)]
    assert await store.memories(KEY.scope, ["insight"]) == [a_memory("m")]


@pytest.mark.parametrize("fault", PASSING, ids=named)
async def test_a_commit_that_is_refused_is_refused_whatever_befalls_the_call(
    store: Store, hot: Hot, cosmos_server: CosmosServer, fault: dict[str, Any]
) -> None:
    repeat = a_turn(3, turn_id="t1")
    for commit, error in (
        (Commit(scope=KEY.scope, session=hot.session.with_turn(repeat), turns=(repeat,)), DuplicateTurn),
        (Commit(scope=KEY.scope, session=hot.session), StaleVersion),
        (Commit(scope=KEY.scope, session=a_session()), StaleVersion),
    ):
        before = everything(cosmos_server)
        cosmos_server.fails({"op": "batch", "times": 1, **fault})
        with pytest.raises(error):
            await store.commit(commit)
        assert everything(cosmos_server) == before


@pytest.mark.parametrize("fault", PASSING, ids=named)
@pytest.mark.parametrize("op", ["read", "query", "change_feed"])
async def test_reading_is_tried_again(
    store: Store, hot: Hot, cosmos_server: CosmosServer, fault: dict[str, Any], op: str
) -> None:
    cosmos_server.fails({"op": op, "times": 1, **fault})
    assert await store.load(KEY) == hot
    assert len((await store.entries(KEY.scope, None, "space")).turns) == 2
    assert len(await store.due_vectors("space", 10)) == 2


@pytest.mark.parametrize("fault", [LOST, NEVER_ARRIVED, {"status": 503}], ids=named)
async def test_vectors_are_written_though_answers_are_lost(
    store: Store, hot: Hot, cosmos_server: CosmosServer, fault: dict[str, Any]
) -> None:
    cosmos_server.fails({"op": "batch", "times": 1, **fault})
    assert await embed_all(store) == 2
    assert len((await store.entries(KEY.scope, None, "space")).vectors) == 2


async def test_many_turns_of_two_replicas_are_there_once_each_while_answers_are_lost(
    store: Store, cosmos_server: CosmosServer
) -> None:
    await begin(store, KEY)
    async with opened(settings_for(cosmos_server)) as other:
        cosmos_server.fails(
            {"op": "batch", "skip": 3, "times": 5, **LOST},
            {"op": "batch", "skip": 20, "times": 5, **NEVER_ARRIVED},
            {"op": "batch", "skip": 40, "times": 3, "status": 503},
            {"op": "batch", "skip": 50, "times": 3, "status": 429, "retry_after_ms": 10},
        )

        async def talk(replica: Store, name: str) -> None:
            for number in range(15):
                while True:
                    hot = await replica.load(KEY)
                    assert hot is not None
                    commit, _ = next_turn(hot, KEY, turn_id=f"{name}{number}", text=f"{name}{number}")
                    try:
                        await replica.commit(commit)
                    except StaleVersion:
                        continue
                    break

        await asyncio.gather(talk(store, "a"), talk(other, "b"))
    told = await said(store)
    assert sorted(told) == sorted(f"{name}{number}" for name in "ab" for number in range(15))
    assert [text for text in told if text[0] == "a"] == [f"a{number}" for number in range(15)]


async def test_a_condition_that_does_not_hold_is_a_stale_version_and_nothing_is_written(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    before = everything(cosmos_server)
    cosmos_server.fails({"op": "batch", "status": 412, "times": 1})
    commit, then = next_turn(hot, KEY)
    with pytest.raises(StaleVersion):
        await store.commit(commit)
    assert everything(cosmos_server) == before
    await store.commit(commit)
    assert await store.load(KEY) == then


async def test_a_session_that_is_written_while_it_is_loaded_is_loaded_as_it_was_or_as_it_is(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    """The head is read first: turns that came after it are not of this state."""
    cosmos_server.fails({"op": "query", "times": 1, "delay_ms": 1000})
    cosmos_server.calls()
    loading = asyncio.create_task(store.load(KEY))
    await until(lambda: any(call["op"] == "read" for call in cosmos_server.calls()))
    await store.commit(next_turn(hot, KEY)[0])
    assert await loading == hot


async def test_of_two_replicas_that_commit_at_once_one_wins_and_the_other_is_told(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    async with opened(settings_for(cosmos_server)) as other:
        for _ in range(10):
            found = await store.load(KEY)
            assert found is not None
            commits = [
                next_turn(found, KEY, turn_id=f"{found.session.turn_count}{name}", text=name)[0] for name in "ab"
            ]
            outcomes = await asyncio.gather(store.commit(commits[0]), other.commit(commits[1]), return_exceptions=True)
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StaleVersion"]
    assert len(await said(store)) == 12


async def test_a_lost_answer_is_known_for_its_own_though_another_went_on_since(
    store: Store, hot: Hot, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is the other's by then; the turn tells."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 1.0)
    async with opened(settings_for(cosmos_server)) as other:
        cosmos_server.fails({"op": "batch", "times": 1, **LOST})
        commit, then = next_turn(hot, KEY, text="mine")
        storing = asyncio.create_task(store.commit(commit))

        async def landed() -> bool:
            return await other.load(KEY) == then

        await until(landed)
        await other.commit(next_turn(then, KEY, text="theirs")[0])
        await storing
    assert (await said(store))[2:] == ["mine", "theirs"]


# A fault that stays


async def test_what_stays_throttled_is_told_with_when_to_come_again(
    store: Store, hot: Hot, cosmos_server: CosmosServer, hasty: None
) -> None:
    cosmos_server.fails({"op": "batch", "status": 429, "retry_after_ms": 7000})
    began = time.monotonic()
    with pytest.raises(StoreThrottled) as caught:
        await store.commit(next_turn(hot, KEY)[0])
    assert caught.value.retry_after_s == 7
    assert time.monotonic() - began < 8
    assert store.usage()["throttled"] >= 1
    cosmos_server.fails()
    await store.commit(next_turn(hot, KEY)[0])
    assert len(await said(store)) == 3


@pytest.mark.parametrize("fault", [NEVER_ARRIVED, {"status": 408}, {"status": 449}, {"status": 503}], ids=named)
async def test_what_does_not_pass_is_store_unavailable_in_bounded_time(
    store: Store, hot: Hot, cosmos_server: CosmosServer, fault: dict[str, Any], hasty: None
) -> None:
    cosmos_server.fails({"op": "batch", **fault}, {"op": "read", **fault}, {"op": "query", **fault})
    began = time.monotonic()
    for verb in (store.commit(next_turn(hot, KEY)[0]), store.load(KEY), store.turns(KEY), store.ping()):
        with pytest.raises(StoreUnavailable):
            await verb
    assert time.monotonic() - began < 4 * 5
    cosmos_server.fails()
    await store.commit(next_turn(hot, KEY)[0])
    assert len(await said(store)) == 3


async def test_a_commit_whose_every_answer_is_lost_may_stand_and_is_then_known_as_a_repeat(
    store: Store, hot: Hot, cosmos_server: CosmosServer, hasty: None
) -> None:
    cosmos_server.fails({"op": "batch", **LOST}, {"op": "read", **LOST})
    commit, then = next_turn(hot, KEY, text="third")
    with pytest.raises(StoreUnavailable):
        await store.commit(commit)
    cosmos_server.fails()
    assert await store.load(KEY) == then
    with pytest.raises(StaleVersion):
        await store.commit(commit)
    assert await said(store) == ["hello", "hello", "third"]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_that_will_not_pass_is_told_at_once_and_holds_no_words(
    store: Store, hot: Hot, cosmos_server: CosmosServer, status: int
) -> None:
    cosmos_server.fails({"op": "batch", "status": status, "message": "secret"})
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=str(status)) as caught:
        await store.commit(next_turn(hot, KEY, text="secret")[0])
    assert time.monotonic() - began < 8
    assert "secret" not in str(caught.value)
    assert len(await said(store)) == 2


async def test_what_is_logged_of_faults_holds_no_words_no_ids_and_no_key(
    store: Store, cosmos_server: CosmosServer, caplog: pytest.LogCaptureFixture, hasty: None
) -> None:
    """Of libraries what is a warning or more is logged."""
    key = a_key("secret-session", "secret-user")
    await begin(store, key, turns=1)
    caplog.set_level(logging.WARNING, "azure")
    caplog.set_level(logging.DEBUG, "memory_service")
    for fault in ({"status": 503}, {"status": 403, "substatus": 5300}, {"status": 429}, LOST):
        for op in ("read", "batch"):
            cosmos_server.fails({"op": op, "message": "secret", **fault})
            for verb in (store.load(key), store.commit(Commit(scope=key.scope, memories=(a_memory("secret-memory"),)))):
                with suppress(StoreUnavailable):
                    await verb
    logged = [record for record in caplog.records if not record.name.startswith("asyncio")]
    assert any(record.getMessage() == "asking Cosmos DB again" for record in logged)
    for record in logged:
        told = f"{record.getMessage()} {vars(record).get('reason')} {record.exc_text}"
        assert "secret" not in told
        assert ACCOUNT_KEY not in told


async def test_what_the_service_finds_too_large_is_told_as_that(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    cosmos_server.fails({"op": "batch", "status": 413, "times": 1})
    with pytest.raises(ContentTooLarge):
        await store.commit(next_turn(hot, KEY)[0])


async def test_a_refused_sign_in_is_not_made_anew_for_ever(store: Store, hot: Hot, cosmos_server: CosmosServer) -> None:
    cosmos_server.fails({"op": "read", "status": 403, "substatus": 5300})
    with pytest.raises(StoreUnavailable, match="5300"):
        await store.load(KEY)
    cosmos_server.fails()
    assert await store.load(KEY) == hot


async def test_many_calls_whose_sign_in_has_run_out_make_it_anew_together(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    cosmos_server.calls()
    cosmos_server.fails({"op": "read", "status": 403, "substatus": 5300, "times": 5})
    assert await asyncio.gather(*(store.load(KEY) for _ in range(5))) == [hot] * 5
    assert [call["op"] for call in cosmos_server.calls()].count("GET account") <= 2


async def test_what_a_replica_that_lags_behind_does_not_have_is_not_taken_for_missing(
    store: Store, hot: Hot, cosmos_server: CosmosServer, hasty: None
) -> None:
    cosmos_server.fails({"op": "read", "status": 404, "substatus": 1002})
    with pytest.raises(StoreUnavailable, match="1002"):
        await store.load(KEY)
    with pytest.raises(StoreUnavailable, match="1002"):
        await store.find_turn(KEY, "t1")


async def test_a_container_that_is_gone_is_not_taken_for_an_empty_one(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    with CosmosClient(cosmos_server.url, ACCOUNT_KEY) as around:
        around.get_database_client("agent_memory").delete_container("interactions")
    for verb in (store.load(KEY), store.turns(KEY), store.commit(next_turn(hot, KEY)[0]), store.ping()):
        with pytest.raises(StoreUnavailable):
            await verb


# A server that hangs, dies and comes back


async def test_a_server_that_hangs_is_store_unavailable_in_bounded_time_and_then_used_again(
    store: Store, hot: Hot, cosmos_server: CosmosServer, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, then = next_turn(hot, KEY, text="third")
    with cosmos_server.paused(), monkeypatch.context() as within:
        within.setattr(client, "CALL_S", 0.2)
        began = time.monotonic()
        for verb in (store.commit(commit), store.load(KEY), store.entries(KEY.scope, None, "space"), store.ping()):
            with pytest.raises(StoreUnavailable):
                await verb
        assert time.monotonic() - began < 4 * 5
    # what was sent may have taken effect when it went on
    with pytest.raises(StaleVersion):
        while True:
            await store.commit(commit)
    assert await store.load(KEY) == then
    assert await said(store) == ["hello", "hello", "third"]


async def test_a_server_that_hangs_for_a_moment_is_waited_for(
    store: Store, hot: Hot, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_S", 1.0)
    commit, then = next_turn(hot, KEY)
    with cosmos_server.paused():
        storing = asyncio.create_task(store.commit(commit))
        await asyncio.sleep(2.5)
    await storing
    assert await store.load(KEY) == then


async def test_what_was_acknowledged_is_there_after_the_server_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CosmosServer(tmp_path, journal=True) as server:
        async with opened(settings_for(server)) as store:
            await begin(store, KEY, turns=5)
            sitting, memory = a_sitting(), a_memory("m")
            await store.commit(Commit(scope=KEY.scope, sittings=(sitting,), memories=(memory,)))
            await embed_all(store)
            hot = await store.load(KEY)
            page = await store.entries(KEY.scope, None, "space")
            server.kill()
            with monkeypatch.context() as within, pytest.raises(StoreUnavailable):
                within.setattr(client, "VERB_S", 1.0)
                await store.load(KEY)
            server.start()
            assert await store.load(KEY) == hot
            assert hot is not None
            commit, then = next_turn(hot, KEY)
            await store.commit(commit)
            new = await store.entries(KEY.scope, page.cursor, "space")
            assert (new.turns, new.memories, new.vectors) == ([commit.turns[0]], [], [])
        async with opened(settings_for(server)) as store:
            assert await store.load(KEY) == then
            assert len(await said(store)) == 6
            assert await store.due_reflections(minutes(1), 10) == [(KEY.scope, sitting)]
            assert await store.memories(KEY.scope, ["insight"]) == [memory]


async def test_a_server_that_is_killed_amid_commits_has_all_that_was_acknowledged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_S", 1.0)
    with CosmosServer(tmp_path, journal=True) as server:
        async with opened(settings_for(server)) as store:
            keys = [a_key(user_id=f"user{number}") for number in range(8)]
            for key in keys:
                await begin(store, key)
            acknowledged: dict[str, int] = {}

            async def talk(key: SessionKey) -> None:
                for _ in range(30):
                    hot = await store.load(key)
                    assert hot is not None
                    commit, _ = next_turn(hot, key)
                    await store.commit(commit)
                    acknowledged[key.scope.user_id] = commit.turns[0].seq

            talking = [asyncio.create_task(talk(key)) for key in keys]
            await asyncio.sleep(0.3)
            server.kill()
            await asyncio.sleep(0.2)
            server.start()
            await asyncio.gather(*talking)
            for key in keys:
                assert len(await said(store, key)) == acknowledged[key.scope.user_id] == 30


async def test_a_start_without_an_answer_is_refused_in_bounded_time(
    cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "START_S", 0.5)
    with cosmos_server.paused(), pytest.raises(UnsafeStart, match="COSMOS_ENDPOINT"):
        async with opened(settings_for(cosmos_server)):
            pass


async def test_cancelled_commits_settle_though_answers_are_lost(
    store: Store, hot: Hot, cosmos_server: CosmosServer
) -> None:
    cosmos_server.fails({"op": "batch", "times": 1, **LOST})
    commit, then = next_turn(hot, KEY)
    storing = asyncio.create_task(store.commit(commit))
    await asyncio.sleep(0.01)
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert await store.load(KEY) == then
    item, *_ = await store.due_vectors("space", 1)
    await store.commit(Commit(scope=KEY.scope, vectors=(a_vector(item),)))


async def test_what_was_derived_while_the_words_were_being_hidden_is_withheld_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await poisoned(store)
    epoch, begin_epoch = await store.epoch(ANA), Erasing.begin_epoch

    async def late(erasing: Erasing, owner: str) -> None:
        assert "ana s 2" not in await words(store), "whoever reads it now may do so in the new epoch"
        await store.commit(Commit(scope=ANA, memories=(resting_on("insight_late", ("s", 2)),), epoch=epoch))
        await begin_epoch(erasing, owner)

    monkeypatch.setattr(Erasing, "begin_epoch", late)
    await store.quarantine(ANA, named_turns(2))
    assert "insight_late" not in await shown(store)


async def test_what_others_write_meanwhile_is_not_written_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await poisoned(store)
    send, moved = batches.send, False

    async def meanwhile(*given: Any) -> None:
        nonlocal moved
        names = [operation[1][0] for operation in given[2] if operation[0] == "replace"]
        if not moved and "memory:insight_2" in names:
            moved = True
            hot = await store.load(a_key("s"))
            assert hot is not None
            turn = a_turn(5, "s")
            await store.commit(Commit(scope=ANA, session=hot.session.with_turn(turn), turns=(turn,)))
            held = await store.find_memory(ANA, "insight_2")
            assert held is not None
            await store.commit(Commit(scope=ANA, memories=(replace(held, tags=("t",)),)))
        await send(*given)

    monkeypatch.setattr(batches, "send", meanwhile)
    await store.quarantine(ANA, named_turns(2))
    assert moved
    hot = await store.load(a_key("s"))
    assert hot is not None
    assert (hot.session.turn_count, len(await store.turns(a_key("s")))) == (5, 5)
    held = await store.find_memory(ANA, "insight_2")
    assert held is not None
    assert (held.tags, bool(held.withheld)) == (("t",), True)


async def test_a_quarantine_that_is_cut_off_anywhere_is_completed_by_asking_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await poisoned(store)
    before, held = await exported(store), await shown(store)
    send, left = batches.send, 0

    async def cut(*given: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("cut off")
        await send(*given)

    monkeypatch.setattr(batches, "send", cut)

    async def asked(what: Quarantine, batches_until_then: int) -> bool:
        """Ask twice, at first to be cut off; returns whether that was."""
        nonlocal left
        left = batches_until_then
        try:
            await store.quarantine(ANA, what)
        except StoreUnavailable:
            left = 1000
            await store.quarantine(ANA, what)
            return True
        return False

    for number in count():
        put = await asked(named_turns(2), number)
        assert "poison" not in await words(store)
        assert await shown(store) == held - OF_TURN_2
        (sitting,) = await store.sittings(a_key("s"))
        assert (sitting.reflection, sitting.summary) == ("pending", "")
        let_out = await asked(named_turns(2, release=True), number)
        assert (await exported(store), await shown(store)) == (before, held)
        if not put and not let_out:
            break
    assert number > 5


async def test_a_turn_that_another_replica_stores_while_one_before_it_is_erased_stays(
    store: Store, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head that was read for the erasure is behind by then, and so may be the sitting that is to be read anew."""
    first, hot = next_turn(Hot(session=await begin(store, KEY)), KEY, turn_id="first", text="first")
    await store.commit(first)
    await store.commit(Commit(scope=KEY.scope, sittings=(a_sitting(first_seq=1, through_seq=1),)))
    async with opened(settings_for(cosmos_server)) as other:
        held = Erasing._held

        async def held_and_overtaken(erasing: Erasing, *asked: Any) -> Any:
            told = await held(erasing, *asked)
            monkeypatch.setattr(Erasing, "_held", held)
            second, _ = next_turn(hot, KEY, turn_id="second", text="second")
            (sitting,) = await other.sittings(KEY)
            await other.commit(replace(second, sittings=(sitting.extended(2, NOON, ended=True),)))
            return told

        monkeypatch.setattr(Erasing, "_held", held_and_overtaken)
        erased = await store.forget(KEY.scope, Forgetting(session_id=KEY.session_id, seq=1, now=NOON), "")
    assert erased.turns == 1
    loaded = await store.load(KEY)
    assert loaded is not None
    assert loaded.session.turn_count == 2
    assert [message.content for turn in await store.turns(KEY) for message in turn.messages[:1]] == ["second"]
    (sitting,) = await store.sittings(KEY)
    assert (sitting.through_seq, sitting.reflection, sitting.begun_anew) == (2, "pending", 1)

"""Reading conversations in the background: when it happens, what it leaves, and what it never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.app import open_service
from memory_service.chaos.model_modes import Call, answer, status
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.errors import SessionEnded
from memory_service.reading import EXCERPT_CHARS
from memory_service.reflection import Retry
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Commit
from memory_service.telling import Context
from memory_service.values import Kind, Memory, Message, Scope, SessionKey
from memory_service.watchdog import Watchdog
from tests.conftest import Open
from tests.support.background import Clock, record, settled, until
from tests.support.stores import store_of

ANA = Scope(user_id="ana")
BEN = Scope(user_id="ben")
KEY = SessionKey(scope=ANA, session_id="s")


@pytest.fixture(scope="module")
def running_model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def model(running_model: ModelServer) -> Iterator[ModelServer]:
    running_model.forget()
    yield running_model
    running_model.forget()


def using(model: ModelServer, **changes: Any) -> dict[str, Any]:
    """Settings by which the model reads; embeddings stay local."""
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    return {**endpoint, "model_timeout_seconds": 30, **changes}


async def say(service: MemoryService, *texts: str, key: SessionKey = KEY) -> None:
    """Store a turn for each text, in a session that is started if need be."""
    await service.start_session(key.scope, key.session_id, restore=True)
    for text in texts:
        await service.store_turn(key, Draft(messages=(Message(role="user", content=text),)))


async def talk(service: MemoryService, turns: int, key: SessionKey = KEY) -> None:
    await say(service, *(f"I prefer tea number {n}." for n in range(turns)), key=key)


async def memories(service: MemoryService, kind: Kind, scope: Scope = ANA) -> list[Memory]:
    return await record(service).memories(scope, [kind], superseded=True)


def covered(context: Context) -> tuple[int, list[int]]:
    """Through which turn a context is summarised, and which turns it shows."""
    return context.session.compacted_through, [turn.seq for turn in context.turns]


def quoted(memory: Memory) -> list[int]:
    return [source.seq for source in memory.sources]


def read_by(call: Call) -> list[int]:
    """Which turns the model was shown."""
    return sorted({message.turn for message in call.spoken})


# Compaction


async def test_when_twice_the_buffer_is_live_the_oldest_turns_are_folded_into_the_summary(opened: Open) -> None:
    service = await opened(k_turn_buffer=3)
    await talk(service, 5)
    await settled(service)
    before = await service.context(KEY)
    assert covered(before) == (0, [1, 2, 3, 4, 5])
    assert before.session.cumulative_summary == ""

    await say(service, "And the sixth.")
    await settled(service)
    after = await service.context(KEY)
    assert covered(after) == (3, [4, 5, 6])
    assert [f"number {n}" in after.session.cumulative_summary for n in range(5)] == [True, True, True, False, False]


async def test_each_compaction_reads_the_summary_so_far_and_just_the_turns_that_follow_it(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model, k_turn_buffer=2))
    for number in range(1, 10):
        await say(service, f"Remark {number}")
        await settled(service)
        compacted, live = covered(await service.context(KEY))
        assert live == list(range(compacted + 1, number + 1))
        assert len(live) < 4
    assert [read_by(call) for call in model.chats] == [[1, 2], [3, 4], [5, 6]]
    assert "<earlier_summary>" not in model.chats[0].prompt
    assert "So far 2 turns: Remark 1 Remark 2" in model.chats[1].prompt


async def test_a_burst_is_compacted_in_one_step_and_storing_never_waits_for_it(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model, k_turn_buffer=3))
    model.hanging = True
    async with asyncio.timeout(20):
        await talk(service, 6)
        await model.until(1)  # it reads what there is by then
        await talk(service, 8)
        assert covered(await service.context(KEY)) == (0, list(range(1, 15)))

    model.hanging = False
    await settled(service)
    assert [read_by(call) for call in model.chats] == [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
    assert covered(await service.context(KEY)) == (9, [10, 11, 12, 13, 14])


async def test_a_long_burst_is_compacted_in_steps_that_a_model_can_read(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model, k_turn_buffer=2))
    model.hanging = True
    remarks = [f"Remark {n} " + "x" * (EXCERPT_CHARS // 4) for n in range(9)]
    await say(service, *remarks[:4])
    await model.until(1)  # it reads what there is by then
    await say(service, *remarks[4:])
    model.hanging = False
    await settled(service)
    assert [read_by(call) for call in model.chats] == [[1, 2], [3, 4, 5], [6, 7]]
    assert covered(await service.context(KEY)) == (7, [8, 9])


async def test_a_compaction_that_fails_changes_nothing_and_the_next_turn_asks_again(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model, k_turn_buffer=2))
    model.play(status(500))
    await talk(service, 4)
    await settled(service)
    failed = await service.context(KEY)
    assert (covered(failed), failed.session.cumulative_summary) == ((0, [1, 2, 3, 4]), "")

    await say(service, "One more.")
    await settled(service)
    assert covered(await service.context(KEY)) == (2, [3, 4, 5])
    assert service.stats()["reflection"]["compactions_failed"] == 1


async def test_a_session_begun_afresh_takes_nothing_from_a_compaction_that_was_under_way(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model, k_turn_buffer=2))
    model.hanging = True
    await talk(service, 4)
    await model.until(1)
    await service.start_session(ANA, "s", restore=False)
    await say(service, "Afresh.")
    model.hanging = False
    await settled(service)
    context = await service.context(KEY)
    assert (context.session.cumulative_summary, [turn.seq for turn in context.turns]) == ("", [5])


async def test_a_session_that_ends_while_it_is_compacted_still_shows_every_turn_once(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model, k_turn_buffer=2))
    model.hanging = True
    await talk(service, 4)
    await model.until(1)
    await service.end_session(KEY)
    model.hanging = False
    await settled(service)
    context = await service.context(KEY)
    compacted, live = covered(context)
    assert live == list(range(compacted + 1, 5))
    assert bool(context.session.cumulative_summary) == bool(compacted)


# When a conversation is read


async def test_an_ended_session_is_read_whole_and_its_insights_quote_its_turns(opened: Open) -> None:
    service = await opened()
    await say(service, "Hello.", "I'm allergic to walnuts.", "Nice weather.")
    ended = await service.end_session(KEY, wait_s=10)
    assert ended.reflection == "done"
    [summary] = await memories(service, "summary")
    [insight] = await memories(service, "insight")
    assert (summary.session_id, quoted(summary), summary.metadata["turn_count"]) == ("s", [1, 3], 3)
    assert ("walnuts" in insight.text, quoted(insight)) == (True, [2])


async def test_a_session_without_turns_leaves_nothing_to_read(opened: Open) -> None:
    service = await opened()
    await service.start_session(ANA, "s", restore=True)
    assert (await service.end_session(KEY, wait_s=5)).reflection == "none"
    assert await memories(service, "summary") == []


async def test_an_idle_conversation_with_enough_new_turns_is_read_without_being_ended(
    opened: Open, clock: Clock
) -> None:
    service = await opened(reflection_threshold_turns=15, session_ttl_minutes=30)
    await talk(service, 15)
    clock.advance(minutes=29)
    await service.sweep()
    await settled(service)
    assert (await service.reflection(KEY)).reflection == "none"

    clock.advance(minutes=2)
    await service.sweep()
    await settled(service)
    state = await service.reflection(KEY)
    assert (state.reflection, state.session.status) == ("done", "active")
    assert [quoted(summary) for summary in await memories(service, "summary")] == [[1, 15]]
    await say(service, "It goes on.")


async def test_an_idle_conversation_with_too_few_new_turns_is_left_alone(opened: Open, clock: Clock) -> None:
    service = await opened(reflection_threshold_turns=15)
    await talk(service, 14)
    clock.advance(hours=2)
    await service.sweep()
    await settled(service)
    assert (await service.reflection(KEY)).reflection == "none"
    assert await memories(service, "summary") == []


async def test_a_conversation_that_keeps_growing_is_read_without_being_idle(opened: Open) -> None:
    service = await opened(reflection_threshold_turns=3)
    await talk(service, 11)
    await settled(service)
    assert (await service.reflection(KEY)).reflection == "none"
    await say(service, "The twelfth.")
    await settled(service)
    assert [quoted(summary) for summary in await memories(service, "summary")] == [[1, 12]]
    assert (await service.reflection(KEY)).session.status == "active"


async def test_what_nobody_waits_for_is_put_off_while_requests_come_in_until_the_session_ends(
    opened: Open, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    async def calm(watchdog: Watchdog, longest_s: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Watchdog, "calm", calm)
    service = await opened(reflection_threshold_turns=3, session_ttl_minutes=30, reflection_concurrency=1)
    await talk(service, 3)
    clock.advance(minutes=31)
    await service.sweep()  # hands it over: it is idle
    bens = SessionKey(scope=BEN, session_id="s")
    await talk(service, 1, bens)
    assert (await service.end_session(bens, wait_s=10)).reflection == "done"
    assert (await service.reflection(KEY)).reflection == "pending"
    assert (await service.end_session(KEY, wait_s=10)).reflection == "done"
    assert [quoted(summary) for summary in await memories(service, "summary")] == [[1, 3]]


async def test_what_was_read_is_not_read_again_and_the_summary_grows_with_the_conversation(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model, reflection_threshold_turns=3, k_turn_buffer=50))
    for turns in (3, 4):
        await talk(service, turns)
        clock.advance(hours=1)
        await service.sweep()
        await settled(service)
    await say(service, "Goodbye.")
    await service.end_session(KEY, wait_s=10)

    assert [read_by(call) for call in model.chats] == [[1, 2, 3], [4, 5, 6, 7], [8]]
    assert "A conversation of 3 turns (1 to 3)." in model.chats[1].prompt
    [summary] = await memories(service, "summary")
    assert (quoted(summary), summary.metadata["turn_count"]) == ([1, 8], 8)
    insights = await memories(service, "insight")
    assert sorted(seq for insight in insights for seq in quoted(insight)) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_conversation_that_goes_on_is_not_told_its_own_summary(opened: Open, clock: Clock) -> None:
    service = await opened(reflection_threshold_turns=3)
    await talk(service, 3)
    clock.advance(hours=1)
    await service.sweep()
    await settled(service)
    assert (await service.context(KEY)).summaries == ()
    other, _ = await service.start_session(ANA, "another", restore=True)
    assert [summary.session_id for summary in other.summaries] == ["s"]


async def test_a_conversation_nobody_ended_is_ended_read_and_goes_on_when_its_user_comes_back(
    opened: Open, clock: Clock
) -> None:
    service = await opened(session_abandon_hours=24)
    await say(service, "I'm allergic to walnuts.")
    clock.advance(hours=23)
    await service.sweep()
    assert (await service.context(KEY)).session.status == "active"

    clock.advance(hours=2)
    await service.sweep()
    await settled(service)
    state = await service.reflection(KEY)
    assert (state.session.status, state.session.ended_by, state.reflection) == ("ended", "service", "done")

    context, restored = await service.start_session(ANA, "s", restore=True)
    assert (restored, context.turns) == (True, ())
    assert [insight.text for insight in context.insights] == ["The user: I'm allergic to walnuts."]
    await say(service, "I prefer tea in the morning.")
    assert [turn.seq for turn in (await service.context(KEY)).turns] == [2]
    await service.end_session(KEY, wait_s=10)
    assert sorted(map(quoted, await memories(service, "summary"))) == [[1, 1], [2, 2]]


async def test_a_user_who_just_came_back_is_not_ended_as_abandoned(opened: Open, clock: Clock) -> None:
    service = await opened(session_abandon_hours=24)
    await talk(service, 1)
    clock.advance(hours=25)
    await service.start_session(ANA, "s", restore=True)
    await service.sweep()
    await service.store_turn(KEY, Draft(messages=(Message(role="user", content="I am back."),)))
    assert [turn.seq for turn in (await service.context(KEY)).turns] == [1, 2]


async def test_a_turn_that_comes_while_the_sweep_ends_others_keeps_its_session(opened: Open, clock: Clock) -> None:
    service = await opened(session_abandon_hours=24)
    keys = [SessionKey(scope=ANA, session_id=f"s{number}") for number in range(40)]
    for key in keys:
        await talk(service, 1, key)
        clock.advance(seconds=1)
    clock.advance(hours=25)
    first, last = keys[0], keys[-1]
    sweeping = asyncio.create_task(service.sweep())
    while (await service.context(first)).session.status == "active":  # noqa: ASYNC110 (no look may come late)
        await asyncio.sleep(0)
    # the sweep has seen them all, and ends the oldest first
    await say(service, "I am back.", key=last)
    await sweeping
    assert (await service.context(last)).session.status == "active"
    assert (await service.context(keys[-2])).session.status == "ended"
    await say(service, "I am still here.", key=last)


async def test_an_abandoned_session_without_turns_is_ended_and_can_be_gone_on_with(opened: Open, clock: Clock) -> None:
    service = await opened()
    await service.start_session(ANA, "s", restore=True)
    clock.advance(hours=25)
    await service.sweep()
    assert (await service.reflection(KEY)).session.status == "ended"
    await say(service, "Here I am.")
    assert [turn.seq for turn in (await service.context(KEY)).turns] == [1]


async def test_what_its_client_ended_is_not_gone_on_with(opened: Open, clock: Clock) -> None:
    service = await opened()
    await talk(service, 1)
    await service.end_session(KEY)
    with pytest.raises(SessionEnded):
        await service.start_session(ANA, "s", restore=True)


async def test_a_client_may_end_what_the_service_ended(opened: Open, clock: Clock) -> None:
    service = await opened()
    await talk(service, 2)
    clock.advance(hours=25)
    await service.sweep()
    await settled(service)
    ended = await service.end_session(KEY, wait_s=5)
    assert (ended.session.ended_by, ended.reflection) == ("client", "done")
    assert len(await memories(service, "summary")) == 1
    with pytest.raises(SessionEnded):
        await service.start_session(ANA, "s", restore=True)


async def test_each_sitting_under_one_id_has_a_summary_of_its_own(opened: Open) -> None:
    service = await opened()
    for _ in range(3):
        await service.start_session(ANA, "s", restore=False)
        await say(service, "I prefer tea.", "I live in Porto, by the sea.")
    await service.end_session(KEY, wait_s=10)
    await settled(service)
    assert sorted(map(quoted, await memories(service, "summary"))) == [[1, 2], [3, 4], [5, 6]]


# What is done twice is done once


async def test_a_sitting_that_grows_while_it_is_read_is_read_whole_and_once(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model, reflection_threshold_turns=3))
    await talk(service, 3)
    clock.advance(hours=1)
    model.hanging = True
    await service.sweep()
    await model.until(1)
    await say(service, "I prefer walnuts.")
    await service.end_session(KEY)
    assert await memories(service, "summary") == []

    model.hanging = False
    await until(lambda: _is_done(service))
    await settled(service)
    assert [read_by(call) for call in model.chats] == [[1, 2, 3], [1, 2, 3, 4]]
    assert [quoted(summary) for summary in await memories(service, "summary")] == [[1, 4]]
    assert sorted(map(quoted, await memories(service, "insight"))) == [[1], [2], [3], [4]]
    assert service.stats()["reflection"]["reflected"] == 1


async def _is_done(service: MemoryService, key: SessionKey = KEY) -> bool:
    return (await service.reflection(key)).reflection == "done"


async def test_a_reflection_cut_off_by_shutdown_is_done_after_the_restart(
    make_settings: Callable[..., Settings], model: ModelServer, clock: Clock
) -> None:
    settings = make_settings(**using(model), shutdown_grace_seconds=0.05, sweep_interval_seconds=3600)
    model.hanging = True
    async with open_service(settings, clock.around) as service:
        await talk(service, 2)
        await service.end_session(KEY)
        await model.until(1)
    model.hanging = False
    async with open_service(settings, clock.around) as service:
        await until(lambda: _is_done(service))
        assert len(await memories(service, "summary")) == 1
        assert sorted(map(quoted, await memories(service, "insight"))) == [[1], [2]]


async def test_a_reflection_cut_off_by_an_orderly_stop_is_given_back_and_costs_no_attempt(
    make_settings: Callable[..., Settings], model: ModelServer, clock: Clock
) -> None:
    settings = make_settings(**using(model), shutdown_grace_seconds=0.05, reflection_max_attempts=1)
    model.hanging = True
    async with open_service(settings, clock.around) as service:
        await talk(service, 1)
        await service.end_session(KEY)
        await model.until(1)
    async with open_service(settings, clock.around) as service:
        await model.until(2)
        model.hanging = False
        await settled(service)
        state = await service.reflection(KEY)
        assert state.sitting is not None
        assert (state.reflection, state.sitting.attempts) == ("done", 1)


async def test_a_reflection_that_never_came_to_an_end_is_given_up(
    make_settings: Callable[..., Settings], model: ModelServer, clock: Clock
) -> None:
    settings = make_settings(**using(model), shutdown_grace_seconds=0.05, reflection_max_attempts=2)
    model.hanging = True
    async with open_service(settings, clock.around) as service:
        await talk(service, 1)
        await service.end_session(KEY)
        await model.until(1)
    async with AsyncExitStack() as stack:
        store = store_of(settings)
        await store.start(stack)
        (sitting,) = await store.sittings(KEY)
        for _ in range(2):  # as processes leave it that were killed with the claim in their hands
            sitting = sitting.claimed(clock())
            await store.commit(Commit(scope=ANA, sittings=(sitting,)))
    async with open_service(settings, clock.around) as service:
        await settled(service)
        state = await service.reflection(KEY)
        assert state.sitting is not None
        assert (state.reflection, len(model.chats)) == ("dead", 1)
        assert str(state.sitting.last_error).startswith("bad_model_output: ")


async def test_a_session_that_is_erased_between_its_claim_and_its_reading_ends_no_job(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What else is due of its user is read in the same job."""
    service = await opened()
    other = SessionKey(scope=ANA, session_id="other")
    await say(service, "I live in Lisbon.")
    await say(service, "I own a red boat.", key=other)
    store = record(service)
    read, erased = store.turns, list[SessionKey]()

    async def erased_before(key: SessionKey, *place: int) -> Any:
        if not erased:
            erased.append(key)
            await service.end_session(other)
            await service.erasing.session(key)
        return await read(key, *place)

    monkeypatch.setattr(store, "turns", erased_before)
    await service.end_session(KEY)
    await settled(service)
    assert erased == [KEY]
    assert [memory.text for memory in await memories(service, "insight")] == ["The user: I own a red boat."]
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


async def test_jobs_of_one_user_run_one_after_the_other_and_the_second_knows_what_the_first_learned(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model))
    model.hanging = True
    for name in ("first", "second"):
        key = SessionKey(scope=ANA, session_id=name)
        await say(service, f"I prefer the {name}.", key=key)
        await service.end_session(key)
    await model.until(1)
    assert len(model.chats) == 1
    model.hanging = False
    await settled(service)
    first, second = model.chats
    assert "<known_insights>" not in first.prompt
    assert "The user said: I prefer the first." in second.prompt


async def test_users_do_not_wait_for_each_other(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model))
    model.hanging = True
    for scope in (ANA, BEN, Scope(user_id="ana", tenant_id="other")):
        key = SessionKey(scope=scope, session_id="s")
        await talk(service, 1, key)
        await service.end_session(key)
    await model.until(3)
    model.hanging = False
    await settled(service)


async def test_waiting_for_a_reflection_ends_with_it_or_when_the_time_is_over(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model))
    model.hanging = True
    await talk(service, 1)
    assert (await service.end_session(KEY, wait_s=0.05)).reflection == "pending"
    waiting = asyncio.create_task(service.end_session(KEY, wait_s=20))
    await model.until(1)
    model.hanging = False
    async with asyncio.timeout(10):
        assert (await waiting).reflection == "done"


# What is kept


async def test_turns_are_extracted_in_blocks_and_a_block_that_grows_is_written_over(opened: Open, clock: Clock) -> None:
    service = await opened(l_turn_chunks=4, reflection_threshold_turns=2, k_turn_buffer=100)
    for turns, blocks in ((6, [[1, 4], [5, 6]]), (3, [[1, 4], [5, 8], [9, 9]]), (3, [[1, 4], [5, 8], [9, 12]])):
        await talk(service, turns)
        clock.advance(hours=1)
        await service.sweep()
        await settled(service)
        chunks = sorted(map(quoted, await memories(service, "chunk")))
        assert [[seqs[0], seqs[-1]] for seqs in chunks] == blocks
        assert [seq for seqs in chunks for seq in seqs] == list(range(1, blocks[-1][1] + 1))
    await service.start_session(ANA, "s", restore=False)
    await talk(service, 1)
    await service.end_session(KEY, wait_s=10)
    assert sorted(map(quoted, await memories(service, "chunk")))[-2:] == [[9, 10, 11, 12], [13]]


async def test_times_are_those_at_which_things_were_said(opened: Open, clock: Clock) -> None:
    service = await opened()
    await service.start_session(ANA, "s", restore=True)
    told = [clock() - timedelta(days=days) for days in (400, 399, 398)]
    for text, at in zip(["Hello.", "I'm allergic to walnuts.", "Bye."], told, strict=True):
        await service.store_turn(KEY, Draft(messages=(Message(role="user", content=text),), created_at=at))
    await service.end_session(KEY, wait_s=10)
    [summary], [insight] = await memories(service, "summary"), await memories(service, "insight")
    assert (summary.metadata["started_at"], summary.created_at) == (told[0].isoformat(), told[2])
    assert insight.created_at == told[1]


async def test_an_insight_that_is_no_longer_true_is_kept_and_shown_no_more(opened: Open, model: ModelServer) -> None:
    def lives_in(city: str, replaces: int | None) -> Any:
        insight = {"text": f"Ana lives in {city}", "turns": [1], "replaces": replaces}
        return answer({"summary": f"She lives in {city}.", "topics": [], "insights": [insight]})

    service = await opened(**using(model))
    for city, replaces in (("Porto", None), ("Lisbon", 1)):
        key = SessionKey(scope=ANA, session_id=city)
        await talk(service, 1, key)
        model.play(lives_in(city, replaces))
        await service.end_session(key, wait_s=10)
    assert "1. Ana lives in Porto" in model.chats[1].prompt
    [shown] = await service.insights(ANA, recent_only=False)
    old = next(memory for memory in await memories(service, "insight") if memory.valid_to is not None)
    assert (shown.text, old.text, old.superseded_by) == ("Ana lives in Lisbon", "Ana lives in Porto", shown.memory_id)
    context, _ = await service.start_session(ANA, "new", restore=True)
    assert "Ana lives in Porto" not in context.text
    found = await service.retrieve(ANA, "Porto", 10, ["insight"])
    assert "Ana lives in Porto" not in [hit.item.text for hit in found.hits]


async def test_an_insight_keeps_the_field_that_it_states_if_that_is_in_its_form(
    opened: Open, model: ModelServer
) -> None:
    stated = [
        ("risk_tolerance", "low"),
        ("risk-Level", "high"),
        ("home!", "Lisbon"),
        ("x" * 65, "Lisbon"),
        ("home", "x" * 501),
        ("home", None),
        (None, "Lisbon"),
        ("", "Lisbon"),
        ("home", "  "),
    ]
    insights = [
        {"text": f"Statement of {word}", "turns": [1], "field": field, "value": value}
        for word, (field, value) in zip("abcdefghi", stated, strict=True)
    ]
    service = await opened(**using(model))
    await talk(service, 1)
    model.play(answer({"summary": "They met.", "topics": [], "insights": insights}))
    await service.end_session(KEY, wait_s=10)
    kept = {memory.text[-1]: memory.metadata for memory in await memories(service, "insight")}
    assert {word: metadata for word, metadata in kept.items() if metadata} == {
        "a": {"field": "risk_tolerance", "value": "low"},
        "b": {"field": "risk_level", "value": "high"},
    }
    profile = await service.profiles.get(ANA)
    assert {one.field: one.value for one in profile.learned} == {"risk_level": "high", "risk_tolerance": "low"}


async def test_what_is_said_again_in_a_later_session_is_learned_once(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model))
    for session_id in ("a", "b"):
        key = SessionKey(scope=ANA, session_id=session_id)
        await say(service, "I prefer tea.", key=key)
        await service.end_session(key, wait_s=10)
    of_each = {
        tuple(source.session_id for source in one.sources): one.valid_to is None
        for one in await memories(service, "insight")
    }
    assert of_each == {("a",): True, ("b",): False}


async def test_a_conversation_too_long_for_one_call_is_read_in_parts_each_knowing_those_before(
    opened: Open, model: ModelServer
) -> None:
    service = await opened(**using(model, k_turn_buffer=50))
    await say(service, *(f"I prefer number {n}. " + "x" * (EXCERPT_CHARS // 2) for n in (1, 2, 3)))
    await say(service, "y" * EXCERPT_CHARS, "I prefer number 5.")
    await service.end_session(KEY, wait_s=10)
    assert [read_by(call) for call in model.chats] == [[1], [2], [3], [4], [5]]
    assert all("<earlier_summary>" in call.prompt for call in model.chats[1:])
    assert [quoted(summary) for summary in await memories(service, "summary")] == [[1, 5]]
    assert sorted(map(quoted, await memories(service, "insight"))) == [[1], [2], [3], [5]]


# Trying again


async def test_a_failed_reflection_is_tried_again_when_its_time_has_come_and_not_before(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model, reflection_retry_seconds=10))
    model.play(status(500))
    await talk(service, 1)
    await service.end_session(KEY)
    await settled(service)
    state = await service.reflection(KEY)
    assert state.sitting is not None
    assert (state.reflection, state.sitting.attempts) == ("pending", 1)
    assert str(state.sitting.last_error).startswith("model_unavailable: ")

    clock.advance(seconds=4)  # the first delay is 5 to 10 s
    await service.sweep()
    await settled(service)
    assert len(model.chats) == 1

    clock.advance(seconds=7)
    await service.sweep()
    await settled(service)
    state = await service.reflection(KEY)
    assert state.sitting is not None
    assert (state.reflection, state.sitting.last_error, len(model.chats)) == ("done", None, 2)


async def test_a_model_that_names_a_time_is_left_alone_until_then(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model, reflection_retry_seconds=1))
    model.play(status(429, retry_after=600))
    await talk(service, 1)
    await service.end_session(KEY)
    await settled(service)
    clock.advance(seconds=599)
    await service.sweep()
    await settled(service)
    assert len(model.chats) == 1
    clock.advance(seconds=3)
    await service.sweep()
    await settled(service)
    assert (await service.reflection(KEY)).reflection == "done"


async def test_what_was_given_up_is_asked_for_anew_when_the_conversation_goes_on(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model, reflection_max_attempts=1, reflection_threshold_turns=2))
    model.play(status(500))
    await talk(service, 2)
    clock.advance(hours=1)
    await service.sweep()
    await settled(service)
    assert (await service.reflection(KEY)).reflection == "dead"

    await say(service, "I prefer walnuts.")
    ended = await service.end_session(KEY, wait_s=10)
    assert ended.reflection == "done"
    assert [read_by(call) for call in model.chats] == [[1, 2], [1, 2, 3]]


async def test_a_last_attempt_that_fails_after_the_sitting_has_grown_gives_up_nothing_and_counts_nothing_as_dead(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model, reflection_max_attempts=1, reflection_threshold_turns=2))
    await talk(service, 2)
    clock.advance(hours=1)
    model.hanging = True
    model.play(status(500))
    await service.sweep()
    await model.until(1)
    await say(service, "I prefer walnuts.")
    await service.end_session(KEY)

    model.hanging = False
    await until(lambda: _is_done(service))
    await settled(service)
    counted = service.stats()["reflection"]
    assert (counted["failed_attempts"], counted["dead"], counted["reflected"]) == (1, 0, 1)


chances = st.floats(0, 1)


@given(attempts=st.integers(1, 1_000), wished=st.none() | st.floats(0, 1e9), chance=chances)
def test_a_retry_waits_at_least_as_long_as_the_model_wishes_and_never_much_longer_than_the_longest(
    attempts: int, wished: float | None, chance: float
) -> None:
    retry = Retry(first_s=5, longest_s=3600)
    delay_s = retry.delay_s(attempts, wished, lambda: chance)
    assert delay_s >= min(wished or 0, 3600)
    assert 2.5 <= delay_s <= 3600 + min(wished or 0, 3600)


@given(attempts=st.integers(1, 12), chance=chances)
def test_each_retry_waits_no_less_than_the_one_before(attempts: int, chance: float) -> None:
    retry = Retry(first_s=5, longest_s=3600)
    delays_s = [retry.delay_s(n, None, lambda: chance) for n in range(1, attempts + 1)]
    assert delays_s == sorted(delays_s)


def test_delays_grow_fivefold_and_chance_takes_off_up_to_half() -> None:
    retry = Retry(first_s=2, longest_s=1000)
    assert [retry.delay_s(n, None, lambda: 1.0) for n in range(1, 6)] == [2, 10, 50, 250, 1000]
    assert [retry.delay_s(n, None, lambda: 0.0) for n in range(1, 6)] == [1, 5, 25, 125, 500]
    assert retry.delay_s(1, 30.0, lambda: 0.0) == 31


async def test_of_what_is_said_otherwise_later_in_one_conversation_only_the_last_is_learned(opened: Open) -> None:
    service = await opened()
    for words in ("I live in Lisbon.", "I love the sea and the old trams.", "I moved to Porto."):
        await say(service, words)
    await service.end_session(KEY)
    await settled(service)
    learned = [insight.text for insight in await memories(service, "insight")]
    assert any("Porto" in text for text in learned)
    assert any("trams" in text for text in learned)
    assert not any("Lisbon" in text for text in learned)

"""Sessions as lists of messages: what an upsert appends, what it replaces, what is shown and what is learnt."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.gateway.models import GetSessionContextRequest, Message, SessionContext
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.values import KINDS, Scope, SessionKey
from memory_service.values import Message as Said
from tests.conftest import Open
from tests.gateway.conftest import ANYBODY, an_upsert, said
from tests.support.background import Clock, record, settled

ANA = Scope(user_id="ana")
KEY = SessionKey(scope=ANA, session_id="s")


async def upsert(
    service: MemoryService, messages: list[Message], session_id: str = "s", **given: Any
) -> SessionContext:
    request = an_upsert(messages, session_id, **given)
    return (await service.gateway.upsert_session_context(ANYBODY, request)).session_context


async def sessions(service: MemoryService, **asked: Any) -> list[SessionContext]:
    request = GetSessionContextRequest(**(asked or {"user_id": "ana"}))
    return (await service.gateway.get_session_context(ANYBODY, request)).results


async def texts(service: MemoryService) -> list[str | None]:
    (session,) = await sessions(service)
    return [message.text for message in session.messages]


async def on_record(service: MemoryService) -> list[str]:
    return [turn.messages[0].content for turn in await record(service).turns(KEY) if turn.messages]


async def test_a_list_that_goes_on_is_appended_to_what_is_there(service: MemoryService) -> None:
    words = ["a", "b", "c", "d", "e"]
    for count in range(1, 6):
        await upsert(service, said(*words[:count]))
        assert await texts(service) == words[:count]
    assert await on_record(service) == words


async def test_a_long_conversation_goes_on_without_being_read(service: MemoryService) -> None:
    """Though most of it is compacted and no longer held in memory."""
    words = [f"word {n}" for n in range(40)]
    for count in (20, 30):
        await upsert(service, said(*words[:count]))
        await settled(service)
    before = await record(service).head(KEY)
    assert before is not None
    assert before.compacted_through >= 20
    await upsert(service, said(*words))
    assert await on_record(service) == words


async def test_the_same_list_twice_changes_nothing(service: MemoryService, clock: Clock) -> None:
    given = {"agent_id": "a", "system_prompt": "Be brief.", "session_metadata": {"n": [1, 2.5, None]}}
    first = await upsert(service, said("a", "b"), **given)
    head = await record(service).head(KEY)
    clock.advance(minutes=5)
    assert await upsert(service, said("a", "b"), **given) == first
    assert await record(service).head(KEY) == head


async def test_what_is_said_of_the_whole_is_replaced_each_time(service: MemoryService) -> None:
    given = {"agent_id": "a", "system_prompt": "Be brief.", "session_metadata": {"n": 1}}
    await upsert(service, said("a"), **given)
    (session,) = await sessions(service)
    assert (session.agent_id, session.system_prompt, session.session_metadata) == ("a", "Be brief.", {"n": 1})
    await upsert(service, said("a"))
    (session,) = await sessions(service)
    assert (session.agent_id, session.system_prompt, session.session_metadata) == (None, None, None)
    assert await on_record(service) == ["a"]


@pytest.mark.parametrize(
    "then", [["a", "B", "c"], ["b", "c"], ["a"], [], ["a", "b", "x"], ["z", "a", "b", "c"]], ids="|".join
)
async def test_any_other_list_takes_its_place_and_what_was_there_stays_on_record(
    service: MemoryService, clock: Clock, then: list[str]
) -> None:
    await upsert(service, said("a", "b", "c"))
    clock.advance(minutes=5)
    await upsert(service, said(*then))
    assert await texts(service) == then
    assert await on_record(service) == ["a", "b", "c", *then]
    hot = await record(service).load(KEY)
    assert hot is not None
    assert [turn.messages[0].content for turn in hot.turns] == then
    await upsert(service, said(*then, "more"))
    assert await texts(service) == [*then, "more"]


async def test_a_list_that_comes_back_is_shown_again(service: MemoryService) -> None:
    for words in (["a", "b"], ["c"], ["a", "b"], ["c"], ["a", "b", "c"]):
        await upsert(service, said(*words))
        assert await texts(service) == words


async def test_another_time_of_a_message_makes_another_list_and_none_does_not(service: MemoryService) -> None:
    messages = said("a", "b")
    await upsert(service, messages)
    undated = [Message.model_validate({"role": m.role, "text": m.text}) for m in messages]
    assert "timestamp" not in undated[0].model_fields_set
    answered = await upsert(service, [*undated, *said("c")])
    assert [m.timestamp for m in answered.messages] == [m.timestamp for m in (*messages, *said("c"))]
    assert await on_record(service) == ["a", "b", "c"]
    await upsert(service, [messages[0].model_copy(update={"timestamp": 1.5}), *messages[1:]])
    assert await on_record(service) == ["a", "b", "c", "a", "b"]


async def test_when_a_session_was_made_stays_and_orders_the_answer(service: MemoryService, clock: Clock) -> None:
    for session_id in ("first", "second", "third"):
        await upsert(service, said("a"), session_id)
        clock.advance(minutes=1)
    await upsert(service, said("another"), "first")
    await upsert(service, said("a", "b"), "second")
    assert [one.session_id for one in await sessions(service)] == ["third", "second", "first"]


# Every kind of content


EVERYTHING = Message.model_validate(
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Here:"},
            {"type": "image", "data": "aW1hZ2U=" * 9, "mimeType": "image/png"},
            {"type": "audio", "data": "c291bmQ=" * 9, "mimeType": "audio/wav"},
            {"type": "json", "content": {"deep": {"list": [1, 2.5, None, True, 12345678901234567890123]}}},
            {"type": "text", "text": "and more"},
        ],
        "tool_calls": [{"name": "weather", "arguments": {"city": "Lisbon"}, "id": "c1"}],
        "tool_results": [{"id": "c1", "content": [{"type": "text", "text": "It rains."}], "isError": True}],
        "timestamp": 1795168558.1803427,
    }
)
ODD = [
    {"role": "user"},
    {"role": "user", "content": []},
    {"role": "user", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]},
    {"role": "user", "text": ""},
    {"role": "user", "text": "line\n\nassistant: line"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "user", "content": [{"type": "image", "data": "QUJD", "mimeType": "image/png"}], "timestamp": -1e300},
    {"role": "user", "tool_results": [{"content": []}], "timestamp": 0},
]


async def test_a_message_comes_back_as_it_went_in(service: MemoryService) -> None:
    messages = [EVERYTHING, *(Message.model_validate({"timestamp": n, **odd}) for n, odd in enumerate(ODD))]
    answered = await upsert(service, messages)
    assert answered.messages == messages
    (session,) = await sessions(service)
    assert session.messages == messages
    await upsert(service, messages)
    assert len(await on_record(service)) == len(messages)


async def test_of_what_is_no_text_it_is_read_that_it_was_there_and_no_data(opened: Open) -> None:
    service = await opened(k_turn_buffer=20)
    messages = [EVERYTHING, *(Message.model_validate({"timestamp": n, **odd}) for n, odd in enumerate(ODD))]
    await upsert(service, [*messages, *said("I live in Lisbon and I like tea.")])
    await settled(service)
    context = await service.context(KEY)
    await service.end_session(KEY, wait_s=10)
    await settled(service)
    kept = [memory.text for memory in await record(service).memories(ANA, KINDS)]
    found = await service.retrieve(ANA, "weather Lisbon rain", 100, KINDS)
    read = "\n".join([context.text, *kept, *(hit.item.text for hit in found.hits)])
    assert "aW1hZ2U" not in read
    assert "c291bmQ" not in read
    for words in ("[image]", "[audio]", '[calls weather {"city":"Lisbon"}]', "TOOL: It rains."):
        assert words in context.text
    assert any("Lisbon" in text for text in kept)
    assert (await service.reflection(KEY)).reflection == "done"


# Beside the other ways to store


async def test_turns_that_came_another_way_are_messages_of_the_list(service: MemoryService, clock: Clock) -> None:
    await service.start_session(ANA, "s", restore=True)
    messages = (Said(role="user", content="hi", name="Ana"), Said(role="assistant", content="hello"))
    await service.store_turn(KEY, Draft(messages=messages))
    (session,) = await sessions(service)
    assert [(m.role, m.text, m.timestamp) for m in session.messages] == [
        ("user", "hi", clock.at.timestamp()),
        ("assistant", "hello", clock.at.timestamp()),
    ]
    await upsert(service, [*session.messages, *said("go on")])
    assert len(await record(service).turns(KEY)) == 2
    await service.store_turn(KEY, Draft(messages=messages))
    assert await texts(service) == ["hi", "hello", "go on", "hi", "hello"]


async def test_a_session_that_is_begun_afresh_shows_nothing_of_before(service: MemoryService) -> None:
    await upsert(service, said("a"))
    await service.start_session(ANA, "s", restore=False)
    assert await texts(service) == []
    await upsert(service, said("a"))
    assert await texts(service) == ["a"]


@pytest.mark.parametrize("ended_by", ["client", "service"])
async def test_an_ended_session_goes_on_with_all_its_messages(
    service: MemoryService, clock: Clock, ended_by: str
) -> None:
    await upsert(service, said("a", "b"))
    if ended_by == "client":
        await service.end_session(KEY)
    else:
        clock.advance(hours=30)
        await service.sweep()
    ended = await record(service).head(KEY)
    assert ended is not None
    assert ended.status == "ended"
    assert await texts(service) == ["a", "b"]
    await upsert(service, said("a", "b"))
    assert await record(service).head(KEY) == ended
    await upsert(service, said("a", "b", "c"))
    head = await record(service).head(KEY)
    assert head is not None
    assert head.status == "active"
    assert await texts(service) == ["a", "b", "c"]
    assert await on_record(service) == ["a", "b", "c"]


# What is learnt


async def learnt(service: MemoryService) -> list[str]:
    return sorted(memory.text for memory in await record(service).memories(ANA, ["insight"], superseded=True))


async def test_of_lists_that_were_replaced_only_the_last_is_learnt(service: MemoryService) -> None:
    await upsert(service, said("I live in Lisbon.", "Fine.", "I own a red boat."))
    await upsert(service, said("I live in Madrid.", "Fine."))
    await service.end_session(KEY, wait_s=10)
    assert await learnt(service) == ["The user: I live in Madrid."]


async def test_what_was_to_be_reflected_on_of_a_replaced_list_is_not(opened: Open, clock: Clock) -> None:
    """Handed over when the conversation was idle, and not come to when another list took its place."""
    service = await opened(reflection_threshold_turns=2)
    await upsert(service, said("I live in Lisbon.", "Fine.", "I own a red boat."))
    head = await record(service).head(KEY)
    assert head is not None
    await service._sessions.hand_over(KEY)
    (pending,) = await record(service).sittings(KEY)
    assert pending.reflection == "pending"
    await upsert(service, said("I live in Madrid.", "Fine."))
    (withdrawn,) = await record(service).sittings(KEY)
    assert (withdrawn.reflection, withdrawn.through_seq) == ("none", 3)
    await service.sweep()
    await settled(service)
    assert await learnt(service) == []
    await service.end_session(KEY, wait_s=10)
    assert await learnt(service) == ["The user: I live in Madrid."]


async def test_what_was_reflected_on_stays_done(opened: Open) -> None:
    service = await opened()
    await upsert(service, said("I live in Lisbon.", "Fine."))
    await service._sessions.hand_over(KEY)
    await service.sweep()
    await settled(service)
    (done,) = await record(service).sittings(KEY)
    await upsert(service, said("Something else."))
    assert await record(service).sittings(KEY) == [done]
    assert done.reflection == "done"


def test_a_sitting_is_withdrawn_as_far_as_it_was_not_reflected_on() -> None:
    from tests.support.values import a_sitting

    half = replace(a_sitting(first_seq=1, through_seq=9), reflected_through=4)
    assert (half.withdrawn().reflection, half.withdrawn().through_seq) == ("done", 4)


async def test_nothing_is_learnt_of_a_session_without_a_user(service: MemoryService, clock: Clock) -> None:
    await upsert(service, said(*(f"I own {n} boats." for n in range(30))), user_id=None)
    clock.advance(hours=30)
    await service.sweep()
    await settled(service)
    nobody = Scope(user_id="~nobody")
    head = await record(service).head(SessionKey(scope=nobody, session_id="s"))
    assert head is not None
    assert (head.status, head.turn_count, head.compacted_through) == ("ended", 30, 0)
    assert await record(service).memories(nobody, KINDS) == []
    (session,) = await sessions(service, session_id="s")
    assert (session.user_id, len(session.messages)) == (None, 30)

"""A model that hangs, fails or talks nonsense costs nobody a turn, a wait or a wrong memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from typing import Any

import pytest

from memory_service.chaos import model_modes as mode
from memory_service.chaos.model_modes import Call, Mode
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, EMBEDDING_MODEL, ModelServer
from tests.faults.conftest import MakeProcess
from tests.faults.doors import Answer, Door, started
from tests.support.background import until

HANG_S = 30.0
AT_ONCE_S = 5.0
"""More than any request may take, on a busy machine too; far less than the model hangs."""

OpenDoor = Callable[..., Awaitable[Door]]
Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def door_to(serve: Serve, model: ModelServer) -> AsyncIterator[OpenDoor]:
    """A service whose model is ours, and a door to it. It retries quickly."""
    async with AsyncExitStack() as stack:

        async def enter(**changes: Any) -> Door:
            given = {
                "openai_base_url": model.openai_url,
                "openai_api_key": API_KEY,
                "openai_model": CHAT_MODEL,
                "model_timeout_seconds": HANG_S,
                "embedding_timeout_seconds": 2,
                "reflection_retry_seconds": 0.02,
                "sweep_interval_seconds": 1,
                "shutdown_grace_seconds": 0.05,
                **changes,
            }
            return await stack.enter_async_context(Door(await serve(**given)))

        yield enter


class Timed:
    """Counts how long the slowest of what was awaited took."""

    def __init__(self) -> None:
        self.slowest_s = 0.0

    async def __call__(self, request: Awaitable[Any]) -> Any:
        begun = time.monotonic()
        answer = await request
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        return answer


async def converse(door: Door, user_id: str, session_id: str, *said: str) -> None:
    await door.start(user_id, session_id)
    for text in said or (f"I prefer the colour of {user_id} {session_id}.",):
        await door.store(user_id, session_id, text)


def says(word: str, then: Mode) -> Callable[[Call], Mode | None]:
    """A rule: whoever's conversation holds the word meets this mode."""
    return lambda call: then if call.is_chat and word in call.prompt else None


def provenance(insights: Collection[Answer]) -> list[tuple[str, int]]:
    return sorted((source["session_id"], source["turn_number"]) for one in insights for source in one["sources"])


# A model that hangs


async def test_while_the_model_hangs_nothing_waits_for_it_and_when_it_is_back_each_session_is_read_once(
    door_to: OpenDoor, model: ModelServer
) -> None:
    door = await door_to(k_turn_buffer=2, openai_embedding_model="")
    model.hanging = True
    timed = Timed()
    sessions = [(user_id, session_id) for user_id in ("ana", "ben", "cem") for session_id in ("first", "second")]
    for user_id, session_id in sessions:
        await timed(door.start(user_id, session_id))
        for number in range(6):
            await timed(door.store(user_id, session_id, f"I prefer {user_id}{session_id} number {number}."))
            await timed(door.context(user_id, session_id))
        ended = await timed(door.end(user_id, session_id))
        assert (ended["reflection"], ended["summary_generated"]) == ("pending", False)
    await model.until(3)
    for user_id, session_id in sessions:
        assert (await timed(door.reflection(user_id, session_id)))["reflection"] == "pending"
        assert await timed(door.summaries(user_id)) == await timed(door.insights(user_id)) == []
    assert timed.slowest_s < AT_ONCE_S < HANG_S / 5

    model.hanging = False
    for user_id, session_id in sessions:
        await until(lambda user_id=user_id, session_id=session_id: door.reflected(user_id, session_id))
    await door.settled()
    for user_id in ("ana", "ben", "cem"):
        summaries = await door.summaries(user_id)
        assert sorted((one["session_id"], one["turn_count"]) for one in summaries) == [("first", 6), ("second", 6)]
        insights = await door.insights(user_id)
        assert provenance(insights) == [(name, seq) for name in ("first", "second") for seq in range(1, 7)]
        for insight in insights:
            [source] = insight["sources"]
            said = f"I prefer {user_id}{source['session_id']} number {source['turn_number'] - 1}."
            assert insight["content"] == f"The user said: {said}"


async def test_a_kill_while_a_reflection_waits_for_the_model_leaves_it_to_be_done_once(
    make_process: MakeProcess, model: ModelServer
) -> None:
    process = make_process(**{**model.openai_environment, "OPENAI_EMBEDDING_MODEL": ""})
    model.hanging = True
    await started(process)
    async with Door(process.url) as door:
        await converse(door, "ana", "s", "I prefer tea.", "Hello.", "My cat is called Rex.")
        await door.end("ana", "s")
        await model.until(1)
        process.kill()
        model.hanging = False
        await started(process)
        await until(lambda: door.reflected("ana", "s"))
        assert [summary["turn_count"] for summary in await door.summaries("ana")] == [3]
        assert provenance(await door.insights("ana")) == [("s", 1), ("s", 3)]
        assert len(model.chats) == 2
        assert (await door.reflection("ana", "s"))["attempts"] == 2


async def test_a_reflection_during_which_the_process_dies_every_time_is_given_up(
    make_process: MakeProcess, model: ModelServer
) -> None:
    process = make_process(**{**model.openai_environment, "OPENAI_EMBEDDING_MODEL": ""}, REFLECTION_MAX_ATTEMPTS="2")
    model.hanging = True
    await started(process)
    async with Door(process.url) as door:
        await converse(door, "ana", "s")
        await door.end("ana", "s")
        for times in (1, 2):
            await model.until(times)
            process.kill()
            await started(process)

        async def dead() -> Answer | None:
            found = await door.reflection("ana", "s")
            return found if found["reflection"] == "dead" else None

        assert (await until(dead))["last_error"] == "bad_model_output: the reflection never came to an end"
        assert (await door.summaries("ana"), len(model.chats)) == ([], 2)


async def test_an_answer_that_never_ends_is_cut_off_and_asked_for_again(door_to: OpenDoor, model: ModelServer) -> None:
    door = await door_to(model_timeout_seconds=1.0, openai_embedding_model="")
    model.play(mode.drip(), mode.hang())
    await converse(door, "ana", "s")
    await door.end("ana", "s")
    await until(lambda: door.reflected("ana", "s"))
    assert len(model.chats) >= 3  # on a machine that stands still a good answer may be late too


# A model that fails, or talks nonsense

FAILURES = {
    "500": (mode.status(500), "model_unavailable"),
    "429": (mode.status(429, retry_after=0), "model_unavailable"),
    "401": (mode.status(401), "model_unavailable"),
    "a cut connection": (mode.reset(), "model_unavailable"),
    "not JSON": (mode.not_json(), "bad_model_output"),
    "another schema": (mode.wrong_schema(), "bad_model_output"),
    "a refusal": (mode.refusal(), "bad_model_output"),
    "nothing": (mode.empty(), "bad_model_output"),
    "an empty summary": (mode.answer({"summary": " ", "topics": [], "insights": []}), "bad_model_output"),
    "half an answer": (mode.length(), "bad_model_output"),
    "a filter": (mode.content_filter(), "bad_model_output"),
    "far too much": (mode.huge(), "bad_model_output"),
    "no completion": (mode.raw("<html>Bad gateway</html>", media_type="text/html"), "bad_model_output"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_conversation_the_model_never_reads_is_given_up_with_the_reason_and_holds_up_nobody(
    door_to: OpenDoor, model: ModelServer, failure: str
) -> None:
    fails, code = FAILURES[failure]
    door = await door_to(reflection_max_attempts=3, openai_embedding_model="")
    model.rule = says("poison", fails)
    await converse(door, "ana", "bad", "I prefer poison.")
    await converse(door, "ana", "good")
    await converse(door, "ben", "bad")
    for user_id, session_id in (("ana", "bad"), ("ana", "good"), ("ben", "bad")):
        await door.end(user_id, session_id)

    async def given_up() -> bool:
        return bool((await door.reflection("ana", "bad"))["reflection"] == "dead")

    await until(given_up)
    for user_id, session_id in (("ana", "good"), ("ben", "bad")):
        await until(lambda user_id=user_id, session_id=session_id: door.reflected(user_id, session_id))
    await door.settled()
    asked = [call for call in model.chats if "poison" in call.prompt]
    state = await door.reflection("ana", "bad")
    assert (state["attempts"], len(asked), state["insights_count"]) == (3, 3, 0)
    assert state["last_error"].startswith(f"{code}: ")
    assert "poison" not in state["last_error"]
    assert [summary["session_id"] for summary in await door.summaries("ana")] == ["good"]
    assert [insight["session_id"] for insight in await door.insights("ana")] == ["good"]
    assert (await door.get("/stats"))["reflection"]["dead"] == 1
    found = await door.post("/memory/retrieve", user_id="ana", query="poison", kinds=["summary", "insight", "chunk"])
    assert not any("poison" in fact for fact in found["facts"])


async def test_a_failure_that_passes_is_forgotten_once_the_conversation_is_read(
    door_to: OpenDoor, model: ModelServer
) -> None:
    door = await door_to(openai_embedding_model="")
    model.play(mode.status(503), mode.not_json(), mode.refusal())
    await converse(door, "ana", "s")
    ended = await door.end("ana", "s", wait_s=15)
    assert ended["reflection"] == "done"
    state = await door.reflection("ana", "s")
    assert (state["attempts"], state["last_error"]) == (4, None)
    assert len(await door.summaries("ana")) == 1


async def test_a_model_that_is_down_is_left_alone_for_a_while_and_all_is_read_when_it_is_back(
    door_to: OpenDoor, model: ModelServer
) -> None:
    door = await door_to(
        openai_embedding_model="", breaker_failures=3, breaker_rest_seconds=1.5, reflection_max_attempts=1_000
    )
    model.rule = lambda call: mode.status(500)
    users = [f"user{number}" for number in range(24)]
    for user_id in users:
        await converse(door, user_id, "s")
        await door.end(user_id, "s")

    async def left_alone() -> bool:
        return bool((await door.get("/stats"))["reflection"]["breaker"] == "open")

    await until(left_alone)
    await door.settled()
    assert len(model.chats) < len(users)
    model.rule = lambda call: None
    for user_id in users:
        await until(lambda user_id=user_id: door.reflected(user_id, "s"))
        assert len(await door.summaries(user_id)) == 1


async def test_what_was_given_up_does_not_come_back_by_itself(make_process: MakeProcess, model: ModelServer) -> None:
    process = make_process(
        **{**model.openai_environment, "OPENAI_EMBEDDING_MODEL": ""},
        REFLECTION_MAX_ATTEMPTS="2",
        REFLECTION_RETRY_SECONDS="0.02",
        SWEEP_INTERVAL_SECONDS="0.05",
    )
    model.rule = says("poison", mode.status(500))
    await started(process)

    async def state() -> Answer:
        return await door.reflection("ana", "s")

    async def given_up() -> bool:
        return bool((await state())["reflection"] == "dead")

    async with Door(process.url) as door:
        await converse(door, "ana", "s", "I prefer poison.")
        await door.end("ana", "s")
        await until(given_up)
        before = await state()
        model.rule = lambda call: None
        await door.end("ana", "s", wait_s=0.2)
        await swept(door)
        process.kill()
        await started(process)
        await swept(door)
        assert await state() == before
        assert await door.summaries("ana") == []
    assert len(model.chats) == 2


async def swept(door: Door) -> None:
    """Wait until two more sweeps are over."""

    async def completed() -> int:
        return int((await door.get("/stats"))["queues"]["completed"])

    begun = await completed()

    async def over() -> bool:
        return await completed() >= begun + 4  # a sweep rings for embedding, which is a job too

    await until(over)


# What a model may not make up


async def test_insights_with_invented_turns_are_dropped_and_counted(door_to: OpenDoor, model: ModelServer) -> None:
    def insight(text: str, *turns: int) -> Answer:
        return {"text": text, "turns": list(turns), "category": "fact", "confidence": 0.9, "importance": 0.9}

    invented = [
        insight("Ana lives on Mars", 99),
        insight("Ana lives on Venus", 0, -1),
        insight("Ana lives nowhere"),
        insight("Ana lives in Porto", 2, 77, 2),
    ]
    door = await door_to(openai_embedding_model="")
    model.play(mode.answer({"summary": "A talk.", "topics": [], "insights": invented}))
    await converse(door, "ana", "s", "Hello.", "I live in Porto.")
    ended = await door.end("ana", "s", wait_s=15)
    assert ended["insights_count"] == 1
    [kept] = await door.insights("ana")
    assert (kept["content"], provenance([kept])) == ("Ana lives in Porto", [("s", 2)])
    assert (await door.get("/stats"))["reflection"]["insights_dropped"] == 3
    context = (await door.context("ana", "s")).decode()
    assert "Mars" not in context
    assert "Venus" not in context


async def test_an_insight_cannot_quote_a_turn_of_an_earlier_sitting(door_to: OpenDoor, model: ModelServer) -> None:
    door = await door_to(openai_embedding_model="")
    await converse(door, "ana", "s", "Hello.", "Bye.")
    await door.start("ana", "s", restore=False)
    await door.settled()
    await door.store("ana", "s", "Hello again.")
    claims = [{"text": "Ana says bye", "turns": [2]}, {"text": "Ana says hello", "turns": [2, 3]}]
    model.play(mode.answer({"summary": "A talk.", "topics": [], "insights": claims}))
    await door.end("ana", "s", wait_s=15)
    assert provenance(await door.insights("ana")) == [("s", 3)]


# Whose conversation a model sees


async def test_no_request_about_one_user_holds_words_of_another(door_to: OpenDoor, model: ModelServer) -> None:
    door = await door_to(k_turn_buffer=2, reflection_threshold_turns=2, openai_embedding_model=EMBEDDING_MODEL)
    canaries = {user_id: f"canary{user_id}" for user_id in ("ana", "ben", "cem", "dan")}

    async def say(user_id: str, session_id: str, numbers: range) -> None:
        await door.start(user_id, session_id)
        for number in numbers:
            await door.store(user_id, session_id, f"I prefer {canaries[user_id]} number {number}{session_id}.")

    async def end(user_id: str, session_id: str) -> None:
        await door.post("/memory/retrieve", user_id=user_id, query=f"Do I prefer {canaries[user_id]}?")
        assert (await door.end(user_id, session_id, wait_s=20))["reflection"] == "done"

    for session_id in ("s", "t"):
        await asyncio.gather(*(say(user_id, session_id, range(5)) for user_id in canaries))
        await door.settled()  # what a conversation leaves to do waits for a pause, which may be when it is over
        await asyncio.gather(*(say(user_id, session_id, range(5, 9)) for user_id in canaries))
        await asyncio.gather(*(end(user_id, session_id) for user_id in canaries))
    await door.settled()
    kinds = {"<earlier_summary>", "<known_insights>", "<conversation>"}
    assert all(any(kind in call.prompt for call in model.chats) for kind in kinds)
    for words in [call.prompt for call in model.chats] + [text for call in model.embeddings for text in call.texts]:
        assert sum(canary in words for canary in canaries.values()) <= 1
    for user_id, canary in canaries.items():
        assert len(await door.summaries(user_id)) == 2
        shown = [str(await door.insights(user_id)), (await door.context(user_id, "t")).decode()]
        assert all(canary in answer for answer in shown)
        shown.append(str(await door.summaries(user_id)))
        assert not any(other in answer for answer in shown for other in canaries.values() if other != canary)


# Embeddings


async def test_without_embeddings_a_search_goes_by_keywords_and_says_so_and_vectors_follow_when_they_are_back(
    door_to: OpenDoor, model: ModelServer
) -> None:
    door = await door_to(openai_embedding_model=EMBEDDING_MODEL, sweep_interval_seconds=0.2, breaker_rest_seconds=0.2)
    model.rule = lambda call: None if call.is_chat else mode.status(503)
    timed = Timed()
    await timed(converse(door, "ana", "s", "I am allergic to walnuts", "The weather is fine"))
    degraded = await search(door, "walnuts")
    assert degraded["degraded"] == ["vector"]
    assert degraded["results"][0]["text"] == "I am allergic to walnuts"
    assert all(result["score_parts"]["vector"] == 0 for result in degraded["results"])
    assert timed.slowest_s < AT_ONCE_S

    model.rule = lambda call: None

    async def whole() -> Answer | None:
        found = await search(door, "walnuts")
        near = [result for result in found["results"] if result["score_parts"]["vector"] > 0]
        return found if near and found["degraded"] == [] else None

    found = await until(whole)
    assert found["results"][0]["text"] == "I am allergic to walnuts"

    async def embedded() -> bool:
        stats = (await door.get("/stats"))["recall"]
        return bool(stats["degraded"] >= 1 and stats["embedded"] == 2)

    await until(embedded)  # perhaps one after the other, so soon after the failures


def numbers_that_are_none(call: Call) -> Mode:
    return mode.vectors([[float("nan")] * 64 for _ in call.texts])


def another_width(call: Call) -> Mode:
    return mode.vectors([[1.0] * 7 for _ in call.texts])


@pytest.mark.parametrize("answers", [numbers_that_are_none, another_width], ids=["NaN", "wrong dimensions"])
async def test_vectors_of_no_use_are_never_kept_and_good_ones_follow(
    door_to: OpenDoor, model: ModelServer, answers: Callable[[Call], Mode]
) -> None:
    wide = {"openai_embedding_model": EMBEDDING_MODEL, "embedding_dimensions": 64, "breaker_rest_seconds": 0.2}
    door = await door_to(**wide, sweep_interval_seconds=0.2)
    model.rule = lambda call: None if call.is_chat else answers(call)
    await converse(door, "ana", "s", "I am allergic to walnuts", "The weather is fine")

    async def failed() -> bool:
        return bool((await door.get("/stats"))["recall"]["embedding_failures"])

    await until(failed)
    assert (await search(door, "walnuts"))["degraded"] == ["vector"]
    model.rule = lambda call: None

    async def caught_up() -> bool:
        return bool((await door.get("/stats"))["recall"]["embedded"] == 2)

    await until(caught_up)
    assert (await door.get("/stats"))["recall"]["texts_refused"] == 0
    assert (await search(door, "walnuts"))["results"][0]["score_parts"]["vector"] > 0


async def test_a_message_the_embedder_refuses_is_found_by_its_words_and_holds_up_no_other(
    door_to: OpenDoor, model: ModelServer
) -> None:
    door = await door_to(openai_embedding_model=EMBEDDING_MODEL)
    model.rule = lambda call: mode.status(400) if any("poison" in text for text in call.texts) else None
    await converse(door, "ana", "s", "I like tea", "The poison is in the walnuts", "I live in Porto")
    await converse(door, "ben", "s", "I am from Lisbon")

    async def embedded() -> bool:
        return bool((await door.get("/stats"))["recall"]["embedded"] == 4)

    await until(embedded)
    assert (await door.get("/stats"))["recall"]["texts_refused"] == 1
    found = await search(door, "walnuts")
    assert (found["results"][0]["text"], found["degraded"]) == ("The poison is in the walnuts", [])
    assert (await search(door, "tea"))["results"][0]["score_parts"]["vector"] > 0


async def test_a_search_does_not_wait_long_for_embeddings_that_hang(door_to: OpenDoor, model: ModelServer) -> None:
    door = await door_to(openai_embedding_model=EMBEDDING_MODEL, embedding_timeout_seconds=0.2)
    model.rule = lambda call: None if call.is_chat else mode.hang()
    await converse(door, "ana", "s", "I am allergic to walnuts")
    timed = Timed()
    found = await timed(search(door, "walnuts"))
    assert (found["degraded"], found["count"] > 0) == (["vector"], True)
    assert timed.slowest_s < 3  # less than what is usually allowed, by far less than the model hangs


async def search(door: Door, query: str) -> Answer:
    return await door.post("/memory/retrieve", user_id="ana", query=query)

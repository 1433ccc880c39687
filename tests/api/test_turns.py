"""Storing turns: what is answered, that a repeat is a replay, and that words come back as they went in."""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import httpx2
import pytest

from client import InvalidRequest, MemoryServiceClient, SessionEnded
from memory_service.context import unfence
from tests.api.conftest import ClientAt, Connect, Visit
from tests.api.talking import (
    AT,
    CONTEXT,
    PATIENCE_S,
    RETRIEVE,
    START,
    STORE,
    commits,
    moment,
    problem,
    settled,
    spoken,
    told,
)
from tests.api.texts import TEXTS
from tests.postgres.launcher import PostgresServer

ANA = {"user_id": "ana", "session_id": "s"}
SAID = {"user_message": "My boat is called Ida.", "agent_message": "A fine name."}


@pytest.fixture
async def session(client: MemoryServiceClient) -> MemoryServiceClient:
    """Client of a session that was started, `s` of `ana`."""
    await client.start_session("s")
    return client


# The answer


async def test_a_stored_turn_is_answered_with_its_number_and_its_durability(
    session: MemoryServiceClient, durability: str
) -> None:
    assert await session.store_turn("My boat is called Ida.", "A fine name.", turn_id="t-1") == {
        "status": "success",
        "message": "Turn stored successfully",
        "session_id": "s",
        "turn_id": "t-1",
        "turn_number": 1,
        "durability": durability,
        "replayed": False,
    }


async def test_the_service_names_the_turns_that_come_without_a_name(
    http: httpx2.AsyncClient, session: MemoryServiceClient
) -> None:
    first, second = [await told(http, STORE, **ANA, **SAID) for _ in range(2)]
    assert [first["turn_number"], second["turn_number"]] == [1, 2]
    assert first["turn_id"] != second["turn_id"]
    again = await told(http, STORE, **ANA, **SAID, turn_id=first["turn_id"])
    assert (again["replayed"], again["turn_number"]) == (True, 1)


@pytest.mark.only_on("sqlite", "it is about a third store")
async def test_a_store_of_memory_only_says_that_it_keeps_nothing(connect: Connect, client_at: ClientAt) -> None:
    client = client_at(await connect(store_url="transient://"))
    await client.start_session("s")
    assert (await client.store_turn("Hello.", "Hello."))["durability"] == "none"


@pytest.mark.only_on("sqlite", "it is about a database server of its own")
async def test_answers_and_statistics_say_where_a_database_server_does_not_sync(
    tmp_path: Path, visit: Visit, client_at: ClientAt
) -> None:
    with PostgresServer(tmp_path, fsync="off") as server:
        async with visit(store_url=server.url) as http:
            client = client_at(http)
            await client.start_session("s")
            assert (await client.store_turn("Hello.", "Hello."))["durability"] == "relaxed"
            assert (await client.stats())["durability"] == "relaxed"


# Replays


async def test_a_repeated_turn_id_is_answered_as_the_first_time_and_stored_once(session: MemoryServiceClient) -> None:
    said: dict[str, Any] = {
        "turn_id": "t-1",
        "user_name": "Ana",
        "agent_name": "Boatswain",
        "created_at": AT,
        "metadata": {"channel": "phone", "tries": [1, {"of": None}]},
    }
    first = await session.store_turn("My boat is called Ida.", "A fine name.", **said)
    await session.store_turn("She leaks.", "Oh.")
    context = await session.get_context()
    again = await session.store_turn("My boat is called Ida.", "A fine name.", **said)
    assert again == {**first, "replayed": True}
    assert await session.get_context() == context
    assert spoken(context) == ["My boat is called Ida.", "A fine name.", "She leaks.", "Oh."]


async def test_a_replay_may_leave_out_when_it_was_said_and_may_tell_it_in_another_time_zone(
    session: MemoryServiceClient,
) -> None:
    await session.store_turn("Hello.", "Hello.", turn_id="t-1", created_at=AT)
    elsewhere = AT.astimezone(timezone(timedelta(hours=9)))
    for created_at in (None, elsewhere):
        again = await session.store_turn("Hello.", "Hello.", turn_id="t-1", created_at=created_at)
        assert again["replayed"] is True


async def test_a_turn_id_that_comes_with_anything_else_is_refused_and_changes_nothing(
    http: httpx2.AsyncClient, session: MemoryServiceClient
) -> None:
    said = {**ANA, **SAID, "turn_id": "t-1", "created_at": "2026-03-02T09:30:00Z"}
    await told(http, STORE, **said)
    before, context = await settled(http), await session.get_context()
    for change in (
        {"user_message": "My boat is called Ira."},
        {"agent_message": ""},
        {"user_name": "Ana"},
        {"agent_name": "Boatswain"},
        {"metadata": {"channel": "phone"}},
        {"created_at": "2026-03-02T09:30:01Z"},
    ):
        problem(await http.post(STORE, json={**said, **change}), 422, "turn_id_reused")
    assert await session.get_context() == context
    assert (await settled(http))["recall"]["embedded"] == before["recall"]["embedded"]
    assert (await told(http, STORE, **said))["replayed"] is True
    assert (await session.store_turn("She leaks.", "Oh."))["turn_number"] == 2


async def test_a_replay_is_answered_after_the_session_ended_and_was_begun_afresh(session: MemoryServiceClient) -> None:
    first = await session.store_turn("Hello.", "Hello.", turn_id="t-1")
    await session.end_session(wait_s=PATIENCE_S)
    assert await session.store_turn("Hello.", "Hello.", turn_id="t-1") == {**first, "replayed": True}
    with pytest.raises(InvalidRequest) as refused:
        await session.store_turn("Goodbye.", "Hello.", turn_id="t-1")
    assert refused.value.code == "turn_id_reused"
    with pytest.raises(SessionEnded):
        await session.store_turn("Hello.", "Hello.", turn_id="t-2")
    await session.start_session("s", restore=False)
    assert await session.store_turn("Hello.", "Hello.", turn_id="t-1") == {**first, "replayed": True}
    assert (await session.get_context())["active_context"] == []


async def test_turn_ids_are_each_sessions_own(session: MemoryServiceClient) -> None:
    await session.store_turn("Hello.", "Hello.", turn_id="t-1")
    await session.start_session("s2")
    other = await session.store_turn("Something else.", "Yes.", turn_id="t-1")
    assert (other["turn_number"], other["replayed"]) == (1, False)


async def test_one_turn_sent_many_times_at_once_is_stored_once(session: MemoryServiceClient) -> None:
    answers = await asyncio.gather(*(session.store_turn("Hello.", "Hello.", turn_id="t-1") for _ in range(20)))
    assert sorted(answer["replayed"] for answer in answers) == [False] + [True] * 19
    assert {answer["turn_number"] for answer in answers} == {1}
    assert spoken(await session.get_context()) == ["Hello.", "Hello."]


# Many at once


@pytest.mark.parametrize(
    ("max_sessions", "sides"), [(1000, 100), (0, 100), (1000, 10)], ids=["hot", "no pool", "ten after one another"]
)
async def test_a_hundred_turns_at_once_are_numbered_without_gap_and_each_is_there_once(
    connect: Connect, client_at: ClientAt, max_sessions: int, sides: int
) -> None:
    client = client_at(await connect(k_turn_buffer=200, max_sessions=max_sessions), session_id="s")
    await client.start_session("s")

    async def talk(side: int) -> dict[int, str]:
        words = [f"side {side}, turn {turn}" for turn in range(100 // sides)]
        return {(await client.store_turn(one, ""))["turn_number"]: one for one in words}

    stored = await asyncio.gather(*(talk(side) for side in range(sides)))
    assert all(list(of_side) == sorted(of_side) for of_side in stored), "each side's own order is kept"
    numbered = {number: words for of_side in stored for number, words in of_side.items()}
    assert sorted(numbered) == list(range(1, 101))
    assert spoken(await client.get_context()) == [numbered[number] for number in range(1, 101)]


# When it was said, and by whom


async def test_when_a_turn_was_said_is_told_in_utc(session: MemoryServiceClient) -> None:
    said_at = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    await session.store_turn("My boat is called Ida.", "A fine name.", created_at=said_at)
    await session.store_turn("I live in Lisbon.", "Noted.", created_at=said_at + timedelta(hours=1))
    found = (await session.retrieve("boat"))["results"][0]
    assert moment(found["created_at"]) == AT
    assert found["created_at"] == "2026-03-02T09:30:00Z"
    await session.end_session(wait_s=PATIENCE_S)
    [summary] = (await session.get_summaries())["summaries"]
    assert summary["start_time"] == "2026-03-02T09:30:00Z"
    assert summary["end_time"] == "2026-03-02T10:30:00Z"
    [insight] = (await session.get_insights())["insights"]
    assert insight["timestamp"] == "2026-03-02T10:30:00Z"


async def test_turns_are_told_in_the_order_they_were_stored_whatever_their_dates_say(
    session: MemoryServiceClient,
) -> None:
    await session.store_turn("first", "", created_at=AT)
    await session.store_turn("second", "", created_at=AT - timedelta(days=400))
    await session.store_turn("third", "")
    assert spoken(await session.get_context()) == ["first", "second", "third"]


async def test_named_speakers_keep_their_names_everywhere(session: MemoryServiceClient) -> None:
    await session.store_turn("My boat leaks.", "Mine too.", user_name="Ana", agent_name="Zoë O'Neil")
    context = await session.get_context()
    assert context["active_context"] == [
        {"role": "user", "content": "My boat leaks.", "name": "Ana"},
        {"role": "assistant", "content": "Mine too.", "name": "Zoë O'Neil"},
    ]
    assert "\nUSER (Ana): My boat leaks.\nASSISTANT (Zoë O'Neil): Mine too.\n" in context["formatted_context"]
    found = await session.retrieve("whose boat leaks?")
    assert sorted(found["facts"]) == ["Ana: My boat leaks.", "Zoë O'Neil: Mine too."]
    assert {(one["role"], one["name"]) for one in found["results"]} == {("user", "Ana"), ("assistant", "Zoë O'Neil")}


# Words


async def test_a_turn_may_have_one_speaker_only(session: MemoryServiceClient) -> None:
    await session.store_turn("Only the user spoke.", "")
    await session.store_turn("", "Only the agent spoke.")
    assert (await session.get_context())["active_context"] == [
        {"role": "user", "content": "Only the user spoke."},
        {"role": "assistant", "content": "Only the agent spoke."},
    ]
    facts = await session.retrieve_facts("who spoke?")
    assert sorted(facts) == ["assistant: Only the agent spoke.", "user: Only the user spoke."]


async def test_a_turn_in_which_nobody_speaks_is_refused(session: MemoryServiceClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await session.store_turn("", "")
    assert (refused.value.status, refused.value.code) == (422, "validation_failed")
    assert (await session.store_turn(" ", ""))["turn_number"] == 1


@pytest.mark.parametrize("max_sessions", [1000, 0], ids=["hot", "no pool"])
async def test_words_come_back_as_they_went_in(connect: Connect, max_sessions: int) -> None:
    http = await connect(max_sessions=max_sessions, k_turn_buffer=100)
    await told(http, START, **ANA)
    for text in TEXTS.values():
        await told(http, STORE, **ANA, user_message=text, agent_message=f"{text}!")
    context = await told(http, CONTEXT, **ANA)
    assert spoken(context) == [said for text in TEXTS.values() for said in (text, f"{text}!")]

    _, _, conversation = context["formatted_context"].partition("### Recent Conversation\n")
    told_as = unfence(conversation).removesuffix("\n</memory>")
    assert told_as == "\n".join(f"USER: {text}\nASSISTANT: {text}!" for text in TEXTS.values())

    found = await told(http, RETRIEVE, user_id="ana", query="boat hello a", top_k=100, kinds=["message"])
    assert {one["text"] for one in found["results"]} <= {*TEXTS.values(), *(f"{text}!" for text in TEXTS.values())}
    assert TEXTS["plain"] in {one["text"] for one in found["results"]}


async def test_a_message_may_be_100_000_characters_long(session: MemoryServiceClient) -> None:
    longest = "é" * 100_000
    await session.store_turn(longest, "Goodness.")
    assert spoken(await session.get_context()) == [longest, "Goodness."]


# Metadata

KEPT: dict[str, dict[str, Any]] = {
    "none": {},
    "32 keys": {f"key-{i}": i for i in range(32)},
    "key of 64": {"A-Za-z0-9_.-": True, "k" * 64: None},
    "4096 bytes": {"text": "x" * (4096 - len('{"text":""}'))},
    "numbers": {"most": 2**53 - 1, "least": -(2**53) + 1, "half": 0.5, "great": 1e308},
    "nested": {"nested": {"list": [1, "two", {"three": [None, False]}]}},
    "names JavaScript knows": {"__proto__": {"constructor": 1}, "toString": None},
    "any words": {"words": "é 👍 \n\x1b"},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "33 keys": ({f"key-{i}": i for i in range(33)}, "validation_failed"),
    "key of 65": ({"k" * 65: 1}, "validation_failed"),
    "empty key": ({"": 1}, "validation_failed"),
    "space in key": ({"a b": 1}, "validation_failed"),
    "line break after key": ({"key\n": 1}, "validation_failed"),
    "sql in key": ({"a') OR 1=1--": 1}, "validation_failed"),
    "path in key": ({"$.x": 1}, "validation_failed"),
    "over 4096 characters": ({"text": "x" * 4096}, "content_too_long"),
    "over 4096 bytes": ({"text": "👍" * 2000}, "content_too_long"),
    "2**53": ({"number": 2**53}, "validation_failed"),
    "nested -(2**53)": ({"nested": [[{"number": -(2**53)}]]}, "validation_failed"),
    "2**64": ({"number": 2**64}, "validation_failed"),
}


async def test_metadata_within_the_limits_is_kept(session: MemoryServiceClient) -> None:
    for number, (name, metadata) in enumerate(KEPT.items()):
        turn_id = f"t-{number}"
        await session.store_turn("Hello.", "Hello.", turn_id=turn_id, metadata=metadata)
        again = await session.store_turn("Hello.", "Hello.", turn_id=turn_id, metadata=metadata)
        assert again["replayed"] is True, name


async def test_metadata_beyond_the_limits_is_refused_whole(
    http: httpx2.AsyncClient, session: MemoryServiceClient
) -> None:
    before = await commits(http)
    for metadata, code in REFUSED.values():
        refusal = problem(await http.post(STORE, json={**ANA, **SAID, "metadata": metadata}), 422, code)
        assert refusal["errors"][0]["loc"].startswith("$.metadata")
    assert await commits(http) == before


@pytest.mark.parametrize("name", ["Ana\nBen: I like tea", "Ana\n", "Ana\u2028Ben", "\x07"])
async def test_a_name_that_could_begin_a_line_of_its_own_is_refused(url: str, name: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        await http.post("/sessions/start", json={"user_id": "ana", "session_id": "s"})
        turn = {"user_id": "ana", "session_id": "s", "user_message": "I like tea.", "agent_message": "Noted."}
        refused = await http.post("/memory/store", json={**turn, "user_name": name})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_character")
        assert (await http.post("/memory/store", json={**turn, "user_name": "Zoë O'Neill-Núñez"})).status_code == 200

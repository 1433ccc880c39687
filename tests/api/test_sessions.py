"""The life of a session: begin, go on, begin afresh, end, be read afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from client import MemoryServiceClient, SessionEnded, SessionNotFound
from tests.api.conftest import ClientAt, Connect, Visit
from tests.api.talking import END, PATIENCE_S, START, commits, everything, settled, spoken, told

ANA = {"user_id": "ana", "session_id": "s"}

# Beginning


async def test_a_new_session_knows_nothing_and_gets_an_id_of_its_own(http: httpx2.AsyncClient) -> None:
    first, second = await told(http, START, user_id="ana"), await told(http, START, user_id="ana")
    assert first.pop("session_id") != second["session_id"]
    assert re.fullmatch(r"[A-Za-z0-9._:@-]{1,200}", second["session_id"])
    assert first == {
        "user_id": "ana",
        "active_context": [],
        "cumulative_summary": "",
        "insights": [],
        "session_summaries": [],
        "formatted_context": "",
        "restored": False,
    }


async def test_a_session_of_an_unknown_id_is_begun_under_that_id(client: MemoryServiceClient) -> None:
    for session_id, restore in (("s.1:of@ana-2026_3", True), ("s.2:of@ana-2026_3", False)):
        begun = await client.start_session(session_id, restore=restore)
        assert begun["session_id"] == session_id
        assert begun["restored"] is False
        assert (await client.store_turn("Hello.", "Hello."))["turn_number"] == 1


async def test_starting_an_active_session_goes_on_with_it(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("My boat is called Ida.", "A fine name.")
    again = await client.start_session("s")
    assert again["restored"] is True
    assert spoken(again) == ["My boat is called Ida.", "A fine name."]
    assert (await client.store_turn("She leaks.", "Oh."))["turn_number"] == 2


async def test_many_who_start_one_unknown_session_at_once_begin_it_once(http: httpx2.AsyncClient) -> None:
    begun = await asyncio.gather(*(told(http, START, user_id="ana", session_id="s") for _ in range(20)))
    assert [one["restored"] for one in begun].count(False) == 1


async def test_a_session_its_client_ended_is_not_restored_and_the_answer_says_what_to_do(
    client: MemoryServiceClient,
) -> None:
    await client.start_session("s")
    await client.store_turn("Hello.", "Hello.")
    await client.end_session(wait_s=PATIENCE_S)
    before = await commits(client)
    with pytest.raises(SessionEnded) as refused:
        await client.start_session("s", restore=True)
    assert (refused.value.status, refused.value.code) == (409, "session_ended")
    assert "restore=false" in refused.value.detail
    assert "without session_id" in refused.value.detail
    assert await commits(client) == before


async def test_a_session_the_service_ended_goes_on_in_a_new_sitting(visit: Visit, client_at: ClientAt) -> None:
    async with visit() as http:
        client = client_at(http)
        await client.start_session("s")
        await client.store_turn("I live in Ghent.", "Noted.")
    async with visit(session_abandon_hours=1e-9) as http:
        client = client_at(http, session_id="s")
        async with asyncio.timeout(PATIENCE_S):
            while (await client.reflection())["reflection"] != "done":
                pass
        again = await client.start_session("s", restore=True)
        assert again["restored"] is True
        assert again["active_context"] == []
        assert again["insights"] == ["The user: I live in Ghent."]
        assert (await client.store_turn("I like it here.", "Good."))["turn_number"] == 2


# Beginning afresh


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "active"])
async def test_beginning_afresh_leaves_earlier_turns_out_and_counts_on(
    client: MemoryServiceClient, ended: bool
) -> None:
    await client.start_session("s")
    await client.store_turn("My boat is called Ida.", "A fine name.")
    await client.store_turn("She leaks.", "Oh.")
    if ended:
        await client.end_session()
    afresh = await client.start_session("s", restore=False)
    assert afresh["restored"] is False
    assert afresh["active_context"] == []
    assert afresh["cumulative_summary"] == ""
    assert (await client.store_turn("Hello again.", "Hello."))["turn_number"] == 3
    assert spoken(await client.get_context()) == ["Hello again.", "Hello."]


async def test_what_was_said_before_a_fresh_beginning_stays_on_record_and_is_reflected_on(
    client: MemoryServiceClient,
) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    await client.store_turn("My boat is called Ida.", "A fine name.")
    await client.start_session("s", restore=False)
    await settled(client)

    summaries = (await client.get_summaries())["summaries"]
    assert [(one["session_id"], one["turn_count"]) for one in summaries] == [("s", 2)]
    assert [one["content"] for one in (await client.get_insights())["insights"]] == ["The user: I live in Lisbon."]
    assert "user: My boat is called Ida." in await client.retrieve_facts("boat Ida")


async def test_turns_are_numbered_on_through_all_sittings_of_a_session(client: MemoryServiceClient) -> None:
    numbers = []
    for _ in range(3):
        await client.start_session("s", restore=False)
        numbers += [(await client.store_turn("Hello.", "Hello."))["turn_number"] for _ in range(2)]
        ended = await client.end_session(wait_s=PATIENCE_S)
        assert ended["turns_count"] == 2
    assert numbers == [1, 2, 3, 4, 5, 6]
    summaries = (await client.get_summaries())["summaries"]
    assert [(one["session_id"], one["turn_count"]) for one in summaries] == [("s", 2)] * 3


# Ending


async def test_ending_says_what_became_of_the_session(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    await client.store_turn("I am allergic to walnuts.", "Noted.")
    assert await client.end_session(wait_s=PATIENCE_S) == {
        "status": "success",
        "message": "Session s ended",
        "session_id": "s",
        "turns_count": 2,
        "reflection": "done",
        "summary_generated": True,
        "insights_count": 2,
    }


async def test_a_session_in_which_nothing_was_said_ends_without_a_reflection(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    ended = await client.end_session(wait_s=PATIENCE_S)
    assert (ended["reflection"], ended["turns_count"]) == ("none", 0)
    assert (ended["summary_generated"], ended["insights_count"]) == (False, 0)
    await settled(client)
    assert (await client.get_summaries())["summaries"] == []
    assert (await client.reflection())["reflection"] == "none"


async def test_ending_twice_is_answered_the_same_and_writes_nothing(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    first = await client.end_session(wait_s=PATIENCE_S)
    before = await commits(client)
    assert await client.end_session() == first
    assert await client.end_session(wait_s=1) == first
    assert await commits(client) == before
    assert (await client.get_summaries())["count"] == 1


async def test_ending_at_once_from_many_sides_ends_once(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    answers = await asyncio.gather(*(client.end_session(wait_s=PATIENCE_S) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    assert (await client.get_summaries())["count"] == 1
    assert (await client.get_insights())["count"] == 1


async def test_an_ended_session_takes_no_more_turns(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("Hello.", "Hello.")
    await client.end_session(wait_s=PATIENCE_S)
    before = await commits(client)
    with pytest.raises(SessionEnded) as refused:
        await client.store_turn("One more thing.", "Too late.")
    assert (refused.value.status, refused.value.code) == (409, "session_ended")
    assert await commits(client) == before
    assert spoken(await client.get_context()) == ["Hello.", "Hello."]


async def test_an_ended_session_can_still_be_read(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("My boat is called Ida.", "A fine name.")
    live = await client.get_context()
    await client.end_session(wait_s=PATIENCE_S)
    ended = await client.get_context()
    assert ended["active_context"] == live["active_context"]
    assert ended["cumulative_summary"] == live["cumulative_summary"]


# Waiting for the reflection


@pytest.fixture
async def silent_model() -> AsyncIterator[str]:
    """URL of a model that takes every question and never answers."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_ending_waits_for_the_reflection_as_long_as_asked_and_no_longer(
    connect: Connect, client_at: ClientAt, silent_model: str
) -> None:
    http = await connect(openai_api_key="key", openai_base_url=silent_model, shutdown_grace_seconds=0)
    client = client_at(http)
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    clock = asyncio.get_running_loop().time
    began = clock()
    at_once = await told(http, END, **ANA, wait_s=0)
    between = clock()
    later = await told(http, END, **ANA, wait_s=1.1)
    assert between - began < 10
    assert 1.1 <= clock() - between < 20
    assert at_once == later
    assert (at_once["reflection"], at_once["summary_generated"], at_once["insights_count"]) == ("pending", False, 0)
    state = await client.reflection()
    assert (state["reflection"], state["attempts"], state["last_error"]) == ("pending", 1, None)


async def test_a_reflection_that_nobody_waited_for_is_done_all_the_same(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    ended = await client.end_session()
    assert ended["reflection"] in ("pending", "done")
    await settled(client)
    assert await client.reflection() == {
        "session_id": "s",
        "reflection": "done",
        "attempts": 1,
        "last_error": None,
        "turns_count": 1,
        "insights_count": 1,
    }


async def test_a_session_that_goes_on_has_no_reflection_yet(client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    assert await client.reflection() == {
        "session_id": "s",
        "reflection": "none",
        "attempts": 0,
        "last_error": None,
        "turns_count": 1,
        "insights_count": 0,
    }


# Unknown sessions, and reading


async def test_a_session_that_was_never_started_is_not_found_and_not_made(client: MemoryServiceClient) -> None:
    for call in (
        client.store_turn("Hello.", "Hello.", session_id="never"),
        client.get_context(session_id="never"),
        client.end_session(session_id="never"),
        client.end_session(session_id="never", wait_s=1),
        client.reflection(session_id="never"),
    ):
        with pytest.raises(SessionNotFound) as refused:
            await call
        assert (refused.value.status, refused.value.code) == (404, "session_not_found")
    assert await commits(client) == 0
    begun = await client.start_session("never")
    assert (begun["restored"], begun["active_context"]) == (False, [])
    assert (await client.store_turn("Hello.", "Hello."))["turn_number"] == 1


async def test_reading_never_writes(http: httpx2.AsyncClient, client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    await client.end_session(wait_s=PATIENCE_S)
    first = await everything(http, [("ana", "s"), ("stranger", "s")], "Lisbon")
    assert await everything(http, [("ana", "s"), ("stranger", "s")], "Lisbon") == first
    assert (await client.health())["status"] == "healthy"
    assert await commits(client) == first["commits"]

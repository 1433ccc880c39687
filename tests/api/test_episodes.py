"""Episodes of a user: what callers tell, sessions that were reflected on, and what contexts tell of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service.values import PROFILE_ID
from tests.api.conftest import Connect
from tests.api.talking import PATIENCE_S, RETRIEVE, problem, told

EPISODES = "/users/ana/episodes"
DAY = datetime(2026, 1, 2, 9, tzinfo=UTC)

no_store_has_a_say = pytest.mark.only_on("sqlite", "no store has a say in it")


async def add(http: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
    return await http.post(EPISODES, json={"event_type": "inquiry", "summary": "Asked about mortgage rates", **body})


def summaries(answer: dict[str, Any]) -> list[str]:
    return [one["summary"] for one in answer["episodes"]]


async def three(client: MemoryServiceClient) -> None:
    """As a bank has them, told in another order than that in which they were."""
    for days, event_type, summary in (
        (2, "interest", "Interested in CDs"),
        (0, "inquiry", "Asked about mortgage rates"),
        (1, "Dispute", "Disputed $50 charge, resolved"),
    ):
        await client.add_episode(event_type, summary, timestamp=DAY + timedelta(days=days), metadata={"day": days})


async def test_episodes_are_listed_newest_first_with_sessions_that_were_reflected_on_among_them(
    client: MemoryServiceClient,
) -> None:
    assert await client.get_episodes() == {"user_id": "ana", "episodes": [], "count": 0, "cursor": None}
    await three(client)
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "I see.", created_at=DAY + timedelta(hours=30))
    await client.end_session(wait_s=PATIENCE_S)
    listed = await client.get_episodes(limit=10)
    assert [(one["event_type"], one["by"]) for one in listed["episodes"]] == [
        ("interest", "caller"),
        ("session", "reflection"),
        ("dispute", "caller"),
        ("inquiry", "caller"),
    ]
    assert (listed["count"], listed["cursor"]) == (4, None)
    dispute, session = listed["episodes"][2], listed["episodes"][1]
    assert dispute | {"episode_id": ""} == {
        "episode_id": "",
        "event_type": "dispute",
        "summary": "Disputed $50 charge, resolved",
        "timestamp": "2026-01-03T09:00:00Z",
        "session_id": None,
        "by": "caller",
        "trust": "normal",
        "metadata": {"day": 1},
    }
    assert (session["session_id"], session["metadata"]) == ("s", {})
    assert "Lisbon" in session["summary"]
    pages, cursor = [], None
    while True:
        page = await client.get_episodes(limit=1, cursor=cursor)
        pages += page["episodes"]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert pages == listed["episodes"]
    for event_type, count in (("DISPUTE", 1), ("session", 1), ("chat", 0)):
        assert (await client.get_episodes(event_type=event_type))["count"] == count
    assert summaries(await client.get_episodes(limit=1, event_type="inquiry")) == ["Asked about mortgage rates"]
    await client.erase_session(session_id="s")
    assert (await client.get_episodes(event_type="session"))["count"] == 0


@no_store_has_a_say
async def test_one_of_a_type_is_found_behind_many_of_another(
    client: MemoryServiceClient, http: httpx2.AsyncClient
) -> None:
    await client.add_episode("dispute", "the old one", timestamp=DAY)
    for number in range(12):
        await add(http, summary=f"number {number}", timestamp=(DAY + timedelta(hours=number + 1)).isoformat())
    assert summaries(await client.get_episodes(limit=1, event_type="dispute")) == ["the old one"]
    page = await client.get_episodes(limit=5, event_type="inquiry")
    assert summaries(page) == [f"number {number}" for number in (11, 10, 9, 8, 7)]
    rest = await client.get_episodes(limit=50, event_type="inquiry", cursor=page["cursor"])
    assert summaries(rest) == [f"number {number}" for number in (6, 5, 4, 3, 2, 1, 0)]


@no_store_has_a_say
async def test_a_repeat_changes_nothing_and_another_under_its_id_takes_its_place(http: httpx2.AsyncClient) -> None:
    first = (await add(http, episode_id="e1")).json()
    assert first["change"] == "created"
    assert (await add(http, episode_id="e1")).json() == first | {"change": "unchanged"}
    changed = (await add(http, episode_id="e1", summary="Asked about rates", event_type="Call")).json()
    assert changed == first | {"change": "replaced", "event_type": "call"}, "when it was is not told anew"
    moved = (await add(http, episode_id="e1", timestamp="2026-01-02T10:00:00+01:00")).json()
    assert (moved["change"], moved["timestamp"]) == ("replaced", "2026-01-02T09:00:00Z")
    listed = (await http.get(EPISODES)).json()
    assert [(one["episode_id"], one["summary"]) for one in listed["episodes"]] == [("e1", "Asked about mortgage rates")]
    assert (await http.delete("/memories/e1", params={"user_id": "ana"})).status_code == 200
    assert (await http.get(EPISODES)).json()["count"] == 0
    assert (await add(http, episode_id="e1")).json()["change"] == "created"
    assert (await http.get(EPISODES)).json()["count"] == 1


async def test_of_many_who_tell_the_same_at_once_one_is_kept(http: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(add(http, episode_id="e1", timestamp=DAY.isoformat()) for _ in range(4)))
    assert sorted(one.json()["change"] for one in answers) == ["created", "unchanged", "unchanged", "unchanged"]


@no_store_has_a_say
async def test_of_many_who_tell_different_things_under_one_id_all_are_heard(http: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(add(http, episode_id="e1", summary=f"Call {number}") for number in range(30)))
    assert sorted(one.json()["change"] for one in answers) == ["created", *["replaced"] * 29]
    assert (await http.get(EPISODES)).json()["count"] == 1


@no_store_has_a_say
async def test_no_episode_is_told_under_the_id_of_the_profile_also_where_there_is_none(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    problem(await add(http, episode_id=PROFILE_ID), 409, "memory_id_taken")
    assert (await client.patch_profile({"tier": "Gold"}))["version"] == 1
    assert (await client.get_episodes())["count"] == 0


@no_store_has_a_say
async def test_the_id_of_another_kind_of_memory_is_not_taken(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await told(http, "/memories", memories=[{"user_id": "ana", "content": "mine", "memory_id": "m1"}])
    await client.put_profile({"tier": "Gold"})
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "I see.")
    await client.end_session(wait_s=PATIENCE_S)
    held = (await client.memories())["memories"]
    assert {one["kind"] for one in held} == {"memory", "profile", "insight", "summary", "chunk"}
    for memory in held:
        problem(await add(http, episode_id=memory["id"]), 409, "memory_id_taken")
    insight = (await client.get_insights())["insights"][0]["id"]
    await client.delete_memory(insight)
    problem(await add(http, episode_id=insight), 409, "memory_id_taken")
    assert (await client.memories())["memories"] == [one for one in held if one["id"] != insight]


@no_store_has_a_say
async def test_what_is_no_episode_is_refused(http: httpx2.AsyncClient) -> None:
    for wrong in (
        {"summary": ""},
        {"summary": "x" * 2001},
        {"summary": "a\0"},
        {"event_type": ""},
        {"event_type": "x" * 101},
        {"event_type": "a\nb"},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-01-02T09:00:00"},
        {"timestamp": "0001-01-01T00:00:00Z"},
        {"episode_id": "a b"},
        {"session_id": "a/b"},
        {"metadata": {"a b": 1}},
        {"trust": "high"},
    ):
        assert (await add(http, **wrong)).status_code == 422, wrong
    for query in ({"limit": "0"}, {"limit": "501"}, {"cursor": "x"}, {"event_type": ""}, {"kind": "x"}):
        assert (await http.get(EPISODES, params=query)).status_code == 422, query
    assert (await http.get(EPISODES)).json()["count"] == 0


@no_store_has_a_say
async def test_episodes_are_found_and_go_with_the_session_that_they_are_of(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await client.start_session("s")
    await client.add_episode("dispute", "Disputed fifty for parking", session_id="s")
    await client.add_episode("dispute", "Disputed sixty for parking")
    found = await told(http, RETRIEVE, user_id="ana", query="parking", kinds=["episode"])
    assert len(found["results"]) == 2
    await client.quarantine(session_id="s")
    assert summaries(await client.get_episodes()) == ["Disputed sixty for parking"]
    await client.release(session_id="s")
    assert (await client.get_episodes())["count"] == 2
    await client.erase_session(session_id="s")
    assert summaries(await client.get_episodes()) == ["Disputed sixty for parking"]


@no_store_has_a_say
async def test_a_context_tells_the_newest_that_callers_told(connect: Connect) -> None:
    http = await connect(context_episodes=2)
    client = MemoryServiceClient(str(http.base_url), "ana", http=http)
    assert "episodes" not in await client.start_session("s")
    await three(client)
    context = await client.get_context()
    assert context["episodes"] == ["Interested in CDs", "Disputed $50 charge, resolved"]
    section = "### Past Interactions\n- 2026-01-04 interest: Interested in CDs\n- 2026-01-03 dispute: Disputed $50"
    assert section in context["formatted_context"]
    assert "episodes" not in await client.get_context(min_trust="high")
    page = await client.get_episodes(limit=1)
    await client.delete_memory(page["episodes"][0]["episode_id"])
    assert (await client.get_context())["episodes"] == ["Disputed $50 charge, resolved", "Asked about mortgage rates"]

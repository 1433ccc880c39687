"""What was learned of a user, and what their sessions were about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from client import MemoryServiceClient
from tests.api.conftest import ClientAt
from tests.api.talking import AT, INSIGHTS, PATIENCE_S, SUMMARIES, moment, settled, told


async def converse(client: MemoryServiceClient, session_id: str, *said: str, at: datetime = AT) -> None:
    """Have a whole session, an hour a turn, and wait until it is reflected on."""
    await client.start_session(session_id)
    for hour, words in enumerate(said):
        await client.store_turn(words, "Noted.", created_at=at + timedelta(hours=hour))
    assert (await client.end_session(wait_s=PATIENCE_S))["reflection"] == "done"


async def learned(client: MemoryServiceClient, *, recent_only: bool = False) -> list[str]:
    return [one["content"] for one in (await client.get_insights(recent_only))["insights"]]


# Insights


async def test_an_insight_says_what_was_learned_where_and_how_surely(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await converse(client, "s", "Good morning.", "I live in Lisbon.")
    answer = await told(http, INSIGHTS, user_id="ana")
    assert (answer["user_id"], answer["count"], set(answer)) == ("ana", 1, {"user_id", "insights", "count"})
    [insight] = answer["insights"]
    assert 0 < insight.pop("confidence") <= 1
    assert 0 < insight.pop("importance") <= 1
    assert insight.pop("id").startswith("insight_")
    assert insight.pop("pinned") is False
    assert insight.pop("trust") == "normal"
    assert insight == {
        "content": "The user: I live in Lisbon.",
        "category": "identity",
        "timestamp": "2026-03-02T10:30:00Z",
        "session_id": "s",
        "sources": [{"session_id": "s", "turn_number": 2}],
    }


async def test_of_a_stranger_nothing_is_known(client: MemoryServiceClient) -> None:
    assert await client.get_insights() == {"user_id": "ana", "insights": [], "count": 0}
    assert await client.get_summaries() == {"user_id": "ana", "summaries": [], "count": 0}


async def test_recent_insights_are_those_of_the_last_30_days(client: MemoryServiceClient) -> None:
    now = datetime.now(UTC)
    for name, days in (("old", 31), ("fresh", 29), ("new", 0)):
        await converse(client, name, f"I have a {name} boat.", at=now - timedelta(days=days))
    assert await learned(client) == [f"The user: I have a {name} boat." for name in ("new", "fresh", "old")]
    assert await learned(client, recent_only=True) == [f"The user: I have a {name} boat." for name in ("new", "fresh")]


async def test_insights_come_newest_first_by_when_they_were_said(client: MemoryServiceClient) -> None:
    for day in (2, 0, 1):
        await converse(client, f"s{day}", f"I have a boat of {day + 10} metres.", at=AT + timedelta(days=day))
    insights = (await client.get_insights())["insights"]
    assert [one["session_id"] for one in insights] == ["s2", "s1", "s0"]
    assert [one["timestamp"] for one in insights] == sorted((one["timestamp"] for one in insights), reverse=True)


async def test_every_insight_quotes_turns_that_exist_and_say_it(client: MemoryServiceClient) -> None:
    said: dict[tuple[str, int], str] = {}
    talks = (
        ("Hello.", "I live in Lisbon. I have a dog.", "Is it far?"),
        ("My sister is a sailor.", "What now?", "I am allergic to walnuts."),
    )
    for number, talk in enumerate(talks):
        await converse(client, f"s{number}", *talk, at=AT + timedelta(days=number))
        said |= {(f"s{number}", seq): words for seq, words in enumerate(talk, 1)}
    insights = (await client.get_insights())["insights"]
    assert len(insights) == 4
    for one in insights:
        assert one["sources"]
        for source in one["sources"]:
            words = said[source["session_id"], source["turn_number"]]
            assert one["content"].removeprefix("The user: ") in words
            assert source["session_id"] == one["session_id"]


async def test_what_is_said_again_is_known_once_where_it_was_said_first(client: MemoryServiceClient) -> None:
    await converse(client, "s1", "I live in Lisbon.")
    await converse(client, "s2", "Hello.", "I live in Lisbon.", at=AT + timedelta(days=1))
    [insight] = (await client.get_insights())["insights"]
    assert insight["sources"] == [{"session_id": "s1", "turn_number": 1}]


async def test_a_change_of_mind_replaces_what_was_held_before(client: MemoryServiceClient) -> None:
    await converse(client, "s1", "I live in Lisbon.", "I have a dog.")
    await converse(client, "s2", "I moved to Porto.", at=AT + timedelta(days=30))
    assert await learned(client) == ["The user: I moved to Porto.", "The user: I have a dog."]
    begun = await client.start_session()
    assert sorted(begun["insights"]) == ["The user: I have a dog.", "The user: I moved to Porto."]
    assert any("Lisbon" in summary for summary in begun["session_summaries"]), "what happened then stays told"


async def test_news_that_is_older_than_what_is_held_replaces_nothing(client: MemoryServiceClient) -> None:
    await converse(client, "s1", "I moved to Porto.", at=AT)
    await converse(client, "imported", "I live in Lisbon.", at=AT - timedelta(days=300))
    assert "The user: I moved to Porto." in await learned(client)


async def test_what_one_speaker_says_does_not_replace_what_another_said(client: MemoryServiceClient) -> None:
    for day, (name, words) in enumerate((("Ana", "I live in Lisbon."), ("Ben", "I moved to Porto."))):
        await client.start_session(f"s{day}")
        await client.store_turn(words, "Noted.", user_name=name, created_at=AT + timedelta(days=day))
        await client.end_session(wait_s=PATIENCE_S)
    assert await learned(client) == ["Ben: I moved to Porto.", "Ana: I live in Lisbon."]


async def test_statements_that_differ_in_what_matters_are_not_taken_for_one(
    http: httpx2.AsyncClient, client_at: ClientAt
) -> None:
    rig = "red sails, white masts, brass lamps and oak planks"  # what the statements share makes them nine tenths alike
    for user_id, before, after in (
        ("negation", f"I like {rig}.", f"I never like {rig}."),
        ("number", f"I have a boat with {rig} of 11 metres.", f"I have a boat with {rig} of 12 metres."),
        ("name", f"I have a boat with {rig} from Faro.", f"I have a boat with {rig} from Sines."),
    ):
        client = client_at(http, user_id)
        await converse(client, "s1", before)
        await converse(client, "s2", after, at=AT + timedelta(days=1))
        assert await learned(client) == [f"The user: {after}", f"The user: {before}"]
        await converse(client, "s3", f"{after} Yes.", at=AT + timedelta(days=2))
        assert len(await learned(client)) == 2, "the same again is the same"


# Summaries


async def test_a_summary_says_which_session_it_is_of_when_it_was_and_what_about(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await converse(client, "s", "I live in Lisbon.", "My boat is called Ida.", "The boat leaks.")
    answer = await told(http, SUMMARIES, user_id="ana")
    assert (answer["user_id"], answer["count"], set(answer)) == ("ana", 1, {"user_id", "summaries", "count"})
    [summary] = answer["summaries"]
    assert set(summary) == {
        "session_id",
        "start_time",
        "end_time",
        "summary",
        "cumulative_summary",
        "key_topics",
        "turn_count",
        "trust",
    }
    assert (summary["session_id"], summary["turn_count"], summary["trust"]) == ("s", 3, "normal")
    assert (moment(summary["start_time"]), moment(summary["end_time"])) == (AT, AT + timedelta(hours=2))
    assert "My boat is called Ida." in summary["summary"]
    assert summary["cumulative_summary"] == summary["summary"]
    assert "boat" in summary["key_topics"]
    assert all(isinstance(topic, str) for topic in summary["key_topics"])


async def test_summaries_come_newest_first_and_no_more_than_asked(client: MemoryServiceClient) -> None:
    for day in (3, 0, 6, 1, 5, 2, 4):
        await converse(client, f"s{day}", "I have a boat.", at=AT + timedelta(days=day))
    every = (await client.get_summaries(1000))["summaries"]
    assert [one["session_id"] for one in every] == [f"s{day}" for day in (6, 5, 4, 3, 2, 1, 0)]
    assert (await client.get_summaries())["summaries"] == every[:5]
    assert await client.get_summaries(2) == {"user_id": "ana", "summaries": every[:2], "count": 2}


async def test_only_sessions_that_ended_have_a_summary(client: MemoryServiceClient) -> None:
    await client.start_session("open")
    await client.store_turn("I live in Lisbon.", "Noted.")
    await client.start_session("empty")
    await client.end_session(wait_s=PATIENCE_S)
    await settled(client)
    assert (await client.get_summaries())["summaries"] == []
    assert await learned(client) == []


async def test_a_long_session_has_one_summary_of_all_its_turns(client: MemoryServiceClient) -> None:
    said: list[Any] = [f"I bought kettle number {number}." for number in range(30)]
    await converse(client, "s", *said)
    [summary] = (await client.get_summaries())["summaries"]
    assert summary["turn_count"] == 30
    chunks = (await client.retrieve("kettle", 100, ["chunk"]))["results"]
    quoted = sorted(source["turn_number"] for chunk in chunks for source in chunk["sources"])
    assert quoted == list(range(1, 31)), "its turns are in chunks, each in one"

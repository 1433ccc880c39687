"""What operators see: health and counters, with nothing of any user in them."""

from __future__ import annotations

import re
import socket
from typing import Any

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service import __version__
from memory_service.server import listening
from tests.api.conftest import ClientAt, Connect
from tests.api.talking import CONTEXT, PATIENCE_S, settled, told


async def stats_of(http: httpx2.AsyncClient) -> dict[str, Any]:
    stats: dict[str, Any] = (await http.get("/stats")).json()
    return stats


async def test_health_says_what_serves_and_that_it_works(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/health")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {"status": "healthy", "service": "agent-memory", "version": __version__}


def test_no_answer_is_held_back_until_the_one_before_is_acknowledged() -> None:
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_first_page_leads_on(http: httpx2.AsyncClient) -> None:
    links = (await http.get("/")).json()
    assert (links["service"], links["version"]) == ("agent-memory", __version__)
    for name in ("health", "stats", "openapi"):
        assert (await http.get(links[name])).status_code == 200


async def test_the_pool_is_counted_under_its_documented_names(connect: Connect, client_at: ClientAt) -> None:
    http = await connect(max_sessions=50, session_ttl_minutes=15)
    stats = await stats_of(http)
    documented = {
        "total_sessions": 0,
        "dirty_sessions": 0,
        "max_capacity": 50,
        "utilization": 0.0,
        "ttl_seconds": 900,
        "avg_age_seconds": 0.0,
        "oldest_age_seconds": 0.0,
    }
    assert {name: stats[name] for name in documented} == documented
    for number in range(2):
        await client_at(http).start_session(f"s{number}")
    stats = await stats_of(http)
    assert (stats["total_sessions"], stats["utilization"]) == (2, 0.04)
    assert 0 < stats["avg_age_seconds"] < stats["oldest_age_seconds"] < 60
    assert all(type(stats[name]) is int for name in ("total_sessions", "dirty_sessions", "max_capacity"))


async def test_a_session_in_the_pool_is_a_hit_and_one_that_is_not_a_miss(http: httpx2.AsyncClient) -> None:
    async def moved(session_id: str, status: int) -> tuple[int, int]:
        before = await stats_of(http)
        answer = await http.post(CONTEXT, json={"user_id": "ana", "session_id": session_id})
        assert answer.status_code == status
        after = await stats_of(http)
        return after["hits"] - before["hits"], after["misses"] - before["misses"]

    assert await moved("s", 404) == (0, 1)
    await told(http, "/sessions/start", user_id="ana", session_id="s")
    assert await moved("s", 200) == (1, 0)
    assert await moved("s", 200) == (1, 0)
    assert (await stats_of(http))["total_sessions"] == 1, "what does not exist takes no place"


async def test_the_least_recently_used_sessions_leave_a_full_pool(connect: Connect, client_at: ClientAt) -> None:
    http = await connect(max_sessions=2)
    client = client_at(http)
    for name in ("s1", "s2"):
        await client.start_session(name)
    await client.get_context(session_id="s1")
    await client.start_session("s3")
    stats = await stats_of(http)
    assert (stats["total_sessions"], stats["evictions"], stats["utilization"]) == (2, 1, 1.0)
    for name, misses in (("s1", 0), ("s3", 0), ("s2", 1)):
        await client.get_context(session_id=name)
        assert (await stats_of(http))["misses"] - stats["misses"] == misses


async def test_sessions_that_nobody_touches_leave_the_pool(connect: Connect, client_at: ClientAt) -> None:
    http = await connect(session_ttl_minutes=1e-9)
    client = client_at(http)
    await client.start_session("s")
    stats = await stats_of(http)
    assert stats["total_sessions"] == 0
    assert stats["evictions"] > 0
    assert (await client.store_turn("Hello.", "Hello."))["turn_number"] == 1, "leaving the pool ends nothing"


async def test_without_a_pool_nothing_is_kept_and_nothing_evicted(connect: Connect, client_at: ClientAt) -> None:
    http = await connect(max_sessions=0)
    client = client_at(http)
    await client.start_session("s")
    await client.get_context()
    stats = await stats_of(http)
    assert (stats["total_sessions"], stats["utilization"], stats["evictions"]) == (0, 0.0, 0)
    assert stats["misses"] >= 2


async def test_at_rest_nothing_is_dirty_and_nothing_waits(client: MemoryServiceClient, durability: str) -> None:
    await client.start_session()
    for number in range(12):
        await client.store_turn(f"I have a boat of {number} metres.", "Noted.")
    await client.end_session(wait_s=PATIENCE_S)
    stats = await settled(client)
    assert stats["dirty_sessions"] == 0
    assert stats["store"]["commits"] > 12
    assert stats["store"].get("waiting_commits", 0) == 0
    assert (stats["queues"]["waiting"], stats["queues"]["running"], stats["queues"]["failed"]) == (0, 0, 0)
    assert stats["queues"]["completed"] > 0
    assert stats["durability"] == durability


@pytest.mark.only_on("sqlite", "it is about the queue of its writer")
async def test_commits_that_are_written_together_are_counted_as_a_group(client: MemoryServiceClient) -> None:
    await client.start_session()
    store = (await settled(client))["store"]
    assert store["waiting_commits"] == 0
    assert store["commits"] >= store["groups"] > 0


async def test_what_the_background_did_is_counted(client: MemoryServiceClient) -> None:
    await client.start_session()
    for number in range(12):
        await client.store_turn(f"I have a boat of {number} metres.", "Noted.")
    await settled(client)
    await client.end_session(wait_s=PATIENCE_S)
    await client.retrieve("boat")
    stats = await settled(client)
    assert stats["reflection"]["reflected"] == 1
    assert stats["reflection"]["compacted"] == 1
    assert (stats["reflection"]["failed_attempts"], stats["reflection"]["dead"]) == (0, 0)
    assert (stats["recall"]["searches"], stats["recall"]["degraded"]) == (1, 0)
    learned, chunks, summaries = (await client.get_insights())["count"], 2, 1
    assert stats["recall"]["embedded"] >= 12 + learned + chunks + summaries


async def test_tokens_spent_are_told_for_the_model_and_the_embedder(client: MemoryServiceClient) -> None:
    await client.start_session()
    await client.store_turn("I live in Lisbon.", "Noted.")
    await client.end_session(wait_s=PATIENCE_S)
    tokens = (await settled(client))["tokens"]
    assert tokens["model"] == "extractive"
    assert (tokens["calls"], tokens["failures"]) == (1, 0)
    assert (tokens["prompt_tokens"], tokens["completion_tokens"]) == (0, 0), "rules cost nothing"
    assert tokens["embedding"]["calls"] > 0
    assert (tokens["embedding"]["failures"], tokens["embedding"]["prompt_tokens"]) == (0, 0)


async def test_the_counters_name_no_user_no_session_and_nothing_that_was_said(
    http: httpx2.AsyncClient, client_at: ClientAt
) -> None:
    client = client_at(http, "canary-user")
    await client.start_session("canary-session", agent_id="canary-agent")
    await client.store_turn(
        "I live in canary-town.", "canary", turn_id="canary-turn", user_name="canary", metadata={"canary": "canary"}
    )
    seen = [(await http.get("/stats")).text]
    await client.retrieve("canary")
    await client.end_session(wait_s=PATIENCE_S)
    seen.append((await http.get("/stats")).text)
    await settled(http)
    seen += [(await http.get(path)).text for path in ("/stats", "/health", "/", "/openapi.json")]
    assert not re.search("canary", "".join(seen))

"""Three services on one record, asked in turn and killed: nothing acknowledged is lost, doubled or hidden."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from memory_service.chaos.process import ServiceProcess
from tests.faults.replicas import NO_ANSWER, PATIENCE_S, RoundRobin, replicas_on

REPLICAS, WRITERS, TURNS = 3, 32, 12
SESSIONS = [("ana", "s"), ("ana", "t"), ("ben", "s"), ("cleo", "s")]


@pytest.fixture(params=["cosmos", pytest.param("postgres", marks=pytest.mark.long), "postgres and redis"])
def record(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings with which all keep the same record."""
    if request.param == "cosmos":
        server = request.getfixturevalue("cosmos_server")
        return dict(server.environment)
    shared = {"STORE_URL": request.getfixturevalue("postgres_url")}
    if request.param == "postgres and redis":
        shared["REDIS_URL"] = request.getfixturevalue("redis_server").url
    return shared


@pytest.fixture
async def replicas(tmp_path: Path, record: dict[str, str]) -> AsyncIterator[list[ServiceProcess]]:
    async with replicas_on(tmp_path, [record] * REPLICAS) as made:
        yield made


async def killed_at_random(replicas: list[ServiceProcess], chance: random.Random, times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(chance.uniform(0.2, 0.8))
        replica = chance.choice(replicas)
        replica.kill()
        await replica.ended(10)
        await replica.start()


async def test_32_writers_lose_nothing_while_replicas_are_killed(replicas: list[ServiceProcess]) -> None:
    chance = random.Random(5)
    numbers: dict[tuple[str, str], dict[str, int]] = {session: {} for session in SESSIONS}
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
        urls = [replica.url for replica in replicas]
        anyone = RoundRobin(http, urls, NO_ANSWER, "503 ")
        for user_id, session_id in SESSIONS:
            await anyone.post("/sessions/start", user_id=user_id, session_id=session_id)

        async def writes(writer: int) -> None:
            user_id, session_id = session = SESSIONS[writer % len(SESSIONS)]
            name = {"user_id": user_id, "session_id": session_id}
            for number in range(TURNS):
                turn = {"turn_id": f"{writer}-{number}", "user_message": f"{writer}:{number}", "agent_message": "heard"}
                stored = await anyone.post("/memory/store", **name, **turn)
                numbers[session][turn["turn_id"]] = stored["turn_number"]
                seen = await anyone.post("/memory/context", **name)
                said = [message["content"] for message in seen["active_context"]]
                assert f"{writer}:{number}" in said, "a turn that was acknowledged is not seen by another"

        killing = asyncio.create_task(killed_at_random(replicas, chance, 6))
        await asyncio.gather(*(writes(writer) for writer in range(WRITERS)))
        await killing
        for (user_id, session_id), given in numbers.items():
            count = WRITERS // len(SESSIONS) * TURNS
            assert sorted(given.values()) == list(range(1, count + 1)), (
                "each turn has a number of its own, without gaps"
            )
            ended = await anyone.post("/sessions/end", user_id=user_id, session_id=session_id)
            assert ended["turns_count"] == count
        await reflected(anyone)
        for user_id in {user_id for user_id, _ in SESSIONS}:
            summaries = (await anyone.post("/summaries", user_id=user_id))["summaries"]
            told = sorted(summary["session_id"] for summary in summaries)
            assert told == sorted(session_id for user, session_id in SESSIONS if user == user_id)
    assert await asyncio.gather(*(replica.stop() for replica in replicas)) == [0] * REPLICAS


async def reflected(anyone: RoundRobin) -> None:
    """Wait until every session is reflected on, whoever does it."""
    async with asyncio.timeout(PATIENCE_S):
        for user_id, session_id in SESSIONS:
            name = {"user_id": user_id, "session_id": session_id}
            while (await anyone.post("/sessions/end", **name, wait_s=1))["reflection"] != "done":
                pass  # it waits by itself

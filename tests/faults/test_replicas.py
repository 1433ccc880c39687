"""Two services on one record in Cosmos DB, one of which is killed: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from memory_service.chaos.process import ServiceProcess
from tests.cosmos.launcher import KEY, CosmosServer

CALLERS, TURNS = 6, 20


@pytest.fixture
async def replicas(tmp_path: Path, cosmos_server: CosmosServer) -> AsyncIterator[list[ServiceProcess]]:
    made = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        made.append(ServiceProcess(folder, STORE_URL="cosmos:", COSMOS_ENDPOINT=cosmos_server.url, COSMOS_KEY=KEY))
    for replica in made:
        await replica.start()
    yield made
    for replica in made:
        replica.kill()
        await replica.ended(10)


async def stored(urls: list[str], caller: int, number: int) -> None:
    """Store one turn, asking one replica after the other until it is acknowledged."""
    body = {"user_id": f"user{caller % 2}", "session_id": "s", "turn_id": f"{caller}-{number}"}
    for attempt in range(200):
        with suppress(httpx2.TransportError):
            async with httpx2.AsyncClient(base_url=urls[(caller + attempt) % 2], trust_env=False) as http:
                said = {**body, "user_message": f"{caller}:{number}", "agent_message": "heard"}
                answer = await http.post("/memory/store", json=said)
                if answer.status_code == 200:
                    return
                assert answer.status_code in (409, 503), answer.text
        await asyncio.sleep(0.02)
    pytest.fail("never acknowledged")


async def test_callers_of_two_services_lose_nothing_when_one_is_killed_and_comes_back(
    replicas: list[ServiceProcess],
) -> None:
    urls = [replica.url for replica in replicas]
    async with httpx2.AsyncClient(base_url=urls[1], trust_env=False, timeout=20) as http:
        for user in range(2):
            await http.post("/sessions/start", json={"user_id": f"user{user}", "session_id": "s"})

        async def talk(caller: int) -> None:
            for number in range(TURNS):
                await stored(urls, caller, number)

        talking = [asyncio.create_task(talk(caller)) for caller in range(CALLERS)]
        for _ in range(2):
            await asyncio.sleep(0.5)
            replicas[0].kill()
            await replicas[0].ended(10)
            await replicas[0].start()
        await asyncio.gather(*talking)
        for user in range(2):
            name = {"user_id": f"user{user}", "session_id": "s"}
            ended = (await http.post("/sessions/end", json=name)).json()
            assert ended["turns_count"] == TURNS * CALLERS // 2
    await asyncio.gather(*(replica.stop() for replica in replicas))

"""Two services on one record that share a Redis, which fails in every way: each answer is right, none is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from memory_service.hot_tier import FAILURES_IN_A_ROW, FIND_S
from memory_service.server import running
from memory_service.settings import Settings
from tests.redis.launcher import RedisServer
from tests.support.background import until
from tests.support.line import Line, line_to

PATIENCE_S = 20
FAULT_S = 4.0
BUSY_S = 2.5
"""By how much a machine that has other things to do may be late."""
SESSIONS = 6


class Shared:
    """Two services, and the line of each to their Redis."""

    def __init__(self, https: list[httpx2.AsyncClient], lines: list[Line], redis: RedisServer) -> None:
        self.https, self.lines, self.redis = https, lines, redis
        self.longest_s = 0.0

    async def post(self, which: int, path: str, **body: Any) -> dict[str, Any]:
        began = time.monotonic()
        answer = await self.https[which].post(path, json=body)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def tiers(self) -> list[dict[str, Any]]:
        return [(await http.get("/stats")).json()["hot_tier"] for http in self.https]

    async def loads(self) -> int:
        verbs = [(await http.get("/stats")).json()["store"]["verbs"] for http in self.https]
        return sum(verb.get("load", {}).get("round_trips", 0) for verb in verbs)


Fault = Callable[[Shared], Awaitable[None]]


@asynccontextmanager
async def sharing(
    make_settings: Callable[..., Settings], redis: RedisServer, store_url: str, **changes: Any
) -> AsyncIterator[Shared]:
    async with AsyncExitStack() as stack:
        https, lines = [], []
        for _ in range(2):
            line = await stack.enter_async_context(line_to(redis.url))
            given = {"store_url": store_url, "redis_url": line.url, "k_turn_buffer": 1000, **changes}
            url = await stack.enter_async_context(running(make_settings(**given)))
            https.append(await stack.enter_async_context(httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30)))
            lines.append(line)
        yield Shared(https, lines, redis)


@pytest.fixture(params=[100, 0], ids=["with a pool", "without a pool"])
async def shared(
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
    redis_server: RedisServer,
    postgres_url: str,
) -> AsyncIterator[Shared]:
    async with sharing(make_settings, redis_server, postgres_url, max_sessions=request.param) as shared:
        yield shared


async def talk(shared: Shared, session_id: str, said: list[str], pause_s: float = 0.02) -> None:
    """Say one thing at one of them; both must have heard it, and all before it."""
    name = {"user_id": "ana", "session_id": session_id}
    text = f"{session_id} said {len(said)}"
    which = len(said) % 2
    stored = await shared.post(which, "/memory/store", **name, user_message=text, agent_message="heard")
    said.append(text)
    assert stored["turn_number"] == len(said)
    for reader in (1 - which, which):
        context = await shared.post(reader, "/memory/context", **name)
        assert [message["content"] for message in context["active_context"]][::2] == said
    await asyncio.sleep(pause_s)


async def under(shared: Shared, said: dict[str, list[str]], fault: Fault) -> None:
    """Talk in all sessions at once for as long as the fault lasts."""
    failing = asyncio.ensure_future(fault(shared))

    async def talks(session_id: str) -> None:
        while not failing.done():
            await talk(shared, session_id, said[session_id])

    await asyncio.gather(failing, *(talks(session_id) for session_id in said))


async def begun(shared: Shared) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {f"s{number}": [] for number in range(SESSIONS)}
    for session_id in said:
        await shared.post(0, "/sessions/start", user_id="ana", session_id=session_id)
    return said


async def used_again(shared: Shared, said: dict[str, list[str]]) -> None:
    """Talk until both have found something in Redis again."""
    before = await shared.tiers()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for session_id in said:
                await talk(shared, session_id, said[session_id])
            now = await shared.tiers()
            hit = all(tier["hits"] > old["hits"] for tier, old in zip(now, before, strict=True))
            if hit and [tier["state"] for tier in now] == ["up", "up"]:
                return


async def hangs(shared: Shared) -> None:
    with shared.redis.paused():
        await asyncio.sleep(FAULT_S)


async def crashes(shared: Shared) -> None:
    shared.redis.kill()
    await asyncio.sleep(1)
    await asyncio.to_thread(shared.redis.start)


async def is_cut_from_both(shared: Shared) -> None:
    for line in shared.lines:
        line.become("silent")
    await asyncio.sleep(FAULT_S)
    for line in shared.lines:
        line.become("whole")


async def is_cut_from_one(shared: Shared) -> None:
    shared.lines[1].become("silent")
    await asyncio.sleep(FAULT_S)
    shared.lines[1].become("whole")


async def flaps(shared: Shared) -> None:
    for state in ("refusing", "whole") * 10:
        for line in shared.lines:
            line.become(state)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("fault", [hangs, crashes, is_cut_from_both, is_cut_from_one, flaps])
async def test_whatever_befalls_redis_each_sees_at_once_what_was_said_at_the_other(
    shared: Shared, fault: Fault
) -> None:
    said = await begun(shared)
    await used_again(shared, said)
    await under(shared, said, fault)
    await used_again(shared, said)
    assert shared.longest_s < 2 * FIND_S + BUSY_S < FAULT_S


async def test_services_start_without_their_redis_and_use_it_when_it_comes(
    make_settings: Callable[..., Settings], redis_server: RedisServer, postgres_url: str
) -> None:
    redis_server.kill()
    async with sharing(make_settings, redis_server, postgres_url) as shared:
        said = await begun(shared)
        for session_id in said:
            await talk(shared, session_id, said[session_id])
        assert [tier["state"] for tier in await shared.tiers()] == ["down", "down"]
        redis_server.start()
        await used_again(shared, said)


async def test_what_one_has_committed_the_other_takes_from_redis_and_not_from_the_store(
    make_settings: Callable[..., Settings], redis_server: RedisServer, postgres_url: str
) -> None:
    async with sharing(make_settings, redis_server, postgres_url) as shared:
        said = await begun(shared)
        before = await shared.loads()
        for number in range(10):
            kept = await kept_in_all(shared)
            for session_id in said:
                name = {"user_id": "ana", "session_id": session_id}
                await shared.post(0, "/memory/store", **name, user_message=f"{number}", agent_message="heard")
            await until(lambda least=kept + SESSIONS: is_kept(shared, least))
            for session_id in said:
                await shared.post(1, "/memory/context", user_id="ana", session_id=session_id)
        loads, tiers = await shared.loads() - before, await shared.tiers()
    hits = sum(tier["hits"] for tier in tiers)
    assert hits >= 0.9 * SESSIONS * 10
    assert loads <= 0.1 * SESSIONS * 10
    assert [tier["state"] for tier in tiers] == ["up", "up"]
    assert all(tier["failures"] < FAILURES_IN_A_ROW for tier in tiers)


async def kept_in_all(shared: Shared) -> int:
    """How often a session was kept in Redis."""
    return sum(tier["kept"] for tier in await shared.tiers())


async def is_kept(shared: Shared, least: int) -> bool:
    return await kept_in_all(shared) >= least

"""PostgreSQL and Redis crash, hang, and are cut off under three services: it is said, and heals without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from redis.asyncio import Redis

from memory_service.chaos.process import SERVE, ServiceProcess
from tests.faults.doors import Door, reflected_once
from tests.faults.replicas import (
    EVERYBODY,
    PATIENCE_S,
    Caller,
    RoundRobin,
    a_while,
    all_is_there,
    all_ready,
    heard,
    readiness,
    replicas_on,
    talking,
)
from tests.postgres.launcher import PostgresServer
from tests.redis.launcher import RedisServer
from tests.stores.postgres_database import rows
from tests.support import impatient
from tests.support.background import until
from tests.support.line import Line, State, line_to

REPLICAS, CALLERS, TURNS = 3, 5, 4
IMPATIENT = (*SERVE[:1], impatient.__file__, "serve")
AWAY = "503 store_unavailable"
ONCE = {"REFLECTION_THRESHOLD_TURNS": "1000"}  # a session is reflected on when it is ended, not while it grows
HEALED_S = 20.0


@dataclass
class Shared:
    """Services, what they share, the lines of each to it, and those who ask them."""

    replicas: list[ServiceProcess]
    postgres: PostgresServer
    redis: RedisServer
    postgres_lines: list[Line]
    redis_lines: list[Line]
    record: str
    http: httpx2.AsyncClient
    anyone: RoundRobin
    callers: list[Caller]

    async def hits(self) -> int:
        """How often what was asked for was found in Redis."""
        stats = [(await self.http.get(f"{replica.url}/stats")).json() for replica in self.replicas]
        return sum(one["hot_tier"]["hits"] for one in stats)

    async def redis_is_used(self) -> None:
        """Wait until all of them have it again, and find something there."""

        async def up() -> bool:
            tiers = [(await self.http.get(f"{replica.url}/stats")).json()["hot_tier"] for replica in self.replicas]
            return all(tier["state"] == "up" and tier["listening"] for tier in tiers)

        await until(up)
        before = await self.hits()

        async def found() -> bool:
            return await self.hits() > before

        await until(found)


Serving = Callable[..., AbstractAsyncContextManager[Shared]]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path) as server:
        yield server


@pytest.fixture
def serving(tmp_path: Path, own_server: PostgresServer, redis_server: RedisServer) -> Serving:
    @asynccontextmanager
    async def start(command: Sequence[str] = SERVE, may_refuse: tuple[str, ...] = (AWAY,)) -> AsyncIterator[Shared]:
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(line_to(own_server.url)) for _ in range(REPLICAS)]
            tiers = [await stack.enter_async_context(line_to(redis_server.url)) for _ in range(REPLICAS)]
            records = [
                {"STORE_URL": store.url, "REDIS_URL": tier.url} for store, tier in zip(stores, tiers, strict=True)
            ]
            replicas = await stack.enter_async_context(replicas_on(tmp_path, records, command, **ONCE))
            http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_S))
            anyone = RoundRobin(http, [replica.url for replica in replicas], *may_refuse)
            callers = [Caller(f"caller-{number}", anyone, TURNS) for number in range(CALLERS)]
            yield Shared(replicas, own_server, redis_server, stores, tiers, own_server.url, http, anyone, callers)

    return start


# What is looked at afterwards


async def all_is_well(shared: Shared) -> None:
    """What was acknowledged is there once, in order, for each of them, and reflected on once; none of them ended."""
    await said_at_one_is_heard_at_all(shared)
    await all_is_there(shared.record, shared.callers)
    await each_session_is_reflected_on_once(shared)
    assert await asyncio.gather(*(replica.stop() for replica in shared.replicas)) == [0] * REPLICAS
    assert not [replica.log for replica in shared.replicas if "Traceback" in replica.log.read_text()]


async def said_at_one_is_heard_at_all(shared: Shared) -> None:
    for number, replica in enumerate(shared.replicas):
        caller = shared.callers[number]
        session_id = next(reversed(caller.said))
        session, said = {"user_id": caller.name, "session_id": session_id}, caller.said[session_id]
        only = RoundRobin(shared.http, [replica.url], AWAY)
        await Caller(caller.name, only, 1).say(session, said)
        for other in shared.replicas:
            assert heard(await RoundRobin(shared.http, [other.url], AWAY).post("/memory/context", **session)) == said


async def each_session_is_reflected_on_once(shared: Shared) -> None:
    turns = {caller.name: {name: len(said) for name, said in caller.said.items() if said} for caller in shared.callers}
    turns[EVERYBODY["user_id"]] = {EVERYBODY["session_id"]: sum(len(caller.shared) for caller in shared.callers)}
    sessions = [(user_id, session_id) for user_id, held in turns.items() for session_id in held]
    for user_id, session_id in sessions:
        ended = await shared.anyone.post("/sessions/end", user_id=user_id, session_id=session_id)
        assert ended["turns_count"] == turns[user_id][session_id]
    rows(shared.record, "UPDATE sittings SET lease_until = NULL WHERE reflection = 'pending' RETURNING 1")
    async with Door(shared.replicas[0].url) as door:
        for user_id, session_id in sessions:
            await until(lambda named=(user_id, session_id): door.reflected(*named), PATIENCE_S)
        for user_id, held in turns.items():
            await reflected_once(shared.record, door, user_id, held)
    done = [(await shared.http.get(f"{replica.url}/stats")).json()["reflection"] for replica in shared.replicas]
    assert sum(one["reflected"] for one in done) <= len(sessions)


# PostgreSQL


Outage = Callable[[Shared], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def hanging(shared: Shared) -> AsyncIterator[None]:
    with shared.postgres.paused():
        yield


@asynccontextmanager
async def crashed(shared: Shared) -> AsyncIterator[None]:
    shared.postgres.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(shared.postgres.start)


def cut(state: State, services: int) -> Outage:
    """The lines of so many services."""

    @asynccontextmanager
    async def cutting(shared: Shared) -> AsyncIterator[None]:
        for line in shared.postgres_lines[:services]:
            line.become(state)
        try:
            yield
        finally:
            for line in shared.postgres_lines[:services]:
                line.become("whole")

    return cutting


async def is_said(shared: Shared, services: int) -> None:
    """Each of the first so many refuses a caller and says that it is not ready; the others are, and serve on."""
    hit, well = shared.replicas[:services], shared.replicas[services:]
    before = {replica.url: shared.anyone.refused[replica.url] for replica in hit}
    said = asyncio.gather(*(readiness(shared.http, replica) for replica in hit))  # beside the callers: it takes as long
    await until(lambda: all(shared.anyone.refused[url] > count for url, count in before.items()), PATIENCE_S)
    assert set(await said) == {AWAY}
    for replica in hit:
        assert (await shared.http.get(f"{replica.url}/livez")).status_code == 200
    if well:
        await until(lambda: all_ready(shared.http, well))
        await a_while(shared.callers, turns=2)


async def heals(shared: Shared) -> None:
    """All of them are ready soon, and everybody is served again."""
    began = time.monotonic()
    await until(lambda: all_ready(shared.http, shared.replicas))
    await a_while(shared.callers)
    assert time.monotonic() - began < HEALED_S


@pytest.mark.parametrize(
    ("outage", "services", "command"),
    [
        pytest.param(hanging, REPLICAS, SERVE, id="it hangs for longer than anybody waits"),
        pytest.param(crashed, REPLICAS, IMPATIENT, id="it crashes and stays away"),
        pytest.param(cut("silent", REPLICAS), REPLICAS, IMPATIENT, id="nothing comes through"),
        pytest.param(cut("refusing", 1), 1, IMPATIENT, id="one service is cut off"),
    ],
)
async def test_a_postgresql_that_is_away_is_said_and_when_it_is_back_all_goes_on(
    serving: Serving, outage: Outage, services: int, command: Sequence[str]
) -> None:
    async with serving(command) as shared:
        async with talking(shared.callers):
            await a_while(shared.callers)
            async with outage(shared):
                await is_said(shared, services)
            await heals(shared)
        await all_is_well(shared)


async def test_crashes_of_postgresql_that_are_over_soon_refuse_nobody(serving: Serving) -> None:
    async with serving(may_refuse=()) as shared:
        async with talking(shared.callers):
            for _ in range(3):
                await a_while(shared.callers)
                async with crashed(shared):
                    pass
            await heals(shared)
        await all_is_well(shared)


# Redis


@asynccontextmanager
async def gone(shared: Shared) -> AsyncIterator[None]:
    shared.redis.kill()
    yield
    await asyncio.to_thread(shared.redis.start)


@asynccontextmanager
async def emptied(shared: Shared) -> AsyncIterator[None]:
    async with Redis(port=shared.redis.port, protocol=2) as redis:
        await redis.flushall()
    yield


@asynccontextmanager
async def cut_from_one(shared: Shared) -> AsyncIterator[None]:
    shared.redis_lines[0].become("silent")
    yield
    shared.redis_lines[0].become("whole")


async def test_a_redis_that_is_stopped_emptied_or_cut_off_refuses_nobody_and_is_used_again(serving: Serving) -> None:
    async with serving(may_refuse=()) as shared:
        async with talking(shared.callers):
            await shared.redis_is_used()
            for outage in (gone, emptied, cut_from_one):
                async with outage(shared):
                    await a_while(shared.callers)
                    assert await all_ready(shared.http, shared.replicas)
                await shared.redis_is_used()
        await all_is_well(shared)


async def test_both_away_at_once_heal_in_any_order(serving: Serving) -> None:
    async with serving(IMPATIENT) as shared:
        async with talking(shared.callers):
            await a_while(shared.callers)
            async with gone(shared), crashed(shared):
                await is_said(shared, REPLICAS)
            await heals(shared)
            await shared.redis_is_used()
        await all_is_well(shared)

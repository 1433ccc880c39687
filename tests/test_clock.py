"""A clock that stands, jumps or runs back: nothing is lost, doubled, in a rush, out of order or over too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from apscheduler.schedulers import base as apscheduler

from memory_service.app import Surroundings, open_service
from memory_service.chaos.model_modes import Call, Mode, status
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.scheduler import Scheduler
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.values import Message, Scope, SessionKey
from tests.support.background import Clock, record, settled, until

ANA = Scope(user_id="ana")
KEY = SessionKey(scope=ANA, session_id="s")
CONCURRENCY = 3

Open = Callable[..., Awaitable[MemoryService]]


class Stopwatch:
    """Seconds that go by whatever the clock says."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
async def opened(make_settings: Callable[..., Settings], clock: Clock, stopwatch: Stopwatch) -> AsyncIterator[Open]:
    """Open a service on SQLite whose clock may be set, while the seconds go by on their own."""
    async with AsyncExitStack() as stack:

        async def enter(**changes: Any) -> MemoryService:
            given = {"sweep_interval_seconds": 3600, "shutdown_grace_seconds": 0.05, **changes}
            settings = make_settings(**given)
            service = await stack.enter_async_context(
                open_service(settings, Surroundings(now=clock, monotonic=stopwatch))
            )
            await settled(service)
            return service

        yield enter


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


async def say(service: MemoryService, *texts: str, key: SessionKey = KEY) -> None:
    await service.start_session(key.scope, key.session_id, restore=True)
    for text in texts:
        await service.store_turn(key, Draft(messages=(Message(role="user", content=text),)))


async def swept(service: MemoryService) -> None:
    await service.sweep()
    await settled(service)


async def is_active(service: MemoryService, key: SessionKey = KEY) -> bool:
    return (await service.context(key)).session.status == "active"


# Set back


async def test_turns_stay_in_the_order_they_were_told_when_the_clock_is_set_back_between_them(
    opened: Open, clock: Clock
) -> None:
    service = await opened(k_turn_buffer=50)
    said = []
    for jump in ({}, {"hours": -1}, {"days": 1}, {"days": -1}, {"minutes": -30}):
        clock.advance(**jump)
        said.append(f"I prefer tea after {jump}.")
        await say(service, said[-1])
    assert [turn.messages[0].content for turn in (await service.context(KEY)).turns] == said
    service._pool.evict_all()
    assert [turn.messages[0].content for turn in (await service.context(KEY)).turns] == said
    assert [turn.seq for turn in await record(service).turns(KEY)] == [1, 2, 3, 4, 5]
    ended = await service.end_session(KEY, wait_s=10)
    assert ended.reflection == "done"
    [summary] = await service.summaries(ANA, 5)
    assert summary.metadata["turn_count"] == 5


async def test_nothing_is_over_early_when_the_clock_is_set_back(
    opened: Open, clock: Clock, stopwatch: Stopwatch
) -> None:
    service = await opened(session_abandon_hours=24)
    await say(service, "I prefer tea.")
    clock.advance(hours=-1)
    await swept(service)
    for _ in range(23):
        clock.advance(hours=1)
        stopwatch.s += 3600
        await swept(service)
        assert await is_active(service)
    clock.advance(hours=2, minutes=1)
    stopwatch.s += 7260
    await swept(service)
    assert not await is_active(service)


# Set ahead


async def test_a_clock_set_ahead_by_a_day_ends_no_conversation_that_goes_on(
    opened: Open, clock: Clock, stopwatch: Stopwatch
) -> None:
    service = await opened(session_abandon_hours=24)
    other = SessionKey(scope=ANA, session_id="other")
    await say(service, "I prefer tea.")
    await say(service, "I prefer cake.", key=other)
    clock.advance(days=1)
    for _ in range(3):
        await swept(service)
    assert await is_active(service)
    assert await is_active(service, other)
    await service.store_turn(KEY, Draft(messages=(Message(role="user", content="I am still here."),)))

    for hour in range(25):  # what nobody touches is over after a day of hours all the same
        assert await is_active(service, other) or hour >= 23
        clock.advance(hours=1)
        stopwatch.s += 3600
        await swept(service)
    assert not await is_active(service, other)


async def test_a_day_after_a_jump_the_clock_is_believed_again(opened: Open, clock: Clock, stopwatch: Stopwatch) -> None:
    service = await opened(session_abandon_hours=24)
    clock.advance(days=3650)  # a machine that learns the time after the service was started
    await swept(service)
    await say(service, "I prefer tea.")
    for _ in range(50):
        clock.advance(hours=1)
        stopwatch.s += 3600
        await swept(service)
    assert not await is_active(service)


# Standing still


async def test_what_fell_due_while_everything_stood_still_is_done_once_each_and_a_few_at_a_time(
    opened: Open, model: ModelServer, clock: Clock, stopwatch: Stopwatch
) -> None:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    service = await opened(**endpoint, reflection_concurrency=CONCURRENCY, breaker_failures=1000)
    model.rule = lambda call: status(500)
    users = [SessionKey(scope=Scope(user_id=f"user{number}"), session_id="s") for number in range(20)]
    for key in users:
        await say(service, "I prefer tea.", key=key)
        await service.end_session(key)
    await settled(service)
    failed = len(model.chats)
    assert failed == len(users)

    now, most = 0, 0

    async def counted(call: Call) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await call.wait(0.02)
        now -= 1
        return call.server.usual(call)

    mode: Mode = counted
    model.rule = lambda call: mode
    clock.advance(minutes=10)
    stopwatch.s += 600
    await asyncio.gather(*(service.sweep() for _ in range(3)))
    await settled(service)
    assert (len(model.chats), most <= CONCURRENCY) == (failed + len(users), True)
    for key in users:
        assert (await service.reflection(key)).reflection == "done"
        assert len(await service.summaries(key.scope, 5)) == 1


# The alarm clock


class Wall(datetime):
    """What APScheduler takes for the time."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz or UTC) + cls.ahead


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(days=1)])
async def test_what_runs_every_so_often_goes_on_at_its_pace_when_the_clock_jumps(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    monkeypatch.setattr(Wall, "ahead", timedelta())
    monkeypatch.setattr(apscheduler, "datetime", Wall)
    runs: list[float] = []
    loop = asyncio.get_running_loop()

    async def tick() -> None:
        runs.append(loop.time())

    async with AsyncExitStack() as stack:
        scheduler = Scheduler(concurrency=1, grace_s=1)
        await scheduler.start(stack)
        scheduler.every(0.02, "tick", tick)
        await until(lambda: len(runs) >= 3)
        monkeypatch.setattr(Wall, "ahead", jump)
        before = len(runs)
        await until(lambda: len(runs) >= before + 5)
    assert min(later - earlier for earlier, later in pairwise(runs)) > 0.01

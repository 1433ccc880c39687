"""A worker that is away longer than its lease: another one does the work, and what the first brings late is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import pytest
from starlette.responses import Response

from memory_service.app import make_models, make_parts
from memory_service.chaos.model_modes import Call, Mode, answer, status
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.service import Parts
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Store
from memory_service.values import Message, Scope, SessionKey
from tests.stores.cosmos_account import settings_for
from tests.support.background import Clock
from tests.support.stores import store_of

ANA = Scope(user_id="ana")
KEY = SessionKey(scope=ANA, session_id="s")
TIMEOUT_S = 20
LEASE_S = 2 * TIMEOUT_S + 30

Hire = Callable[[], Parts]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "cosmos"])
async def store(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> AsyncIterator[Store]:
    """One record that several workers share, as processes do over a store that many may own."""
    server = request.getfixturevalue("cosmos_server") if request.param == "cosmos" else None
    async with AsyncExitStack() as stack:
        store = store_of(settings_for(server) if server else make_settings())
        await store.start(stack)
        yield store


@pytest.fixture
async def hire(
    make_settings: Callable[..., Settings], store: Store, model: ModelServer, clock: Clock
) -> AsyncIterator[Hire]:
    """Make a worker of its own: its pool, its caches, its model's client."""
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    settings = make_settings(**endpoint, model_timeout_seconds=TIMEOUT_S)
    async with AsyncExitStack() as stack:

        def make() -> Parts:
            return make_parts(settings, store, *make_models(settings, stack), clock.around)

        yield make


class Suspended:
    """Ways for a model's answer to come once it is let go."""

    def __init__(self) -> None:
        self._go = threading.Event()

    def __call__(self, then: Mode) -> Mode:
        async def mode(call: Call) -> Response:
            await call.wait(TIMEOUT_S, lambda: not self._go.is_set())
            return await then(call)

        return mode

    def let_go(self) -> None:
        self._go.set()


async def ended(worker: Parts, session_id: str = "s") -> None:
    key = SessionKey(scope=ANA, session_id=session_id)
    await worker.sessions.start(key, restore=True, agent_id=None)
    for text in ("I prefer tea.", "My cat is called Rex."):
        await worker.sessions.append(key, Draft(messages=(Message(role="user", content=text),)))
    await worker.sessions.end(key, by_client=True)


async def held(store: Store) -> list[Any]:
    return [
        *await store.memories(ANA, ["summary", "insight", "chunk"], superseded=True),
        *await store.sittings(KEY),
    ]


LATE = {
    "an answer": answer({"summary": "Too late.", "topics": [], "insights": [{"text": "Ana is late", "turns": [1]}]}),
    "a failure": status(500),
    "nonsense": answer("I would rather not."),
}


@pytest.mark.parametrize("late", LATE)
async def test_a_worker_back_after_its_lease_finds_the_work_done_and_changes_nothing(
    hire: Hire, store: Store, model: ModelServer, clock: Clock, late: str
) -> None:
    sleeper, other = hire(), hire()
    suspended = Suspended()
    model.play(suspended(LATE[late]))
    await ended(sleeper)
    sleeping = asyncio.create_task(sleeper.reflector.reflect_due(ANA))
    await model.until(1)

    clock.advance(seconds=LEASE_S - 1)
    assert await other.reflector.reflect_due(ANA) is None
    assert (other.reflector.reflected, len(model.chats)) == (0, 1)  # the lease is kept to

    clock.advance(seconds=2)
    assert await other.reflector.reflect_due(ANA) is None
    [sitting] = await store.sittings(KEY)
    assert (sitting.reflection, sitting.attempts, sitting.insights_count) == ("done", 2, 2)
    before = await held(store)

    suspended.let_go()
    again = await sleeping
    assert again is None or again <= clock()  # nothing to come back for later
    assert await held(store) == before
    assert (sleeper.reflector.reflected, other.reflector.reflected, len(model.chats)) == (0, 1, 2)
    assert not any("late" in memory.text for memory in await store.memories(ANA, ["summary", "insight"]))


async def test_a_worker_cut_short_after_its_lease_does_not_give_back_what_another_has(
    hire: Hire, store: Store, model: ModelServer, clock: Clock
) -> None:
    sleeper, other = hire(), hire()
    suspended = Suspended()
    model.play(suspended(LATE["an answer"]), suspended(model_as_usual))
    await ended(sleeper)
    sleeping = asyncio.create_task(sleeper.reflector.reflect_due(ANA))
    await model.until(1)
    clock.advance(seconds=LEASE_S + 1)
    working = asyncio.create_task(other.reflector.reflect_due(ANA))
    await model.until(2)

    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    [sitting] = await store.sittings(KEY)
    assert sitting.lease_until is not None
    assert sitting.lease_until > clock()  # the other's
    suspended.let_go()
    await working
    [sitting] = await store.sittings(KEY)
    assert (sitting.reflection, sitting.attempts, other.reflector.reflected) == ("done", 2, 1)


async def model_as_usual(call: Call) -> Response:
    return call.server.usual(call)


async def test_of_two_workers_who_look_at_once_each_sitting_is_read_by_one(
    hire: Hire, store: Store, model: ModelServer
) -> None:
    workers = [hire() for _ in range(4)]
    for number in range(5):
        await ended(workers[0], f"s{number}")
    looked: list[datetime | None] = await asyncio.gather(*(worker.reflector.reflect_due(ANA) for worker in workers))
    while any(again is not None for again in looked):
        looked = await asyncio.gather(*(worker.reflector.reflect_due(ANA) for worker in workers))
    assert len(model.chats) == sum(worker.reflector.reflected for worker in workers) == 5
    assert len(await store.memories(ANA, ["summary"])) == 5

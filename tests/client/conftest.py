"""A scripted server, and both clients behind one fixture."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from client import MemoryServiceClient, SyncMemoryServiceClient
from tests.support.scripted_http import ScriptedHTTP


class Awaitable:
    """Lets the blocking client be awaited, in a thread, so that one test serves both."""

    def __init__(self, client: SyncMemoryServiceClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not inspect.ismethod(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(value, *args, **kwargs)

        return call


@pytest.fixture(scope="module")
def running():
    server = ScriptedHTTP()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def service(running):
    running.forget()
    return running


@pytest.fixture
def unborn():
    """A server that refuses connections until it is started."""
    server = ScriptedHTTP()
    yield server
    server.stop()


@pytest.fixture
def pauses():
    return []


@pytest.fixture(params=["awaited", "blocking"])
async def connect(request, service, pauses):
    """Make a client of the twin under test; its pauses are recorded, not slept, and jitter is at its most."""
    made = []

    def make(url: str = service.url, *, before_retry: Any = lambda: None, **options: Any) -> Any:
        def pause(seconds: float) -> None:
            pauses.append(seconds)
            before_retry()

        async def apause(seconds: float) -> None:
            pause(seconds)

        options = {"_random": lambda: 1.0, "user_id": "user123", "timeout_s": 5, **options}
        if request.param == "awaited":
            made.append(MemoryServiceClient(url, _sleep=apause, **options))
            return made[-1]
        made.append(SyncMemoryServiceClient(url, _sleep=pause, **options))
        return Awaitable(made[-1])

    yield make
    for client in made:
        await client.aclose() if isinstance(client, MemoryServiceClient) else client.close()

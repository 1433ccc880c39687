"""The end of the server: whoever has sent something before the door was closed is served, and told to go elsewhere."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import uvicorn

from memory_service.errors import UnsafeStart
from memory_service.guard import LAST_REQUEST_S, Doorkeeper, Limits, guarded_by
from memory_service.server import Server, listening
from tests.support.background import until
from tests.support.raw_http import Caller

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def greeting(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Open(NamedTuple):
    server: Server
    listener: socket.socket
    callers: list[Caller]

    def knock(self) -> Caller:
        """A connection that the system has made; the server has not looked yet."""
        sock = socket.create_connection(self.listener.getsockname())
        sock.setblocking(False)
        self.callers.append(Caller(sock))
        return self.callers[-1]

    def close(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.server.shutdown([self.listener]))


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    protocol = guarded_by(Doorkeeper(Limits()))
    config = uvicorn.Config(greeting, http=protocol, ws="none", lifespan="off", access_log=False, log_config=None)
    with listening("127.0.0.1", 0) as listener:
        opened = Open(Server(config), listener, [])
        serving = asyncio.create_task(opened.server.serve(sockets=[listener]))
        await until(lambda: opened.server.started)
        yield opened
        for caller in opened.callers:
            caller.leave()
        opened.server.should_exit = True
        await serving


@pytest.mark.parametrize("host", ["nonsense", "not a host", "999.1.1.1"])
def test_a_host_that_is_none_is_refused_in_words(host: str) -> None:
    words = f"^cannot listen on {host} port 0: HOST is not known as an address$"
    with pytest.raises(UnsafeStart, match=words), listening(host, 0):
        pass


async def test_those_who_wait_at_the_door_when_it_is_closed_are_let_in_and_served(opened: Open) -> None:
    callers = [opened.knock() for _ in range(5)]
    for caller in callers:
        await caller.say(GET)
    await opened.server.shutdown([opened.listener])  # nobody has looked at the door in between
    for caller in callers:
        assert (await caller.last()).status == 200
    assert opened.listener.fileno() < 0, "it is closed"


async def test_a_request_into_a_connection_that_was_kept_is_served_shortly_after_the_door_was_closed(
    opened: Open,
) -> None:
    kept, fresh = opened.knock(), opened.knock()
    for _ in range(2):
        await kept.say(GET)
        answer = await kept.hear()
        assert answer is not None
        assert "connection" not in answer.headers
    await until(lambda: len(opened.server.server_state.connections) == 2)
    closing = opened.close()
    await until(lambda: not opened.server.servers[0].sockets)
    for caller in (kept, fresh):
        await caller.say(GET)
    for caller in (kept, fresh):
        assert (await caller.last()).headers["connection"] == "close"
    await closing


async def test_a_connection_that_brings_nothing_holds_the_end_up_for_a_moment_only(opened: Open) -> None:
    idle = opened.knock()
    await until(lambda: opened.server.server_state.connections)
    began = time.monotonic()
    await opened.close()
    assert time.monotonic() - began < LAST_REQUEST_S + 4  # uvicorn waits for 5
    assert await idle.hear() is None

"""A proxy breaks the line after N bytes of an exchange, for every N: whatever was heard, asking again settles it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2

from tests.conftest import Serve
from tests.support.background import until

ANA = {"user_id": "ana", "session_id": "s"}
JSON = "application/json"


class CuttingProxy:
    """Passes bytes both ways, and breaks both connections when `left` of them have passed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.left = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pairs = ((reader, far_writer), (far_reader, writer))
        ways = [asyncio.create_task(self._pass(source, sink)) for source, sink in pairs]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, far_writer):
            end.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while self.left and (data := await source.read(65_536)):
                data = data[: self.left]
                self.left -= len(data)
                sink.write(data)
                await sink.drain()


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[tuple[CuttingProxy, int]]:
    proxy = CuttingProxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        yield proxy, server.sockets[0].getsockname()[1]


def body_of(number: int) -> bytes:
    """One turn, and spaces: a body that is cut among these is whole as JSON, and has not come to its end."""
    turn = {**ANA, "user_message": f"Turn {number:04}.", "agent_message": "Noted."}
    return json.dumps(turn).encode() + b" " * 20


def request(number: int) -> bytes:
    """One turn under a name of its own, as long as every other one."""
    lines = (
        "POST /memory/store HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {JSON}",
        f"Idempotency-Key: key-{number:04}",
        f"Content-Length: {len(body_of(number))}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body_of(number)


async def heard_of(port: int, sent: bytes) -> bytes:
    """Send this, and take what comes until the line breaks or is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    heard = b""
    with suppress(ConnectionError):
        while more := await reader.read(65_536):
            heard += more
    writer.close()
    return heard


async def test_wherever_an_exchange_breaks_asking_again_finds_the_turn_stored_once(serve: Serve) -> None:
    url = await serve(k_turn_buffer=1000, reflection_threshold_turns=10_000)
    async with (
        httpx2.AsyncClient(base_url=url, timeout=60) as http,
        cutting(int(url.rpartition(":")[2])) as (proxy, port),
    ):
        await http.post("/sessions/start", json=ANA)
        proxy.left = 1_000_000
        whole = await heard_of(port, request(0))
        assert json.loads(whole.partition(b"\r\n\r\n")[2])["turn_number"] == 1
        asked, exchanged = len(request(0)), len(request(0)) + len(whole)
        for number in range(1, exchanged):
            proxy.left = number
            heard = await heard_of(port, request(number))
            assert len(heard) == max(0, number - asked), "the line broke where it was to break"
            if number != asked:  # there, the service may or may not have seen the line break before it stored
                await holds(http, number + (number > asked))
            await settles(http, number, stored=None if number == asked else number > asked)
        told = (await http.post("/memory/context", json=ANA)).json()["active_context"]
        assert [one["content"] for one in told[::2]] == [f"Turn {number:04}." for number in range(exchanged)]


async def holds(http: httpx2.AsyncClient, turns: int) -> None:
    """Wait until the session has this many turns."""

    async def counted() -> bool:
        answer = await http.get("/sessions/s/reflection", params={"user_id": "ana"})
        return bool(answer.json()["turns_count"] == turns)

    await until(counted)


async def settles(http: httpx2.AsyncClient, number: int, *, stored: bool | None) -> None:
    """Ask again, twice: stored once, and answered the same."""
    first, second = [await again(http, number) for _ in range(2)]
    assert first["turn_number"] == number + 1
    assert second == {**first, "replayed": True}
    assert stored is None or first["replayed"] is stored


async def again(http: httpx2.AsyncClient, number: int) -> dict[str, Any]:
    headers = {"Content-Type": JSON, "Idempotency-Key": f"key-{number:04}"}
    response = await http.post("/memory/store", content=body_of(number), headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer

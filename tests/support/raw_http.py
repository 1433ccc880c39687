"""HTTP by hand: any bytes into a socket, and the answers out of it, one by one, up to the end."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import NamedTuple

PATIENCE_S = 10


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def is_problem(self, status: int, code: str) -> bool:
        assert self.headers["content-type"] == "application/problem+json"
        told = json.loads(self.body)
        assert self.headers["x-request-id"] == told["request_id"]
        assert self.headers["connection"] == "close"
        return (self.status, told["status"], told["code"]) == (status, status, code)


class Caller:
    """One raw connection: says bytes, and hears answers or the end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._loop = sock, asyncio.get_running_loop()
        self._heard = b""

    async def say(self, data: bytes) -> None:
        with suppress(ConnectionError):  # the server may have closed in the middle of it, after it answered
            await self._loop.sock_sendall(self._sock, data)

    async def hear(self) -> Answer | None:
        """The next answer whole; None once the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            while (answer := self._cut()) is None:
                try:
                    more = await self._loop.sock_recv(self._sock, 65_536)
                except ConnectionResetError:
                    more = b""
                if not more:
                    assert not self._heard, f"half an answer: {self._heard!r}"
                    return None
                self._heard += more
        return answer

    async def head(self) -> bytes:
        """An answer that has no body, though it may tell the length of one."""
        async with asyncio.timeout(PATIENCE_S):
            while b"\r\n\r\n" not in self._heard:
                self._heard += await self._loop.sock_recv(self._sock, 65_536)
        head, _, self._heard = self._heard.partition(b"\r\n\r\n")
        return head

    async def last(self) -> Answer:
        """The one answer there is, after which the server has closed."""
        answer = await self.hear()
        assert answer is not None, "closed without an answer"
        assert await self.hear() is None, "a second answer"
        return answer

    async def everything(self) -> bytes:
        """All that comes until the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            while more := await self._loop.sock_recv(self._sock, 65_536):
                self._heard += more
        return self._heard

    def _cut(self) -> Answer | None:
        head, found, rest = self._heard.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        if len(rest) < length:
            return None
        self._heard = rest[length:]
        return Answer(int(first.split()[1]), headers, rest[:length])

    def end(self) -> None:
        """Say no more, and still hear."""
        with suppress(OSError):  # the server may have closed by then
            self._sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        self._sock.close()

"""A line between a service and a server that can be cut: what stands for a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

State = Literal["whole", "silent", "refusing"]
LEFTOVER = 65536


class Line:
    """`url` leads through it. `silent`: connections stand and nothing comes through. `refusing`: all are hung up on."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._state: State = "whole"
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self.url = ""

    def become(self, state: State) -> None:
        """What comes while it is silent is lost, as are the connections of that time once it is whole again."""
        was, self._state = self._state, state
        if state == "refusing" or was == "silent":
            for writer in list(self._open):
                writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state == "refusing":
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
            self._open.add(there[1])
            with suppress(OSError):
                await asyncio.gather(self._passed(reader, there[1]), self._passed(there[0], writer))
            self._open.discard(there[1])
            there[1].close()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(LEFTOVER):
            if self._state == "whole":
                writer.write(some)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def line_to(url: str) -> AsyncIterator[Line]:
    """A line to a server of this machine; all of its URL stays as it is but the port."""
    port = urlsplit(url).port
    assert port is not None
    line = Line(port)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    line.url = url.replace(f":{port}", f":{server.sockets[0].getsockname()[1]}")
    try:
        yield line
    finally:
        line.become("refusing")
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)

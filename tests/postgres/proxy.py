"""What may stand between the service and PostgreSQL: a pooler that shares connections by transaction, and a bad line.

The pooler is as unkind as one may be: each transaction of a client goes to another server connection than its last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

READY, IDLE = b"Z", b"I"
ENDING_A_BATCH = (b"Q", b"S", b"F")  # simple query, sync, function call: each is answered by one READY
NO_ENCRYPTION = (80877103, 80877104)


class Line:
    """Messages of one side: a type, and all of it as it was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def message(self) -> tuple[bytes, bytes]:
        head = await self.reader.readexactly(5)
        return head[:1], head + await self.reader.readexactly(int.from_bytes(head[1:]) - 4)

    async def first_message(self) -> bytes:
        """The one that has no type."""
        while True:
            length = await self.reader.readexactly(4)
            rest = await self.reader.readexactly(int.from_bytes(length) - 4)
            if int.from_bytes(rest[:4]) not in NO_ENCRYPTION:
                return length + rest
            self.writer.write(b"N")

    def close(self) -> None:
        self.writer.close()


class Proxy:
    """`url` leads through it. `drop_answers(n)` lets n batches be executed and hangs up instead of answering."""

    def __init__(self, target: str, servers: int) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._path, self._user = parts.path, parts.username
        self._count = servers
        self._servers: asyncio.Queue[Line] = asyncio.Queue()
        self._greeting = b""
        self._to_drop = 0
        self.batches = 0
        self.url = ""

    def drop_answers(self, count: int = 1) -> None:
        self._to_drop = count

    async def open(self, stack: AsyncExitStack) -> None:
        for _ in range(self._count):
            line = Line(*await asyncio.open_connection(self._host, self._port))
            stack.callback(line.close)
            words = f"user\0{self._user}\0database\0{self._path[1:]}\0\0".encode()
            line.writer.write((len(words) + 8).to_bytes(4) + (196608).to_bytes(4) + words)
            self._greeting = b""
            kind = b""
            while kind != READY:
                kind, whole = await line.message()
                self._greeting += whole
            self._servers.put_nowait(line)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        stack.callback(server.close_clients) if hasattr(server, "close_clients") else None
        port = server.sockets[0].getsockname()[1]
        self.url = f"postgresql://{self._user}@127.0.0.1:{port}{self._path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Line(reader, writer)
        try:
            await client.first_message()
            writer.write(self._greeting)
            while True:
                await self._transaction(client, await client.message())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            client.close()

    async def _transaction(self, client: Line, message: tuple[bytes, bytes]) -> None:
        """From a client's first message to where a server connection is free for the next client."""
        if message[0] == b"X":
            raise ConnectionResetError
        server = await self._servers.get()
        try:
            status = b""
            while status != IDLE:
                answer = await self._batch(client, server, message)
                status = answer[-1:]
                if self._to_drop and status == IDLE:
                    self._to_drop -= 1
                    raise ConnectionResetError
                client.writer.write(answer)
                if status != IDLE:
                    message = await client.message()
        finally:
            self._servers.put_nowait(server)

    async def _batch(self, client: Line, server: Line, message: tuple[bytes, bytes]) -> bytes:
        """Pass on what is to be answered together; returns the answer."""
        self.batches += 1
        server.writer.write(message[1])
        while message[0] not in ENDING_A_BATCH:
            message = await client.message()
            server.writer.write(message[1])
        answer, kind = b"", b""
        while kind != READY:
            kind, whole = await server.message()
            answer += whole
        return answer


@asynccontextmanager
async def pooling(target: str, servers: int = 3) -> AsyncIterator[Proxy]:
    """A pooler in front of a database."""
    async with AsyncExitStack() as stack:
        proxy = Proxy(target, servers)
        await proxy.open(stack)
        yield proxy

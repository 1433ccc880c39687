"""The calls by which all that is kept of a user goes to a file and comes from one, awaited and blocking."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import httpx2

from client import _calls
from client._answers import read
from client._caller import Caller
from client._calls import Call
from client.errors import ConnectionFailed

T = TypeVar("T")

PART = 65_536
CUT_OFF = "the export was cut off; what was written is not whole"


class Written:
    """Takes the parts of an answer into a file, and knows whether it came to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._line = b""
        self._lines = 0

    def take(self, part: bytes) -> None:
        self._file.write(part)
        self._lines += part.count(b"\n")
        *ended, begun = (self._line + part).split(b"\n")
        self._line = begun if not ended else ended[-1] + b"\n" + begun

    @contextmanager
    def once(self) -> Iterator[None]:
        """While parts come: what breaks then is not tried again, for some are written. Raises ConnectionFailed."""
        try:
            yield
        except httpx2.RequestError as exc:
            raise ConnectionFailed(CUT_OFF) from exc

    def things(self) -> int:
        """How many things there were. Raises ConnectionFailed if the last line is not there, which says so."""
        try:
            foot: Any = json.loads(self._line)
            things: int = foot["things"]
            if things == self._lines - 2:
                return things
        except (ValueError, LookupError, TypeError):
            pass
        raise ConnectionFailed(CUT_OFF)


def parts_of(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(PART):
        yield part


async def aparts_of(file: BinaryIO) -> AsyncIterator[bytes]:
    for part in parts_of(file):
        yield part


class AwaitedFiles(Caller):
    _http: httpx2.AsyncClient

    async def export_user(self, file: BinaryIO) -> int:
        """Write all that is kept of the user to a file, one JSON object a line; returns how many things there were.

        Raises UserNotFound, and ConnectionFailed if it was cut off: what was written by then is no use.
        """
        call, written = _calls.export_user(self.user_id), Written(file)
        return await self._retried(call, lambda: self._write(call, written))

    async def import_user(self, file: BinaryIO, *, user_id: str | None = None) -> dict[str, Any]:
        """Make a user what a file of `export_user` says, under this name or that of the file.

        Nothing is written unless all of it is right. Raises UserExists for one of whom something else is kept.
        """
        call, began = _calls.import_user(user_id), file.tell()

        async def send() -> dict[str, Any]:
            file.seek(began)
            return read(await self._http.request(**self._request(call), content=aparts_of(file)))

        return await self._retried(call, send)

    async def _write(self, call: Call, written: Written) -> int:
        async with self._http.stream(**self._request(call)) as response:
            if not response.is_success:
                await response.aread()
                read(response)
            with written.once():
                async for part in response.aiter_bytes():
                    written.take(part)
        return written.things()

    async def _retried(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError


class BlockingFiles(Caller):
    _http: httpx2.Client

    def export_user(self, file: BinaryIO) -> int:
        """Write all that is kept of the user to a file; see MemoryServiceClient.export_user."""
        call, written = _calls.export_user(self.user_id), Written(file)
        return self._retried(call, lambda: self._write(call, written))

    def import_user(self, file: BinaryIO, *, user_id: str | None = None) -> dict[str, Any]:
        """Make a user what a file of `export_user` says; see MemoryServiceClient.import_user."""
        call, began = _calls.import_user(user_id), file.tell()

        def send() -> dict[str, Any]:
            file.seek(began)
            return read(self._http.request(**self._request(call), content=parts_of(file)))

        return self._retried(call, send)

    def _write(self, call: Call, written: Written) -> int:
        with self._http.stream(**self._request(call)) as response:
            if not response.is_success:
                response.read()
                read(response)
            with written.once():
                for part in response.iter_bytes():
                    written.take(part)
        return written.things()

    def _retried(self, call: Call, send: Callable[[], T]) -> T:
        raise NotImplementedError

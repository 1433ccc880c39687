"""Requests that arrive whole and are answered in one piece, as nearly all are, without what only long ones need.

Served by the same code as all others. What is left out is what ASGI and uvicorn's own cycle need for bodies and answers
in parts (messages, an event, flow control): it takes longer than most answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from http import HTTPStatus
from types import coroutine
from typing import Any

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

Whole = Callable[[Any, bytes], Coroutine[Any, Any, tuple[int, Headers, bytes]]]
"""Takes the scope and the body of a request; gives status, headers (but that of its length) and body of the answer."""

MOST_BYTES = 65_536
"""Of a body; a longer one goes uvicorn's way."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CLOSE = (b"connection", b"close")


def begun(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Do the first of some work, up to where it waits for something; returns what is left, for a task, if anything is.

    What is hot is answered so without a task, which costs as much as the answer. Until then there is no present task:
    what needs one (a time limit does) asks for it by `in_a_task`.
    """
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    return _rest(work, waits_for)


async def in_a_task() -> None:
    """Go on in a task, if what is being done was begun without one."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


async def _rest(work: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _going_on(work, waits_for)


@coroutine
def _going_on(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            came: Any = yield waits_for
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, came)
        try:
            waits_for = step()
        except StopIteration:
            return


class _Unheard:
    """What uvicorn rings when something has come: nobody here waits for a part."""

    def set(self) -> None: ...


def is_short(headers: Headers) -> bool:
    """Tell whether a body of a length that is known is announced, and nothing that asks for more than an answer."""
    short = False
    for name, value in headers:
        if name == b"content-length":
            short = len(value) <= 5 and int(value) <= MOST_BYTES
        elif name in (b"transfer-encoding", b"expect", b"upgrade"):
            return False
    return short


class WholeCycle:
    """One exchange, in the place of uvicorn's `RequestResponseCycle`: its protocol looks at the public fields.

    `beside`: headers that the server sends with each answer.
    """

    __slots__ = (
        "_beside",
        "_on_response",
        "_transport",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
    )
    message_event = _Unheard()

    def __init__(
        self, scope: Any, transport: Any, beside: Headers, keep_alive: bool, on_response: Callable[[], None]
    ) -> None:
        self.scope, self._transport, self.keep_alive, self._on_response = scope, transport, keep_alive, on_response
        self._beside = beside
        self.body = b""
        self.disconnected = self.response_started = self.response_complete = False

    async def run(self, answer: Whole) -> None:
        """Answer; what cannot be ends the connection."""
        try:
            status, headers, body = await answer(self.scope, self.body)
            if not self.disconnected:
                self._write(status, headers, body)
        except Exception:
            logger.exception("a request was not answered")
        finally:
            if not self.response_complete:
                self._transport.close()

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        headers = [*self._beside, *headers, (b"content-length", b"%d" % len(body))]
        if not self.keep_alive:
            headers.append(_CLOSE)
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        if lines.count(b"\n") != len(headers):
            raise RuntimeError("a line break in a header")
        self._transport.write(b"%b%b\r\n%b" % (_STATUS_LINES[status], lines, body))
        self.response_started = self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._on_response()

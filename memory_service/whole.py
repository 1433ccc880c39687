"""Requests that arrive whole and are answered in one piece, as nearly all are, without what only long ones need.

Served by the same code as all others. What is left out is what ASGI and uvicorn's own cycle need for bodies and answers
in parts (messages, an event, flow control): it takes longer than most answers. A head that comes again on its
connection is not parsed again either (`SameHead`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Generator
from functools import lru_cache, partial
from http import HTTPStatus
from types import coroutine
from typing import Any

from memory_service.stores.settling import Settling

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

Reply = tuple[int, Headers, Any]
Whole = Callable[[Any, bytes], Coroutine[Any, Any, Reply]]
"""Takes the scope and the body of a request; gives status, headers (but that of its length) and body of the answer."""

SERVED = "head_served"
"""In a scope: whether this very head, on this connection, was good enough for an answer of 200."""
MOST_HEAD = 2_000
"""Bytes of a head that is known again: each connection has a few of them."""
MOST_BYTES = 65_536
"""Of a body; a longer one goes uvicorn's way."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CLOSE = (b"connection", b"close")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,5})\r\n", re.IGNORECASE)

Work = Coroutine[Any, Any, None]


async def in_a_task() -> None:
    """Go on in a task, if what is being done was begun without one (`WholeCycle.begin`)."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


@coroutine
def _going_on(work: Work, waits_for: Any) -> Generator[Any, Any, None]:
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


class SameHead:
    """The head of a request that came whole, by which the next of its connection is known without being parsed.

    A client sends the same bytes each time, but for the number that says how long the body is. `served`: whether a
    request with this head was answered 200, so that what depends on the head alone need not be looked at again.
    """

    __slots__ = ("_after", "_before", "_scope", "_where", "served")

    def __init__(self, before: bytes, after: bytes, scope: dict[str, Any]) -> None:
        self._before, self._after, self._scope, self.served = before, after, scope, False
        self._where = next(place for place, (name, _) in enumerate(scope["headers"]) if name == b"content-length")

    @classmethod
    def of(cls, data: bytes, scope: dict[str, Any]) -> SameHead | None:
        """The head of what has been served, if `data` is that request and nothing else."""
        head, end, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head + end)
        if found is None or int(found[1]) != len(body) or len(head) > MOST_HEAD:
            return None
        start, stop = found.span(1)
        return cls(head[:start], (head + end)[stop:], scope)

    def next(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """The scope and the body of a request that is all of `data` and has this head; None if that is not so."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        stop = data.find(b"\r", start, start + 6)
        length = data[start:stop]
        if stop < 0 or not length.isdigit() or not data.startswith(self._after, stop):
            return None
        body = data[stop + len(self._after) :]
        if int(length) != len(body) or len(body) > MOST_BYTES:
            return None
        headers = self._scope["headers"].copy()
        headers[self._where] = (b"content-length", length)
        return {**self._scope, "headers": headers, SERVED: self.served}, body


class WholeCycle:
    """One exchange, in the place of uvicorn's `RequestResponseCycle`: its protocol looks at the public fields.

    `beside`: headers that the server sends with each answer.
    """

    __slots__ = (
        "_beside",
        "_on_response",
        "_reply",
        "_transport",
        "body",
        "disconnected",
        "head",
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
        self.head: SameHead | None = None
        self._reply: Reply | None = None
        self.disconnected = self.response_started = self.response_complete = False

    async def run(self, answer: Whole) -> None:
        try:
            await self._work(answer)
        finally:
            self._finish()

    def begin(self, answer: Whole, in_task: Callable[[Work], object]) -> None:
        """Do as `run`, up to where it waits for something else than a commit; what is then left is done `in_task`.

        What is hot is answered so, and stored, without a task, which costs as much as the answer. Until then there is
        no present task: what needs one (a time limit does) asks for it by `in_a_task`.
        """
        if self._is_through(self._work(answer), in_task):
            self._finish()

    def _settled(self, work: Work, in_task: Callable[[Work], object]) -> Callable[[], None] | None:
        """Go on; the answer is sent when all who were settled together have gone on. One by one they would wake whoever
        reads them each time, which takes longer than an answer.
        """
        return self._finish if self._is_through(work, in_task) else None

    def _is_through(self, work: Work, in_task: Callable[[Work], object]) -> bool:
        """Do some of the work, and see to the rest; returns whether that was all."""
        try:
            waits_for = work.send(None)
        except StopIteration:
            return True
        if isinstance(waits_for, Settling):
            waits_for.then(partial(self._settled, work, in_task))
        else:
            in_task(self._rest(work, waits_for))
        return False

    async def _rest(self, work: Work, waits_for: Any) -> None:
        try:
            await _going_on(work, waits_for)
        finally:
            self._finish()

    async def _work(self, answer: Whole) -> None:
        try:
            self._reply = await answer(self.scope, self.body)
        except Exception:
            logger.exception("a request was not answered")

    def _finish(self) -> None:
        """Send the answer; where there is none, the connection ends."""
        try:
            if self._reply is not None and not self.disconnected:
                self._write(*self._reply)
        except Exception:
            logger.exception("an answer was not sent")
        if not self.response_complete:
            self._transport.close()

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        closing = () if self.keep_alive else (_CLOSE,)
        if self.head is not None and status == HTTPStatus.OK:
            self.head.served = True
        head = _head(status, (*self._beside, *headers, *closing))
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self.response_started = self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._on_response()


@lru_cache(maxsize=256)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """All of an answer's head but its length; the same for all answers of a second, mostly."""
    lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    if lines.count(b"\n") != len(headers):
        raise RuntimeError("a line break in a header")
    return _STATUS_LINES[status] + lines

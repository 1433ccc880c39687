"""What uvicorn leaves unlimited: time for a request to arrive, size of its head, number of connections.

Refusals are the same problem details as everywhere else, written straight to the connection, which is then
closed. A request that arrives whole costs no timer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memory_service.api.moving import EXTENSION
from memory_service.api.problems import headers_of, problem_of, status_of
from memory_service.errors import (
    BodyTimeout,
    DeadlineExceeded,
    Draining,
    HeadersTooLarge,
    MalformedRequest,
    MemoryServiceError,
    RequestTimeout,
    TooManyConnections,
)
from memory_service.whole import SameHead, Whole, WholeCycle, Work, is_short

LAST_BODY_S = 1.0
"""Seconds for the rest of a body once the service is about to end."""
LAST_REQUEST_S = 0.5
"""Seconds for a request that was sent before its sender could know that the service is about to end."""

HEADS = 4
"""So many heads of requests each connection knows again: agents ask for a few things in turn."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    head_s: float = 10
    body_s: float = 30
    head_bytes: int = 32_768
    connections: int = 2_000
    connections_per_address: int = 2_000
    request_s: float = 30
    piece_bytes: int = 65_536


class Doorkeeper:
    """Counts the connections of one server, by address, and what was refused."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._of_address: Counter[str] = Counter()
        self._inside: set[GuardedProtocol] = set()
        self.refused: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        return self._of_address.total()

    def enter(self, connection: GuardedProtocol, address: str) -> bool:
        """Count a connection; returns whether there is room for it."""
        self._inside.add(connection)
        self._of_address[address] += 1
        of_all = self.connections <= self.limits.connections
        return of_all and self._of_address[address] <= self.limits.connections_per_address

    def leave(self, connection: GuardedProtocol, address: str) -> None:
        self._inside.discard(connection)
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]

    async def keep_time(self) -> None:
        """Answer requests that take too long, for as long as this runs.

        Their work goes on: a write under way cannot be called back. One look a second costs a request nothing,
        where a timer of its own would.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            for connection in list(self._inside):
                connection.refuse_if_older(loop.time() - self.limits.request_s)

    async def dismiss_after(self, grace_s: float) -> None:
        """Answer the requests that a stop cannot wait for any longer; left to uvicorn they would be told of a bug."""
        await asyncio.sleep(grace_s)
        for connection in list(self._inside):
            connection.dismiss()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `guarded_by` makes the class that uvicorn is given."""

    keeper: ClassVar[Doorkeeper]
    whole: ClassVar[Mapping[bytes, Whole]]
    """What answers a POST to a path, if it arrives whole."""
    at_once: ClassVar[frozenset[bytes]]
    """Paths of these whose answer is begun without a task."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._refused = self._parting = False
        self._phase = "idle"
        self._began = self._idle_since = 0.0
        self._heads: list[SameHead] = []
        if self.keeper.enter(self, self._address):
            self._await_head()
        else:
            self._refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.keeper.leave(self, self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        last = self.cycle
        free = self._phase == "idle" and self._is_next() and self._timer is None
        if free and self._is_known(data):
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if free and self.cycle is not last and isinstance(self.cycle, WholeCycle):
            self._remember(data, self.cycle.scope)
        if self._phase != "idle" and self._head_bytes > self.keeper.limits.head_bytes:
            self._refuse(HeadersTooLarge(self.keeper.limits.head_bytes))  # of the head, or behind a chunked body
        elif self._phase == "body":
            self._await_body()
        elif self._phase == "head" or self._left_idle():
            self._await_head()

    def _left_idle(self) -> bool:
        """Tell whether nothing watches the connection: uvicorn's keep-alive ends with any byte, a blank line too."""
        return (self.cycle is None or self.cycle.response_complete) and self.timeout_keep_alive_task is None

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedRequest("not a valid HTTP request"))

    # What the parser reports

    def on_message_begin(self) -> None:
        self._phase = "head"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._stop_timer()
        self._began = self.loop.time()
        if self._head_bytes > self.keeper.limits.head_bytes and self._is_head_too_large():
            self._refuse(HeadersTooLarge(self.keeper.limits.head_bytes))
            return
        self._head_bytes = self._moved = 0
        if self._arrives_whole():
            self._begin_whole()
        else:
            super().on_headers_complete()
            extensions: Any = {EXTENSION: partial(self._go_on, self.cycle)}
            self.scope["extensions"] = extensions
        self._phase = "body"
        if self._parting:
            self.cycle.keep_alive = False

    def _is_head_too_large(self) -> bool:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        return size > self.keeper.limits.head_bytes  # what came with it may be of the body

    def _is_known(self, data: bytes) -> bool:
        """Serve what has come, if it is a request with a head that was looked at before; returns whether it was."""
        for head in self._heads:
            if (again := head.next(data)) is not None:
                break
        else:
            return False
        scope, body = again
        self._began = self.loop.time()
        cycle = self._cycle_of(scope, True)  # what is told at the end that it is the last is not `free`: it has a timer
        cycle.body, cycle.head = body, head
        self._serve_whole(cycle)
        return True

    def _remember(self, data: bytes, scope: Any) -> None:
        """Know the head again of what was served just now, if it was all that had come."""
        head = SameHead.of(data, scope)
        if head is not None:
            self._heads = [head, *self._heads][:HEADS]

    def _is_next(self) -> bool:
        """Tell whether all before it is answered, and whoever asks takes the answers."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _arrives_whole(self) -> bool:
        return (
            self.url in self.whole
            and self._is_next()
            and self.parser.get_method() == b"POST"
            and is_short(self.headers)
            and self.parser.get_http_version() == "1.1"
        )

    def _begin_whole(self) -> None:
        path = self.url.decode("ascii")
        scope: Any = self.scope
        scope.update(method="POST", path=path, raw_path=self.url, query_string=b"")
        self._cycle_of(scope, self.parser.should_keep_alive())

    def _cycle_of(self, scope: Any, keep_alive: bool) -> Any:
        beside = self.server_state.default_headers
        self.cycle = cycle = WholeCycle(scope, self.transport, beside, keep_alive, self.on_response_complete)  # type: ignore[assignment]
        return cycle

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if isinstance(self.cycle, WholeCycle):
            self.cycle.body += body
        elif not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._phase = "idle"
        if self._refused:
            return
        if isinstance(self.cycle, WholeCycle):
            self._serve_whole(self.cycle)
            return
        super().on_message_complete()
        if self.cycle.response_complete:  # answered before its body was here: uvicorn waits for nothing any more
            self._watch_idle()

    def _serve_whole(self, cycle: WholeCycle) -> None:
        if self.transport.is_closing():  # it stands behind the last one of its connection
            return
        path = cycle.scope["raw_path"]
        if path in self.at_once:
            cycle.begin(self.whole[path], self._in_task)
        else:
            self._in_task(cycle.run(self.whole[path]))

    def _in_task(self, work: Work) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        """Do as uvicorn does, without a new timer for each answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._watch_idle()

    def pause_writing(self) -> None:
        """Take in nothing more from who does not read what it is answered."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def _watch_idle(self) -> None:
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def _look_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if nothing has come for so long; one timer serves many answers."""
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # whose answer sees to it
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._look_later(left_s)
        else:
            super().timeout_keep_alive_handler()

    def refuse_if_older(self, began_before: float) -> None:
        """Answer in place of a request that has been served since before then, if it is still being served."""
        if self.cycle is not None and not self.cycle.response_complete and self._began < began_before:
            self._refuse(DeadlineExceeded())

    def _go_on(self, cycle: Any, moved: int) -> bool:
        """Give a request that has moved so much its time anew; returns whether its caller is still there.

        A dripping body, or one who reads an answer by drops, buys no time with less than `piece_bytes`.
        """
        self._moved += moved
        if self._moved >= self.keeper.limits.piece_bytes or self._phase == "idle":
            self._moved, self._began = 0, self.loop.time()
            if self._phase == "body" and not self._parting:
                self._stop_timer()
                self._await_body()
        return not (cycle.disconnected or self.transport.is_closing())

    # The end of the service

    def shutdown(self) -> None:
        """Let a request be served; one that is still arriving, or may be on its way, has to be quick.

        If it were closed at once, a proxy that kept the connection or has just opened it would be told nothing of what
        it sent into it, and could not know whether it was served.
        """
        self._parting = True
        if self._phase == "idle" and not self._refused and (self.cycle is None or self.cycle.response_complete):
            self._unset_keepalive_if_required()
            self._stop_timer()
            self._timer = self.loop.call_later(LAST_REQUEST_S, self.transport.close)
            return
        super().shutdown()
        if self._phase == "body" and not self._refused:
            self._stop_timer()
            late = Draining("the body had not arrived when the service ended; nothing was stored")
            self._timer = self.loop.call_later(LAST_BODY_S, self._refuse, late)

    def dismiss(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(Draining("a write may still land; asking again with the same turn_id tells"))

    # Deadlines are absolute: a byte now and then does not buy more time

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.keeper.limits.head_s, self._refuse, RequestTimeout())

    def _await_body(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.keeper.limits.body_s, self._refuse, BodyTimeout())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: MemoryServiceError) -> None:
        """Answer once and close; a request under way hears that its client is gone."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_timer()
        self.keeper.refused[error.code] += 1
        # An answer that has begun is not interrupted, and a request answered before its body was here has its answer.
        begun = self.cycle is not None and self.cycle.response_started
        answered = begun and (self._phase == "body" or not self.cycle.response_complete)
        if not answered:
            head, body = _answer(error)
            self.transport.write(head if self._asks_for_a_head() else head + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _asks_for_a_head(self) -> bool:
        """Whether what is refused is a HEAD: what is served, if anything is, may not be what was parsed last."""
        if self.cycle is not None and not self.cycle.response_complete:
            return bool(self.cycle.scope["method"] == "HEAD")
        return bool(self.parser.get_method() == b"HEAD")


def guarded_by(
    keeper: Doorkeeper, whole: Mapping[bytes, Whole] | None = None, at_once: Iterable[bytes] = ()
) -> type[GuardedProtocol]:
    parts = {"keeper": keeper, "whole": whole or {}, "at_once": frozenset(at_once)}
    return type("GuardedProtocol", (GuardedProtocol,), parts)


def _answer(error: MemoryServiceError) -> tuple[bytes, bytes]:
    request_id, status = secrets.token_hex(8), status_of(error)
    body = msgspec.json.encode(problem_of(error, request_id))
    headers: list[tuple[bytes, Any]] = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
        *headers_of(error),
    ]
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join([*lines, b"", b""]), body

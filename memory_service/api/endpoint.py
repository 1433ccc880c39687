"""From ASGI to a verb and back: admit, take the body, call, answer; errors become problem details.

Endpoints are ASGI callables, not functions over Request and Response: at this size of request the framework's
own work is a large part of a call.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec
from msgspec.structs import replace
from pydantic import BaseModel

from memory_service.access import Permission
from memory_service.api.accept import JSON, NDJSON, check_accept
from memory_service.api.auditing import write_down
from memory_service.api.auth import ANYONE, Caller, Gate, Headers
from memory_service.api.bodies import MAX_BODY_BYTES, FileBody, JsonBody, ModelBody, NoBody, UrlBody
from memory_service.api.moving import send_lines
from memory_service.api.problems import headers_of, problem_of, status_of
from memory_service.errors import Forbidden, MemoryServiceError, MethodNotAllowed, ValidationFailed
from memory_service.points import Point, nowhere
from memory_service.service import MemoryService
from memory_service.whole import MOST_BYTES, SERVED

logger = logging.getLogger(__name__)

Handler = Callable[[MemoryService, Caller, Any], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Reply = tuple[int, Headers, Any]
"""Status, headers but those of its length, and the body."""
Take = NoBody | UrlBody | JsonBody | ModelBody | FileBody

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")
_NO_STORE = (b"cache-control", b"no-store")
_REPLAYED = (b"idempotency-replayed", b"true")
_REQUEST_KEY = re.compile(rb"[!-~]{1,255}")
_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
_encode = msgspec.json.Encoder().encode


WITH_BODY = ("POST", "PUT", "PATCH")


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the route table. `takes` is the path, and beside it the body (`WITH_BODY`) or the query."""

    method: str
    path: str
    summary: str
    handle: Handler
    takes: type[msgspec.Struct] | type[BaseModel] | None = None
    gives: type[msgspec.Struct] | type[BaseModel] | None = None
    needs: Permission = "read"
    most_bytes: int = MAX_BODY_BYTES
    """Of its body."""
    cost: int = 1
    """How many requests it counts as, where these are limited."""
    of_service: bool = False
    """Concerns all tenants, so it is for the operators' credentials."""
    errors: tuple[int, ...] = ()
    open: bool = False
    """Served to anybody, whatever AUTH_MODE says."""
    at_once: bool = False
    """Asked of a session that is hot, it is answered without a wait, or waits for the record alone."""
    named: bool = False
    """Takes an `Idempotency-Key`; its answer says `replayed`."""
    rest: bool = False
    """The field at the end of its path takes all that follows, slashes too."""
    operation: str = ""
    """Its name in the document, where that is not its handler's."""

    of_file: bool = False
    """Takes a file (`Sent`): `takes` is then its query."""
    in_lines: bool = False
    """Answers with a file: `handle` returns its lines. All others return a value, or one that is JSON already."""

    @property
    def audited(self) -> bool:
        """Whether it is written down who has asked for it: what deletes, who is let in, a user as a file."""
        return self.needs in ("erase", "admin") or self.in_lines

    @property
    def answers(self) -> str:
        return NDJSON if self.in_lines else JSON

    def body(self) -> Take:
        if self.takes is None:
            return NoBody()
        if issubclass(self.takes, BaseModel):
            return ModelBody(self.takes)
        if self.of_file:
            return FileBody(self.takes)
        if self.method in WITH_BODY:
            return JsonBody(self.takes, of_path="{" in self.path, most_bytes=self.most_bytes)
        return UrlBody(self.takes, self.path if self.rest else "")


class Allowance(Protocol):
    """How much each caller may ask."""

    def spend(self, caller: Caller, cost: int) -> None:
        """Count a request of some cost. Raises RateLimited if it is one too many."""

    def told(self, caller: Caller) -> Headers:
        """What is told of it with an answer."""


class Unlimited:
    """Everybody may ask as much as they like."""

    def spend(self, caller: Caller, cost: int) -> None: ...

    def told(self, caller: Caller) -> Headers:
        return []


class _Row(NamedTuple):
    """A verb, and what of it is the same for each request."""

    verb: Verb
    take: Any
    answers: str
    audited: bool
    counts: bool
    """Whether it makes the service busy, which who only looks does not."""

    @classmethod
    def of(cls, verb: Verb) -> _Row:
        return cls(verb, verb.body(), verb.answers, verb.audited, not verb.open and verb.needs != "metrics")


class _Asked:
    """What is known of a request by now: who asks (once admitted), what for (if they may ask so much), the body."""

    __slots__ = ("body", "caller", "verb")

    def __init__(self) -> None:
        self.verb: Verb | None = None
        self.caller: Caller | None = None
        self.body: Any = None


class Endpoint:
    """All verbs of one path."""

    def __init__(
        self, verbs: Sequence[Verb], gate: Gate, point: Point = nowhere, allowance: Allowance | None = None
    ) -> None:
        self._rows = {verb.method: _Row.of(verb) for verb in verbs}
        if "GET" in self._rows:
            self._rows["HEAD"] = self._rows["GET"]  # whose body uvicorn leaves out
        self._allowed = ", ".join(sorted(self._rows))
        self._gate = gate
        self._allowance = allowance or Unlimited()
        self._point = point

    @property
    def answers_in_one_piece(self) -> bool:
        """Whether it takes a body of JSON by POST, any that may come whole, and answers with one."""
        verb = self._rows["POST"].verb if "POST" in self._rows else None
        return verb is not None and not verb.of_file and not verb.in_lines and verb.most_bytes >= MOST_BYTES

    @property
    def begins_at_once(self) -> bool:
        return "POST" in self._rows and self._rows["POST"].verb.at_once

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        status, headers, body = await self._reply(scope, receive)
        if isinstance(body, bytes):
            await _send(send, status, headers, body)
        else:
            await send_lines(body, headers, scope, send)

    def whole(self, scope: Any, body: bytes) -> Coroutine[Any, Any, Reply]:
        """Answer a request whose body is here, where `answers_in_one_piece`."""
        return self._reply(scope, None, body)

    async def _reply(self, scope: Any, receive: Any, sent: bytes | None = None) -> Reply:
        """Do what is asked: a body that was `sent` is not received. The answer is bytes, or the lines of a file."""
        asked = _Asked()
        try:
            verb, take, answers, audited, counts = self._rows.get(scope["method"]) or self._none()
            headers = scope["headers"]
            caller = ANYONE if verb.open else self._may(await self._gate(scope), verb, asked)
            if not scope.get(SERVED):
                check_accept(headers, answers)
            if verb.named:
                caller = _named(caller, headers)
            asked.body = body = await take(scope, receive) if sent is None else take.of(scope, sent)
            service = scope["state"]["service"]
            if counts:
                service.asked()
            answer = await verb.handle(service, caller, body)
            encoded = answer if verb.in_lines or isinstance(answer, bytes) else _encode(answer)
            self._point("before_reply")
        except BaseException as error:
            refusal = self._refuse(asked, error, scope)
            if not isinstance(error, Exception):
                raise
            return refusal
        extra = self._told(asked)
        if audited:
            request_id = request_id_of(headers)
            self._write_down(asked, answer, request_id, scope)
            extra = [(b"x-request-id", request_id.encode()), *extra]
        if verb.named and answer.replayed:
            extra = [_REPLAYED, *extra]
        return 200, [_NO_STORE, *extra] if verb.in_lines else [_JSON, _NO_STORE, *extra], encoded

    def _may(self, caller: Caller, verb: Verb, asked: _Asked) -> Caller:
        """The caller as the verb is given him. Raises RateLimited, InsufficientScope, ScopeMismatch."""
        asked.caller = caller
        self._allowance.spend(caller, verb.cost)
        asked.verb = verb
        return caller.require(verb.needs, of_service=verb.of_service)

    def _none(self) -> NoReturn:
        raise MethodNotAllowed(self._allowed)

    def _told(self, asked: _Asked) -> Headers:
        return self._allowance.told(asked.caller) if asked.caller else []

    def _refuse(self, asked: _Asked, error: BaseException, scope: Any) -> Reply:
        """What went wrong, for whoever waits; before, write down who wanted it, if that is to be known."""
        known = (
            error if isinstance(error, MemoryServiceError) else MemoryServiceError("the service failed; see its log")
        )
        request_id = request_id_of(scope["headers"])
        self._write_down(asked, known, request_id, scope)
        if known is not error and isinstance(error, Exception):  # otherwise it is being cut off
            # The client is told nothing of what went wrong; the log is, under the request's id.
            logger.error("request failed", exc_info=error, extra={"request_id": request_id})
        return _problem(known, request_id, self._told(asked))

    def _write_down(self, asked: _Asked, came_of_it: Any, request_id: str, scope: Any) -> None:
        verb, caller = asked.verb, asked.caller
        if verb and caller and (verb.audited or isinstance(came_of_it, Forbidden)):
            write_down(scope["state"]["service"].audit, verb, caller, asked.body, came_of_it, request_id)


def _named(caller: Caller, headers: list[tuple[bytes, bytes]]) -> Caller:
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return caller
    if len(keys) > 1 or not _REQUEST_KEY.fullmatch(keys[0]):
        raise ValidationFailed("Idempotency-Key", "one, of 1 to 255 visible ASCII characters")
    return replace(caller, request_key=keys[0].decode())


def request_id_of(headers: Headers) -> str:
    """The caller's own, if it sent a usable one."""
    sent = [value.decode() for name, value in headers if name == b"x-request-id" and _REQUEST_ID.fullmatch(value)]
    return sent[-1] if sent else secrets.token_hex(8)


async def send_problem(error: MemoryServiceError, send: Send, request_id: str) -> None:
    await _send(send, *_problem(error, request_id, []))


def _problem(error: MemoryServiceError, request_id: str, beside: Headers) -> Reply:
    body = _encode(problem_of(error, request_id))
    return (
        status_of(error),
        [_PROBLEM, _NO_STORE, (b"x-request-id", request_id.encode()), *headers_of(error), *beside],
        body,
    )


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})

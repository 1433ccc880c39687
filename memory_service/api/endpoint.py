"""From ASGI to a verb and back: admit, take the body, call, answer; errors become problem details.

Endpoints are ASGI callables, not functions over Request and Response: at this size of request the framework's
own work is a large part of a call.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from pydantic import BaseModel

from memory_service.access import Permission
from memory_service.api.accept import JSON, NDJSON, check_accept
from memory_service.api.auth import ANYONE, Caller, Gate
from memory_service.api.bodies import FileBody, JsonBody, ModelBody, NoBody, UrlBody
from memory_service.api.moving import send_lines
from memory_service.api.problems import headers_of, problem_of, status_of
from memory_service.errors import MemoryServiceError, MethodNotAllowed, ValidationFailed
from memory_service.points import Point, nowhere
from memory_service.service import MemoryService

logger = logging.getLogger(__name__)

Handler = Callable[[MemoryService, Caller, Any], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Take = NoBody | UrlBody | JsonBody | ModelBody | FileBody
Spend = Callable[[Caller, int], None]
"""Counts a request of some cost; raises RateLimited if it is one too many."""

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")
_NO_STORE = (b"cache-control", b"no-store")
_REPLAYED = (b"idempotency-replayed", b"true")
_REQUEST_KEY = re.compile(rb"[!-~]{1,255}")
_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
_encode = msgspec.json.Encoder().encode


WITH_BODY = ("POST", "PATCH")


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the route table. `takes` is the path, and beside it the body (`WITH_BODY`) or the query."""

    method: str
    path: str
    summary: str
    handle: Handler
    takes: type[msgspec.Struct] | type[BaseModel] | None = None
    gives: type[msgspec.Struct] | type[BaseModel] | None = None
    needs: Permission = "read"
    cost: int = 1
    """How many requests it counts as, where these are limited."""
    of_service: bool = False
    """Concerns all tenants, so it is for the operators' credentials."""
    errors: tuple[int, ...] = ()
    open: bool = False
    """Served to anybody, whatever AUTH_MODE says."""
    named: bool = False
    """Takes an `Idempotency-Key`; its answer says `replayed`."""
    rest: bool = False
    """The field at the end of its path takes all that follows, slashes too."""
    operation: str = ""
    """Its name in the document, where that is not its handler's."""

    of_file: bool = False
    """Takes a file (`Sent`): `takes` is then its query."""
    in_lines: bool = False
    """Answers with a file: `handle` returns its lines."""

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
            return JsonBody(self.takes, of_path="{" in self.path)
        return UrlBody(self.takes, self.path if self.rest else "")


def unlimited(caller: Caller, cost: int) -> None:
    """Let everybody ask as much as they like."""


class Endpoint:
    """All verbs of one path."""

    def __init__(self, verbs: Sequence[Verb], gate: Gate, point: Point = nowhere, spend: Spend = unlimited) -> None:
        self._verbs = {verb.method: (verb, verb.body()) for verb in verbs}
        if "GET" in self._verbs:
            self._verbs["HEAD"] = self._verbs["GET"]  # whose body uvicorn leaves out
        self._allowed = ", ".join(sorted(self._verbs))
        self._gate = gate
        self._spend = spend
        self._point = point

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        try:
            verb, take = self._chosen(scope["method"])
            caller = ANYONE if verb.open else await self._admitted(scope, verb)
            check_accept(scope["headers"], verb.answers)
            if verb.named:
                caller = _named(caller, scope["headers"])
            body = await take(scope, receive)
            answer = await verb.handle(scope["state"]["service"], caller, body)
            encoded = b"" if verb.in_lines else _encode(answer)
            self._point("before_reply")
        except MemoryServiceError as error:
            await send_problem(error, scope, send)
        except Exception:
            # The client is told nothing of what went wrong; the log is, under the request's id.
            request_id = await send_problem(MemoryServiceError("the service failed; see its log"), scope, send)
            logger.exception("request failed", extra={"request_id": request_id})
        else:
            if verb.in_lines:
                await send_lines(answer, [_NO_STORE], scope, send)
                return
            replayed = [_REPLAYED] if verb.named and answer.replayed else []
            await _send(send, 200, [_JSON, _NO_STORE, *replayed], encoded)

    async def _admitted(self, scope: Any, verb: Verb) -> Caller:
        caller = await self._gate(scope)
        self._spend(caller, verb.cost)
        caller.require(verb.needs, of_service=verb.of_service)
        return caller

    def _chosen(self, method: str) -> tuple[Verb, Take]:
        if method not in self._verbs:
            raise MethodNotAllowed(self._allowed)
        return self._verbs[method]


def _named(caller: Caller, headers: list[tuple[bytes, bytes]]) -> Caller:
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return caller
    if len(keys) > 1 or not _REQUEST_KEY.fullmatch(keys[0]):
        raise ValidationFailed("Idempotency-Key", "one, of 1 to 255 visible ASCII characters")
    return replace(caller, request_key=keys[0].decode())


async def send_problem(error: MemoryServiceError, scope: Any, send: Send) -> str:
    """Answer with problem details; returns the request id in them (the caller's own, if it sent a usable one)."""
    request_id = secrets.token_hex(8)
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id = value.decode()
    body = _encode(problem_of(error, request_id))
    extra = [(b"x-request-id", request_id.encode()), *headers_of(error)]
    await _send(send, status_of(error), [_PROBLEM, _NO_STORE, *extra], body)
    return request_id


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})

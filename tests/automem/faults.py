"""What a test decides about the server: which requests go wrong and how, and a line on disk for every request."""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Any, TextIO

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTROL = "/_test/"
DETAILED = ("/startup-recall", "/analyze")  # their 500 is not in the envelope of all others

logger = logging.getLogger("uvicorn.error")


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """README.md says what each field does."""

    method: str = ""
    path: str = ""
    skip: int = 0
    times: int | None = None
    status: int | None = None
    body: Any = None
    retry_after_s: int | None = None
    drop: bool = False
    after: bool = False
    delay_s: float = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether it happens to this request; counts it."""
        if self.method not in ("", method) or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0

    @property
    def answer(self) -> Response:
        assert self.status is not None
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if isinstance(self.body, str):
            return Response(self.body, self.status, headers, media_type="text/html")
        if self.body is not None:
            return JSONResponse(self.body, self.status, headers)
        return failure(self.status, HTTPStatus(self.status).phrase, headers)


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The envelope of every error."""
    return JSONResponse({"status": "error", "code": status, "message": message}, status, headers)


def unexpected(path: str, error: Exception) -> JSONResponse:
    if path in DETAILED:
        return JSONResponse({"error": "Internal server error", "details": str(error)}, 500)
    return failure(500, "Internal server error")


class Observed:
    """Middleware: lets faults happen, and writes each answer down before the caller can see it.

    Of the faults the first that fits a request, and is not used up, happens.
    """

    def __init__(self, app: ASGIApp, faults: list[Fault], calls: TextIO) -> None:
        self._app, self._faults, self._calls = app, faults, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            return await self._app(scope, receive, send)
        fault = next((fault for fault in self._faults if fault.takes(scope["method"], scope["path"])), None)
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        try:
            await self._answered(fault, scope, receive, keep)
        except Exception as exc:  # let through to uvicorn, it would end the connection after the answer
            logger.exception("a request failed", extra={"path": scope["path"]})
            await unexpected(scope["path"], exc)(scope, receive, keep)
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
        self._write(scope, kept[0]["status"] if kept else None, fault)
        if fault is not None and fault.drop:
            return await hang_up(scope, receive)
        for message in kept:
            await send(message)
        return None

    async def _answered(self, fault: Fault | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Do what is asked, unless the fault comes before; then answer as the fault says, if it does."""
        spoiled = fault is not None and (fault.drop or fault.status is not None)
        if fault is None or not spoiled or (fault.after and fault.drop):
            return await self._app(scope, receive, send)
        if fault.after:
            await self._app(scope, receive, _nowhere)
        if fault.drop:
            return None
        if fault.status == HTTPStatus.INTERNAL_SERVER_ERROR and fault.body is None:
            raise RuntimeError("injected")  # goes the way of every unexpected error
        return await fault.answer(scope, receive, send)

    def _write(self, scope: Scope, status: int | None, fault: Fault | None) -> None:
        call = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode("latin-1")}
        call |= {"status": status, "fault": fault is not None}
        self._calls.write(msgspec.json.encode(call).decode() + "\n")
        self._calls.flush()


async def _nowhere(message: Message) -> None:
    """Where an answer goes that the caller is not to have."""


async def hang_up(scope: Scope, receive: Receive) -> None:
    scope["transport"].abort()
    while (await receive())["type"] != "http.disconnect":
        pass  # to return before would make uvicorn answer


def with_transport(app: ASGIApp) -> ASGIApp:
    """Let those within reach the connection, which ASGI hides, so that they can cut it."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        scope["transport"] = getattr(getattr(send, "__self__", None), "transport", None)
        await app(scope, receive, send)

    return wrapped

"""The ASGI application: the route table behind one look-up, Starlette for lifespan, path parameters and the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memory_service import __version__
from memory_service.api.auth import Caller, Gate
from memory_service.api.endpoint import Allowance, Endpoint, Verb, request_id_of, send_problem
from memory_service.api.openapi import openapi
from memory_service.api.problems import all_errors
from memory_service.errors import UnknownRoute
from memory_service.points import Point, nowhere
from memory_service.service import MemoryService

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[dict[str, Any]]]


class Front:
    """Finds the endpoint of a fixed path in a dictionary; leaves everything else to Starlette.

    But for what is below one of the `stems`: Starlette's own way to take the rest of a path takes no line break, and
    leaves out one at the end.
    """

    def __init__(self, app: Starlette, endpoints: dict[str, Endpoint], stems: dict[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}
        self._stems = stems
        self.whole = {
            path.encode(): endpoint.whole for path, endpoint in self._endpoints.items() if endpoint.answers_in_one_piece
        }
        """What answers what is posted, where that is done in one piece."""
        self.at_once = [path for path in self.whole if self._endpoints[path.decode()].begins_at_once]
        """Paths of these that ask nobody but the record before they wait for something, but where they say so."""

    def _below(self, path: str) -> Endpoint | None:
        return next((one for stem, one in self._stems.items() if path.startswith(stem) and path != stem), None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            endpoint = self._endpoints.get(path) or self._below(path)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self._app(scope, receive, send)


def make_front(
    verbs: Sequence[Verb], gate: Gate, lifespan: Lifespan, point: Point = nowhere, allowance: Allowance | None = None
) -> Front:
    """Assemble the application; `lifespan` yields the state in which endpoints find their service."""
    paths: dict[str, list[Verb]] = {}
    for verb in (*verbs, *_signposts(verbs)):
        paths.setdefault(verb.path, []).append(verb)
    stems = {verb.path: verb.path.partition("{")[0] for verb in verbs if verb.rest}
    for of_rest, stem in stems.items():
        for path in paths:
            if path.startswith(stem) and path != of_rest:  # what is named by the rest may be called so too
                paths[path] += paths[of_rest]
    endpoints = {path: Endpoint(of_path, gate, point, allowance) for path, of_path in paths.items()}
    app = Starlette(
        routes=[Route(path, endpoint) for path, endpoint in endpoints.items() if path not in stems],
        exception_handlers={HTTPException: _as_problem},
        lifespan=lifespan,
    )
    # A slash too many is another path: a redirect would not be a problem document, and would repeat the Host header.
    app.router.redirect_slashes = False
    return Front(app, endpoints, {stem: endpoints[path] for path, stem in stems.items()})


class _Explain(msgspec.Struct):
    code: str


def _signposts(verbs: Sequence[Verb]) -> Sequence[Verb]:
    """What leads to the verbs, and is not one: not in the document."""

    @cache
    def described() -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(openapi(verbs)))

    async def welcome(service: MemoryService, caller: Caller, body: None) -> dict[str, str]:
        links = {"health": "/health", "stats": "/stats", "openapi": "/openapi.json"}
        return {"service": "agent-memory", "version": __version__, **links}

    async def describe(service: MemoryService, caller: Caller, body: None) -> msgspec.Raw:
        return await asyncio.to_thread(described)  # the first time it takes a tenth of a second

    async def explain(service: MemoryService, caller: Caller, body: _Explain) -> dict[str, str]:
        if body.code not in all_errors():
            raise _no_such_path()
        return {"code": body.code, "title": all_errors()[body.code]}

    return (
        Verb(method="GET", path="/", summary="Where to begin", handle=welcome, open=True),
        Verb(method="GET", path="/openapi.json", summary="This interface", handle=describe, open=True),
        Verb(method="GET", path="/problems/{code}", summary="A code", handle=explain, takes=_Explain, open=True),
    )


async def _as_problem(request: Request, exc: Exception) -> Response:
    return _NoSuchPath()


class _NoSuchPath(Response):
    """What Starlette itself refuses, said the way all else is."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send_problem(_no_such_path(), send, request_id_of(scope["headers"]))


def _no_such_path() -> UnknownRoute:
    return UnknownRoute("see /openapi.json for the paths there are")

"""The ASGI application: the route table behind one look-up, Starlette for lifespan, path parameters and the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from memory_service import __version__
from memory_service.api.auth import Gate
from memory_service.api.endpoint import Endpoint, Verb, send_problem
from memory_service.api.openapi import openapi
from memory_service.api.problems import all_errors
from memory_service.errors import MethodNotAllowed, UnknownRoute
from memory_service.points import Point, nowhere

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[dict[str, Any]]]


class Front:
    """Finds the endpoint of a fixed path in a dictionary; leaves everything else to Starlette."""

    def __init__(self, app: Starlette, endpoints: dict[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self._app(scope, receive, send)


def make_front(verbs: Sequence[Verb], gate: Gate, lifespan: Lifespan, point: Point = nowhere) -> Front:
    """Assemble the application; `lifespan` yields the state in which endpoints find their service."""
    paths: dict[str, list[Verb]] = {}
    for verb in verbs:
        paths.setdefault(verb.path, []).append(verb)
    endpoints = {path: Endpoint(of_path, gate, point) for path, of_path in paths.items()}
    document = openapi(verbs)

    async def welcome(request: Request) -> Response:
        links = {"health": "/health", "stats": "/stats", "openapi": "/openapi.json"}
        return JSONResponse({"service": "agent-memory", "version": __version__, **links})

    async def describe(request: Request) -> Response:
        return JSONResponse(document)

    async def explain(request: Request) -> Response:
        code = request.path_params["code"]
        if code not in all_errors():
            raise HTTPException(404)
        return JSONResponse({"code": code, "title": all_errors()[code]})

    app = Starlette(
        routes=[
            *(Route(path, endpoint) for path, endpoint in endpoints.items()),
            Route("/", welcome),
            Route("/openapi.json", describe),
            Route("/problems/{code}", explain),
        ],
        exception_handlers={HTTPException: _as_problem},
        lifespan=lifespan,
    )
    # A slash too many is another path: a redirect would not be a problem document, and would repeat the Host header.
    app.router.redirect_slashes = False
    return Front(app, endpoints)


async def _as_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return _Problem(exc)


class _Problem(Response):
    """What Starlette itself refuses (no such path or method), said the way all else is."""

    def __init__(self, exc: HTTPException) -> None:
        super().__init__(status_code=exc.status_code)
        self._exc = exc

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._exc.status_code == 405:
            await send_problem(MethodNotAllowed((self._exc.headers or {}).get("Allow", "GET")), scope, send)
        else:
            await send_problem(UnknownRoute("see /openapi.json for the paths there are"), scope, send)

"""A real HTTP server on 127.0.0.1 that answers from a script and keeps what it was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it arrived. `path` is as sent, still percent-encoded, without the query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`content` that is bytes or text goes out as it is, anything else as JSON."""

    status: int = 200
    content: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    async def given_to(self, request: Request) -> Response:
        headers = dict(self.headers)
        if isinstance(self.content, bytes | str):
            return Response(self.content, self.status, headers)
        return Response(json.dumps(self.content), self.status, headers, media_type="application/json")


class Silence:
    """Take the request and never answer, until the caller hangs up."""

    async def given_to(self, request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()


class CutOff:
    """Take the request and break the connection in the middle of the answer."""

    async def given_to(self, request: Request) -> Response:
        return Response(b"{", headers={"content-length": "1000"})


Step = Answer | Silence | CutOff | Callable[[Asked], Answer]


class ScriptedHTTP:
    """Has its address at once and listens from `start` on; before that, connections are refused.

    Requests beyond the script are answered 500 and kept too.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.asked: list[Asked] = []
        self.script: deque[Step] = deque()
        self._server = uvicorn.Server(self._config())
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def answers(self, *steps: Step) -> None:
        """Add to the script: one step for each request, in order."""
        self.script.extend(steps)

    def start(self) -> None:
        self._socket.listen()
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(10)
        self._socket.close()

    def forget(self) -> None:
        self.asked.clear()
        self.script.clear()

    def _config(self) -> uvicorn.Config:
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])
        return uvicorn.Config(
            app,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )

    async def _answer(self, request: Request) -> Response:
        asked = Asked(
            method=request.method,
            path=request.scope["raw_path"].decode("ascii"),
            query=dict(request.query_params),
            headers=dict(request.headers),
            body=await request.body(),
        )
        self.asked.append(asked)
        if not self.script:
            return Response("the script is over", 500)
        step = self.script.popleft()
        answer = step(asked) if callable(step) else step
        return await answer.given_to(request)

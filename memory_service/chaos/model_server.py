"""A model's endpoint on a real socket: the paths of OpenAI and of Azure, sensible answers, every way to misbehave.

    with ModelServer() as server:
        server.play(status(429, retry_after=7), answer("A summary."))   # one mode a request, then the usual answer
        server.rule = lambda call: refusal() if "poison" in call.prompt else None   # or decide by what was asked
        server.hanging = True                                           # every new request waits until it is False
        assert server.chats[0].body["model"] == "chat-model"            # what was sent is kept

Left alone it reads the fenced turns in a reflection's prompt and returns insights that quote them, answers anything
else with a short text, and embeds text as hashed words: texts that share words are near.
The way it reads prompts is a second opinion on their format: it knows nothing of the service.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from memory_service.chaos.model_answers import compact, encoded, reflect, strict_problems
from memory_service.chaos.model_modes import TICK_S, Call, Mode, completion

API_KEY = "sk-test-7f3a9c"
CHAT_MODEL = "chat-model"
EMBEDDING_MODEL = "embedding-model"
API_VERSION = "2024-10-21"


class ModelServer:
    """Serves between `with` and its end. All switches may be turned from any thread, at any time.

    `reject_response_format`: True answers 400 to any, a collection of types to those alone.
    """

    reject_response_format: bool | Collection[str]

    def __init__(
        self, *script: Mode, reject_response_format: bool | Collection[str] = False, dimensions: int = 64
    ) -> None:
        self.dimensions = dimensions
        self.calls: list[Call] = []
        self.stopping = False
        self.waiting = 0
        self.forget()
        self.play(*script)
        self.reject_response_format = reject_response_format

    def forget(self) -> None:
        """Become like new: no calls, no script, nothing switched on. Requests that hang are let go."""
        self.calls.clear()
        self.rule: Callable[[Call], Mode | None] = lambda call: None
        self.hanging = False
        self.reject_response_format = False
        self._script: deque[Mode] = deque()

    def play(self, *modes: Mode) -> None:
        """Add to the script: each request takes one mode from it, in order of arrival."""
        self._script.extend(modes)

    @property
    def chats(self) -> list[Call]:
        return [call for call in self.calls if call.is_chat]

    @property
    def embeddings(self) -> list[Call]:
        return [call for call in self.calls if not call.is_chat]

    async def until(self, count: int, within_s: float = 20) -> None:
        """Wait until this many requests have come in."""
        async with asyncio.timeout(within_s):
            while len(self.calls) < count:  # noqa: ASYNC110 (they come in on another thread)
                await asyncio.sleep(TICK_S)

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def openai_environment(self) -> dict[str, str]:
        """Settings that make the service use this server as an OpenAI-compatible endpoint."""
        return {
            "OPENAI_API_KEY": API_KEY,
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_MODEL": CHAT_MODEL,
            "OPENAI_EMBEDDING_MODEL": EMBEDDING_MODEL,
        }

    @property
    def azure_environment(self) -> dict[str, str]:
        """Settings that make the service use this server as Azure OpenAI."""
        return {
            "AZURE_OPENAI_ENDPOINT": self.url,
            "AZURE_OPENAI_API_KEY": API_KEY,
            "AZURE_OPENAI_DEPLOYMENT": CHAT_MODEL,
            "AZURE_OPENAI_API_VERSION": API_VERSION,
            "AZURE_OPENAI_EMBEDDING_DEPLOYMENT": EMBEDDING_MODEL,
        }

    def usual(self, call: Call) -> Response:
        """Answer as a model that does what it is asked."""
        if call.is_chat:
            words = json.dumps(reflect(call.spoken)) if '"insights"' in call.prompt else compact(call.spoken)
            return JSONResponse(completion(call, words, "stop", None, ...))
        return JSONResponse(_embeddings(call, self.dimensions))

    async def _handle(self, request: Request) -> Response:
        call = Call(
            path=request.url.path,
            query=dict(request.query_params),
            headers=dict(request.headers),
            body=json.loads(await request.body()),
            request=request,
            server=self,
        )
        self.calls.append(call)
        if self.hanging and not await self._hold(call):
            return Response(status_code=503)  # to nobody, or in parting: the script is for those who are served
        if complaint := self._complaint(call):
            return JSONResponse({"error": {"type": "invalid_request_error", "code": None} | complaint}, 400)
        mode = self._script.popleft() if self._script else self.rule(call)
        return await mode(call) if mode else self.usual(call)

    async def _hold(self, call: Call) -> bool:
        """Let a request wait while the server hangs; returns whether there is still anybody to answer."""
        self.waiting += 1
        try:
            return await call.wait(math.inf, lambda: self.hanging)
        finally:
            self.waiting -= 1

    def _complaint(self, call: Call) -> dict[str, str | None] | None:
        """Refuse what OpenAI refuses."""
        kind, rejected = call.format, self.reject_response_format
        if kind and (rejected if isinstance(rejected, bool) else kind in rejected):
            message = f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model."
            return {"message": message, "param": None}
        if kind == "json_object" and "json" not in call.prompt.lower():
            return {"message": "'messages' must contain the word 'json' in some form", "param": "messages"}
        if kind == "json_schema":
            problems = strict_problems(call.body["response_format"]["json_schema"]["schema"])
            return {"message": f"Invalid schema: {problems}", "param": "response_format"} if problems else None
        if not call.is_chat and ("" in call.texts or not call.texts):
            return {"message": "'$.input' is invalid", "param": "input"}
        return None

    def __enter__(self) -> ModelServer:
        paths = ("/v1", "/openai/deployments/{name}")
        routes = [
            Route(prefix + path, self._handle, methods=["POST"])
            for prefix in paths
            for path in ("/chat/completions", "/embeddings")
        ]
        app = _with_transport(Starlette(routes=routes))
        config = uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=2
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="model-server", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the model server did not start")
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self._server.should_exit = True
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the model server did not stop")


def _embeddings(call: Call, dimensions: int) -> dict[str, Any]:
    rows = encoded(call.texts, call.body.get("dimensions") or dimensions, call.body.get("encoding_format"))
    tokens = sum(len(text.split()) for text in call.texts)
    return {
        "object": "list",
        "model": call.body.get("model", ""),
        "data": [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _with_transport(app: ASGIApp) -> ASGIApp:
    """Let handlers reach the connection, which ASGI hides, so that they can cut it."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        scope["transport"] = getattr(cycle, "transport", None)
        await app(scope, receive, send)

    return wrapped

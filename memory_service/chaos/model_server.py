"""A model's endpoint on a real socket: the paths of OpenAI and of Azure, sensible answers, every way to misbehave.

    with ModelServer() as server:
        server.play(status(429, retry_after=7), answer("A summary."))   # one mode a request, then the usual answer
        server.rule = lambda call: refusal() if "poison" in call.prompt else None   # or decide by what was asked
        server.hanging = True                                           # every new request waits until it is False
        assert server.chats[0].body["model"] == "chat-model"            # what was sent is kept

Left alone it reads the fenced turns in a reflection's prompt and returns insights that quote them, answers anything
else with a short text, and embeds text as hashed words: texts that share words are near.
It knows nothing of the service; the way it reads prompts is a second opinion on their format.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from memory_service.chaos.model_answers import Spoken, compact, embed, read_transcript, reflect, strict_problems

API_KEY = "sk-test-7f3a9c"
CHAT_MODEL = "chat-model"
EMBEDDING_MODEL = "embedding-model"
API_VERSION = "2024-10-21"

TICK_S = 0.01


@dataclass(frozen=True)
class Call:
    """One request as it came in. `texts` are the inputs of an embedding, `prompt` all words of a chat."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]
    request: Request
    server: ModelServer

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def prompt(self) -> str:
        return "\n".join(str(message.get("content")) for message in self.body.get("messages", []))

    @cached_property
    def spoken(self) -> list[Spoken]:
        """Return what stands inside the fence, message by message."""
        return read_transcript(self.prompt)

    @property
    def format(self) -> str | None:
        return (self.body.get("response_format") or {}).get("type")

    @property
    def texts(self) -> list[str]:
        given = self.body.get("input", [])
        return [given] if isinstance(given, str) else list(given)

    async def wait(self, seconds: float, while_: Callable[[], bool] = lambda: True) -> bool:
        """Wait, and say whether there is still anybody to answer: a caller who listens, a server that runs."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and while_() and not self.server.stopping:
            if await self.request.is_disconnected():
                return False
            await asyncio.sleep(TICK_S)
        return not self.server.stopping and not await self.request.is_disconnected()


Mode = Callable[[Call], Awaitable[Response]]
Content = str | dict[str, Any] | Callable[[Call], "str | dict[str, Any]"]


# Ways to answer.


def answer(content: Content, *, finish_reason: str = "stop", refusal: str | None = None, usage: Any = ...) -> Mode:
    """Answer a chat with these words, this object as JSON, or what a function of the call makes."""

    async def mode(call: Call) -> Response:
        made = content(call) if callable(content) else content
        words = made if isinstance(made, str) else json.dumps(made)
        return JSONResponse(_completion(call, words, finish_reason, refusal, usage))

    return mode


def vectors(rows: Sequence[Any], *, indices: Sequence[int | None] | None = None) -> Mode:
    """Answer an embedding with these rows (lists or base64), numbered as given."""

    async def mode(call: Call) -> Response:
        numbers = range(len(rows)) if indices is None else indices
        data = [
            {"object": "embedding", "embedding": row} | ({} if number is None else {"index": number})
            for number, row in zip(numbers, rows, strict=True)
        ]
        # Not JSONResponse: rows with NaN are meant to go out.
        return Response(json.dumps({"object": "list", "data": data, "usage": None}), media_type="application/json")

    return mode


def raw(body: str | bytes | dict[str, Any], *, media_type: str = "application/json", code: int = 200) -> Mode:
    async def mode(call: Call) -> Response:
        return Response(json.dumps(body) if isinstance(body, dict) else body, code, media_type=media_type)

    return mode


def status(
    code: int,
    *,
    retry_after: object = None,
    retry_after_ms: object = None,
    message: str = "refused by the script",
    error_code: str | None = None,
    param: str | None = None,
    body: object = None,
) -> Mode:
    """Answer an error; `body` stands in for OpenAI's form of one."""
    headers = {"retry-after": retry_after, "retry-after-ms": retry_after_ms}
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": error_code}

    async def mode(call: Call) -> Response:
        sent = {name: str(value) for name, value in headers.items() if value is not None}
        return JSONResponse({"error": error} if body is None else body, code, headers=sent)

    return mode


def hang(seconds: float = math.inf) -> Mode:
    """Say nothing for a time, then answer as usual."""

    async def mode(call: Call) -> Response:
        return call.server.usual(call) if await call.wait(seconds) else Response(status_code=503)

    return mode


def drip(piece: bytes = b" ", every_s: float = TICK_S) -> Mode:
    """Begin an answer and never finish it: a space of JSON at a time, so that no read ever times out."""

    async def mode(call: Call) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while not call.server.stopping:
                yield piece
                await asyncio.sleep(every_s)

        return StreamingResponse(pieces(), media_type="application/json")

    return mode


def flood() -> Mode:
    """Send an answer that has no end, as fast as it is read."""
    return drip(b" " * 1_000_000, every_s=0)


def reset() -> Mode:
    """Cut the connection without a word."""

    async def mode(call: Call) -> Response:
        call.request.scope["transport"].abort()
        await asyncio.sleep(TICK_S)
        return Response()

    return mode


def not_json() -> Mode:
    return answer("I would rather tell you about it in prose.")


def wrong_schema() -> Mode:
    return answer({"summary": ["not", "a", "string"], "insights": "none"})


def refusal(words: str = "I cannot help with that.") -> Mode:
    return answer("", refusal=words)


def empty() -> Mode:
    return answer("")


def huge(characters: int = 300_000) -> Mode:
    """Answer correctly, and much too long."""
    return answer({"summary": "x" * characters, "topics": [], "insights": []})


def length() -> Mode:
    """Answer what the token limit left of an answer."""
    return answer('{"summary": "A conversation of', finish_reason="length")


def content_filter() -> Mode:
    return answer("", finish_reason="content_filter")


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

    async def until(self, count: int, within_s: float = 5) -> None:
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
            return JSONResponse(_completion(call, words, "stop", None, ...))
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
        if self.hanging and not await call.wait(math.inf, lambda: self.hanging):
            return Response(status_code=503)  # to nobody, or in parting: the script is for those who are served
        if complaint := self._complaint(call):
            return JSONResponse({"error": {"type": "invalid_request_error", "code": None} | complaint}, 400)
        mode = self._script.popleft() if self._script else self.rule(call)
        return await mode(call) if mode else self.usual(call)

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


# The API's envelopes.


def _completion(call: Call, words: str, finish_reason: str, refused: str | None, usage: Any) -> dict[str, Any]:
    said, wrote = len(call.prompt.split()), len(words.split())
    counted = {"prompt_tokens": said, "completion_tokens": wrote, "total_tokens": said + wrote}
    message = {"role": "assistant", "content": None if refused and not words else words, "refusal": refused}
    return {
        "id": f"chatcmpl-{len(call.server.calls)}",
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": call.body.get("model", ""),
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        **({} if usage is None else {"usage": counted if usage is ... else usage}),
    }


def _embeddings(call: Call, dimensions: int) -> dict[str, Any]:
    rows: list[Any] = [embed(text, call.body.get("dimensions") or dimensions) for text in call.texts]
    if call.body.get("encoding_format") == "base64":
        rows = [base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in rows]
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

"""A request to a model, and ways to answer it: rightly, wrongly, late or never."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from memory_service.chaos.model_answers import Spoken, read_transcript

if TYPE_CHECKING:
    from memory_service.chaos.model_server import ModelServer

TICK_S, LONGEST_TICK_S = 0.01, 0.2


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
        until, tick_s = time.monotonic() + seconds, TICK_S
        while time.monotonic() < until and while_() and not self.server.stopping:
            if await self.request.is_disconnected():
                return False
            await asyncio.sleep(tick_s)
            tick_s = min(1.5 * tick_s, LONGEST_TICK_S)  # many may wait long, and shall cost nobody time
        return not self.server.stopping and not await self.request.is_disconnected()


Mode = Callable[[Call], Awaitable[Response]]
Content = str | dict[str, Any] | Callable[[Call], "str | dict[str, Any]"]


def answer(content: Content, *, finish_reason: str = "stop", refusal: str | None = None, usage: Any = ...) -> Mode:
    """Answer a chat with these words, this object as JSON, or what a function of the call makes."""

    async def mode(call: Call) -> Response:
        made = content(call) if callable(content) else content
        words = made if isinstance(made, str) else json.dumps(made)
        return JSONResponse(completion(call, words, finish_reason, refusal, usage))

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


def huge(characters: int = 300_000) -> Mode:
    """Answer correctly, and much too long."""
    return answer({"summary": "x" * characters, "topics": [], "insights": []})


def empty() -> Mode:
    return answer("")


def length() -> Mode:
    """Answer what the token limit left of an answer."""
    return answer('{"summary": "A conversation of', finish_reason="length")


def content_filter() -> Mode:
    return answer("", finish_reason="content_filter")


def completion(call: Call, words: str, finish_reason: str, refused: str | None, usage: Any) -> dict[str, Any]:
    """Wrap words as the API does; `usage`: what it reports, `...` for what was counted, None for nothing."""
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

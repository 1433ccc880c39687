"""Much that is given or taken in one request: piece by piece, with as much time as it goes on.

The server that guards the connections gives each request a hook by which it is told that something was moved. Then the
deadline of the request, and that of its body, begin anew; without it they count from the beginning.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from memory_service.api.accept import NDJSON
from memory_service.errors import MemoryServiceError

logger = logging.getLogger(__name__)

EXTENSION = "memory_service.go_on"
PIECE = 65_536
"""Bytes that are sent together, about."""

GoOn = Callable[[int], bool]
"""Told of bytes that were moved; returns whether the caller is still there."""


def go_on_of(scope: Any) -> GoOn:
    hook: GoOn = scope.get("extensions", {}).get(EXTENSION, _always)
    return hook


def _always(moved: int) -> bool:
    return True


async def send_lines(lines: AsyncIterator[bytes], headers: list[tuple[bytes, bytes]], scope: Any, send: Any) -> None:
    """Answer with lines. Whatever goes wrong once it has begun ends the connection: the last line is then missing."""
    if scope["method"] == "HEAD":
        lines = _nothing()
    go_on = go_on_of(scope)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", NDJSON.encode()), *headers]}
    )
    try:
        async for piece in _pieces(lines):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if not go_on(len(piece)):
                return
    # In neither case is the answer completed: then the server closes the connection.
    except MemoryServiceError as error:
        logger.warning("an answer was cut off", extra={"reason": error.code})
    except Exception:
        logger.exception("an answer was cut off")
    else:
        await send({"type": "http.response.body", "body": b""})


async def _pieces(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join lines to pieces that are worth a packet, and cut long ones."""
    held = bytearray()
    async for line in lines:
        held += line
        while len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    yield bytes(held)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""

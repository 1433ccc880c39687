"""How bodies are sent: a large one in pieces. In one piece it holds up the loop, and aiohttp warns of it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import aiohttp  # noqa: F401 (where it is missing, this says so by its name)
from azure.core.pipeline.transport import AioHttpTransport

LARGE_BYTES = 2**18


class PiecewiseTransport(AioHttpTransport):  # type: ignore[misc] # given out in a way that hides its type
    """Each try has a stream of its own: the request keeps its body, to be sent again."""

    async def send(self, request: Any, **config: Any) -> Any:
        body = request.data
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes) or len(body) < LARGE_BYTES:
            return await super().send(request, **config)
        whole, request.data = request.data, BytesIO(body)
        try:
            return await super().send(request, **config)
        finally:
            request.data = whole

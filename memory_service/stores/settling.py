"""Work that cannot be called back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Settling(asyncio.Future[T]):
    """What cannot be called off: who waits for it and is cancelled meanwhile hears so when the outcome stands."""

    def cancel(self, msg: Any = None) -> bool:
        return False


async def settled(awaitable: Awaitable[T]) -> T:
    """Await to the end; a cancellation that comes meanwhile is raised only once the outcome stands."""
    future = awaitable if isinstance(awaitable, Settling) else asyncio.ensure_future(awaitable)
    try:
        return await (future if future is awaitable else asyncio.shield(future))
    except asyncio.CancelledError:
        while not future.done():
            # a second cancellation must not let go of the write either
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # taken note of: the caller is going away
        raise

"""Work that cannot be called back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def settled(awaitable: Awaitable[T]) -> T:
    """Await to the end; a cancellation that comes meanwhile is raised only once the outcome stands."""
    future = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.shield(future)
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

"""Work that cannot be called back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

Finish = Callable[[], None] | None


class Settling(asyncio.Future[T]):
    """What cannot be called off: who waits for it and is cancelled meanwhile hears so when the outcome stands."""

    _then: Callable[[], Finish] | None = None

    def cancel(self, msg: Any = None) -> bool:
        return False

    def then(self, go_on: Callable[[], Finish]) -> None:
        """Go on by this as soon as the outcome stands, without a turn of the loop in between; what it returns is done
        when all that settles together has gone on.
        """
        self._asyncio_future_blocking = False  # by this a future learns that somebody has taken note of it
        self._then = go_on


def settle(outcomes: Iterable[tuple[asyncio.Future[Any], Any]]) -> None:
    """Tell all who wait for these what came of it: a result, or an exception."""
    finishing = []
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        if isinstance(future, Settling) and future._then is not None:
            finishing.append(future._then())
    for finish in finishing:
        if finish is not None:
            finish()


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

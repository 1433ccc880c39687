"""Work that cannot be called back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

Finish = Callable[[], None] | None


class Settling(asyncio.Future[T]):
    """What cannot be called off: who waits for it and is cancelled meanwhile hears so when the outcome stands."""

    _then: Callable[[], Finish] | None = None

    def cancel(self, msg: Any = None) -> bool:
        return False

    def then(self, go_on: Callable[[], Finish]) -> None:
        """Go on by this, and this alone, as soon as the outcome stands, without a turn of the loop in between; what it
        returns is done when all that settles together has gone on.
        """
        assert self._then is None
        self._asyncio_future_blocking = False  # by this a future learns that somebody has taken note of it
        self._then = go_on


def settle(outcomes: Iterable[tuple[asyncio.Future[Any], Any]]) -> None:
    """Tell all who wait for these what came of it: a result, or an exception. Then those go on who said how."""
    going_on = []
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        if isinstance(future, Settling) and future._then is not None:
            going_on.append(future._then)
    for finish in [_guarded(go_on) for go_on in going_on]:
        if finish is not None:
            _guarded(finish)


def _guarded(step: Callable[[], T]) -> T | None:
    """Do what one of many does next: whatever becomes of it, it must not stop the others."""
    try:
        return step()
    except (Exception, asyncio.CancelledError):
        logger.exception("what waited for a commit could not go on")
        return None


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

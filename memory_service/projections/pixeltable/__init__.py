"""The engine in Pixeltable, which runs inside this process, over a PostgreSQL of its own ($PIXELTABLE_HOME).

Its calls wait, and importing it takes seconds: all of it happens on two threads, which the event loop never waits for.
It is opened behind the start's back; until then, and after its PostgreSQL has died, it says that it is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self, TypeVar

from memory_service.projections.base import SEARCH_S, Copy, Projection
from memory_service.projections.pixeltable.hands import Away, Failed, Hand
from memory_service.settings import Settings
from memory_service.stores.base import Sought
from memory_service.values import Scope

if TYPE_CHECKING:
    from memory_service.projections.pixeltable.tables import Tables

if find_spec("pixeltable") is None:  # it is imported late: said here, for whoever is to choose this engine
    raise ModuleNotFoundError("No module named 'pixeltable'", name="pixeltable")

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_S = 60.0
"""To take a text away is to write all of a user anew: 10,000 items take a third of this. What takes longer is done all
the same, and found done when it is repeated."""


class Pixeltable(Projection):
    """One table per user. It makes its own vectors, of the local embedder, whatever the record's are of."""

    name = "pixeltable"
    native_errors = (Failed, OSError)

    def __init__(self, *, search_s: float = SEARCH_S, write_s: float = WRITE_S) -> None:
        super().__init__(search_s=search_s, write_s=write_s)
        # A call under way cannot be called back, and who is told that it took too long may ask again: writes follow
        # one another on one thread, so that the second comes after the first, and no search waits for them.
        self._writing, self._reading = Hand("pixeltable-writer"), Hand("pixeltable-reader")
        self._opening: Future[Tables] | None = None
        self.made = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls()

    async def start(self, stack: AsyncExitStack) -> None:
        for hand in (self._writing, self._reading):
            hand.start()
            stack.push_async_callback(hand.stop, _closed)
        self._open()

    async def _put(self, scope: Scope, copies: Sequence[Copy]) -> None:
        await self._done(self._writing, lambda tables: tables.put(scope, copies))

    async def _remove(self, scope: Scope, ids: Sequence[str]) -> None:
        await self._done(self._writing, lambda tables: tables.remove(scope, ids))

    async def _forget(self, scope: Scope) -> None:
        await self._done(self._writing, lambda tables: tables.forget(scope))

    async def _search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        return await self._done(self._reading, lambda tables: tables.search(scope, sought, limit))

    async def _held(self, scope: Scope) -> dict[str, str]:
        # behind the writes, lest one that is under way still be missing
        return await self._done(self._writing, lambda tables: tables.held(scope))

    async def _check(self) -> dict[str, Any]:
        return await self._done(self._reading, lambda tables: tables.check())

    async def _drop(self) -> None:
        await self._done(self._writing, lambda tables: tables.drop())

    async def _done(self, hand: Hand, verb: Callable[[Tables], T]) -> T:
        tables = self._opened()
        try:
            done = await hand.do(lambda: tables.doing(verb))
        except Away:
            self._open()
            raise
        self.made = tables.made
        return done

    def _opened(self) -> Tables:
        """What was opened. Raises Failed where that is still under way; where it failed it is tried again."""
        if self._opening is None or not self._opening.done():
            raise Failed("it is being opened")
        if self._opening.cancelled() or self._opening.exception() is not None:
            self._open()
            raise Failed("it could not be opened, which is tried again")
        return self._opening.result()

    def _open(self) -> None:
        """Open it, or open it again: that starts its PostgreSQL, if it is not there."""
        if self._opening is None or self._opening.done():
            self._opening = self._writing.submit(_opened)
            self._opening.add_done_callback(_tell)


def _opened() -> Tables:
    from memory_service.projections.pixeltable.tables import Tables

    return Tables.opened()


def _closed() -> None:
    """What a thread has to do before it ends."""
    from memory_service.projections.pixeltable.installation import leave_thread

    leave_thread()


def _tell(opening: Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is not None:
        logger.error("Pixeltable could not be opened", extra={"reason": type(opening.exception()).__name__})

"""One time for all processes on one record: that of the store. By it leases end and work falls due."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from memory_service.errors import StoreUnavailable

logger = logging.getLogger(__name__)

TOLERATED = timedelta(seconds=2)
"""By so much clocks may differ: a store may tell whole seconds, and an answer takes its time."""


class SharedClock:
    """Tells this process's time, put right by how far the store's was from it when last asked."""

    def __init__(self, now: Callable[[], datetime], ask: Callable[[], Awaitable[datetime | None]]) -> None:
        self._now, self._ask = now, ask
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return self._now() + self._ahead

    async def follow(self) -> None:
        """Ask the store what time it is. One that does not answer changes nothing."""
        asked = self._now()
        try:
            theirs = await self._ask()
        except StoreUnavailable as exc:
            logger.warning("the store does not tell the time", extra={"reason": exc.code})
            return
        ours = asked + (self._now() - asked) / 2
        ahead = theirs - ours if theirs else timedelta(0)
        ahead = ahead if abs(ahead) > TOLERATED else timedelta(0)
        if abs(ahead - self._ahead) > TOLERATED:
            logger.warning("the clock of this host is not that of the store", extra={"seconds": ahead.total_seconds()})
        self._ahead = ahead

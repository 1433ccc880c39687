"""Says when the event loop was held up, for every request waits while it is; and when it has time for anything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

LOOK_EVERY_S, LOOKS = 0.05, 5
"""So many looks are taken together: one burst of requests does not make a loop busy that has time until the next."""
BUSY_SHARE, BUSY_LATE_S, BUSY_REQUESTS = 0.25, 0.02, 50
"""From which on it is busy: the part of its time that the loop's thread has worked in these looks, or what it came late
by to one of them, and the requests there were. What works without requests is not in anybody's way.
"""


class Look(NamedTuple):
    """`worked_s`: of the time that has passed since the one before."""

    passed_s: float = LOOK_EVERY_S
    worked_s: float = 0.0
    requests: int = 0

    @property
    def held_s(self) -> float:
        """What it came late by."""
        return self.passed_s - LOOK_EVERY_S


def are_busy(looks: Collection[Look]) -> bool:
    """Tell whether requests took the loop's time in these."""
    works = sum(look.worked_s for look in looks) > BUSY_SHARE * sum(look.passed_s for look in looks)
    late = any(look.held_s > BUSY_LATE_S for look in looks)
    return (works or late) and sum(look.requests for look in looks) >= BUSY_REQUESTS


class Watchdog:
    """Looks at the clock so often; what it comes late by, everything on the loop came late by."""

    def __init__(self, *, late_s: float = 0.5, worked_s: Callable[[], float] = time.thread_time) -> None:
        self._late_s, self._worked_s = late_s, worked_s
        self._calm = asyncio.Event()
        self._calm.set()
        self._looks = deque([Look()] * LOOKS, maxlen=LOOKS)
        self.requests = self._requests_before = 0
        """All that were served, and those up to the last look."""
        self.longest_s = 0.0
        self.late = 0

    async def start(self, stack: AsyncExitStack) -> None:
        task = asyncio.create_task(self._watch())
        stack.push_async_callback(self._stop, task)

    async def _stop(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    @property
    def busy(self) -> bool:
        """Whether requests have taken the loop's time lately."""
        return not self._calm.is_set()

    @property
    def _are_many(self) -> bool:
        return self.requests - self._requests_before >= BUSY_REQUESTS / LOOKS

    async def calm(self, longest_s: float) -> None:
        """Wait while the loop is busy with requests, but no longer than so.

        Where many have come since the last look the next one is waited for: what is begun before would be in their way.
        """
        if self._are_many:
            self._calm.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calm.wait(), longest_s)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s, worked_s = loop.time(), self._worked_s()
            await asyncio.sleep(LOOK_EVERY_S)
            look = Look(loop.time() - began_s, self._worked_s() - worked_s, self.requests - self._requests_before)
            self._requests_before = self.requests
            self._looks.append(look)
            if are_busy(self._looks):
                self._calm.clear()
            else:
                self._calm.set()
            self.longest_s = max(self.longest_s, look.held_s)
            if look.held_s > self._late_s:
                self.late += 1
                logger.warning("the event loop was held up", extra={"seconds": round(look.held_s, 3)})

    def stats(self) -> dict[str, Any]:
        return {
            "longest_hold_s": round(self.longest_s, 3),
            "holds": self.late,
            "requests": self.requests,
            "busy": self.busy,
        }

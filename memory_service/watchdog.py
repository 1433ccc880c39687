"""Says when the event loop was held up, for every request waits while it is; and when it has time for anything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
BUSY_SHARE, BUSY_LATE_S, BUSY_REQUESTS = 0.25, 0.02, 50
"""From which on it is busy: the part of its time that the loop's thread has worked since the last look, or what it
comes late by, and the requests there were. What works without requests is not in anybody's way.
"""


class Watchdog:
    """Looks at the clock so often; what it comes late by, everything on the loop came late by."""

    def __init__(self, *, late_s: float = 0.5, worked_s: Callable[[], float] = time.thread_time) -> None:
        self._late_s, self._worked_s = late_s, worked_s
        self._calm = asyncio.Event()
        self._calm.set()
        self.requests = 0
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

    async def calm(self, longest_s: float) -> None:
        """Wait while the loop is busy with requests, but no longer than so."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calm.wait(), longest_s)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s, worked_s, requests = loop.time(), self._worked_s(), self.requests
            await asyncio.sleep(LOOK_EVERY_S)
            passed_s = loop.time() - began_s
            held_s = passed_s - LOOK_EVERY_S
            works = self._worked_s() - worked_s > BUSY_SHARE * passed_s or held_s > BUSY_LATE_S
            self._judge(busy=works and self.requests - requests >= BUSY_REQUESTS)
            self.longest_s = max(self.longest_s, held_s)
            if held_s > self._late_s:
                self.late += 1
                logger.warning("the event loop was held up", extra={"seconds": round(held_s, 3)})

    def _judge(self, *, busy: bool) -> None:
        if busy:
            self._calm.clear()
        else:
            self._calm.set()

    def stats(self) -> dict[str, Any]:
        return {
            "longest_hold_s": round(self.longest_s, 3),
            "holds": self.late,
            "requests": self.requests,
            "busy": self.busy,
        }

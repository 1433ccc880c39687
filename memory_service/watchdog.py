"""Says when the event loop was held up: every request waits while it is."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import Any

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25


class Watchdog:
    """Looks at the clock so often; what it comes late by, everything on the loop came late by."""

    def __init__(self, *, late_s: float = 0.5) -> None:
        self._late_s = late_s
        self.longest_s = 0.0
        self.late = 0

    async def start(self, stack: AsyncExitStack) -> None:
        task = asyncio.create_task(self._watch())
        stack.push_async_callback(self._stop, task)

    async def _stop(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            held_s = loop.time() - due
            self.longest_s = max(self.longest_s, held_s)
            if held_s > self._late_s:
                self.late += 1
                logger.warning("the event loop was held up", extra={"seconds": round(held_s, 3)})

    def stats(self) -> dict[str, Any]:
        return {"longest_hold_s": round(self.longest_s, 3), "holds": self.late}

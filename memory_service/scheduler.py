"""When background work runs. The only file that knows APScheduler, which here is an alarm clock.

What is to be done is in the store; a job that is dropped or cut off is found again by the sweep.
Three habits of APScheduler 3 are worked around: `shutdown(wait=True)` cancels running coroutines (we
drain ourselves first), a job over a second late is dropped (`misfire_grace_time=None`), and a job
submitted again under its id while it runs is dropped (ids are never reused).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from memory_service.errors import MemoryServiceError

logger = logging.getLogger(__name__)

Job = Callable[[], Awaitable[object]]
Calm = Callable[[float], Awaitable[None]]
"""Waits until requests leave time for other work, but no longer than so many seconds."""

PATIENCE_S = 10.0
"""For so long a patient job waits for a pause in the requests; then it is done in any case, or it would pile up."""


async def no_requests(longest_s: float) -> None: ...


class Scheduler:
    """Runs named jobs now, at a time, or every so often; at most `concurrency` of the first two kinds at once."""

    def __init__(self, concurrency: int, grace_s: float, calm: Calm = no_requests) -> None:
        self._alarm = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._calm, self._first_in_line = calm, asyncio.Lock()
        self._grace_s = grace_s
        self._waiting: dict[str, bool] = {}
        """Jobs that have no slot yet, and whether they still wait for a pause in the requests."""
        self._again: dict[str, bool] = {}
        """Jobs that run and were asked for once more, and whether that can wait for such a pause."""
        self._running: dict[asyncio.Task[None], str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._cut_short_at = 0.0
        self.completed = self.failed = 0

    async def start(self, stack: AsyncExitStack) -> None:
        self._alarm.start()
        stack.push_async_callback(self._drain)

    def soon(self, name: str, job: Job, *, slotted: bool = True, patient: bool = False) -> None:
        """Run the job as soon as a slot is free, or at once if it needs none; a patient one when requests leave time.

        One that waits is not queued twice; one that runs is run once more afterwards. Who is not patient does not wait
        as one who was.
        """
        if self._stopping or (name in self._waiting and (patient or not self._waiting[name])):
            return
        if name in self._running.values():
            self._again[name] = patient and self._again.get(name, True)
            return
        self._waiting[name] = patient
        # not through APScheduler: it takes twelve times as long, for a job that is due now
        self._keep(self._run(name, job, slotted, patient))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def at(self, moment: datetime, name: str, job: Job, *, patient: bool = False) -> None:
        """Do as `soon` at that time."""

        async def ring() -> None:
            self.soon(name, job, patient=patient)

        if not self._stopping:
            self._alarm.add_job(ring, "date", run_date=moment)

    def every(self, seconds: float, name: str, job: Job) -> None:
        """Run the job at intervals, never twice at once, outside the slots.

        By the loop's clock, not by APScheduler: its intervals stand still for an hour when the time is set back by one.
        """

        async def run() -> None:
            with self._cut_short_quietly():
                while not self._stopping:
                    await asyncio.sleep(seconds)
                    if name not in self._running.values():
                        await self._tracked(name, job)

        self._keep(run())

    async def _run(self, name: str, job: Job, slotted: bool, patient: bool) -> None:
        with self._cut_short_quietly():
            if patient:
                await self._patiently(asyncio.get_running_loop().time() + PATIENCE_S)
                if not self._waiting.get(name):
                    return  # somebody who is not patient has asked for it meanwhile
                self._waiting[name] = False
            async with self._slots if slotted else nullcontext():
                del self._waiting[name]
                await self._tracked(name, job, slotted)

    async def _patiently(self, until_s: float) -> None:
        async with self._first_in_line:  # the others need not ask: it has waited for longest
            left_s = until_s - asyncio.get_running_loop().time()
            if left_s > 0:
                await self._calm(left_s)

    async def _tracked(self, name: str, job: Job, slotted: bool = True) -> None:
        """Run a job so that shutdown waits for it; once more, if it was asked for meanwhile."""
        if self._stopping:
            return
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = name
        try:
            await self._guarded(name, job)
        finally:
            del self._running[task]
        if name in self._again:
            self.soon(name, job, slotted=slotted, patient=self._again.pop(name))

    async def _guarded(self, name: str, job: Job) -> None:
        # The one place that may catch everything: a job's failure must not stop the others.
        try:
            await job()
            self.completed += 1
        except MemoryServiceError as exc:
            self.failed += 1
            logger.warning("background job failed", extra={"job": name.partition(" ")[0], "reason": exc.code})
        except Exception:
            self.failed += 1
            logger.exception("background job failed", extra={"job": name.partition(" ")[0]})

    @contextmanager
    def _cut_short_quietly(self) -> Iterator[None]:
        # Shutdown cancels what waits or outlasts the grace; APScheduler would log each as an error.
        try:
            yield
        except asyncio.CancelledError:
            if not self._stopping:
                raise

    def wind_up(self) -> None:
        """Take no new work; the grace of what runs begins now, and not anew when the scheduler is stopped."""
        if self._stopping:
            return
        self._stopping = True
        self._cut_short_at = asyncio.get_running_loop().time() + self._grace_s
        self._alarm.pause()
        for task in self._tasks - self._running.keys():
            task.cancel()

    async def _drain(self) -> None:
        """Take no new work, let what runs finish within the grace, cut the rest short, stop."""
        self.wind_up()
        if self._running:
            left_s = self._cut_short_at - asyncio.get_running_loop().time()
            _, late = await asyncio.wait(list(self._running), timeout=max(left_s, 0))
            if late:
                logger.warning("background jobs cut short", extra={"jobs": len(late)})
            for task in late:
                task.cancel()
        await asyncio.gather(*self._tasks, *self._running, return_exceptions=True)
        self._alarm.shutdown(wait=False)

    def stats(self) -> dict[str, Any]:
        return {
            "waiting": len(self._waiting),
            "running": len(self._running),
            "completed": self.completed,
            "failed": self.failed,
        }

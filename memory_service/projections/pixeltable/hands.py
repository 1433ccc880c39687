"""Threads that do what waits, one job after the other, and what can go wrong there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

Job = Callable[[], Any]

STOP_S = 10.0
"""So long a job that is under way is waited for at the end."""


class Failed(Exception):
    """The engine did not do what it was asked to; in its words."""


class Away(Failed):
    """The engine's database is not there."""


class Refused(Exception):
    """The engine does not take what it was given: a mistake of ours."""


class Hand:
    """One thread. Not of an executor: Python waits for those when it ends, and a database that hangs would keep it."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Job] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self, last: Job) -> None:
        """Do what waits, then this, and end."""
        self.submit(last)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, STOP_S)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, job))
        return future

    async def do(self, job: Callable[[], T]) -> T:
        """Do it in its turn. If the caller goes away before that, it is not done; if during it, it is."""
        return await asyncio.wrap_future(self.submit(job))

    def _run(self) -> None:
        while (waiting := self._jobs.get()) is not None:
            self._finish(*waiting)
            del waiting  # what it holds is not kept until the next one comes

    def _finish(self, future: Future[Any], job: Job) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job())
        except BaseException as exc:
            future.set_exception(exc)

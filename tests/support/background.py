"""Waiting for background work without guessing how long it takes, and a clock that goes only when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from typing import Any, TypeVar

from memory_service.app import Surroundings
from memory_service.service import MemoryService
from memory_service.stores.base import Store

T = TypeVar("T")

LOOK_EVERY_S = 0.005


async def until(condition: Callable[[], T | Awaitable[T]], within_s: float = 60) -> T:
    """Look until the condition holds, and return what it gave; TimeoutError if it does not come true in time."""
    async with asyncio.timeout(within_s):
        while True:
            found: Any = condition()
            if isawaitable(found):
                found = await found
            if found:
                return found  # type: ignore[no-any-return]
            await asyncio.sleep(LOOK_EVERY_S)


async def settled(service: MemoryService, within_s: float = 60) -> None:
    """Wait until no background job waits or runs (one that is to ring later does not count)."""

    def idle() -> bool:
        queues = service.stats()["queues"]
        return not queues["waiting"] and not queues["running"]

    await until(idle, within_s)


class Clock:
    """Stands still between `advance`s. Give `clock.around` to `open_service`."""

    def __init__(self, at: datetime = datetime(2025, 3, 3, 9, tzinfo=UTC)) -> None:
        self.at = at
        self._passed_s = 0.0

    def __call__(self) -> datetime:
        return self.at

    @property
    def around(self) -> Surroundings:
        return Surroundings(now=self, monotonic=self.monotonic)

    def monotonic(self) -> float:
        return self._passed_s

    def advance(self, **by: float) -> None:
        """`advance(hours=25)`: any of timedelta's names."""
        self.at += timedelta(**by)
        self._passed_s += timedelta(**by).total_seconds()


def record(service: MemoryService) -> Store:
    """The system of record under a service, for what no verb shows: every turn, sitting and memory there is."""
    return service._store

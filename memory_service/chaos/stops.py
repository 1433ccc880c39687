"""SIGTERM under load: what was accepted is finished, the process ends with 0 and in time, nothing is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from memory_service.chaos.load import load
from memory_service.chaos.oracle import Oracle
from memory_service.chaos.process import SERVE, ServiceProcess

LONGEST_LOAD_S = 1.0
LONGEST_STOP_S = 25.0


class Stops(Struct, kw_only=True):
    """`bad`: stops that did not end with status 0, or took longer than 25 s."""

    stops: int
    acknowledged: int
    lost: int
    doubled: int
    bad: int
    longest_s: float
    details: list[str]


async def run_stops(count: int, seed: int, *, command: Sequence[str] = SERVE) -> Stops:
    chance = random.Random(seed)
    oracle = Oracle(chance)
    bad, longest_s = 0, 0.0
    with TemporaryDirectory(prefix="memory-stop-") as name:
        async with ServiceProcess(Path(name), command) as service:
            await service.start()
            for _ in range(count):
                loading = asyncio.create_task(load(service.url, oracle, chance))
                await asyncio.sleep(chance.uniform(0.1, LONGEST_LOAD_S))
                began = time.monotonic()
                status = await service.stop()
                took_s = time.monotonic() - began
                await loading
                bad += status != 0 or took_s > LONGEST_STOP_S
                longest_s = max(longest_s, took_s)
                await service.start()
                await oracle.settle(service.url)
    verdict = oracle.verdict
    return Stops(
        stops=count,
        acknowledged=verdict.acknowledged,
        lost=verdict.lost,
        doubled=verdict.doubled,
        bad=bad,
        longest_s=round(longest_s, 2),
        details=verdict.details[:20],
    )

"""Kill -9 under load, again and again, and see whether anything that was acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import httpx2
from msgspec import Struct

from memory_service.chaos.load import load
from memory_service.chaos.oracle import Oracle
from memory_service.chaos.process import SERVE, ServiceProcess
from memory_service.chaos.reflections import replayed, settled, undone

RANDOM = "random"
END_S = 30
LONGEST_LOAD_S = 1.2
POINT_WAIT_S = 20.0
# How often a point is passed at most before it kills: so that each is reached under this load.
REACHED = {
    "before_commit": 200,
    "after_commit": 200,
    "before_reply": 400,
    "in_eviction": 60,
    "in_compaction": 8,
    "after_claim": 4,
    "after_model": 4,
}
KILLED_AT = (*REACHED, "in_migration")
"""All points that a service passes over a file."""
SETTINGS = {"MAX_SESSIONS": "4", "SWEEP_INTERVAL_SECONDS": "1", "K_TURN_BUFFER": "3", "SHUTDOWN_GRACE_SECONDS": "10"}


class Kills(Struct, kw_only=True):
    """What a run of kills showed. Seconds to recover are from the start of the process to its first answer.

    `given_up`: reflections that were cut off so often that they were given up, and then replayed. `unreflected`: those
    that were not done in the end.
    """

    kills: int
    by_point: dict[str, int]
    acknowledged: int
    lost: int
    doubled: int
    given_up: int
    unreflected: int
    recover_p50_s: float
    recover_max_s: float
    details: list[str]


async def run_kills(
    count: int, seed: int, *, command: Sequence[str] = SERVE, progress: Callable[[int], None] = lambda done: None
) -> Kills:
    """Kill a service so many times: in turn at a random moment and at the next named point."""
    chance = random.Random(seed)
    oracle = Oracle(chance)
    hits: Counter[str] = Counter()
    recoveries: list[float] = []
    with TemporaryDirectory(prefix="memory-chaos-") as name:
        async with ServiceProcess(Path(name), command, **SETTINGS) as service:
            await service.start()
            for number in range(count):
                point = KILLED_AT[number // 2 % len(KILLED_AT)] if number % 2 else RANDOM
                if point == "in_migration":
                    hits[point] += await _kill_in_migration(command)
                else:
                    hits[point if await _kill_under_load(service, oracle, chance, point) else RANDOM] += 1
                    recoveries.append(await service.start())
                    await oracle.settle(service.url)
                progress(number + 1)
            given_up, unreflected = await _reflected(service.url)
        oracle.verdict.details += _damage(Path(name) / "memory.db")
    verdict = oracle.verdict
    return Kills(
        kills=sum(hits.values()),
        by_point=dict(sorted(hits.items())),
        acknowledged=verdict.acknowledged,
        lost=verdict.lost,
        doubled=verdict.doubled,
        given_up=given_up,
        unreflected=unreflected,
        recover_p50_s=round(statistics.median(recoveries), 3) if recoveries else 0.0,
        recover_max_s=round(max(recoveries, default=0.0), 3),
        details=verdict.details[:20],
    )


async def _kill_under_load(service: ServiceProcess, oracle: Oracle, chance: random.Random, point: str) -> bool:
    """Load the running service until it is dead; returns whether it died at the point."""
    if point != RANDOM:
        service.kill()
        await service.ended(END_S)
        await service.start(KILL_AT=f"{point}:{chance.randint(1, REACHED[point])}")
    loading = asyncio.create_task(load(service.url, oracle, chance))
    try:
        await service.ended(POINT_WAIT_S if point != RANDOM else chance.uniform(0.02, LONGEST_LOAD_S))
        reached = True
    except TimeoutError:
        service.kill()
        await service.ended(END_S)
        reached = False
    await loading
    return reached


async def _kill_in_migration(command: Sequence[str]) -> bool:
    """Kill a service while it makes its schema on a new file; it must then start as if nothing had been."""
    with TemporaryDirectory(prefix="memory-chaos-") as name:
        async with ServiceProcess(Path(name), command, **SETTINGS) as service:
            await service.spawn(KILL_AT="in_migration:1")
            died = await service.ended(END_S) == -signal.SIGKILL
            await service.start()
        return died


async def _reflected(url: str) -> tuple[int, int]:
    """Let the service finish, and replay what it gave up; returns how many those were, and how many are undone then."""
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=END_S) as http:
        await settled(http)
        given_up = await replayed(http)
        return len(given_up), await undone(http)


def _damage(database: Path) -> list[str]:
    """Look at the file itself: sound, and every reflected sitting with exactly one summary."""
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        checked = db.execute("PRAGMA integrity_check").get
        sittings = db.execute("SELECT count(*) FROM sittings WHERE body ->> 'reflected_through' > 0").get
        summaries = db.execute("SELECT count(*) FROM memories WHERE kind = 'summary'").get
    found = [] if checked == "ok" else [f"damaged: {checked}"]
    return found + ([] if sittings == summaries else [f"{sittings} sittings reflected on, {summaries} summaries"])

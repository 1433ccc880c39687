"""More is asked to be written than the disk takes: who is refused hears so at once, and what was taken in is kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, on_disk, started
from tests.stores.sqlite_file import writing_blocked
from tests.support.background import until
from tests.support.process import ServiceProcess

USERS = [f"user{number}" for number in range(20)]
STALL_S = 3.0
"""Longer than the service waits before it takes no more in, shorter than it waits for a lock."""
EVERY_S = 0.01
AT_ONCE_S = 0.5
ROOM_TO_GROW = 30_000_000
WORDS = "x" * 5_000


def resident(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


class Load:
    """One turn every so often, whatever became of those before: arrivals do not wait for answers."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=50)
        self._http = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30, limits=limits)
        self._sent: list[asyncio.Task[None]] = []
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.refused: Counter[str] = Counter()
        self.refusal_s: list[float] = []

    async def go_on(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._sent.append(asyncio.create_task(self._send(len(self._sent))))
            await asyncio.sleep(EVERY_S)

    async def answered(self) -> None:
        await asyncio.gather(*self._sent)
        await self._http.aclose()

    async def _send(self, number: int) -> None:
        user_id, turn_id = USERS[number % len(USERS)], f"t{number}"
        body = {"user_id": user_id, "session_id": "s", "user_message": WORDS, "agent_message": "", "turn_id": turn_id}
        begun = time.monotonic()
        answer = await self._http.post("/memory/store", json=body)
        if answer.status_code == 200:
            self.acknowledged[turn_id] = (user_id, answer.json()["turn_number"])
            return
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        self.refused[answer.json()["code"]] += 1
        self.refusal_s.append(time.monotonic() - begun)


@pytest.fixture
async def loaded(make_process: MakeProcess) -> ServiceProcess:
    process = make_process()
    await started(process)
    async with Door(process.url) as door:
        for user_id in USERS:
            await door.start(user_id, "s")
        await door.post("/memory/retrieve", user_id="nobody", query="what takes room once for all")
        await door.settled()
    return process


async def test_while_the_disk_does_not_keep_up_who_comes_is_refused_at_once_and_what_was_taken_in_is_there(
    loaded: ServiceProcess,
) -> None:
    assert loaded.process is not None
    load = Load(loaded.url)
    await load.go_on(1)
    before = resident(loaded.process.pid)
    async with httpx2.AsyncClient(base_url=loaded.url, trust_env=False, timeout=60) as http:
        with writing_blocked(loaded.database):
            await load.go_on(STALL_S)
            readiness = await http.get("/readyz")
            assert (readiness.status_code, readiness.json()["code"]) == (503, "overloaded")
            assert (await http.get("/livez")).status_code == 200
            read = await http.post("/memory/context", json={"user_id": "user0", "session_id": "s"})
            assert read.status_code == 200
        assert resident(loaded.process.pid) - before < ROOM_TO_GROW

        async def ready() -> bool:
            return (await http.get("/readyz")).status_code == 200

        await until(ready)
    taken_in = len(load.acknowledged)
    await load.go_on(0.5)
    await load.answered()
    assert set(load.refused) == {"overloaded"}
    assert load.refused["overloaded"] > 20
    assert sorted(load.refusal_s)[len(load.refusal_s) // 2] < AT_ONCE_S
    assert len(load.acknowledged) > taken_in
    loaded.kill()
    for user_id in USERS:
        kept = {turn.turn_id: turn.seq for turn in await on_disk(loaded.database, user_id, "s")}
        assert list(kept.values()) == list(range(1, len(kept) + 1))
        told = {turn_id: seq for turn_id, (owner, seq) in load.acknowledged.items() if owner == user_id}
        assert told.items() <= kept.items()

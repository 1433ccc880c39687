"""Asked to end, the service ends: in time, with status 0, and everybody who was let in is told what became of it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import Popen

import httpx2
import pytest

from memory_service.chaos.model_server import ModelServer
from memory_service.server import LATE_S
from memory_service.settings import Settings
from memory_service.values import Scope, SessionKey, Sitting
from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, on_disk, opened, started
from tests.stores.sqlite_file import writing_blocked
from tests.support.background import until
from tests.support.process import ServiceProcess
from tests.support.raw_http import Caller

LONGEST_STOP_S = 25.0
GRACE_S = 8
TURN = {"user_id": "ana", "session_id": "s", "agent_message": "Noted."}
HALF = json.dumps({**TURN, "user_message": "Half of a body."}).encode()
POST = b"POST /memory/store HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def running(process: ServiceProcess) -> Popen[bytes]:
    assert process.process is not None
    return process.process


async def ended(process: ServiceProcess) -> int:
    """Wait for its end, however it comes; returns the status."""
    status = await asyncio.to_thread(running(process).wait, LONGEST_STOP_S)
    process.process = None
    return status


def reading_with(model: ModelServer) -> dict[str, str]:
    """Settings by which that model reads; embeddings stay local."""
    return {**model.openai_environment, "OPENAI_EMBEDDING_MODEL": ""}


class Callers:
    """Raw connections to one process, closed with the test."""

    def __init__(self) -> None:
        self._open: list[Caller] = []

    async def __call__(self, process: ServiceProcess) -> Caller:
        sock = socket.create_connection(("127.0.0.1", process.port))
        sock.setblocking(False)
        self._open.append(Caller(sock))
        return self._open[-1]

    def leave(self) -> None:
        for caller in self._open:
            caller.leave()


@pytest.fixture
def call() -> Iterator[Callers]:
    callers = Callers()
    yield callers
    callers.leave()


async def half_a_body(call: Callers, process: ServiceProcess) -> Caller:
    """A request of which the service has the head, and waits for the rest."""
    caller = await call(process)
    await caller.say(POST + b"Content-Length: %d\r\n\r\n" % len(HALF))
    await caller.say(HALF[:20])
    return caller


async def sittings(database: Path) -> list[Sitting]:
    async with AsyncExitStack() as stack:
        store = await opened(stack, database)
        return await store.sittings(SessionKey(scope=Scope(user_id="ana"), session_id="past"))


async def test_a_stop_with_every_kind_of_work_under_way_is_in_time_and_in_order(
    make_process: MakeProcess, model: ModelServer, call: Callers
) -> None:
    process = make_process(**reading_with(model), SHUTDOWN_GRACE_SECONDS="8")
    model.hanging = True
    await started(process)
    async with Door(process.url, timeout_s=LONGEST_STOP_S) as door:
        await door.start("ana", "past")
        await door.store("ana", "past", "I prefer tea.")
        await door.end("ana", "past")
        await model.until(1)
        await door.start("ana", "s")
        idle, halfway, head = await call(process), await half_a_body(call, process), await call(process)
        await idle.say(PROBE)
        assert (answer := await idle.hear()) is not None
        assert answer.status == 200
        await head.say(POST)

        before = (await door.get("/stats"))["event_loop"]["requests"]
        with writing_blocked(process.database):
            writes = [asyncio.create_task(door.ask("/memory/store", **TURN, user_message=f"{n}")) for n in range(20)]

            async def accepted() -> bool:
                stats = await door.get("/stats")
                return bool(stats["store"]["waiting_commits"] and stats["event_loop"]["requests"] >= before + 20)

            await until(accepted)
            begun = time.monotonic()
            for _ in range(3):
                running(process).send_signal(signal.SIGTERM)
            assert (await halfway.last()).is_problem(503, "draining")
            assert await idle.hear() is None
            assert await head.hear() is None
        answers = await asyncio.gather(*writes)
        assert await ended(process) == 0
        assert time.monotonic() - begun < LONGEST_STOP_S

    stored = [answer.json()["turn_number"] for answer in answers if answer.status_code == 200]
    assert sorted(stored) == list(range(1, 21))
    assert [turn.seq for turn in await on_disk(process.database, "ana", "s")] == sorted(stored)
    [sitting] = await sittings(process.database)
    assert (sitting.reflection, sitting.lease_until, sitting.attempts) == ("pending", None, 0)
    assert "Traceback" not in process.log.read_text()


def test_the_usual_grace_and_what_comes_after_it_leave_time_to_spare(make_settings: Callable[..., Settings]) -> None:
    assert make_settings().shutdown_grace_seconds + 2 * LATE_S < LONGEST_STOP_S - 5


async def test_the_grace_is_one_for_requests_and_reflections_together(
    make_process: MakeProcess, model: ModelServer, call: Callers
) -> None:
    process = make_process(**reading_with(model), SHUTDOWN_GRACE_SECONDS=str(GRACE_S))
    model.hanging = True
    await started(process)
    async with Door(process.url) as door:
        await door.start("ana", "s")
        await door.store("ana", "s", "I prefer tea.")
        await door.end("ana", "s")
        await model.until(1)
        begun = time.monotonic()
        halfway = await half_a_body(call, process)
        running(process).send_signal(signal.SIGTERM)
        assert (await halfway.last()).is_problem(503, "draining")
        assert time.monotonic() - begun < GRACE_S
    assert await ended(process) == 0
    assert time.monotonic() - begun < 1.75 * GRACE_S


async def test_who_waits_for_a_reflection_is_told_how_far_it_is_when_the_service_ends(
    make_process: MakeProcess, model: ModelServer
) -> None:
    process = make_process(**reading_with(model), SHUTDOWN_GRACE_SECONDS="8")
    model.hanging = True
    await started(process)
    async with Door(process.url) as door:
        await door.start("ana", "s")
        await door.store("ana", "s", "I prefer tea.")
        waiting = asyncio.create_task(door.end("ana", "s", wait_s=20))
        await model.until(1)
        running(process).send_signal(signal.SIGTERM)
        told = await waiting
        assert (told["reflection"], told["summary_generated"]) == ("pending", False)
    assert await ended(process) == 0


async def test_a_write_that_outlasts_the_grace_is_told_that_the_service_ends(make_process: MakeProcess) -> None:
    process = make_process(SHUTDOWN_GRACE_SECONDS="0.5")
    await started(process)
    async with Door(process.url) as door:
        await door.start("ana", "s")
        await door.settled()
        with writing_blocked(process.database):
            waiting = asyncio.create_task(door.ask("/memory/store", **TURN, user_message="Late.", turn_id="late"))

            async def accepted() -> bool:
                return bool((await door.get("/stats"))["store"]["waiting_commits"])

            await until(accepted)
            running(process).send_signal(signal.SIGTERM)
            refused = await waiting
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
    assert await ended(process) == 0
    kept = await on_disk(process.database, "ana", "s")
    await started(process)
    async with Door(process.url) as door:
        again = await door.store("ana", "s", "Late.", turn_id="late")
        assert (again["turn_number"], again["replayed"]) == (1, bool(kept))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_however_often_it_is_asked_to_end_the_status_is_0(
    make_process: MakeProcess, number: signal.Signals
) -> None:
    process = make_process()
    await started(process)
    async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
        assert (await http.get("/livez")).status_code == 200
    leaving = running(process)
    while leaving.poll() is None:  # the last of them come when the loop is closed and the interpreter is being left
        leaving.send_signal(number)
        await asyncio.sleep(0.002)
    process.process = None
    assert leaving.returncode == 0
    assert "Traceback" not in process.log.read_text()

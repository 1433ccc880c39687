"""An event loop that is held up is counted and logged, without a word of what held it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import httpx2
import pytest

from memory_service.logs import configure_logging
from memory_service.watchdog import BUSY_LATE_S, BUSY_REQUESTS, LOOK_EVERY_S, LOOKS, Look, Watchdog, are_busy
from tests.support.background import until

Serve = Callable[..., Awaitable[str]]
HELD_S = 0.6


def hold(secret: str = "") -> None:
    """Block the loop as a careless call would, with a user's words at hand."""
    time.sleep(HELD_S)


async def test_a_loop_that_is_held_up_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(late_s=0.2)
    async with AsyncExitStack() as stack:
        await watchdog.start(stack)
        await asyncio.sleep(0)  # it looks at the clock for the first time
        hold("walnuts")
        await until(lambda: watchdog.late)
        stats = watchdog.stats()
        assert stats["holds"] == 1
        assert 0.3 < stats["longest_hold_s"] <= HELD_S + 2
    [record] = [record for record in caplog.records if record.name == "memory_service.watchdog"]
    assert (record.levelno, record.msg, record.args) == (logging.WARNING, "the event loop was held up", ())
    assert 0.2 < record.seconds <= HELD_S + 2  # type: ignore[attr-defined]
    assert "walnuts" not in str(vars(record))


async def test_a_loop_that_is_hardly_held_up_is_measured_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(late_s=30)
    async with AsyncExitStack() as stack:
        await watchdog.start(stack)
        await asyncio.sleep(0)
        hold()
        await until(lambda: watchdog.longest_s > 0.3)
        assert watchdog.late == 0
    assert not [record for record in caplog.records if record.name == "memory_service.watchdog"]


class Work:
    """A thread that works for all of its time from when it is told to."""

    def __init__(self) -> None:
        self.works = False

    def seconds(self) -> float:
        return time.monotonic() if self.works else 0.0


BURST, PAUSE = Look(worked_s=0.03, requests=48), Look()


@pytest.mark.parametrize(
    ("looks", "busy"),
    [
        ([Look(worked_s=0.02, requests=100)] * LOOKS, True),
        ([Look(worked_s=0.02, requests=1)] * LOOKS, False),
        ([Look(worked_s=0.01, requests=100)] * LOOKS, False),
        ([BURST, *[PAUSE] * (LOOKS - 1)], False),
        ([BURST, PAUSE, BURST, PAUSE, PAUSE], False),
        ([BURST, BURST, BURST, PAUSE, PAUSE], True),
        ([Look(passed_s=0.08, requests=100), *[PAUSE] * (LOOKS - 1)], True),
        ([Look(passed_s=0.08, requests=10), *[PAUSE] * (LOOKS - 1)], False),
        ([PAUSE] * LOOKS, False),
    ],
)
def test_a_loop_is_busy_when_requests_take_a_quarter_of_its_time_or_make_it_late(looks: list[Look], busy: bool) -> None:
    assert are_busy(looks) is busy


@pytest.mark.parametrize(("works", "requests", "busy"), [(True, 1000, True), (True, 1, False), (False, 1000, False)])
async def test_whether_it_is_busy_is_seen_within_some_looks_and_so_is_that_it_is_over(
    works: bool, requests: int, busy: bool
) -> None:
    work = Work()
    watchdog = Watchdog(worked_s=work.seconds)
    async with AsyncExitStack() as stack:
        await watchdog.start(stack)
        await asyncio.sleep(0)  # it looks for the first time
        work.works = works
        watchdog.requests += requests
        await asyncio.sleep(2.5 * LOOK_EVERY_S)
        late = any(look.held_s > BUSY_LATE_S for look in watchdog._looks)  # as it may be on a machine with other work
        assert watchdog.stats()["busy"] is (busy or (late and requests >= BUSY_REQUESTS))
        assert watchdog.stats()["requests"] == requests
        await asyncio.wait_for(watchdog.calm(60), 50)  # it ends when no more requests come
        assert not watchdog.busy


async def test_where_many_have_come_since_the_last_look_the_next_one_is_waited_for() -> None:
    watchdog = Watchdog(worked_s=Work().seconds)
    async with AsyncExitStack() as stack:
        await watchdog.start(stack)
        await asyncio.sleep(0)
        for requests, waits in ((0, False), (1000, True)):
            watchdog.requests += requests
            waiting = asyncio.create_task(watchdog.calm(60))
            for _ in range(10):
                await asyncio.sleep(0)
            assert waiting.done() is not waits
            await asyncio.wait_for(waiting, 50)


async def test_who_waits_for_a_pause_in_the_requests_does_so_no_longer_than_he_wants() -> None:
    work = Work()
    watchdog = Watchdog(worked_s=work.seconds)
    async with AsyncExitStack() as stack:
        await watchdog.start(stack)
        await asyncio.sleep(0)  # it looks for the first time
        work.works = True
        watchdog.requests += 1000
        await until(lambda: watchdog.stats()["busy"])
        await asyncio.wait_for(watchdog.calm(0.001), 5)
        assert watchdog.stats()["busy"]


async def test_a_watchdog_ends_with_its_stack() -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        await Watchdog().start(stack)
        assert len(asyncio.all_tasks() - before) == 1
    assert asyncio.all_tasks() == before


async def test_the_service_tells_of_it_in_its_counters_and_its_log(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    url = await serve()
    root, own = logging.getLogger(), logging.getLogger("memory_service")
    before = root.handlers[:], root.level, own.level
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        before_it = (await http.get("/stats")).json()["event_loop"]["holds"]
        try:
            configure_logging("WARNING")
            time.sleep(HELD_S * 2)  # noqa: ASYNC251 (the loop is meant to be blocked)

            async def seen() -> bool:
                return bool((await http.get("/stats")).json()["event_loop"]["holds"] > before_it)

            await until(seen)
        finally:
            root.handlers[:], root.level, own.level = before
    line, *_ = [line for line in capsys.readouterr().err.splitlines() if "held up" in line]
    event = json.loads(line)
    assert set(event) == {"event", "seconds", "level", "logger", "timestamp"}
    assert (event["level"], event["event"]) == ("warning", "the event loop was held up")


async def test_who_only_looks_how_the_service_fares_does_not_make_it_busy(serve: Serve) -> None:
    async with httpx2.AsyncClient(base_url=await serve(), trust_env=False, timeout=60) as http:
        await http.post("/sessions/start", json={"user_id": "ana"})
        for path in ("/stats", "/livez", "/health", "/stats"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/stats")).json()["event_loop"]["requests"] == 1

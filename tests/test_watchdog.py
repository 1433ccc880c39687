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
from memory_service.watchdog import Watchdog
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
    async with httpx2.AsyncClient(base_url=url) as http:
        assert (await http.get("/stats")).json()["event_loop"]["holds"] == 0
        try:
            configure_logging("WARNING")
            time.sleep(HELD_S * 2)  # noqa: ASYNC251 (the loop is meant to be blocked)

            async def seen() -> bool:
                return bool((await http.get("/stats")).json()["event_loop"]["holds"])

            await until(seen)
        finally:
            root.handlers[:], root.level, own.level = before
    [line] = [line for line in capsys.readouterr().err.splitlines() if "held up" in line]
    event = json.loads(line)
    assert set(event) == {"event", "seconds", "level", "logger", "timestamp"}
    assert (event["level"], event["event"]) == ("warning", "the event loop was held up")

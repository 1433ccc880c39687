"""Callers who say nothing, too much, or two things at once, beside one who is served all the while."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from memory_service.app import app_around, open_service
from memory_service.guard import Doorkeeper
from memory_service.settings import Settings
from tests.conftest import Serve
from tests.support.guarded import SHORT_S, called, served
from tests.support.process import service_process
from tests.support.raw_http import Answer, Caller

pytestmark = pytest.mark.only_on("sqlite", "it is about connections, and what never gets to a store")

ANA = {"user_id": "ana", "session_id": "s"}
TURN = {**ANA, "user_message": "My boat is called Ida.", "agent_message": "A fine name."}
HALF_S = SHORT_S * 10
"""Time for a head, in which hundreds of callers can come and one be served often."""
Call = Callable[..., Any]


def post(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def said(caller: Caller, request: bytes) -> Answer:
    await caller.say(request)
    answer = await caller.hear()
    assert answer is not None, "closed without an answer"
    return answer


async def begun(call: Call) -> Caller:
    """A caller who behaves, with a session."""
    caller: Caller = await call()
    assert (await said(caller, post("/sessions/start", ANA))).status == 200
    return caller


async def turns(caller: Caller) -> int:
    held: int = json.loads((await said(caller, get("/sessions/s/reflection?user_id=ana"))).body)["turns_count"]
    return held


@asynccontextmanager
async def service(settings: Settings, **limits: Any) -> AsyncIterator[tuple[Doorkeeper, Call]]:
    async with served(app_around(open_service(settings), settings), **limits) as given:
        yield given


# Silence


async def stored_in(caller: Caller, times: int = 40) -> list[float]:
    """How long each of some turns took to be stored."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        assert (await said(caller, post("/memory/store", TURN))).status == 200
        took.append(time.perf_counter() - start)
    return took


@pytest.mark.parametrize("word", [b"", b"POST /memory/store HTTP/1.1\r\nHost: loc"], ids=["silent", "half a head"])
async def test_two_hundred_callers_who_never_finish_are_told_so_and_slow_nobody_down(
    make_settings: Callable[..., Settings], word: bytes
) -> None:
    async with service(make_settings(), head_s=3 * HALF_S, keep_alive_s=30) as (keeper, call):
        normal = await begun(call)
        alone = await stored_in(normal)
        slow = await asyncio.gather(*(call() for _ in range(200)))
        await asyncio.gather(*(caller.say(word) for caller in slow))
        beside = await stored_in(normal)
        assert not keeper.refused, "they were there all the while"
        assert statistics.median(beside) < 2 * statistics.median(alone) + 0.05
        for caller in slow:
            assert (await caller.last()).is_problem(408, "request_timeout")
        assert keeper.refused == {"request_timeout": 200}
        assert await turns(normal) == 80


async def test_a_body_that_drips_is_refused_at_its_deadline_and_leaves_nothing(
    make_settings: Callable[..., Settings],
) -> None:
    async with service(make_settings(), body_s=SHORT_S) as (_, call):
        normal, caller = await begun(call), await call()
        head, _, body = post("/memory/store", TURN).partition(b"\r\n\r\n")
        await caller.say(head + b"\r\n\r\n")

        async def drip() -> None:
            for byte in body:
                await caller.say(bytes([byte]))
                await asyncio.sleep(SHORT_S / 2)

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(SHORT_S * 40):  # all of it would take longer than that
                assert (await caller.last()).is_problem(408, "body_timeout")
        finally:
            dripping.cancel()
        assert await turns(normal) == 0


# Size


def memory(pid: int, name: str) -> int:
    """KiB of memory a process has (VmRSS) or ever had (VmHWM)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_huge_heads_are_refused_early_and_take_no_memory(tmp_path: Path) -> None:
    many = b"".join(b"X-Small-%d: %d\r\n" % (n, n) for n in range(10_000))
    heads = [b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + many, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 75_000_000]

    async def refused(port: int, head: bytes) -> None:
        async with called(("127.0.0.1", port)) as call:
            caller = await call()
            saying = asyncio.create_task(caller.say(head))
            assert (await caller.last()).is_problem(431, "headers_too_large")
            await saying
            assert (await said(await call(), get("/livez"))).status == 200

    with service_process(tmp_path) as process:
        assert process.process is not None
        pid = process.process.pid
        asyncio.run(refused(process.port, heads[0]))
        before = memory(pid, "VmRSS")
        for head in (*heads * 2, *heads[:1] * 20):
            asyncio.run(refused(process.port, head))
        assert memory(pid, "VmHWM") - before < 5_000


# Two things at once


TURN_BYTES = post("/memory/store", TURN)
ENDED = b"0\r\n\r\n" + TURN_BYTES
SMUGGLING = {
    "both lengths": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (len(ENDED), ENDED),
    "both, the other way round": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + ENDED,
    "two lengths": b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n%b" % (len(ENDED), ENDED),
    "a signed length": b"Content-Length: +5\r\n\r\n" + ENDED,
    "lengths in one line": b"Content-Length: 5, 5\r\n\r\n" + ENDED,
    "space before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n" + ENDED,
    "chunked and more": b"Transfer-Encoding: chunked, identity\r\nContent-Length: 5\r\n\r\n" + ENDED,
    "folded": b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n" + ENDED,
    "no size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + ENDED,
    "negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + ENDED,
    "size beyond 64 bits": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + ENDED,
    "more than its size": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n" + ENDED,
}


@pytest.mark.parametrize("framing", SMUGGLING.values(), ids=list(SMUGGLING))
async def test_a_turn_hidden_behind_an_ambiguous_body_is_not_stored(
    make_settings: Callable[..., Settings], framing: bytes
) -> None:
    async with service(make_settings()) as (_, call):
        normal, caller = await begun(call), await call()
        await caller.say(b"POST /memory/store HTTP/1.1\r\nHost: localhost\r\n" + framing)
        answer = await caller.last()
        assert answer.is_problem(400, "malformed_request")
        assert await turns(normal) == 0


async def test_turns_sent_in_one_go_are_each_stored_once_and_answered_in_order(
    make_settings: Callable[..., Settings],
) -> None:
    async with service(make_settings()) as (_, call):
        normal, caller = await begun(call), await call()
        await caller.say(TURN_BYTES * 5)
        answers = [await caller.hear() for _ in range(5)]
        assert [json.loads(answer.body)["turn_number"] for answer in answers if answer] == [1, 2, 3, 4, 5]
        assert await turns(normal) == 5


# Number


async def test_with_a_limit_for_each_address_the_others_go_on(serve: Serve) -> None:
    url = await serve(max_connections=150, max_connections_per_address=100)
    async with called(("127.0.0.1", int(url.rpartition(":")[2]))) as call:
        inside = [await call() for _ in range(100)]
        assert (await said(inside[-1], get("/livez"))).status == 200  # so all of them have been let in
        for _ in range(50):
            answer = await (await call()).last()
            assert answer.is_problem(503, "too_many_connections")
            assert int(answer.headers["retry-after"]) > 0
        other = await begun(lambda: call("127.0.0.2"))
        assert (await said(other, post("/memory/store", TURN))).status == 200
        for caller in inside:
            assert (await said(caller, get("/livez"))).status == 200


async def test_connections_beyond_the_limit_of_all_are_refused_whatever_their_address(serve: Serve) -> None:
    url = await serve(max_connections=60)
    async with called(("127.0.0.1", int(url.rpartition(":")[2]))) as call:
        normal = await begun(call)
        idle = [await call(f"127.0.0.{2 + number % 5}") for number in range(59)]
        assert (await said(idle[-1], get("/livez"))).status == 200
        for number in range(10):
            assert (await (await call(f"127.0.1.{number}")).last()).is_problem(503, "too_many_connections")
        assert (await said(normal, post("/memory/store", TURN))).status == 200
        idle[0].leave()
        assert (await said(normal, get("/livez"))).status == 200
        assert (await said(await call(), get("/livez"))).status == 200, "there is room again"

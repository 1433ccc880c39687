"""What a connection may cost, tried with raw sockets against a real server whose limits are small."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from memory_service.app import app_around, open_service
from memory_service.guard import Doorkeeper
from memory_service.settings import Settings
from tests.support.background import until
from tests.support.guarded import SHORT_S, served
from tests.support.raw_http import Caller

GET = b"GET /%b HTTP/1.1\r\nHost: here\r\n\r\n"


class Shop:
    """A tiny application: notes each request it has read in full; `/wait` is served when the door opens."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.sold: list[str] = []
        self.door = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["path"])
        status = 200
        if scope["path"] == "/unread":
            status = 413
        else:
            message = await receive()
            while message.get("more_body"):
                message = await receive()
            if message["type"] == "http.disconnect":
                return
            if scope["path"] == "/wait":
                await self.door.wait()
            self.sold.append(scope["path"])
        said = scope["path"].encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(said))]}
        )
        await send({"type": "http.response.body", "body": said})


class Guarded(NamedTuple):
    keeper: Doorkeeper
    shop: Shop
    call: Callable[..., Any]


@asynccontextmanager
async def guarded(**limits: Any) -> AsyncIterator[Guarded]:
    shop = Shop()
    async with served(shop_app(shop), **limits) as (keeper, call):
        yield Guarded(keeper, shop, call)


def shop_app(shop: Shop) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await shop(scope, receive, send)

    return app


# Time


@pytest.mark.parametrize("said", [b"", b"GET", b"GET /late HTTP/1.1\r\nHost: here\r\nX-Half"])
async def test_a_connection_that_never_finishes_its_head_is_told_so_and_closed(said: bytes) -> None:
    async with guarded(head_s=SHORT_S) as (keeper, shop, call):
        slow = [await call() for _ in range(20)]
        for caller in slow:
            await caller.say(said)
        other = await call()
        await other.say(GET % b"quick")
        assert (await other.hear()).body == b"/quick"  # nobody else waits for them
        for caller in slow:
            assert (await caller.last()).is_problem(408, "request_timeout")
        assert keeper.refused == {"request_timeout": 20}
        assert shop.begun == ["/quick"]


async def drip(caller: Caller, data: bytes) -> None:
    """One byte now and then, for as long as anybody listens."""
    for byte in data:
        await caller.say(bytes([byte]))
        await asyncio.sleep(SHORT_S / 10)


async def test_a_byte_now_and_then_buys_no_more_time() -> None:
    async with guarded(head_s=SHORT_S) as (_, shop, call):
        caller = await call()
        dripping = asyncio.create_task(drip(caller, b"GET /" + b"x" * 500))
        async with asyncio.timeout(SHORT_S * 30):  # all of it would take fifty times the limit
            assert (await caller.last()).is_problem(408, "request_timeout")
        dripping.cancel()
        assert shop.begun == []


async def test_the_head_of_a_later_request_has_its_own_deadline() -> None:
    async with guarded(head_s=SHORT_S) as (_, shop, call):
        caller = await call()
        await caller.say(GET % b"first" + b"GET /second HT")
        assert (await caller.hear()).body == b"/first"
        assert (await caller.last()).is_problem(408, "request_timeout")
        assert shop.begun == ["/first"]


async def test_an_idle_connection_between_two_requests_is_not_refused() -> None:
    async with guarded(head_s=SHORT_S) as (keeper, _, call):
        caller = await call()
        await caller.say(GET % b"first")
        assert (await caller.hear()).body == b"/first"
        await asyncio.sleep(SHORT_S * 2)  # longer than a head may take, and nothing of one has come
        await caller.say(GET % b"second")
        assert (await caller.hear()).body == b"/second"
        assert not keeper.refused


async def test_blank_lines_between_requests_do_not_hold_a_connection_for_ever() -> None:
    async with guarded(head_s=SHORT_S) as (_, _, call):
        caller = await call()
        await caller.say(GET % b"first")
        assert (await caller.hear()).body == b"/first"
        await caller.say(b"\r\n")
        assert (await caller.last()).is_problem(408, "request_timeout")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf"]
)
async def test_half_a_body_is_told_so_and_has_no_effect(framing: bytes) -> None:
    async with guarded(body_s=SHORT_S) as (keeper, shop, call):
        caller = await call()
        await caller.say(b"POST /half HTTP/1.1\r\nHost: here\r\n" + framing)
        assert (await caller.last()).is_problem(408, "body_timeout")
        assert keeper.refused == {"body_timeout": 1}
        assert (shop.begun, shop.sold) == (["/half"], [])


async def test_a_turn_whose_body_stops_coming_is_not_stored(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    turn = b'{"user_id": "ana", "session_id": "s", "user_message": "Half.", "agent_message": "No."}'
    post = (
        b"POST /memory/%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    )
    named = b'{"user_id": "ana", "session_id": "s"}'
    async with served(app_around(open_service(settings), settings), body_s=SHORT_S) as (_, call):
        other = await call()
        await other.say((post % (b"", len(named), named)).replace(b"/memory/", b"/sessions/start"))
        assert (await other.hear()).status == 200
        for sent, announced in ((turn[:40], len(turn)), (turn, len(turn) + 100)):
            caller = await call()
            await caller.say(post % (b"store", announced, sent))
            assert (await caller.last()).is_problem(408, "body_timeout")
        await other.say(post % (b"store", len(turn), turn))
        assert json.loads((await other.hear()).body)["turn_number"] == 1


async def test_a_body_that_nobody_waited_for_is_answered_once() -> None:
    async with guarded(body_s=SHORT_S) as (_, _, call):
        caller = await call()
        await caller.say(b"POST /unread HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\nhalf")
        assert (await caller.last()).status == 413


async def test_a_request_served_too_long_is_answered_while_its_work_goes_on() -> None:
    async with guarded(request_s=SHORT_S) as (keeper, shop, call):
        caller = await call()
        await caller.say(GET % b"wait")
        answer = await caller.last()
        assert answer.is_problem(503, "deadline_exceeded")
        assert int(answer.headers["retry-after"]) > 0
        assert shop.sold == []
        await until(lambda: keeper.connections == 0)
        shop.door.set()
        await until(lambda: shop.sold == ["/wait"])


async def test_a_refusal_of_head_has_no_body() -> None:
    async with guarded(request_s=SHORT_S) as (_, _, call):
        for asked in (b"HEAD /wait HTTP/1.1\r\nHost: here\r\n\r\n", b"HEAD /big HTTP/1.1\r\nX: " + b"x" * 3_000):
            caller = await call()
            await caller.say(asked)
            heard = await caller.everything()
            assert heard.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 431 "))
            assert heard.partition(b"\r\n\r\n")[2] == b""


# Size


async def test_one_header_too_large_is_refused_long_before_it_has_arrived() -> None:
    async with guarded() as (keeper, shop, call):
        caller = await call()
        saying = asyncio.create_task(caller.say(b"GET /big HTTP/1.1\r\nX-Big: " + b"x" * 75_000_000))
        assert (await caller.last()).is_problem(431, "headers_too_large")
        await saying
        assert keeper.refused == {"headers_too_large": 1}
        assert shop.begun == []


@pytest.mark.parametrize("lines", [50, 10_000])
async def test_many_small_headers_are_refused(lines: int) -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        head = b"".join(b"X-Small-%d: %d\r\n" % (n, n) * 3 for n in range(lines))
        await caller.say(b"GET /many HTTP/1.1\r\nHost: here\r\n" + head + b"\r\n")
        assert (await caller.last()).is_problem(431, "headers_too_large")
        assert shop.begun == []


async def test_a_head_just_under_the_limit_is_served_and_its_body_does_not_count() -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        for _ in range(2):
            head = b"POST /fits HTTP/1.1\r\nX: " + b"x" * 1_800 + b"\r\nContent-Length: 9000\r\n\r\n"
            await caller.say(head + b"b" * 9_000)
            assert (await caller.hear()).body == b"/fits"
        assert shop.sold == ["/fits"] * 2


async def test_what_follows_a_refused_head_is_not_served() -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        await caller.say(b"GET /big HTTP/1.1\r\nX-Big: " + b"x" * 3_000 + b"\r\n\r\n" + GET % b"after")
        assert (await caller.last()).is_problem(431, "headers_too_large")
        assert shop.begun == []


@pytest.mark.parametrize(
    "trailers", [b"X-Trailer: small\r\n" * 400_000, b"X-Trailer: " + b"x" * 8_000_000], ids=["many", "long"]
)
async def test_headers_behind_a_chunked_body_are_limited_as_well(trailers: bytes) -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        await caller.say(b"POST /t HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        saying = asyncio.create_task(caller.say(trailers))
        assert (await caller.last()).is_problem(431, "headers_too_large")
        await saying
        assert shop.sold == []


async def test_a_body_in_very_many_chunks_is_served() -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        chunks = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
        await caller.say(b"POST /t HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        assert (await caller.hear()).body == b"/t"
        assert shop.sold == ["/t"]


# Form

NOT_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40,
    b"hello\r\n\r\n",
    b"GET /a\xff HTTP/1.1\r\nHost: here\r\n\r\n",
    b"GET / HTTP/1.1\r\nNo colon here\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
]


@pytest.mark.parametrize("garbage", NOT_HTTP, ids=range(len(NOT_HTTP)))
async def test_garbage_is_a_malformed_request(garbage: bytes) -> None:
    async with guarded() as (keeper, shop, call):
        caller = await call()
        await caller.say(garbage)
        assert (await caller.last()).is_problem(400, "malformed_request")
        assert keeper.refused == {"malformed_request": 1}
        assert shop.begun == []


SMUGGLED = b"0\r\n\r\n" + GET % b"smuggled"
AMBIGUOUS = [
    b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
    b"Transfer-Encoding: chunked, identity\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n" + SMUGGLED,
]


@pytest.mark.parametrize("framing", AMBIGUOUS, ids=range(len(AMBIGUOUS)))
async def test_a_body_of_two_lengths_is_refused_and_has_no_effect(framing: bytes) -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        await caller.say(b"POST /outer HTTP/1.1\r\nHost: here\r\n" + framing)
        assert (await caller.last()).is_problem(400, "malformed_request")
        assert shop.sold == []


async def test_several_requests_of_one_connection_are_each_answered_once_in_order() -> None:
    async with guarded() as (keeper, shop, call):
        caller = await call()
        for name in (b"a", b"b"):
            await caller.say(GET % name)
            assert (await caller.hear()).body == b"/" + name
        names = [b"p%d" % number for number in range(30)]
        await caller.say(b"".join(GET % name for name in names))
        assert [(await caller.hear()).body for _ in names] == [b"/" + name for name in names]
        assert len(shop.sold) == len(set(shop.sold)) == 32
        assert (keeper.connections, dict(keeper.refused)) == (1, {})


async def test_a_request_behind_the_last_of_a_connection_is_not_served() -> None:
    async with guarded() as (_, shop, call):
        caller = await call()
        await caller.say(b"GET /last HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n" + GET % b"after")
        assert (await caller.last()).body == b"/last"
        assert shop.begun == ["/last"]


# Number


async def test_connections_beyond_the_limit_are_refused_and_the_others_served() -> None:
    async with guarded(connections=3) as (keeper, _, call):
        inside = [await call() for _ in range(3)]
        await until(lambda: keeper.connections == 3)
        for _ in range(5):
            answer = await (await call()).last()
            assert answer.is_problem(503, "too_many_connections")
            assert int(answer.headers["retry-after"]) > 0
        await until(lambda: keeper.connections == 3)
        for caller in inside:
            await caller.say(GET % b"inside")
            assert (await caller.hear()).body == b"/inside"
        inside[0].leave()
        await until(lambda: keeper.connections == 2)
        late = await call()
        await late.say(GET % b"late")
        assert (await late.hear()).body == b"/late"
        assert keeper.refused == {"too_many_connections": 5}


async def test_one_address_cannot_take_the_room_of_others() -> None:
    async with guarded(connections_per_address=2) as (keeper, _, call):
        inside = [await call() for _ in range(2)]
        await until(lambda: keeper.connections == 2)
        assert (await (await call()).last()).is_problem(503, "too_many_connections")
        other = await call("127.0.0.2")
        await other.say(GET % b"other")
        assert (await other.hear()).body == b"/other"
        inside[0].leave()
        await until(lambda: keeper.connections == 2)
        again = await call()
        await again.say(GET % b"again")
        assert (await again.hear()).body == b"/again"

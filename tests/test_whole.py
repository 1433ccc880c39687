"""Requests that arrive whole go another way through the server: whoever calls must not be able to tell."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from unittest.mock import ANY

import httpx2
import pytest

from memory_service import guard
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, EMBEDDING_MODEL, ModelServer
from memory_service.guard import Doorkeeper
from memory_service.whole import MOST_BYTES, in_a_task
from tests.support.background import until
from tests.support.guarded import SHORT_S, served


class Echo:
    """An application that says what it was asked; `/wait` when the door opens, `/fail` never."""

    def __init__(self, whole: bool, at_once: bool) -> None:
        paths = [b"/say", b"/wait", b"/fail", b"/break", b"/later", b"/long"] if whole else []
        self.whole = dict.fromkeys(paths, self.answer)
        self.at_once = paths if at_once else []
        self.begun: list[Any] = []
        self.door = asyncio.Event()

    async def answer(self, scope: Any, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        path = scope["path"]
        self.begun.append(scope)
        if path == "/fail":
            raise ValueError("its words are in the log alone")
        if path == "/wait":
            await self.door.wait()
        if path == "/later":
            await in_a_task()
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
        said = b"%s %s %s" % (scope["method"].encode(), path.encode(), body)
        said += b"x" * 200_000 * (path == "/long")
        broken = [(b"x-broken", b"a\r\nb: c")] * (path == "/break")
        return 200, [(b"x-count", b"%d" % len(scope["headers"])), *broken], said

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        status, headers, said = await self.answer(scope, body)
        headers = [*headers, (b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": said})


class Served(NamedTuple):
    keeper: Doorkeeper
    echo: Echo
    call: Callable[..., Any]


@asynccontextmanager
async def echoing(*, whole: bool = True, at_once: bool = True, **limits: Any) -> AsyncIterator[Served]:
    echo = Echo(whole, at_once)
    async with served(echo, **limits) as (keeper, call):
        yield Served(keeper, echo, call)


def post(path: bytes, body: bytes, *more: bytes) -> bytes:
    lines = (b"POST %b HTTP/1.1" % path, b"Host: here", b"Content-Length: %d" % len(body), *more)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


ASKED = {
    "a short one": post(b"/say", b"short"),
    "none": post(b"/say", b""),
    "the longest": post(b"/say", b"x" * MOST_BYTES),
    "one too long": post(b"/say", b"x" * (MOST_BYTES + 1)),
    "another path": post(b"/other", b"short"),
    "a query": post(b"/say?a=b", b"short"),
    "a path spelt otherwise": post(b"/s%61y", b"short"),
    "many headers": post(b"/say", b"short", *(b"X-%d: %d" % (n, n) for n in range(30))),
    "chunked": b"POST /say HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n\r\n",
    "by another method": post(b"/say", b"short").replace(b"POST", b"PUT"),
    "for the last time": post(b"/say", b"short", b"Connection: close"),
    "by an old version": post(b"/say", b"short").replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=list(ASKED))
async def test_an_answer_is_the_same_either_way(asked: bytes) -> None:
    told = []
    for whole in (True, False):
        async with echoing(whole=whole) as (_, echo, call):
            caller = await call()
            await caller.say(asked)
            answer = await caller.hear()
            headers = {name: value for name, value in answer.headers.items() if name != "date"}
            assert "date" in answer.headers
            scope = {name: value for name, value in echo.begun[0].items() if name not in ("client", "server")}
            scope.pop("extensions", None)  # of what is given or taken in parts
            told.append((answer.status, headers, answer.body, scope))
            if "close" in headers.get("connection", ""):
                assert await caller.hear() is None
    assert told[0] == told[1]


def knowing(body: bytes = b"known", *more: bytes) -> bytes:
    """A request after which the connection knows the head of requests to `/say` again."""
    return post(b"/say", body, b"X-Same: yes", *more)


def lasting(body: bytes, length: bytes) -> bytes:
    """One with that head, whose length is written so."""
    return knowing(body).replace(b"Content-Length: %d" % len(body), b"Content-Length: " + length)


AGAIN: dict[str, list[bytes]] = {
    "as long": [knowing(b"again")],
    "shorter and longer": [knowing(b""), knowing(b"x" * 999), knowing(b"x" * 20_000), knowing(b"y")],
    "the longest": [knowing(b"x" * MOST_BYTES)],
    "one too long": [knowing(b"x" * (MOST_BYTES + 1)), knowing(b"after")],
    "two in one": [knowing(b"one") + knowing(b"two")],
    "one and a half": [knowing(b"one") + knowing(b"two")[:20], knowing(b"two")[20:]],
    "in parts": [knowing(b"parts")[:9], knowing(b"parts")[9:60], knowing(b"parts")[60:-2], knowing(b"parts")[-2:]],
    "behind a blank line": [b"\r\n" + knowing(b"blank"), knowing(b"after")],
    "a blank line first": [b"\r\n", knowing(b"blank"), knowing(b"after")],
    "more than its length": [lasting(b"too much", b"3"), knowing(b"after")],
    "less than its length": [lasting(b"too", b"8"), b"much!", knowing(b"after")],
    "a length with a zero in front": [lasting(b"zero", b"004"), knowing(b"after")],
    "a length with a plus": [lasting(b"plus", b"+4"), knowing(b"after")],
    "a length below nothing": [lasting(b"less", b"-4")],
    "a length with spaces": [lasting(b"room", b"  4 "), knowing(b"after")],
    "no length": [lasting(b"none", b"")],
    "a length of other digits": [lasting(b"else", "\u0664".encode())],
    "a length said twice": [lasting(b"both", b"4\r\nContent-Length: 9")],
    "spelt otherwise": [knowing(b"case").replace(b"Host", b"hOST"), knowing(b"after")],
    "with one header more": [knowing(b"more", b"X-More: 1"), knowing(b"after")],
    "to another path": [knowing(b"path").replace(b"/say", b"/other"), knowing(b"after")],
    "to a path as long": [knowing(b"path").replace(b"/say", b"/may"), knowing(b"after")],
    "two of different paths in one": [post(b"/say", b"one") + post(b"/later", b"two"), post(b"/say", b"one")],
    "the second half of a head by itself": [knowing(b"cut")[:20], knowing(b"cut")[20:], knowing(b"cut")[20:]],
    "of another kind": [b"GET /say HTTP/1.1\r\nHost: here\r\n\r\n", knowing(b"after")],
    "chunked": [b"POST /say HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    "for the last time": [knowing(b"last", b"Connection: close"), knowing(b"after")],
    "no request": [b"nonsense\r\n\r\n"],
    "of several in turn": [knowing(b"%d" % n, b"X-Turn: %d" % (n % 6)) for n in range(20)],
}


@pytest.mark.parametrize("asked", AGAIN.values(), ids=list(AGAIN))
async def test_what_comes_after_a_head_that_is_known_is_answered_as_if_it_were_not(
    asked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for known in (guard.HEADS, 0):
        monkeypatch.setattr(guard, "HEADS", known)
        async with echoing(body_s=2) as (_, echo, call):
            caller = await call()
            answers = []
            for said in [knowing(), knowing(b"once more"), *asked]:
                await caller.say(said)
                await asyncio.sleep(0.02)
            caller.end()
            while (answer := await caller.hear()) is not None:
                headers = {name for name in answer.headers if name not in ("date", "x-request-id")}
                body = answer.body if answer.status == 200 else json.loads(answer.body)["code"]
                answers.append((answer.status, headers, body))
            told.append((answers, [scope["headers"] for scope in echo.begun]))
    assert told[0] == told[1]
    assert told[0][0][:2] == [(200, ANY, b"POST /say known"), (200, ANY, b"POST /say once more")]


async def test_a_request_that_comes_before_the_answer_to_one_with_a_known_head_is_answered_after_it() -> None:
    async with echoing() as (_, echo, call):
        caller = await call()
        echo.door.set()
        for path in (b"/say", b"/wait") * 2:  # the first of a connection is not remembered
            await caller.say(post(path, b"known"))
            assert await caller.hear()
        echo.door.clear()
        for asked in (post(b"/wait", b"first"), post(b"/say", b"second")):
            await caller.say(asked)
            await asyncio.sleep(0.02)
        assert len(echo.begun) == 5
        echo.door.set()
        assert [(await caller.hear()).body for _ in range(2)] == [b"POST /wait first", b"POST /say second"]


async def test_the_time_of_a_request_with_a_known_head_is_its_own() -> None:
    async with echoing(request_s=3) as (_, echo, call):
        caller = await call()
        echo.door.set()
        for _ in range(2):
            await caller.say(post(b"/wait", b"known"))
            assert await caller.hear()
        echo.door.clear()
        await asyncio.sleep(3.1)
        await caller.say(post(b"/wait", b"later"))
        await asyncio.sleep(1.1)  # a look at what takes too long
        echo.door.set()
        assert (await caller.hear()).body == b"POST /wait later"


async def test_one_who_reads_no_answers_fills_no_memory() -> None:
    async with echoing() as (keeper, _, call):
        caller = await call()
        await caller.say(knowing())
        assert await caller.hear()
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(2):
                    await caller.say(knowing(b"x" * 60_000))
        (protocol,) = keeper._inside
        assert 0 < protocol.transport.get_write_buffer_size() < 1_000_000


async def test_many_short_requests_with_long_answers_fill_no_memory_either() -> None:
    async with echoing() as (keeper, echo, call):
        caller = await call()
        await caller.say(post(b"/long", b"known"))
        assert await caller.hear()
        await caller.say(post(b"/long", b"short") * 200)
        await asyncio.sleep(0.2)
        (protocol,) = keeper._inside
        assert protocol.transport.get_write_buffer_size() < 1_000_000
        for _ in range(200):
            assert len((await caller.hear()).body) > 200_000
        assert len(echo.begun) == 201


async def test_one_who_reads_late_gets_every_answer_in_order() -> None:
    async with echoing() as (_, _, call):
        caller = await call()
        bodies = [b"%d " % number * 2_000 for number in range(400)]
        saying = asyncio.create_task(caller.say(b"".join(map(knowing, bodies))))
        await asyncio.sleep(0.2)
        for body in bodies:
            assert (await caller.hear()).body == b"POST /say " + body
        await saying
        await caller.say(knowing(b"after that"))
        assert (await caller.hear()).body == b"POST /say after that"


async def test_a_refusal_behind_a_known_head_has_its_body_whatever_was_parsed_last() -> None:
    async with echoing(request_s=SHORT_S) as (_, echo, call):
        caller = await call()
        echo.door.set()
        for _ in range(2):
            await caller.say(post(b"/wait", b"known"))
            assert await caller.hear()
        await caller.say(b"HEAD /other HTTP/1.1\r\nHost: here\r\n\r\n")
        await until(lambda: len(echo.begun) == 3)
        assert (await caller.head()).startswith(b"HTTP/1.1 200 OK")
        echo.door.clear()
        await caller.say(post(b"/wait", b"late"))
        assert (await caller.last()).is_problem(503, "deadline_exceeded")
        echo.door.set()


async def test_of_long_heads_nothing_is_kept() -> None:
    async with echoing(head_bytes=32_768) as (keeper, _, call):
        caller = await call()
        for body in (b"long", b"long again", b"long once more"):
            await caller.say(knowing(body, b"X-Long: " + b"x" * 30_000))
            assert (await caller.hear()).body == b"POST /say " + body
        (protocol,) = keeper._inside
        assert protocol._heads == []


async def test_a_connection_in_use_is_kept_and_an_idle_one_is_closed() -> None:
    async with echoing(keep_alive_s=3) as (_, _, call):
        busy, idle = await call(), await call()
        for caller in (busy, busy, idle, busy, idle, busy, busy, busy):
            await caller.say(knowing())
            assert (await caller.hear()).status == 200
            await asyncio.sleep(0.5)
        for caller in (idle, busy):
            assert await caller.hear() is None


async def test_a_body_that_comes_in_parts_is_served_once_when_all_of_it_is_there() -> None:
    async with echoing() as (_, echo, call):
        caller = await call()
        asked = post(b"/say", b"one two three")
        for cut in (asked[:-8], asked[-8:-4], asked[-4:]):
            assert echo.begun == []
            await caller.say(cut)
            await asyncio.sleep(0.01)
        assert (await caller.hear()).body == b"POST /say one two three"
        assert len(echo.begun) == 1


async def test_requests_that_are_sent_together_are_answered_in_order() -> None:
    async with echoing() as (_, echo, call):
        caller = await call()
        await caller.say(post(b"/wait", b"first") + post(b"/say", b"second") + post(b"/say", b"third"))
        await until(lambda: echo.begun)
        echo.door.set()
        bodies = [(await caller.hear()).body for _ in range(3)]
        assert bodies == [b"POST /wait first", b"POST /say second", b"POST /say third"]
        await caller.say(post(b"/say", b"after that"))
        assert (await caller.hear()).body == b"POST /say after that"


@pytest.mark.parametrize("at_once", [True, False])
async def test_an_answer_that_waits_for_something_is_given_when_that_has_come(at_once: bool) -> None:
    async with echoing(at_once=at_once) as (_, echo, call):
        caller, other = await call(), await call()
        await caller.say(post(b"/wait", b"first"))
        await until(lambda: echo.begun)
        await other.say(post(b"/later", b"other"))  # nobody else waits for it
        assert (await other.hear()).body == b"POST /later other"
        echo.door.set()
        assert (await caller.hear()).body == b"POST /wait first"


async def test_a_request_behind_the_last_of_a_connection_is_not_served() -> None:
    async with echoing() as (_, echo, call):
        caller = await call()
        await caller.say(post(b"/say", b"last", b"Connection: close") + post(b"/say", b"after"))
        assert (await caller.last()).body == b"POST /say last"
        assert len(echo.begun) == 1


async def test_half_a_body_is_told_so_and_never_begun() -> None:
    async with echoing(body_s=SHORT_S) as (keeper, echo, call):
        caller = await call()
        await caller.say(post(b"/say", b"half of it")[:-4])
        assert (await caller.last()).is_problem(408, "body_timeout")
        assert (echo.begun, keeper.refused) == ([], {"body_timeout": 1})


async def test_one_who_leaves_in_the_middle_of_a_body_or_of_an_answer_does_no_harm() -> None:
    async with echoing() as (keeper, echo, call):
        for asked in (post(b"/say", b"half of it")[:-4], post(b"/wait", b"")):
            caller = await call()
            await caller.say(asked)
            await until(lambda: keeper.connections)
            caller.leave()
        await until(lambda: keeper.connections == 0)
        echo.door.set()
        other = await call()
        await other.say(post(b"/say", b"hello"))
        assert (await other.hear()).status == 200


async def test_one_served_too_long_is_answered_while_its_work_goes_on() -> None:
    async with echoing(request_s=SHORT_S) as (keeper, echo, call):
        caller = await call()
        await caller.say(post(b"/wait", b""))
        assert (await caller.last()).is_problem(503, "deadline_exceeded")
        echo.door.set()
        await until(lambda: keeper.connections == 0)


@pytest.mark.parametrize("path", [b"/fail", b"/break"])
async def test_what_an_application_should_not_do_ends_the_connection_with_nothing_said(
    path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with echoing() as (_, _, call):
        caller = await call()
        await caller.say(post(path, b"a secret"))
        assert await caller.hear() is None
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.name for record in failures] == ["memory_service.whole"]
    assert "a secret" not in caplog.text


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


async def test_what_is_begun_without_a_task_can_ask_a_model_for_the_first_thing(
    model: ModelServer, serve: Callable[..., Awaitable[str]], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    url = await serve(**endpoint, openai_embedding_model=EMBEDDING_MODEL)
    named = {"user_id": "ana", "session_id": "s"}
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        for number, path in enumerate(["/sessions/start", "/memory/context", "/sessions/start", "/memory/context"]):
            asked = {"include_knowledge": 1, "query": f"How much leave has number {number}?"}
            told = await http.post(path, json={**named, **asked})
            assert told.status_code == 200, told.text
        found = await http.post("/memory/retrieve", json={"user_id": "ana", "query": "Where do I live?"})
        assert found.json()["degraded"] == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

"""AutoMem as an engine, over the server of the tests; its contract also over a live one, if there is one."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest

from memory_service.errors import DriverUnavailable, UnsafeStart
from memory_service.projections import make_projection
from memory_service.projections.automem import AutoMem
from memory_service.projections.automem.copies import LONGEST_PIECE, pieces_of, user_tag
from memory_service.projections.base import FAILURES, NotTaken, digest_of
from memory_service.settings import Settings
from memory_service.values import Only
from tests.automem.launcher import AutoMemServer
from tests.projections.contract import (
    ANA,
    BEN,
    ODD_TEXTS,
    ProjectionContract,
    Question,
    a_copy,
    found,
)
from tests.support.values import a_scope

LIVE_URL, LIVE_TOKEN = os.environ.get("TEST_AUTOMEM_URL", ""), os.environ.get("TEST_AUTOMEM_TOKEN", "")
LIVE_SETTLES_S = 2.5
TOKEN = "s3cret-t0ken"
Open = Callable[..., Awaitable[AutoMem]]
BY_TAG = {"method": "DELETE", "path": "/memory/by-tag"}
BATCH = {"method": "POST", "path": "/memory/batch"}
RECALL = {"method": "GET", "path": "/recall"}


@pytest.fixture
async def open_engine(make_settings: Callable[..., Settings]) -> AsyncIterator[Open]:
    """Open an engine on the AutoMem of this URL; it is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def opened(url: str, token: str = "", **changes: Any) -> AutoMem:
            engine = make_projection("automem", make_settings(automem_url=url, automem_api_token=token, **changes))
            assert isinstance(engine, AutoMem)
            await engine.start(stack)
            return engine

        yield opened


class TestContract(ProjectionContract):
    @pytest.fixture(params=["here", *(["live"] if LIVE_URL else [])])
    async def engine(self, request: pytest.FixtureRequest, open_engine: Open) -> AsyncIterator[AutoMem]:
        self.server: AutoMemServer | None = None
        if request.param == "live":
            engine = await open_engine(LIVE_URL, LIVE_TOKEN, automem_timeout=30)
            await engine.drop()
            yield engine
            await engine.drop()
        else:
            self.server = request.getfixturevalue("automem_server")
            yield await open_engine(self.server.url)

    async def settled(self, engine: Any) -> None:
        if self.server is None:
            await asyncio.sleep(LIVE_SETTLES_S)
        else:
            self.server.settle()


@pytest.fixture
async def engine(automem_server: AutoMemServer, open_engine: Open) -> AutoMem:
    return await open_engine(automem_server.url)


@pytest.fixture
async def automem(automem_server: AutoMemServer) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody else who uses AutoMem."""
    async with httpx2.AsyncClient(base_url=automem_server.url, trust_env=False, timeout=10) as http:
        yield http


async def kept(automem: httpx2.AsyncClient, tag: str) -> list[dict[str, Any]]:
    answer = await automem.get("/memory/by-tag", params={"tags": tag, "limit": 200})
    memories: list[dict[str, Any]] = answer.json()["memories"]
    return memories


# Settings and the token


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "localhost:8001",
        "ftp://automem:8001",
        "http://",
        "http://automem:99999",
        "http://automem:port",
        "http://ana:pa55word@automem:8001",
        "http://automem:8001/?api_key=pa55word",
        "http://automem:8001/#pa55word",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_without_repeating_it(
    make_settings: Callable[..., Settings], url: str
) -> None:
    with pytest.raises(UnsafeStart, match="AUTOMEM_URL") as refusal:
        AutoMem.from_settings(make_settings(automem_url=url))
    assert "pa55word" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize("token", ["s3cret\nX: y", "s3crét", "s3cret\x7f"])
def test_a_token_that_cannot_be_sent_is_refused(make_settings: Callable[..., Settings], token: str) -> None:
    with pytest.raises(UnsafeStart, match="AUTOMEM_API_TOKEN") as refusal:
        AutoMem.from_settings(make_settings(automem_api_token=token))
    assert "s3cr" not in str(refusal.value)


async def test_with_its_token_it_is_let_in_and_without_it_does_not_start(tmp_path: Path, open_engine: Open) -> None:
    with AutoMemServer(tmp_path, token=TOKEN) as server:
        engine = await open_engine(server.url, f" {TOKEN}\n")
        await engine.put(ANA, [a_copy("m", "walnuts")])
        assert await found(engine) == {"m"}
        assert TOKEN not in str(server.calls())
        for wrong in ("", "n0t-the-t0ken"):
            with pytest.raises(UnsafeStart, match="AUTOMEM_API_TOKEN") as refusal:
                await open_engine(server.url, wrong)
            assert not wrong or wrong not in str(refusal.value)


async def test_a_token_that_is_refused_later_is_said_clearly(
    automem_server: AutoMemServer, open_engine: Open, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await open_engine(automem_server.url, TOKEN)
    automem_server.fails({"status": 401, "path": "/(memory|recall)"})
    with pytest.raises(DriverUnavailable, match="refuses the token") as refusal:
        await found(engine)
    with pytest.raises(DriverUnavailable, match="refuses the token"):
        await engine.check()
    with pytest.raises(DriverUnavailable, match="refuses the token"):
        await engine.put(ANA, [a_copy("m")])
    assert engine.failures == 3
    with pytest.raises(DriverUnavailable, match=r"left alone for a while.*refuses the token"):
        await found(engine)
    automem_server.kill()
    await asyncio.sleep(2.1)
    for _ in range(2):  # what it said last was nothing
        with pytest.raises(DriverUnavailable) as silence:
            await found(engine)
        assert "token" not in str(silence.value)
    assert TOKEN not in f"{refusal.value} {refusal.value.__cause__} {caplog.text}"


# An AutoMem that fails


async def test_an_automem_that_is_away_at_the_start_is_used_when_it_is_there(
    automem_server: AutoMemServer, open_engine: Open, caplog: pytest.LogCaptureFixture
) -> None:
    automem_server.kill()
    engine = await open_engine(automem_server.url)
    assert "AutoMem does not answer" in caplog.text
    with pytest.raises(DriverUnavailable):
        await engine.check()
    automem_server.start()
    await engine.put(ANA, [a_copy("m", "walnuts")])
    assert await found(engine) == {"m"}


async def test_an_automem_that_hangs_at_the_start_does_not_hold_it_up(
    automem_server: AutoMemServer, open_engine: Open
) -> None:
    began = time.monotonic()
    with automem_server.paused():
        await open_engine(automem_server.url)
    assert time.monotonic() - began < 8


async def test_after_a_crash_of_automem_what_is_put_again_is_there_once(
    automem_server: AutoMemServer, engine: AutoMem
) -> None:
    await engine.put(ANA, [a_copy("m1", "walnuts")])
    automem_server.kill()
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, [a_copy("m2", "more walnuts")])
    automem_server.start()
    await engine.put(ANA, [a_copy("m1", "walnuts"), a_copy("m2", "more walnuts")])
    assert await engine.held(ANA) == {"m1": digest_of("walnuts"), "m2": digest_of("more walnuts")}
    assert await found(engine) == {"m1", "m2"}


@pytest.mark.parametrize(
    "fault",
    [
        {**BATCH, "drop": True},
        {**BATCH, "drop": True, "after": True},
        {**BATCH, "status": 503, "after": True},
        {**BATCH, "status": 429, "retry_after_s": 1},
        {**BY_TAG, "drop": True, "after": True},
        {**BY_TAG, "status": 500},
    ],
    ids=["cut before", "cut after", "done yet 503", "429", "deleted and cut", "500"],
)
async def test_where_an_answer_was_lost_doing_it_again_is_doing_it_once(
    automem_server: AutoMemServer, engine: AutoMem, automem: httpx2.AsyncClient, fault: dict[str, Any]
) -> None:
    await engine.put(ANA, [a_copy("m1", "an old text of walnuts")])
    copies = [a_copy("m1", "walnuts"), a_copy("m2", "walnuts " * 200)]
    automem_server.fails({**fault, "times": 1})
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, copies)
    await engine.put(ANA, copies)
    assert await engine.held(ANA) == {copy.id: copy.digest for copy in copies}
    assert len(await kept(automem, user_tag(ANA))) == 1 + len(list(pieces_of("walnuts " * 200)))


@pytest.mark.parametrize("after", [False, True])
async def test_where_it_was_not_told_that_all_is_forgotten_it_is_when_asked_again(
    automem_server: AutoMemServer, engine: AutoMem, after: bool
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts")])
    automem_server.fails({**BY_TAG, "drop": True, "after": after, "times": 1})
    with pytest.raises(DriverUnavailable):
        await engine.forget(ANA)
    await engine.forget(ANA)
    assert await engine.held(ANA) == {}


async def test_an_automem_that_hangs_costs_two_seconds_and_then_nothing(
    automem_server: AutoMemServer, engine: AutoMem
) -> None:
    with automem_server.paused():
        for _ in range(FAILURES):
            began = time.monotonic()
            with pytest.raises(DriverUnavailable):
                await found(engine)
            assert 1.5 < time.monotonic() - began < 4
        began = time.monotonic()
        with pytest.raises(DriverUnavailable, match="left alone"):
            await found(engine)
        assert time.monotonic() - began < 0.5
    await asyncio.sleep(2.1)
    assert await found(engine) == set()
    assert engine.breaker.state == "closed"


async def test_each_answer_of_a_write_has_its_own_time(automem_server: AutoMemServer, open_engine: Open) -> None:
    engine = await open_engine(automem_server.url, automem_timeout=1)
    automem_server.fails({**BATCH, "delay_s": 30, "times": 1})
    began = time.monotonic()
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, [a_copy("m")])
    assert 0.9 < time.monotonic() - began < 4


WRONG_ANSWERS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "429": {"status": 429, "retry_after_s": 1},
    "503": {"status": 503},
    "403": {"status": 403},
    "a page": {"status": 200, "body": "<html>Welcome</html>"},
    "a page of an error": {"status": 502, "body": "<html>Bad gateway</html>"},
    "another object": {"status": 200, "body": {"hello": "world"}},
    "a list": {"status": 200, "body": []},
    "a redirection": {"status": 302, "body": "elsewhere"},
    "fields of other types": {
        "status": 200,
        "body": {"results": "none", "memories": {}, "has_more": 1, "stored": "all", "deleted_count": []},
    },
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS.values(), ids=list(WRONG_ANSWERS))
async def test_an_answer_that_is_none_is_a_failure_and_no_empty_memory(
    automem_server: AutoMemServer, engine: AutoMem, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    automem_server.fails(wrong)
    for verb in (found(engine), engine.held(ANA), engine.put(ANA, [a_copy("m", "walnuts")])):
        with pytest.raises(DriverUnavailable, match="AutoMem") as failure:
            await verb
        assert "walnuts" not in f"{failure.value} {caplog.text}"
    assert engine.breaker.state == "open"


async def test_an_answer_that_drips_is_given_up_in_its_time(open_engine: Open) -> None:
    hung_up: asyncio.Queue[None] = asyncio.Queue()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            writer.close()
            hung_up.put_nowait(None)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        engine = await open_engine(f"http://127.0.0.1:{port}", automem_timeout=0.5)
        began = time.monotonic()
        with pytest.raises(DriverUnavailable):
            await engine.held(ANA)
        assert time.monotonic() - began < 3
        async with asyncio.timeout(5):
            for _ in ("the start", "what was asked"):
                await hung_up.get()


async def test_an_answer_without_end_is_not_read_to_it(engine: AutoMem, monkeypatch: pytest.MonkeyPatch) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts " * 60)])
    monkeypatch.setattr("memory_service.projections.automem.api.LONGEST_ANSWER", 400)
    with pytest.raises(DriverUnavailable, match="longer than 400 bytes"):
        await engine.held(ANA)


async def test_that_fewer_were_stored_than_sent_is_a_failure(automem_server: AutoMemServer, engine: AutoMem) -> None:
    automem_server.fails({**BATCH, "status": 201, "body": {"status": "success", "stored": 1, "memory_ids": []}})
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, [a_copy("m1"), a_copy("m2")])


async def test_a_check_tells_the_health_of_automem(automem_server: AutoMemServer, engine: AutoMem) -> None:
    assert (await engine.check())["status"] == "healthy"
    degraded = {"status": "degraded", "falkordb": "connected", "qdrant": "disconnected", "vector_count": None}
    automem_server.fails({"path": "/health", "status": 200, "body": degraded})
    told = await engine.check()
    assert (told["status"], told["qdrant"], told["refused"]) == ("degraded", "disconnected", 0)
    automem_server.fails({"path": "/memory/by-tag", "status": 503})  # as if its graph were gone
    with pytest.raises(DriverUnavailable):
        await engine.check()
    automem_server.kill()
    with pytest.raises(DriverUnavailable):
        await engine.check()


# Long texts, and odd ones


def test_pieces_are_cut_between_words_and_together_hold_all_of_them() -> None:
    texts = [
        "word " * 6000,
        "one\n\ntwo\t" * 3000,
        "日本語の文章。" * 500,
        "x" * 2222,
        "a" * LONGEST_PIECE + " b",
        " " * 900 + "a",
    ]
    for text in texts:
        pieces = list(pieces_of(text))
        assert all(0 < len(piece) <= LONGEST_PIECE and piece == piece.strip() for piece in pieces)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        if " " in text:
            assert " ".join(pieces).split() == text.split()


async def test_a_long_text_is_found_by_any_of_its_words_and_told_once(
    automem_server: AutoMemServer, engine: AutoMem, automem: httpx2.AsyncClient
) -> None:
    text = "walnuts first, " + "and this and that " * 5500 + "hazelnuts last"
    assert 99_000 < len(text) <= 100_000
    await engine.put(ANA, [a_copy("long", text), a_copy("short", "almonds")])
    for words in ("walnuts", "hazelnuts", "this"):
        assert await engine.search(ANA, Question(words).sought, 10) == ["long"]
    assert (await engine.held(ANA))["long"] == digest_of(text)
    calls = [call for call in automem_server.calls() if call["path"] == "/memory/batch"]
    assert len(calls) > 1
    await engine.remove(ANA, ["long"])
    assert set(await engine.held(ANA)) == {"short"}
    assert len(await kept(automem, "ams-all")) == 1


async def test_a_text_that_lacks_pieces_or_has_some_twice_is_not_held(
    automem_server: AutoMemServer, engine: AutoMem, automem: httpx2.AsyncClient
) -> None:
    text = "walnuts " * 200
    await engine.put(ANA, [a_copy("m", text), a_copy("whole", "walnuts")])
    pieces = [memory for memory in await kept(automem, user_tag(ANA)) if memory["metadata"]["item_id"] == "m"]
    await automem.post("/memory", json={name: pieces[0][name] for name in ("content", "tags", "metadata")})
    assert await engine.held(ANA) == {"m": "", "whole": digest_of("walnuts")}
    for memory in (await kept(automem, user_tag(ANA)))[:]:
        if memory["metadata"]["item_id"] == "m" and memory["metadata"]["piece"] == 1:
            await automem.delete(f"/memory/{memory['id']}")
    assert await engine.held(ANA) == {"m": "", "whole": digest_of("walnuts")}
    await engine.put(ANA, [a_copy("m", text)])
    assert (await engine.held(ANA))["m"] == digest_of(text)


async def test_a_text_without_words_is_held_and_takes_no_other_with_it(engine: AutoMem) -> None:
    texts = {"blank": " \n\t ", "wide": "\u3000", "said": "walnuts"}
    await engine.put(ANA, [a_copy(name, text) for name, text in texts.items()])
    assert await engine.held(ANA) == {name: digest_of(text) for name, text in texts.items()}
    assert engine.refused == 0
    assert await found(engine) == {"said"}


async def test_no_piece_is_so_long_that_automem_would_have_it_rewritten(
    engine: AutoMem, automem: httpx2.AsyncClient
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts and much else " * 100)])
    assert max(len(memory["content"]) for memory in await kept(automem, user_tag(ANA))) <= 500


# What AutoMem does not take


async def test_a_memory_that_is_refused_does_not_hold_up_the_others(
    engine: AutoMem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    importance = "memory_service.projections.automem.copies.importance_of"
    monkeypatch.setattr(importance, lambda copy: 7 if copy.id in ("m3", "m70") else 0.5)
    with pytest.raises(NotTaken):  # of Ana it lacks something
        await engine.put(ANA, [a_copy(f"m{number}", f"walnuts {number}") for number in range(120)])
    assert set(await engine.held(ANA)) == {f"m{number}" for number in range(120)} - {"m3", "m70"}
    assert engine.refused == 2
    assert engine.breaker.state == "closed"
    assert (await engine.check())["refused"] == 2
    assert "refuses memories" in caplog.text
    assert "walnuts" not in caplog.text


@pytest.mark.parametrize("status", [413, 422])
async def test_a_body_that_is_too_much_is_sent_in_parts(
    automem_server: AutoMemServer, engine: AutoMem, status: int
) -> None:
    automem_server.fails({**BATCH, "status": status, "times": 1})
    await engine.put(ANA, [a_copy(f"m{number}") for number in range(10)])
    assert len(await engine.held(ANA)) == 10
    assert engine.refused == 0


# What is not ours, or not this user's


async def test_what_others_keep_in_automem_is_neither_told_nor_deleted(
    engine: AutoMem, automem: httpx2.AsyncClient
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts")])
    ours = (await kept(automem, user_tag(ANA)))[0]
    foreign = [
        {"content": "walnuts of somebody else", "tags": ["ana", "user_ana", "ams", "ams-user"]},
        {"content": "walnuts in our place", "tags": ours["tags"]},
        {"content": "walnuts in our place", "tags": ours["tags"], "metadata": {"item_id": "m", "user_id": 7}},
        {
            "content": "walnuts of ben in our place",
            "tags": ours["tags"],
            "metadata": {**ours["metadata"], "user_id": "ben", "item_id": "of-ben"},
        },
    ]
    assert (await automem.post("/memory/batch", json={"memories": foreign})).status_code == 201
    assert await found(engine) == {"m"}
    assert await engine.held(ANA) == {"m": digest_of("walnuts")}
    await engine.drop()
    left = (await automem.get("/recall", params={"query": "walnuts", "limit": 100})).json()["results"]
    assert [result["memory"]["content"] for result in left] == ["walnuts of somebody else"]


async def test_what_automem_adds_to_an_answer_by_its_own_lights_is_passed_over(
    automem_server: AutoMemServer, engine: AutoMem, automem: httpx2.AsyncClient
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts", kind="insight"), a_copy("other", "walnuts", kind="memory")])
    await engine.put(BEN, [a_copy("of-ben", "walnuts", kind="insight")])
    results = [{"id": memory["id"], "memory": memory} for memory in await kept(automem, "ams-all")]
    automem_server.fails({**RECALL, "status": 200, "body": {"status": "success", "results": results}})
    assert await found(engine, Question(kinds=("insight",))) == {"m"}


async def test_a_search_is_one_question_bound_to_the_user(automem_server: AutoMemServer, engine: AutoMem) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts")])
    automem_server.calls()
    only = Only(session_id="s", category="c", without_tags=frozenset({"x", "y"}))
    await found(engine, Question(kinds=("message", "insight"), only=only))
    await found(engine, Question(kinds=("message", "insight"), only=only), scope=BEN)
    calls = [(call["path"], parse_qs(call["query"])) for call in automem_server.calls()]
    assert [path for path, _ in calls] == ["/recall"] * 2
    (_, of_ana), (_, of_ben) = calls
    assert (of_ana["tag_mode"], of_ana["tag_match"]) == (["any"], ["exact"])
    assert (len(of_ana["tags"]), len(of_ana["exclude_tags"])) == (4, 2)
    assert all(tag.startswith("ams-place-") and len(tag) == 42 for tag in of_ana["tags"])
    assert not set(of_ana["tags"]) & set(of_ben["tags"])


async def test_of_a_session_and_a_category_together_nothing_else_is_found(engine: AutoMem) -> None:
    copies = [
        a_copy(f"{session}-{category}", "walnuts", session_id=session, category=category)
        for session in ("s", "S", None)
        for category in ("c", "C", None)
    ]
    await engine.put(ANA, copies)
    assert await found(engine, Question(only=Only(session_id="s", category="c"))) == {"s-c"}
    assert await found(engine, Question(only=Only(session_id="S"))) == {"S-c", "S-C", "S-None"}
    assert await found(engine, Question(only=Only(category="C"))) == {"s-C", "S-C", "None-C"}


async def test_users_whose_names_differ_in_case_alone_are_two(engine: AutoMem) -> None:
    ana, other = a_scope("ana", "acme"), a_scope("ANA", "acme")
    await engine.put(ana, [a_copy("m", "walnuts")])
    await engine.put(other, [a_copy("M", "walnuts")])
    assert (await found(engine, scope=ana), await found(engine, scope=other)) == ({"m"}, {"M"})
    await engine.forget(ana)
    assert set(await engine.held(other)) == {"M"}
    await engine.put(other, [a_copy("m", "walnuts")])
    await engine.remove(other, ["M"])
    assert set(await engine.held(other)) == {"m"}


async def test_users_of_one_name_in_two_tenants_are_two(engine: AutoMem) -> None:
    here, there = a_scope("ana", "acme"), a_scope("ana", "emca")
    for scope in (here, there):
        await engine.put(scope, [a_copy("m1", "walnuts"), a_copy("m2", "walnuts")])
    await engine.remove(here, ["m1"])
    assert (set(await engine.held(here)), set(await engine.held(there))) == ({"m2"}, {"m1", "m2"})
    await engine.forget(here)
    assert (await found(engine, scope=here), await found(engine, scope=there)) == (set(), {"m1", "m2"})


async def test_the_tags_and_metadata_of_callers_can_be_seen_in_automem(
    engine: AutoMem, automem: httpx2.AsyncClient
) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts", tags=("Nuts", "food:dry", "日本"), session_id="s", category="food")])
    (memory,) = await kept(automem, "nuts")
    assert {"Nuts", "food:dry", "日本"} <= set(memory["tags"])
    metadata = memory["metadata"]
    assert metadata["metadata"] == {"made": "up", "nested": {"of": [1, 2.5, None]}}
    assert (metadata["user_id"], metadata["session_id"], metadata["category"]) == ("ana", "s", "food")
    assert memory["content"] == "walnuts"


async def test_a_tag_that_looks_like_ours_means_nothing(engine: AutoMem, automem: httpx2.AsyncClient) -> None:
    await engine.put(BEN, [a_copy("of-ben", "walnuts")])
    theirs = [tag for tag in (await kept(automem, user_tag(BEN)))[0]["tags"] if tag.startswith("ams-")]
    spellings = (*theirs, *(f" {tag.upper()}" for tag in theirs), f"x, {theirs[1]}", "teams-call")
    await engine.put(ANA, [a_copy("m", "walnuts", tags=spellings)])
    assert len(await kept(automem, user_tag(BEN))) == 1
    assert len(await kept(automem, "teams-call")) == 1
    await engine.forget(BEN)
    assert set(await engine.held(ANA)) == {"m"}
    assert await found(engine, Question(only=Only(without_tags=frozenset({theirs[1]})))) == set()


# Questions


async def test_a_question_of_any_length_and_of_many_tags_is_put_in_a_url_of_ordinary_length(
    automem_server: AutoMemServer, engine: AutoMem
) -> None:
    unwanted = [f"tag {number} 日本" for number in range(60)]
    copies = [a_copy(f"m{number}", "walnuts 日本語", tags=(tag,)) for number, tag in enumerate(unwanted)]
    await engine.put(ANA, [*copies, a_copy("kept", "walnuts 日本語")])
    for words in ("walnuts " * 250, "日本語 walnuts " * 100, "👩‍👩‍👧 walnuts " + "👩‍👩‍👧" * 300):
        question = Question(words, only=Only(without_tags=frozenset(unwanted)))
        assert await found(engine, question) == {"kept"}
    assert max(len(call["query"]) for call in automem_server.calls()) < 4000


async def test_many_items_are_removed_in_urls_of_ordinary_length(
    automem_server: AutoMemServer, engine: AutoMem
) -> None:
    copies = [a_copy(f"m{number}") for number in range(300)]
    await engine.put(ANA, copies)
    await engine.remove(ANA, [copy.id for copy in copies[:299]])
    assert set(await engine.held(ANA)) == {"m299"}
    assert max(len(call["query"]) for call in automem_server.calls()) < 4000


async def test_what_is_more_than_a_page_is_told_whole(engine: AutoMem) -> None:
    await engine.put(ANA, [a_copy(f"m{number}") for number in range(401)])
    await engine.put(ANA, [a_copy("long", ODD_TEXTS["long"])])
    assert len(await engine.held(ANA)) == 402
    assert all((await engine.held(ANA)).values())


async def test_a_search_by_stems_alone_asks_for_these(automem_server: AutoMemServer, engine: AutoMem) -> None:
    await engine.put(ANA, [a_copy("m", "walnut"), a_copy("other", "the sea")])
    sought = Question("walnut").sought
    without = type(sought)(stems=sought.stems, vector=None, space="", kinds=sought.kinds)
    assert await engine.search(ANA, without, 5) == ["m"]


async def test_logs_hold_nothing_of_what_was_kept_or_asked(
    automem_server: AutoMemServer, engine: AutoMem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "memory_service")
    await engine.put(ANA, [a_copy("m", "walnuts", tags=("secret",))])
    automem_server.kill()
    with pytest.raises(DriverUnavailable):
        await found(engine)
    with pytest.raises(DriverUnavailable):
        await engine.put(ANA, [a_copy("m", "walnuts", tags=("secret",))])
    ours = [f"{record.getMessage()} {vars(record)}" for record in caplog.records if "memory_service" in record.name]
    assert ours
    assert not any(word in line for line in ours for word in ("walnuts", "secret", "ana"))

"""What a file of a user may not say: over HTTP, a right file of which one thing was made another."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from functools import reduce
from typing import Any

import httpx2
import msgspec
import pytest

from memory_service.server import running
from memory_service.settings import Settings
from memory_service.stores.exports import Exported
from memory_service.values import Message, Rough
from tests.api.talking import PATIENCE_S, settled, told
from tests.support.lives import PATIENT, everything
from tests.support.values import a_memory
from tests.test_transfers import IMPORT, NDJSON, file_of, imported

Lines = list[dict[str, Any]]
Place = tuple[str | int, ...]

SAID = [
    {"role": "user", "text": "Look at this", "timestamp": 5},
    {"role": "assistant", "content": [{"type": "image", "data": "AA", "mimeType": "image/png"}], "timestamp": 6},
    {"role": "assistant", "tool_calls": [{"name": "look", "arguments": {"at": [1, None]}}], "timestamp": 7},
    {"role": "user", "tool_results": [{"content": [{"type": "text", "text": "seen"}]}], "timestamp": 8},
]
TALK = {"session_id": "talk", "agent_id": "agent", "system_prompt": "Be kind.", "session_metadata": {"k": {"n": 1}}}


@pytest.fixture
async def http(make_settings: Callable[..., Settings]) -> AsyncIterator[httpx2.AsyncClient]:
    async with running(make_settings(**PATIENT)) as url, httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        yield http


async def a_right_file(http: httpx2.AsyncClient) -> Lines:
    """What is given out of one who has come in, and has talked through the gateway since."""
    rough = Rough(messages=(Message(role="tool", content="seen", said_at=8.0),))
    to_refine = a_memory("memory_2", kind="memory", rough=rough, agent_id="agent", trust="low")
    await imported(http, file_of(*everything(5), Exported(memory=to_refine)))
    await told(http, "/upsert-session-context", session_context={**TALK, "user_id": "ana", "messages": SAID})
    await settled(http)
    return [json.loads(line) for line in (await http.get("/users/ana/export")).content.splitlines()]


def with_another(lines: Lines, kind: str, place: Place, value: Any) -> bytes:
    """The file, with another value at a place of the first thing of a kind that has it."""
    lines = json.loads(json.dumps(lines))
    for line in lines:
        *way, last = kind, *place
        try:
            holder = reduce(lambda inner, step: inner[step], way, line)
            holder[last]
        except (LookupError, TypeError):
            continue
        holder[last] = value
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    raise AssertionError(f"no {kind} has {place}")


def nested(depth: int) -> Any:
    return reduce(lambda inner, _: {"k": inner}, range(depth), 1)


async def accepted(http: httpx2.AsyncClient, lines: Lines, wrongs: list[tuple[str, Place, Any]]) -> list[Any]:
    """Those of these changes with which a file is not refused; of the others nothing may be stored."""
    taken = []
    before = (await http.get("/stats")).json()["store"]["commits"]
    for kind, place, value in wrongs:
        file = with_another(lines, kind, place, value)
        refused = await http.post(IMPORT, content=file, headers=NDJSON, params={"user_id": "ben"})
        if refused.status_code != 422:
            taken.append((refused.status_code, kind, place, str(value)[:50]))
            await http.delete("/users/ben")
            continue
        assert "line " in refused.json()["detail"]
        assert (await http.get("/users/ben/export")).status_code == 404
    assert taken or (await http.get("/stats")).json()["store"]["commits"] == before
    return taken


TOLD_OF_A_SESSION: list[tuple[str, Place, Any]] = [
    ("session", ("agent_id",), "x" * 201),
    ("session", ("agent_id",), "\0"),
    ("session", ("system_prompt",), "x" * 100_001),
    ("session", ("system_prompt",), "\0"),
    ("session", ("metadata",), {"k": "\0"}),
    ("session", ("metadata",), {"\0": 1}),
    ("session", ("metadata",), nested(300)),
    ("session", ("replaced_through",), -1),
    ("session", ("replaced_through",), 6),
    ("session", ("erased_through",), -1),
    ("session", ("erased_through",), 6),
]
SAID_IN_PARTS: list[tuple[str, Place, Any]] = [
    ("turn", ("messages", 0, "parts"), {}),
    ("turn", ("messages", 0, "parts", "role"), "system"),
    ("turn", ("messages", 0, "parts", "content"), [{"type": "text", "text": "\0"}]),
    ("turn", ("messages", 0, "parts", "content"), [{"type": "text", "text": "x" * 100_001}]),
    ("turn", ("messages", 0, "parts", "content"), [{"type": "smell"}]),
    ("turn", ("messages", 0, "parts", "content"), [{"type": "json", "content": nested(300)}]),
    ("turn", ("messages", 0, "parts", "tool_calls"), [{"name": "look", "arguments": {"\0": 1}}]),
    ("turn", ("messages", 0, "parts"), {"role": "user", "surplus": "\0"}),
    ("turn", ("messages", 0), {"role": "system", "content": "Be kind", "said_at": 5.0}),
    ("turn", ("messages", 0), {"role": "user", "content": "hi", "parts": {"role": "user"}}),
]
A_PART = {"type": "text", "text": "hi"}


def in_parts(*parts: Any, read: str = "hi") -> tuple[str, Place, Any]:
    return ("turn", ("messages", 0), {"role": "user", "content": read, "parts": {"content": list(parts)}})


SENT_IN_PARTS: list[tuple[str, Place, Any]] = [
    in_parts(read=""),
    in_parts({"type": "smell"}),
    in_parts(A_PART, read="something else"),
    in_parts({"type": "text", "text": "h\0i"}, read="hi"),
    in_parts({"type": "json", "json": {"n": 2**60}}, read='{"n":1152921504606846976}'),
    in_parts({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, read="[image]"),
    in_parts(*[A_PART] * 101, read="\n".join(["hi"] * 101)),
    ("turn", ("messages", 0), {"role": "user", "content": "hi", "parts": {"content": [A_PART], "surplus": 1}}),
]
TOLD_OF_A_MEMORY: list[tuple[str, Place, Any]] = [
    ("memory", ("kind",), "message"),
    ("memory", ("kind",), "knowledge"),
    ("memory", ("superseded_by",), "M"),
    ("memory", ("repeated_by",), "a\0b"),
    ("memory", ("agent_id",), "\0"),
    ("memory", ("agent_id",), "x" * 201),
    ("memory", ("rough", "attempts"), -1),
    ("memory", ("rough", "messages", 0, "content"), "\0"),
    ("memory", ("rough", "messages", 0), {"role": "user", "content": "hi", "parts": {"role": "\0"}}),
    ("memory", ("rough", "messages", 0, "content"), "x" * 100_001),
    ("memory", ("metadata", "started_at"), "2026-01-01T00:00:00.123456789z"),
    ("memory", ("metadata", "started_at"), "2026-01-01T00:00:00"),
    ("memory", ("metadata", "started_at"), "2026-01-01T24:00:00Z"),
    ("memory", ("metadata", "started_at"), "1826-01-01T00:00:00Z"),
    ("memory", ("metadata", "started_at"), 5),
    ("memory", ("metadata", "turn_count"), -1),
]

NAMED_BY_A_REQUEST: list[tuple[str, Place, Any]] = [
    ("effect", ("session_id",), "a\0b"),
    ("effect", ("session_id",), "a b"),
    ("effect", ("turn_id",), "a\0b"),
    ("effect", ("turn_id",), ""),
]

NO_NUMBERS: list[bytes] = [b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f"]
"""NaN, infinity, its opposite, and what is one as soon as anything is added."""


async def test_what_could_not_be_told_again_is_refused_and_nothing_is_stored(http: httpx2.AsyncClient) -> None:
    lines = await a_right_file(http)
    wrongs = [*TOLD_OF_A_SESSION, *SAID_IN_PARTS, *SENT_IN_PARTS, *TOLD_OF_A_MEMORY]
    assert await accepted(http, lines, wrongs) == []


async def test_what_no_store_or_not_each_could_hold_is_refused_before_any_of_it_is_stored(
    make_settings: Callable[..., Settings], postgres_url: str
) -> None:
    settings = make_settings(**PATIENT, store_url=postgres_url)
    async with running(settings) as url, httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        lines = await a_right_file(http)
        assert await accepted(http, lines, [*NAMED_BY_A_REQUEST, *TOLD_OF_A_MEMORY[:1]]) == []


async def test_a_vector_that_is_near_to_nothing_or_to_all_is_refused(http: httpx2.AsyncClient) -> None:
    lines = await a_right_file(http)
    size = len(b64decode(next(line["vector"]["data"] for line in lines if "vector" in line)))
    wrongs: list[tuple[str, Place, Any]] = [
        ("vector", ("data",), b64encode(data).decode())
        for bad in NO_NUMBERS
        for data in (bad * (size // 4), bytes(size - 4) + bad)
    ]
    assert await accepted(http, lines, wrongs) == []


async def test_what_was_said_through_the_gateway_is_told_there_word_for_word_of_who_came_in(
    http: httpx2.AsyncClient,
) -> None:
    lines = await a_right_file(http)
    file = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    assert (await imported(http, file, user_id="ben"))["change"] == "created"
    one, other = [(await told(http, "/get-session-context", user_id=who))["results"] for who in ("ana", "ben")]
    assert len(one) == 6
    assert [{**session, "user_id": "ben"} for session in one] == other
    assert (await told(http, "/summaries", user_id="ben"))["count"] == 1
    assert (await http.get("/users/ben/export")).content.splitlines()[1:] == file.splitlines()[1:]


# All that was taken comes in again


async def comes_in_again(http: httpx2.AsyncClient) -> bool:
    file = (await http.get("/users/ana/export")).content
    assert (await imported(http, file, user_id="ben"))["change"] == "created"
    return (await http.get("/users/ben/export")).content.splitlines()[1:] == file.splitlines()[1:]


async def test_an_agent_of_any_name_that_the_gateway_takes_comes_in_again(http: httpx2.AsyncClient) -> None:
    for number, agent_id in enumerate(("my agent", "", "\u00e4gent\n", "x" * 200, None)):
        talk = {"session_id": f"s{number}", "user_id": "ana", "agent_id": agent_id, "messages": SAID}
        await told(http, "/upsert-session-context", session_context=talk)
        if agent_id is not None:
            memory = {"session_id": "s", "user_id": "ana", "agent_id": agent_id, "session_context": talk}
            await told(http, "/create-memory", **memory)
    await settled(http)
    assert await comes_in_again(http)


WHEN_SAID = [
    ("1901-01-01T00:00:00Z", 200),
    ("1901-01-01T00:00:00+23:59", 422),
    ("1900-12-31T23:30:00-01:00", 200),
    ("2199-12-31T23:59:59Z", 200),
    ("2199-12-31T23:59:59-23:59", 422),
    ("2200-01-01T00:30:00+01:00", 200),
    ("0001-01-01T00:00:00+23:59", 422),
    ("9999-12-31T23:59:59-23:59", 422),
]
SECONDS_OF_YEARS = {1900: -2_208_988_800, 1901: -2_177_452_800, 2199: 7_258_118_399, 2200: 7_258_118_400}


async def test_what_was_said_at_any_time_that_is_taken_comes_in_again(http: httpx2.AsyncClient) -> None:
    await told(http, "/sessions/start", user_id="ana", session_id="s")
    for created_at, status in WHEN_SAID:
        turn = {"user_id": "ana", "session_id": "s", "user_message": "hi", "agent_message": ""}
        answered = await http.post("/memory/store", json={**turn, "created_at": created_at})
        assert answered.status_code == status, created_at
    messages = [{"role": "user", "text": "hi", "timestamp": seconds} for seconds in SECONDS_OF_YEARS.values()]
    talk = {"session_id": "talk", "user_id": "ana", "messages": messages}
    await told(http, "/upsert-session-context", session_context=talk)
    await settled(http)
    assert await comes_in_again(http)

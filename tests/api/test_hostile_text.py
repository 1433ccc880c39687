"""Texts and paths made to break out: words come back to the byte, a log stays a log, and no id is ever a file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory_service.settings import known_settings
from tests.api.bodies import ANA
from tests.api.talking import CONTEXT, END, KNOWLEDGE, PATIENCE_S, RECALL, RETRIEVE, START, STORE
from tests.api.texts import TEXTS
from tests.support.guarded import called
from tests.support.process import ServiceProcess, service_process

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)
"""Any text but what is refused: half a surrogate pair is no UTF-8, and NUL cannot be stored everywhere."""
SECRET = "hunter2Zq9x"
NO_MODEL = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "REFLECTION_RETRY_SECONDS": "0.01", "BREAKER_FAILURES": "1000"}
"""So that the background has something to complain of while it holds users' words."""


@pytest.fixture(scope="module")
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ground: str
) -> Iterator[ServiceProcess]:
    """A service in a process of its own, in a folder within a folder, whose log and files can be looked at."""
    record = {}
    if ground == "cosmos":
        record = request.getfixturevalue("cosmos_process").environment
    if ground == "postgres":
        record = {"STORE_URL": request.getfixturevalue("postgres_server").new_database()}
    environment = {**record, **NO_MODEL, "LOG_LEVEL": "DEBUG", "REFLECTION_MAX_ATTEMPTS": "2"}
    folder = tmp_path_factory.mktemp("around") / "data"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as around:
        for name in known_settings():
            around.delenv(name, raising=False)
        with service_process(folder, **environment) as process:
            yield process


@pytest.fixture(scope="module")
def http(service: ServiceProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=service.url, trust_env=False, timeout=3 * PATIENCE_S) as client:
        yield client


def told(http: httpx2.Client, path: str, **body: Any) -> Any:
    content = json.dumps(body, ensure_ascii=False).encode()
    response = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    return response.json()


def all_examples(test: Any) -> Any:
    for text in TEXTS.values():
        test = example(text)(test)
    return test


@all_examples
@given(texts)
@settings(max_examples=150, database=None)
def test_any_text_comes_back_to_the_byte(http: httpx2.Client, text: str) -> None:
    told(http, START, **ANA, restore=False)
    told(http, STORE, **ANA, user_message=text, agent_message=f"{text}{text}", metadata={"text": text[:500]})
    [said, answered] = told(http, CONTEXT, **ANA)["active_context"]
    assert said["content"].encode() == text.encode()
    assert answered["content"].encode() == (text + text).encode()
    question = text[:2_000]
    assert told(http, RETRIEVE, user_id="ana", query=question)["query"].encode() == question.encode()


def log_of(service: ServiceProcess) -> tuple[bytes, list[dict[str, Any]]]:
    """The log, and its events: each line of it, but the one said to who started the service."""
    log = service.log.read_bytes()
    assert log.endswith(b"\n")
    lines = [line for line in log[:-1].split(b"\n") if not line.startswith(b"Agent memory service ")]
    return log, [json.loads(line) for line in lines]


def rights(http: httpx2.Client, text: str) -> None:
    """Do to a memory all that may be done to one, rightly and wrongly; no refusal repeats any of it."""
    eve, canary = {"user_id": "eve"}, f"canary7f3a {text} password={SECRET}"
    (memory_id,) = told(http, "/memories", memories=[{**eve, "content": canary}])["ids"]
    path = f"/memories/{memory_id}"
    http.patch(path, json={**eve, "content": f"{canary} again", "metadata": {"x": canary[:500]}}).raise_for_status()
    http.post("/memories/forget", json={**eve, "query": canary[:2000]}).raise_for_status()
    at = "2020-01-01T00:00:00Z"
    refused = [
        http.patch(path, json={**eve, "content": canary, "expected_updated_at": at}),
        http.patch(path, json={**eve, canary: canary}),
        http.patch("/memories/canary7f3a", json={**eve, "content": canary}),
        http.get("/memories", params={**eve, "cursor": canary}),
        http.post("/memories/forget", json={**eve, "ids": [canary], "dry_run": False}),
    ]
    assert [answer.status_code for answer in refused] == [409, 422, 404, 422, 422]
    assert not [answer for answer in refused if "canary7f3a" in answer.text or SECRET in answer.text]
    http.delete(path, params=eve).raise_for_status()


def test_whatever_is_said_the_log_is_one_json_object_a_line_and_none_of_it(
    service: ServiceProcess, http: httpx2.Client
) -> None:
    for number, text in enumerate(TEXTS.values()):
        one = {"user_id": "eve", "session_id": f"s{number}"}
        told(http, START, **one)
        told(http, STORE, **one, user_message=f"canary7f3a {text}", agent_message=text)
        http.post(CONTEXT, json={"user_id": f"canary7f3a {text}", "session_id": text, text: text})
        told(
            http, KNOWLEDGE, content=f"canary7f3a {text}"[:20_000], category="canary7f3a", doc_id=f"canary7f3a {number}"
        )
        told(http, RECALL, query=f"canary7f3a {text}"[:2000], category="canary7f3a")
        http.delete(f"{KNOWLEDGE}/canary7f3a%20{number}")
        http.delete(f"{KNOWLEDGE}/canary7f3a%0a")
        http.get("/nowhere/canary7f3a", params={"text": text}, headers={"X-Request-Id": "canary7f3a;"})
        rights(http, text)
        told(http, END, **one)
    assert b"canary7f3a" not in http.get("/stats").content
    deadline = time.monotonic() + PATIENCE_S
    while len(log_of(service)[1]) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    log, events = log_of(service)
    assert len(events) >= 10, "the background had something to complain of"
    assert all({"event", "level", "timestamp"} <= set(event) for event in events)
    assert b"canary7f3a" not in log
    assert SECRET.encode() not in log
    assert b"\x1b" not in log


# Paths

PLACES = (
    "../x",
    "..%2fx",
    "%2e%2e%2fx",
    "%2e%2e/%2e%2e/x",
    "..%5cx",
    "..\\x",
    "....//x",
    "%252e%252e%252fx",
    "/x",
    "//x",
    "a/b",
    "a\\b",
    "a%00b",
    "a%0ab",
    "a%0d%0ab",
    "%1b",
    "%e2%80%ae",
    "%c0%ae%c0%ae",
    "%ff",
    "%",
    "%zz",
    "a" * 201,
    "",
    "file:%2f%2f%2fetc%2fpasswd",
    "x.db",
)
REFUSED = ((404, "not_found"), (422, "invalid_id"), (404, "session_not_found"))


def files(service: ServiceProcess) -> set[str]:
    around = service.database.parents[1]
    return {str(path.relative_to(around)) for path in around.rglob("*")}


async def asked_by_hand(port: int, path: str) -> tuple[int, str]:
    """Ask for a path as it is written, which a well-behaved client would tidy up first."""
    async with called(("127.0.0.1", port)) as call:
        caller = await call()
        await caller.say(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await caller.last()
        return answer.status, json.loads(answer.body)["code"]


@pytest.mark.only_on("sqlite", "it is about files")
def test_no_path_leads_out_of_the_service_and_none_leaves_a_file(service: ServiceProcess, http: httpx2.Client) -> None:
    told(http, START, **ANA, restore=False)
    before = files(service)
    assert "data/memory.db" in before
    for place in PLACES:
        for path in (f"/sessions/{place}/reflection?user_id=ana", f"/problems/{place}", f"/{place or 'x'}"):
            assert asyncio.run(asked_by_hand(service.port, path)) in REFUSED, path
        path = f"/sessions/s/reflection?user_id={place}"
        expected = (404, "session_not_found") if place == "x.db" else (422, "invalid_id")
        assert asyncio.run(asked_by_hand(service.port, path)) == expected, path
    assert files(service) == before


@pytest.mark.only_on("sqlite", "it is about files")
def test_no_id_in_a_body_is_ever_a_file(service: ServiceProcess, http: httpx2.Client) -> None:
    before = files(service)
    for place in (*PLACES, "..", ".", "a\u202eb", "a\x1bb", "CON", "x.db", ".hidden"):
        legal = place in ("CON", "x.db", ".hidden")
        for path, body in ((START, {**ANA, "session_id": place}), (START, {**ANA, "user_id": place})):
            response = http.post(path, json=body)
            assert (response.status_code, response.json().get("code")) in (
                [(200, None)] if legal else [(422, "invalid_id")]
            )
    assert files(service) == before
    assert not [name for name in before if not name.startswith("data")]

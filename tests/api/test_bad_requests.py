"""Requests the service refuses for their path, method, media type or size; and how a refusal is told from others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from memory_service.api.routes import VERBS
from memory_service.limits import DOC_ID_MEANS, USER_ID_MEANS
from tests.api.bodies import ANA, CANARY, JSON, VALID, bytes_of
from tests.api.conftest import Unharmed
from tests.api.talking import CONTEXT, PATIENCE_S, SAME, STORE, problem

pytestmark = pytest.mark.only_on("sqlite", "what is refused never reaches a store")


async def test_the_reflection_of_a_session_is_asked_for_with_valid_ids(
    http: httpx2.AsyncClient, unharmed: Unharmed
) -> None:
    asked = {
        "/sessions/s/reflection": ("validation_failed", "$"),
        "/sessions/s/reflection?user_id=": ("invalid_id", "$.user_id"),
        f"/sessions/s/reflection?user_id={CANARY}%20": ("invalid_id", "$.user_id"),
        "/sessions/s/reflection?user_id=%ff": ("invalid_id", "$.user_id"),
        "/sessions/s/reflection?user_id=ana%0a": ("invalid_id", "$.user_id"),
        "/sessions/s/reflection?user_id=a%00": ("invalid_id", "$.user_id"),
        f"/sessions/s/reflection?user_id=ana&{CANARY}={CANARY}": ("validation_failed", "$"),
        f"/sessions/{CANARY}%00/reflection?user_id=ana": ("invalid_id", "$.session_id"),
        "/sessions/s%0a/reflection?user_id=ana": ("invalid_id", "$.session_id"),
        "/sessions/%2e%2e/reflection?user_id=ana": ("invalid_id", "$.session_id"),
        f"/sessions/{'s' * 201}/reflection?user_id=ana": ("invalid_id", "$.session_id"),
        "/sessions/jos%c3%a9/reflection?user_id=ana": ("invalid_id", "$.session_id"),
    }
    async with unharmed():
        for address, (code, loc) in asked.items():
            response = await http.get(address)
            assert problem(response, 422, code)["errors"][0]["loc"] == loc
            assert CANARY not in response.text


async def test_what_is_not_in_its_form_is_told_by_what_it_should_be(
    http: httpx2.AsyncClient, unharmed: Unharmed
) -> None:
    """A name by its characters, an id by those it may have, and what is neither not as an id."""
    line, form = "holds a control character or a line break", "not in the form that it must have"
    known = "not one of the known values"
    looked = {"user_id": "ana", "query": "x"}
    key = {"name": f"{CANARY}\nb", "permissions": ["read"]}
    asked = (
        ("POST", "/keys", key, "invalid_character", "$.name", line),
        ("PATCH", "/memories/m", {"user_id": "ana", "tags": ["a", f"{CANARY}\n"]}, "invalid_character", "$.tags", line),
        ("POST", "/keys", {**key, "name": "k", "user_id": f"{CANARY} b"}, "invalid_id", "$.user_id", USER_ID_MEANS),
        ("DELETE", f"/knowledge/{CANARY}%0a", None, "invalid_id", "$.doc_id", DOC_ID_MEANS),
        ("GET", f"/memories?user_id=ana&kinds={CANARY}", None, "validation_failed", "$.kinds", form),
        ("GET", f"/memories?user_id=ana&kinds=insight,{CANARY}", None, "validation_failed", "$.kinds", form),
        ("GET", f"/memories?user_id=ana&cursor={CANARY}", None, "validation_failed", "$.cursor", form),
        ("GET", f"/memories?user_id={CANARY}%20", None, "invalid_id", "$.user_id", USER_ID_MEANS),
        ("POST", "/memories/forget", {**looked, "kinds": [CANARY]}, "validation_failed", "$.kinds", known),
    )
    async with unharmed():
        for method, path, body, code, place, reason in asked:
            response = await http.request(method, path, json=body)
            (error,) = problem(response, 422, code)["errors"]
            assert (error["loc"].startswith(place), error["msg"]) == (True, reason), path
            assert CANARY not in response.text


async def test_there_is_nothing_at_other_paths(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    paths = (
        f"/{CANARY}",
        "/memory",
        "/sessions",
        "/sessions//reflection",
        "/sessions/s/reflection/more?user_id=ana",
        "/sessions/a%2Fb/reflection?user_id=ana",
        "/Memory/Store",
        "/memory/store/",
        "/health/",
        "/%2e%2e/etc/passwd",
        "/docs",
    )
    async with unharmed():
        for path in paths:
            for method in ("GET", "POST"):
                response = await http.request(method, path, headers=JSON)
                problem(response, 404, "not_found")
                assert CANARY not in response.text + str(response.headers)


async def test_every_kind_of_problem_is_explained_at_its_type(http: httpx2.AsyncClient) -> None:
    kind = problem(await http.get("/nowhere"), 404, "not_found")["type"]
    assert (await http.get(kind)).json()["code"] == "not_found"
    problem(await http.get("/problems/nonsense"), 404, "not_found")
    for code in ("invalid_id", "content_too_long", "invalid_character", "turn_id_reused", "session_ended"):
        assert (await http.get(f"/problems/{code}")).json()["code"] == code


async def test_another_method_is_refused_with_all_that_are_allowed(
    http: httpx2.AsyncClient, unharmed: Unharmed
) -> None:
    allowed: dict[str, set[str]] = {path: {"GET", "HEAD"} for path in ("/", "/openapi.json")}
    for verb in VERBS:
        methods = {"GET", "HEAD"} if verb.method == "GET" else {verb.method}
        allowed.setdefault(verb.path.replace("{session_id}", "s"), set()).update(methods)
    allowed["/knowledge/recall"].add("DELETE")  # of a piece that is called so
    async with unharmed():
        for path, methods in allowed.items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - methods:
                response = await http.request(method, path)
                problem(response, 405, "method_not_allowed")
                assert set(response.headers["allow"].split(", ")) == methods


async def test_what_answers_get_answers_head_with_the_same_head_and_nothing_else(http: httpx2.AsyncClient) -> None:
    at = "/sessions/s/reflection?user_id=ana"
    paths = (*(verb.path for verb in VERBS if verb.method == "GET" and "{" not in verb.path), at, "/", "/openapi.json")
    for path in (*paths, "/problems/not_found", "/problems/nonsense", "/nowhere", "/reflections?limit=x"):
        got, only_head = [await http.request(method, path, headers=SAME) for method in ("GET", "HEAD")]
        assert only_head.content == b"" != got.content
        assert only_head.status_code == got.status_code, path
        varying = {"date", "content-length"} if path == "/stats" else {"date"}
        told = [{name: value for name, value in one.headers.items() if name not in varying} for one in (got, only_head)]
        assert told[0] == told[1], path


GET_PATHS = ("/", "/health", "/livez", "/stats", "/openapi.json", "/problems/not_found")
MET = (
    "*/*",
    "application/json",
    "application/*",
    "application/problem+json",
    "Application/JSON; charset=utf-8",
    "text/html, application/json;q=0.1",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/*;q=1 , */* ; q=0.001",
    "application/json;q=0.5, */*;q=0",
    "application/*, */*;q=0.0",
    "",
    ",",
)
UNMET = (
    "text/html",
    "text/*",
    "application/xml",
    "application/jsonx",
    f"text/{CANARY}",
    CANARY,
    "application/json;q=0",
    "application/json;q=0, */*",
    "application/json ; Q=0.000 , application/*",
    "application/*;q=0, */*",
    "*/*;q=0",
)


async def test_a_caller_who_cannot_do_with_json_is_told_so_and_nothing_is_done(
    http: httpx2.AsyncClient, unharmed: Unharmed
) -> None:
    async with unharmed():
        for accept in UNMET:
            headers = {"Accept": accept}
            answers = [await http.get(path, headers=headers) for path in GET_PATHS]
            answers += [await http.post(path, json=body, headers=headers) for path, body in VALID.items()]
            for response in answers:
                problem(response, 406, "not_acceptable")
                assert CANARY not in response.text
        problem(await http.get("/nowhere", headers={"Accept": "text/html"}), 404, "not_found")
        problem(await http.post("/health", headers={"Accept": "text/html"}), 405, "method_not_allowed")


async def test_a_caller_who_can_do_with_json_is_served(http: httpx2.AsyncClient) -> None:
    for accept in MET:
        for path in GET_PATHS:
            assert (await http.get(path, headers={"Accept": accept})).status_code == 200, accept
    both = [("Accept", "text/html"), ("Accept", "application/json")]
    neither = [("Accept", "text/html"), ("Accept", "text/plain")]
    assert (await http.get("/livez", headers=both)).status_code == 200
    problem(await http.get("/livez", headers=neither), 406, "not_acceptable")


async def test_a_body_that_says_it_is_not_json_is_refused(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    others = ("text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    others += ("application/jsonx", "application/ld+json", f"text/{CANARY}", "")
    async with unharmed():
        for path, body in VALID.items():
            for media_type in others:
                response = await http.post(path, content=bytes_of(body), headers={"content-type": media_type})
                problem(response, 415, "unsupported_media_type")
                assert CANARY not in response.text
        for media_type in ("application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"):
            served = await http.post(CONTEXT, content=bytes_of(ANA), headers={"content-type": media_type})
            assert served.status_code == 200
        assert (await http.post(CONTEXT, content=bytes_of(ANA))).status_code == 200, "or it says nothing of it"


def padded(size: int) -> bytes:
    """A valid body of just this many bytes."""
    body = bytes_of(VALID[STORE])
    return body[:-1] + b" " * (size - len(body)) + b"}"


async def test_a_body_beyond_one_megabyte_is_refused(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 60_000):
            yield content[start : start + 60_000]

    async with unharmed():
        for size in (1_000_001, 3_000_000):
            problem(await http.post(STORE, content=padded(size), headers=JSON), 413, "body_too_large")
            problem(await http.post(STORE, content=in_pieces(padded(size)), headers=JSON), 413, "body_too_large")
    for content in (padded(1_000_000), in_pieces(padded(1_000_000))):
        assert (await http.post(STORE, content=content, headers=JSON)).status_code == 200


async def exchange(url: str, *sent: bytes) -> bytes:
    """Send bytes over a socket of our own and read until the service has answered once, or hung up."""
    address = httpx2.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for piece in sent:
            writer.write(piece)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        assert length is not None
        return answer + await asyncio.wait_for(reader.readexactly(int(length[1])), PATIENCE_S)
    finally:
        writer.close()


def head(*lines: str) -> bytes:
    return "\r\n".join(
        (f"POST {STORE} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines, "", "")
    ).encode()


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(url: str, unharmed: Unharmed) -> None:
    async with unharmed():
        answer = await exchange(url, head("Content-Length: 1000001"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"body_too_large"' in answer


async def test_a_body_without_end_is_refused_when_it_is_too_large(url: str, unharmed: Unharmed) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b"186a0\r\n" + b" " * 100_000 + b"\r\n"

    async with unharmed():
        answer = await exchange(url, head("Transfer-Encoding: chunked"), *chunks())
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"body_too_large"' in answer


# Request ids


async def test_a_refusal_carries_the_callers_request_id_if_it_is_a_sane_one(http: httpx2.AsyncClient) -> None:
    for sane in ("a", "3f2c-77.b_1", "x" * 64):
        response = await http.post(CONTEXT, json={}, headers={"X-Request-Id": sane})
        assert problem(response, 422, "validation_failed")["request_id"] == sane
    seen = set()
    for insane in (None, "", "x" * 65, f"{CANARY} x", f"{CANARY}\u00e9".encode("latin-1"), f"{CANARY};--"):
        headers = {} if insane is None else {"X-Request-Id": insane}
        response = await http.post(CONTEXT, json={}, headers=headers)
        seen.add(problem(response, 422, "validation_failed")["request_id"])
        assert CANARY not in response.text + str(response.headers)
    assert len(seen) == 6

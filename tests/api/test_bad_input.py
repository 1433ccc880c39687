"""Bodies the service refuses: always in the same form, never with a word of what was sent, never with an effect."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import Struct

from memory_service.api.routes import VERBS
from tests.api.bodies import ANA, CANARY, JSON, VALID, bytes_of
from tests.api.conftest import Unharmed
from tests.api.talking import CONTEXT, END, INSIGHTS, KNOWLEDGE, RECALL, RETRIEVE, START, STORE, SUMMARIES, problem

pytestmark = pytest.mark.only_on("sqlite", "what is refused never reaches a store")


async def refused(
    http: httpx2.AsyncClient, path: str, content: bytes, status: int, code: str, case: str
) -> dict[str, Any]:
    """Send these bytes as JSON; the refusal must be this, and hold nothing of what was sent."""
    response = await http.post(path, content=content, headers=JSON)
    try:
        found = problem(response, status, code)
    except AssertionError as error:
        error.add_note(f"{path}: {case}")
        raise
    assert CANARY not in response.text + str(response.headers), f"{path}: {case}"
    return found


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# What is not JSON


def with_metadata(text: str) -> bytes:
    """A turn whose metadata is `{"key": ...}` with this text, which JSON would not let one write."""
    return bytes_of({**VALID[STORE], "metadata": {"key": 0}}).replace(b'{"key": 0}', b'{"key": ' + text.encode() + b"}")


MALFORMED = {
    "empty": b"",
    "spaces": b"   \n",
    "a word": CANARY.encode(),
    "byte order mark": b"\xef\xbb\xbf" + bytes_of(ANA),
    "UTF-16": json.dumps(ANA).encode("utf-16"),
    "compressed": gzip.compress(bytes_of(ANA)),
    "a form": b"user_id=ana&session_id=s",
    "cut off": bytes_of(ANA)[:-1],
    "one too many": bytes_of(ANA) + b"}",
    "two documents": bytes_of(ANA) + bytes_of(ANA),
    "trailing comma": b'{"user_id":"ana","session_id":"s",}',
    "single quotes": b"{'user_id':'ana','session_id':'s'}",
    "bare keys": b'{user_id:"ana",session_id:"s"}',
    "comment": b'{"user_id":"ana", /* ' + CANARY.encode() + b' */ "session_id":"s"}',
    "high surrogate": b'{"user_id":"ana","session_id":"\\ud800"}',
    "low surrogate": b'{"user_id":"ana","session_id":"\\udc00"}',
    "surrogates the wrong way round": b'{"user_id":"ana","session_id":"\\udc00\\ud800"}',
    "invalid UTF-8": b'{"user_id":"ana","session_id":"\xff\xfe"}',
    "overlong UTF-8": b'{"user_id":"ana","session_id":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"user_id":"ana","session_id":"\xed\xa0\x80"}',
    "cut-off UTF-8": b'{"user_id":"ana","session_id":"\xe2\x82"}',
    "bare line break": b'{"user_id":"ana","session_id":"a\nb"}',
    "bare NUL": b'{"user_id":"ana","session_id":"a\x00b"}',
    "unknown escape": b'{"user_id":"ana","session_id":"\\x41"}',
    "short escape": b'{"user_id":"ana","session_id":"\\u41"}',
}
MALFORMED_VALUES = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "undefined": "undefined",
    "True": "True",
    "leading zero": "01",
    "plus": "+1",
    "hexadecimal": "0x10",
    "no digit": "1.",
    "lone surrogate": r'"\udfff"',
    "nesting of 100,000": "[" * 100_000 + "]" * 100_000,
    "nesting of 100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "100,000 brackets that open": "[" * 100_000,
}


async def test_a_body_that_is_not_json_is_refused(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    for case, content in MALFORMED.items():
        async with unharmed():
            found = await refused(http, CONTEXT, content, 400, "malformed_json", case)
            assert "errors" not in found
    for case, text in MALFORMED_VALUES.items():
        async with unharmed():
            await refused(http, STORE, with_metadata(text), 400, "malformed_json", case)


async def test_every_path_that_takes_json_refuses_what_is_none(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for path, body in VALID.items():
            whole = bytes_of(body)
            broken = (b"", whole[:-1], whole[:-1] + b",}", b"\xef\xbb\xbf" + whole, whole.replace(b"ana", b"\xff"))
            for content in broken:
                await refused(http, path, content, 400, "malformed_json", f"{content!r}")


async def test_numbers_that_not_every_reader_can_hold_are_refused(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for text in ("1e999", "-1e999", "1" * 5000, "1" + "0" * 400, str(2**64), str(2**63), str(2**53), f"-{2**53}"):
            found = await refused(http, STORE, with_metadata(text), 422, "validation_failed", text[:20])
            assert found["errors"][0]["loc"].startswith("$.metadata")


async def test_metadata_may_be_nested_only_so_deep(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for depth in (64, 300, 900):
            await refused(http, STORE, with_metadata("[" * depth + "]" * depth), 422, "validation_failed", str(depth))
            nul = with_metadata("[" * depth + r'"\u0000"' + "]" * depth)
            await refused(http, STORE, nul, 422, "invalid_character", f"NUL at {depth}")


# What is JSON and still not a request

OBJECTS_ONLY = {"an array": [], "a text": "x", "a number": 1, "nothing": None, "a truth": True}
BAD_IDS = {
    "empty": "",
    "space": "a b",
    "space before": " ana",
    "space after": "ana ",
    "line break after": "ana\n",
    "line break": "a\nb",
    "tab": "a\tb",
    "slash": "a/b",
    "backslash": "a\\b",
    "up": "../x",
    "dot": ".",
    "two dots": "..",
    "escaped": "%2e%2e%2f",
    "file": "/etc/passwd",
    "NUL": "a\x00b",
    "escape": "a\x1bb",
    "bidi": "a\u202eb",
    "zero width": "a\u200bb",
    "accent": "josé",
    "decomposed": "jose\u0301",
    "full width": "ａｎａ",
    "other digits": "٣",
    "emoji": "👍",
    "hash": "s#1",
    "wildcard": "%",
    "quote": "a'b",
    "201 characters": "a" * 201,
}
IDS = {
    START: ("user_id", "session_id", "agent_id"),
    END: ("user_id", "session_id"),
    CONTEXT: ("user_id", "session_id"),
    STORE: ("user_id", "session_id", "turn_id"),
    RETRIEVE: ("user_id", "session_id"),
    INSIGHTS: ("user_id",),
    SUMMARIES: ("user_id",),
}
LONG = CANARY + "x" * 100_000
# path, field, value, code
INVALID: tuple[tuple[str, str, Any, str], ...] = (
    (START, "restore", "true", "validation_failed"),
    (START, "restore", 1, "validation_failed"),
    (START, "restore", None, "validation_failed"),
    (END, "wait_s", "1", "validation_failed"),
    (END, "wait_s", True, "validation_failed"),
    (END, "wait_s", None, "validation_failed"),
    (END, "wait_s", -0.1, "validation_failed"),
    (END, "wait_s", 20.1, "validation_failed"),
    (STORE, "user_message", None, "validation_failed"),
    (STORE, "user_message", 1, "validation_failed"),
    (STORE, "user_message", [CANARY], "validation_failed"),
    (STORE, "agent_message", {"text": CANARY}, "validation_failed"),
    (STORE, "user_message", LONG[:100_001], "content_too_long"),
    (STORE, "agent_message", "👍" * 100_001, "content_too_long"),
    (STORE, "user_message", f"{CANARY}\x00", "invalid_character"),
    (STORE, "agent_message", "\x00", "invalid_character"),
    (STORE, "user_name", "a\x00b", "invalid_character"),
    (STORE, "agent_name", "\x00", "invalid_character"),
    (STORE, "user_name", "", "validation_failed"),
    (STORE, "user_name", "x" * 201, "content_too_long"),
    (STORE, "agent_name", 1, "validation_failed"),
    (STORE, "created_at", CANARY, "validation_failed"),
    (STORE, "created_at", 1700000000, "validation_failed"),
    (STORE, "created_at", "2026-03-02", "validation_failed"),
    (STORE, "created_at", "2026-03-02T09:30:00", "validation_failed"),
    (STORE, "created_at", "2026-02-30T09:30:00Z", "validation_failed"),
    (STORE, "created_at", "0001-01-01T00:00:00+14:00", "validation_failed"),
    (STORE, "created_at", "9999-12-31T23:59:59-14:00", "validation_failed"),
    (STORE, "metadata", [CANARY], "validation_failed"),
    (STORE, "metadata", CANARY, "validation_failed"),
    (STORE, "metadata", None, "validation_failed"),
    (STORE, "metadata", {"key": "a\x00b"}, "invalid_character"),
    (STORE, "metadata", {"a\x00b": CANARY}, "invalid_character"),
    (STORE, "metadata", {"key": [{"deep": ["a\x00b"]}]}, "invalid_character"),
    (RETRIEVE, "query", None, "validation_failed"),
    (RETRIEVE, "query", "", "validation_failed"),
    (RETRIEVE, "query", CANARY * 201, "content_too_long"),
    (RETRIEVE, "query", "a\x00b", "invalid_character"),
    (RETRIEVE, "top_k", "5", "validation_failed"),
    (RETRIEVE, "top_k", True, "validation_failed"),
    (RETRIEVE, "top_k", 2.5, "validation_failed"),
    (RETRIEVE, "top_k", None, "validation_failed"),
    (RETRIEVE, "top_k", 0, "validation_failed"),
    (RETRIEVE, "top_k", 101, "validation_failed"),
    (RETRIEVE, "kinds", [], "validation_failed"),
    (RETRIEVE, "kinds", "message", "validation_failed"),
    (RETRIEVE, "kinds", [CANARY], "validation_failed"),
    (RETRIEVE, "kinds", ["message", 1], "validation_failed"),
    (RETRIEVE, "kinds", {"message": CANARY}, "validation_failed"),
    (INSIGHTS, "recent_only", "no", "validation_failed"),
    (INSIGHTS, "recent_only", 0, "validation_failed"),
    (SUMMARIES, "limit", "5", "validation_failed"),
    (SUMMARIES, "limit", True, "validation_failed"),
    (SUMMARIES, "limit", 0, "validation_failed"),
    (SUMMARIES, "limit", 1001, "validation_failed"),
    (KNOWLEDGE, "content", None, "validation_failed"),
    (KNOWLEDGE, "content", "", "validation_failed"),
    (KNOWLEDGE, "content", [CANARY], "validation_failed"),
    (KNOWLEDGE, "content", LONG[:20_001], "content_too_long"),
    (KNOWLEDGE, "content", f"{CANARY}\x00", "invalid_character"),
    (KNOWLEDGE, "category", None, "validation_failed"),
    (KNOWLEDGE, "category", "", "validation_failed"),
    (KNOWLEDGE, "category", LONG[:101], "content_too_long"),
    (KNOWLEDGE, "category", f"{CANARY}\n", "invalid_character"),
    (KNOWLEDGE, "title", "", "validation_failed"),
    (KNOWLEDGE, "title", 1, "validation_failed"),
    (KNOWLEDGE, "title", LONG[:501], "content_too_long"),
    (KNOWLEDGE, "title", f"{CANARY}\u2028", "invalid_character"),
    (KNOWLEDGE, "doc_id", 1, "validation_failed"),
    (KNOWLEDGE, "doc_id", [CANARY], "validation_failed"),
    (KNOWLEDGE, "doc_id", "", "invalid_id"),
    (KNOWLEDGE, "doc_id", LONG[:501], "invalid_id"),
    (KNOWLEDGE, "doc_id", f"{CANARY}\n", "invalid_id"),
    (KNOWLEDGE, "metadata", None, "validation_failed"),
    (KNOWLEDGE, "metadata", {CANARY + "!": 1}, "validation_failed"),
    (KNOWLEDGE, "metadata", {"key": CANARY * 500}, "content_too_long"),
    (KNOWLEDGE, "metadata", {"key": [{"deep": ["a\x00b"]}]}, "invalid_character"),
    (RECALL, "query", None, "validation_failed"),
    (RECALL, "query", "", "validation_failed"),
    (RECALL, "query", CANARY * 201, "content_too_long"),
    (RECALL, "query", "a\x00b", "invalid_character"),
    (RECALL, "top_k", 0, "validation_failed"),
    (RECALL, "top_k", 101, "validation_failed"),
    (RECALL, "top_k", True, "validation_failed"),
    (RECALL, "category", "", "validation_failed"),
    (RECALL, "category", LONG[:101], "content_too_long"),
    (CONTEXT, "include_knowledge", -1, "validation_failed"),
    (CONTEXT, "include_knowledge", 21, "validation_failed"),
    (CONTEXT, "include_knowledge", "5", "validation_failed"),
    (CONTEXT, "include_knowledge", None, "validation_failed"),
    (START, "include_knowledge", 21, "validation_failed"),
    (CONTEXT, "query", "", "validation_failed"),
    (CONTEXT, "query", CANARY * 201, "content_too_long"),
    (CONTEXT, "query", "a\x00b", "invalid_character"),
    (START, "query", CANARY * 201, "content_too_long"),
    (START, "min_trust", CANARY, "validation_failed"),
    (CONTEXT, "min_trust", 1, "validation_failed"),
    (RETRIEVE, "min_trust", "LOW", "validation_failed"),
    (RETRIEVE, "min_trust", None, "validation_failed"),
)
NOT_FOR_CLIENTS = (
    "tenant_id",
    "tenant",
    "scope",
    "trust",
    "source",
    "sources",
    "seq",
    "turn_number",
    "version",
    "status",
    "role",
    "importance",
    "received_at",
    "durability",
    "incarnation",
    "base_url",
    "webhook",
    "filter",
    "filters",
    "where",
)


async def test_a_body_must_be_an_object(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for path in VALID:
            for case, value in OBJECTS_ONLY.items():
                found = await refused(http, path, bytes_of(value), 422, "validation_failed", case)
                assert found["errors"][0]["loc"] == "$"


async def test_every_field_is_held_to_its_type_and_limits(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    for path, field, value, code in INVALID:
        async with unharmed():
            body = bytes_of({**VALID[path], field: value})
            found = await refused(http, path, body, 422, code, f"{field}: {value!r:.40}")
            [error] = found["errors"]
            assert re.fullmatch(rf"\$\.{field}(\[.*\])?", error["loc"])
            assert found["detail"] == f"{error['loc']}: {error['msg']}"


async def test_ids_are_plain_and_short_everywhere(http: httpx2.AsyncClient, unharmed: Unharmed, tmp_path: Path) -> None:
    files = below(tmp_path)
    async with unharmed():
        for path, fields in IDS.items():
            for field in fields:
                for case, value in BAD_IDS.items():
                    found = await refused(http, path, bytes_of({**VALID[path], field: value}), 422, "invalid_id", case)
                    assert found["errors"][0]["loc"] == f"$.{field}"
    assert below(tmp_path) == files, "no id is ever a file"


async def test_ids_of_another_type_are_no_ids(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for path, fields in IDS.items():
            for field in fields:
                for value in (1, True, [CANARY], {CANARY: CANARY}, 1.5):
                    body = bytes_of({**VALID[path], field: value})
                    found = await refused(http, path, body, 422, "validation_failed", f"{field}: {value}")
                    assert found["errors"][0]["loc"] == f"$.{field}"


async def test_what_a_request_needs_must_be_there(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for path, body in VALID.items():
            for field in set(body) - ({"session_id"} if path == START else set()):
                without = {name: value for name, value in body.items() if name != field}
                found = await refused(http, path, bytes_of(without), 422, "validation_failed", f"without {field}")
                assert field in found["errors"][0]["msg"]


async def test_fields_that_are_the_services_own_or_nobodys_are_refused(
    http: httpx2.AsyncClient, unharmed: Unharmed
) -> None:
    names = [*NOT_FOR_CLIENTS, CANARY, f"x - at `{CANARY}", f"x - at `$.{CANARY}", f"`{CANARY}` - at `$.user_id`", ""]
    async with unharmed():
        for path, body in VALID.items():
            for name in names:
                unknown = bytes_of({**body, name: CANARY})
                found = await refused(http, path, unknown, 422, "validation_failed", f"unknown {name}")
                assert found["errors"] == [{"loc": "$", "msg": "an unknown field"}]


async def test_when_something_was_said_is_for_turns_only(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    async with unharmed():
        for path in set(VALID) - {STORE}:
            body = bytes_of({**VALID[path], "created_at": "2026-03-02T09:30:00Z"})
            await refused(http, path, body, 422, "validation_failed", "created_at")


async def test_nothing_that_was_sent_comes_back(http: httpx2.AsyncClient, unharmed: Unharmed) -> None:
    wrong: tuple[Any, ...] = ([CANARY], {CANARY: CANARY}, f"{CANARY}!", f"{CANARY}\x00", f"{CANARY} - at `$.{CANARY}`")
    taken = [verb.takes for verb in VERBS if verb.takes and issubclass(verb.takes, Struct)]
    fields = {field for takes in taken for field in takes.__struct_fields__}
    async with unharmed():
        for path, body in VALID.items():
            for field in sorted(fields):
                for value in wrong:
                    if not legal(path, field, value):
                        response = await http.post(path, content=bytes_of({**body, field: value}), headers=JSON)
                        problem(response, 422, response.json()["code"])
                        assert CANARY not in response.text + str(response.headers), (path, field, value)


def legal(path: str, field: str, value: Any) -> bool:
    """Texts may be any text, and metadata any object, where they belong."""
    if field in ("user_message", "agent_message", "user_name", "agent_name"):
        return path == STORE and isinstance(value, str) and "\x00" not in value
    if field == "query":
        return path in (RETRIEVE, RECALL, START, CONTEXT) and isinstance(value, str) and "\x00" not in value
    if field in ("content", "category", "title", "doc_id"):
        return (
            (path == KNOWLEDGE or (path, field) == (RECALL, "category"))
            and isinstance(value, str)
            and "\x00" not in value
        )
    return path in (STORE, KNOWLEDGE) and field == "metadata" and isinstance(value, dict)

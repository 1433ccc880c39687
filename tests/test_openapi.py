"""The description of the interface: valid, complete, and kept to by the answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from memory_service.api.gateway import GATEWAY
from memory_service.api.openapi import openapi
from memory_service.api.problems import STATUS_CODES, all_errors
from memory_service.api.routes import VERBS
from memory_service.api.schemas import ID_PATTERN, USER_ID_PATTERN
from memory_service.errors import MemoryServiceError, ModelError, UnsafeStart

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "http-api.md"
DOCUMENT = json.loads(msgspec.json.encode(openapi(VERBS)))
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
ANA = {"user_id": "ana", "session_id": "s"}
NDJSON = "application/x-ndjson"
ANSWERS = {"/users/{user_id}/export": NDJSON}
"""Media types of answers that are not JSON."""
PIECE = {"content": "Everybody has thirty days of leave", "category": "policies"}


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_every_verb_is_described_and_nothing_else() -> None:
    assert [(method, path) for method, path, _ in OPERATIONS] == [(verb.method, verb.path) for verb in VERBS]
    assert all(operation["summary"] for _, _, operation in OPERATIONS)


def test_the_paths_and_methods_promised_from_the_first_are_there() -> None:
    promised = {
        ("POST", "/sessions/start"),
        ("POST", "/sessions/end"),
        ("POST", "/memory/context"),
        ("POST", "/memory/store"),
        ("POST", "/memory/retrieve"),
        ("POST", "/insights"),
        ("POST", "/summaries"),
        ("GET", "/health"),
        ("GET", "/stats"),
        ("GET", "/sessions/{session_id}/reflection"),
    }
    assert promised <= {(method, path) for method, path, _ in OPERATIONS}


def test_the_table_of_the_reference_has_every_code_that_is_answered_beside_its_status() -> None:
    """Those of groups of errors stand for none; no caller is answered what concerns the start, or models."""
    table = dict(re.findall(r"^\| (\d{3}) \| (.*) \|$", REFERENCE.read_text(), re.MULTILINE))
    left_out = (UnsafeStart, ModelError)
    answered = [error for error in _leaves(MemoryServiceError) if not issubclass(error, left_out)]
    assert len(answered) > 30
    for error in answered:
        status = next(STATUS_CODES[cls] for cls in error.__mro__ if cls in STATUS_CODES)
        assert f"`{error.code}`" in table[str(status)], error.code
    for code in all_errors().keys() - _codes(MemoryServiceError):
        assert f"`{code}`" in table["422"], code


def _leaves(error: type[MemoryServiceError]) -> list[type[MemoryServiceError]]:
    inner = error.__subclasses__()
    return [leaf for one in inner for leaf in _leaves(one)] if inner else [error]


def _codes(error: type[MemoryServiceError]) -> set[str]:
    return {error.code}.union(*map(_codes, error.__subclasses__()))


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_every_status_that_is_described_is_one_the_service_can_give() -> None:
    given = {str(status) for status in STATUS_CODES.values()} | {"200"}
    for method, path, operation in OPERATIONS:
        assert set(operation["responses"]) <= given, f"{method} {path}"


def test_every_refusal_is_described_as_a_problem() -> None:
    for _, path, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            media_type = ANSWERS.get(path, "application/json") if status == "200" else "application/problem+json"
            assert list(response["content"]) == [media_type]
            assert status == "200" or response["content"][media_type]["schema"]["$ref"].endswith("/Problem")


def test_what_is_taken_from_the_path_is_in_the_path() -> None:
    for _, path, operation in OPERATIONS:
        in_path = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert {part[1:-1] for part in path.split("/") if part.startswith("{")} == in_path
        assert all(one["required"] for one in operation.get("parameters", []) if one["in"] == "path")


def test_bodies_admit_no_field_that_is_not_described() -> None:
    gateway = {verb.path for verb in GATEWAY}  # which ignores them, as the original does
    for method, path, operation in OPERATIONS:
        if method == "POST" and path not in gateway and path != "/users/import":
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            described = DOCUMENT["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
            assert described["additionalProperties"] is False, path


def test_the_limits_are_told() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    turn, search = schemas["StoreTurn"]["properties"], schemas["Retrieve"]["properties"]
    assert turn["user_message"]["maxLength"] == turn["agent_message"]["maxLength"] == 100_000
    assert turn["user_id"]["pattern"] == USER_ID_PATTERN
    assert (search["query"]["minLength"], search["query"]["maxLength"]) == (1, 2000)
    assert (search["top_k"]["minimum"], search["top_k"]["maximum"], search["top_k"]["default"]) == (1, 100, 5)
    wait = schemas["SessionEnd"]["properties"]["wait_s"]
    assert (wait["minimum"], wait["maximum"], wait["default"]) == (0, 20, 0)
    piece = schemas["StoreKnowledge"]["properties"]
    assert piece["content"]["maxLength"] == 20_000
    asked = schemas["GetContext"]["properties"]["include_knowledge"]
    assert (asked["minimum"], asked["maximum"], asked["default"]) == (0, 20, 0)
    summaries = schemas["GetSummaries"]["properties"]["limit"]
    assert (summaries["minimum"], summaries["default"]) == (1, 5)


def test_who_may_call_is_told_of_each_operation() -> None:
    """Probes are for everybody; all else is for who has a credential with the permission that is named."""
    verbs = {(verb.method, verb.path): verb for verb in VERBS}
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert [(one["type"], one.get("scheme"), one.get("name")) for one in schemes.values()] == [
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
    ]
    for method, path, operation in OPERATIONS:
        verb = verbs[method, path]
        if verb.open:
            assert operation["security"] == [], path
            assert not {"401", "403", "429"} & set(operation["responses"])
            continue
        assert operation["security"] == [{scheme: [verb.needs]} for scheme in schemes]
        assert f"`{verb.needs}`" in operation["description"]
        assert ("all tenants" in operation["description"]) == verb.of_service
        assert {"401", "403", "429"} <= set(operation["responses"])


def test_headers_that_answers_have_are_described() -> None:
    limits = {"RateLimit", "RateLimit-Policy"}
    for _, path, operation in OPERATIONS:
        told = {status: set(answer.get("headers", {})) for status, answer in operation["responses"].items()}
        if operation["security"]:
            assert (told["200"], told["401"]) == (limits, {"WWW-Authenticate"}), path
            assert told["429"] == {"Retry-After", *limits}
        else:
            assert not any(told.values()), path
    assert {*limits, "Retry-After", "WWW-Authenticate"} == set(DOCUMENT["components"]["headers"])


# Against the live service


def validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def check(method: str, path: str, response: httpx2.Response, *, body: Any = None) -> None:
    """Hold one exchange to its description."""
    operation = DOCUMENT["paths"][path][method.lower()]
    described = operation["responses"][str(response.status_code)]["content"]
    media_type = response.headers["content-type"]
    schema = described[media_type]["schema"]
    answer = response.text if media_type == NDJSON else response.json()
    validator_of(schema).validate(answer)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        assert set(answer) <= set(DOCUMENT["components"]["schemas"][name]["properties"]), "every field is described"
    if body is not None:
        taken = validator_of(operation["requestBody"]["content"]["application/json"]["schema"]).is_valid(body)
        assert taken == (response.status_code not in (400, 422)), f"{body} is described as {taken}"


async def test_the_document_is_served_as_it_is(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        response = await http.get("/openapi.json")
        assert response.headers["content-type"] == "application/json"
        assert response.json() == DOCUMENT


async def test_answers_and_refusals_are_as_described(url: str) -> None:
    turn = {**ANA, "user_message": "I live in Lisbon.", "agent_message": "Noted.", "user_name": "Ana"}
    exchanges: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/memory/context", ANA),  # not yet
        ("/sessions/start", ANA),
        ("/sessions/start", {"user_id": "ana"}),
        ("/sessions/start", {"user_id": "ana/"}),
        ("/memory/store", turn),
        ("/memory/store", {**turn, "user_name": None, "turn_id": "t", "metadata": {"a": [1]}}),
        ("/memory/store", {**turn, "created_at": "2026-03-02T09:30:00+02:00"}),
        ("/memory/store", {**ANA, "user_message": "x" * 100_001, "agent_message": ""}),
        ("/memory/store", {**turn, "turn_id": "a b"}),
        ("/memory/store", {**turn, "role": "system"}),
        ("/memory/store", {**turn, "user_message": "", "agent_message": ""}),
        ("/memory/store", {**turn, "user_message": ""}),
        ("/memory/store", {**turn, "agent_message": ""}),
        ("/memory/store", {**turn, "user_message": "a\x00b"}),
        ("/memory/store", {**turn, "agent_message": "\n\x00"}),
        ("/memory/store", {**turn, "agent_message": "\n\U0001f44d\x1b"}),
        ("/memory/store", {**turn, "metadata": {"a b": 1}}),
        ("/memory/store", {**turn, "metadata": {"a\n": 1}}),
        ("/memory/store", {**turn, "metadata": {"": 1}}),
        ("/memory/store", {**turn, "metadata": {f"k{n}": n for n in range(32)}}),
        ("/memory/store", {**turn, "metadata": {f"k{n}": n for n in range(33)}}),
        ("/memory/context", ANA),
        ("/sessions/end", {**ANA, "wait_s": 20.5}),
        ("/sessions/end", {**ANA, "wait_s": 10}),
        ("/sessions/start", ANA),  # ended
        ("/memory/store", turn),
        ("/sessions/start", {**ANA, "restore": False, "agent_id": "a"}),
        ("/memory/retrieve", {"user_id": "ana", "query": "Lisbon"}),
        ("/memory/retrieve", {**ANA, "query": "Lisbon", "kinds": ["insight", "message", "summary", "chunk"]}),
        ("/memory/retrieve", {"user_id": "ana", "query": "Lisbon", "kinds": ["nonsense"]}),
        ("/memory/retrieve", {"user_id": "ana", "query": ""}),
        ("/memory/retrieve", {"user_id": "ana", "query": "a\x00"}),
        ("/insights", {"user_id": "ana"}),
        ("/insights", {"user_id": "ana", "recent_only": 1}),
        ("/summaries", {"user_id": "ana", "limit": 1}),
        ("/summaries", {"user_id": "ana", "limit": 0}),
        ("/summaries", {}),
        ("/knowledge", PIECE),
        ("/knowledge", {**PIECE, "doc_id": "docs/a.md#2", "title": "A", "metadata": {"a": [1]}}),
        ("/knowledge", {**PIECE, "doc_id": ".."}),
        ("/knowledge", {**PIECE, "doc_id": "a\n"}),
        ("/knowledge", {**PIECE, "doc_id": "\ufffd"}),
        ("/knowledge", {**PIECE, "doc_id": "x" * 501}),
        ("/knowledge", {**PIECE, "content": "x" * 20_001}),
        ("/knowledge", {**PIECE, "content": ""}),
        ("/knowledge", {**PIECE, "category": "a\nb"}),
        ("/knowledge", {**PIECE, "title": ""}),
        ("/knowledge", {**PIECE, "user_id": "ana"}),
        ("/knowledge", {"category": "policies"}),
        ("/knowledge/recall", {"query": "leave", "category": "Policies", "top_k": 100}),
        ("/knowledge/recall", {"query": "leave", "top_k": 0}),
        ("/knowledge/recall", {}),
        ("/memory/context", {**ANA, "include_knowledge": 20}),
        ("/memory/context", {**ANA, "include_knowledge": 1, "query": "leave"}),
        ("/memory/context", {**ANA, "include_knowledge": 21}),
        ("/sessions/start", {**ANA, "session_id": "k", "include_knowledge": 1, "query": "leave"}),
    )
    statuses = []
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        for path, body in exchanges:
            response = await http.post(path, json=body)
            statuses.append(response.status_code)
            check("POST", path, response, body=body)
        for query in ({"user_id": "ana"}, {"user_id": "bob"}, {"user_id": "a b"}, {}):
            response = await http.get("/sessions/s/reflection", params=query)
            statuses.append(response.status_code)
            check("GET", "/sessions/{session_id}/reflection", response)
        for doc_id in ("docs/a.md%232", "docs%2Fa.md%232", "never", "%ff"):
            response = await http.delete(f"/knowledge/{doc_id}")
            statuses.append(response.status_code)
            check("DELETE", "/knowledge/{doc_id}", response)
        for path in ("/health", "/stats"):
            check("GET", path, await http.get(path))
        export, file = "/users/{user_id}/export", await http.get("/users/ana/export")
        check("GET", export, file)
        check("GET", export, await http.get("/users/nobody/export"))
        for content in (file.content, file.content[:-1]):
            answer = await http.post("/users/import", content=content, headers={"content-type": NDJSON})
            check("POST", "/users/import", answer)
        check("POST", "/insights", await http.post("/insights", content=b"{"))
        check("POST", "/insights", await http.post("/insights", content=b"x" * 1_000_001))
        check("POST", "/insights", await http.post("/insights", content=b"", headers={"content-type": "text/plain"}))
        for method, path, _ in OPERATIONS:
            if path != "/health":
                address = path.replace("{session_id}", "s").replace("{user_id}", "ana")
                check(method, path, await http.request(method, address, headers={"host": "evil.example"}))
    assert {200, 404, 409, 422} == set(statuses)


async def test_answers_about_a_profile_and_episodes_are_as_described(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        profile, episodes = "/users/{user_id}/profile", "/users/{user_id}/episodes"
        for method, path, body in (
            ("PUT", profile, {"profile": {"a": [1, {"b": None}]}}),
            ("PUT", profile, {"profile": {}, "expected_version": 7}),
            ("PATCH", profile, {"patch": {"a": None, "c": 1}, "expected_version": 1}),
            ("PATCH", profile, {"patch": []}),
            ("POST", episodes, {"event_type": "Dispute", "summary": "Disputed", "timestamp": "2026-01-02T09:00:00Z"}),
            ("POST", episodes, {"event_type": "", "summary": "Disputed"}),
        ):
            response = await http.request(method, path.replace("{user_id}", "ana"), json=body)
            check(method, path, response, body=body)
        for path in (profile, episodes):
            check("GET", path, await http.get(path.replace("{user_id}", "ana")))
        context = await http.post("/sessions/start", json={"user_id": "ana", "session_id": "new"})
        assert {"profile", "episodes"} <= context.json().keys()
        check("POST", "/sessions/start", context)
        check("DELETE", profile, await http.delete("/users/ana/profile"))


@pytest.mark.parametrize("pattern", [ID_PATTERN, USER_ID_PATTERN])
@pytest.mark.parametrize("text", ["ana", "a.b_c:d@e-9", "...", ".a", "space:research", "a" * 200])
def test_the_pattern_of_ids_admits_plain_ids(text: str, pattern: str) -> None:
    assert validator_of({"type": "string", "pattern": pattern}).is_valid(text)


@pytest.mark.parametrize("pattern", [ID_PATTERN, USER_ID_PATTERN])
@pytest.mark.parametrize("text", ["", ".", "..", "a\n", "\na", "a b", "é", "space:\n", "a" * 201])
def test_the_pattern_of_ids_admits_nothing_else(text: str, pattern: str) -> None:
    assert not validator_of({"type": "string", "pattern": pattern}).is_valid(text)

"""The document against the service: schemathesis makes requests of every operation, right ones and wrong ones.

All of its checks are on but `ignored_auth`: the service of these tests serves callers on its host without a credential
(AUTH_MODE=loopback); what is asked of others is in test_credentials.py. Those that find nothing to check here:
`missing_required_header` (no header is required), `use_after_free` (requests are made one by one) and
`object_level_authorization` (none is asked for here).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks

from memory_service.api.gateway import GATEWAY
from memory_service.api.openapi import openapi
from memory_service.api.routes import VERBS
from memory_service.api.schemas import ID_PATTERN
from memory_service.settings import known_settings
from memory_service.stores.exports import Exported
from memory_service.user_files import Foot, Head, line_of
from tests.api.bodies import ANA
from tests.support.process import ServiceProcess, service_process
from tests.support.values import a_session

USUAL = 24
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", USUAL))
"""Of each operation, beside some fixed ones. With more, every run takes other ones."""
LONG = EXAMPLES > USUAL
BEYOND_SCHEMA = re.compile(
    r"\$\.(created_at|timestamp|from|to|messages\[\d+\]\.timestamp): not between \d+ and \d+"
    r"|\$\.(profile|patch)(\.[^ ]*)?: (more than \d+ bytes|nested deeper|an integer beyond|holds a NUL)"
    r"|changed since it was read; nothing was written, try again"  # of an expected version
    r"|a memory of another kind has this id"
    r"|\$\.((memories|messages)\[\d+\]\.)?metadata(\.[^ ]*)?: "
    r"(more than \d+ bytes|nested deeper|an integer beyond|holds a NUL)"
    r"|\$\.(memories|messages|user_message): holds a NUL"  # in the metadata of one, or in what has no form of its own
    r"|\$\.(messages\[\d+\]\.content|user_message)\[\d+\]\.json: (nested deeper|an integer beyond)"
    r"|\$\.messages: a message_id is there twice|\$\.latest: the latest are asked for alone"
    r"|\$: session_id or agent_id"
    r"|\$\.session_context: holds a NUL"  # in what has no form of its own: arguments, metadata
    r"|\$\.(embedding: must have \d+ dimensions|query: either a query or an embedding)"
    r"|\$\.session_context\.messages: a memory is made of"
    r"|\$\.drivers: known are"
    r"|\$\.cursor: is not one that was answered"
    r"|\$: nothing to change|\$\.pinned: contexts tell|\$\.(ids: to delete|query: a dry run takes)"
    # 5.0 is one there
    r"|\$\.(limit|top_k|latest|after|before|include_knowledge|expected_version|turn_numbers\[\d+\]): "
    r"Expected `int( \| null)?`, got `float`"
    r"|\$\.limit: Input should be a valid integer"  # the same, of the gateway
    r"|a message_id is stored already"  # used before, as are these
    r"|this (turn_id|key) .*; nothing was changed"
)
"""Refusals of what JSON Schema allows and cannot forbid; the document says these in words."""

# The document cannot say what is in a file; what is wrong with one is in tests/test_transfers.py.
A_FILE = b"".join(map(line_of, [Head(user_id="imported"), Exported(session=a_session()), Foot(things=1)]))
schemathesis.openapi.media_type("application/x-ndjson", st.just(A_FILE))
SCHEMA = schemathesis.openapi.from_dict(json.loads(msgspec.json.encode(openapi(VERBS)))).exclude(
    path_regex="/memory-gateway/"  # the same verbs once more
)
DEEP = [*(verb.path for verb in GATEWAY if verb.path.count("/") == 1), "/messages", "/messages/history"]
FEWER = 10
"""Of these: their bodies are deep, and to make one takes as long as to make ten others."""
load_all_checks()
AUTH = CHECKS.get_by_names(["ignored_auth"])
ACCEPTANCE = CHECKS.get_by_names(["positive_data_acceptance"])
SAID = {"user_message": "Ana likes tea", "agent_message": ""}
PIECE = {"content": "Everybody has thirty days of leave", "category": "policies"}
NO_DRIVER_THERE = {f"POST /drivers/{word}" for word in ("rebuild", "compare", "drop")}
"""Of this service, whose record is all it has: it answers 404. What they do is in tests/test_cli_drivers.py."""


@SCHEMA.hook
def map_body(context: Any, body: Any) -> Any:
    """Let every second request be about what is there, or nearly all would be answered with 404 or 422."""
    if isinstance(body, dict) and _names_drivers(body.get("drivers")) and len(body["drivers"]) % 2:
        return {**body, "drivers": ["builtin"]}
    if isinstance(body, dict) and "agent_id" in body and isinstance(body.get("session_context"), dict):
        body = {**body, "session_context": _with_a_text(body["session_context"])}
    if isinstance(body, dict) and all(_is_id(body.get(name)) for name in ANA) and len(body["session_id"]) % 2:
        return {**body, **ANA}
    return body


def _with_a_text(context: dict[str, Any]) -> dict[str, Any]:
    messages = context.get("messages", [])
    return (
        {**context, "messages": [*messages, {"role": "user", "text": "hi"}]} if isinstance(messages, list) else context
    )


def _names_drivers(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(isinstance(name, str) and 0 < len(name) <= 200 and "\0" not in name for name in value)
    )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and re.search(ID_PATTERN, value) is not None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service in a process of its own, for all that are made."""
    with pytest.MonkeyPatch.context() as environment:
        for name in known_settings():
            environment.delenv(name, raising=False)
        with service_process(tmp_path_factory.mktemp("service")) as process:
            yield process


@pytest.fixture(scope="module")
def http(service: ServiceProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=service.url, trust_env=False) as client:
        yield client


@pytest.fixture
def answered(service: ServiceProcess) -> Iterator[Counter[tuple[str, int]]]:
    """How often one operation was answered with which status; afterwards, it was served and the service did not fail.

    In a fixture, since the test itself is called once for each request."""
    answered: Counter[tuple[str, int]] = Counter()
    yield answered
    served = {operation for operation, status in answered if status == 200}
    assert served == {operation for operation, _ in answered} - NO_DRIVER_THERE
    assert not [one for one, status in answered if status >= 500]
    assert "request failed" not in service.log.read_text()


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=not LONG,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.function_scoped_fixture,  # as it should be: one for all requests of an operation
        ],
    )


def prepare(case: schemathesis.Case, http: httpx2.Client) -> None:
    """Make what a request is about, so that it finds something."""
    if case.operation.path == "/memory/store":
        http.post("/sessions/start", json={**ANA, "restore": False})
    if case.operation.path == "/knowledge/{doc_id}":
        http.post("/knowledge", json={**PIECE, "doc_id": case.path_parameters.get("doc_id")})
    given = case.path_parameters.get("key_id")
    if _is_id(given) and len(given) % 2:
        made = http.post("/keys", json={"name": "made before", "permissions": ["read"]})
        case.path_parameters["key_id"] = made.json()["key_id"]
    if case.operation.path == "/messages/{message_id}":
        message = {"role": "user", "content": "Ana likes tea", "message_id": case.path_parameters.get("message_id")}
        http.post("/messages", content=json.dumps({**(case.query or {}), "messages": [message]}, default=str))
    if case.operation.path == "/memories/{memory_id}":
        user_id = {**(case.query or {}), **(case.body if isinstance(case.body, dict) else {})}.get("user_id")
        memory = {"user_id": user_id, "memory_id": case.path_parameters.get("memory_id"), "content": "Ana likes tea"}
        http.post("/memories", content=json.dumps({"memories": [memory]}, default=str))
    if case.operation.path.startswith("/users/{user_id}"):
        http.post("/sessions/start", json={"user_id": case.path_parameters.get("user_id")})
    if case.method == "DELETE" and case.operation.path.startswith("/sessions/"):
        prepare_session(case, http)


def prepare_session(case: schemathesis.Case, http: httpx2.Client) -> None:
    who = {"user_id": (case.query or {}).get("user_id"), "session_id": case.path_parameters.get("session_id")}
    http.post("/sessions/start", content=json.dumps({**who, "restore": False}, default=str))
    http.post("/memory/store", content=json.dumps({**who, **SAID}, default=str))
    if "turn_number" in case.path_parameters and case.path_parameters["turn_number"] in range(1, 100):
        case.path_parameters["turn_number"] = 1


@SCHEMA.exclude(path=DEEP).parametrize()
@examples(EXAMPLES)
def test_every_answer_is_as_described(
    case: schemathesis.Case, service: ServiceProcess, http: httpx2.Client, answered: Counter[tuple[str, int]]
) -> None:
    if case.path == "/knowledge/recall" and case.method != "POST":
        return  # DELETE, which the document knows by another path: a piece may be called so
    prepare(case, http)
    as_described(case, service, answered)


@SCHEMA.include(path=DEEP).parametrize()
@examples(EXAMPLES // FEWER)
def test_every_answer_to_a_deep_body_is_as_described(
    case: schemathesis.Case, service: ServiceProcess, answered: Counter[tuple[str, int]]
) -> None:
    as_described(case, service, answered)


def as_described(case: schemathesis.Case, service: ServiceProcess, answered: Counter[tuple[str, int]]) -> None:
    response = case.call(base_url=service.url)
    answered[case.operation.label, response.status_code] += 1
    beyond = response.status_code == 422 and BEYOND_SCHEMA.match(response.json()["detail"])
    case.validate_response(response, excluded_checks=[*AUTH, *ACCEPTANCE] if beyond else AUTH)

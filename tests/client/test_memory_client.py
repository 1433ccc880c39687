"""What the Python client sends, over real HTTP. Every test that takes `connect` runs with both clients."""

from __future__ import annotations

import ast
import inspect
import sys
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import httpx2
import msgspec
import pytest

import client as package
from client import MemoryServiceClient, SyncMemoryServiceClient, errors
from memory_service.api import messages, schemas
from tests.support.scripted_http import Answer

USER, SESSION, NOON = "user123", "s1", datetime(2026, 5, 1, 12, tzinfo=UTC)
OWNER = {"user_id": USER, "session_id": SESSION}
TWINS = {"awaited": MemoryServiceClient, "blocking": SyncMemoryServiceClient}


# What is sent

TURN = {"user_message": "hi", "agent_message": "hello", "turn_id": "t1", "user_name": "Ann", "agent_name": "Bot"}
ASKED = {"include_knowledge": 3, "query": "q", "min_trust": "normal"}
PIECE = {"content": "soup", "category": "food", "title": "T", "doc_id": "a/b.md", "metadata": {"k": [1]}}
SAID = {"role": "user", "content": "hi", "message_id": "m1", "name": "Ann", "metadata": {"k": [1]}}
FULL = [
    ("start_session", {"session_id": SESSION, "restore": False, "agent_id": "a1", **ASKED}, "/sessions/start",
     schemas.SessionStart(user_id=USER, session_id=SESSION, restore=False, agent_id="a1", **ASKED)),
    ("end_session", {"wait_s": 2.5}, "/sessions/end", schemas.SessionEnd(**OWNER, wait_s=2.5)),
    ("get_context", ASKED, "/memory/context", schemas.GetContext(**OWNER, **ASKED)),
    ("store_turn", {**TURN, "created_at": NOON, "metadata": {"k": [1]}}, "/memory/store",
     schemas.StoreTurn(**OWNER, **TURN, created_at=NOON, metadata={"k": [1]})),
    ("retrieve",
     {"query": "q", "top_k": 9, "kinds": ("insight", "message"), "session_id": SESSION, "min_trust": "high"},
     "/memory/retrieve",
     schemas.Retrieve(**OWNER, query="q", top_k=9, kinds=["insight", "message"], min_trust="high")),
    ("get_insights", {"recent_only": True}, "/insights", schemas.GetInsights(user_id=USER, recent_only=True)),
    ("get_summaries", {"limit": 3}, "/summaries", schemas.GetSummaries(user_id=USER, limit=3)),
    ("add_messages", {"messages": [{**SAID, "timestamp": NOON}], "agent_id": "a1"}, "/messages",
     messages.StoreMessages(**OWNER, messages=[messages.MessageBody(**SAID, timestamp=NOON)], agent_id="a1")),
    ("search_messages", {"query": "q", "top_k": 9}, "/messages/search",
     messages.SearchMessages(**OWNER, query="q", top_k=9)),
    ("chat_history", {"user_message": "hi", "system_prompt": "Be kind.", "latest": 3, "include_context": True},
     "/messages/history",
     messages.GetHistory(**OWNER, system_prompt="Be kind.", user_message="hi", latest=3, include_context=True)),
    ("store_knowledge", PIECE, "/knowledge", schemas.StoreKnowledge(**PIECE)),
    ("recall_knowledge", {"query": "q", "top_k": 9, "category": "c"}, "/knowledge/recall",
     schemas.RecallKnowledge(query="q", top_k=9, category="c")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "arguments", "path", "expected"), FULL)
async def test_every_field_of_the_wire_contract_can_be_sent(service, connect, method, arguments, path, expected):
    service.answers(Answer(content={"answer": 1}))
    assert await getattr(connect(session_id=SESSION), method)(**arguments) == {"answer": 1}
    [asked] = service.asked
    assert (asked.method, asked.path, asked.query) == ("POST", path, {})
    assert asked.headers["content-type"] == "application/json"
    assert msgspec.json.decode(asked.body, type=type(expected)) == expected
    assert set(asked.json()) == set(type(expected).__struct_fields__)


LEAST = [
    ("end_session", [], {"wait_s": 0}, schemas.SessionEnd),
    ("retrieve", ["q"], {"query": "q", "top_k": 5}, schemas.Retrieve),
    ("get_insights", [], {"recent_only": False}, schemas.GetInsights),
    ("get_summaries", [], {"limit": 5}, schemas.GetSummaries),
    ("get_context", [], {}, schemas.GetContext),
    ("recall_knowledge", ["q"], {"query": "q", "top_k": 5}, schemas.RecallKnowledge),
]


@pytest.mark.parametrize(("method", "arguments", "fields", "body"), LEAST)
async def test_what_was_not_given_is_left_to_the_service(service, connect, method, arguments, fields, body):
    service.answers(Answer())
    await getattr(connect(session_id=SESSION), method)(*arguments)
    sent = service.asked[0].json()
    assert {name: value for name, value in sent.items() if name not in OWNER} == fields
    msgspec.convert(sent, body)


async def test_a_turn_without_options_carries_its_words_and_an_id_of_its_own(service, connect):
    service.answers(Answer(), Answer())
    client = connect(session_id=SESSION)
    await client.store_turn("hi", "hello")
    await client.store_turn(user_message="hi", agent_message="hello")
    first, second = (msgspec.json.decode(asked.body, type=schemas.StoreTurn) for asked in service.asked)
    assert set(service.asked[0].json()) == {*OWNER, "user_message", "agent_message", "turn_id"}
    assert len(first.turn_id) == len(second.turn_id) == 32
    assert first.turn_id != second.turn_id


async def test_a_space_is_named_in_place_of_a_user(service, connect):
    service.answers(Answer(), Answer())
    client = connect(user_id=None, space="research", session_id=SESSION)
    assert client.user_id == "space:research"
    await client.store_turn("hi", "hello")
    await client.memory("m1")
    assert service.asked[0].json()["user_id"] == service.asked[1].query["user_id"] == "space:research"
    for neither_or_both in ({"user_id": None}, {"user_id": USER, "space": "research"}):
        with pytest.raises(ValueError, match="either by user_id or by space"):
            connect(**neither_or_both)


async def test_an_import_is_sent_in_requests_that_are_not_too_large(service, connect):
    large = [{"role": "user", "content": "x" * 1_900_000, "message_id": f"m{number}"} for number in range(5)]
    service.answers(*(Answer(content={"count": 0, "stored": 0}) for _ in range(3)))
    await connect(session_id=SESSION).import_messages(large)
    assert [len(asked.json()["messages"]) for asked in service.asked] == [2, 2, 1]


@pytest.mark.parametrize(("method", "path"), [("health", "/health"), ("stats", "/stats")])
async def test_monitoring_is_asked_without_a_user(service, connect, method, path):
    service.answers(Answer(content={"status": "healthy"}))
    assert await getattr(connect(), method)() == {"status": "healthy"}
    [asked] = service.asked
    assert (asked.method, asked.path, asked.query, asked.body) == ("GET", path, {}, b"")


@pytest.mark.parametrize("session_id", ["s1", "a/b c?d#é", "100%41", "@:._-"])
async def test_ids_are_percent_encoded_in_paths(service, connect, session_id):
    service.answers(Answer())
    await connect(user_id="a&b=c").reflection(session_id=session_id)
    [asked] = service.asked
    assert asked.path.split("?")[0] == f"/sessions/{quote(session_id, safe='')}/reflection"
    assert (asked.method, asked.query, asked.body) == ("GET", {"user_id": "a&b=c"}, b"")


@pytest.mark.parametrize("doc_id", ["POL-001", "docs/a b.md#2", "https://h/?a=b", "100%41", "../x", "é"])
async def test_a_piece_of_knowledge_is_deleted_by_its_name_encoded_whole(service, connect, doc_id):
    service.answers(Answer(content={"deleted": True}))
    assert await connect().delete_knowledge(doc_id) == {"deleted": True}
    [asked] = service.asked
    assert (asked.method, asked.path, asked.query) == ("DELETE", f"/knowledge/{quote(doc_id, safe='')}", {})
    assert asked.body == b""


async def test_knowledge_without_a_name_gets_one_so_that_a_repeat_changes_nothing(service, connect):
    service.answers(Answer(), Answer())
    for _ in range(2):
        await connect().store_knowledge("soup", "food")
    first, second = (asked.json() for asked in service.asked)
    assert set(first) == {"content", "category", "doc_id"}
    assert len(first["doc_id"]) == len(second["doc_id"]) == 32
    assert first["doc_id"] != second["doc_id"]


async def test_facts_are_the_plain_lines_of_a_search(service, connect):
    service.answers(Answer(content={"facts": ["likes tea", "lives in Oslo"], "count": 2}))
    assert await connect().retrieve_facts("who", top_k=2) == ["likes tea", "lives in Oslo"]
    assert service.asked[0].json() == {"user_id": USER, "query": "who", "top_k": 2}


async def test_a_service_below_a_path_is_reached(service, connect):
    service.answers(Answer())
    await connect(f"{service.url}/memory-v1/").health()
    assert service.asked[0].path == "/memory-v1/health"


@pytest.mark.parametrize("twin", TWINS.values())
@pytest.mark.parametrize(("url", "options"), [("localhost:8000", {}), ("", {}), ("http://h", {"max_attempts": 0})])
def test_a_client_that_could_never_work_is_refused(twin, url, options):
    with pytest.raises(ValueError, match="must be"):
        twin(url, USER, **options)


# Which session

BOUND = [("store_turn", ["hi", "hello"]), ("get_context", []), ("end_session", []), ("reflection", [])]


@pytest.mark.parametrize(("method", "arguments"), BOUND)
async def test_without_a_session_nothing_is_sent(service, connect, method, arguments):
    with pytest.raises(errors.NoSession, match="start_session"):
        await getattr(connect(), method)(*arguments)
    assert service.asked == []


async def test_calls_are_about_the_session_that_was_started_also_after_its_end(service, connect):
    service.answers(*[Answer()] * 5)
    client = connect()
    await client.start_session()
    await client.store_turn("hi", "hello")
    await client.end_session()
    await client.get_context()
    await client.reflection()
    start, store, end, context, reflection = service.asked
    used = [asked.json()["session_id"] for asked in (start, store, end, context)]
    assert used == [client.session_id] * 4
    assert client.session_id in reflection.path


async def test_a_session_named_in_the_call_comes_before_the_one_started(service, connect):
    service.answers(*[Answer()] * 3)
    client = connect(session_id=SESSION)
    await client.get_context(session_id="other")
    await client.get_context(session_id="")
    await client.get_context()
    assert [asked.json()["session_id"] for asked in service.asked] == ["other", "", SESSION]


async def test_a_session_chosen_in_the_constructor_is_the_one_started(service, connect):
    service.answers(Answer(), Answer())
    client = connect(session_id=SESSION)
    await client.start_session()
    await client.start_session("other")
    assert [asked.json()["session_id"] for asked in service.asked] == [SESSION, "other"]
    assert client.session_id == "other"


async def test_each_start_without_an_id_opens_a_new_session(service, connect):
    service.answers(Answer(), Answer())
    client = connect()
    await client.start_session()
    await client.start_session(restore=False)
    first, second = (msgspec.json.decode(asked.body, type=schemas.SessionStart) for asked in service.asked)
    assert first.session_id != second.session_id == client.session_id


async def test_a_start_that_failed_changes_nothing(service, connect):
    service.answers(Answer(status=409, content={"code": "session_ended"}))
    client = connect(session_id=SESSION)
    with pytest.raises(errors.SessionEnded):
        await client.start_session("over")
    assert client.session_id == SESSION


async def test_a_search_is_not_limited_to_the_session_started(service, connect):
    service.answers(Answer(), Answer())
    client = connect()
    await client.start_session()
    await client.retrieve("q")
    assert "session_id" not in service.asked[1].json()


# Whose connections


async def test_waiting_for_the_reflection_does_not_count_against_the_timeout(connect, request):
    seen = []

    def answer(sent: httpx2.Request) -> httpx2.Response:
        seen.append(sent.extensions["timeout"]["read"])
        return httpx2.Response(200, json={})

    kind = httpx2.AsyncClient if "awaited" in request.node.name else httpx2.Client
    client = connect("http://elsewhere", session_id=SESSION, http=kind(transport=httpx2.MockTransport(answer)))
    await client.end_session(wait_s=20)
    await client.get_context()
    assert seen == [25, 5]


async def test_an_awaited_client_closes_its_connections_but_not_the_callers(service):
    service.answers(Answer())
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k"}, timeout=60) as http:
        async with MemoryServiceClient(service.url, USER, http=http) as client:
            await client.health()
        assert not http.is_closed
    assert service.asked[0].headers["authorization"] == "Bearer k"
    async with MemoryServiceClient(service.url, USER) as client:
        pass
    for call in (client.health, partial(client.export_user, BytesIO()), partial(client.import_user, BytesIO(b"x"))):
        with pytest.raises(errors.ClientClosed, match="closed"):
            await call()


def test_a_blocking_client_closes_its_connections_but_not_the_callers(service):
    service.answers(Answer())
    with httpx2.Client(headers={"authorization": "Bearer k"}) as http:
        with SyncMemoryServiceClient(service.url, USER, http=http) as client:
            client.health()
        assert not http.is_closed
    assert service.asked[0].headers["authorization"] == "Bearer k"
    with SyncMemoryServiceClient(service.url, USER) as client:
        pass
    for call in (client.health, partial(client.export_user, BytesIO()), partial(client.import_user, BytesIO(b"x"))):
        with pytest.raises(errors.ClientClosed, match="closed"):
            call()


# The package


def signatures(twin: type) -> dict[str, inspect.Signature]:
    public = {name: value for name, value in inspect.getmembers(twin, inspect.isfunction) if name[0] != "_"}
    return {"close" if name == "aclose" else name: inspect.signature(value) for name, value in public.items()}


def test_the_twins_have_the_same_methods_with_the_same_arguments():
    assert signatures(SyncMemoryServiceClient) == signatures(MemoryServiceClient)
    made = [list(inspect.signature(twin).parameters) for twin in TWINS.values()]
    assert made[0] == made[1]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "client").split(".")[0])
    return found


def test_the_client_imports_nothing_of_the_server():
    folder = Path(package.__file__).parent
    assert all("memory_service" not in imported(path) for path in folder.rglob("*.py"))
    core = ["__init__", "_answers", "_caller", "_calls", "_files", "errors", "memory_client"]
    needed = set().union(*(imported(folder / f"{name}.py") for name in core))
    assert needed - sys.stdlib_module_names == {"httpx2", "client"}


def test_everything_a_caller_may_catch_is_exported():
    kinds = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert kinds | {twin.__name__ for twin in TWINS.values()} == set(package.__all__)
    assert (Path(package.__file__).parent / "py.typed").exists()

"""What all users of a tenant may know: kept under names of the caller's choice, found by everybody, and nobody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service.api.auth import Caller
from memory_service.api.front import make_front
from memory_service.api.routes import VERBS
from memory_service.app import open_service
from memory_service.settings import Settings
from tests.api.bodies import CANARY
from tests.api.conftest import Connect, Visit
from tests.api.talking import CONTEXT, KNOWLEDGE, RECALL, RETRIEVE, START, STORE, commits, moment, problem, told
from tests.api.texts import TEXTS

LEAVE = {"doc_id": "POL-001", "content": "Everybody has thirty days of leave", "category": "Policies", "title": "Leave"}
REMOTE = {"doc_id": "POL-002", "content": "Remote work is fine on three days", "category": "policies"}
SOUP = {"doc_id": "soup", "content": "On three days there is soup, and on all days bread", "category": "food"}


def at(doc_id: str) -> str:
    return f"{KNOWLEDGE}/{quote(doc_id, safe='')}"


async def recalled(http: httpx2.AsyncClient, query: str, **more: Any) -> list[str]:
    return [result["doc_id"] for result in (await told(http, RECALL, query=query, **more))["results"]]


# One piece


async def test_a_piece_of_knowledge_is_answered_and_found_as_it_was_given(
    http: httpx2.AsyncClient, durability: str
) -> None:
    stored = await told(http, KNOWLEDGE, **LEAVE, metadata={"source": {"page": 3}})
    memory_id, created_at = stored.pop("id"), stored.pop("created_at")
    assert re.fullmatch(r"knowledge_\w+", memory_id)
    assert stored == {
        "status": "success",
        "doc_id": "POL-001",
        "category": "policies",
        "change": "created",
        "durability": durability,
    }
    answer = await told(http, RECALL, query="How many days of leave?")
    [result] = answer["results"]
    assert {name: value for name, value in result.items() if "score" not in name} == {
        "id": memory_id,
        **LEAVE,
        "category": "policies",
        "metadata": {"source": {"page": 3}},
        "created_at": created_at,
    }
    assert moment(created_at).utcoffset() is not None
    assert result["score"] == pytest.approx(sum(result["score_parts"].values()))
    assert set(result["score_parts"]) == {"keyword", "vector", "speaker", "date"}
    assert (answer["query"], answer["count"], answer["degraded"]) == ("How many days of leave?", 1, [])


async def test_a_doc_id_that_comes_again_takes_the_place_of_the_former(http: httpx2.AsyncClient) -> None:
    first = await told(http, KNOWLEDGE, **LEAVE)
    again = await told(http, KNOWLEDGE, doc_id="POL-001", content="Leave was cut", category="news")
    assert (again["id"], again["change"]) == (first["id"], "replaced")
    [result] = (await told(http, RECALL, query="thirty days of leave"))["results"]
    assert (result["content"], result["category"], result["title"]) == ("Leave was cut", "news", None)
    assert result["created_at"] == again["created_at"]


async def test_what_is_there_just_as_it_is_is_not_written_again(http: httpx2.AsyncClient) -> None:
    first = await told(http, KNOWLEDGE, **LEAVE, metadata={"a": 1})
    before = await commits(http)
    again = await told(http, KNOWLEDGE, **{**LEAVE, "category": "POLICIES"}, metadata={"a": 1})
    assert again == {**first, "change": "unchanged"}
    assert await commits(http) == before
    for other in ({"a": 2}, {}):
        assert (await told(http, KNOWLEDGE, **LEAVE, metadata=other))["change"] == "replaced"


async def test_without_a_doc_id_each_piece_is_a_new_one(http: httpx2.AsyncClient) -> None:
    said = {"content": "There is soup", "category": "food"}
    answers = [await told(http, KNOWLEDGE, **said) for _ in range(3)]
    assert {answer["change"] for answer in answers} == {"created"}
    made = {answer["doc_id"] for answer in answers}
    assert len(made) == 3
    assert set(await recalled(http, "soup")) == made
    for doc_id in made:
        assert (await http.delete(at(doc_id))).status_code == 200
    assert await recalled(http, "soup") == []


async def test_keys_of_metadata_are_never_taken_for_fields(http: httpx2.AsyncClient) -> None:
    mine = {"title": "mine", "doc_id": "mine", "metadata": {"doc_id": "x"}, "category": "mine", "id": None}
    await told(http, KNOWLEDGE, **SOUP, metadata=mine)
    [result] = (await told(http, RECALL, query="soup"))["results"]
    assert (result["doc_id"], result["title"], result["category"]) == ("soup", None, "food")
    assert result["metadata"] == mine


async def test_what_is_deleted_is_gone_and_may_come_again(http: httpx2.AsyncClient) -> None:
    for piece in (LEAVE, SOUP):
        await told(http, KNOWLEDGE, **piece)
    assert await recalled(http, "thirty days of leave") == ["POL-001", "soup"]
    response = await http.delete(at("POL-001"))
    assert (response.status_code, response.json()) == (
        200,
        {"status": "success", "doc_id": "POL-001", "deleted": True},
    )
    before = await commits(http)
    for doc_id in ("POL-001", "never", "pol-001"):
        problem(await http.delete(at(doc_id)), 404, "knowledge_not_found")
    assert await commits(http) == before
    assert await recalled(http, "thirty days of leave") == ["soup"]
    assert (await told(http, KNOWLEDGE, **LEAVE))["change"] == "created"
    assert await recalled(http, "thirty days of leave") == ["POL-001", "soup"]


# Names

DOC_IDS = (
    "docs/guides/a b.md",
    "docs/guides/a b.md#2",
    "/starts/with/a/slash",
    "ends/with/one/",
    "two//slashes",
    "a/../b",
    "../../etc/passwd",
    "...",
    "https://example.com/a%20b?c=d&e=f#g",
    "a%2Fb",
    "a/b",
    "%",
    "%zz",
    "%00",
    "a+b",
    "a b",
    " ",
    "recall",
    "recall/",
    "josé",
    "jose\u0301",
    "日本語/ページ",
    "👩‍👩‍👧‍👦",
    "back\\slash",
    "'; DROP TABLE memories; --",
    "{doc_id}",
    "\xa0",
    "x" * 500,
    "é" * 500,
    "👍" * 500,
)


async def test_a_doc_id_may_be_a_path_or_an_address_and_each_is_its_own(http: httpx2.AsyncClient) -> None:
    for doc_id in DOC_IDS:
        stored = await told(http, KNOWLEDGE, doc_id=doc_id, content="There is soup", category="food")
        assert (stored["doc_id"], stored["change"]) == (doc_id, "created")
    left = set(DOC_IDS)
    assert set(await recalled(http, "soup", top_k=100)) == left
    for doc_id in DOC_IDS:
        response = await http.delete(at(doc_id))
        assert response.json() == {"status": "success", "doc_id": doc_id, "deleted": True}
        left.remove(doc_id)
        assert set(await recalled(http, "soup", top_k=100)) == left


async def test_slashes_in_a_path_may_stand_as_they_are(http: httpx2.AsyncClient) -> None:
    for doc_id in ("docs/a.md", "recall/a", "a//b"):
        await told(http, KNOWLEDGE, doc_id=doc_id, content="There is soup", category="food")
        assert (await http.delete(f"{KNOWLEDGE}/{doc_id}")).json()["doc_id"] == doc_id


REFUSED = ("a\nb", "a\n", "\n", "\ta", "a\x00", "\x1b[31m", "a\x7f", "a\x85", "a\x9b", "a\u2028", "\ufffd", "x" * 501)


async def test_other_doc_ids_are_refused_in_a_body_and_in_a_path(http: httpx2.AsyncClient) -> None:
    before = await commits(http)
    for doc_id in (*REFUSED, "", ".", ".."):
        body = {**SOUP, "doc_id": doc_id, "metadata": {"a": CANARY}}
        found = problem(await http.post(KNOWLEDGE, json=body), 422, "invalid_id")
        assert found["errors"][0]["loc"] == "$.doc_id"
    for doc_id in map(quote, REFUSED):
        found = problem(await http.delete(f"{KNOWLEDGE}/{doc_id}"), 422, "invalid_id")
        assert found["errors"][0]["loc"] == "$.doc_id"
    for path, status, code in (
        ("/%2e", 422, "invalid_id"),
        ("/%2e%2e", 422, "invalid_id"),
        ("/%ff", 422, "invalid_id"),
        ("/%c0%af", 422, "invalid_id"),
        ("/a%ed%a0%80", 422, "invalid_id"),
        ("/", 404, "not_found"),
        ("", 405, "method_not_allowed"),
        (f"/a?{CANARY}=b", 422, "validation_failed"),
    ):
        refused = await http.delete(KNOWLEDGE + path)
        problem(refused, status, code)
        assert CANARY not in refused.text
    assert await commits(http) == before


async def test_a_name_that_only_ends_like_another_deletes_nothing(http: httpx2.AsyncClient) -> None:
    await told(http, KNOWLEDGE, **SOUP)
    problem(await http.delete(f"{KNOWLEDGE}/soup%0A"), 422, "invalid_id")
    for path in ("soup%20", "soup/", "/soup", "Soup"):
        problem(await http.delete(f"{KNOWLEDGE}/{path}"), 404, "knowledge_not_found")
    assert await recalled(http, "soup") == ["soup"]


# Searching


async def test_a_search_is_restricted_to_a_category_however_it_is_written(http: httpx2.AsyncClient) -> None:
    for piece in (LEAVE, REMOTE, SOUP):
        await told(http, KNOWLEDGE, **piece)
    for category in ("policies", "Policies", "POLICIES"):
        assert set(await recalled(http, "three days", category=category)) == {"POL-001", "POL-002"}
    assert await recalled(http, "three days", category="food") == ["soup"]
    assert await recalled(http, "three days", category="unknown") == []
    assert set(await recalled(http, "three days")) == {"POL-001", "POL-002", "soup"}


async def test_only_so_many_are_found_best_first(http: httpx2.AsyncClient) -> None:
    for number in range(12):
        await told(http, KNOWLEDGE, doc_id=f"{number}", content="soup " * (number + 1) + "bread", category="food")
    assert len(await recalled(http, "soup")) == 5
    results = (await told(http, RECALL, query="soup", top_k=12))["results"]
    scores = [result["score"] for result in results]
    assert len(results) == 12
    assert scores == sorted(scores, reverse=True)


async def test_all_users_may_know_it_and_it_is_no_memory_of_any(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await told(http, KNOWLEDGE, **LEAVE)
    await client.start_session("s")
    await client.store_turn("How many days of leave do I have?", "")
    for kinds in (None, ["knowledge"], ["memory"]):
        found = await told(http, RETRIEVE, user_id="ana", query="thirty days of leave", kinds=kinds, top_k=100)
        assert "thirty" not in str(found["results"])
    for user_id in ("ana", "ben"):
        told_of = await told(http, START, user_id=user_id, include_knowledge=1, query="leave")
        assert [one["doc_id"] for one in told_of["knowledge"]] == ["POL-001"]


async def tenant_named(scope: Any) -> Caller:
    return Caller(tenant_id=dict(scope["headers"])[b"x-tenant"].decode())


@asynccontextmanager
async def of_tenants(settings: Settings) -> AsyncIterator[Callable[[str], httpx2.AsyncClient]]:
    """A service in this process that believes who says what tenant they are of; gives callers of each."""
    async with open_service(settings) as service:
        front = make_front(VERBS, tenant_named, _none)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = {"service": service}
            await front(scope, receive, send)

        transport = httpx2.ASGITransport(app=app)
        yield lambda tenant: httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers={"x-tenant": tenant}
        )


@asynccontextmanager
async def _none(app: Any) -> AsyncIterator[dict[str, Any]]:
    yield {}


async def test_no_tenant_finds_changes_or_deletes_what_another_knows(make_settings: Callable[..., Settings]) -> None:
    async with of_tenants(make_settings()) as caller, caller("acme") as acme, caller("globex") as globex:
        await told(acme, KNOWLEDGE, **LEAVE)
        assert await recalled(globex, "thirty days of leave") == []
        problem(await globex.delete(at("POL-001")), 404, "knowledge_not_found")
        theirs = await told(globex, KNOWLEDGE, doc_id="POL-001", content="There is no leave", category="policies")
        assert theirs["change"] == "created"
        for http, content in ((acme, LEAVE["content"]), (globex, "There is no leave")):
            [result] = (await told(http, RECALL, query="leave"))["results"]
            assert result["content"] == content
            begun = await told(http, START, user_id="ana", include_knowledge=20, query="leave")
            assert [one["content"] for one in begun["knowledge"]] == [content]
        assert (await globex.delete(at("POL-001"))).status_code == 200
        assert await recalled(acme, "leave") == ["POL-001"]


# Whatever it says


async def test_any_text_comes_back_to_the_byte(http: httpx2.AsyncClient) -> None:
    for number, text in enumerate(TEXTS.values()):
        title = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", text)[:500]
        given = {"content": f"xyzzy{number} {text}"[:20_000], "title": title, "metadata": {"text": text[:500]}}
        await told(http, KNOWLEDGE, doc_id=f"{number}", category="texts", **given)
        [result] = (await told(http, RECALL, query=f"xyzzy{number}", top_k=1))["results"]
        assert {name: result[name] for name in given} == given


async def test_the_limits_are_where_they_are_said_to_be(http: httpx2.AsyncClient) -> None:
    whole = {"content": "👍" * 20_000, "category": "c" * 100, "title": "t" * 500, "doc_id": "d" * 500}
    assert (await told(http, KNOWLEDGE, **whole))["change"] == "created"
    for field, limit in (("content", 20_001), ("category", 101), ("title", 501)):
        found = problem(await http.post(KNOWLEDGE, json={**whole, field: "x" * limit}), 422, "content_too_long")
        assert found["errors"][0]["loc"] == f"$.{field}"
    for field in ("content", "category", "title"):
        problem(await http.post(KNOWLEDGE, json={**whole, field: ""}), 422, "validation_failed")


async def test_of_those_who_write_one_piece_at_once_one_is_whole(http: httpx2.AsyncClient) -> None:
    versions = [
        {"content": f"soup number {n}", "title": f"title {n}", "category": f"c{n}", "metadata": {"n": n}}
        for n in range(24)
    ]
    for _ in range(3):
        answers = await asyncio.gather(*(told(http, KNOWLEDGE, doc_id="soup", **version) for version in versions))
        assert {answer["change"] for answer in answers} <= {"created", "replaced"}
        [result] = (await told(http, RECALL, query="soup number", top_k=100))["results"]
        assert {name: result[name] for name in versions[0]} in versions
        assert result["created_at"] in {answer["created_at"] for answer in answers}
        last = await told(http, KNOWLEDGE, **SOUP)
        assert last["change"] == "replaced"
        [result] = (await told(http, RECALL, query="soup", top_k=100))["results"]
        assert (result["content"], result["metadata"], result["title"]) == (SOUP["content"], {}, None)


async def test_writing_and_deleting_one_piece_at_once_leaves_it_whole_or_gone(http: httpx2.AsyncClient) -> None:
    for _ in range(5):
        requests = [http.post(KNOWLEDGE, json=SOUP) if n % 2 else http.delete(at("soup")) for n in range(12)]
        assert {answer.status_code for answer in await asyncio.gather(*requests)} <= {200, 404}
        assert await recalled(http, "soup") in ([], ["soup"])
    await told(http, KNOWLEDGE, **SOUP)
    assert await recalled(http, "soup") == ["soup"]


async def test_it_is_there_after_a_restart(visit: Visit) -> None:
    async with visit() as http:
        for piece in (LEAVE, SOUP):
            await told(http, KNOWLEDGE, **piece)
        await http.delete(at("soup"))
    async with visit() as http:
        assert await recalled(http, "days") == ["POL-001"]
        assert (await told(http, KNOWLEDGE, **LEAVE))["change"] == "unchanged"
        problem(await http.delete(at("soup")), 404, "knowledge_not_found")


@pytest.mark.only_on("cosmos", "postgres", "others cannot be shared")
async def test_what_is_written_or_deleted_at_one_service_is_so_at_another(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await told(one, KNOWLEDGE, **LEAVE)
    assert await recalled(other, "leave") == ["POL-001"]
    await told(other, KNOWLEDGE, **{**LEAVE, "content": "Leave was cut"})
    [result] = (await told(one, RECALL, query="leave"))["results"]
    assert result["content"] == "Leave was cut"
    assert (await one.delete(at("POL-001"))).status_code == 200
    assert await recalled(other, "leave") == []


async def test_a_session_is_needed_to_be_told_knowledge_of(http: httpx2.AsyncClient) -> None:
    problem(
        await http.post(CONTEXT, json={"user_id": "ana", "session_id": "x", "include_knowledge": 1}),
        404,
        "session_not_found",
    )
    problem(
        await http.post(STORE, json={"user_id": "ana", "session_id": "x", "include_knowledge": 1}),
        422,
        "validation_failed",
    )

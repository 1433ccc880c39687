"""What a user may do about their memories: see what is remembered, correct it, pin it, have it deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from client import Conflict, MemoryNotFound, MemoryServiceClient, SyncMemoryServiceClient
from tests.api.conftest import ClientAt, Connect
from tests.api.talking import CONTEXT, PATIENCE_S, RETRIEVE, SAME, problem, settled, told

MEMORIES, FORGET = "/memories", "/memories/forget"
ANA = {"user_id": "ana"}
EDITS = {"content": "Ana eats cashews", "category": "Food", "importance": 0.9, "tags": ["nuts"], "metadata": {"a": 1}}


async def remembered(http: httpx2.AsyncClient, *texts: str, user_id: str = "ana") -> list[str]:
    """Have texts stored as memories of a user; returns their ids."""
    memories = [{"user_id": user_id, "content": text} for text in texts]
    return list((await told(http, MEMORIES, memories=memories))["ids"])


async def learnt(http: httpx2.AsyncClient, *said: str, session_id: str = "s") -> list[dict[str, Any]]:
    """Let the service read a conversation; returns what it remembers then."""
    client = MemoryServiceClient(str(http.base_url), "ana", session_id, http=http)
    await client.start_session(session_id)
    for text in said:
        await client.store_turn(text, "I see.")
    await client.end_session(wait_s=PATIENCE_S)
    return list((await client.memories())["memories"])


async def one(http: httpx2.AsyncClient, memory_id: str, **query: str) -> Any:
    response = await http.get(f"{MEMORIES}/{memory_id}", params=ANA | query)
    assert response.status_code == 200, response.text
    return response.json()


async def edited(http: httpx2.AsyncClient, memory_id: str, **changes: Any) -> Any:
    response = await http.patch(f"{MEMORIES}/{memory_id}", json={**ANA, **changes})
    assert response.status_code == 200, response.text
    return response.json()


def insight_of(memories: list[dict[str, Any]], word: str) -> dict[str, Any]:
    (found,) = [memory for memory in memories if memory["kind"] == "insight" and word in memory["text"]]
    return found


async def test_what_is_remembered_is_listed_newest_first_and_page_by_page(http: httpx2.AsyncClient) -> None:
    await learnt(http, "I live in Lisbon, by the sea.")
    ids = await remembered(http, "first", "second", "third")
    await remembered(http, "of another", user_id="ben")
    listed = (await http.get(MEMORIES, params=ANA)).json()
    assert [memory["id"] for memory in listed["memories"]][:3] == ids[::-1]
    assert {memory["kind"] for memory in listed["memories"]} == {"memory", "insight", "summary", "chunk"}
    assert (listed["user_id"], listed["count"], listed["cursor"]) == ("ana", 6, None)
    learned = insight_of(listed["memories"], "Lisbon")
    assert learned["sources"] == [{"session_id": "s", "turn_number": 1}]
    assert (learned["pinned"], learned["edited"], learned["superseded_by"]) == (False, False, None)
    assert learned["updated_at"] == learned["created_at"]
    pages, cursor = [], {}
    while cursor is not None:
        page = (await http.get(MEMORIES, params={**ANA, "limit": "2", **cursor})).json()
        pages += page["memories"]
        cursor = {"cursor": page["cursor"]} if page["cursor"] else None
    assert pages == listed["memories"]
    some = (await http.get(MEMORIES, params={**ANA, "kinds": "insight,summary"})).json()
    assert {memory["kind"] for memory in some["memories"]} == {"insight", "summary"}


async def test_what_was_superseded_is_listed_only_if_that_is_asked_for(http: httpx2.AsyncClient) -> None:
    await learnt(http, "I live in Lisbon, by the sea.")
    listed = await learnt(http, "I moved to Porto last month.", session_id="t")
    new = insight_of(listed, "Porto")
    assert not [memory for memory in listed if memory["kind"] == "insight" and "Lisbon" in memory["text"]]
    everything = (await http.get(MEMORIES, params={**ANA, "superseded": "true"})).json()["memories"]
    assert insight_of(everything, "Lisbon")["superseded_by"] == new["id"]


async def test_an_edit_is_what_is_told_found_and_listed_and_the_earlier_text_is_nowhere(
    http: httpx2.AsyncClient,
) -> None:
    (memory_id, _) = await remembered(http, "Ana eats no walnuts", "Ana likes tea")
    before = await one(http, memory_id)
    assert (await told(http, RETRIEVE, **ANA, query="walnuts"))["facts"]
    answer = await edited(http, memory_id, **EDITS)
    assert answer["edited"]
    assert answer["updated_at"] > before["updated_at"]
    same = {"text": "Ana eats cashews", "category": "food", "importance": 0.9, "tags": ["nuts"], "metadata": {"a": 1}}
    by_hand = {"edited": True, "trust": "high", "updated_at": answer["updated_at"]}
    assert answer == {**before, **same, **by_hand} == await one(http, memory_id)
    assert (await edited(http, memory_id, importance=0.1))["text"] == "Ana eats cashews", "nothing else changes"
    await settled(http)
    assert "Ana eats cashews" in (await told(http, RETRIEVE, **ANA, query="cashews"))["facts"]
    everything = await http.get(MEMORIES, params={**ANA, "superseded": "true"})
    found = await http.post(RETRIEVE, json={**ANA, "query": "walnuts", "top_k": 100})
    assert "walnuts" not in everything.text
    assert "walnuts" not in found.text.replace('"query":"walnuts"', "")


async def test_an_edited_insight_is_told_in_the_next_context_and_a_pinned_one_before_all_others(
    http: httpx2.AsyncClient,
) -> None:
    listed = await learnt(
        http, "I am allergic to peanuts and to shellfish.", "I like green tea in the morning.", "I live in Lisbon now."
    )
    tea = insight_of(listed, "tea")
    assert (await edited(http, tea["id"], content="Ana likes black tea"))["edited"]
    context = await told(http, CONTEXT, **ANA, session_id="s")
    assert "Ana likes black tea" in context["insights"][1:]
    pinned = await edited(http, tea["id"], pinned=True)
    assert (pinned["pinned"], pinned["text"]) == (True, "Ana likes black tea")
    context = await told(http, CONTEXT, **ANA, session_id="s")
    assert context["insights"][0] == "Ana likes black tea"
    assert len(context["insights"]) == 3
    insights = (await told(http, "/insights", **ANA))["insights"]
    assert [insight["id"] for insight in insights if insight["pinned"]] == [tea["id"]]
    results = (await told(http, RETRIEVE, **ANA, query="black tea", kinds=["insight"]))["results"]
    assert [result["id"] for result in results if result.get("pinned")] == [tea["id"]]
    assert not (await edited(http, tea["id"], pinned=False))["pinned"]
    assert (await told(http, CONTEXT, **ANA, session_id="s"))["insights"][0] != "Ana likes black tea"


async def test_a_summary_that_was_corrected_is_gone_on_from_as_it_is(http: httpx2.AsyncClient) -> None:
    listed = await learnt(http, "I live in Lisbon, by the sea.")
    (summary,) = [memory for memory in listed if memory["kind"] == "summary"]
    told_of = (await edited(http, summary["id"], content="user: I live in Porto."))["metadata"]
    assert told_of == {**summary["metadata"], "topics": []}
    context = await told(http, CONTEXT, **ANA, session_id="s")
    assert context["session_summaries"] == ["user: I live in Porto."]
    assert (await http.delete(f"{MEMORIES}/{summary['id']}", params=ANA)).status_code == 200
    ended = await told(http, "/sessions/end", **ANA, session_id="s")
    assert not ended["summary_generated"], "the sitting holds none of it either"


async def test_of_two_who_edit_the_same_the_second_is_told(http: httpx2.AsyncClient) -> None:
    (memory_id,) = await remembered(http, "Ana eats no walnuts")
    seen = (await one(http, memory_id))["updated_at"]
    changes = [{**ANA, "content": f"by {n}", "expected_updated_at": seen} for n in range(6)]
    answers = await asyncio.gather(*(http.patch(f"{MEMORIES}/{memory_id}", json=change) for change in changes))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "version_conflict")
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert await one(http, memory_id) == won
    assert (await edited(http, memory_id, content="later", expected_updated_at=won["updated_at"]))["text"] == "later"
    together = await asyncio.gather(*(edited(http, memory_id, tags=[f"t{n}"]) for n in range(4)))
    assert await one(http, memory_id) == max(together, key=lambda answer: str(answer["updated_at"]))
    memories = [{**ANA, "content": "anew", "memory_id": memory_id}]
    seen = (await one(http, memory_id))["updated_at"]
    await told(http, MEMORIES, memories=memories)
    late = await http.patch(f"{MEMORIES}/{memory_id}", json={**ANA, "content": "x", "expected_updated_at": seen})
    problem(late, 409, "version_conflict")


async def test_a_deleted_memory_is_gone_and_looks_as_if_it_never_was(http: httpx2.AsyncClient) -> None:
    (memory_id, other) = await remembered(http, "Ana eats no walnuts", "Ana likes tea")
    (of_ben,) = await remembered(http, "Ben eats walnuts", user_id="ben")
    response = await http.delete(f"{MEMORIES}/{memory_id}", params=ANA)
    assert response.json() == {"status": "success", "id": memory_id, "deleted": True}
    listed = (await http.get(MEMORIES, params={**ANA, "superseded": "true"})).json()["memories"]
    assert [memory["id"] for memory in listed] == [other]
    for there in (memory_id, of_ben, "memory_unknown"):
        path, body = f"{MEMORIES}/{there}", {**ANA, "pinned": True}
        answers = [
            await http.get(path, params=ANA, headers=SAME),
            await http.patch(path, json=body, headers=SAME),
            await http.delete(path, params=ANA, headers=SAME),
        ]
        for answer in answers:
            problem(answer, 404, "memory_not_found")
            assert there not in answer.text
    assert (await one(http, of_ben, user_id="ben"))["text"] == "Ben eats walnuts"


async def test_what_is_to_be_forgotten_is_shown_first_and_just_that_is_deleted(http: httpx2.AsyncClient) -> None:
    await learnt(http, "I am allergic to peanuts and to shellfish.")
    (bought, tea) = await remembered(http, "Ana bought peanuts", "Ana likes tea")
    (of_ben,) = await remembered(http, "Ben bought peanuts", user_id="ben")
    shown = await told(http, FORGET, **ANA, query="peanuts", min_score=0.3)
    assert shown["dry_run"]
    assert shown["ids"] == [memory["id"] for memory in shown["memories"]]
    assert shown["count"] == len(shown["ids"])
    assert {memory["kind"] for memory in shown["memories"]} == {"insight", "summary", "chunk", "memory"}
    assert all("peanuts" in memory["text"] for memory in shown["memories"])
    assert tea not in shown["ids"]
    (later,) = await remembered(http, "Ana gave peanuts away")
    asked = [*shown["ids"], of_ben, "memory_unknown", bought]
    gone = await told(http, FORGET, **ANA, dry_run=False, ids=asked)
    assert sorted(gone["ids"]) == sorted(shown["ids"])
    assert (gone["count"], gone["memories"]) == (len(shown["ids"]), [])
    listed = (await http.get(MEMORIES, params=ANA)).json()["memories"]
    assert [memory["id"] for memory in listed] == [later, tea], "what came since was not shown, so it stays"
    assert (await one(http, of_ben, user_id="ben"))["text"] == "Ben bought peanuts"
    only = await told(http, FORGET, **ANA, query="peanuts", kinds=["insight"])
    assert only["ids"] == []
    assert (await told(http, FORGET, **ANA, query="peanuts", top_k=1))["ids"] == [later]


WRONG: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nothing to change": ("PATCH", "/memories/m", ANA),
    "an unknown field": ("PATCH", "/memories/m", {**ANA, "text": "x"}),
    "its id once more": ("PATCH", "/memories/m", {**ANA, "pinned": True, "memory_id": "m"}),
    "an empty text": ("PATCH", "/memories/m", {**ANA, "content": ""}),
    "null": ("PATCH", "/memories/m", {**ANA, "content": None}),
    "a NUL": ("PATCH", "/memories/m", {**ANA, "content": "a\0b"}),
    "a number for a yes": ("PATCH", "/memories/m", {**ANA, "pinned": 1}),
    "too important": ("PATCH", "/memories/m", {**ANA, "importance": 1.1}),
    "no time": ("PATCH", "/memories/m", {**ANA, "pinned": True, "expected_updated_at": "yesterday"}),
    "wild metadata": ("PATCH", "/memories/m", {**ANA, "metadata": {"a b": 1}}),
    "no user": ("PATCH", "/memories/m", {"pinned": True}),
    "pinned, and no insight": ("PATCH", "/memories/m", {**ANA, "pinned": True}),
    "a kind that is none": ("GET", "/memories?user_id=ana&kinds=message", {}),
    "a cursor that is none": ("GET", "/memories?user_id=ana&cursor=x", {}),
    "nobody's memories": ("GET", "/memories", {}),
    "forgetting what was not shown": ("POST", FORGET, {**ANA, "query": "walnuts", "dry_run": False}),
    "forgetting nothing": ("POST", FORGET, {**ANA, "dry_run": False, "ids": []}),
    "looking for nothing": ("POST", FORGET, ANA),
    "looking for ids": ("POST", FORGET, {**ANA, "query": "x", "ids": ["m"]}),
    "messages": ("POST", FORGET, {**ANA, "query": "x", "kinds": ["message"]}),
}


@pytest.mark.only_on("sqlite", "the edge is the same on every store")
async def test_a_wrong_request_is_refused_and_changes_nothing(http: httpx2.AsyncClient) -> None:
    await told(http, MEMORIES, memories=[{**ANA, "content": "Ana eats no walnuts", "memory_id": "m"}])
    before = await one(http, "m")
    for what, (method, path, body) in WRONG.items():
        response = await http.request(method, path, json=body) if body else await http.request(method, path)
        assert response.status_code == 422, what
        assert "walnuts" not in response.text
    assert problem(await http.patch("/memories/m", json={**ANA, "text": "x"}), 422, "validation_failed")
    assert (await http.patch("/memories/m", content=b"{")).json()["code"] == "malformed_json"
    assert (await http.patch("/memories/m", content=b"[]")).json()["code"] == "validation_failed"
    assert await one(http, "m") == before


@pytest.mark.only_on("sqlite", "the client is the same on every store")
async def test_both_clients_do_all_of_it(connect: Connect, client_at: ClientAt) -> None:
    http = await connect()
    client = client_at(http)
    ids = await remembered(http, "Ana eats no walnuts", "Ana likes tea", "Ana has a boat")
    page = await client.memories(["memory"], limit=2)
    rest = await client.memories(["memory"], limit=2, cursor=page["cursor"], superseded=True)
    assert [memory["id"] for memory in page["memories"] + rest["memories"]] == ids[::-1]
    seen = await client.memory(ids[0])
    changed = await client.edit_memory(ids[0], content="Ana eats nuts", expected_updated_at=seen["updated_at"])
    assert (await client.memory(ids[0])) == changed
    with pytest.raises(Conflict) as conflict:
        await client.edit_memory(ids[0], tags=["x"], expected_updated_at=seen["updated_at"])
    assert conflict.value.code == "version_conflict"
    await client.delete_memory(ids[0])
    with pytest.raises(MemoryNotFound):
        await client.memory(ids[0])

    def blocking() -> None:
        with SyncMemoryServiceClient(str(http.base_url), "ana") as sync:
            shown = sync.what_to_forget("boat", top_k=1)
            assert shown["ids"] == [ids[2]]
            assert sync.forget(shown["ids"])["ids"] == [ids[2]]
            assert [memory["id"] for memory in sync.memories()["memories"]] == [ids[1]]
            assert sync.edit_memory(ids[1], metadata={"a": 1})["metadata"] == {"a": 1}

    await asyncio.to_thread(blocking)

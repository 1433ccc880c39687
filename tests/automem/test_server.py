"""What the AutoMem server of the tests does, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from tests.automem.launcher import AutoMemServer
from tests.support.background import until

DIMENSIONS = 256
HUNG_UP = (httpx2.ReadError, httpx2.RemoteProtocolError)
NOBODY = "0b9aba94-09f1-47cf-b658-15a4847e00c9"
EARLY, MIDDLE, LATE = (f"2026-0{month}-01T12:00:00+00:00" for month in (1, 2, 3))
ERRORS: list[tuple[str, str, Any, int, str]] = [  # method, path, body, status, what the message says
    ("GET", "/memory/nonsense", None, 400, "memory_id must be a valid UUID"),
    ("PATCH", "/memory/nonsense", {}, 400, "memory_id must be a valid UUID"),
    ("DELETE", "/memory/nonsense", None, 400, "memory_id must be a valid UUID"),
    ("GET", f"/memory/{NOBODY}", None, 404, "Memory not found"),
    ("PATCH", f"/memory/{NOBODY}", {}, 404, "Memory not found"),
    ("DELETE", f"/memory/{NOBODY}", None, 404, "Memory not found"),
    ("GET", f"/memories/{NOBODY}/related", None, 404, "Memory not found"),
    ("GET", "/memories/nonsense/related", None, 400, "memory_id must be a valid UUID"),
    ("GET", "/memory/by-tag", None, 400, "'tags' query parameter is required"),
    ("DELETE", "/memory/by-tag?tags=", None, 400, "'tags' query parameter is required"),
    ("POST", "/memory/batch", {"memories": []}, 400, "'memories' must be a non-empty array"),
    ("POST", "/memory/batch", {}, 400, "'memories' must be a non-empty array"),
    ("POST", "/memory/batch", {"memories": [{"content": "x"}] * 501}, 400, "500"),
    ("POST", "/memory/batch", {"memories": [{"content": "x"}, {}]}, 400, "'content' is required"),
    ("GET", "/recall?start=yesterday", None, 400, "Invalid start time: "),
    ("GET", "/recall?end=tomorrow", None, 400, "Invalid end time: "),
    ("GET", "/recall?state_mode=future", None, 400, "state_mode"),
    ("GET", "/recall?embedding=1,2", None, 400, "256 dimensions"),
    ("GET", "/recall?time_query=last+week", None, 501, "time_query"),
    ("POST", "/associate", {"associations": []}, 400, "'associations' must be a non-empty array"),
    ("POST", "/associate", {"memory1_id": "a", "memory2_id": "b"}, 400, "memory_id must be a valid UUID"),
    ("GET", "/memory", None, 405, "Method Not Allowed"),
    ("POST", "/recall", {}, 405, "Method Not Allowed"),
    ("GET", "/health/", None, 404, "Not Found"),
    ("GET", "/nowhere", None, 404, "Not Found"),
    *(
        ("GET", path, None, 404, "Not Found")
        for path in ("/backup", "/consolidate/status", "/graph/stats", "/entities", "/stream")
    ),
]
INVALID = [
    {},
    {"content": None},
    {"content": " \n"},
    {"content": 7},
    {"content": "x" * 2001},
    *({"importance": importance} for importance in (-0.1, 1.1, "0.5", True)),
    {"metadata": ["k"]},
    {"tags": {"a": 1}},
    {"tags": ["a", 1]},
    {"type": 7},
    {"timestamp": "soon"},
    {"confidence": 2},
    {"embedding": [0.5] * (DIMENSIONS - 1)},
    {"embedding": ["x"] * DIMENSIONS},
    {"embedding": 7},
]


async def store(automem: httpx2.AsyncClient, content: str, **fields: Any) -> str:
    answer = await automem.post("/memory", json={"content": content, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["memory_id"])


async def stored(automem: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    answer = await automem.get(f"/memory/{id}")
    assert answer.status_code == 200, answer.text
    memory: dict[str, Any] = answer.json()["memory"]
    return memory


async def recall(automem: httpx2.AsyncClient, query: str = "", **params: Any) -> dict[str, Any]:
    answer = await automem.get("/recall", params={"query": query, **params})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["count"] == len(body["results"])
    return body


async def contents(automem: httpx2.AsyncClient, query: str = "", **params: Any) -> list[str]:
    return [hit["memory"]["content"] for hit in (await recall(automem, query, **params))["results"]]


def refused(answer: httpx2.Response, status: int, message: str = "") -> None:
    """It is an error, told in AutoMem's envelope."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body == {"status": "error", "code": status, "message": body["message"]}
    assert message in body["message"]


class TestStore:
    async def test_a_memory_is_answered_with_an_id_of_the_servers_and_all_that_was_decided(
        self, automem: httpx2.AsyncClient
    ) -> None:
        body = {"content": "  I moved.\n", "id": str(uuid4()), "type": "conversation", "metadata": {"k": "v"}}
        answer = await automem.post("/memory", json=body)
        assert answer.status_code == 201
        said = answer.json()
        assert UUID(said["memory_id"]).version == 4
        assert said["memory_id"] != body["id"]
        assert (said["type"], said["confidence"], said["metadata"]) == ("conversation", 0.9, {"k": "v"})
        assert (said["status"], said["qdrant"], said["embedding_status"]) == ("success", "queued", "queued")
        assert said["enrichment"] == "queued"
        assert said["query_time_ms"] >= 0
        for name in ("stored_at", "timestamp", "updated_at", "last_accessed"):
            assert abs((datetime.now(UTC) - datetime.fromisoformat(said[name])).total_seconds()) < 60
        assert (await stored(automem, said["memory_id"]))["content"] == "I moved."

    async def test_what_is_not_given_is_filled_in(self, automem: httpx2.AsyncClient) -> None:
        memory = await stored(automem, await store(automem, "I prefer tea."))
        assert (memory["importance"], memory["tags"], memory["type"]) == (0.5, [], "Preference")
        assert memory["confidence"] == 0.8
        assert (await stored(automem, await store(automem, "Tea.")))["type"] == "Context"

    async def test_what_is_given_is_kept(self, automem: httpx2.AsyncClient) -> None:
        times = {"timestamp": EARLY, "t_valid": EARLY, "t_invalid": LATE, "updated_at": MIDDLE, "last_accessed": LATE}
        given = {"tags": ["A", "b"], "importance": 1, "type": "odd", "confidence": 0.25, **times}
        memory = await stored(automem, await store(automem, "x", **given))
        assert {name: memory[name] for name in given} == given

    async def test_tags_may_be_one_string(self, automem: httpx2.AsyncClient) -> None:
        assert (await stored(automem, await store(automem, "x", tags="a, b,,")))["tags"] == ["a", "b"]

    async def test_the_server_adds_to_metadata(self, automem: httpx2.AsyncClient) -> None:
        memory = await stored(automem, await store(automem, "x", metadata={"k": {"deep": [1, None]}}))
        assert memory["metadata"] == {"k": {"deep": [1, None]}, "entities": {}, "enrichment": {}}

    async def test_a_time_is_kept_in_utc_which_it_is_without_a_zone(self, automem: httpx2.AsyncClient) -> None:
        for given in ("2026-02-01T12:00:00", "2026-02-01T12:00:00Z", "2026-02-01T14:00:00+02:00"):
            memory = await stored(automem, await store(automem, "x", timestamp=given))
            assert memory["timestamp"] == MIDDLE

    async def test_two_thousand_characters_are_kept(self, automem: httpx2.AsyncClient) -> None:
        memory = await stored(automem, await store(automem, " " + "é" * 2000))
        assert memory["content"] == "é" * 2000

    @pytest.mark.parametrize("fields", INVALID, ids=lambda fields: str(fields)[:40])
    async def test_a_memory_that_is_not_valid_is_refused_and_not_kept(
        self, automem: httpx2.AsyncClient, fields: dict[str, Any]
    ) -> None:
        about_content = not fields or "content" in fields
        body = fields if about_content else {"content": "x", **fields}
        refused(await automem.post("/memory", json=body), 400)
        if not about_content and "embedding" not in fields:  # which cannot be changed
            id = await store(automem, "y")
            refused(await automem.patch(f"/memory/{id}", json=fields), 400)
        assert "x" not in await contents(automem)

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b'"x"', b'{"content": "\xff"}', b'{"content": "x", "importance": NaN}']
    )
    async def test_a_body_that_is_no_object_is_refused(self, automem: httpx2.AsyncClient, body: bytes) -> None:
        refused(await automem.post("/memory", content=body), 400, "JSON")

    async def test_a_batch_is_stored_in_order_and_found_by_vector_at_once(self, automem: httpx2.AsyncClient) -> None:
        items = [{"content": f"number {n}", "tags": ["n"], "importance": n / 10, "timestamp": EARLY} for n in range(3)]
        passed_over = {"t_valid": LATE, "id": str(uuid4())}
        answer = await automem.post("/memory/batch", json={"memories": [{**item, **passed_over} for item in items]})
        assert answer.status_code == 201
        said = answer.json()
        assert {name: said[name] for name in ("status", "stored", "qdrant", "enrichment")} == {
            "status": "success",
            "stored": 3,
            "qdrant": "stored (3)",
            "enrichment": "queued",
        }
        kept = [await stored(automem, id) for id in said["memory_ids"]]
        assert [{name: memory[name] for name in items[0]} for memory in kept] == items
        assert not any("t_valid" in memory for memory in kept)
        assert {hit["match_type"] for hit in (await recall(automem, "number"))["results"]} == {"vector"}

    async def test_five_hundred_go_into_a_batch(self, automem: httpx2.AsyncClient) -> None:
        answer = await automem.post("/memory/batch", json={"memories": [{"content": str(n)} for n in range(500)]})
        assert answer.json()["stored"] == len(set(answer.json()["memory_ids"])) == 500


class TestOneMemory:
    async def test_it_is_changed_field_by_field_and_deleted(self, automem: httpx2.AsyncClient) -> None:
        id = await store(automem, "old", tags=["a"], metadata={"k": 1, "l": 2}, updated_at=EARLY)
        changes = {"content": " new ", "importance": 0.9, "metadata": {"m": 3}}
        answer = await automem.patch(f"/memory/{id}", json=changes)
        assert (answer.status_code, answer.json()) == (200, {"status": "success", "memory_id": id})
        memory = await stored(automem, id)
        assert (memory["content"], memory["importance"], memory["tags"]) == ("new", 0.9, ["a"])
        assert memory["metadata"] == {"m": 3, "entities": {}, "enrichment": {}}
        assert memory["updated_at"] == EARLY
        assert await contents(automem, "new") == ["new"]
        answer = await automem.delete(f"/memory/{id}")
        assert (answer.status_code, answer.json()) == (200, {"status": "success", "memory_id": id})
        refused(await automem.get(f"/memory/{id}"), 404, "Memory not found")
        refused(await automem.delete(f"/memory/{id}"), 404, "Memory not found")
        assert await contents(automem, "new") == []

    async def test_a_new_text_waits_for_its_vector_and_another_change_does_not(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        id = await store(automem, "tea")
        automem_server.settle()
        await automem.patch(f"/memory/{id}", json={"importance": 0.1})
        assert (await recall(automem, "tea"))["results"][0]["match_type"] == "vector"
        await automem.patch(f"/memory/{id}", json={"content": "green tea"})
        assert (await recall(automem, "tea"))["results"][0]["match_type"] == "keyword"


class TestByTag:
    @pytest.fixture
    async def tagged(self, automem: httpx2.AsyncClient) -> list[str]:
        """Three with the tag "User:ana", the most important first and then the newest, and others."""
        await store(automem, "of ben", tags=["user:ben"])
        await store(automem, "of anabel", tags=["user:ana:bel"])
        third = await store(automem, "third", tags=["User:ana"], importance=0.4, timestamp=EARLY)
        first = await store(automem, "first", tags=["User:ana", "x"], importance=0.9, timestamp=EARLY)
        second = await store(automem, "second", tags=["User:ana"], importance=0.4, timestamp=LATE)
        return [first, second, third]

    async def test_it_is_listed_page_by_page_by_importance_and_time(
        self, automem: httpx2.AsyncClient, tagged: list[str]
    ) -> None:
        page = (await automem.get("/memory/by-tag?tags=USER:ana&limit=2")).json()
        assert [node["id"] for node in page.pop("memories")] == tagged[:2]
        assert page == {
            "status": "success",
            "tags": ["USER:ana"],
            "count": 2,
            "limit": 2,
            "offset": 0,
            "has_more": True,
        }
        page = (await automem.get("/memory/by-tag?tags=user:ana&limit=2&offset=2")).json()
        assert ([node["id"] for node in page["memories"]], page["has_more"]) == (tagged[2:], False)

    async def test_equals_come_by_id(self, automem: httpx2.AsyncClient) -> None:
        ids = [await store(automem, str(n), tags=["t"], timestamp=EARLY) for n in range(9)]
        assert [node["id"] for node in (await automem.get("/memory/by-tag?tags=t")).json()["memories"]] == sorted(ids)

    async def test_any_of_several_tags_is_enough(self, automem: httpx2.AsyncClient, tagged: list[str]) -> None:
        for query in ("tags=x&tags=user:ben", "tags=x,user:ben"):
            page = (await automem.get(f"/memory/by-tag?{query}")).json()
            assert [node["content"] for node in page["memories"]] == ["of ben", "first"][::-1]

    @pytest.mark.parametrize(("given", "limit"), [("7", 7), ("999", 200), ("0", 1), ("many", 20), ("", 20)])
    async def test_its_limit_lies_between_1_and_200(self, automem: httpx2.AsyncClient, given: str, limit: int) -> None:
        answer = (await automem.get("/memory/by-tag", params={"tags": "t", "limit": given, "offset": "-1"})).json()
        assert (answer["limit"], answer["offset"], answer["count"]) == (limit, 0, 0)

    async def test_all_with_a_tag_are_deleted(self, automem: httpx2.AsyncClient, tagged: list[str]) -> None:
        answer = await automem.delete("/memory/by-tag?tags=user:ana")
        assert answer.json() == {"status": "success", "tags": ["user:ana"], "deleted_count": 3}
        assert sorted(await contents(automem)) == ["of anabel", "of ben"]
        assert (await automem.delete("/memory/by-tag?tags=user:ana")).json()["deleted_count"] == 0


class TestRecall:
    async def test_the_answer_has_every_field_and_says_how_it_scored(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        text, tags = "User prefers conservative investments", ["user_123", "conversation_456"]
        id = await store(automem, text, tags=tags, importance=0.7, type="conversation", metadata={"k": "v"})
        automem_server.settle()
        body = await recall(automem, "conservative investments", tags="user_123", exclude_tags="x", start=EARLY)
        (hit,) = body.pop("results")
        assert body.pop("query_time_ms") >= 0
        assert body == {
            "status": "success",
            "query": "conservative investments",
            "count": 1,
            "dedup_removed": 0,
            "sort": "score",
            "state_mode": "current",
            "keywords": ["conservative", "investments"],
            "tags": ["user_123"],
            "exclude_tags": ["x"],
            "time_window": {"start": EARLY, "end": None},
            "tag_mode": "any",
            "tag_match": "prefix",
            "tag_scope": {"filtered": True, "pool_size_hint": 1, "gated_low_evidence": 0},
            "state_filter": {"current_only": True, "suppressed_count": 0, "replacement_count": 0},
            "vector_search": {"enabled": True, "matched": True},
        }
        parts = hit.pop("score_components")
        assert 0.5 < parts.pop("vector") < 1
        assert parts.pop("recency") == pytest.approx(1, abs=0.001)
        assert parts == {
            "keyword": 1.0,
            "importance": 0.7,
            "confidence": 0.9,
            "evidence": 1.0,
            "relevance_gated": False,
            **dict.fromkeys(("metadata", "relation", "tag", "exact", "relevance", "context"), 0.0),
        }
        memory = hit.pop("memory")
        assert (memory["content"], memory["tags"], memory["tag_prefixes"]) == (text, tags, sorted(tags))
        assert (memory["metadata"]["k"], memory["summary"], memory["relevance_score"]) == ("v", text, None)
        assert hit.pop("score") == hit.pop("final_score") > hit.pop("original_score") == hit.pop("match_score") > 0.5
        assert hit == {
            "id": id,
            "match_type": "vector",
            "source": "qdrant",
            "relations": [],
            "_query": "conservative investments",
        }

    async def test_the_score_is_the_weighted_sum_of_its_components(self, automem: httpx2.AsyncClient) -> None:
        tags, metadata, then = ["tea"], {"drink": "tea"}, "2020-01-01T00:00:00+00:00"
        fields = {"tags": tags, "metadata": metadata, "timestamp": then, "importance": 0.5, "type": "t"}
        await store(automem, "tea", **fields, confidence=0.4)
        (hit,) = (await recall(automem, "tea"))["results"]
        assert hit["score_components"]["recency"] == 0
        # keyword, metadata, tag and exact are 1; its vector is still to come
        assert hit["score"] == pytest.approx(0.35 + 0.35 + 0.2 + 0.1 * 0.5 + 0.05 * 0.4 + 0.2)

    async def test_a_write_is_found_by_its_words_at_once_and_by_its_vector_later(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        id = await store(automem, "She is investing conservatively")
        assert (await recall(automem, "conservative investments"))["results"] == []
        (hit,) = (await recall(automem, "investing"))["results"]
        assert (hit["match_type"], hit["id"], hit["memory"]["id"]) == ("keyword", id, id)
        automem_server.settle()
        (hit,) = (await recall(automem, "conservative investments"))["results"]
        assert (hit["match_type"], hit["id"]) == ("vector", id)
        assert "id" not in hit["memory"]

    async def test_a_query_that_matches_nothing_finds_nothing_although_the_tag_does(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        await store(automem, "tea in the morning", tags=["ana"])
        automem_server.settle()
        body = await recall(automem, "locomotive", tags="ana")
        assert (body["results"], body["tag_scope"]["pool_size_hint"]) == ([], 1)
        assert not body["vector_search"]["matched"]

    async def test_the_rarer_word_and_the_shorter_text_come_first(self, automem: httpx2.AsyncClient) -> None:
        await store(automem, "tea " + "and more and more " * 5, timestamp=EARLY)
        await store(automem, "tea", timestamp=EARLY)
        await store(automem, "oolong", timestamp=EARLY)
        assert [text[:6] for text in await contents(automem, "oolong tea")] == ["oolong", "tea", "tea an"]

    async def test_what_only_metadata_says_is_found(self, automem: httpx2.AsyncClient) -> None:
        await store(automem, "x", metadata={"city": "Porto"})
        (hit,) = (await recall(automem, "porto"))["results"]
        assert hit["match_type"] == "metadata"

    async def test_without_a_query_the_most_important_come_first(self, automem: httpx2.AsyncClient) -> None:
        for n in (3, 9, 1, 5):
            await store(automem, str(n), importance=n / 10)
        body = await recall(automem)
        assert [hit["memory"]["content"] for hit in body["results"]] == ["9", "5", "3", "1"]
        assert {hit["match_type"] for hit in body["results"]} == {"trending"}
        assert all(hit["memory"]["id"] == hit["id"] for hit in body["results"])
        assert (body["keywords"], "tags" in body, body["tag_scope"]["filtered"]) == ([], False, False)

    @pytest.mark.parametrize(
        ("given", "count"), [("", 5), ("3", 3), ("lots", 5), ("0", 1), ("-7", 1), ("2.5", 5), ("1000", 100)]
    )
    async def test_its_limit_lies_between_1_and_100_and_is_5_if_it_is_no_number(
        self, automem: httpx2.AsyncClient, given: str, count: int
    ) -> None:
        await automem.post("/memory/batch", json={"memories": [{"content": f"tea {n}"} for n in range(101)]})
        assert (await recall(automem, "tea", limit=given))["count"] == count
        assert (await recall(automem, "", limit=given))["count"] == count

    async def test_a_tag_is_matched_part_by_part_from_its_beginning_or_exactly(
        self, automem: httpx2.AsyncClient
    ) -> None:
        await store(automem, "deep", tags=["User:Ana/Work"])
        await store(automem, "ten", tags=["conversation_10"])
        for tag in ("user", "USER:ana", "user:ana/work"):
            assert await contents(automem, tags=tag) == ["deep"]
        for tag in ("use", "user:an", "ana", "user:", "conversation_1"):
            assert await contents(automem, tags=tag) == []
        assert await contents(automem, tags="user:ana", tag_match="exact") == []
        assert await contents(automem, tags="user:ana/WORK", tag_match="exact") == ["deep"]
        (hit,) = (await recall(automem, tags="user"))["results"]
        assert hit["memory"]["tag_prefixes"] == ["user", "user:ana", "user:ana/work"]

    async def test_several_tags_mean_any_or_all(self, automem: httpx2.AsyncClient) -> None:
        await store(automem, "both", tags=["a", "b"], importance=0.9)
        await store(automem, "one", tags=["a"])
        for tags in (["a", "b"], ["a,b"]):
            assert await contents(automem, tags=tags) == ["both", "one"]
            assert await contents(automem, tags=tags, tag_mode="all") == ["both"]

    async def test_what_has_an_excluded_tag_stays_away(self, automem: httpx2.AsyncClient) -> None:
        await store(automem, "tea 1", tags=["a", "conversation:1"])
        await store(automem, "tea 10", tags=["a", "conversation:10"])
        for query in ("", "tea"):
            assert await contents(automem, query, tags="a", exclude_tags="x,Conversation:1") == ["tea 10"]
            assert await contents(automem, query, exclude_tags="conversation") == []

    async def test_times_are_bounds_and_orders(self, automem: httpx2.AsyncClient) -> None:
        for at, changed in ((MIDDLE, LATE), (EARLY, MIDDLE), (LATE, EARLY)):
            await store(automem, f"tea {at[6]}", timestamp=at, updated_at=changed)
        for query in ("", "tea"):
            assert await contents(automem, query, start=MIDDLE, sort="time_asc") == ["tea 2", "tea 3"]
            assert await contents(automem, query, end=MIDDLE, sort="time_desc") == ["tea 2", "tea 1"]
            assert await contents(automem, query, start="2026-02-01T13:00:00Z", end=LATE) == ["tea 3"]
            assert await contents(automem, query, order_by="updated_desc") == ["tea 2", "tea 1", "tea 3"]
            assert await contents(automem, query, order_by="updated_asc") == ["tea 3", "tea 1", "tea 2"]

    async def test_scores_below_the_least_wanted_stay_away(self, automem: httpx2.AsyncClient) -> None:
        await store(automem, "tea", timestamp="2020-01-01T00:00:00Z", importance=0)
        assert await contents(automem, "tea", min_score="0.4") == ["tea"]
        assert await contents(automem, "tea", min_score="0.7") == []
        assert await contents(automem, "tea", min_score="high") == ["tea"]

    async def test_a_vector_of_the_callers_is_stored_found_and_asked_with(self, automem: httpx2.AsyncClient) -> None:
        one, two = ([float(place == at) for place in range(DIMENSIONS)] for at in (1, 2))
        said = (await automem.post("/memory", json={"content": "one", "embedding": one})).json()
        assert (said["qdrant"], said["embedding_status"]) == ("stored", "provided")
        await store(automem, "two", embedding=",".join(map(str, two)))
        for vector, text in ((one, "one"), (two, "two")):
            (hit,) = (await recall(automem, embedding=",".join(map(str, vector))))["results"]
            assert (hit["memory"]["content"], hit["score_components"]["vector"]) == (text, 1.0)


class TestAssociations:
    @pytest.fixture
    async def ids(self, automem: httpx2.AsyncClient) -> list[str]:
        """Four, of which each is associated with the next."""
        ids = [await store(automem, str(n), tags=[f"t{n}"]) for n in range(4)]
        for first, second in pairwise(ids):
            body = {"memory1_id": first, "memory2_id": second, "type": "LEADS_TO"}
            assert (await automem.post("/associate", json=body)).status_code == 201
        return ids

    async def related(self, automem: httpx2.AsyncClient, id: str, **params: Any) -> list[str]:
        answer = (await automem.get(f"/memories/{id}/related", params=params)).json()
        assert answer["count"] == len(answer["related_memories"])
        return [node["id"] for node in answer["related_memories"]]

    async def test_it_is_made_and_answered_with_its_properties(
        self, automem: httpx2.AsyncClient, ids: list[str]
    ) -> None:
        pair = {"memory1_id": ids[0], "memory2_id": ids[3]}
        answer = await automem.post("/associate", json={**pair, "type": "PREFERS_OVER", "strength": 0.9, "reason": "r"})
        assert answer.status_code == 201
        assert answer.json() == {
            "status": "success",
            "message": f"Association created between {ids[0]} and {ids[3]}",
            "relation_type": "PREFERS_OVER",
            "strength": 0.9,
            "reason": "r",
        }
        said = (await automem.post("/associate", json=pair)).json()
        assert (said["relation_type"], said["strength"]) == ("RELATES_TO", 0.5)

    async def test_what_is_not_valid_is_refused(self, automem: httpx2.AsyncClient, ids: list[str]) -> None:
        pair = {"memory1_id": ids[0], "memory2_id": ids[3]}
        for wrong, status, message in (
            ({"type": "RELATED_TO"}, 400, "RELATES_TO, LEADS_TO, OCCURRED_BEFORE"),
            ({"memory2_id": ids[0]}, 400, "itself"),
            ({"memory2_id": str(uuid4())}, 404, "Memory not found"),
            ({"strength": 1.5}, 400, "'strength'"),
        ):
            refused(await automem.post("/associate", json=pair | wrong), status, message)
        assert ids[3] not in await self.related(automem, ids[0])

    async def test_a_batch_makes_what_it_can_and_names_the_rest(
        self, automem: httpx2.AsyncClient, ids: list[str]
    ) -> None:
        good = {"memory1_id": ids[0], "memory2_id": ids[2], "strength": 0.7}
        bad = {"memory1_id": ids[0], "memory2_id": str(uuid4())}
        answer = await automem.post("/associate", json={"associations": [bad, good]})
        assert answer.status_code == 207
        assert answer.json() == {
            "status": "partial_success",
            "created_count": 1,
            "failed_count": 1,
            "succeeded": [{"index": 1, "relation_type": "RELATES_TO", **good}],
            "failed": [{"index": 0, "reason": "Memory not found"}],
            "summary": "1/2 associations created successfully",
        }
        answer = await automem.post("/associate", json={"associations": [good]})
        assert (answer.status_code, answer.json()["status"]) == (201, "success")
        refused(await automem.post("/associate", json={"associations": [good] * 501}), 400, "500")

    async def test_what_is_related_is_found_step_by_step_both_ways(
        self, automem: httpx2.AsyncClient, ids: list[str]
    ) -> None:
        assert await self.related(automem, ids[1]) == [ids[2], ids[0]]
        assert await self.related(automem, ids[0], max_depth=3) == ids[1:]
        assert await self.related(automem, ids[0], max_depth=9, limit=2) == ids[1:3]
        assert await self.related(automem, ids[0], relationship_types="PART_OF") == []
        answer = (await automem.get(f"/memories/{ids[3]}/related?relationship_types=LEADS_TO&limit=x")).json()
        (node,) = answer.pop("related_memories")
        assert set(node) == {"id", "summary", "type", "importance", "confidence", "timestamp", "tags"}
        shown = {"relationship_types": ["LEADS_TO"], "max_depth": 1, "limit": 50}
        assert answer == {"status": "success", "memory_id": ids[3], "count": 1, **shown}

    async def test_they_go_with_a_memory(self, automem: httpx2.AsyncClient, ids: list[str]) -> None:
        await automem.delete(f"/memory/{ids[1]}")
        assert await self.related(automem, ids[0], max_depth=3) == []
        assert await self.related(automem, ids[2]) == [ids[3]]


class TestStatus:
    async def test_health_counts_memories_and_vectors(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        await store(automem, "x")
        late = (await automem.get("/health")).json()
        assert (late["memory_count"], late["vector_count"], late["sync_status"]) == (1, 0, "drift_detected")
        assert late["enrichment"]["pending"] == 1
        automem_server.settle()
        answer = await automem.get("/health")
        body = answer.json()
        datetime.fromisoformat(body.pop("timestamp"))
        assert answer.status_code == 200
        assert body == {
            "status": "healthy",
            "falkordb": "connected",
            "qdrant": "connected",
            "memory_count": 1,
            "vector_count": 1,
            "sync_status": "synced",
            "vector_dimensions": {"configured": 256, "effective": 256, "collection": 256, "mismatch": False},
            "enrichment": {
                "status": "running",
                "queue_depth": 0,
                "pending": 0,
                "inflight": 0,
                "processed": 1,
                "failed": 0,
            },
            "graph": "memories",
        }
        assert (await automem.get("/enrichment/status")).json() == body["enrichment"]

    async def test_startup_recall_and_analyze_have_their_shapes(self, automem: httpx2.AsyncClient) -> None:
        await store(automem, "x", type="t")
        assert set((await automem.get("/startup-recall")).json()) == {
            "critical_lessons",
            "system_rules",
            "lesson_count",
            "has_critical",
            "summary",
        }
        body = (await automem.get("/analyze")).json()
        assert body["elapsed_ms"] >= 0
        assert body["analytics"].pop("memory_types") == {"t": 1}
        assert set(body["analytics"]) == {
            "patterns",
            "preferences",
            "temporal_insights",
            "entity_frequency",
            "confidence_distribution",
        }


@pytest.mark.parametrize(("method", "path", "body", "status", "message"), ERRORS)
async def test_every_error_is_in_the_envelope(
    automem: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, message: str
) -> None:
    refused(await automem.request(method, path, json=body), status, message)


class TestToken:
    """Against a server that asks for one."""

    @pytest.fixture
    async def http(self, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
        with AutoMemServer(tmp_path, token="secret") as server:
            async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
                yield http

    async def test_it_may_come_in_three_ways(self, http: httpx2.AsyncClient) -> None:
        for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
            assert (await http.get("/recall", headers=headers)).status_code == 200
        assert (await http.get("/recall?api_key=secret")).status_code == 200

    async def test_who_has_none_or_a_wrong_one_is_refused_everywhere(self, http: httpx2.AsyncClient) -> None:
        refused(await http.get("/recall"), 401)
        for headers in ({"Authorization": "Bearer Secret"}, {"Authorization": "secret"}, {"X-API-Key": ""}):
            refused(await http.get("/recall", headers=headers), 401)
        refused(await http.get("/recall?api_key=wrong"), 401)
        refused(await http.post("/memory", json={"content": "x"}), 401)
        refused(await http.get("/nowhere"), 401)
        assert (await http.get("/recall?api_key=secret")).json()["count"] == 0

    async def test_health_needs_none(self, http: httpx2.AsyncClient) -> None:
        assert (await http.get("/health")).json()["status"] == "healthy"
        refused(await http.get("/backup"), 404)
        refused(await http.options("/recall"), 405)


class TestDeath:
    async def test_what_was_answered_is_there_after_kill_9_on_the_same_port(self, tmp_path: Path) -> None:
        with AutoMemServer(tmp_path, vector_delay_s=3600) as server:
            async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
                ids = [await store(http, f"tea {n}", tags=["t"], metadata={"n": n}) for n in range(20)]
                body = {"associations": [{"memory1_id": ids[0], "memory2_id": id} for id in ids[1:4]]}
                assert (await http.post("/associate", json=body)).status_code == 201
                server.kill()
                assert len(server.calls()) == 21  # which a dead server still tells
                server.start()
                assert (await http.patch(f"/memory/{ids[0]}", json={"content": "coffee"})).status_code == 200
                assert (await http.delete(f"/memory/{ids[3]}")).status_code == 200
                before = [await stored(http, id) for id in ids if id != ids[3]]
                server.kill()
                with pytest.raises(httpx2.ConnectError):
                    await http.get("/health")
                server.start()
                assert [await stored(http, id) for id in ids if id != ids[3]] == before
                refused(await http.get(f"/memory/{ids[3]}"), 404)
                assert await contents(http, "coffee") == ["coffee"]
                assert (await http.get(f"/memories/{ids[0]}/related")).json()["count"] == 2
                assert (await http.get("/health")).json()["vector_count"] == 0

    async def test_what_a_kill_cuts_off_is_there_whole_or_not_at_all(self, tmp_path: Path) -> None:
        items = [{"content": f"tea {n}", "tags": ["t"]} for n in range(500)]
        with AutoMemServer(tmp_path) as server:
            for wait_s in (0.01, 0.03, 0.06):
                async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
                    batch = asyncio.create_task(http.post("/memory/batch", json={"memories": items}))
                    await asyncio.sleep(wait_s)  # into the write, or before it or after it on a slow or fast machine
                    server.kill()
                    (outcome,) = await asyncio.gather(batch, return_exceptions=True)
                    server.start()
                    deleted = (await http.delete("/memory/by-tag?tags=t")).json()["deleted_count"]
                    assert deleted == 500 or (deleted == 0 and isinstance(outcome, httpx2.TransportError))

    async def test_vectors_come_after_their_delay(self, tmp_path: Path) -> None:
        with AutoMemServer(tmp_path, vector_delay_s=0) as server:
            async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
                await store(http, "tea")
                assert (await recall(http, "tea"))["results"][0]["match_type"] == "vector"


class TestFaults:
    async def test_a_status_is_answered_instead_in_the_envelope(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        automem_server.fails({"path": "^/memory$", "status": 503, "times": 2, "retry_after_s": 7})
        answer = await automem.post("/memory", json={"content": "x"})
        refused(answer, 503, "Service Unavailable")
        assert answer.headers["Retry-After"] == "7"
        assert await contents(automem) == []
        refused(await automem.post("/memory", json={"content": "x"}), 503)
        await store(automem, "x")

    async def test_an_unexpected_error_is_told_without_its_reason(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        automem_server.fails({"status": 500})
        for _ in range(20):  # the connection goes on
            answer = await automem.get("/recall")
            refused(answer, 500)
            assert answer.json()["message"] == "Internal server error"
        for path in ("/startup-recall", "/analyze"):
            answer = await automem.get(path)
            assert (answer.status_code, set(answer.json())) == (500, {"error", "details"})

    async def test_an_answer_is_lost_after_it_took_effect_or_before(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        for after, kept in ((False, []), (True, ["x"])):
            automem_server.fails({"method": "POST", "drop": True, "after": after, "times": 1})
            with pytest.raises(HUNG_UP):
                await automem.post("/memory", json={"content": "x"})
            assert await contents(automem) == kept

    async def test_an_error_may_come_after_it_took_effect(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        automem_server.fails({"method": "POST", "status": 500, "after": True, "times": 1})
        refused(await automem.post("/memory", json={"content": "x"}), 500)
        assert await contents(automem) == ["x"]

    async def test_a_late_answer_is_late_and_done(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        automem_server.fails({"path": "/memory", "delay_s": 0.3, "times": 2})
        with pytest.raises(httpx2.ReadTimeout):
            await automem.post("/memory", json={"content": "x"}, timeout=0.1)

        async def is_done() -> bool:
            return await contents(automem) == ["x"]

        await until(is_done)
        started = time.monotonic()
        await store(automem, "y")
        assert time.monotonic() - started >= 0.3

    async def test_a_body_may_be_anything(self, automem: httpx2.AsyncClient, automem_server: AutoMemServer) -> None:
        page, ill = "<h1>Bad Gateway</h1>", {"status": "degraded", "falkordb": "disconnected"}
        automem_server.fails(
            {"path": "/recall", "status": 502, "body": page}, {"path": "/health", "status": 200, "body": ill}
        )
        answer = await automem.get("/recall")
        assert (answer.status_code, answer.text) == (502, page)
        assert (await automem.get("/health")).json() == ill

    async def test_a_fault_may_be_kept_for_later_and_is_over_when_others_are_named(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        automem_server.fails({"path": "/recall", "skip": 1, "status": 429})
        assert [(await automem.get("/recall")).status_code for _ in range(3)] == [200, 429, 429]
        automem_server.fails()
        assert (await automem.get("/recall")).status_code == 200

    async def test_every_request_is_on_record(self, automem: httpx2.AsyncClient, automem_server: AutoMemServer) -> None:
        automem_server.fails(
            {"path": "/health", "status": 500, "times": 1}, {"path": "/health", "drop": True, "times": 1}
        )
        await store(automem, "x")
        await automem.get("/recall?query=a+b")
        await automem.get("/health")
        with pytest.raises(HUNG_UP):
            await automem.get("/health")
        assert automem_server.calls() == [
            {"method": "POST", "path": "/memory", "query": "", "status": 201, "fault": False},
            {"method": "GET", "path": "/recall", "query": "query=a+b", "status": 200, "fault": False},
            {"method": "GET", "path": "/health", "query": "", "status": 500, "fault": True},
            {"method": "GET", "path": "/health", "query": "", "status": None, "fault": True},
        ]
        assert automem_server.calls() == []

    async def test_a_paused_server_answers_when_it_goes_on(
        self, automem: httpx2.AsyncClient, automem_server: AutoMemServer
    ) -> None:
        with automem_server.paused():
            with pytest.raises(httpx2.ReadTimeout):
                await automem.get("/health", timeout=0.1)
            waiting = asyncio.create_task(automem.get("/recall"))
            await asyncio.sleep(0)
        assert (await waiting).status_code == 200

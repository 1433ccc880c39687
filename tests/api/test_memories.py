"""Memories that callers write themselves, many at a time: `POST /memories`."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from client import InvalidRequest, MemoryServiceClient
from tests.api.talking import problem, told

MEMORIES, RETRIEVE = "/memories", "/memory/retrieve"


def a_memory(content: str = "Ana eats no walnuts", user_id: str = "ana", **more: Any) -> dict[str, Any]:
    return {"user_id": user_id, "content": content, **more}


async def found(http: httpx2.AsyncClient, query: str = "walnuts", user_id: str = "ana") -> list[dict[str, Any]]:
    answer = await told(http, RETRIEVE, user_id=user_id, query=query, top_k=100)
    results: list[dict[str, Any]] = answer["results"]
    return results


async def test_memories_are_stored_for_each_user_and_found_at_once(http: httpx2.AsyncClient, durability: str) -> None:
    given = [
        a_memory("Ana eats no walnuts", conversation_id="c", tags=["food"], metadata={"from": "a form"}),
        a_memory("Ben grows walnuts", "ben"),
        a_memory("Ana lives in Porto"),
    ]
    answer = await told(http, MEMORIES, memories=given)
    assert (answer["status"], answer["count"], answer["durability"]) == ("success", 3, durability)
    assert len(set(answer["ids"])) == 3
    (of_ana, *_), (of_ben, *_) = [await found(http, user_id=user) for user in ("ana", "ben")]
    assert (of_ana["id"], of_ana["text"], of_ana["session_id"]) == (answer["ids"][0], given[0]["content"], "c")
    assert of_ben["id"] == answer["ids"][1]


async def test_one_under_an_id_that_is_there_takes_its_place(http: httpx2.AsyncClient) -> None:
    for text in ("walnuts are fine", "walnuts are not fine"):
        await told(http, MEMORIES, memories=[a_memory(text, memory_id="m-1")])
    assert [one["text"] for one in await found(http)] == ["walnuts are not fine"]


async def test_five_hundred_go_at_once_and_no_more(http: httpx2.AsyncClient) -> None:
    many = [a_memory(f"note {number}", f"user{number % 7}") for number in range(500)]
    answer = await told(http, MEMORIES, memories=many)
    assert (answer["count"], len(set(answer["ids"]))) == (500, 500)
    problem(await http.post(MEMORIES, json={"memories": [*many, a_memory()]}), 422, "content_too_long")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"content": ""}, "validation_failed"),
        ({"content": "x" * 100_001}, "content_too_long"),
        ({"user_id": "a/b"}, "invalid_id"),
        ({"memory_id": "a#b"}, "invalid_id"),
        ({"conversation_id": ""}, "invalid_id"),
        ({"tags": ["a\nb"]}, "invalid_character"),
        ({"tags": [str(number) for number in range(51)]}, "content_too_long"),
        ({"metadata": {"a b": 1}}, "validation_failed"),
        ({"metadata": {"a": 2**53}}, "validation_failed"),
        ({"kind": "insight"}, "validation_failed"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_of_a_request_with_one_that_cannot_be_nothing_is_stored(
    http: httpx2.AsyncClient, wrong: dict[str, Any], code: str
) -> None:
    problem(await http.post(MEMORIES, json={"memories": [a_memory(), {**a_memory(), **wrong}]}), 422, code)
    assert await found(http) == []


@pytest.mark.parametrize("body", [{}, {"memories": []}, {"memories": "x"}, {"memories": [1]}, {"memories": [{}]}])
async def test_a_request_without_memories_is_refused(http: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    problem(await http.post(MEMORIES, json=body), 422, "validation_failed")


async def test_the_client_stores_memories_so_that_a_repeat_changes_nothing(client: MemoryServiceClient) -> None:
    memories = [a_memory("walnuts one"), a_memory("walnuts two", memory_id="mine")]
    answer = await client.store_memories(memories)
    assert answer["ids"][1] == "mine"
    assert "memory_id" not in memories[0]
    assert {one["id"] for one in (await client.retrieve("walnuts"))["results"]} == set(answer["ids"])
    with pytest.raises(InvalidRequest):
        await client.store_memories([a_memory("")])

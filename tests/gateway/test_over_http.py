"""The gateway over HTTP: what it takes and refuses, and what the original got wrong."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from memory_service.api.gateway import PREFIXES

ANA = {"user_id": "ana"}
HI = {"role": "user", "text": "hi"}
UPSERT, SESSIONS, CREATE, MEMORIES = (
    "/upsert-session-context",
    "/get-session-context",
    "/create-memory",
    "/get-memories",
)
JSON = {"content-type": "application/json"}
CANARY = "canary7f3a"


async def told(http: httpx2.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def refused(http: httpx2.AsyncClient, path: str, body: Any, place: str, status: int = 422) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await http.post(path, content=content, headers=JSON)
    assert response.status_code == status, response.text
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["error"]) == (status, problem["detail"])
    assert [one["loc"] for one in problem.get("errors", [])] == ([place] if place else [])
    assert CANARY not in response.text


def a_context(*messages: Any, **given: Any) -> dict[str, Any]:
    return {"session_context": {"session_id": "s", "user_id": "ana", "messages": list(messages), **given}}


def a_memory(*messages: Any) -> dict[str, Any]:
    return {"session_id": "s", "user_id": "ana", "agent_id": "a", "session_context": {"messages": list(messages)}}


async def test_all_paths_are_there_bare_and_under_each_prefix(http: httpx2.AsyncClient) -> None:
    for prefix in ("", *PREFIXES):
        await told(http, prefix + UPSERT, **a_context(HI, session_id=f"s{prefix.count('/')}"))
        await told(http, prefix + CREATE, **a_memory(HI))
        assert (await http.get(f"{prefix}/health")).json()["status"] == "healthy"
    for prefix in ("", *PREFIXES):
        assert len((await told(http, prefix + SESSIONS, **ANA))["results"]) == 3
        assert len((await told(http, prefix + MEMORIES, **ANA, limit=9))["memories"]) == 3
    for prefix in PREFIXES:
        assert (await http.get(f"{prefix}/health")).json() == {"status": "healthy"}


async def test_an_answer_has_all_fields_of_the_original_and_no_others(http: httpx2.AsyncClient) -> None:
    body = {"messages": [{**HI, "id": 7, "whatever": {}}], "user_id": None, "of_ours": 1}
    context = (await told(http, UPSERT, session_context=body, more=[]))["session_context"]
    (message,) = context.pop("messages")
    assert len(context.pop("session_id")) == 36
    assert context == {"user_id": None, "agent_id": None, "system_prompt": None, "session_metadata": None}
    assert isinstance(message.pop("timestamp"), float)
    content = [{"type": "text", "text": "hi"}]
    assert message == {"role": "user", "content": content, "tool_calls": [], "tool_results": []}
    memory = (await told(http, CREATE, **a_memory(HI)))["memory"]
    assert memory["created_at"].endswith("Z")
    names = "memory_id session_id user_id agent_id content embedding_model created_at updated_at embedding similarity"
    assert list(memory) == names.split()


async def test_what_is_not_valid_is_refused_with_its_place_and_not_repeated(http: httpx2.AsyncClient) -> None:
    at = "$.session_context.messages[0]"
    await refused(http, UPSERT, {}, "$.session_context")
    await refused(http, UPSERT, a_context({"text": CANARY}), f"{at}.role")
    await refused(http, UPSERT, a_context({"role": CANARY, "text": CANARY}), f"{at}.role")
    await refused(http, UPSERT, a_context({"role": "user", "content": CANARY}), f"{at}.content")
    await refused(http, UPSERT, a_context({"role": "user", "content": [{"text": CANARY}]}), f"{at}.content[0]")
    other = {"type": CANARY, CANARY: CANARY}
    await refused(http, UPSERT, a_context({"role": "user", "content": [other]}), f"{at}.content[0]")
    await refused(http, UPSERT, a_context({"role": "user", "text": 7}), f"{at}.content[0].text.text")
    await refused(http, UPSERT, a_context({**HI, "timestamp": "now"}), f"{at}.timestamp")
    await refused(http, UPSERT, a_context({**HI, "text": "x" * 100_001}), at)
    await refused(http, UPSERT, a_context(session_id=7), "$.session_context.session_id")
    await refused(http, UPSERT, a_context(session_id=f"{CANARY} x"), "$.session_context.session_id")
    await refused(http, UPSERT, a_context(user_id=f"{CANARY} x"), "$.session_context.user_id")
    await refused(http, UPSERT, a_context(system_prompt=f"{CANARY}\0"), "$.session_context")
    await refused(http, UPSERT, a_context(agent_id="x" * 201), "$.session_context.agent_id")
    await refused(http, UPSERT, a_context(system_prompt="x" * 100_001), "$.session_context.system_prompt")
    await refused(http, UPSERT, a_context(session_metadata=[CANARY]), "$.session_context.session_metadata")
    for missing in ("session_id", "user_id", "agent_id", "session_context"):
        body = {name: value for name, value in a_memory(HI).items() if name != missing}
        await refused(http, CREATE, body, f"$.{missing}")
    await refused(http, CREATE, a_memory(), "$.session_context.messages")
    await refused(http, MEMORIES, {**ANA, "query": "x" * 2001}, "$.query")
    await refused(http, MEMORIES, {**ANA, "embedding": [CANARY]}, "$.embedding[0]")
    for wrong in (b"{", b'{"user_id": NaN}', b'{"user_id": "\xff"}', b'{"a":' * 2000, b'"' + b"\\ud800" + b'"'):
        await refused(http, MEMORIES, wrong, "", 400)
    deep = b'{"session_context": {"session_metadata": ' + b'{"a":' * 400 + b"1" + b"}" * 402
    await refused(http, UPSERT, deep, "", 400)
    await refused(http, UPSERT, a_context({**HI, "text": "x" * 1_000_001}), "", 413)
    assert (await told(http, SESSIONS, **ANA)) == {"results": []}


# What the original got wrong


@pytest.mark.parametrize("path", [SESSIONS, MEMORIES])
@pytest.mark.parametrize(
    "nobody", [{}, {"user_id": None, "session_id": None}, {"user_id": "", "session_id": ""}, {"agent_id": "a"}], ids=str
)
async def test_an_empty_filter_is_refused_and_is_not_everybody_s(
    http: httpx2.AsyncClient, path: str, nobody: dict[str, Any]
) -> None:
    await told(http, UPSERT, **a_context(HI))
    await told(http, CREATE, **a_memory(HI))
    whole = {"user_id": None, "session_id": None, "agent_id": None, "embedding": None, "limit": 2}
    for body in (nobody, {**whole, **nobody}):
        await refused(http, path, body, "$")


async def test_an_upsert_takes_no_session_from_another_user(http: httpx2.AsyncClient) -> None:
    anas = (await told(http, UPSERT, **a_context({**HI, "text": "ana's"})))["session_context"]
    for user_id in ("ben", None):
        await told(http, UPSERT, **a_context({**HI, "text": "not ana's"}, user_id=user_id))
    assert (await told(http, SESSIONS, **ANA))["results"] == [anas]
    assert len((await told(http, SESSIONS, session_id="s"))["results"]) == 3
    assert len((await told(http, SESSIONS, session_id="s", user_id="ben"))["results"]) == 1


async def test_the_content_of_a_memory_is_its_text(http: httpx2.AsyncClient) -> None:
    memory = (await told(http, CREATE, **a_memory({**HI, "text": "My favourite sport is football."})))["memory"]
    assert memory["content"] == "user: My favourite sport is football."


async def test_a_limit_that_is_none_is_refused(http: httpx2.AsyncClient) -> None:
    for limit in (0, -1, 101, 1.5, "2", None, True):
        await refused(http, MEMORIES, {**ANA, "limit": limit}, "$.limit")


async def test_an_embedding_of_another_width_is_refused_and_of_the_right_one_finds(http: httpx2.AsyncClient) -> None:
    embedding = (await told(http, CREATE, **a_memory(HI)))["memory"]["embedding"]
    await refused(http, MEMORIES, {**ANA, "embedding": embedding[1:]}, "$.embedding")
    (memory,) = (await told(http, MEMORIES, **ANA, embedding=embedding))["memories"]
    assert memory["similarity"] == pytest.approx(1)


async def test_a_query_is_a_text(http: httpx2.AsyncClient) -> None:
    await told(http, CREATE, **a_memory({**HI, "text": "I keep bees."}))
    await told(http, CREATE, **a_memory({**HI, "text": "I sail on Sundays."}))
    answer = await told(http, MEMORIES, **ANA, query="Who has bees?")
    assert answer["memories"][0]["content"] == "user: I keep bees."


async def test_an_id_need_be_no_uuid_and_comes_back_as_it_was_given(http: httpx2.AsyncClient) -> None:
    body = {**a_memory(HI), "session_id": "my.session@home", "agent_id": "Mein Agent: Ü 7"}
    memory = (await told(http, CREATE, **body))["memory"]
    assert (memory["session_id"], memory["agent_id"]) == ("my.session@home", "Mein Agent: Ü 7")
    found = await told(http, MEMORIES, session_id="my.session@home", agent_id="Mein Agent: Ü 7")
    assert [one["memory_id"] for one in found["memories"]] == [memory["memory_id"]]


async def test_an_unknown_session_is_an_empty_answer(http: httpx2.AsyncClient) -> None:
    assert await told(http, SESSIONS, session_id="missing") == {"results": []}
    assert await told(http, MEMORIES, session_id="missing") == {"memories": []}


async def test_a_repeated_upsert_stores_nothing_twice(http: httpx2.AsyncClient) -> None:
    """The original's other provider stored all messages anew each time."""
    said = [{**HI, "text": str(n)} for n in range(5)]
    for count in (1, 3, 5, 5):
        await told(http, UPSERT, **a_context(*said[:count]))
    context = await told(http, "/memory/context", user_id="ana", session_id="s")
    assert [turn["content"] for turn in context["active_context"]] == ["0", "1", "2", "3", "4"]

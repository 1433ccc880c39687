"""The service over Cosmos DB, in what no other store can do to it: be shared, be throttled, be out of reach."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service.stores.cosmos import client as calls
from tests.api.conftest import Connect
from tests.api.talking import (
    CONTEXT,
    END,
    PATIENCE_S,
    RETRIEVE,
    START,
    STATS,
    STORE,
    SUMMARIES,
    problem,
    settled,
    told,
)
from tests.cosmos.launcher import CosmosServer

pytestmark = pytest.mark.only_on("cosmos", "it is about this store")


async def test_two_services_on_one_record_take_turns_in_one_session(
    connect: Connect,
) -> None:
    one, other = await connect(), await connect()
    await told(one, "/sessions/start", user_id="ana", session_id="s")
    named = {"user_id": "ana", "session_id": "s"}
    for number in range(10):
        turn = {"user_message": f"said {number}", "agent_message": "heard"}
        await told(one if number % 2 else other, STORE, **named, **turn)
    context = await told(one, CONTEXT, **named)
    assert [message["content"] for message in context["active_context"]][::2] == [f"said {n}" for n in range(10)]
    found = await told(other, RETRIEVE, user_id="ana", query="said 9")
    assert "said 9" in found["results"][0]["text"]


async def test_a_throttled_database_is_503_with_when_to_come_again(
    http: httpx2.AsyncClient, client: MemoryServiceClient, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "VERB_S", 1.0)
    await client.start_session("s")
    await settled(http)
    cosmos_server.fails({"op": "batch", "status": 429, "retry_after_ms": 7000})
    turn = {"user_message": "said", "agent_message": "heard"}
    refused = await http.post(STORE, json={"user_id": "ana", "session_id": "s", **turn})
    problem(refused, 503, "store_throttled")
    assert refused.headers["retry-after"] == "7"
    cosmos_server.fails()
    await told(http, STORE, user_id="ana", session_id="s", **turn)
    store = (await http.get(STATS)).json()["store"]
    assert store["throttled"] >= 1
    assert store["verbs"]["commit"]["request_units"] > 10
    assert store["commits"] >= 2


async def test_livez_answers_while_the_database_answers_nobody(
    http: httpx2.AsyncClient, cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(http)
    with cosmos_server.paused(), monkeypatch.context() as within:
        within.setattr(calls, "CALL_S", 2.0)
        within.setattr(calls, "VERB_S", 3.0)
        waiting = {path: asyncio.create_task(http.get(path)) for path in ("/readyz", "/health")}
        for _ in range(20):
            assert (await http.get("/livez")).json() == {"status": "live"}
        assert not any(task.done() for task in waiting.values())
        problem(await waiting["/readyz"], 503, "store_unavailable")
        assert (await waiting["/health"]).status_code == 503
    assert (await http.get("/readyz")).status_code == 200


async def test_each_verb_is_done_once_and_says_so_though_the_first_answer_of_the_database_is_lost(
    http: httpx2.AsyncClient, cosmos_server: CosmosServer
) -> None:
    await settled(http)
    name = {"user_id": "ana", "session_id": "s"}
    turn = {**name, "user_message": "I prefer tea.", "agent_message": "Noted."}

    async def answered(path: str, headers: dict[str, str] | None = None, **body: object) -> dict[str, Any]:
        cosmos_server.fails({"op": "batch", "path": "interactions", "drop": "after", "times": 1})
        answer = await http.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert not (await answered(START, **name, restore=True))["restored"]
    stored = await answered(STORE, **turn)
    assert (stored["turn_number"], stored["replayed"]) == (1, False)
    stored = await answered(STORE, {"Idempotency-Key": "k"}, **turn)
    assert (stored["turn_number"], stored["replayed"]) == (2, False)
    assert (await answered(STORE, {"Idempotency-Key": "k"}, **turn)) == {**stored, "replayed": True}
    assert not (await answered(START, **name, restore=False))["restored"]
    stored = await answered(STORE, **turn)
    assert stored["turn_number"] == 3
    ended = await answered(END, **name, wait_s=PATIENCE_S)
    assert (ended["turns_count"], ended["reflection"]) == (1, "done")
    summaries = (await told(http, SUMMARIES, user_id="ana"))["summaries"]
    assert sorted(summary["turn_count"] for summary in summaries) == [1, 2]

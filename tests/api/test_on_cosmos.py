"""The service over Cosmos DB: the main road, over real HTTP; alone, and as one of two on the same record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service.server import running
from memory_service.settings import Settings
from memory_service.stores.cosmos import client as calls
from tests.api.conftest import Connect
from tests.api.talking import CONTEXT, PATIENCE_S, RETRIEVE, STATS, STORE, problem, settled, told
from tests.cosmos.launcher import KEY, CosmosServer
from tests.support.background import until

Serve = Callable[..., Awaitable[str]]
ON_COSMOS = {"store_url": "cosmos:", "cosmos_key": KEY, "sweep_interval_seconds": 0.2}


@pytest.fixture
async def url(serve: Serve, cosmos_server: CosmosServer) -> str:
    return await serve(**ON_COSMOS, cosmos_endpoint=cosmos_server.url)


async def test_a_new_session_begins_with_what_an_ended_one_taught(client: MemoryServiceClient) -> None:
    await client.start_session()
    stored = await client.store_turn("I'm allergic to walnuts.", "Noted: no walnuts.")
    assert stored["durability"] == "quorum"
    assert any("walnuts" in fact for fact in await client.retrieve_facts("walnuts"))
    ended = await client.end_session(wait_s=PATIENCE_S)
    context = await client.start_session()
    assert ended["reflection"] == "done"
    assert any("walnuts" in insight for insight in context["insights"])
    assert (await client.get_summaries())["summaries"]


async def test_what_was_said_is_found_by_its_meaning_once_it_has_its_vector(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await client.start_session("s")
    await client.store_turn("We adopted a kitten.", "Lovely.")
    await until(lambda: embedded(http))
    found = await told(http, RETRIEVE, user_id="ana", query="Is there a cat?")
    assert "kitten" in found["results"][0]["text"]


async def embedded(http: httpx2.AsyncClient) -> bool:
    recall = (await settled(http))["recall"]
    return bool(recall["embedded"])


@pytest.mark.parametrize(
    ("wish", "searched_by", "why"),
    [("auto", "account", ""), ("account", "account", ""), ("process", "process", "vector and full-text indexes")],
)
async def test_the_counters_say_who_searches(
    connect: Connect, cosmos_server: CosmosServer, wish: str, searched_by: str, why: str
) -> None:
    http = await connect(**ON_COSMOS, cosmos_endpoint=cosmos_server.url, cosmos_search=wish)
    await told(http, "/sessions/start", user_id="ana", session_id="s")
    turn = {"user_message": "I'm allergic to walnuts.", "agent_message": "Noted: no walnuts."}
    await told(http, STORE, user_id="ana", session_id="s", **turn)
    found = await told(http, RETRIEVE, user_id="ana", query="walnuts")
    assert "walnuts" in found["results"][0]["text"]
    recall = (await settled(http))["recall"]
    assert recall["searched_by"] == searched_by
    assert why in recall["searched_why"]
    assert bool(recall["searched_why"]) == bool(why)
    assert bool(recall["cached_users"]) == (searched_by == "process")


async def test_everything_is_there_after_a_restart(
    make_settings: Callable[..., Settings], cosmos_server: CosmosServer
) -> None:
    settings = make_settings(**ON_COSMOS, cosmos_endpoint=cosmos_server.url)
    async with running(settings) as url, MemoryServiceClient(url, "ana", "s") as client:
        await client.start_session("s")
        for number in range(3):
            await client.store_turn(f"said {number}", "heard", turn_id=f"t{number}")
    async with running(settings) as url, MemoryServiceClient(url, "ana", "s") as client:
        context = await client.get_context()
        assert [message["content"] for message in context["active_context"]][::2] == ["said 0", "said 1", "said 2"]
        assert (await client.store_turn("said 1", "heard", turn_id="t1"))["replayed"]


async def test_two_services_on_one_record_take_turns_in_one_session(
    connect: Connect, cosmos_server: CosmosServer
) -> None:
    given = {**ON_COSMOS, "cosmos_endpoint": cosmos_server.url}
    one, other = await connect(**given), await connect(**given)
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

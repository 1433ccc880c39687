"""Many callers of one session: each turn once, in each caller's order, hot or cold, whatever the pool and the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import httpx2
import pytest

from memory_service.pool import SessionPool
from memory_service.server import running
from memory_service.sessions import Draft, Sessions
from memory_service.settings import Settings
from memory_service.values import Message
from tests.stores.cosmos_account import settings_for
from tests.support.background import Clock
from tests.support.stores import YieldingStore, store_of
from tests.support.values import a_key

CLIENTS, TURNS = 10, 10
NAME = {"user_id": "ana", "session_id": "s"}


@pytest.fixture(params=["transient", "sqlite", "cosmos"])
def record(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> str | Settings:
    """STORE_URL, or settings, of an empty record of each kind."""
    if request.param == "cosmos":
        return settings_for(request.getfixturevalue("cosmos_server"))
    return "transient://" if request.param == "transient" else make_settings()


@pytest.mark.parametrize("max_sessions", [0, 1, 1000])
@pytest.mark.parametrize("yielding", [False, True], ids=["as it is", "that gives way"])
async def test_a_hundred_turns_of_ten_callers_at_once_are_dense_and_in_each_callers_order_on_every_store(
    record: str | Settings, yielding: bool, max_sessions: int
) -> None:
    async with AsyncExitStack() as stack:
        inner = store_of(record)
        store = YieldingStore(inner) if yielding else inner
        await store.start(stack)
        pool = SessionPool(store.load, store.commit, max_sessions=max_sessions, ttl_s=60)
        ids = iter(range(10_000))
        sessions = Sessions(store, pool, now=Clock(), new_id=lambda: f"id{next(ids)}", chance=lambda: 0.5)
        await sessions.start(a_key(), restore=True, agent_id=None)

        async def talk(caller: int) -> None:
            for number in range(TURNS):
                message = Message(role="user", content=f"{caller}:{number}")
                await sessions.append(a_key(), Draft(messages=(message,)))

        await asyncio.gather(*map(talk, range(CLIENTS)))
        turns = await store.turns(a_key())
    assert [turn.seq for turn in turns] == list(range(1, CLIENTS * TURNS + 1))
    said = [turn.messages[0].content for turn in turns]
    for caller in range(CLIENTS):
        mine = [words for words in said if words.startswith(f"{caller}:")]
        assert mine == [f"{caller}:{number}" for number in range(TURNS)]


async def test_a_cold_session_hit_by_fifty_requests_is_read_once(make_settings: Callable[..., Settings]) -> None:
    async with running(make_settings()) as url, httpx2.AsyncClient(base_url=url, timeout=60) as http:
        await http.post("/sessions/start", json=NAME)
        await http.post("/memory/store", json={**NAME, "user_message": "Before.", "agent_message": ""})
    async with running(make_settings(k_turn_buffer=100)) as url, httpx2.AsyncClient(base_url=url, timeout=60) as http:

        async def ask(number: int) -> httpx2.Response:
            if number % 2:
                return await http.post("/memory/context", json=NAME)
            turn = {"user_message": f"turn {number}", "agent_message": ""}
            return await http.post("/memory/store", json={**NAME, **turn})

        answers = await asyncio.gather(*map(ask, range(50)))
        assert {answer.status_code for answer in answers} == {200}
        stored = [answer.json()["turn_number"] for answer in answers[::2]]
        assert sorted(stored) == list(range(2, 27))
        stats = (await http.get("/stats")).json()
        assert (stats["misses"], stats["total_sessions"]) == (1, 1)
        said = [one["content"] for one in (await http.post("/memory/context", json=NAME)).json()["active_context"]]
        assert len(said) == len(set(said)) == 26


def operations(chance: Random) -> list[tuple[str, dict[str, Any]]]:
    """What callers may do, in some order, over few enough sessions that they meet again and again."""
    done = []
    for number in range(80):
        name = {"user_id": chance.choice(["ana", "ben"]), "session_id": chance.choice(["s", "t", "u"])}
        path = chance.choice(["/memory/store"] * 5 + ["/memory/context"] * 3 + ["/sessions/start", "/sessions/end"])
        if path == "/memory/store":
            name |= {"user_message": f"I said {number}.", "agent_message": "", "turn_id": f"t{chance.randrange(40)}"}
        if path == "/sessions/start":
            name |= {"restore": chance.random() < 0.7}
        done.append((path, name))
    return done


@pytest.mark.parametrize("seed", range(3))
async def test_answers_are_the_same_with_no_pool_a_pool_of_one_and_a_large_one(
    make_settings: Callable[..., Settings], tmp_path: Any, seed: int
) -> None:
    told: dict[int, list[tuple[int, bytes]]] = {}
    for size in (0, 1, 1000):
        url = f"sqlite:///{tmp_path}/{size}.db"
        # no compaction or reflection falls between the operations by chance
        settings = make_settings(store_url=url, max_sessions=size, k_turn_buffer=1000, m_sessions_recent=0)
        async with running(settings) as address, httpx2.AsyncClient(base_url=address, timeout=60) as http:
            same = {"X-Request-Id": "same"}
            answers = [await http.post(path, json=body, headers=same) for path, body in operations(Random(seed))]
            told[size] = [(answer.status_code, answer.content) for answer in answers]
            stats = (await http.get("/stats")).json()
            assert stats["total_sessions"] <= size
    assert told[0] == told[1] == told[1000]
    assert {status for status, _ in told[0]} >= {200, 404, 409}

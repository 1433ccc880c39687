"""The Idempotency-Key header: one name, one effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from memory_service.app import open_service
from memory_service.server import running
from memory_service.sessions import Draft, RequestName
from memory_service.settings import Settings
from memory_service.values import Message, Scope, SessionKey
from tests.support.background import Clock, settled

TURN = {"user_id": "ana", "session_id": "s", "user_message": "I prefer tea.", "agent_message": "Noted."}


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        for user_id in ("ana", "ben"):
            for session_id in ("s", "other"):
                await client.post("/sessions/start", json={"user_id": user_id, "session_id": session_id})
        yield client


async def store(http: httpx2.AsyncClient, key: str | None = "k1", **changes: Any) -> httpx2.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await http.post("/memory/store", json={**TURN, **changes}, headers=headers)


async def turns_held(http: httpx2.AsyncClient, user_id: str = "ana", session_id: str = "s") -> int:
    answer = await http.get(f"/sessions/{session_id}/reflection", params={"user_id": user_id})
    held: int = answer.json()["turns_count"]
    return held


async def test_a_request_sent_twice_under_one_name_has_one_effect_and_one_answer(http: httpx2.AsyncClient) -> None:
    first, second = await store(http), await store(http)
    assert (first.status_code, second.status_code) == (200, 200)
    assert {**first.json(), "replayed": True} == second.json()
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert await turns_held(http) == 1


async def test_two_at_once_under_one_name_have_one_effect(http: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(store(http) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["turn_id"] for answer in answers}) == 1
    assert sum(not answer.json()["replayed"] for answer in answers) == 1
    assert await turns_held(http) == 1


@pytest.mark.parametrize("changes", [{"user_message": "I prefer coffee."}, {"session_id": "other"}, {"turn_id": "t"}])
async def test_the_same_name_for_another_body_is_refused_and_changes_nothing(
    http: httpx2.AsyncClient, changes: dict[str, Any]
) -> None:
    await store(http)
    refused = await store(http, **changes)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert (await turns_held(http), await turns_held(http, session_id="other")) == (1, 0)


@pytest.mark.parametrize("named", [{}, {"turn_id": "t"}], ids=["by its key", "by its turn_id too"])
async def test_a_repeat_does_not_bring_an_erased_turn_back(http: httpx2.AsyncClient, named: dict[str, str]) -> None:
    first = await store(http, **named)
    erased = await http.delete("/sessions/s/turns/1", params={"user_id": "ana"})
    assert erased.json()["erased"] == {"sessions": 0, "turns": 1, "memories": 0, "sittings": 0, "requests": 0}
    for _ in range(2):
        assert (await store(http, **named)).json() == {**first.json(), "replayed": True}
    context = await http.post("/memory/context", json={"user_id": "ana", "session_id": "s"})
    assert "tea" not in context.text
    assert await turns_held(http) == 1
    refused = await store(http, user_message="I prefer coffee.", **named)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("path", ["/sessions/s", "/users/ana"])
async def test_of_a_session_or_a_user_that_was_erased_no_name_is_known(http: httpx2.AsyncClient, path: str) -> None:
    await store(http)
    await http.delete("/sessions/s/turns/1", params={"user_id": "ana"})
    erased = await http.delete(path, params={"user_id": "ana"} if "sessions" in path else {})
    assert erased.json()["erased"]["requests"] == 1
    await http.post("/sessions/start", json={"user_id": "ana", "session_id": "s"})
    assert not (await store(http, user_message="I prefer coffee.")).json()["replayed"]


async def test_a_name_is_the_users_own(http: httpx2.AsyncClient) -> None:
    assert not (await store(http)).json()["replayed"]
    assert not (await store(http, user_id="ben", user_message="I prefer coffee.")).json()["replayed"]


async def test_without_a_name_the_same_words_are_two_turns(http: httpx2.AsyncClient) -> None:
    await store(http, None)
    await store(http, None)
    assert await turns_held(http) == 2


async def test_a_name_still_answers_after_the_session_was_ended(http: httpx2.AsyncClient) -> None:
    first = await store(http)
    await http.post("/sessions/end", json={"user_id": "ana", "session_id": "s"})
    again = await store(http)
    assert again.json() == {**first.json(), "replayed": True}


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
async def test_a_name_that_is_no_name_is_refused_without_being_repeated(http: httpx2.AsyncClient, key: str) -> None:
    refused = await store(http, key)
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, "Idempotency-Key")
    assert not key or key not in refused.text
    assert await turns_held(http) == 0


async def test_two_names_for_one_request_are_refused(http: httpx2.AsyncClient) -> None:
    turn = {"user_id": "ana", "session_id": "s", "user_message": "Hello.", "agent_message": "Hi."}
    named = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused = await http.post("/memory/store", json=turn, headers=named)
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, "Idempotency-Key")
    assert await turns_held(http) == 0


async def test_a_name_is_remembered_over_a_restart(make_settings: Callable[..., Settings]) -> None:
    answers = []
    for _ in range(2):
        async with running(make_settings()) as url, httpx2.AsyncClient(base_url=url, timeout=60) as http:
            await http.post("/sessions/start", json={"user_id": "ana", "session_id": "s"})
            answers.append((await store(http)).json())
    assert answers[1] == {**answers[0], "replayed": True}


async def test_a_name_is_kept_for_a_day_and_not_for_ever_by_the_clock_that_the_service_was_given(
    make_settings: Callable[..., Settings],
) -> None:
    clock, key = Clock(), SessionKey(scope=Scope(user_id="ana"), session_id="s")
    message = Message(role="user", content="I prefer tea.")
    draft = Draft(messages=(message,), request=RequestName(key="k", digest="d"))
    async with open_service(make_settings(), clock.around) as service:
        await settled(service)  # a sweep that is late would find the session abandoned
        await service.start_session(key.scope, key.session_id, restore=True)
        assert (await service.store_turn(key, draft)).turn.seq == 1
        clock.advance(hours=23)
        assert (await service.store_turn(key, draft)).replayed
        clock.advance(hours=72)
        assert (await service.store_turn(key, draft)).turn.seq == 2

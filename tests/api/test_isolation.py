"""What one user said is never told to another, however alike the two are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from client import MemoryServiceClient
from tests.api.conftest import ClientAt, Connect
from tests.api.talking import (
    ALL_KINDS,
    AT,
    CONTEXT,
    END,
    INSIGHTS,
    PATIENCE_S,
    RETRIEVE,
    SAME,
    START,
    STATS,
    STORE,
    SUMMARIES,
    commits,
    problem,
    settled,
    told,
)

USERS = ("ana", "Ana", "ANA", "ana.", "ana-1", "a", "a:b", "a@b", "a_b", "a.b")
SESSIONS = ("s", "b:c", "c")


def canary(user_id: str, session_id: str = "s") -> str:
    """A word that nobody else says, and that FTS, JSON and regular expressions all leave alone."""
    return "canary" + f"{user_id}/{session_id}".encode().hex()


async def live(http: httpx2.AsyncClient, user_id: str, session_id: str) -> None:
    """Say the same as everybody, but for the one word; end one sitting and begin another."""
    word, who = canary(user_id, session_id), {"user_id": user_id, "session_id": session_id}
    await told(http, START, **who)
    for number, text in enumerate((f"I live in {word}.", f"My boat is called {word}.", f"I have a dog called {word}.")):
        said = {"user_message": text, "agent_message": f"So {word} it is.", "turn_id": f"t{number}"}
        await told(http, STORE, **who, **said, user_name=word, metadata={"word": word})
    await told(http, END, **who, wait_s=PATIENCE_S / 2)  # beside all the others it may not be done by then
    await told(http, START, **who, restore=False)
    await told(http, STORE, **who, user_message=f"Again: {word}.", agent_message="", turn_id="t9")


async def every_answer(http: httpx2.AsyncClient, user_id: str, session_id: str, query: str) -> str:
    """All that the service says to one user, over every endpoint."""
    who = {"user_id": user_id, "session_id": session_id}
    turn = {"user_message": "Hm.", "agent_message": "Hm."}
    said = []
    for path, body in (
        (CONTEXT, who),
        (START, who),
        (RETRIEVE, {"user_id": user_id, "query": query}),
        (RETRIEVE, {"user_id": user_id, "query": "boat dog live", "top_k": 100, "kinds": ALL_KINDS}),
        (RETRIEVE, {**who, "query": f"What did {query} say?"}),
        (INSIGHTS, {"user_id": user_id}),
        (INSIGHTS, {"user_id": user_id, "recent_only": True}),
        (SUMMARIES, {"user_id": user_id, "limit": 1000}),
        (STORE, {**who, **turn, "turn_id": "t0"}),  # an id that is in use
        (STORE, {**who, **turn}),
        (END, {**who, "wait_s": PATIENCE_S}),
        (START, {**who, "restore": False}),
        (START, {"user_id": user_id, "session_id": "elsewhere"}),
    ):
        response = await http.post(path, json=body)
        answer = response.json()
        answer.pop("query", None)  # the caller's own words
        said += [json.dumps(answer), str(response.headers)]
    params = {"user_id": user_id}
    for address in (f"/sessions/{session_id}/reflection", "/sessions/elsewhere/reflection", STATS, "/health"):
        response = await http.get(address, params=params if "reflection" in address else None)
        said += [response.text, str(response.headers)]
    for address in (f"/users/{user_id}/profile", f"/users/{user_id}/episodes"):
        response = await http.get(address)
        said += [response.text, str(response.headers)]
    return "\n".join(said)


@pytest.mark.parametrize("max_sessions", [1000, 1], ids=["hot", "pool of one"])
async def test_users_with_the_same_session_and_the_same_words_hear_only_their_own(
    connect: Connect, max_sessions: int
) -> None:
    http = await connect(max_sessions=max_sessions, k_turn_buffer=1)
    users = ("ana", "bob")
    await asyncio.gather(*(live(http, user, "s") for user in users))
    await settled(http)
    for user, other in (users, users[::-1]):
        heard = await every_answer(http, user, "s", canary(other))
        assert canary(user) in heard
        assert canary(other) not in heard


async def test_names_that_look_alike_are_different_users(connect: Connect) -> None:
    http = await connect(k_turn_buffer=1)
    owners = [(user, session) for user in USERS for session in SESSIONS]
    await asyncio.gather(*(live(http, *owner) for owner in owners))
    await settled(http)
    for user in USERS:
        heard = ""
        for session in SESSIONS:
            answer = await http.post(CONTEXT, json={"user_id": user, "session_id": session})
            [again] = [one["content"] for one in answer.json()["active_context"]] or [""]
            assert again in (f"Again: {canary(user, session)}.", ""), "the session's own words, or in its summary"
            heard += answer.text
        for path in (INSIGHTS, SUMMARIES):
            heard += (await http.post(path, json={"user_id": user})).text
        asked = {"user_id": user, "query": "boat dog live", "top_k": 100, "kinds": ALL_KINDS}
        heard += (await http.post(RETRIEVE, json=asked)).text
        assert [owner for owner in owners if canary(*owner) in heard] == [(user, session) for session in SESSIONS]


async def test_owner_and_session_are_never_taken_for_one_another(http: httpx2.AsyncClient) -> None:
    owners = [("a", "b:c"), ("a:b", "c"), ("a", "s"), ("A", "s"), ("a.", "s"), ("a", ".s"), ("s", "a")]
    for number, (user_id, session_id) in enumerate(owners):
        who = {"user_id": user_id, "session_id": session_id}
        assert (await told(http, START, **who))["restored"] is False
        stored = await told(http, STORE, **who, user_message=f"word{number}", agent_message="", turn_id="t")
        assert (stored["turn_number"], stored["replayed"]) == (1, False)
    everybodys = " ".join(f"word{number}" for number in range(len(owners)))
    for number, (user_id, session_id) in enumerate(owners):
        context = await told(http, CONTEXT, user_id=user_id, session_id=session_id)
        assert [one["content"] for one in context["active_context"]] == [f"word{number}"]
        found = await told(http, RETRIEVE, user_id=user_id, query=everybodys, top_k=100)
        own = {f"user: word{place}" for place, (owner, _) in enumerate(owners) if owner == user_id}
        assert set(found["facts"]) == own


async def test_a_session_of_somebody_else_looks_like_one_that_is_not_there(
    http: httpx2.AsyncClient, client: MemoryServiceClient
) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.", turn_id="t")
    before = await commits(http)
    turn = {"user_message": "I live in Lisbon.", "agent_message": "Noted.", "turn_id": "t"}
    for path, body in ((CONTEXT, {}), (STORE, turn), (END, {}), (END, {"wait_s": 1})):
        answers = [
            await http.post(path, json={"user_id": "bob", "session_id": session_id, **body}, headers=SAME)
            for session_id in ("s", "x")
        ]
        _same_refusal(*answers)
    asked: dict[str, Any] = {"params": {"user_id": "bob"}, "headers": SAME}
    _same_refusal(await http.get("/sessions/s/reflection", **asked), await http.get("/sessions/x/reflection", **asked))
    assert await commits(http) == before


def _same_refusal(foreign: httpx2.Response, missing: httpx2.Response) -> None:
    problem(foreign, 404, "session_not_found")
    assert foreign.content == missing.content
    headers = [{**answer.headers, "date": None} for answer in (foreign, missing)]
    assert headers[0] == headers[1]


async def test_a_session_id_somebody_else_uses_is_free(http: httpx2.AsyncClient, client: MemoryServiceClient) -> None:
    await client.start_session("s")
    await client.store_turn("I live in Lisbon.", "Noted.")
    await client.end_session(wait_s=PATIENCE_S)
    begun = await told(http, START, user_id="bob", session_id="s")
    assert begun == {
        "session_id": "s",
        "user_id": "bob",
        "active_context": [],
        "cumulative_summary": "",
        "insights": [],
        "session_summaries": [],
        "formatted_context": "",
        "restored": False,
    }


async def test_what_others_say_does_not_move_what_is_found(http: httpx2.AsyncClient, client_at: ClientAt) -> None:
    ana, bob = client_at(http, "ana"), client_at(http, "bob")
    await ana.start_session("s")
    for words in ("I cooked lentil soup.", "I cooked rice.", "It rains."):
        await ana.store_turn(words, "Enjoy.", user_name="Ana", created_at=AT)
    await settled(http)
    before = await ana.retrieve("What did Ana or Bob cook, soup?", 100)
    await bob.start_session("s")
    for number in range(30):
        await bob.store_turn(f"I cooked soup {number}.", "Soup!", user_name="Bob", created_at=AT)
    await bob.end_session(wait_s=PATIENCE_S)
    await settled(http)
    assert await ana.retrieve("What did Ana or Bob cook, soup?", 100) == before


async def test_what_is_learned_of_two_users_at_once_is_not_mixed(http: httpx2.AsyncClient, client_at: ClientAt) -> None:
    towns = {f"user{number}": f"Town{number}" for number in range(8)}

    async def talk(user_id: str, town: str) -> list[str]:
        client = client_at(http, user_id)
        await client.start_session("s")
        await client.store_turn(f"I live in {town}.", "Noted.")
        await client.end_session(wait_s=PATIENCE_S)
        return [one["content"] for one in (await client.get_insights())["insights"]]

    learned = await asyncio.gather(*(talk(*one) for one in towns.items()))
    assert learned == [[f"The user: I live in {town}."] for town in towns.values()]

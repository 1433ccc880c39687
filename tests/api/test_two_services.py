"""Two services on one record, asked in turn: each sees at once what was done at the other."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.api.conftest import ClientAt, Connect
from tests.api.talking import CONTEXT, END, INSIGHTS, PATIENCE_S, RETRIEVE, START, STATS, STORE, problem, told

pytestmark = pytest.mark.only_on("cosmos", "postgres", "others cannot be shared")

ANA = {"user_id": "ana", "session_id": "s"}
Pair = tuple[httpx2.AsyncClient, httpx2.AsyncClient]


@pytest.fixture(params=["alone", "redis"])
def tier(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of what they share beside the record."""
    return {} if request.param == "alone" else {"redis_url": request.getfixturevalue("redis_server").url}


@pytest.fixture
async def pair(connect: Connect, tier: dict[str, str]) -> Pair:
    return await connect(**tier), await connect(**tier)


def turn(text: str) -> dict[str, str]:
    return {**ANA, "user_message": text, "agent_message": "heard"}


async def said(http: httpx2.AsyncClient) -> list[str]:
    """What the user said, as the context of this service has it."""
    context = await told(http, CONTEXT, **ANA)
    return [message["content"] for message in context["active_context"]][::2]


async def test_a_turn_stored_at_one_is_in_the_context_of_the_other(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    stored: list[str] = []
    for number in range(8):
        await told(pair[number % 2], STORE, **turn(f"said {number}"))
        stored.append(f"said {number}")
        assert await said(pair[0]) == await said(pair[1]) == stored


async def test_turns_of_one_session_stored_at_both_at_once_are_each_there_once(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    storing = (told(pair[number % 2], STORE, **turn(f"said {number}")) for number in range(40))
    numbers = [stored["turn_number"] for stored in await asyncio.gather(*storing)]
    assert sorted(numbers) == list(range(1, 41))
    found = await told(pair[0], RETRIEVE, user_id="ana", query="said", top_k=100)
    assert len([hit for hit in found["results"] if hit["text"].startswith("said ")]) == 40


async def test_a_session_ended_at_one_takes_no_turn_at_the_other(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    await told(pair[0], STORE, **turn("one"))
    assert await said(pair[1]) == ["one"]
    await told(pair[0], END, **ANA)
    problem(await pair[1].post(STORE, json=turn("two")), 409, "session_ended")


async def test_a_session_begun_afresh_at_one_goes_on_at_the_other_that_saw_it_end(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    await told(pair[0], STORE, **turn("one"))
    await told(pair[1], END, **ANA)
    await told(pair[0], START, **ANA, restore=False)
    assert (await told(pair[1], STORE, **turn("two")))["turn_number"] == 2
    assert await said(pair[1]) == ["two"]
    ended = await told(pair[1], END, **ANA, wait_s=PATIENCE_S)
    assert ended["turns_count"] == 1
    problem(await pair[0].post(STORE, json=turn("three")), 409, "session_ended")


async def test_a_turn_stored_again_at_the_other_is_a_replay(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    first = await told(pair[0], STORE, **turn("one"), turn_id="t1")
    again = await told(pair[1], STORE, **turn("one"), turn_id="t1")
    assert (again["turn_number"], again["replayed"]) == (first["turn_number"], True)


async def test_what_one_has_learnt_the_other_tells_a_session_that_starts(pair: Pair, client_at: ClientAt) -> None:
    here, there = client_at(pair[0], "ana"), client_at(pair[1], "ana")
    assert (await there.start_session("before"))["insights"] == []
    await here.start_session("s")
    await here.store_turn("I'm allergic to walnuts.", "Noted: no walnuts.")
    await here.end_session(wait_s=PATIENCE_S)
    assert any("walnuts" in insight for insight in (await there.start_session("after"))["insights"])


async def test_a_session_is_reflected_on_once_however_many_ask_for_it(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    await told(pair[0], STORE, **turn("I'm allergic to walnuts."))
    ended = await asyncio.gather(*(told(http, END, **ANA, wait_s=PATIENCE_S) for http in pair * 3))
    assert {answer["reflection"] for answer in ended} == {"done"}
    found = await told(pair[0], INSIGHTS, user_id="ana")
    assert len(found["insights"]) == 1


async def test_a_store_costs_no_look_before_it_and_a_context_one(connect: Connect, tier: dict[str, str]) -> None:
    http = await connect(**tier)
    await told(http, START, **ANA)
    await told(http, STORE, **turn("one"))

    async def looks() -> int:
        verbs = (await http.get(STATS)).json()["store"]["verbs"]
        head = verbs.get("head", {})
        return int(head.get("requests", 0) or head.get("round_trips", 0))

    before = await looks()
    await told(http, STORE, **turn("two"))
    assert await looks() == before
    await said(http)
    assert await looks() == before + 1


async def test_the_counters_say_how_the_pool_is_kept_true(pair: Pair, connect: Connect) -> None:
    assert (await pair[0].get(STATS)).json()["coherence"] == "validate"
    alone = await connect(pool_coherence="exclusive")
    assert (await alone.get(STATS)).json()["coherence"] == "exclusive"
    await told(alone, START, **ANA)  # believing what it holds, it still asks a record on a network
    await told(alone, STORE, **turn("one"))
    assert await said(alone) == ["one"]


async def test_what_was_erased_at_one_is_held_by_the_other_no_more(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    for number in range(3):
        await told(pair[0], STORE, **turn(f"My zebrafinch is number {number}."))
    asked = {"user_id": "ana", "query": "number", "top_k": 100}
    for http in pair:  # both hold it now: the session, what is searched, and the answer
        assert (await told(http, RETRIEVE, **asked))["count"] == 6
        assert len(await said(http)) == 3
    assert (await pair[0].delete("/sessions/s/turns/2", params={"user_id": "ana"})).status_code == 200
    assert "is number 1" not in str([await told(pair[1], RETRIEVE, **asked), await said(pair[1])])
    assert len(await said(pair[1])) == 2
    assert (await pair[0].delete("/users/ana")).status_code == 200
    assert (await told(pair[1], RETRIEVE, **asked))["results"] == []
    problem(await pair[1].post(CONTEXT, json=ANA), 404, "session_not_found")
    await told(pair[0], START, **ANA)
    for number in range(3):  # as many as there were: the other must not take these for those
        await told(pair[0], STORE, **turn(f"I said {number}."))
    await told(pair[1], STORE, **turn("I said 3."))
    assert await said(pair[1]) == [f"I said {number}." for number in range(4)]
    assert "zebrafinch" not in str(await told(pair[1], RETRIEVE, **asked))


async def test_what_was_put_in_quarantine_at_one_is_held_by_the_other_no_more_until_it_is_let_out(pair: Pair) -> None:
    await told(pair[0], START, **ANA)
    for number in range(3):
        await told(pair[0], STORE, **turn(f"My zebrafinch is number {number}."))
    asked = {"user_id": "ana", "query": "number", "top_k": 100}
    for http in pair:  # both hold it now: the session, what is searched, and the answer
        assert (await told(http, RETRIEVE, **asked))["count"] == 6
        assert len(await said(http)) == 3
    await told(pair[0], "/sessions/s/quarantine", user_id="ana", turn_numbers=[2])
    for http in pair:
        assert "is number 1" not in str([await told(http, RETRIEVE, **asked), await said(http)])
        assert len(await said(http)) == 2
    await pair[1].delete("/sessions/s/quarantine", params={"user_id": "ana"})
    for http in pair:
        assert (await told(http, RETRIEVE, **asked))["count"] == 6
        assert len(await said(http)) == 3

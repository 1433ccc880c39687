"""Spaces: memory that agents share, each as far as its credential is told, and nothing of what is their users' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from client import MemoryServiceClient, SyncMemoryServiceClient
from memory_service.access import OfMemory
from memory_service.drivers.builtin import BuiltinDriver
from memory_service.keys import KNOWN_S
from memory_service.settings import Settings
from tests.api.conftest import Visit
from tests.api.talking import CONTEXT, END, INSIGHTS, RETRIEVE, START, STATS, STORE, problem, told
from tests.support.admitted import Admitted, admitting, key_id_of
from tests.support.background import settled

RESEARCH, BOARD = "space:research", "space:board"
WRITE: list[OfMemory] = ["read", "write"]
READ: list[OfMemory] = ["read"]
KEYS, MEMORIES = "/keys", "/memories"
NDJSON = {"content-type": "application/x-ndjson"}

pytestmark = pytest.mark.only_on("sqlite", "no store has a say in who may what")


@pytest.fixture
async def admitted(make_settings: Callable[..., Settings]) -> AsyncIterator[Admitted]:
    async with admitting(make_settings(store_url="transient://", auth_mode="keys")) as admitted:
        yield admitted


async def agent(admitted: Admitted, user_id: str, **spaces: list[OfMemory]) -> httpx2.AsyncClient:
    """An agent of one user of acme, who may everything with what is theirs."""
    return admitted.http(await admitted.key("acme", user_id, spaces=spaces))


async def say(http: httpx2.AsyncClient, user_id: str, text: str, session_id: str = "s") -> None:
    await told(http, START, user_id=user_id, session_id=session_id)
    await told(http, STORE, user_id=user_id, session_id=session_id, user_message=text, agent_message="")


async def found(http: httpx2.AsyncClient, user_id: str, query: str = "Where is the boat?") -> list[str]:
    return [one["text"] for one in (await told(http, RETRIEVE, user_id=user_id, query=query, top_k=100))["results"]]


async def test_agents_of_two_users_see_what_the_other_said_in_a_space_and_nothing_of_their_own(
    admitted: Admitted,
) -> None:
    ana, bob = await agent(admitted, "ana", research=WRITE), await agent(admitted, "bob", research=WRITE)
    async with ana, bob:
        await say(ana, "ana", "My boat is in Porto.")
        await say(bob, "bob", "My boat is in Oslo.")
        await say(ana, RESEARCH, "The boat of the institute is in Genoa.", "a")
        await say(bob, RESEARCH, "The other boat is in Malta.", "b")
        for http in (ana, bob):
            said = await found(http, RESEARCH)
            assert sorted(said) == ["The boat of the institute is in Genoa.", "The other boat is in Malta."]
            context = await told(http, CONTEXT, user_id=RESEARCH, session_id="a")
            assert "Genoa" in context["formatted_context"]
        assert await found(ana, "ana") == ["My boat is in Porto."]
        assert await found(bob, "bob") == ["My boat is in Oslo."]
        problem(await bob.post(RETRIEVE, json={"user_id": "ana", "query": "boat"}), 403, "scope_mismatch")


async def test_what_is_learnt_in_a_space_is_told_to_all_who_share_it(admitted: Admitted) -> None:
    ana, bob = await agent(admitted, "ana", research=WRITE), await agent(admitted, "bob", research=READ)
    async with ana, bob:
        await say(ana, RESEARCH, "I'm allergic to walnuts.")
        await told(ana, END, user_id=RESEARCH, session_id="s", wait_s=20)
        await settled(admitted.service)
        learnt = await told(bob, INSIGHTS, user_id=RESEARCH)
        assert "walnuts" in learnt["insights"][0]["content"]
        assert (await told(bob, INSIGHTS, user_id="bob"))["count"] == 0
        corrected = {"user_id": RESEARCH, "content": "Allergic to nothing."}
        path = f"{MEMORIES}/{learnt['insights'][0]['id']}"
        problem(await bob.patch(path, json=corrected), 403, "insufficient_scope")
        assert (await ana.patch(path, json=corrected)).json()["trust"] == "high"


async def test_a_space_has_a_profile_and_episodes_of_its_own(admitted: Admitted) -> None:
    ana, bob = await agent(admitted, "ana", research=WRITE), await agent(admitted, "bob", research=READ)
    profile, episodes = f"/users/{RESEARCH}/profile", f"/users/{RESEARCH}/episodes"
    boat, trip = {"profile": {"boat": "Ida"}}, {"event_type": "trip", "summary": "To Genoa"}
    async with ana, bob:
        assert (await ana.put(profile, json=boat)).status_code == 200
        assert (await ana.post(episodes, json=trip)).status_code == 200
        problem(await bob.put(profile, json=boat), 403, "insufficient_scope")
        problem(await bob.post(episodes, json=trip), 403, "insufficient_scope")
        problem(await ana.delete(profile), 403, "insufficient_scope")
        assert (await bob.get(profile)).json()["profile"] == {"boat": "Ida"}
        assert [one["summary"] for one in (await bob.get(episodes)).json()["episodes"]] == ["To Genoa"]
        assert (await ana.get("/users/ana/profile")).json()["version"] == 0


@pytest.mark.parametrize("whose", ["ana", RESEARCH])
async def test_who_may_write_a_profile_and_not_read_is_not_told_what_is_there(admitted: Admitted, whose: str) -> None:
    """Whether the permission is lacking for the user or for the space; the other one is no help."""
    profile, everything, write = f"/users/{whose}/profile", {*WRITE, "erase"}, {"write"}
    at_home, in_space = (write, everything) if whose == "ana" else (everything, write)
    key = await admitted.key("acme", "ana", permissions=at_home, spaces={"research": in_space})
    async with admitted.http(await admitted.key("acme")) as admin, admitted.http(key) as writer:
        await say(admin, whose, "My name is Ana Silva. I live in Porto.")
        await told(admin, END, user_id=whose, session_id="s", wait_s=20)
        full = (await admin.put(profile, json={"profile": {"boat": "Ida"}})).json()
        assert full["learned"]["home"]["value"] == "Porto"
        for answer in (
            await writer.put(profile, json={"profile": {"boat": "Ida"}}),
            await writer.patch(profile, json={"patch": {}}),
        ):
            assert answer.json() == {name: full[name] for name in ("user_id", "version", "updated_at")}
        problem(await writer.get(profile), 403, "insufficient_scope")
        assert (await admin.get(profile)).json() == full, "who may read is told"
        for session_id in ("s2", "s2"):
            begun = await told(writer, START, user_id=whose, session_id=session_id)
            assert begun.pop("session_id") == session_id
            assert {name: what for name, what in begun.items() if what} == {"user_id": whose} | {
                name: True for name in ["restored"] if begun["restored"]
            }
        assert "Porto" in (await told(admin, START, user_id=whose, session_id="s2"))["formatted_context"]


async def test_two_agents_may_go_on_with_one_session_of_a_space(admitted: Admitted) -> None:
    ana, bob = await agent(admitted, "ana", research=WRITE), await agent(admitted, "bob", research=WRITE)
    async with ana, bob:
        await say(ana, RESEARCH, "The boat is in Genoa.")
        await say(bob, RESEARCH, "It is sold.")
        context = await told(ana, CONTEXT, user_id=RESEARCH, session_id="s")
        assert [one["content"] for one in context["active_context"]] == ["The boat is in Genoa.", "It is sold."]


async def test_a_grant_ends_with_its_key_and_goes_on_with_the_one_in_its_place(admitted: Admitted) -> None:
    first = await admitted.key("acme", "ana", spaces={"research": WRITE})
    async with admitted.http(await admitted.key("acme")) as admin, admitted.http(first) as old:
        await say(old, RESEARCH, "The boat is in Genoa.")
        then = await told(admin, f"{KEYS}/{key_id_of(first)}/rotate", overlap_hours=0)
        assert (then["user_id"], then["spaces"]) == ("ana", {"research": ["read", "write"]})
        problem(await old.post(RETRIEVE, json={"user_id": RESEARCH, "query": "boat"}), 401, "unauthenticated")
        async with admitted.http(then["key"]) as new:
            assert await found(new, RESEARCH) == ["The boat is in Genoa."]
            await admin.delete(f"{KEYS}/{then['key_id']}")
            problem(await new.post(RETRIEVE, json={"user_id": RESEARCH, "query": "boat"}), 401, "unauthenticated")
        assert await found(admin, RESEARCH) == ["The boat is in Genoa."], "what was said stays"


async def test_what_a_key_may_in_spaces_holds_as_long_as_the_key_is_remembered(admitted: Admitted) -> None:
    key = await admitted.key("acme", "ana", spaces={"research": READ})
    async with admitted.http(key) as http:
        for _ in range(3):
            assert await found(http, RESEARCH) == []
            problem(await http.post(START, json={"user_id": RESEARCH}), 403, "insufficient_scope")
            admitted.clock.advance(seconds=KNOWN_S / 2)


async def test_who_may_only_read_what_is_theirs_writes_into_a_space_by_any_route_that_writes(
    admitted: Admitted,
) -> None:
    """Also under a name of the request's own, which is taken up before the body is."""
    key = await admitted.key("acme", "ana", permissions=["read"], spaces={"research": ["write"]})
    async with admitted.http(key) as http:
        await told(http, START, user_id=RESEARCH, session_id="s")
        turn = {"user_id": RESEARCH, "session_id": "s", "user_message": "Hello.", "agent_message": ""}
        for replayed in (False, True):
            answer = await http.post(STORE, json=turn, headers={"Idempotency-Key": "one"})
            assert answer.json()["replayed"] is replayed
        problem(await http.post(STORE, json={**turn, "user_id": "ana"}), 403, "insufficient_scope")
        problem(await http.post(STORE, content=b"{"), 400, "malformed_json")
        problem(await http.get(STATS), 403, "insufficient_scope")


async def test_of_memories_of_several_owners_none_is_stored_if_one_may_not_be(admitted: Admitted) -> None:
    async with await agent(admitted, "ana", research=WRITE, board=READ) as http:
        mine, ours, theirs, foreign = (
            {"user_id": user_id, "content": f"Of {user_id}.", "memory_id": "m"}
            for user_id in ("ana", RESEARCH, BOARD, "bob")
        )
        for memories, code in (([mine, ours, theirs], "insufficient_scope"), ([ours, mine, foreign], "scope_mismatch")):
            problem(await http.post(MEMORIES, json={"memories": memories}), 403, code)
        for user_id in ("ana", RESEARCH):
            problem(await http.get(f"{MEMORIES}/m", params={"user_id": user_id}), 404, "memory_not_found")
        assert (await told(http, MEMORIES, memories=[mine, ours]))["count"] == 2
        assert (await http.get(f"{MEMORIES}/m", params={"user_id": RESEARCH})).json()["text"] == f"Of {RESEARCH}."


async def test_a_space_is_erased_by_who_may_and_the_users_keep_what_is_theirs(admitted: Admitted) -> None:
    ana, bob = await agent(admitted, "ana", research=WRITE), await agent(admitted, "bob", research=["erase"])
    async with ana, bob:
        await say(ana, RESEARCH, "The boat is in Genoa.")
        await say(ana, "ana", "My boat is in Porto.")
        problem(await ana.delete(f"/users/{RESEARCH}"), 403, "insufficient_scope")
        assert (await bob.delete(f"/users/{RESEARCH}")).json()["erased"]["turns"] == 1
        assert await found(ana, RESEARCH) == []
        assert await found(ana, "ana") == ["My boat is in Porto."]
        problem(await bob.delete("/users/ana"), 403, "scope_mismatch")


async def test_a_users_file_is_taken_into_a_space_and_back(admitted: Admitted) -> None:
    async def exported(http: httpx2.AsyncClient, user_id: str) -> list[bytes]:
        answer = await http.get(f"/users/{user_id}/export")
        assert answer.status_code == 200
        return answer.content.splitlines(keepends=True)

    async def imported(http: httpx2.AsyncClient, lines: list[bytes], **query: str) -> httpx2.Response:
        return await http.post("/users/import", content=b"".join(lines), params=query, headers=NDJSON)

    async with admitted.http(await admitted.key("acme")) as http:
        await say(http, "ana", "I'm allergic to walnuts.")
        await told(http, END, user_id="ana", session_id="s", wait_s=20)
        await settled(admitted.service)
        of_ana = await exported(http, "ana")
        assert (await imported(http, of_ana, user_id=RESEARCH)).json()["user_id"] == RESEARCH
        of_space = await exported(http, RESEARCH)
        assert of_space[1:] == of_ana[1:]
        assert (RESEARCH.encode() in of_space[0], b"ana" in of_ana[0]) == (True, True)
        assert (await imported(http, of_space, user_id="ana")).json()["change"] == "unchanged"
        assert (await imported(http, of_space)).json()["change"] == "unchanged"
        assert (await imported(http, of_space, user_id="bob")).json()["change"] == "created"
        assert (await exported(http, "bob"))[1:] == of_ana[1:]
        for lines, query in ((of_ana, {"user_id": "space:a:b"}), ([of_space[0].replace(b"arch", b":")], {})):
            problem(await imported(http, lines, **query), 422, "invalid_id")
    async with await agent(admitted, "ana", research=["read", "write", "erase"]) as http:
        problem(await imported(http, of_space), 403, "insufficient_scope")


async def test_the_gateway_names_a_space_as_a_user(admitted: Admitted) -> None:
    said = [{"role": "user", "text": "The boat is in Genoa."}]
    ana, bob = await agent(admitted, "ana", research=WRITE), await agent(admitted, "bob", research=READ)
    async with ana, bob:
        context = {"session_id": "s", "user_id": RESEARCH, "messages": said}
        problem(await bob.post("/upsert-session-context", json={"session_context": context}), 403, "insufficient_scope")
        await told(ana, "/upsert-session-context", session_context=context)
        made = {"session_id": "s", "agent_id": "a", "user_id": RESEARCH, "session_context": context}
        assert (await told(ana, "/create-memory", **made))["memory"]["user_id"] == RESEARCH
        problem(await bob.post("/create-memory", json=made), 403, "insufficient_scope")
        (heard,) = (await told(bob, "/get-session-context", user_id=RESEARCH))["results"]
        assert heard["user_id"] == RESEARCH
        assert len((await told(bob, "/get-memories", user_id=RESEARCH))["memories"]) == 1
        for http in (ana, bob):  # who names nobody means himself
            assert (await told(http, "/get-session-context", session_id="s"))["results"] == []
        problem(await bob.post("/get-memories", json={"user_id": BOARD}), 403, "scope_mismatch")


async def test_the_built_in_driver_names_a_space_as_a_user(admitted: Admitted) -> None:
    driver = BuiltinDriver(admitted.service, "acme")
    await driver.store(RESEARCH, "The boat is in Genoa.")
    (memory,) = await driver.recall(RESEARCH, query="boat")
    assert memory["user_id"] == RESEARCH
    for name in ("space:", "space:a:b"):
        with pytest.raises(ValueError, match="user_id"):
            await driver.recall(name)


async def test_both_clients_name_a_space(visit: Visit) -> None:
    async with visit() as http:
        url = str(http.base_url)
        async with MemoryServiceClient(url, space="research") as client:
            assert (await client.start_session("s"))["user_id"] == client.user_id == RESEARCH
            await client.store_turn("The boat is in Genoa.", "")

        def blocking() -> list[str]:
            with SyncMemoryServiceClient(url, space="research") as client:
                return client.retrieve_facts("Where is the boat?")

        assert await asyncio.to_thread(blocking) == ["user: The boat is in Genoa."]
        async with MemoryServiceClient(url, "research") as client:
            assert await client.retrieve_facts("Where is the boat?") == []


class TestKeys:
    """What keys are told of spaces, over HTTP."""

    async def test_a_key_is_made_with_spaces_and_listed_with_them(self, admitted: Admitted) -> None:
        wanted: dict[str, Any] = {"name": "k", "permissions": ["read"], "user_id": "ana"}
        async with admitted.http(await admitted.key("acme")) as http:
            made = await told(http, KEYS, **wanted, spaces={"research": ["write", "read", "read"], "board": ["erase"]})
            assert made["spaces"] == {"board": ["erase"], "research": ["read", "write"]}
            assert (await told(http, KEYS, **wanted))["spaces"] == {}
            listed = (await http.get(KEYS)).json()["keys"]
            assert {key["key_id"]: key["spaces"] for key in listed}[made["key_id"]] == made["spaces"]
            revoked = await http.delete(f"{KEYS}/{made['key_id']}")
            assert revoked.json()["spaces"] == made["spaces"]

    async def test_what_is_not_in_order_makes_no_key(self, admitted: Admitted) -> None:
        wrong: list[tuple[Any, str]] = [
            *(({name: ["read"]}, "$.spaces") for name in ("a b", RESEARCH, "", "x" * 101)),
            ({"research": []}, "$.spaces[...]"),
            ({"research": ["admin"]}, "$.spaces[...][0]"),
            ({"research": ["read", "metrics"]}, "$.spaces[...][1]"),
            ({"research": "read"}, "$.spaces[...]"),
            (["research"], "$.spaces"),
            ({f"s{number}": ["read"] for number in range(101)}, "$.spaces"),
        ]
        async with admitted.http(await admitted.key("acme")) as http:
            for spaces, place in wrong:
                asked = {"name": "k", "permissions": ["read"], "user_id": "ana", "spaces": spaces}
                answer = await http.post(KEYS, json=asked)
                assert answer.status_code == 422, f"{spaces}: {answer.text}"
                assert answer.json()["errors"][0]["loc"] == place, spaces
            assert len((await http.get(KEYS)).json()["keys"]) == 1

    async def test_spaces_are_for_keys_of_one_user(self, admitted: Admitted) -> None:
        async with admitted.http(await admitted.key("acme")) as http:
            asked = {"name": "k", "permissions": ["read"], "spaces": {"research": ["read"]}}
            refusal = problem(await http.post(KEYS, json=asked), 422, "validation_failed")
            assert refusal["errors"][0]["loc"] == "$.spaces"
            assert len((await http.get(KEYS)).json()["keys"]) == 1

    async def test_nobody_hands_on_for_a_space_what_he_may_not(self, admitted: Admitted) -> None:
        strong = await admitted.key("acme", "ana", permissions=["read"], spaces={"research": ["erase"]})
        async with admitted.http(await admitted.key("acme", permissions=["admin", "read"])) as http:
            asked = {"name": "k", "permissions": ["read"], "user_id": "ana"}
            for granted in (["write"], ["read", "erase"]):
                refused = await http.post(KEYS, json={**asked, "spaces": {"research": granted}})
                problem(refused, 403, "insufficient_scope")
            problem(await http.post(f"{KEYS}/{key_id_of(strong)}/rotate", json={}), 403, "insufficient_scope")
            assert (await told(http, KEYS, **asked, spaces={"research": ["read"]}))["key"]

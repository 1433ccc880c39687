"""The store in Cosmos DB: the whole contract over the real SDK, and what is its own.

The server is the one of the tests (tests/cosmos/README.md); nothing here was compared with real Azure.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos import CosmosClient, PartitionKey
from msgspec.structs import replace

from memory_service.errors import ContentTooLarge, StoreUnavailable, UnsafeStart
from memory_service.settings import Settings
from memory_service.stores.aging import Tenants
from memory_service.stores.base import REQUESTS_KEPT, Commit, Store
from memory_service.stores.cosmos import aging
from memory_service.stores.cosmos.documents import RECEIPTS_KEPT_S
from memory_service.values import Hot, Request, SessionKey
from tests.cosmos.launcher import KEY, CosmosServer
from tests.stores.contract import DurableStoreContract
from tests.stores.cosmos_account import CONTAINERS, container, contents, documents, everything, settings_for
from tests.support.large import image
from tests.support.stores import opened
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_scope,
    a_session,
    a_sitting,
    a_turn,
    a_vector,
    begin,
    minutes,
    next_turn,
)

ROOT = Path(__file__).parents[2]


class TestCosmosStore(DurableStoreContract):
    @pytest.fixture
    def record(self, cosmos_server: CosmosServer) -> Settings:
        self.server = cosmos_server
        return settings_for(cosmos_server)

    def everything(self, store: Any) -> Any:
        return everything(self.server)

    def contents(self, store: Any) -> list[str]:
        return contents(self.server)


@pytest.fixture
async def store(cosmos_server: CosmosServer) -> AsyncIterator[Store]:
    """A store that has written and read before: what the SDK asks for once, it has."""
    async with opened(settings_for(cosmos_server)) as store:
        await store.entries((await used(store)).scope, None, "space")
        cosmos_server.calls()
        yield store


async def used(store: Store) -> SessionKey:
    key = a_key("warm")
    await begin(store, key, turns=1)
    return key


# What a verb costs


def ops(server: CosmosServer) -> list[str]:
    return [call["op"] for call in server.calls() if call["op"] != "GET account"]


async def test_a_turn_is_stored_in_one_round_trip_with_or_without_a_name(
    store: Store, cosmos_server: CosmosServer
) -> None:
    key = a_key()
    hot = Hot(session=await begin(store, key))
    cosmos_server.calls()
    commit, hot = next_turn(hot, key)
    await store.commit(commit)
    assert ops(cosmos_server) == ["batch"]
    commit, _ = next_turn(hot, key)
    await store.commit(replace(commit, request=Request(key="k", digest="d", made_at=NOON)))
    assert ops(cosmos_server) == ["batch"]


async def test_a_session_is_loaded_by_a_point_read_and_one_query_if_it_has_live_turns(
    store: Store, cosmos_server: CosmosServer
) -> None:
    key = a_key()
    head = await begin(store, key, turns=30)
    cosmos_server.calls()
    await store.load(key)
    assert ops(cosmos_server) == ["read", "query"]
    await store.commit(Commit(scope=key.scope, session=head.compacted(30, "all")))
    cosmos_server.calls()
    await store.load(key)
    assert ops(cosmos_server) == ["read"]


async def test_a_reflection_is_kept_in_three_steps(store: Store, cosmos_server: CosmosServer) -> None:
    """A look whether it is still the worker's to write and what is there, memories, and what says that it is done."""
    memories = (a_memory("m1"), a_memory("m2"), a_memory("summary_1", kind="summary"))
    await store.commit(Commit(scope=a_scope(), sittings=(a_sitting(),), memories=memories))
    assert ops(cosmos_server) == ["query"] * 3 + ["batch"] * 3


async def test_what_has_not_changed_costs_one_question_a_feed(store: Store, cosmos_server: CosmosServer) -> None:
    page = await store.entries(a_scope(), None, "space")
    cosmos_server.calls()
    await store.entries(a_scope(), page.cursor, "space")
    assert ops(cosmos_server) == ["change_feed"] * 3


async def test_many_turns_are_found_in_few_questions_and_one_is_read(store: Store, cosmos_server: CosmosServer) -> None:
    key = a_key()
    await begin(store, key, turns=2)
    for ids, asked in (["t1"], ["read"]), ([f"t{number}" for number in range(1, 1_001)], ["query"] * 5):
        cosmos_server.calls()
        await store.find_turns(key, ids)
        assert ops(cosmos_server) == asked


async def test_no_question_about_one_user_leaves_that_user_s_partition(
    store: Store, cosmos_server: CosmosServer
) -> None:
    key = a_key("s", "ana", "acme")
    await begin(store, key, turns=3)
    await store.commit(Commit(scope=key.scope, sittings=(a_sitting(),), memories=(a_memory("m"),)))
    cosmos_server.calls()
    await store.load(key)
    await store.turns(key)
    await store.find_turn(key, "t1")
    await store.find_turns(key, ["t1", "t2"])
    await store.find_effect(key.scope, "k")
    await store.sittings(key)
    await store.memories(key.scope, ["insight", "summary"])
    await store.due_reflections(NOON, 10, key.scope)
    calls = cosmos_server.calls()
    assert len(calls) == 10
    assert {call["key"] for call in calls} == {'["acme|ana"]'}


async def test_requests_and_charges_are_counted_by_verb(store: Store, cosmos_server: CosmosServer) -> None:
    before = store.usage()["verbs"]["commit"]
    key = a_key()
    await begin(store, key, turns=4)
    cosmos_server.fails({"op": "read", "status": 449, "times": 1})
    await store.load(key)
    calls = cosmos_server.calls()
    usage = store.usage()
    commit, load = usage["verbs"]["commit"], usage["verbs"]["load"]
    assert commit["requests"] - before["requests"] == 5
    spent = sum(call["ru"] for call in calls if call["op"] == "batch")
    assert commit["request_units"] - before["request_units"] == pytest.approx(spent, abs=0.11)
    assert commit["bytes_sent"] - before["bytes_sent"] > 5 * 500
    assert load["requests"] == 3
    spent = sum(call["ru"] for call in calls if call["op"] in ("read", "query"))
    assert spent % 1 > 0.1
    assert load["request_units"] == pytest.approx(spent, abs=0.06)
    assert load["bytes_received"] > 4 * 100
    assert usage["throttled"] == 0


async def test_what_the_sdk_asks_of_itself_is_not_counted_for_the_verb(cosmos_server: CosmosServer) -> None:
    async with opened(settings_for(cosmos_server)) as store:
        await begin(store, a_key(), turns=1)
        await store.entries(a_scope(), None, "space")  # before the first change feed it asks for the container's ranges
        calls = Counter(call["op"] for call in cosmos_server.calls())
        verbs = store.usage()["verbs"]
    assert calls["GET dbs/colls/pkranges"]
    assert verbs["commit"]["requests"] == calls["batch"] == 2
    assert verbs["entries"]["requests"] == calls["change_feed"]
    ours = sum(calls[op] for op in ("batch", "change_feed", "query", "delete"))
    assert verbs["metadata"]["requests"] == calls.total() - ours


async def test_only_what_is_queried_is_indexed_and_names_of_requests_and_receipts_go_by_themselves(
    store: Store, cosmos_server: CosmosServer
) -> None:
    commit, _ = next_turn(Hot(session=await begin(store, a_key())), a_key())
    await store.commit(replace(commit, request=Request(key="k", digest="d", made_at=NOON)))
    for name in CONTAINERS:
        properties = container(cosmos_server, name)
        assert {"path": "/*"} in properties["indexingPolicy"]["excludedPaths"]
        assert "/body/?" not in [path["path"] for path in properties["indexingPolicy"]["includedPaths"]]
        assert properties["defaultTtl"] == -1
    lives = {document["id"]: document.get("ttl") for document in documents(cosmos_server, "interactions")}
    assert lives["request:k"] == REQUESTS_KEPT.total_seconds()
    assert {ttl for name, ttl in lives.items() if name.startswith("receipt:")} == {RECEIPTS_KEPT_S}
    assert {ttl for name, ttl in lives.items() if not name.startswith(("request:", "receipt:"))} == {None}


# Sizes


async def test_a_turn_too_large_for_the_database_is_refused_as_too_large_and_nothing_is_written(
    store: Store, cosmos_server: CosmosServer
) -> None:
    key = a_key()
    head = await begin(store, key, turns=1)
    before = everything(cosmos_server)
    turn = a_turn(2, text=image(1_100_000))
    with pytest.raises(ContentTooLarge, match="2000000"):
        await store.commit(Commit(scope=key.scope, session=head.with_turn(turn), turns=(turn,)))
    assert everything(cosmos_server) == before


@pytest.mark.parametrize("fault", [{}, {"drop": "after"}, {"status": 429, "retry_after_ms": 5}, {"status": 503}])
async def test_a_turn_that_is_nearly_too_large_is_stored_without_a_warning(
    store: Store, cosmos_server: CosmosServer, fault: dict[str, Any]
) -> None:
    """aiohttp warns of a megabyte in one piece; a warning is an error here. It can be sent again like any other."""
    key = a_key()
    head = await begin(store, key, turns=1)
    turn = a_turn(2, text=image(700_000), metadata={"more": "é" * 100_000})
    cosmos_server.fails({"op": "batch", "times": 1, **fault} if fault else {"op": "none"})
    await store.commit(Commit(scope=key.scope, session=head.with_turn(turn), turns=(turn,)))
    assert await store.find_turn(key, "t2") == turn


async def test_more_turns_than_a_batch_holds_are_refused_as_too_large_with_the_limit_and_no_memory_is_written(
    store: Store, cosmos_server: CosmosServer
) -> None:
    before = everything(cosmos_server)
    turns = tuple(a_turn(seq) for seq in range(1, 101))
    commit = Commit(scope=a_scope(), session=a_session(turn_count=100), turns=turns, memories=(a_memory("m"),))
    with pytest.raises(ContentTooLarge, match="101 documents in one commit: the limit is 100"):
        await store.commit(commit)
    assert everything(cosmos_server) == before


async def test_any_number_and_size_of_memories_and_vectors_are_written_in_parts(store: Store) -> None:
    memories = tuple(a_memory(f"m{number}", text="é" * 6_000) for number in range(250))
    await store.commit(Commit(scope=a_scope(), memories=memories))
    assert len(await store.memories(a_scope(), ["insight"])) == 250
    due = await store.due_vectors("space", 1000)
    vectors = tuple(a_vector(item, data=bytes(4 * 3072)) for item in due)
    assert len(vectors) == 251
    await store.commit(Commit(scope=a_scope(), vectors=vectors))
    assert await store.due_vectors("space", 1000) == []


async def test_memories_that_are_kept_hide_none_that_are_aged_however_many_pages_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch, cosmos_server: CosmosServer
) -> None:
    monkeypatch.setattr(aging, "PAGE", 2)
    await begin(store, a_key("here"))
    kept = [a_memory(f"edited {n}", kind="memory", created_at=minutes(n), edited=True) for n in range(3)]
    kept += [a_memory(f"of here {n}", kind="memory", created_at=minutes(3 + n), session_id="here") for n in range(3)]
    due = [a_memory(f"due {n}", kind="memory", created_at=minutes(10 + n)) for n in range(5)]
    await store.commit(Commit(scope=a_scope(), memories=(*kept, *due)))
    found = await store.aged_memories(Tenants(), minutes(60), 3)
    assert [one.memory.memory_id for one in found] == ["due 0", "due 1", "due 2"]
    assert len(await store.aged_memories(Tenants(), minutes(60), 100)) == 5
    cosmos_server.calls()
    assert await store.aged_memories(Tenants(), minutes(-1), 100) == []
    assert len([call for call in cosmos_server.calls() if call["op"] == "query"]) == 2, "one a container"


async def test_overtaken_vectors_are_dropped_and_the_others_are_written(store: Store) -> None:
    await store.commit(Commit(scope=a_scope(), memories=tuple(a_memory(f"m{number}") for number in range(9))))
    due = await store.due_vectors("space", 100)
    anew = tuple(a_memory(f"m{number}", text="other words") for number in (0, 4, 8))
    await store.commit(Commit(scope=a_scope(), memories=anew))
    await store.commit(Commit(scope=a_scope(), vectors=tuple(map(a_vector, due))))
    left = await store.due_vectors("space", 100)
    assert [item.memory for item in left] == list(anew)


async def test_a_turn_whose_vector_came_later_is_given_in_its_place(store: Store) -> None:
    """The feed has it where it was last changed: after the turn that followed it."""
    key = a_key()
    await begin(store, key, turns=5)
    due = [item for item in await store.due_vectors("space", 100) if item.turn and item.turn.session_id == "s"]
    for item in (due[3], due[0], due[2]):
        await store.commit(Commit(scope=key.scope, vectors=(a_vector(item),)))
    page = await store.entries(key.scope, None, "space")
    assert [turn.seq for turn in page.turns if turn.session_id == "s"] == [1, 2, 3, 4, 5]


# Names that Cosmos DB does not take


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a?b", "a#b", "é", "a ", "x" * 255, "a|b", "%7C", "head:s"])
async def test_names_of_any_kind_can_be_stored_and_found(store: Store, name: str) -> None:
    key = a_key(name, name, f"t{name}")
    head = await begin(store, key, turns=1)
    commit, _ = next_turn(Hot(session=head), key, turn_id=name)
    commit = replace(commit, memories=(a_memory(name),), request=Request(key=name, digest="d", made_at=NOON))
    await store.commit(commit)
    assert (await store.load(key) or pytest.fail()).session == commit.session
    assert await store.find_turn(key, name) == commit.turns[0]
    assert await store.find_effect(key.scope, name)
    assert await store.memories(key.scope, ["insight"]) == [a_memory(name)]
    assert [key] == [due for due in await store.due_sessions(minutes(60), 0, 10) if due.session_id == name]


# Starting


async def test_a_second_start_makes_nothing(store: Store, cosmos_server: CosmosServer) -> None:
    async with opened(settings_for(cosmos_server)) as other:
        assert await other.load(a_key("warm")) is not None
    assert [op for op in ops(cosmos_server) if op.startswith("POST")] == []


async def test_stores_that_start_together_on_nothing_all_start(cosmos_server: CosmosServer) -> None:
    cosmos_server.fails({"op": "POST dbs", "delay_ms": 50}, {"op": "POST dbs/colls", "delay_ms": 50})

    async def start(number: int) -> None:
        async with opened(settings_for(cosmos_server)) as store:
            await begin(store, a_key(f"s{number}"))

    await asyncio.gather(*map(start, range(4)))
    late = {call["op"] for call in cosmos_server.calls() if call["status"] == 409}
    assert late == {"POST dbs", "POST dbs/colls"}


async def test_names_of_database_and_containers_are_those_of_the_settings(cosmos_server: CosmosServer) -> None:
    names = {"cosmos_interactions_container": "one", "cosmos_summaries_container": "two"}
    settings = settings_for(cosmos_server, cosmos_database_name="mine", cosmos_insights_container="three", **names)
    async with opened(settings) as store:
        await begin(store, a_key(), turns=1)
    with CosmosClient(cosmos_server.url, KEY) as client:
        assert [database["id"] for database in client.list_databases()] == ["mine"]
        made = client.get_database_client("mine").list_containers()
        assert sorted(container["id"] for container in made) == ["one", "three", "two"]


async def test_a_store_that_was_stopped_is_unavailable(cosmos_server: CosmosServer) -> None:
    async with opened(settings_for(cosmos_server)) as store:
        await begin(store, a_key())
    for verb in (store.load(a_key()), store.commit(Commit(scope=a_scope(), memories=(a_memory("m"),)))):
        with pytest.raises(StoreUnavailable):
            await verb


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cosmos_endpoint": ""}, "COSMOS_ENDPOINT"),
        ({"cosmos_endpoint": "no address"}, "COSMOS_ENDPOINT"),
        ({"cosmos_endpoint": "http://127.0.0.1:9/"}, "COSMOS_ENDPOINT"),
        ({"cosmos_key": "not base 64"}, "COSMOS_KEY"),
        ({"cosmos_key": "clé"}, "COSMOS_KEY"),
        ({"cosmos_insights_container": "interactions"}, "three containers"),
        ({"cosmos_insights_container": ""}, "COSMOS_INSIGHTS_CONTAINER"),
        ({"cosmos_summaries_container": "a/b"}, "COSMOS_SUMMARIES_CONTAINER"),
        ({"cosmos_interactions_container": "a#b"}, "COSMOS_INTERACTIONS_CONTAINER"),
        ({"cosmos_database_name": ""}, "COSMOS_DATABASE_NAME"),
        ({"cosmos_database_name": "ends "}, "COSMOS_DATABASE_NAME"),
    ],
)
async def test_what_cannot_be_opened_is_refused_with_one_line_that_holds_no_key(
    cosmos_server: CosmosServer, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsafeStart, match=said) as caught:
        async with opened(settings_for(cosmos_server, store_url="cosmos:", **changes)):
            pass
    words = str(caught.value)
    assert "\n" not in words
    assert KEY not in words
    assert "base 64" not in words


@pytest.mark.parametrize("container", ["interactions", "session_summaries", "insights"])
async def test_who_may_read_but_not_write_is_refused(cosmos_server: CosmosServer, container: str) -> None:
    async with opened(settings_for(cosmos_server)):
        pass
    writing = ("create", "upsert", "replace", "patch", "delete", "batch")
    cosmos_server.fails(
        *({"op": op, "path": f"colls/{container}/", "status": 403, "substatus": 5301} for op in writing)
    )
    with pytest.raises(UnsafeStart, match=f"nothing may be written to the Cosmos DB container '{container}'"):
        async with opened(settings_for(cosmos_server)):
            pass


async def test_a_start_does_not_fail_for_an_account_that_is_busy(cosmos_server: CosmosServer) -> None:
    cosmos_server.fails({"op": "delete", "status": 429, "retry_after_ms": 10})
    async with opened(settings_for(cosmos_server)) as store:
        await store.ping()


async def test_a_container_that_takes_only_short_owners_is_refused(cosmos_server: CosmosServer) -> None:
    with CosmosClient(cosmos_server.url, KEY) as client:
        client.create_database("agent_memory").create_container("interactions", PartitionKey("/owner", version=1))
    with pytest.raises(UnsafeStart, match="partition key of version 1"):
        async with opened(settings_for(cosmos_server)):
            pass


async def test_a_container_of_somebody_else_is_left_alone(cosmos_server: CosmosServer) -> None:
    with CosmosClient(cosmos_server.url, KEY) as client:
        client.create_database("agent_memory").create_container("insights", PartitionKey("/user"))
    with pytest.raises(UnsafeStart, match="insights"):
        async with opened(settings_for(cosmos_server)):
            pass


@pytest.mark.parametrize("missing", ["azure", "aiohttp"])
def test_missing_packages_are_named_with_the_line_that_installs_them(missing: str) -> None:
    program = (
        f"import sys; sys.modules['{missing}'] = None\n"
        "from memory_service.errors import UnsafeStart; from memory_service.settings import Settings\n"
        "from memory_service.stores import make_store\n"
        "try: make_store(Settings(_env_file=None, cosmos_endpoint='http://127.0.0.1:9/'))\n"
        "except UnsafeStart as exc: print(exc)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert f"needs {missing}" in ran.stdout
    assert "pip install 'agent-memory-service[azure]'" in ran.stdout

"""Search by the Cosmos DB account's own indexes, and what is done where it has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from azure.cosmos import CosmosClient

from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.stores import indexing
from memory_service.stores.base import Store
from memory_service.stores.indexing import DIMENSIONS, MOST_TERMS, direction_of, word_of, words_of
from memory_service.text import Tokenizer
from tests.cosmos.launcher import KEY, CosmosServer
from tests.stores.contract_candidates import ANA, BEN, CandidatesContract, asked, learned, names, point, row, said
from tests.stores.cosmos_account import CONTAINERS, container, documents, settings_for
from tests.support.remembering import say
from tests.support.stores import opened
from tests.support.values import a_memory, a_turn

NO_SEARCH = {"op": "POST dbs/colls", "body": "vectorIndexes|vectorEmbedding|fullText", "status": 400}
"""An account without the features: it takes no container that asks for them."""


class TestCosmosCandidates(CandidatesContract):
    @pytest.fixture
    async def store(self, cosmos_server: CosmosServer) -> AsyncIterator[Store]:
        async with opened(settings_for(cosmos_server, store_search="store")) as store:
            yield store


@pytest.fixture
async def store(cosmos_server: CosmosServer) -> AsyncIterator[Store]:
    async with opened(settings_for(cosmos_server)) as store:
        yield store


# Who searches


async def test_an_account_that_has_the_indexes_searches(store: Store, cosmos_server: CosmosServer) -> None:
    assert (store.searched_by, store.searched_why) == (
        "store",
        "STORE_SEARCH=auto: users with more than 500 turns",
    )
    for name in CONTAINERS:
        made = container(cosmos_server, name)
        (embedding,) = made["vectorEmbeddingPolicy"]["vectorEmbeddings"]
        assert (embedding["path"], embedding["dimensions"], embedding["distanceFunction"]) == (
            "/direction",
            256,
            "cosine",
        )
        assert [text["path"] for text in made["fullTextPolicy"]["fullTextPaths"]] == ["/words"]
        indexing = made["indexingPolicy"]
        assert indexing["vectorIndexes"] == [{"path": "/direction", "type": "quantizedFlat"}]
        assert indexing["fullTextIndexes"] == [{"path": "/words"}]
        assert {"path": "/direction/*"} in indexing["excludedPaths"]
        assert (made["partitionKey"]["paths"], made["defaultTtl"]) == (["/owner"], -1)


async def test_an_account_without_the_features_gets_plain_containers_and_the_process_searches(
    cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cosmos_server.fails(NO_SEARCH)
    async with opened(settings_for(cosmos_server)) as store:
        assert store.searched_by == "process"
        (told,) = [record for record in caplog.records if record.message == "the store does not search"]
        assert vars(told)["reason"] == store.searched_why
        assert "interactions, session_summaries, insights" in store.searched_why
        await said(store, *["walnuts"] * 3)
        monkeypatch.setattr(indexing, "READ_WHOLE_TURNS", 2)
        assert not await store.narrows(ANA), "there is nothing to narrow by"
        await learned(store, a_memory("m"))
        await point(store, {"m": row(1), "s#1": [row(1), row(1)]})
    for name in CONTAINERS:
        assert not container(cosmos_server, name).get("fullTextPolicy")
        for document in documents(cosmos_server, name):
            assert not document.keys() & {"words", "direction", "extract", "texts"}, "it costs, and nobody uses it"


async def test_a_start_that_insists_on_such_an_account_is_refused_and_makes_no_container(
    cosmos_server: CosmosServer,
) -> None:
    cosmos_server.fails(NO_SEARCH)
    with pytest.raises(UnsafeStart, match=r"STORE_SEARCH=store.*interactions.*vector and full-text") as caught:
        async with opened(settings_for(cosmos_server, store_search="store")):
            pass
    assert "\n" not in str(caught.value)
    with CosmosClient(cosmos_server.url, KEY) as client:
        assert list(client.get_database_client("agent_memory").list_containers()) == []


@pytest.mark.parametrize("lacking", CONTAINERS)
async def test_containers_of_before_are_used_as_they_are_even_if_one_alone_lacks_the_indexes(
    cosmos_server: CosmosServer, lacking: str
) -> None:
    cosmos_server.fails({**NO_SEARCH, "body": f'"{lacking}".*vectorIndexes|vectorIndexes.*"{lacking}"'})
    async with opened(settings_for(cosmos_server)) as store:
        await say(store, ANA, "walnuts")
    cosmos_server.fails()
    async with opened(settings_for(cosmos_server)) as store:
        assert (store.searched_by, store.searched_why) == (
            "process",
            f"without vector and full-text indexes: {lacking}",
        )
        assert [turn.seq for turn in (await store.entries(ANA, None, "")).turns] == [1]
    with pytest.raises(UnsafeStart, match=f"STORE_SEARCH=store: .*{lacking}"):
        async with opened(settings_for(cosmos_server, store_search="store")):
            pass


async def test_who_is_told_to_search_in_the_process_makes_containers_without_indexes(
    cosmos_server: CosmosServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings_for(cosmos_server, store_search="process")) as store:
        assert store.searched_by == "process"
    assert "the store does not search" not in caplog.messages, "nobody asked it to"
    assert not container(cosmos_server, "insights").get("vectorEmbeddingPolicy")


async def test_what_was_stored_while_the_process_searched_is_found_when_the_account_does_again(
    store: Store, cosmos_server: CosmosServer
) -> None:
    async with opened(settings_for(cosmos_server, store_search="process")) as other:
        assert (other.searched_by, other.searched_why) == ("process", "STORE_SEARCH=process")
        await said(other, "walnuts", "cake")
        await point(other, {"s#1": [row(1)] * 2, "s#2": [row(0, 1)] * 2})
    assert names(await asked(store, "walnuts")) == ["s#1"]
    assert names(await asked(store, "", row(0, 1), limit=1)) == ["s#2"]


@pytest.mark.parametrize("arm", ["FullTextScore", "VectorDistance", f"FullTextScore.*(, '[a-z0-9]+'){{{MOST_TERMS}}}"])
async def test_an_account_that_does_not_answer_such_questions_leaves_them_to_the_process(
    store: Store, cosmos_server: CosmosServer, arm: str
) -> None:
    cosmos_server.fails({"op": "query", "body": arm, "status": 400})
    async with opened(settings_for(cosmos_server)) as other:
        assert other.searched_by == "process"
        assert "refused a search" in other.searched_why
    with pytest.raises(UnsafeStart, match="STORE_SEARCH=store: the account refused a search"):
        async with opened(settings_for(cosmos_server, store_search="store")):
            pass


async def test_an_index_of_another_width_is_not_one_of_ours(store: Store, cosmos_server: CosmosServer) -> None:
    with CosmosClient(cosmos_server.url, KEY) as client:
        database = client.get_database_client("agent_memory")
        made = container(cosmos_server, "insights")
        made["vectorEmbeddingPolicy"]["vectorEmbeddings"][0]["dimensions"] = 128
        database.delete_container("insights")
        database.create_container(
            "insights",
            made["partitionKey"],
            indexing_policy=made["indexingPolicy"],
            default_ttl=-1,
            vector_embedding_policy=made["vectorEmbeddingPolicy"],
            full_text_policy=made["fullTextPolicy"],
        )
    async with opened(settings_for(cosmos_server)) as other:
        assert (other.searched_by, other.searched_why.split()[-1]) == ("process", "insights")


# Whom the account narrows


async def test_the_account_narrows_memories_that_are_dearer_to_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "READ_WHOLE_TURNS", 2)
    await said(store, "walnuts")
    await said(store, "walnuts", session_id="other")
    await said(store, *["walnuts"] * 5, scope=BEN)
    await learned(store, *(a_memory(f"m{number}") for number in range(5)))
    assert not await store.narrows(ANA), "two turns, whatever was learned from them"
    assert await store.narrows(BEN)
    await said(store, "cake", session_id="third")
    assert await store.narrows(ANA)


@pytest.mark.parametrize(("wish", "narrowed"), [("store", True), ("process", False)])
async def test_who_is_told_who_searches_does_not_count(
    cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch, wish: str, narrowed: bool
) -> None:
    monkeypatch.setattr(indexing, "READ_WHOLE_TURNS", 1)
    async with opened(settings_for(cosmos_server, store_search=wish)) as store:
        await said(store, "walnuts")
        await said(store, "walnuts", "cake", scope=BEN)
        cosmos_server.calls()
        assert [await store.narrows(scope) for scope in (ANA, BEN)] == [narrowed, narrowed]
        assert not cosmos_server.calls()


# What is asked


async def test_a_search_asks_one_partition_twice_a_container(store: Store, cosmos_server: CosmosServer) -> None:
    await said(store, "walnuts")
    cosmos_server.calls()
    await asked(store, "walnuts", row(1))
    calls = [call for call in cosmos_server.calls() if call["op"] != "GET account"]
    assert [call["op"] for call in calls] == ["query"] * 6
    assert {call["key"] for call in calls} == {'["default|ana"]'}
    await asked(store, "walnuts", row(1), kinds=["message"])
    assert len(cosmos_server.calls()) == 2
    assert store.usage()["verbs"]["candidates"]["requests"] == 6 + 6 + 2, "those of the start too"
    await asked(store, "walnuts", None, kinds=["message"])
    assert len(cosmos_server.calls()) == 2, "the neighbours"


async def test_an_account_that_fails_in_a_search_is_unavailable(store: Store, cosmos_server: CosmosServer) -> None:
    cosmos_server.fails({"op": "query", "status": 403})
    with pytest.raises(StoreUnavailable):
        await asked(store, "walnuts")


async def test_long_texts_are_split_elsewhere_than_on_the_event_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(stems: Any) -> str:
        threads.append(threading.current_thread())
        return words_of(stems)

    monkeypatch.setattr(indexing, "words_of", noted)
    await asyncio.gather(*(said(store, "walnuts " * 300, session_id=f"s{number}") for number in range(8)))
    assert len(threads) == 8
    assert threading.main_thread() not in threads
    assert len(names(await asked(store, "walnuts"))) == 8


async def test_short_texts_do_not_wait_until_long_ones_are_split() -> None:
    async with AsyncExitStack() as stack:
        index = indexing.Index()
        index.start(stack)
        index.kept = True
        with index._splitting._one_at_a_time:  # as whoever splits a long one has it
            assert await index.columns([a_turn(1, text="walnuts")], [])


# Words and directions


@pytest.mark.parametrize(
    "text", ["walnuts are of the running flies", "東京タワー", "naïve Ångström", "x" * 300, "1' OR \\"]
)
def test_words_are_letters_and_digits_that_no_analyzer_changes(text: str) -> None:
    for stem in Tokenizer()(text):
        word = word_of(stem)
        assert word.isascii()
        assert word.isalnum()
        assert word.endswith("q")
        assert len(word) <= 25


def test_different_stems_are_different_words() -> None:
    stems = ["a", "aq", "b", "é", "e", "日本", "本日", "x" * 24, "x" * 25, "x" * 26]
    assert len({word_of(stem) for stem in stems}) == len(stems)


def test_words_are_bounded() -> None:
    assert len(words_of(f"stem{number}" for number in range(1_000_000)).encode()) < 300_000
    assert words_of(["a", "b", "a"]) == "aq bq"


@pytest.mark.parametrize("width", [64, 1536])
def test_a_projection_keeps_angles_well_enough(width: int) -> None:
    rows = np.random.default_rng(3).standard_normal((40, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = np.array([direction_of(one.reshape(1, -1)) for one in rows], np.float64)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    assert np.abs(made @ made.T - rows @ rows.T).max() < 0.3
    assert made.shape == (40, DIMENSIONS)


def test_a_projection_never_changes() -> None:
    """What was written by one version is compared with what another asks: these numbers may not move."""
    assert (direction_of(row(1, 2, 3, width=8).reshape(1, -1)) or [])[:12] == [
        -34,
        34,
        0,
        -101,
        -101,
        0,
        101,
        101,
        -67,
        -101,
        0,
        0,
    ]


def test_a_vector_of_256_numbers_stays_as_it_points_in_three_digits() -> None:
    made = direction_of(row(3, -4).reshape(1, -1))
    assert made == [600, -800] + [0] * 254
    assert direction_of(np.zeros((2, 256), np.float32)) is None
    assert direction_of(np.full((1, 256), np.nan, np.float32)) is None

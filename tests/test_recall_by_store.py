"""Recall where the store narrows by indexes of its own: the same formula, and the same hits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from memory_service.breaker import Breaker
from memory_service.embedding import Embedding
from memory_service.errors import ModelUnavailable, StoreUnavailable
from memory_service.llm.offline import LocalEmbedder
from memory_service.recall import Recall
from memory_service.settings import Settings
from memory_service.stores import indexing
from memory_service.stores.base import Store
from memory_service.values import EXTRACTIVE, Only, Scope
from tests.cosmos.launcher import CosmosServer
from tests.stores.cosmos_account import settings_for
from tests.support.engines import plain_recall
from tests.support.remembering import Counting, learn, say
from tests.support.stores import opened

SettingsOf = Callable[..., Settings]

ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")
TALK = [
    "We adopted a kitten last week",
    "Her name is Miso",
    "I am allergic to walnuts",
    "The train to Porto leaves at nine",
    "I finished the marathon in Lisbon",
    "My sister plays chess",
    "We painted the kitchen blue",
    "It rained at sea",
]
QUESTIONS = [
    "Which pet do we have?",
    "walnuts",
    "When does the train to Porto leave?",
    "Who plays a game?",
    "the colour",
]
SMALL_TURNS = len(TALK)


class Failing:
    """An embedder that is down."""

    space, keyword_weight, local = None, 0.6, False

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        raise ModelUnavailable("down")

    def usage(self) -> dict[str, int]:
        return {}


@pytest.fixture(params=["cosmos", "postgres"])
def settings_of(request: pytest.FixtureRequest) -> SettingsOf:
    """Settings for one record of a store that has indexes, with what is asked for beside."""
    if request.param == "cosmos":
        return partial(settings_for, request.getfixturevalue("cosmos_server"))
    return partial(Settings, _env_file=None, store_url=request.getfixturevalue("postgres_url"))


@pytest.fixture
async def recalls(settings_of: SettingsOf) -> AsyncIterator[tuple[Recall, Recall, Store]]:
    """Recall by the store, and by the process, over the same record."""
    async with AsyncExitStack() as stack:
        by_store, store = await stack.enter_async_context(recall_by(settings_of, "store"))
        process, _ = await stack.enter_async_context(recall_by(settings_of, "process"))
        yield by_store, process, store


@pytest.fixture
async def auto(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Recall, Store]]:
    """Recall that decides by user: of more than eight turns it is the store."""
    monkeypatch.setattr(indexing, "READ_WHOLE_TURNS", SMALL_TURNS)
    async with recall_by(settings_of, "auto") as recall_and_store:
        yield recall_and_store


@asynccontextmanager
async def recall_by(
    settings_of: SettingsOf, who: str, cache_bytes: int = 10_000_000
) -> AsyncIterator[tuple[Recall, Store]]:
    async with opened(settings_of(store_search=who)) as store, AsyncExitStack() as stack:
        recall = plain_recall(store, LocalEmbedder(), cache_bytes)
        await recall.start(stack)
        yield recall, store


def answered_by(recall: Recall) -> tuple[int, int]:
    """Searches the store answered, and users whose memory is in the process."""
    stats = recall.stats()
    return stats["searches_by_store"], stats["cached_users"]


async def hits(recall: Recall, question: str, scope: Scope = ANA, **more: Any) -> list[tuple[str, float]]:
    return [(hit.item.text, round(hit.score, 4)) for hit in (await recall.retrieve(scope, question, 5, **more)).hits]


async def test_both_ways_give_the_same_hits(recalls: tuple[Recall, Recall, Store]) -> None:
    by_store, process, store = recalls
    await say(store, ANA, *TALK)
    await say(store, ANA, *TALK[:4], session_id="again", name="Ana")
    await say(store, BEN, *TALK)
    assert (await hits(by_store, "walnuts"))[0][0] == (await hits(process, "walnuts"))[0][0]
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for question in QUESTIONS:
        assert await hits(by_store, question) == await hits(process, question) != []
    assert (await hits(by_store, "Which pet do we have?"))[0][0] == TALK[0]
    assert (by_store.stats()["searched_by"], process.stats()["searched_by"]) == ("store", "process")
    assert answered_by(by_store) == (by_store.stats()["searches"], 0)
    assert answered_by(process) == (0, 1)


async def test_a_restriction_to_nothing_is_none(recalls: tuple[Recall, Recall, Store]) -> None:
    by_store, _, store = recalls
    await say(store, ANA, *TALK)
    assert await hits(by_store, "walnuts", only=Only()) == await hits(by_store, "walnuts") != []
    assert answered_by(by_store) == (2, 0)
    assert await hits(by_store, "walnuts", only=Only(session_id="other")) == []
    assert answered_by(by_store) == (2, 1), "the store would narrow to others than these"


async def test_both_ways_search_by_words_alone(recalls: tuple[Recall, Recall, Store]) -> None:
    by_store, process, store = recalls
    await say(store, ANA, *TALK)
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for recall in (by_store, process):
        assert (await hits(recall, "walnuts", by_words=True))[0] == ("I am allergic to walnuts", 1.0)
        assert await hits(recall, "felines", by_words=True) == []
        assert await hits(recall, "felines") != []


async def test_both_ways_leave_out_the_same(recalls: tuple[Recall, Recall, Store]) -> None:
    """What is left out counts for the scores of the one and not of the other: in proportion, and in no order."""
    by_store, process, store = recalls
    await say(store, ANA, *TALK)
    await learn(store, ANA, "m", "Ana eats no walnuts")
    await learn(store, ANA, "e", "Ana likes the train", model=EXTRACTIVE)
    await learn(store, ANA, "gone", "Ana eats walnuts", gone=True)
    await learn(store, ANA, "chunk_1", "user: the train to Porto", kind="chunk")
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for question in QUESTIONS:
        for more in ({}, {"kinds": ["insight", "chunk"]}, {"kinds": ["message"]}):
            found, expected = [await hits(recall, question, **more) for recall in (by_store, process)]
            assert [text for text, _ in found] == [text for text, _ in expected] != []


async def test_narrowed_to_a_part_the_best_are_still_found(recalls: tuple[Recall, Recall, Store]) -> None:
    by_store, process, store = recalls
    for number in range(20):
        await say(store, ANA, *(f"remark {number} {other} of the day" for other in range(10)), session_id=f"s{number}")
    await say(store, ANA, *TALK)
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for question in QUESTIONS:
        assert (await hits(by_store, question))[0][0] == (await hits(process, question))[0][0]


async def test_as_many_hits_are_given_as_are_asked_for(recalls: tuple[Recall, Recall, Store]) -> None:
    by_store, _, store = recalls
    await say(store, ANA, *(f"remark {number}" for number in range(99)))
    await say(store, ANA, *(f"remark {number}" for number in range(99, 120)), session_id="other")
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    assert len((await by_store.retrieve(ANA, "remark", 100)).hits) == 100


async def test_while_the_embedder_is_down_words_answer(settings_of: SettingsOf) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(settings_of(store_search="store")))
        recall = plain_recall(store, Failing(), 1)
        await recall.start(stack)
        await say(store, ANA, *TALK)
        retrieved = await recall.retrieve(ANA, "walnuts", 5)
    assert retrieved.degraded == ("vector",)
    assert [hit.item.text for hit in retrieved.hits] == [TALK[2], TALK[1], TALK[3]], "and what stands beside it"


async def test_what_was_stored_a_moment_ago_is_found_at_once_and_by_meaning_when_it_has_its_vector(
    recalls: tuple[Recall, Recall, Store],
) -> None:
    by_store, _, store = recalls
    await say(store, ANA, "We adopted a puppy", "The bank is closed")
    assert (await hits(by_store, "puppy"))[0][0] == "We adopted a puppy"
    assert await hits(by_store, "dog") == []
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    assert (await hits(by_store, "dog"))[0][0] == "We adopted a puppy"


# Who decides by user


async def test_a_small_memory_is_searched_in_the_process_and_a_large_one_by_the_store(
    auto: tuple[Recall, Store], settings_of: SettingsOf
) -> None:
    recall, store = auto
    await say(store, ANA, *TALK)
    await say(store, BEN, *TALK[:4])
    await say(store, BEN, *TALK[4:], "And it rained again", session_id="other")
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    assert (await hits(recall, "walnuts"))[0][0] == "I am allergic to walnuts"
    assert answered_by(recall) == (0, 1)
    assert (await hits(recall, "walnuts", BEN))[0][0] == "I am allergic to walnuts"
    assert answered_by(recall) == (1, 1)
    async with recall_by(settings_of, "process") as (process, _):
        for scope in (ANA, BEN):
            for question in QUESTIONS:
                assert await hits(recall, question, scope) == await hits(process, question, scope) != []
    assert answered_by(recall) == (1 + len(QUESTIONS), 1)


@pytest.mark.parametrize("settings_of", ["cosmos"], indirect=True)
async def test_how_large_a_memory_is_costs_one_request_of_one_partition_and_nothing_once_it_is_here(
    auto: tuple[Recall, Store], cosmos_server: CosmosServer
) -> None:
    recall, store = auto
    await say(store, ANA, *TALK)
    cosmos_server.calls()
    for asked in (['["default|ana"]'], []):
        await hits(recall, "walnuts")
        calls = cosmos_server.calls()
        assert "change_feed" in [call["op"] for call in calls]
        assert [call["key"] for call in calls if call["op"] == "query"] == asked


async def test_how_large_a_memory_is_comes_while_the_question_is_embedded(
    auto: tuple[Recall, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    recall, store = auto
    counted = asyncio.Event()
    narrows = store.narrows

    async def noted(scope: Scope) -> bool:
        counted.set()
        return await narrows(scope)

    class Patient(LocalEmbedder):
        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            await asyncio.wait_for(counted.wait(), 5)
            return await super().embed(texts)

    monkeypatch.setattr(store, "narrows", noted)
    monkeypatch.setattr(recall._embedding, "_embedder", Patient())
    assert (await recall.retrieve(ANA, "walnuts", 5)).degraded == ()


async def test_who_grows_large_stays_in_the_process_until_the_cache_lets_go(auto: tuple[Recall, Store]) -> None:
    recall, store = auto
    await say(store, ANA, *TALK)
    await hits(recall, "walnuts")
    await say(store, ANA, "I ate a walnut after all")
    assert len(await hits(recall, "walnut")) == 5
    assert answered_by(recall) == (0, 1)
    recall.forget(ANA)
    assert "I ate a walnut after all" in [text for text, _ in await hits(recall, "walnut")]
    assert answered_by(recall) == (1, 0)


async def test_who_grows_too_large_for_the_cache_is_left_to_the_store(
    auto: tuple[Recall, Store], settings_of: SettingsOf
) -> None:
    _, store = auto
    await say(store, ANA, *TALK)
    async with recall_by(settings_of, "auto", cache_bytes=60_000) as (recall, _):
        await hits(recall, "walnuts")
        assert answered_by(recall) == (0, 1)
        for session in range(5):
            remarks = [f"remark {session} {number} of the day" for number in range(20)]
            await say(store, ANA, *remarks, session_id=f"s{session}")
        await hits(recall, "walnuts")
        assert (answered_by(recall), recall.stats()["too_large_to_cache"]) == ((0, 0), 1)
        await hits(recall, "walnuts")
        assert (answered_by(recall), recall.stats()["too_large_to_cache"]) == ((1, 0), 1)


async def test_who_is_here_by_the_vectors_of_another_model_is_read_anew_only_if_small(
    auto: tuple[Recall, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    recall, store = auto
    await say(store, ANA, *TALK)
    await hits(recall, "walnuts")
    await say(store, ANA, "I ate a walnut after all")
    monkeypatch.setattr(recall._embedding, "_embedder", Counting())
    await hits(recall, "walnuts")
    assert recall.by_store == 1
    await say(store, BEN, *TALK)
    await hits(recall, "walnuts", BEN)
    assert recall.by_store == 1


@pytest.mark.parametrize("settings_of", ["cosmos"], indirect=True)
async def test_a_memory_whose_size_cannot_be_told_is_not_searched(
    auto: tuple[Recall, Store], cosmos_server: CosmosServer
) -> None:
    recall, store = auto
    await say(store, ANA, *TALK)
    cosmos_server.fails({"op": "query", "body": "COUNT", "status": 403})
    with pytest.raises(StoreUnavailable):
        await recall.retrieve(ANA, "walnuts", 5)
    cosmos_server.fails()
    assert (await hits(recall, "walnuts"))[0][0] == "I am allergic to walnuts"

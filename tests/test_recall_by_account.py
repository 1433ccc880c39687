"""Recall where the store narrows by indexes of its own: the same formula, and the same hits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from memory_service.breaker import Breaker
from memory_service.embedding import Embedding
from memory_service.errors import ModelUnavailable
from memory_service.llm.offline import LocalEmbedder
from memory_service.recall import Recall
from memory_service.stores.base import Store
from memory_service.values import EXTRACTIVE, Scope
from tests.cosmos.launcher import CosmosServer
from tests.stores.cosmos_account import settings_for
from tests.support.remembering import learn, say
from tests.support.stores import opened

ANA = Scope(user_id="ana")
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


class Failing:
    """An embedder that is down."""

    space, keyword_weight = None, 0.6

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        raise ModelUnavailable("down")

    def usage(self) -> dict[str, int]:
        return {}


@pytest.fixture
async def recalls(cosmos_server: CosmosServer) -> AsyncIterator[tuple[Recall, Recall, Store]]:
    """Recall by the account, and by the process, over the same record."""
    async with AsyncExitStack() as stack:
        made = []
        for who in ("account", "process"):
            store = await stack.enter_async_context(opened(settings_for(cosmos_server, cosmos_search=who)))
            recall = Recall(store, Embedding(store, LocalEmbedder(), Breaker()), cache_bytes=10_000_000)
            await recall.start(stack)
            made.append((recall, store))
        (account, store), (process, _) = made
        yield account, process, store


async def hits(recall: Recall, question: str, scope: Scope = ANA, **more: Any) -> list[tuple[str, float]]:
    return [(hit.item.text, round(hit.score, 4)) for hit in (await recall.retrieve(scope, question, 5, **more)).hits]


async def test_both_ways_give_the_same_hits(recalls: tuple[Recall, Recall, Store]) -> None:
    account, process, store = recalls
    await say(store, ANA, *TALK)
    await say(store, ANA, *TALK[:4], session_id="again", name="Ana")
    await say(store, Scope(user_id="ben"), *TALK)
    assert (await hits(account, "walnuts"))[0][0] == (await hits(process, "walnuts"))[0][0]
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for question in QUESTIONS:
        assert await hits(account, question) == await hits(process, question) != []
    assert (await hits(account, "Which pet do we have?"))[0][0] == TALK[0]
    assert (account.stats()["searched_by"], process.stats()["searched_by"]) == ("account", "process")
    assert account.stats()["cached_users"] == 0


async def test_both_ways_leave_out_the_same(recalls: tuple[Recall, Recall, Store]) -> None:
    """What is left out counts for the scores of the one and not of the other: in proportion, and in no order."""
    account, process, store = recalls
    await say(store, ANA, *TALK)
    await learn(store, ANA, "m", "Ana eats no walnuts")
    await learn(store, ANA, "e", "Ana likes the train", model=EXTRACTIVE)
    await learn(store, ANA, "gone", "Ana eats walnuts", gone=True)
    await learn(store, ANA, "chunk_1", "user: the train to Porto", kind="chunk")
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for question in QUESTIONS:
        for more in ({}, {"kinds": ["insight", "chunk"]}, {"kinds": ["message"]}):
            found, expected = [await hits(recall, question, **more) for recall in (account, process)]
            assert [text for text, _ in found] == [text for text, _ in expected] != []


async def test_narrowed_to_a_part_the_best_are_still_found(recalls: tuple[Recall, Recall, Store]) -> None:
    account, process, store = recalls
    for number in range(20):
        await say(store, ANA, *(f"remark {number} {other} of the day" for other in range(10)), session_id=f"s{number}")
    await say(store, ANA, *TALK)
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    for question in QUESTIONS:
        assert (await hits(account, question))[0][0] == (await hits(process, question))[0][0]


async def test_as_many_hits_are_given_as_are_asked_for(recalls: tuple[Recall, Recall, Store]) -> None:
    account, _, store = recalls
    await say(store, ANA, *(f"remark {number}" for number in range(99)))
    await say(store, ANA, *(f"remark {number}" for number in range(99, 120)), session_id="other")
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    assert len((await account.retrieve(ANA, "remark", 100)).hits) == 100


async def test_while_the_embedder_is_down_words_answer(cosmos_server: CosmosServer) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(settings_for(cosmos_server)))
        recall = Recall(store, Embedding(store, Failing(), Breaker()), cache_bytes=1)
        await recall.start(stack)
        await say(store, ANA, *TALK)
        retrieved = await recall.retrieve(ANA, "walnuts", 5)
    assert retrieved.degraded == ("vector",)
    assert [hit.item.text for hit in retrieved.hits] == [TALK[2], TALK[1], TALK[3]], "and what stands beside it"


async def test_what_was_stored_a_moment_ago_is_found_at_once_and_by_meaning_when_it_has_its_vector(
    recalls: tuple[Recall, Recall, Store],
) -> None:
    account, _, store = recalls
    await say(store, ANA, "We adopted a puppy", "The bank is closed")
    assert (await hits(account, "puppy"))[0][0] == "We adopted a puppy"
    assert await hits(account, "dog") == []
    await Embedding(store, LocalEmbedder(), Breaker()).embed_due()
    assert (await hits(account, "dog"))[0][0] == "We adopted a puppy"

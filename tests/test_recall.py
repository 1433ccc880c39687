"""Recall follows the store: what was committed a moment ago is found, and a cache changes no answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from memory_service.breaker import Breaker
from memory_service.embedding import Embedding
from memory_service.errors import ModelUnavailable, StoreUnavailable
from memory_service.llm.offline import LocalEmbedder
from memory_service.recall import Recall, Retrieved
from memory_service.stores.base import Entries, Store
from memory_service.values import EXTRACTIVE, Scope
from tests.support.engines import plain_recall
from tests.support.remembering import Counting, learn, say
from tests.support.stores import YieldingStore, store_of

ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")
THINGS = ["tea", "cake", "the train to Porto", "rain at sea", "a red bike", "the moon", "walnuts", "Lisbon", "chess"]

MakeRecall = Callable[..., Awaitable[Recall]]
LOCAL = LocalEmbedder()


@pytest.fixture(params=["transient", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = "transient://" if request.param == "transient" else f"sqlite:///{tmp_path}/memory.db"
    async with AsyncExitStack() as stack:
        made = store_of(url)
        await made.start(stack)
        yield made


@pytest.fixture
async def make_recall(store: Store) -> AsyncIterator[MakeRecall]:
    """A recall over the store, with an empty cache."""
    async with AsyncExitStack() as stack:

        async def make(embedder: Any = None, cache_bytes: int = 10_000_000) -> Recall:
            recall = plain_recall(store, embedder or LOCAL, cache_bytes)
            await recall.start(stack)
            return recall

        yield make


class Failing:
    """An embedder that is down."""

    space, keyword_weight, local = "failing", 0.6, False

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        raise ModelUnavailable("down")

    def usage(self) -> dict[str, int]:
        return {}


async def embed(store: Store, embedder: Any = None) -> None:
    """Give vectors to all that is there."""
    await Embedding(store, embedder or LOCAL, Breaker()).embed_due()


async def found(recall: Recall, scope: Scope, question: str, limit: int = 1_000, **more: Any) -> dict[str, float]:
    """Score of each hit by its id."""
    return {hit.item.id: hit.score for hit in (await recall.retrieve(scope, question, limit, **more)).hits}


async def texts(recall: Recall, scope: Scope, question: str, **more: Any) -> list[str]:
    return [hit.item.text for hit in (await recall.retrieve(scope, question, 1_000, **more)).hits]


async def test_what_was_committed_a_moment_ago_is_found(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()
    assert await texts(recall, ANA, "walnuts") == []
    await say(store, ANA, "I am allergic to walnuts")
    assert await texts(recall, ANA, "walnuts") == ["I am allergic to walnuts"]
    await learn(store, ANA, "m", "Ana eats no walnuts")
    assert set(await texts(recall, ANA, "walnuts")) == {"I am allergic to walnuts", "Ana eats no walnuts"}


async def test_where_words_alone_decide_no_model_is_asked(store: Store, make_recall: MakeRecall) -> None:
    await say(store, ANA, "I am allergic to walnuts", "tea")
    asked = Counting()
    await embed(store, asked)
    recall = await make_recall(asked)
    asked.batches.clear()
    found = await recall.retrieve(ANA, "walnuts", 10, by_words=True)
    # the second is near by its vector, and by its place beside the first
    assert (found.hits[0].item.text, found.hits[0].parts.vector, found.degraded) == ("I am allergic to walnuts", 0, ())
    assert (asked.batches, recall.stats()["degraded"]) == ([], 0)
    assert await texts(recall, ANA, "nothing of the kind", by_words=True) == []
    assert await texts(recall, ANA, "nothing of the kind") != []


async def test_a_memory_that_changed_is_found_by_its_new_words_alone(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall(Failing())
    await learn(store, ANA, "a", "lives in Porto")
    await learn(store, ANA, "b", "likes tea")
    assert set(await texts(recall, ANA, "Porto tea")) == {"lives in Porto", "likes tea"}
    await learn(store, ANA, "a", "lives in Lisbon")
    await learn(store, ANA, "b", "likes tea", gone=True)
    assert await texts(recall, ANA, "Porto tea") == []
    assert await texts(recall, ANA, "Lisbon tea") == ["lives in Lisbon"]


async def test_catching_up_gives_the_same_hits_as_reading_all_anew(store: Store, make_recall: MakeRecall) -> None:
    chance = Random(5)
    following = await make_recall()
    for round_ in range(12):
        for _ in range(chance.randint(1, 6)):
            text = " and ".join(chance.sample(THINGS, chance.randint(1, 3)))
            if chance.random() < 0.5:
                await say(store, ANA, text, session_id=chance.choice("ab"), name=chance.choice([None, "Ana"]))
            else:
                await learn(store, ANA, f"m{chance.randrange(6)}", text, gone=chance.random() < 0.3)
        if round_ % 3 == 0:
            await embed(store)
        for question in ("tea and cake", "What did Ana say of Porto?", "the moon"):
            anew = await found(await make_recall(), ANA, question)
            assert await found(following, ANA, question) == pytest.approx(anew, abs=1e-5)


async def test_what_others_say_changes_neither_hits_nor_scores(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()
    await say(store, ANA, *THINGS)
    await learn(store, ANA, "m", "tea and chess")
    await embed(store)
    before = await found(recall, ANA, "tea in Porto")
    await say(store, BEN, *["tea in Porto"] * 50)
    await learn(store, BEN, "m", "tea in Porto")
    await embed(store)
    assert before
    assert await found(recall, ANA, "tea in Porto") == before
    assert await found(await make_recall(), ANA, "tea in Porto") == pytest.approx(before, abs=1e-5)


async def test_the_same_ids_of_two_users_are_two_things(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()
    other_tenant = Scope(user_id="ana", tenant_id="other")
    for scope in (ANA, BEN, other_tenant):
        secret = f"secret of {scope.user_id} {scope.tenant_id}"
        await say(store, scope, secret)
        await learn(store, scope, "m", secret)
    await embed(store)
    for scope in (ANA, BEN, other_tenant):
        assert set(await texts(recall, scope, "secret")) == {f"secret of {scope.user_id} {scope.tenant_id}"}


async def test_a_cache_too_small_for_its_users_changes_no_answer(store: Store, make_recall: MakeRecall) -> None:
    small, large = await make_recall(cache_bytes=8_000), await make_recall()
    for scope in (ANA, BEN):
        await say(store, scope, *THINGS)
    await embed(store)
    for scope in (ANA, BEN, ANA, BEN):
        assert await found(small, scope, "tea at sea") == await found(large, scope, "tea at sea") != {}
    assert small.stats()["cached_bytes"] <= 8_000
    assert large.stats()["cached_users"] == 2


async def test_a_user_too_large_for_the_cache_is_answered_and_not_kept(store: Store, make_recall: MakeRecall) -> None:
    small, large = await make_recall(cache_bytes=30_000), await make_recall()
    await say(store, ANA, *THINGS, "tea " * 20_000)
    assert await found(small, ANA, "tea at sea") == await found(large, ANA, "tea at sea") != {}
    assert (small.stats()["cached_users"], small.stats()["too_large_to_cache"]) == (0, 1)


async def test_a_user_who_was_forgotten_is_read_anew(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()
    await say(store, ANA, *THINGS)
    before = await found(recall, ANA, "tea")
    recall.forget(ANA)
    recall.forget(BEN)
    assert await found(recall, ANA, "tea") == before


async def test_extracts_are_found_only_when_their_kind_is_asked_for(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()
    await learn(store, ANA, "rules", "likes tea", model=EXTRACTIVE)
    await learn(store, ANA, "model", "loves tea", model="gpt")
    await learn(store, ANA, "chunk", "tea", kind="chunk", model=EXTRACTIVE)
    assert await texts(recall, ANA, "tea") == ["loves tea"]
    assert set(await texts(recall, ANA, "tea", kinds=["insight"])) == {"likes tea", "loves tea"}
    assert await texts(recall, ANA, "tea", kinds=["chunk"]) == ["tea"]


# Together, here and in the thread


async def test_those_who_wait_together_are_told_once_what_is_new() -> None:
    async with AsyncExitStack() as stack:
        store = YieldingStore()
        recall = plain_recall(store, LOCAL, 10_000_000)
        await recall.start(stack)
        await say(store, ANA, *THINGS)
        await recall.retrieve(ANA, "tea", 5)
        store.calls.clear()
        answers = await asyncio.gather(*(recall.retrieve(ANA, f"{thing} then", 5) for thing in THINGS * 4))
        assert [answer.hits[0].item.text for answer in answers] == THINGS * 4
        assert store.calls["entries"] <= 2  # the first asks by itself, and all who came meanwhile together


async def test_who_comes_while_the_store_is_asked_is_told_what_was_committed_before_they_came() -> None:
    async with AsyncExitStack() as stack:
        store = YieldingStore()
        recall = plain_recall(store, LOCAL, 10_000_000)
        await recall.start(stack)
        await say(store, ANA, "tea")
        late: list[asyncio.Task[Retrieved]] = []

        async def slow(look: Callable[..., Awaitable[Entries]], *asked: Any) -> Entries:
            told = await look(*asked)
            store.inner.entries = look  # type: ignore[method-assign]
            await say(store, ANA, "walnuts")  # after the store has looked, and before it says what it saw
            late.append(asyncio.create_task(recall.retrieve(ANA, "walnuts", 5, by_words=True)))
            await asyncio.sleep(0)
            return told

        store.inner.entries = partial(slow, store.inner.entries)  # type: ignore[method-assign]
        assert (await recall.retrieve(ANA, "walnuts", 5, by_words=True)).hits == []
        assert (await late[0]).hits[0].item.text == "walnuts"


async def test_what_the_store_failed_to_tell_one_it_is_asked_for_the_next() -> None:
    async with AsyncExitStack() as stack:
        store = YieldingStore()
        recall = plain_recall(store, LOCAL, 10_000_000)
        await recall.start(stack)

        async def failing_once(look: Callable[..., Awaitable[Entries]], *asked: Any) -> Entries:
            if store.calls["entries"] == 2:
                raise StoreUnavailable("away")
            return await look(*asked)

        store.inner.entries = partial(failing_once, store.inner.entries)  # type: ignore[method-assign]
        asked = [asyncio.create_task(recall.retrieve(ANA, "tea", 5, by_words=True)) for _ in range(3)]
        await asyncio.sleep(0)
        await say(store.inner, ANA, "tea")
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, Retrieved)
        assert isinstance(second, StoreUnavailable)
        assert isinstance(third, Retrieved)
        assert [hit.item.text for hit in third.hits] == ["tea"]


async def test_what_is_large_is_searched_in_a_thread_and_found_all_the_same(
    store: Store, make_recall: MakeRecall, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(store, ANA, *THINGS)
    await embed(store)
    here = await found(await make_recall(), ANA, "tea in Porto")
    monkeypatch.setattr("memory_service.recall.SMALL", -1)
    monkeypatch.setattr("memory_service.recall.LITTLE", -1)
    recall = await make_recall()
    there = []
    monkeypatch.setattr(recall, "_in_thread", partial(noted, there, recall._in_thread))
    assert await found(recall, ANA, "tea in Porto") == here != {}
    assert len(there) >= 3, "the words of the question, what the store told, the search"


async def test_a_question_of_many_words_is_sought_in_a_thread(
    store: Store, make_recall: MakeRecall, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall, there = await make_recall(), []
    monkeypatch.setattr(recall, "_in_thread", partial(noted, there, recall._in_thread))
    await say(store, ANA, "tea")
    assert await texts(recall, ANA, "tea then") == ["tea"]
    assert there == []
    assert await texts(recall, ANA, " ".join(["tea", *(f"word{number}" for number in range(30))])) == ["tea"]
    assert len(there) == 1


async def noted(there: list[Any], in_thread: Callable[..., Awaitable[Any]], *work: Any) -> Any:
    there.append(work)
    return await in_thread(*work)


async def test_a_short_text_is_embedded_at_once_and_a_long_one_or_the_first_beside_the_loop() -> None:
    class Noting(LocalEmbedder):
        def vectors_of(self, texts: Sequence[str]) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().vectors_of(texts)

    threads: list[bool] = []
    embedder = Noting()
    for text in ("the first loads the weights", "short", "long " * 1000):
        await embedder.embed([text])
    assert threads == [False, True, False]


async def test_which_of_some_memories_are_near_is_told_without_reading_all_there_is() -> None:
    async with AsyncExitStack() as stack:
        store = YieldingStore()
        recall = plain_recall(store, LOCAL, 10_000_000)
        await recall.start(stack)
        for number, thing in enumerate(THINGS):
            await learn(store, ANA, f"m{number}", thing)
        await say(store, ANA, *THINGS)
        await embed(store)
        memories = await store.memories(ANA, ["insight"])
        store.calls.clear()
        alone = await recall.among(ANA, memories, "a puppy on the train", 3, epoch="", forgotten=0)
        assert (alone[0].item.id, len(alone), store.calls["entries"]) == ("m2", 3, 0)
        assert alone[0].parts.vector > 0 < alone[0].parts.keyword
        await recall.retrieve(ANA, "tea", 5)  # now it is all here
        hits = await recall.among(ANA, memories, "a puppy on the train", 3, epoch="", forgotten=0)
        assert hits[0].item.id == "m2"
        assert await recall.among(ANA, memories[:1], "a puppy on the train", 3, epoch="", forgotten=0) != hits


async def test_of_many_memories_the_one_that_is_said_again_among_much_else_is_near() -> None:
    async with AsyncExitStack() as stack:
        store = YieldingStore()
        recall = plain_recall(store, LOCAL, 10_000_000)
        await recall.start(stack)
        for number in range(300):
            await learn(store, ANA, f"m{number}", f"The {THINGS[number % len(THINGS)]} has number {number}")
        await embed(store)
        await learn(store, ANA, "new", "a zebra")  # it has no vector yet
        memories = await store.memories(ANA, ["insight"])
        much = "We talked about the weather for a while, and about what is good for the garden in a dry summer. " * 10
        hits = await recall.among(
            ANA, memories, f"{much} The chess has number 251. {much} A zebra!", 30, epoch="", forgotten=0
        )
        assert {"m251", "new"} <= {hit.item.id for hit in hits}


# Vectors


async def test_a_synonym_is_found_once_the_vectors_are_there(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()
    await say(store, ANA, "We adopted a puppy", "The bank is closed")
    assert await texts(recall, ANA, "dog") == []
    await embed(store)
    assert (await texts(recall, ANA, "dog"))[0] == "We adopted a puppy"


async def test_two_vector_spaces_are_never_compared_and_a_new_one_is_filled_in(
    store: Store, make_recall: MakeRecall
) -> None:
    await say(store, ANA, "banana", "tea")
    await embed(store, Counting("old"))
    new = await make_recall(Counting("new"))
    assert await texts(new, ANA, "quite another thing") == []
    assert await texts(new, ANA, "tea") == ["tea", "banana"]  # keywords go on, and reach the neighbour
    await embed(store, Counting("new"))
    assert set(await texts(new, ANA, "quite another thing")) == {"tea", "banana"}


async def test_a_long_history_is_read_whole_whatever_was_embedded_first(store: Store, make_recall: MakeRecall) -> None:
    await say(store, ANA, *(f"remark {n}" for n in range(2_100)))
    await embed(store, Counting("old"))
    await say(store, ANA, "aaaaaaaa")  # its vector in the new space comes before those of all earlier turns
    await embed(store, Counting("new"))
    fresh = await make_recall(Counting("new"))
    hits = (await fresh.retrieve(ANA, "aaaaaaaa aaaaaaaa", 1)).hits
    assert [(hit.item.text, hit.parts.vector > 0) for hit in hits] == [("aaaaaaaa", True)]
    assert len(await texts(fresh, ANA, "remark")) > 150


async def test_without_the_embedder_keywords_answer_and_the_answer_says_so(
    store: Store, make_recall: MakeRecall
) -> None:
    recall = await make_recall(Failing())
    await say(store, ANA, "I am allergic to walnuts")
    retrieved = await recall.retrieve(ANA, "walnuts", 5)
    assert retrieved.degraded == ("vector",)
    assert [hit.item.text for hit in retrieved.hits] == ["I am allergic to walnuts"]
    assert recall.stats()["degraded"] == 1


async def test_searching_while_turns_come_in_finds_each_of_them(store: Store, make_recall: MakeRecall) -> None:
    recall = await make_recall()

    async def talk(session_id: str) -> None:
        for number in range(15):
            await say(store, ANA, f"codeword{session_id}{number}", session_id=session_id)
            hits = await texts(recall, ANA, f"codeword{session_id}{number}")
            assert hits[0] == f"codeword{session_id}{number}"

    async def fill() -> None:
        for _ in range(10):
            await embed(store)

    await asyncio.gather(*map(talk, "abcd"), fill())
    assert len(await texts(recall, ANA, " ".join(f"codeword{s}{n}" for s in "abcd" for n in range(15)))) == 60


async def test_when_the_space_changes_while_a_corpus_is_kept_only_vectors_of_the_new_one_count(
    store: Store, make_recall: MakeRecall
) -> None:
    embedder = Counting("old")
    recall = await make_recall(embedder)
    await say(store, ANA, "banana", "tea")
    await embed(store, embedder)
    assert set(await texts(recall, ANA, "quite another thing")) == {"banana", "tea"}
    embedder.space = "new"
    assert await texts(recall, ANA, "quite another thing") == []
    await embed(store, embedder)
    assert set(await texts(recall, ANA, "quite another thing")) == {"banana", "tea"}

"""What was weighed of a user before is taken along to the next question: quicker, and no answer is another for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from memory_service.breaker import Breaker
from memory_service.embedding import Embedding
from memory_service.llm.base import Embedder
from memory_service.llm.offline import LocalEmbedder
from memory_service.recall import Recall
from memory_service.stores.base import Store
from memory_service.values import Scope, Vector
from tests.support.engines import plain_recall
from tests.support.remembering import Counting, learn, say
from tests.support.stores import YieldingStore

ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")
THINGS = ["tea", "cake", "the train to Porto", "rain at sea", "a red bike", "the moon", "walnuts", "Lisbon", "chess"]
QUESTION = "Is there tea on the train, or a bicycle in Lisbon?"
LOCAL = LocalEmbedder()


class Asked(YieldingStore):
    """Notes whose vectors it is asked for, and does something before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors_of: list[set[str]] = []
        self.before: Callable[[], Any] = lambda: None

    async def _vectors(self, scope: Scope, item_ids: tuple[str, ...], space: str) -> list[Vector]:
        self.vectors_of.append(set(item_ids))
        found = await super()._vectors(scope, item_ids, space)
        self.before()
        return found

    async def _entries(self, *args: Any) -> Any:
        found = await super()._entries(*args)
        self.before()
        return found


@pytest.fixture
def store() -> Asked:
    return Asked()


Recalling = Callable[..., Awaitable[Recall]]


@pytest.fixture
async def recalling(store: Asked) -> AsyncIterator[Recalling]:
    async with AsyncExitStack() as stack:

        async def make(cache_bytes: int = 10_000_000, embedder: Embedder = LOCAL) -> Recall:
            recall = plain_recall(store, embedder, cache_bytes)
            await recall.start(stack)
            return recall

        yield make


async def embed(store: Store, embedder: Embedder = LOCAL) -> None:
    await Embedding(store, embedder, Breaker()).embed_due()


async def near(
    recall: Recall, store: Store, scope: Scope = ANA, *, epoch: str = "e", of: Collection[str] | None = None
) -> dict[str, Any]:
    """What of a user's insights, or of some of them, is near to the question, and how near."""
    forgotten = recall.forgotten
    memories = [one for one in await store.memories(scope, ["insight"]) if of is None or one.memory_id in of]
    hits = await recall.among(scope, memories, QUESTION, 1000, epoch=epoch, forgotten=forgotten)
    return {hit.item.id: pytest.approx(hit.score, abs=1e-5) for hit in hits}


async def taught(store: Store, count: int = 9) -> None:
    for number in range(count):
        await learn(store, ANA, f"m{number}", f"{THINGS[number % len(THINGS)]}, for the {number}. time")


@pytest.mark.parametrize("seed", range(4))
async def test_it_answers_as_one_does_who_weighs_for_the_first_time(
    store: Asked, recalling: Recalling, seed: int
) -> None:
    chance, old = Random(seed), await recalling()
    await learn(store, ANA, "always", "a bicycle")
    await embed(store)
    for _ in range(20):
        for _ in range(chance.randrange(4)):
            memory_id, text = f"m{chance.randrange(30)}", " and ".join(chance.sample(THINGS, 3))
            await learn(store, ANA, memory_id, text, gone=chance.random() < 0.4, pinned=chance.random() < 0.3)
        if chance.random() < 0.5:
            await embed(store)
        of = {"always", *(f"m{number}" for number in chance.sample(range(30), chance.choice([5, 30])))}
        assert await near(old, store, of=of) == await near(await recalling(), store, of=of)


async def test_only_what_is_new_or_has_no_vector_yet_is_asked_for(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    await taught(store)
    await embed(store)
    await near(recall, store)
    await learn(store, ANA, "new", "a bicycle")
    store.vectors_of.clear()
    for _ in range(2):  # there is no vector yet, and then there is
        await near(recall, store)
        await embed(store)
    await near(recall, store)
    await learn(store, ANA, "brief", "a boat")
    await near(recall, store)
    await learn(store, ANA, "brief", "a boat", gone=True)
    await near(recall, store)
    await near(recall, store)
    assert store.vectors_of == [{"new"}, {"new"}, set(), {"brief"}, {"brief"}, set()]


async def test_what_was_written_anew_is_asked_for_anew(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    await taught(store)
    await embed(store)
    assert "m5" not in await near(recall, store)
    await learn(store, ANA, "m5", "the bicycle of Lisbon")
    await embed(store)
    store.vectors_of.clear()
    assert "m5" in await near(recall, store)
    assert store.vectors_of == [{"m5"}]


async def test_after_an_erasure_and_where_most_is_gone_it_begins_anew(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    await taught(store)
    await embed(store)
    few = {"m1", "m2", "m3", "m4"}
    await near(recall, store)
    await near(recall, store, epoch="another")
    await near(recall, store, epoch="another", of=few)
    held = recall.stats()["cached_bytes"]
    assert [len(ids) for ids in store.vectors_of] == [9, 9, 4]
    await near(fresh := await recalling(), store, epoch="another", of=few)
    assert held == fresh.stats()["cached_bytes"]


async def test_vectors_of_another_space_are_asked_for(store: Asked, recalling: Recalling) -> None:
    await taught(store)
    recall = await recalling(embedder=(counting := Counting()))
    await embed(store, counting)
    await near(recall, store)
    counting.space = "another"
    await near(recall, store)
    assert [len(ids) for ids in store.vectors_of] == [9, 9]


async def test_nothing_is_held_of_a_user_who_was_forgotten_be_it_meanwhile(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    empty = recall.stats()["cached_bytes"]
    await taught(store)
    await near(recall, store)
    assert recall.stats()["cached_bytes"] > empty
    recall.forget(ANA)
    assert recall.stats()["cached_bytes"] == empty
    store.before = lambda: recall.forget(ANA)
    await near(recall, store)
    assert recall.stats()["cached_bytes"] == empty


async def test_nothing_of_what_a_search_has_read_is_held_of_a_user_who_was_forgotten_meanwhile(
    store: Asked, recalling: Recalling
) -> None:
    recall = await recalling()
    await say(store, ANA, *THINGS)
    store.before = lambda: recall.forget(ANA)
    assert (await recall.retrieve(ANA, "tea", 5)).hits
    assert (recall.stats()["cached_bytes"], recall.stats()["cached_users"]) == (0, 0)


async def test_nothing_is_held_of_what_was_read_before_it_was_forgotten(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    await taught(store)
    forgotten = recall.forgotten
    memories = await store.memories(ANA, ["insight"])
    recall.forget(ANA)
    assert await recall.among(ANA, memories, QUESTION, 5, epoch="e", forgotten=forgotten)
    assert recall.stats()["cached_bytes"] == 0


async def test_who_waited_for_what_was_being_read_does_not_bring_it_back(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    await say(store, ANA, *THINGS)

    def forget_once() -> None:
        store.before = lambda: None
        recall.forget(ANA)

    store.before = forget_once
    await asyncio.gather(*(recall.retrieve(ANA, question, 5) for question in ("tea", "cake", "the moon")))
    assert (recall.stats()["cached_bytes"], recall.stats()["cached_users"]) == (0, 0)


async def test_while_somebody_else_is_forgotten_what_is_held_is_counted(store: Asked, recalling: Recalling) -> None:
    recall, undisturbed = await recalling(), await recalling()
    await say(store, ANA, *THINGS)
    await undisturbed.retrieve(ANA, "tea", 5)
    store.before = lambda: recall.forget(BEN)
    await recall.retrieve(ANA, "tea", 5)
    assert recall.stats()["cached_bytes"] == undisturbed.stats()["cached_bytes"] > 1_000


async def test_several_at_once_of_one_user_are_each_told_of_their_own(
    store: Asked, recalling: Recalling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_service.recall.SMALL", -1)  # all in the thread
    recall = await recalling()
    await taught(store, 60)
    await embed(store)
    chance = Random(7)
    asked = [set(chance.sample([f"m{number}" for number in range(60)], 20)) for _ in range(12)]
    told = await asyncio.gather(*(near(recall, store, of=of) for of in asked))
    assert told == [await near(await recalling(), store, of=of) for of in asked]


async def test_what_was_cut_off_is_begun_anew(store: Asked, recalling: Recalling) -> None:
    recall = await recalling()
    await taught(store)
    await embed(store)
    await near(recall, store)
    await learn(store, ANA, "new", "a bicycle")

    def cut() -> None:
        store.before = lambda: None
        raise asyncio.CancelledError

    store.before = cut
    with pytest.raises(asyncio.CancelledError):
        await near(recall, store)
    assert recall.stats()["cached_bytes"] == 0
    assert await near(recall, store) == await near(await recalling(), store)


async def test_all_users_together_take_no_more_than_there_is_for_them(store: Asked, recalling: Recalling) -> None:
    recall = await recalling(cache_bytes=40_000)
    users = [Scope(user_id=f"user-{number}") for number in range(30)]
    for scope in users:
        await learn(store, scope, "a", "tea")
        await near(recall, store, scope)
    some = recall.stats()["cached_bytes"]
    assert 2_500 < some <= 5_000
    for scope in users:
        await recall.retrieve(scope, "tea", 5)
    assert some + 30_000 < recall.stats()["cached_bytes"] <= 40_000


async def test_what_is_too_large_to_be_held_is_weighed_all_the_same(store: Asked, recalling: Recalling) -> None:
    recall = await recalling(cache_bytes=40_000)
    await learn(store, ANA, "long", "tea " * 5_000)
    assert "long" in await near(recall, store)
    assert recall.stats()["cached_bytes"] == 0

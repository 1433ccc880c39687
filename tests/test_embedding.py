"""Embedding in the background: everything gets its vector once, and no text and no outage stops the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from memory_service.app import open_service
from memory_service.breaker import Breaker
from memory_service.embedding import EMBEDDED_AT_ONCE, PATIENCE_S, PLAIN_WORDS, Embedding
from memory_service.errors import BadModelOutput, ModelError, ModelRefused, ModelUnavailable
from memory_service.settings import Settings
from memory_service.stores.base import Store
from memory_service.values import Scope, Unembedded
from tests.support.background import Clock, until
from tests.support.remembering import Counting, learn, say
from tests.support.stores import YieldingStore, store_of

ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        made = store_of(f"sqlite:///{tmp_path}/memory.db")
        await made.start(stack)
        yield made


class Choosy(Counting):
    """Embeds like Counting, but raises what `complaint` returns for a list of texts."""

    def __init__(self, complaint: Callable[[Sequence[str]], ModelError | None]) -> None:
        super().__init__("choosy")
        self.complaint = complaint

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        await asyncio.sleep(0)
        rows = await super().embed(texts)
        if complaint := self.complaint(texts):
            raise complaint
        return rows


async def vectors(store: Store, scope: Scope, space: str = "choosy") -> dict[str, list[list[float]]]:
    found = (await store.entries(scope, None, space)).vectors
    return {vector.item_id: np.frombuffer(vector.data, np.float32).reshape(-1, 3).tolist() for vector in found}


async def test_every_item_is_embedded_once_in_bounded_batches(store: Store) -> None:
    embedder = Counting()
    embedding = Embedding(store, embedder, Breaker())
    await say(store, ANA, *(f"turn {n}" for n in range(EMBEDDED_AT_ONCE + 10)))
    await say(store, BEN, "hello")
    await learn(store, ANA, "m", "a memory")
    await embedding.embed_due()
    await embedding.embed_due()
    asked = [text for batch in embedder.batches for text in batch]
    assert max(map(len, embedder.batches)) <= EMBEDDED_AT_ONCE
    assert len(asked) == len(set(asked)) == EMBEDDED_AT_ONCE + 12 == embedding.stats()["embedded"]
    assert await store.due_vectors(embedder.space, 1) == []
    vectors = (await store.entries(ANA, None, embedder.space)).vectors
    for text, item in ((f"user: turn {EMBEDDED_AT_ONCE}", f"s#{EMBEDDED_AT_ONCE + 1}"), ("a memory", "m")):
        [expected] = await Counting().embed([text])
        assert [vector.data for vector in vectors if vector.item_id == item] == [expected.tobytes()]


async def test_a_memory_written_anew_while_it_is_embedded_gets_the_vector_of_its_new_words(store: Store) -> None:
    class Slow(Counting):
        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            rows = await super().embed(texts)
            if len(self.batches) == 1:
                await learn(store, ANA, "m", "aaaa")
            return rows

    embedder = Slow()
    await learn(store, ANA, "m", "long and quite different words")
    await Embedding(store, embedder, Breaker()).embed_due()
    assert embedder.batches == [["long and quite different words"], ["aaaa"]]
    entries = await store.entries(ANA, None, embedder.space)
    [expected] = await Counting().embed(["aaaa"])
    assert [np.frombuffer(vector.data, np.float32).tolist() for vector in entries.vectors] == [expected.tolist()]


@pytest.mark.parametrize("complaint", [ModelRefused("400"), BadModelOutput("a vector with NaN")], ids=str)
@pytest.mark.parametrize("places", [[0], [7], [19], [3, 4], [0, 9, 19], list(range(20))], ids=str)
async def test_a_text_the_embedder_will_not_take_holds_up_no_other(
    store: Store, complaint: ModelError, places: list[int]
) -> None:
    await say(store, ANA, *(f"poison {n}" if n in places else f"remark {n}" for n in range(20)))
    await say(store, BEN, "hello")
    embedder = Choosy(lambda texts: complaint if any("poison" in text for text in texts) else None)
    embedding = Embedding(store, embedder, Breaker(failures=1))
    await embedding.embed_due()
    assert await store.due_vectors("choosy", 100) == []
    found = await vectors(store, ANA)
    for n in range(20):
        expected = [[0.0, 0.0, 0.0]] if n in places else (await Counting().embed([f"user: remark {n}"])).tolist()
        assert found[f"s#{n + 1}"] == expected
    assert len(await vectors(store, BEN)) == 1
    told = embedding.stats()
    assert (told["texts_refused"], told["embedding_failures"], told["embedder"]) == (len(places), 0, "closed")
    assert len(embedder.batches) < 100


@pytest.mark.parametrize(
    "outage", [ModelUnavailable("down"), BadModelOutput("NaN throughout"), ModelRefused("no such model")], ids=str
)
async def test_an_embedder_at_fault_is_left_alone_for_a_while_and_everything_is_embedded_when_it_is_well(
    store: Store, outage: ModelError, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    await say(store, ANA, "I am allergic to walnuts", "The weather is fine")
    embedder = Choosy(lambda texts: outage)
    embedding = Embedding(store, embedder, Breaker(failures=2, rest_s=30, clock=clock.monotonic))
    for _ in range(5):
        await embedding.embed_due()
    asked = len(embedder.batches)
    assert embedding.stats()["embedding_failures"] == 2
    assert len(await store.due_vectors("choosy", 10)) == 2
    assert await embedding.question("walnuts") is None
    assert len(embedder.batches) == asked
    assert "Traceback" not in caplog.text
    assert "walnuts" not in caplog.text

    embedder.complaint = lambda texts: None
    clock.advance(seconds=31)
    await embedding.embed_due()
    assert len(await vectors(store, ANA)) == 2
    assert await embedding.question("walnuts") is not None
    assert (embedding.stats()["texts_refused"], embedding.stats()["embedder"]) == (0, "closed")


async def test_an_embedder_that_names_a_time_is_left_alone_until_then(store: Store) -> None:
    clock = Clock()
    await say(store, ANA, "I am allergic to walnuts")
    embedder = Choosy(lambda texts: ModelUnavailable("429", retry_after_s=600))
    embedding = Embedding(store, embedder, Breaker(clock=clock.monotonic))
    await embedding.embed_due()
    clock.advance(seconds=599)
    await embedding.embed_due()
    assert len(embedder.batches) == 1
    clock.advance(seconds=2)
    await embedding.embed_due()
    assert len(embedder.batches) == 2


async def test_an_embedder_too_slow_for_a_large_batch_gets_smaller_ones_until_it_keeps_up(store: Store) -> None:
    await say(store, ANA, *(f"remark {n}" for n in range(100)))
    embedder = Choosy(lambda texts: ModelUnavailable("no whole answer in time") if len(texts) > 16 else None)
    embedding = Embedding(store, embedder, Breaker(failures=100))
    for _ in range(40):
        await embedding.embed_due()
    assert len(await vectors(store, ANA)) == 100


async def test_a_refused_question_says_nothing_about_the_embedder(store: Store) -> None:
    embedder = Choosy(lambda texts: ModelRefused("400") if "poison" in texts else None)
    embedding = Embedding(store, embedder, Breaker(failures=1))
    assert await embedding.question("poison") is None
    assert await embedding.question(PLAIN_WORDS) is not None


class Unsettled:
    """An embedder whose vectors have as many dimensions as it is told, under one name as a model's endpoint has."""

    keyword_weight = 0.6
    local = False

    def __init__(self, width: int) -> None:
        self.width, self.space = width, None

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        width = self.width
        await asyncio.sleep(0)
        self.space = f"model:{width}"
        return np.full((len(texts), width), width**-0.5, np.float32)


async def test_what_was_embedded_before_the_model_changed_its_dimensions_is_embedded_anew(store: Store) -> None:
    await say(store, ANA, "I am allergic to walnuts", "The weather is fine")
    embedder = Unsettled(4)
    embedding = Embedding(store, embedder, Breaker())
    await embedding.embed_due()
    assert await store.due_vectors("model:4", 10) == []

    embedder.width = 2
    assert await embedding.question("walnuts") is not None
    await embedding.embed_due()
    assert await store.due_vectors("model:2", 10) == []

    anew = Embedding(store, Unsettled(3), Breaker())  # as after a restart, which does not know them yet
    await anew.embed_due()
    assert await store.due_vectors("model:3", 10) == []
    assert anew.stats()["embedded"] == 2


async def test_an_embedder_is_not_asked_when_there_is_nothing_to_embed(store: Store) -> None:
    embedder = Choosy(lambda texts: None)
    await Embedding(store, embedder, Breaker()).embed_due()
    assert embedder.batches == []


async def test_only_those_who_were_rung_for_are_looked_through(store: Store) -> None:
    asked: list[object] = []

    class Noting(YieldingStore):
        async def _due_vectors(self, space: str, limit: int, users: Collection[Scope] | None) -> list[Unembedded]:
            asked.append(users)
            return await super()._due_vectors(space, limit, users)

    embedding = Embedding(Noting(store), Counting(), Breaker())
    await say(store, ANA, "hello")
    await embedding.embed_rung()
    assert asked == []
    embedding.ring(ANA)
    await embedding.embed_rung()
    assert asked == [(ANA,)]
    assert embedding.stats()["embedded"] == 1
    await embedding.embed_due()
    assert asked[1:] == [None]


async def test_those_whose_embedding_failed_are_looked_through_again_with_the_next_one_who_is_rung_for(
    store: Store,
) -> None:
    embedder = Choosy(lambda texts: ModelUnavailable("down"))
    embedding = Embedding(store, embedder, Breaker(failures=100))
    await say(store, ANA, "hello")
    embedding.ring(ANA)
    await embedding.embed_rung()
    embedder.complaint = lambda texts: None
    embedding.ring(BEN)
    assert embedding._rung == {ANA, BEN}
    await embedding.embed_rung()
    assert len(await vectors(store, ANA)) == 1


# Requests come first


class Busy:
    """Whether requests take the time, as a test has it."""

    def __init__(self) -> None:
        self.now = True

    def __call__(self) -> bool:
        return self.now


BATCH = 4


async def rung(store: Store, monkeypatch: pytest.MonkeyPatch, clock: Clock, busy: Busy) -> Embedding:
    """An embedding that was rung for a user who has ten batches of turns."""
    monkeypatch.setattr("memory_service.embedding.EMBEDDED_AT_ONCE", BATCH)
    await say(store, ANA, *(f"turn {number}" for number in range(10 * BATCH)))
    embedding = Embedding(store, Counting(), Breaker(), gather_s=0, busy=busy, clock=clock.monotonic)
    embedding.ring(ANA)
    return embedding


def interrupt(embedding: Embedding, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Have something happen whenever a batch is embedded."""

    async def embed(texts: Sequence[str]) -> np.ndarray:
        meanwhile()
        return await Counting().embed(texts)

    monkeypatch.setattr(embedding._embedder, "embed", embed)


async def test_while_requests_come_in_it_gives_way_before_each_batch_and_goes_on_when_it_is_called_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy()
    embedding = await rung(store, monkeypatch, Clock(), busy)
    assert await embedding.embed_rung()
    assert embedding.embedded == 0
    interrupt(embedding, monkeypatch, lambda: setattr(busy, "now", True))
    for batches in (1, 2):
        busy.now = False
        assert await embedding.embed_rung()
        assert embedding.embedded == batches * BATCH
    busy.now = False
    interrupt(embedding, monkeypatch, lambda: None)
    assert not await embedding.embed_rung()
    assert embedding.embedded == 10 * BATCH


async def test_it_gives_way_no_longer_than_its_patience_counted_from_the_first_who_was_rung_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    embedding = await rung(store, monkeypatch, clock, Busy())
    assert await embedding.embed_rung()
    clock.advance(seconds=PATIENCE_S / 2)
    await say(store, BEN, "hello")
    embedding.ring(BEN)
    assert await embedding.embed_rung()
    clock.advance(seconds=PATIENCE_S / 2)
    assert not await embedding.embed_rung()
    assert embedding.embedded == 10 * BATCH + 1


async def test_who_is_rung_for_meanwhile_does_not_begin_its_patience_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, busy = Clock(), Busy()
    embedding = await rung(store, monkeypatch, clock, busy)
    busy.now = False

    def meanwhile() -> None:
        clock.advance(seconds=PATIENCE_S / 2)
        busy.now = True
        embedding.ring(BEN)

    interrupt(embedding, monkeypatch, meanwhile)
    assert await embedding.embed_rung()
    clock.advance(seconds=PATIENCE_S / 2)
    assert not await embedding.embed_rung()
    assert embedding.embedded == 10 * BATCH


async def test_what_is_rung_for_after_all_was_done_has_patience_of_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, busy = Clock(), Busy()
    embedding = await rung(store, monkeypatch, clock, busy)
    busy.now = False
    assert not await embedding.embed_rung()
    busy.now = True
    clock.advance(seconds=PATIENCE_S)
    await say(store, BEN, *(f"turn {number}" for number in range(10 * BATCH)))
    embedding.ring(BEN)
    assert await embedding.embed_rung()
    assert embedding.embedded == 10 * BATCH


async def test_what_gave_way_is_gone_on_with_though_nobody_rings_again(make_settings: Callable[..., Settings]) -> None:
    left = [True, True, False]

    async def embed_rung() -> bool:
        return left.pop(0)

    async with open_service(make_settings()) as service:
        service._background._embedding.embed_rung = embed_rung  # type: ignore[method-assign]
        service._background.embed_soon(ANA)
        await until(lambda: not left)

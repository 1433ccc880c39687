"""A question that was asked a moment ago is answered again without a search, and never with what is no longer so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from memory_service.app import Surroundings, make_parts, make_service
from memory_service.errors import ModelUnavailable
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Store
from memory_service.values import Message, Only, Scope, SessionKey
from tests.redis.launcher import RedisServer
from tests.support.background import settled
from tests.support.stores import YieldingStore, opened

ANA, BEN = Scope(user_id="ana"), Scope(user_id="ben")
MakeSettings = Callable[..., Settings]


class Counting(LocalEmbedder):
    """Counts the questions it is asked; may be told to fail, or to be another model."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0
        self.fails = False

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.questions += texts == ["walnuts"]
        if self.fails:
            raise ModelUnavailable("the model is away")
        return await super().embed(texts)


class World:
    """A service over a store that counts its verbs, and a clock that goes when it is told to."""

    def __init__(self, store: YieldingStore, settings: Settings) -> None:
        self.store, self.embedder, self.now_s = store, Counting(), 0.0
        around = Surroundings(monotonic=lambda: self.now_s, gather_s=0.001)
        self.parts = make_parts(settings, store, OfflineReader(), self.embedder, around)
        self.service: MemoryService = make_service(settings, self.parts, around)

    async def start(self, stack: AsyncExitStack) -> None:
        await self.parts.recall.start(stack)
        if self.parts.tier is not None:
            await self.parts.tier.start(stack, self.parts.pool.let_go)
        await self.parts.scheduler.start(stack)

    async def say(self, text: str, scope: Scope = ANA) -> None:
        await self.service.start_session(scope, "s", restore=True)
        draft = Draft(messages=(Message(role="user", content=text),))
        await self.service.store_turn(SessionKey(scope=scope, session_id="s"), draft)

    async def ask(self, question: str = "walnuts", scope: Scope = ANA, **how: Any) -> list[str]:
        found = await self.service.recall(scope, question, how.pop("limit", 5), how.pop("only", Only()), **how)
        return [hit.item.text for hit in found.hits]

    @property
    def repeated(self) -> int:
        count: int = self.service.stats()["recall"]["searches_repeated"]
        return count


@pytest.fixture
async def make_world(make_settings: MakeSettings) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(store: Store | None = None, **changes: Any) -> World:
            world = World(YieldingStore(store), make_settings(**changes))
            await world.start(stack)
            return world

        yield make


@pytest.fixture
async def world(make_world: Callable[..., Any]) -> World:
    """Ana has spoken, and everything has its vector."""
    made: World = await make_world()
    await made.say("I eat no walnuts")
    await settled(made.service)
    return made


async def test_a_question_that_is_asked_again_costs_one_look_at_the_store(world: World) -> None:
    first = await world.ask()
    asked, before = world.embedder.questions, world.store.calls.copy()
    assert await world.ask() == first == ["I eat no walnuts"]
    assert (world.repeated, world.embedder.questions) == (1, asked)
    assert world.store.calls - before == {"entries": 1}


async def test_what_was_said_a_moment_ago_is_in_the_answer(world: World) -> None:
    for number in range(3):
        before = await world.ask()
        await world.say(f"walnuts {number}")
        assert set(await world.ask()) == {*before, f"walnuts {number}"}


async def test_a_vector_that_came_meanwhile_counts(world: World) -> None:
    await world.say("hazelnuts are fine")
    await world.ask("nuts")
    await settled(world.service)
    world.store.calls.clear()
    await world.ask("nuts")
    assert world.repeated == 0


async def test_what_was_deleted_is_not_told_again(world: World) -> None:
    memory = await world.service.memories.remember(ANA, "walnuts, once")
    assert "walnuts, once" in await world.ask()
    await world.service.delete_memory(ANA, memory.memory_id)
    assert "walnuts, once" not in await world.ask()


async def test_what_another_process_has_written_or_deleted_counts(
    make_world: Callable[..., Any], postgres_url: str
) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        here, there = await make_world(one), await make_world(other)
        memory = await there.service.memories.remember(ANA, "walnuts, there")
        await settled(there.service)
        assert await here.ask() == await here.ask() == ["walnuts, there"]
        assert here.repeated == 1
        await there.service.memories.remember(ANA, "walnuts, again")
        assert len(await here.ask()) == 2
        await there.service.delete_memory(ANA, memory.memory_id)
        assert await here.ask() == ["walnuts, again"]


async def test_what_others_say_changes_no_answer_and_is_in_none(world: World) -> None:
    await world.say("Ben grows walnuts", BEN)
    assert await world.ask() == ["I eat no walnuts"]
    assert await world.ask(scope=BEN) == ["Ben grows walnuts"]
    await world.say("walnuts walnuts", BEN)
    assert await world.ask() == ["I eat no walnuts"]
    assert world.repeated == 1


@pytest.mark.parametrize(
    "other",
    [
        {"question": "walnuts?"},
        {"limit": 6},
        {"only": Only(session_id="s")},
        {"only": Only(without_tags=frozenset({"x"}))},
        {"by_words": True},
    ],
    ids=str,
)
async def test_another_question_is_another_answer(world: World, other: dict[str, Any]) -> None:
    await world.ask()
    await world.ask(**other)
    assert world.repeated == 0
    await world.ask(**other)
    assert world.repeated == 1


async def test_an_answer_is_given_again_for_so_long_at_most(world: World) -> None:
    await world.ask()
    world.now_s += 59
    await world.ask()
    assert world.repeated == 1
    world.now_s += 1
    await world.ask()
    assert world.repeated == 1


async def test_no_answer_is_kept_where_none_shall_be(make_world: Callable[..., Any]) -> None:
    world = await make_world(query_cache_seconds=0)
    await world.say("I eat no walnuts")
    await world.ask()
    await world.ask()
    assert world.repeated == 0


async def test_an_answer_that_had_to_do_without_something_is_not_given_again(world: World) -> None:
    world.embedder.fails = True
    await world.ask()
    world.embedder.fails = False
    await world.ask()
    assert world.repeated == 0


async def test_answers_take_no_more_room_than_they_may(make_world: Callable[..., Any]) -> None:
    world = await make_world(recall_cache_mb=1)
    for user in range(4):
        await world.say("walnuts " + "x" * 90_000, Scope(user_id=f"user{user}"))
    await settled(world.service)
    for _ in range(2):
        for user in range(4):
            assert len(await world.ask(scope=Scope(user_id=f"user{user}"))) == 1
    assert world.repeated == 0  # 125 KB hold one of them
    await world.ask(scope=Scope(user_id="user3"))
    assert world.repeated == 1


# Several services beside one Redis


@pytest.fixture
async def two_worlds(
    make_world: Callable[..., Any], postgres_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, World]]:
    """Two services on one record, which Ana has spoken to."""
    monkeypatch.setattr("memory_service.hot_tier.FIND_S", 10)  # what comes too late is searched anew
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        here, there = [
            await make_world(store, redis_url=redis_server.url, pool_coherence="validate") for store in (one, other)
        ]
        await here.say("I eat no walnuts")
        await here.service.memories.remember(ANA, "walnuts, noted", tags=("x",), metadata={"a": 1})
        await settled(here.service)
        yield here, there


async def found(world: World) -> list[Any]:
    return (await world.service.recall(ANA, "walnuts", 5, Only())).hits


async def test_what_one_service_has_answered_another_need_not_search(two_worlds: tuple[World, World]) -> None:
    here, there = two_worlds
    first = await found(here)
    assert await found(there) == first
    assert (there.embedder.questions, there.service.stats()["recall"]["searches_repeated_of_others"]) == (0, 1)
    assert await found(there) == first  # it holds it itself now
    assert there.repeated == 1


async def test_an_answer_of_another_counts_only_while_nothing_is_new(two_worlds: tuple[World, World]) -> None:
    here, there = two_worlds
    await found(here)
    memory = await here.service.memories.remember(ANA, "walnuts, again")
    assert len(await found(there)) == 3
    await found(here)
    await here.service.delete_memory(ANA, memory.memory_id)
    assert len(await found(there)) == 2
    assert there.service.stats()["recall"]["searches_repeated_of_others"] == 0


@pytest.mark.parametrize("said", [b"", b"{}", b"[1,2]", b'{"cursor":0,"hits":[["m",1,null]]}', b"\xff"])
async def test_what_somebody_else_has_put_there_is_no_answer(
    two_worlds: tuple[World, World], redis_server: RedisServer, said: bytes
) -> None:
    here, there = two_worlds
    first = await found(here)
    async with Redis.from_url(redis_server.url) as redis:
        for name in await redis.keys("*:answer:*"):
            await redis.set(name, said)
    assert await found(there) == first
    assert there.embedder.questions == 1


async def test_no_words_are_kept_in_redis(two_worlds: tuple[World, World], redis_server: RedisServer) -> None:
    here, _ = two_worlds
    await found(here)
    async with Redis.from_url(redis_server.url) as redis:
        names = await redis.keys("*:answer:*")
        assert len(names) == 1
        body = await redis.get(names[0])
        assert b"walnuts" not in names[0] + body
        assert 0 < await redis.pttl(names[0]) <= 60_000


async def test_without_redis_each_searches_by_itself(
    two_worlds: tuple[World, World], redis_server: RedisServer
) -> None:
    here, there = two_worlds
    first = await found(here)
    redis_server.kill()
    assert await found(there) == await found(here) == first


async def test_what_is_forgotten_of_a_user_in_redis_are_answers_too(
    two_worlds: tuple[World, World], redis_server: RedisServer
) -> None:
    here, there = two_worlds
    await found(here)
    assert here.parts.tier is not None
    await here.parts.tier.forget(ANA)  # type: ignore[attr-defined]
    async with Redis.from_url(redis_server.url) as redis:
        assert await redis.keys("*:answer:*") == []
    await found(there)
    assert there.embedder.questions == 1

"""A Redis that fails: whoever asks is answered by the store, soon, and Redis is used again when it is well."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from memory_service.hot_tier import BEHIND_S, CHANNEL, FIND_S, MOST_WAITING, REST_S, HotTier
from memory_service.stores.base import Commit
from memory_service.values import Hot
from tests.redis.conftest import MakeTier, Told
from tests.redis.launcher import RedisServer
from tests.support.line import Line, line_to
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, a_session, begin

KEY = a_key()
PATIENCE_S = 15
BUSY_S = 3.0
"""By how much a machine that has other things to do may be late: other tests run beside."""


@asynccontextmanager
async def started(tier: HotTier) -> AsyncIterator[Told]:
    """A tier that works; gives what it is told by others."""
    told: Told = []
    async with AsyncExitStack() as stack:
        await tier.start(stack, lambda *moved: told.append(moved))
        yield told


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 (what is waited for is nothing of ours)
            await asyncio.sleep(0.01)


async def settled(tier: HotTier) -> None:
    await until(lambda: not tier._waiting)


@pytest.fixture
async def hot(store: FaultyStore) -> Hot:
    await begin(store, KEY, turns=2)
    hot = await store.load(KEY)
    assert hot is not None
    return hot


@pytest.fixture
async def line(redis_server: RedisServer) -> AsyncIterator[Line]:
    async with line_to(redis_server.url) as line:
        yield line


async def longest_load_s(tier: HotTier, hot: Hot, times: int) -> float:
    """Load so often, one after the other; each must give what is stored."""
    longest = 0.0
    for _ in range(times):
        began = time.monotonic()
        assert await tier.load(KEY) == hot
        longest = max(longest, time.monotonic() - began)
    return longest


async def used_again(tier: HotTier, hot: Hot) -> None:
    before = tier.hits
    async with asyncio.timeout(PATIENCE_S):
        while tier.hits == before:
            assert await tier.load(KEY) == hot
            await asyncio.sleep(0.05)
    await until(lambda: tier.stats()["state"] == "up")


# Telling


async def test_what_one_commits_the_others_are_told(make_tier: MakeTier, hot: Hot) -> None:
    here, there = make_tier(), make_tier()
    async with started(here), started(there) as told:
        await until(lambda: there.stats()["listening"])
        here.keep_soon(KEY, hot)
        await until(lambda: told)
        assert await there.load(KEY) == hot
    assert told == [(KEY, hot.session.incarnation, hot.session.version)]
    assert there.hits == 1


async def test_of_several_commits_in_a_row_the_last_is_kept(make_tier: MakeTier, store: FaultyStore) -> None:
    tier = make_tier()
    async with started(tier):
        for version in range(1, 50):
            tier.keep_soon(KEY, Hot(session=a_session(version=version)))
        await settled(tier)
        await until(lambda: tier.kept)
        found = await tier.find(KEY)
    assert found is not None
    assert found.session.version == 49
    assert tier.kept == 1


async def test_garbage_on_the_channel_is_overheard(make_tier: MakeTier, raw: Redis, hot: Hot) -> None:
    tier = make_tier()
    async with started(tier) as told:
        await until(lambda: tier.stats()["listening"])
        for garbage in (b"", b"\xff", b"{}", b"[1]", b'{"key":1}'):
            await raw.publish(CHANNEL, garbage)
        tier.keep_soon(KEY, hot)
        await until(lambda: told)
        assert tier.stats()["listening"]


# Failing


async def test_a_redis_that_is_not_there_at_the_start_is_said_once_and_used_when_it_comes(
    make_tier: MakeTier, redis_server: RedisServer, hot: Hot, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.kill()
    tier = make_tier()
    with caplog.at_level(logging.INFO, "memory_service"):
        async with started(tier):
            assert tier.stats()["state"] == "down"
            await longest_load_s(tier, hot, 50)
            await asyncio.sleep(2.5 * REST_S)
            await longest_load_s(tier, hot, 50)
            redis_server.start()
            await until(lambda: tier.stats()["state"] == "up" and tier.stats()["listening"])
            await used_again(tier, hot)
    assert [record.getMessage() for record in caplog.records] == [
        "Redis does not answer: sessions are asked of the store until it does",
        "Redis answers again",
    ]


async def test_a_wrong_password_is_like_no_redis(
    make_tier: MakeTier, redis_server: RedisServer, raw: Redis, hot: Hot, caplog: pytest.LogCaptureFixture
) -> None:
    await raw.config_set("requirepass", "right")
    tier = make_tier(f"redis://:wrong-secret@127.0.0.1:{redis_server.port}/0")
    async with started(tier):
        assert tier.stats()["state"] == "down"
        assert await tier.load(KEY) == hot
    assert "wrong-secret" not in caplog.text


async def test_a_redis_that_hangs_costs_a_few_requests_a_moment_each(
    make_tier: MakeTier, redis_server: RedisServer, hot: Hot
) -> None:
    tier = make_tier()
    async with started(tier):
        await tier.keep(KEY, hot)
        await used_again(tier, hot)
        with redis_server.paused():
            began = time.monotonic()
            assert await longest_load_s(tier, hot, 500) < FIND_S + BUSY_S
            assert time.monotonic() - began < 3 * FIND_S + BUSY_S
            assert tier.stats()["state"] == "down"
            assert tier.stats()["failures"] <= 8
        await used_again(tier, hot)


async def test_a_redis_that_crashed_and_is_empty_fills_again(
    make_tier: MakeTier, redis_server: RedisServer, hot: Hot
) -> None:
    tier = make_tier()
    async with started(tier):
        for _ in range(3):
            await used_again(tier, hot)
            redis_server.kill()
            assert await longest_load_s(tier, hot, 100) < FIND_S + BUSY_S
            redis_server.start()
        await used_again(tier, hot)


@pytest.mark.parametrize("state", ["silent", "refusing"])
async def test_a_line_that_is_cut_heals(make_tier: MakeTier, line: Line, hot: Hot, state: str) -> None:
    tier = make_tier(line.url)
    async with started(tier) as told:
        await used_again(tier, hot)
        await until(lambda: tier.stats()["listening"])
        line.become(state)  # type: ignore[arg-type]
        assert await longest_load_s(tier, hot, 200) < FIND_S + BUSY_S
        tier.keep_soon(KEY, hot)
        await until(lambda: tier.failures)
        line.become("whole")
        await used_again(tier, hot)
        await until(lambda: tier.stats()["listening"])
        told.clear()
        other = make_tier()
        async with asyncio.timeout(PATIENCE_S):
            version = 10
            while not told:  # a message that nobody hears is lost
                version += 1
                await other.keep(KEY, Hot(session=a_session(version=version)))
                await asyncio.sleep(0.1)


async def test_a_subscription_that_went_silent_is_made_anew(
    make_tier: MakeTier, line: Line, hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_service.hot_tier.QUIET_S", 1.0)
    tier = make_tier(line.url)
    async with started(tier):
        await until(lambda: tier.stats()["listening"])
        await asyncio.sleep(3)
        assert tier.stats()["listening"], "one that answers is left alone"
        line.become("silent")
        await until(lambda: not tier.stats()["listening"])
        line.become("whole")
        await until(lambda: tier.stats()["listening"])


async def test_a_primary_that_became_a_replica_is_left_when_it_refuses(
    make_tier: MakeTier, raw: Redis, redis_server: RedisServer, hot: Hot
) -> None:
    tier = make_tier()
    async with started(tier):
        await tier.keep(KEY, hot)
        await raw.config_set("replica-serve-stale-data", "yes")
        await raw.replicaof("127.0.0.1", "1")
        assert await tier.keep(KEY, hot) is None
        assert await tier.load(KEY) == hot, "it can still be read"
        await raw.replicaof("NO", "ONE")
        async with asyncio.timeout(PATIENCE_S):
            while await tier.keep(KEY, hot) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_a_full_redis_keeps_nothing_and_hurts_nobody(make_tier: MakeTier, raw: Redis, hot: Hot) -> None:
    await raw.config_set("maxmemory", "1")
    tier = make_tier()
    async with started(tier):
        await longest_load_s(tier, hot, 20)
        assert tier.kept == 0
        await raw.config_set("maxmemory", "0")
        await used_again(tier, hot)


async def test_what_waits_to_be_kept_is_bounded(make_tier: MakeTier) -> None:
    tier = make_tier()  # nobody works
    for number in range(MOST_WAITING + 100):
        tier.keep_soon(a_key(f"s{number}"), Hot(session=a_session()))
    tier.keep_soon(a_key("s0"), Hot(session=a_session(version=2)))
    assert len(tier._waiting) == MOST_WAITING
    assert tier.dropped == 100


async def test_a_caller_that_goes_away_leaves_nothing_behind(
    make_tier: MakeTier, redis_server: RedisServer, hot: Hot
) -> None:
    tier = make_tier()
    async with started(tier):
        await tier.keep(KEY, hot)
        chance = random.Random(3)
        for _ in range(100):
            loading = asyncio.create_task(tier.load(KEY))
            await asyncio.sleep(chance.uniform(0, 0.002))
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            other = asyncio.create_task(tier.find(a_key("another")))
            assert await other is None, "an answer must not reach whom it is not for"
        assert await tier.load(KEY) == hot


async def test_an_end_in_the_middle_of_an_outage_is_quick(
    make_tier: MakeTier, redis_server: RedisServer, hot: Hot
) -> None:
    tier = make_tier()
    with redis_server.paused():
        began = time.monotonic()
        async with started(tier):
            for number in range(100):
                tier.keep_soon(a_key(f"s{number}"), hot)
        assert time.monotonic() - began < 3 * BEHIND_S + BUSY_S


NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\xff" * 64,
    b"$-7\r\n",
    b"$99999999999\r\nx",
    b":abc\r\n",
    b"*-5\r\n",
    b"*3\r\n*3\r\n$1\r\nx\r\n",
    b"-ERR \xff\xff\r\n",
    b"-\r\n",
    b"+\r\n",
    b"$abc\r\n",
    b"%1\r\n+a\r\n+b\r\n",
    b">2\r\n+a\r\n+b\r\n",
    b"_\r\n",
    b"(99\r\n",
    b"$3\r\nabc\r\n" * 50,
    b"\r\n",
    b"",
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
async def test_answers_that_make_no_sense_are_like_none(make_tier: MakeTier, hot: Hot, nonsense: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65536) and nonsense:
                writer.write(nonsense)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    tier = make_tier(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    async with started(tier):
        for _ in range(4):
            assert await tier.load(KEY) == hot
            tier._breaker.succeeded()
        assert await tier.keep(KEY, hot) is None
    await tier._redis.aclose()
    server.close()
    await server.wait_closed()


async def test_one_that_cannot_reach_redis_sees_what_others_commit(
    make_tier: MakeTier, line: Line, store: FaultyStore, hot: Hot
) -> None:
    """A partition: the store tells it that what it last kept is behind."""
    near, cut = make_tier(), make_tier(line.url)
    async with started(near), started(cut):
        await cut.keep(KEY, hot)
        line.become("silent")
        then = Hot(session=hot.session.touched(NOON), turns=hot.turns)
        await store.commit(Commit(scope=KEY.scope, session=then.session))
        assert await cut.load(KEY) == then
        assert await near.load(KEY) == then, "what is in Redis is older: the one that moved it on could not say so"
        line.become("whole")

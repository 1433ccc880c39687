"""A store, and tiers over it that share one Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from memory_service.hot_tier import HotTier
from memory_service.values import SessionKey
from tests.redis.launcher import RedisServer
from tests.support.stores import FaultyStore

MakeTier = Callable[..., HotTier]
Told = list[tuple[SessionKey, str, int]]


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def raw(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """Redis as it is, around the tier."""
    async with Redis(port=redis_server.port, protocol=2) as redis:
        yield redis


@pytest.fixture
async def make_tier(redis_server: RedisServer, store: FaultyStore) -> AsyncIterator[MakeTier]:
    """A tier that is not started: nothing is kept but by `keep`."""
    async with AsyncExitStack() as stack:

        def make(url: str = redis_server.url, ttl_s: float = 60) -> HotTier:
            tier = HotTier(url, store.load, store.head, ttl_s=ttl_s)
            stack.push_async_callback(tier._redis.aclose)
            return tier

        yield make


@pytest.fixture
def tier(make_tier: MakeTier) -> HotTier:
    return make_tier()

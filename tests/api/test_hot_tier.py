"""REDIS_URL at the start and in the counters."""

from __future__ import annotations

import sys
from collections.abc import Callable

import httpx2
import pytest

from memory_service.app import open_service
from memory_service.errors import UnsafeStart
from memory_service.settings import Settings
from tests.api.conftest import Connect
from tests.api.talking import STATS
from tests.redis.launcher import RedisServer

SHAREABLE = ("cosmos", "postgres", "others cannot be shared")
COUNTERS = {"hits": 0, "misses": 0, "stale": 0, "kept": 0, "dropped": 0, "failures": 0}


async def refused(settings: Settings) -> str:
    with pytest.raises(UnsafeStart) as caught:
        async with open_service(settings):
            pass
    return str(caught.value)


async def test_without_a_url_there_is_none(http: httpx2.AsyncClient) -> None:
    assert (await http.get(STATS)).json()["hot_tier"] == {"state": "off"}


@pytest.mark.only_on(*SHAREABLE)
async def test_the_counters_say_what_it_does(
    connect: Connect, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_service.hot_tier.BEHIND_S", 20.0)
    http = await connect(redis_url=redis_server.url)
    tier = (await http.get(STATS)).json()["hot_tier"]
    assert tier.pop("listening") in (True, False)
    assert tier == {"state": "up", **COUNTERS}


@pytest.mark.only_on(*SHAREABLE)
async def test_one_that_is_not_there_or_refuses_us_is_no_reason_not_to_start(connect: Connect) -> None:
    http = await connect(redis_url="redis://:secret-word@127.0.0.1:1/0")
    tier = (await http.get(STATS)).json()["hot_tier"]
    assert (tier["state"], tier["listening"]) == ("down", False)
    assert (await http.get("/readyz")).status_code == 200


@pytest.mark.only_on(*SHAREABLE)
async def test_a_url_that_cannot_be_read_is_a_reason(make_settings: Callable[..., Settings]) -> None:
    assert (await refused(make_settings(redis_url="http://secret-word"))).startswith("REDIS_URL must be redis://")


@pytest.mark.only_on(*SHAREABLE)
async def test_a_missing_package_is_named(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "memory_service.hot_tier", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    assert "pip install 'agent-memory-service[redis]'" in await refused(make_settings(redis_url="redis://127.0.0.1"))


async def test_one_service_that_has_its_record_for_itself_is_told_that_it_needs_none(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(redis_url="redis://127.0.0.1", pool_coherence="exclusive")
    assert "take REDIS_URL away" in await refused(settings)


@pytest.mark.only_on("sqlite", "the others can be shared")
async def test_over_a_file_of_its_own_there_is_none(make_settings: Callable[..., Settings]) -> None:
    assert "take REDIS_URL away" in await refused(make_settings(redis_url="redis://127.0.0.1"))

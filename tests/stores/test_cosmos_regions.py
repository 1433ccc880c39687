"""An account in two regions whose write region moves, or goes away: the store follows without a restart.

The server of the tests has a port for each region; they share everything at once, so of lag nothing is seen here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.stores.base import Store
from memory_service.stores.cosmos import client
from memory_service.values import Hot
from tests.cosmos.launcher import CosmosServer
from tests.cosmos.node import INSTALL_S
from tests.stores.cosmos_account import settings_for
from tests.support.stores import opened
from tests.support.values import a_key, begin, next_turn

KEY = a_key()
pytestmark = pytest.mark.timeout(INSTALL_S + 60)


@pytest.fixture(scope="module")
def two_regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CosmosServer]:
    with CosmosServer(tmp_path_factory.mktemp("cosmos"), regions=("West", "East")) as server:
        yield server


@pytest.fixture
def server(two_regions: CosmosServer) -> CosmosServer:
    """Both regions are there, and West takes the writes."""
    two_regions.reset()
    return two_regions


@pytest.fixture
async def store(server: CosmosServer) -> AsyncIterator[Store]:
    async with opened(settings_for(server)) as store:
        await begin(store, KEY, turns=2)
        yield store


async def held(store: Store) -> Hot:
    found = await store.load(KEY)
    assert found is not None
    return found


async def is_served(store: Store, turns: int) -> None:
    """Write and read, and find nothing missing and nothing twice."""
    commit, then = next_turn(await held(store), KEY)
    await store.commit(commit)
    assert await held(store) == then
    assert [turn.seq for turn in await store.turns(KEY)] == list(range(1, turns + 1))


async def test_writes_follow_when_another_region_takes_them(store: Store, server: CosmosServer) -> None:
    server.moves("East")
    began = time.monotonic()
    await is_served(store, 3)
    assert time.monotonic() - began < client.VERB_S
    calls = [(call["op"], call["status"]) for call in server.calls()]
    assert ("batch", 403) in calls
    await is_served(store, 4)
    assert "batch" in [call["op"] for call in server.calls()]


async def test_when_the_region_that_takes_writes_goes_away_the_next_one_is_found(
    store: Store, server: CosmosServer
) -> None:
    """Nobody says 403: there is nobody to say it."""
    server.moves("East", gone=("West",))
    began = time.monotonic()
    await is_served(store, 3)
    assert time.monotonic() - began < client.VERB_S
    server.moves("West", gone=("East",))
    await is_served(store, 4)
    server.moves("West")
    await is_served(store, 5)


async def test_many_who_write_while_the_region_goes_away_all_get_through_once(
    store: Store, server: CosmosServer
) -> None:
    keys = [a_key(user_id=f"user{number}") for number in range(20)]
    for key in keys:
        await begin(store, key)

    async def talk(number: int) -> None:
        for _ in range(10):
            hot = await store.load(keys[number])
            assert hot is not None
            await store.commit(next_turn(hot, keys[number])[0])

    talking = [asyncio.create_task(talk(number)) for number in range(20)]
    await asyncio.sleep(0.1)
    server.moves("East", gone=("West",))
    await asyncio.gather(*talking)
    for key in keys:
        assert [turn.seq for turn in await store.turns(key)] == list(range(1, 11))


@pytest.mark.parametrize("substatus", [3, 1008])
async def test_a_region_that_turns_one_write_away_is_asked_again(
    store: Store, server: CosmosServer, substatus: int
) -> None:
    server.fails({"op": "batch", "times": 1, "status": 403, "substatus": substatus})
    await is_served(store, 3)


async def test_reading_goes_on_in_the_other_region_while_one_is_away(store: Store, server: CosmosServer) -> None:
    before = await held(store)
    server.moves("West", gone=("East",))
    assert await held(store) == before
    server.moves("East", gone=("West",))
    assert await held(store) == before


async def test_an_account_that_is_away_altogether_is_found_again(store: Store, server: CosmosServer) -> None:
    before = await held(store)
    server.moves("West", gone=("West", "East"))
    loading = asyncio.create_task(store.load(KEY))
    await asyncio.sleep(client.UNREACHED_S + 1)
    server.moves("East", gone=("West",))
    assert await loading == before
    await is_served(store, 3)


async def test_an_account_that_is_away_is_looked_for_now_and_then_however_many_wait_for_it(
    store: Store, server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "VERB_S", 4.0)
    commit, then = next_turn(await held(store), KEY)
    server.moves("West", gone=("West",))
    server.calls()
    outcomes = await asyncio.gather(*(store.commit(commit) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    looks = [call["op"] for call in server.calls()].count("GET account")
    assert 1 <= looks <= 5 * 3, "it is asked once a second, and a new connection asks each region for its health"
    server.moves("West")
    await store.commit(commit)
    assert await held(store) == then


@pytest.mark.parametrize(
    ("account", "said"),
    [({"several": True}, "several regions"), ({"consistency": "Eventual"}, "Session or stronger")],
    ids=str,
)
async def test_an_account_on_which_conditions_do_not_hold_is_refused(
    server: CosmosServer, account: dict[str, object], said: str
) -> None:
    server.moves("West", **account)
    with pytest.raises(UnsafeStart, match=said):
        async with opened(settings_for(server)):
            pass

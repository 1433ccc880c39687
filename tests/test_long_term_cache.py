"""What is known of a user is asked for once, kept while it holds, and never kept from a load that failed."""

from __future__ import annotations

import asyncio

import pytest

from memory_service.errors import StoreUnavailable
from memory_service.long_term import LongTermCache
from memory_service.telling import LongTerm
from memory_service.values import Scope
from tests.support.background import Clock
from tests.support.values import a_memory, a_scope


class Known:
    """A loader of long-term memory that waits to be released, and may fail."""

    def __init__(self) -> None:
        self.loads: list[Scope] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def __call__(self, scope: Scope) -> LongTerm:
        self.loads.append(scope)
        number = len(self.loads)
        error, self.error = self.error, None
        await self.open.wait()
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return LongTerm(insights=(a_memory(f"load-{number}"),))


ANA, BEN = a_scope("ana"), a_scope("ben")


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def cache(known: Known) -> LongTermCache:
    return LongTermCache(known, 10)


def load_number(found: LongTerm | None) -> int:
    assert found is not None
    return int(found.insights[0].memory_id.removeprefix("load-"))


async def test_many_who_ask_at_once_share_one_load(cache: LongTermCache, known: Known) -> None:
    found = await asyncio.gather(*(cache.get(ANA) for _ in range(50)))
    assert known.loads == [ANA]
    assert {load_number(one) for one in found} == {1}
    await cache.get(BEN)
    assert known.loads == [ANA, BEN]


async def test_what_is_ready_is_had_without_waiting(cache: LongTermCache, known: Known) -> None:
    assert cache.ready(ANA) is None
    known.open.clear()
    asking = asyncio.create_task(cache.get(ANA))
    await asyncio.sleep(0)
    assert cache.ready(ANA) is None
    known.open.set()
    assert cache.ready(ANA) is None
    assert cache.ready(ANA) is await asking or load_number(cache.ready(ANA)) == 1
    assert cache.ready(BEN) is None


async def test_what_is_forgotten_is_asked_for_again(cache: LongTermCache, known: Known) -> None:
    await cache.get(ANA)
    await cache.get(BEN)
    cache.forget(ANA)
    assert cache.ready(ANA) is None
    assert load_number(await cache.get(ANA)) == 3
    assert load_number(await cache.get(BEN)) == 2


async def test_a_load_under_way_when_it_is_forgotten_is_not_kept(cache: LongTermCache, known: Known) -> None:
    """It may have read before the change that made it forgotten."""
    known.open.clear()
    early = asyncio.create_task(cache.get(ANA))
    await asyncio.sleep(0)
    cache.forget(ANA)
    late = asyncio.create_task(cache.get(ANA))
    await asyncio.sleep(0)
    known.open.set()
    assert load_number(await early) == 1
    assert load_number(await late) == 2
    assert load_number(cache.ready(ANA)) == 2


async def test_one_cancelled_caller_does_not_fail_the_others(cache: LongTermCache, known: Known) -> None:
    known.open.clear()
    tasks = [asyncio.create_task(cache.get(ANA)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    known.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [await cache.get(ANA)] * 4
    assert known.loads == [ANA]


async def test_a_failed_load_is_told_to_all_who_asked_and_is_not_kept(cache: LongTermCache, known: Known) -> None:
    known.error = StoreUnavailable("it failed")
    outcomes = await asyncio.gather(*(cache.get(ANA) for _ in range(5)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert cache.ready(ANA) is None
    assert load_number(await cache.get(ANA)) == 2


async def test_a_load_that_fails_after_its_only_caller_left_is_not_kept(cache: LongTermCache, known: Known) -> None:
    known.error = StoreUnavailable("it failed")
    known.open.clear()
    leaving = asyncio.create_task(cache.get(ANA))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    known.open.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert load_number(await cache.get(ANA)) == 2


@pytest.mark.parametrize("max_users", [0, 1, 2])
async def test_it_keeps_no_more_users_than_it_may(known: Known, max_users: int) -> None:
    cache = LongTermCache(known, max_users)
    for number in range(5):
        await cache.get(a_scope(f"user{number}"))
    ready = [number for number in range(5) if cache.ready(a_scope(f"user{number}"))]
    assert ready == [3, 4][-max(max_users, 1) :]


async def test_where_others_reflect_too_it_is_asked_for_anew_when_it_is_old() -> None:
    clock, load = Clock(), Known()
    cache = LongTermCache(load, 8, max_age_s=30, clock=clock.monotonic)
    first = await cache.get(a_scope())
    clock.advance(seconds=29)
    assert cache.ready(a_scope()) is first
    clock.advance(seconds=2)
    assert cache.ready(a_scope()) is None
    await cache.get(a_scope())
    assert len(load.loads) == 2

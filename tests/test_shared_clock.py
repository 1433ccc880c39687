"""Processes whose clocks differ go by the store's."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from memory_service.clock import SharedClock
from memory_service.errors import StoreUnavailable
from tests.support.values import NOON, minutes


class TheirTime:
    """A store that tells a time."""

    def __init__(self, told: datetime | None) -> None:
        self.told = told
        self.error: Exception | None = None

    async def __call__(self) -> datetime | None:
        if self.error:
            raise self.error
        return self.told


@pytest.mark.parametrize("ours", [minutes(-60), minutes(-0.1), minutes(0.1), minutes(600)])
async def test_a_clock_that_is_wrong_tells_the_time_of_the_store(ours: datetime) -> None:
    clock = SharedClock(lambda: ours, TheirTime(NOON))
    assert clock() == ours
    await clock.follow()
    assert clock() == NOON


async def test_a_clock_that_is_right_but_for_a_second_is_left_alone() -> None:
    ours = NOON + timedelta(seconds=1)
    clock = SharedClock(lambda: ours, TheirTime(NOON))
    await clock.follow()
    assert clock() == ours


async def test_a_store_without_a_clock_of_its_own_changes_nothing() -> None:
    clock = SharedClock(lambda: NOON, TheirTime(None))
    await clock.follow()
    assert clock() == NOON


async def test_a_store_that_is_away_leaves_what_was_found_before() -> None:
    theirs = TheirTime(minutes(5))
    clock = SharedClock(lambda: NOON, theirs)
    await clock.follow()
    theirs.error = StoreUnavailable("gone")
    await clock.follow()
    assert clock() == minutes(5)


async def test_a_clock_that_was_put_right_meanwhile_is_believed_again() -> None:
    now = minutes(60)
    clock = SharedClock(lambda: now, TheirTime(NOON))
    await clock.follow()
    assert clock() == NOON
    now = NOON
    await clock.follow()
    assert clock() == NOON


async def test_the_time_an_answer_takes_is_shared_between_both_ways() -> None:
    times = iter([NOON, minutes(2), minutes(2)])
    clock = SharedClock(lambda: next(times), TheirTime(minutes(11)))
    await clock.follow()
    assert clock() == minutes(12)

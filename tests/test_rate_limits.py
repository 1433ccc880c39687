"""Token buckets: a burst, then so many a second; who has to wait is told how long, and waits no longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.errors import RateLimited
from memory_service.rate_limits import Buckets, RateLimits
from tests.support.background import Clock


def taken(buckets: Buckets, name: str = "a", cost: float = 1) -> int:
    """Seconds to wait; 0 if it was taken."""
    try:
        buckets.take(name, cost)
    except RateLimited as refused:
        return refused.retry_after_s
    return 0


def test_a_burst_is_served_then_so_many_a_second() -> None:
    clock = Clock()
    buckets = Buckets(2, 4, clock=clock.monotonic)
    assert [taken(buckets) for _ in range(5)] == [0, 0, 0, 0, 1]
    clock.advance(seconds=0.5)
    assert [taken(buckets) for _ in range(2)] == [0, 1]
    clock.advance(hours=1)
    assert [taken(buckets) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_each_name_has_its_own_and_a_dear_request_takes_more() -> None:
    buckets = Buckets(0.5, 3, clock=Clock().monotonic)
    assert taken(buckets, "a", 2) == 0
    assert taken(buckets, "a", 2) == 2
    assert taken(buckets, "a", 1) == 0
    assert taken(buckets, "b", 3) == 0


def test_what_was_refused_took_nothing_and_what_is_given_back_can_be_taken() -> None:
    buckets = Buckets(1, 2, clock=Clock().monotonic)
    assert [taken(buckets, cost=cost) for cost in (1, 2, 2, 1)] == [0, 1, 1, 0]
    buckets.give_back("a")
    buckets.give_back("never seen")
    assert [taken(buckets) for _ in range(2)] == [0, 1]


def test_what_costs_more_than_there_ever_is_waits_for_all_of_it_and_not_for_ever() -> None:
    clock = Clock()
    buckets = Buckets(0.1, 0.2, clock=clock.monotonic)
    assert taken(buckets, cost=2) == 0
    assert taken(buckets, cost=2) == 10
    clock.advance(seconds=10)
    assert taken(buckets, cost=2) == 0


def test_no_rate_is_no_limit() -> None:
    buckets = Buckets(0, 0, clock=Clock().monotonic)
    assert {taken(buckets) for _ in range(1000)} == {0}


def test_only_so_many_names_are_remembered_and_the_one_silent_longest_goes_first() -> None:
    buckets = Buckets(1, 1, clock=Clock().monotonic, most=3)
    assert [taken(buckets, name) for name in "abc"] == [0, 0, 0]
    assert taken(buckets, "a") == 1  # has spoken again
    assert taken(buckets, "d") == 0
    assert len(buckets._held) == 3
    assert [taken(buckets, name) for name in "acd"] == [1, 1, 1]
    assert taken(buckets, "b") == 0


@given(
    st.floats(0.01, 1000),
    st.lists(st.tuples(st.integers(1, 2), st.floats(0, 3)), min_size=1, max_size=60),
)
def test_the_wait_that_is_told_is_right_to_the_second(rate: float, asked: list[tuple[int, float]]) -> None:
    """S68: after it there is room, a second before there is not (unless it is the least that can be told)."""
    clock = Clock()
    buckets = Buckets(rate, 2 * rate, clock=clock.monotonic)
    for cost, pause in asked:
        clock.advance(seconds=pause)
        wait = taken(buckets, cost=cost)
        if not wait:
            continue
        if wait > 1:
            clock.advance(seconds=wait - 1.001)
            assert taken(buckets, cost=cost)
            clock.advance(seconds=1.001)
        else:
            clock.advance(seconds=1)
        assert not taken(buckets, cost=cost)


def test_a_tenant_that_may_no_more_costs_its_credentials_nothing() -> None:
    clock = Clock()
    limits = RateLimits(1, 10, clock=clock.monotonic)
    for number in range(10):
        limits.spend("acme", f"other {number}", 2)
    with pytest.raises(RateLimited):
        limits.spend("acme", "a", 2)
    limits.spend("rival", "a", 2)  # of another tenant, be it called the same
    clock.advance(seconds=0.2)
    limits.spend("acme", "a", 2)
    with pytest.raises(RateLimited):
        limits.spend("acme", "a", 1)


@given(
    st.floats(0.01, 1000),
    st.lists(st.tuples(st.integers(1, 2), st.floats(0, 3)), min_size=1, max_size=60),
)
def test_what_is_told_to_be_left_can_be_asked_and_no_more(rate: float, asked: list[tuple[int, float]]) -> None:
    """S68: so many now, one more after the time that is told, and no wait is told that is shorter than that."""
    clock = Clock()
    buckets = Buckets(rate, 2 * rate, clock=clock.monotonic)
    quota, window_s = buckets.policy
    assert buckets.look("a") == (quota, 0)
    for cost, pause in asked:
        clock.advance(seconds=pause)
        wait = taken(buckets, cost=cost)
        room, more_in_s = buckets.look("a")
        assert 0 <= room <= quota
        assert more_in_s <= window_s + 1
        assert not wait or wait >= min(more_in_s, wait) == more_in_s
    room, more_in_s = buckets.look("a")
    for _ in range(room):
        assert not taken(buckets)
    assert taken(buckets)
    if more_in_s:
        clock.advance(seconds=more_in_s)
        assert not taken(buckets)
    clock.advance(seconds=window_s)
    assert buckets.look("a") == (quota, 0)

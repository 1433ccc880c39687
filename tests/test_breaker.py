"""A breaker opens after failures in a row, rests, and lets one call try."""

from __future__ import annotations

import pytest

from memory_service.breaker import Breaker
from memory_service.errors import BadModelOutput, ModelError, ModelRefused, ModelUnavailable


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def breaker(seconds: Seconds) -> Breaker:
    return Breaker(failures=3, rest_s=30, clock=seconds)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_a_breaker_is_closed_until_so_many_failures_in_a_row(breaker: Breaker) -> None:
    assert (breaker.state, breaker.wait_s()) == ("closed", 0)
    fail(breaker, 2)
    assert (breaker.state, breaker.wait_s(), breaker.opened) == ("closed", 0, 0)
    fail(breaker, 1)
    assert (breaker.state, breaker.wait_s(), breaker.opened) == ("open", 30, 1)


def test_a_success_starts_the_count_again(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_an_open_breaker_tells_how_long_it_rests_still(breaker: Breaker, seconds: Seconds) -> None:
    fail(breaker, 3)
    seconds.now += 29
    assert (breaker.state, breaker.wait_s()) == ("open", 1)
    assert breaker.wait_s() == 1


def test_after_the_rest_one_caller_tries_and_the_others_wait_for_how_it_fares(
    breaker: Breaker, seconds: Seconds
) -> None:
    fail(breaker, 3)
    seconds.now += 30
    assert breaker.state == "half-open"
    assert [breaker.wait_s() for _ in range(3)] == [0, 30, 30]


def test_a_trial_that_succeeds_closes_it(breaker: Breaker, seconds: Seconds) -> None:
    fail(breaker, 3)
    seconds.now += 30
    breaker.wait_s()
    breaker.succeeded()
    assert (breaker.state, breaker.wait_s()) == ("closed", 0)
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_a_trial_that_fails_opens_it_for_another_rest_at_once(breaker: Breaker, seconds: Seconds) -> None:
    fail(breaker, 3)
    seconds.now += 30
    breaker.wait_s()
    seconds.now += 5
    breaker.failed()
    assert (breaker.state, breaker.wait_s(), breaker.opened) == ("open", 30, 1)


def test_a_trial_that_is_never_heard_of_again_does_not_keep_it_open_for_ever(
    breaker: Breaker, seconds: Seconds
) -> None:
    fail(breaker, 3)
    seconds.now += 30
    assert breaker.wait_s() == 0
    seconds.now += 30
    assert breaker.wait_s() == 0


def test_each_opening_is_counted_once(breaker: Breaker, seconds: Seconds) -> None:
    fail(breaker, 5)  # calls that were under way when it opened
    assert breaker.opened == 1
    breaker.succeeded()
    fail(breaker, 3)
    assert breaker.opened == 2


def test_a_wish_to_be_left_alone_is_granted_at_once_but_not_for_ever(breaker: Breaker, seconds: Seconds) -> None:
    breaker.failed(wished_s=600)
    assert breaker.wait_s() == 600
    breaker.succeeded()
    breaker.failed(wished_s=10**9)
    assert breaker.wait_s() == 3600


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(ModelUnavailable("down"), "open"), (ModelRefused("400"), "closed"), (BadModelOutput("prose"), "closed")],
    ids=["no answer", "turned down", "nonsense"],
)
def test_only_a_model_that_does_not_answer_has_failed(outcome: ModelError, state: str) -> None:
    breaker = Breaker(failures=1)
    with pytest.raises(type(outcome)), breaker.watched():
        raise outcome
    assert breaker.state == state

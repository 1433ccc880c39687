"""The arithmetic of recall: words, neighbours, who spoke, and when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest

from memory_service.ranking import (
    ARM,
    CUE,
    SPREAD,
    DateNamed,
    bm25,
    cosines_of,
    date_cue,
    date_named,
    day_of,
    keyword_arm,
    speakers_meant,
    vector_arm,
)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def places(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def chain(n: int) -> tuple[np.ndarray, np.ndarray]:
    """`before` and `after` of one session of n messages, with the one more at their ends."""
    return places(*range(-1, n - 1), -1), places(*range(1, n), *[-1] * (n > 0), -1)


def alone(n: int) -> tuple[np.ndarray, np.ndarray]:
    """`before` and `after` of items without neighbours."""
    return places(*[-1] * (n + 1)), places(*[-1] * (n + 1))


# Keywords


def test_a_document_without_any_of_the_words_scores_nothing() -> None:
    scores = bm25([(places(1), floats(1))], floats(4, 4, 4), 3)
    assert scores[0] == scores[2] == 0
    assert scores[1] > 0


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    rare = bm25([(places(0), floats(1))], floats(*[4] * 10), 10)
    common = bm25([(places(0, 1, 2, 3), floats(1, 1, 1, 1))], floats(*[4] * 10), 10)
    assert rare[0] > common[0] > 0


def test_a_word_that_is_everywhere_still_tells_its_documents_from_others() -> None:
    scores = bm25([(places(0, 1, 2), floats(1, 1, 1))], floats(4, 4, 4, 4), 4)
    assert scores[0] > 0 == scores[3]


def test_a_word_counts_more_in_a_short_document_and_less_each_time_it_is_repeated() -> None:
    scores = bm25([(places(0, 1), floats(1, 1))], floats(2, 20, 5, 5, 5), 5)
    assert scores[0] > scores[1]
    once, twice, thrice = (bm25([(places(0), floats(often))], floats(5, 5, 5), 3)[0] for often in (1, 2, 3))
    assert 0 < thrice - twice < twice - once


def test_the_best_keyword_match_scores_one() -> None:
    arm = keyword_arm(floats(0, 3, 1), *alone(3))
    assert arm.tolist() == pytest.approx([0, 1, 1 / 3])


def test_only_so_many_candidates_come_from_one_arm() -> None:
    scores = floats(*range(1, ARM + 51))
    arm = keyword_arm(scores, *alone(len(scores)))
    assert np.count_nonzero(arm) == ARM
    assert not arm[:50].any()


def test_an_arm_that_found_nothing_gives_nothing() -> None:
    for arm in (keyword_arm, vector_arm):
        assert arm(floats(0, 0), *chain(2)).tolist() == [0, 0]
        assert arm(floats(), *chain(0)).tolist() == []


# Vectors


def test_what_points_the_other_way_is_no_candidate() -> None:
    assert vector_arm(floats(0.5, -0.9, 0), *alone(3)).tolist() == [1, 0, 0]


def test_what_rounding_leaves_of_a_right_angle_is_near_nothing() -> None:
    assert vector_arm(floats(3e-8, 0, -1), *alone(3)).tolist() == [0, 0, 0]


def test_cosines_are_scaled_between_the_best_and_the_last_candidate() -> None:
    cosines = floats(*np.linspace(0.2, 0.9, ARM + 100))
    arm = vector_arm(cosines, *alone(len(cosines)))
    last = cosines[100]
    assert arm[100] == 0
    assert arm[200] == pytest.approx((cosines[200] - last) / (0.9 - last), abs=1e-5)
    assert arm[-1] == 1


@pytest.mark.parametrize("n", [0, 1, 5, 35, 36, 100, 2_500])
def test_each_row_is_multiplied_however_many_there_are(n: int) -> None:
    chance = np.random.default_rng(n)
    for width in (3, 256, 10_000):
        rows, vector = (
            chance.standard_normal(shape, np.float32) for shape in ((min(n, 400_000 // width), width), width)
        )
        assert cosines_of(rows, vector) == pytest.approx(rows @ vector, abs=1e-2)


@pytest.mark.parametrize("n", [ARM + 1, 2_000, 2_048, 5_000, 20_001])
def test_of_ever_so_many_the_candidates_are_the_same_as_by_sorting(n: int) -> None:
    chance = np.random.default_rng(n)
    for scores in (chance.random(n, np.float32), chance.integers(1, 40, n).astype(np.float32) / 50):
        best = np.sort(scores)[-ARM]
        assert np.array_equal(keyword_arm(scores, *alone(n)) > 0, scores >= best)
        assert np.array_equal(vector_arm(scores, *alone(n)) > 0, scores > best)


# Neighbours


def test_a_match_reaches_three_messages_before_and_after_it() -> None:
    scores = floats(0, 0, 0, 0, 8, 0, 0, 0, 0)
    arm = keyword_arm(scores, *chain(9))
    near, far, farther = SPREAD
    assert arm.tolist() == pytest.approx([0, farther, far, near, 1, near, far, farther, 0])


def test_a_message_between_two_matches_gains_from_both() -> None:
    arm = keyword_arm(floats(4, 0, 4), *chain(3))
    both = 2 * SPREAD[0]
    outer = 1 + SPREAD[1]
    assert arm.tolist() == pytest.approx([1, both / outer, 1])


def test_a_match_does_not_reach_into_another_session() -> None:
    # two sessions, their messages stored by turns: places 0, 2 and 1, 3
    arm = keyword_arm(floats(5, 0, 0, 0), places(-1, -1, 0, 1, -1), places(2, 3, -1, -1, -1))
    assert arm.tolist() == pytest.approx([1, 0, SPREAD[0], 0])


# Who


@pytest.mark.parametrize(
    ("question", "names", "meant"),
    [
        ("What did Ana cook?", {"Ana", "Ben"}, {"Ana"}),
        ("what did ana cook?", {"Ana", "Ben"}, {"Ana"}),
        ("Where is Ana's bike?", {"Ana", "Ben"}, {"Ana"}),
        ("What did Ana give Ben?", {"Ana", "Ben"}, set()),
        ("What about bananas?", {"Ana", "Ben"}, set()),
        ("Where do I live?", {"Ana", "Ben"}, set()),
        ("Who is C++ (dev)?", {"C++ (dev)"}, set()),
        ("Where do I live?", set(), {"user"}),
        ("What's my budget?", set(), {"user"}),
        ("What did we decide?", set(), {"user"}),
        ("What does the user prefer?", set(), {"user"}),
        ("What I've booked", set(), {"user"}),
        ("What did you recommend to me? You said it twice.", set(), set()),
        ("Remind me of my options", set(), set()),
        ("What was in my previous chat?", set(), set()),
        ("What did the assistant tell me?", set(), set()),
        ("Which hotel was cheapest?", set(), set()),
        ("Which iPhone?", set(), set()),
        ("", set(), set()),
    ],
)
def test_a_question_says_whose_words_answer_it(question: str, names: set[str], meant: set[str]) -> None:
    assert speakers_meant(question, names) == meant


# When


@pytest.mark.parametrize(
    ("question", "year", "month", "day"),
    [
        ("What happened on 2023-05-08?", 2023, 5, 8),
        ("the log of 2023-05-08T10:00", 2023, 5, 8),
        ("What happened on 8 May 2023?", 2023, 5, 8),
        ("What happened on 8th May, 2023?", 2023, 5, 8),
        ("on the 1st of March 2024", 2024, 3, 1),
        ("on the 22nd of december", None, 12, 22),
        ("What happened on May 8, 2023?", 2023, 5, 8),
        ("What happened on May 8th 2023?", 2023, 5, 8),
        ("on MAY 8TH, 2023", 2023, 5, 8),
        ("on Jan. 5", None, 1, 5),
        ("on Sep 5, 2023", 2023, 9, 5),
        ("on Sept 5, 2023", 2023, 9, 5),
        ("on Sept. 5", None, 9, 5),
        ("on September 5th", None, 9, 5),
        ("on 5 sept 2021", 2021, 9, 5),
        ("back in May 2023", 2023, 5, None),
        ("December, 2019", 2019, 12, None),
        ("in May", None, 5, None),
        ("during august", None, 8, None),
        ("since last june", None, 6, None),
        ("How was 1999?", 1999, None, None),
        ("the party in 2024, with Ana", 2024, None, None),
    ],
)
def test_a_date_is_read_from_a_question(question: str, year: int | None, month: int | None, day: int | None) -> None:
    assert date_named(question) == DateNamed(year=year, month=month, day=day)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What did she decide?",
        "May I ask something?",
        "It may rain",
        "They march on",
        "What costs 1500 euros?",
        "Call 2023456",
        "room 12345",
        "Junes and Mayors",
        "12 apples",
    ],
)
def test_what_is_no_date_is_not_taken_for_one(question: str) -> None:
    assert date_named(question) is None


def test_the_most_precise_date_is_taken() -> None:
    assert date_named("In 2022, was it 3 June 2021?") == DateNamed(year=2021, month=6, day=3)


def days(*moments: str) -> np.ndarray:
    return places(*((date.fromisoformat(moment) - date(1970, 1, 1)).days for moment in moments))


def test_a_week_around_the_day_counts_fully_the_month_half_and_the_year_a_quarter() -> None:
    said = days("2023-05-08", "2023-05-01", "2023-05-15", "2023-05-16", "2023-05-31", "2023-06-01", "2022-05-08")
    assert date_cue(DateNamed(2023, 5, 8), said).tolist() == pytest.approx([CUE, CUE, CUE, CUE / 2, CUE / 2, 0, 0])
    month = date_cue(DateNamed(2023, 5), said)
    assert month.tolist() == pytest.approx([CUE / 2] * 5 + [0, 0])
    year = date_cue(DateNamed(2023), said)
    assert year.tolist() == pytest.approx([CUE / 4] * 6 + [0])


def test_a_week_reaches_over_the_end_of_a_month_and_of_a_year() -> None:
    said = days("2023-12-30", "2024-01-04", "2024-01-06")
    assert date_cue(DateNamed(2023, 12, 28), said).tolist() == pytest.approx([CUE, CUE, 0])


def test_a_day_without_a_year_is_meant_in_the_years_there_are_whatever_is_weighed() -> None:
    new_year, eve = DateNamed(None, 1, 2), days("2024-12-30")
    assert date_cue(new_year, eve).tolist() == [0]
    assert date_cue(new_year, eve, {2025}).tolist() == pytest.approx([CUE])


def test_a_day_without_a_year_is_meant_in_every_year() -> None:
    said = days("2021-05-08", "2023-05-10", "2023-06-10")
    assert date_cue(DateNamed(None, 5, 8), said).tolist() == pytest.approx([CUE, CUE, 0])


@pytest.mark.parametrize(
    ("named", "cue"),
    [
        (DateNamed(2023, 2, 31), CUE / 2),
        (DateNamed(2023, 2, 29), CUE / 2),
        (DateNamed(None, 2, 30), CUE / 2),
        (DateNamed(2023, 2, 0), CUE / 2),
        (DateNamed(2023, 2, 39), CUE / 2),
        (DateNamed(2023, 13, 1), 0),
        (DateNamed(2023, 0, 1), 0),
    ],
)
def test_a_day_that_does_not_exist_counts_for_its_month_alone(named: DateNamed, cue: float) -> None:
    assert date_cue(named, days("2023-02-20")).tolist() == pytest.approx([cue])


def test_the_29th_of_february_is_a_day_in_leap_years_alone() -> None:
    said = days("2023-02-27", "2024-03-02")
    assert date_cue(DateNamed(None, 2, 29), said).tolist() == pytest.approx([CUE / 2, CUE])


def test_days_before_1970_are_days_too() -> None:
    assert date_cue(DateNamed(1969, 7, 20), days("1969-07-21")).tolist() == pytest.approx([CUE])


def test_a_moment_belongs_to_its_day_in_utc() -> None:
    late = datetime(2023, 5, 8, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert day_of(late) == day_of(datetime(2023, 5, 9, 4, 30, tzinfo=UTC))
    assert day_of(datetime(1970, 1, 1, tzinfo=UTC)) == 0

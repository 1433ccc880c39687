"""What "yesterday" meant when it was said."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory_service.relative_dates import dated

TUESDAY = datetime(2025, 3, 4, 23, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("I signed yesterday.", "I signed yesterday (2025-03-03)."),
        ("Yesterday I signed, today I pay.", "Yesterday (2025-03-03) I signed, today (2025-03-04) I pay."),
        ("I flew the day before yesterday.", "I flew the day before yesterday (2025-03-02)."),
        ("We meet the day after tomorrow.", "We meet the day after tomorrow (2025-03-06)."),
        ("I moved three weeks ago.", "I moved three weeks ago (2025-02-11)."),
        ("I moved 40 days ago, a year ago.", "I moved 40 days ago (2025-01-23), a year ago (2024)."),
        ("I quit 3 months ago.", "I quit 3 months ago (2024-12)."),
        ("I moved to Rome in two days.", "I moved to Rome in two days."),
        ("I hate today's meeting.", "I hate today's meeting."),
        ("I moved yeſterday, ſix days ago, fıve weeks ago.", "I moved yeſterday, ſix days ago, fıve weeks ago."),
        ("We met last Monday.", "We met last Monday (2025-03-03)."),
        ("We met last Tuesday.", "We met last Tuesday (2025-02-25)."),
        ("We met last Wednesday.", "We met last Wednesday (2025-02-26)."),
        ("See you next Tuesday.", "See you next Tuesday (2025-03-11)."),
        ("See you next friday.", "See you next friday (2025-03-07)."),
        ("It rained last week.", "It rained last week (week of 2025-02-24)."),
        ("I leave next month.", "I leave next month (2025-04)."),
        ("It was last year.", "It was last year (2024)."),
        ("I signed yesterday (a Monday).", "I signed yesterday (a Monday)."),
        ("The yesterdays of my life, and Tomorrowland.", "The yesterdays of my life, and Tomorrowland."),
    ],
)
def test_a_word_for_a_day_is_followed_by_the_day_it_meant(said: str, meant: str) -> None:
    assert dated(said, TUESDAY) == meant


def test_the_first_and_the_last_days_there_are_do_not_break_it() -> None:
    for at in (datetime(1901, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC)):
        assert "(" in dated("999 years ago, 999 weeks ago, last month, 999 months ago", at)

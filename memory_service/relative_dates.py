"""The days that words such as "yesterday" mean, reckoned from when they were said, in UTC. English; pure.

"In two days" is none of them: it may be how long something took.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COUNTS = {word: number for number, word in enumerate(_WORDS, 1)}
_COUNTS |= {"a": 1, "an": 1, "a couple of": 2}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NEAR = {
    "the day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tonight": 0,
    "tomorrow": 1,
    "the day after tomorrow": 2,
}
_COUNT = rf"(?P<count>\d{{1,3}}|{'|'.join(sorted(_COUNTS, key=len, reverse=True))})"
_UNIT = r"(?P<unit>day|week|month|year)s?"
_PHRASE = re.compile(
    rf"\b(?:(?P<near>{'|'.join(sorted(_NEAR, key=len, reverse=True))})"
    rf"|{_COUNT} {_UNIT} ago"
    rf"|(?P<which>last|next) (?P<what>{'|'.join(_DAYS)}|week|month|year))\b(?! \(|['’]s\b)",
    re.IGNORECASE | re.ASCII,  # other letters are the same as ours without regard to case: the long s
)


def dated(text: str, said_at: datetime) -> str:
    """Put behind each such word the day it means, `(2025-03-03)`; of a month or a year as much as is meant."""
    return _PHRASE.sub(lambda found: f"{found[0]} ({_meant(found, said_at.date())})", text)


def _meant(found: re.Match[str], said: date) -> str:
    if found["near"]:
        return str(said + timedelta(days=_NEAR[found["near"].lower()]))
    if found["which"]:
        return _beside(found["what"].lower(), 1 if found["which"].lower() == "next" else -1, said)
    return _away(-_number(found["count"]), found["unit"].lower(), said)


def _number(told: str) -> int:
    return int(told) if told.isdigit() else _COUNTS[told.lower()]


def _away(count: int, unit: str, said: date) -> str:
    """So many units off: a day for days and weeks, since longer ones are not meant to the day."""
    if unit in ("day", "week"):
        return str(said + timedelta(days=count * (7 if unit == "week" else 1)))
    if unit == "year":
        return str(said.year + count)
    year, month = divmod(said.year * 12 + said.month - 1 + count, 12)
    return f"{year}-{month + 1:02}"


def _beside(what: str, step: int, said: date) -> str:
    if what in _DAYS:
        days = (_DAYS.index(what) - said.weekday()) % 7 or 7
        return str(said + timedelta(days=days if step > 0 else days - 7 if days < 7 else -7))
    if what == "week":
        return f"week of {said + timedelta(days=7 * step - said.weekday())}"
    return _away(step, what, said)

"""How memories are weighed against a question: two arms, their neighbours, and two cues. Pure arithmetic.

The formula and its numbers were chosen by measurement on real conversations; docs/explanation/recall.md
tells what each part is worth. In short: BM25 and cosine, each normalised and let spread to the neighbouring
messages (the answer often follows the question that matches), a weighted sum, then what the question says
about who spoke and when.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]
    Places = NDArray[np.intp]
else:
    from memory_service.late import np

    Floats = Ints = Places = Any

ARM = 200
"""Candidates each arm may bring."""
SPREAD = (0.3, 0.15, 0.075)
"""What a message gains from the score of those 1, 2 and 3 places before and after it."""
CUE = 0.4
ROUNDING = 1e-6
"""Cosines below are those of vectors at right angles: the best of them is near nothing."""
K1, B = 1.2, 0.75
GROUPS = 1024
"""In so many groups numbers are looked through for the best of them."""
ONE_THREAD = 9000
"""Of so many numbers BLAS multiplies in the thread that asks. For more it wakes others, which wait for each other at
full speed: measured, a search of 100,000 vectors then takes twice the processor time, and is hardly sooner done.
"""


def bm25(counts: Sequence[tuple[Ints, Floats]], lengths: Floats, documents: int) -> Floats:
    """Score every document by keywords; 0 where none occurs.

    `counts`: for each word of the question, the documents it occurs in and how often. `lengths`: words a
    document has.
    """
    scores = np.zeros(len(lengths), np.float32)
    if not documents:
        return scores
    usual = max(float(lengths.sum()) / documents, 1.0)
    for found, often in counts:
        rarity = max(math.log((documents - len(found) + 0.5) / (len(found) + 0.5)), 1e-6)
        norm = K1 * (1 - B + B * lengths[found] / usual)
        scores[found] += np.float32(rarity) * (often * (K1 + 1)) / (often + norm)
    return scores


def cosines_of(rows: Floats, vector: Floats) -> Floats:
    """Multiply each row with a vector."""
    cosines = np.empty(len(rows), np.float32)
    at_once = max(ONE_THREAD // max(rows.shape[1], 1), 1)
    whole = len(rows) // at_once * at_once
    blocks = rows[:whole].reshape(-1, at_once, rows.shape[1])
    np.matmul(blocks, vector, out=cosines[:whole].reshape(-1, at_once))
    np.matmul(rows[whole:], vector, out=cosines[whole:])
    return cosines


def best_of(total: Floats, limit: int) -> list[int]:
    """Where the largest are, the largest first; of equal ones the earlier first."""
    if not limit:
        return []
    last = np.partition(total, len(total) - limit)[len(total) - limit]
    top = np.flatnonzero(total >= last)
    best: list[int] = top[np.argsort(-total[top], kind="stable")][:limit].tolist()
    return best


def keyword_arm(scores: Floats, before: Ints, after: Ints) -> Floats:
    """Normalise by the best, keep the first candidates, spread. In [0, 1]."""
    places = np.flatnonzero(scores > 0)
    scaled = _scaled(scores[places], 0.0)
    if len(places) > ARM:
        first = scaled >= _last_of_best(scaled)
        places, scaled = places[first], scaled[first]
    return _spread(places, scaled, before, after)


def vector_arm(cosines: Floats, before: Ints, after: Ints) -> Floats:
    """Normalise between the best and the last candidate, spread. In [0, 1]."""
    last = _last_of_best(cosines) if len(cosines) > ARM else 0.0
    floor = last if last >= ROUNDING else 0.0
    places = np.flatnonzero(cosines > floor if floor else cosines >= np.float32(ROUNDING))
    return _spread(places, _scaled(cosines[places], floor), before, after)


def _scaled(scores: Floats, floor: float) -> Floats:
    """Scale scores, all of them above a floor, to (0, 1]."""
    return (scores - floor) / (float(scores.max()) - floor) if len(scores) else scores


def _last_of_best(scores: Floats) -> float:
    """The last of the first `ARM` by size, of more than these."""
    rows = len(scores) // GROUPS
    if rows > 1:
        # `ARM` groups have something that is no less than this: whatever is less is not among the first
        best = scores[: rows * GROUPS].reshape(rows, GROUPS).max(axis=0)
        scores = scores[scores >= np.partition(best, GROUPS - ARM)[GROUPS - ARM]]
    return float(np.partition(scores, len(scores) - ARM)[len(scores) - ARM])


def _spread(places: Places, scores: Floats, before: Ints, after: Ints) -> Floats:
    """Let the scores of these places reach their neighbours; all others have none of their own.

    `before` and `after` name each one's neighbour, -1 for none, and end with one -1 more: whoever has gone past an
    end stays there.
    """
    reaching = np.zeros(len(before), np.float32)
    reaching[places] = scores
    gifts = [np.float32(weight) * scores for weight in SPREAD]
    for way in (after, before):
        reached: Places | Ints = places
        for gift in gifts:
            reached = way[reached]
            reaching[reached] += gift  # nobody is reached twice, for each is next to one; but the place past the ends
    spread = reaching[:-1]
    best = float(spread.max(initial=0.0))
    if best:
        spread /= np.float32(best)
    return spread


_FIRST_PERSON = re.compile(r"\b(i|i['’]m|i['’]ve|i['’]d|my|mine|me|we|our|us|the user|user['’]s)\b", re.IGNORECASE)
_OF_THE_OTHER = re.compile(
    r"\byou (said|told|recommended|suggested|mentioned|gave|provided|explained|listed)\b|\bremind me\b"
    r"|\b(previous|earlier|last) (chat|conversation)\b|\bassistant\b",
    re.IGNORECASE,
)


def speakers_meant(question: str, names: Collection[str]) -> set[str]:
    """Read from a question whose words answer it: the one speaker it names, or the role `user` when it says "I"."""
    lowered = question.lower()
    there = [name for name in names if name.lower() in lowered]
    named = {name for name in there if re.search(rf"\b{re.escape(name.lower())}\b", lowered)}
    if len(named) == 1:
        return named
    if not names and _FIRST_PERSON.search(question) and not _OF_THE_OTHER.search(question):
        return {"user"}
    return set()


class DateNamed(msgspec.Struct, frozen=True):
    """A date as far as a question gives it."""

    year: int | None
    month: int | None = None
    day: int | None = None


_MONTHS = ["january", "february", "march", "april", "may", "june", "july"]
_MONTHS += ["august", "september", "october", "november", "december"]
_MONTH = r"(?P<month>" + "|".join(f"{m[:3]}(?:{m[3:]})?" if m != "may" else "may" for m in _MONTHS) + r"|sept)\.?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?P<year>(?:19|20)\d\d)-(?P<month>[01]\d)-(?P<day>[0-3]\d)(?!\d)",
        rf"\b{_DAY}(?: of)? {_MONTH},?(?: {_YEAR})?\b",
        rf"\b{_MONTH} {_DAY}(?!\d)(?:,? {_YEAR})?\b",
        rf"\b{_MONTH},? {_YEAR}\b",
        rf"\b(?:in|during|since|of|last|this) {_MONTH}\b",
        rf"\b{_YEAR}\b",
    )
]


def date_named(question: str) -> DateNamed | None:
    """Find the first explicit date of a question, the most precise form first."""
    for pattern in _DATES:
        found = pattern.search(question)
        if found:
            parts = found.groupdict()
            month = parts.get("month")
            return DateNamed(
                year=int(parts["year"]) if parts.get("year") else None,
                month=_month(month) if month else None,
                day=int(parts["day"]) if parts.get("day") else None,
            )
    return None


def _month(text: str) -> int:
    if text.isdigit():
        return int(text)
    return next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(text[:3].lower()))


def date_cue(named: DateNamed, days: NDArray[np.int32], years_there: Collection[int] | None = None) -> Floats:
    """Weigh each memory by how well its day (days since 1970) fits the date: the week, the month, the year.

    `years_there`: in which a day without a year is meant; those of the days, unless told.
    """
    cue = np.zeros(len(days), np.float32)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    years = months // 12 + 1970
    right_year = years == named.year if named.year else np.ones(len(days), bool)
    if named.month is None:
        cue[right_year] = CUE / 4
        return cue
    cue[right_year & (months % 12 + 1 == named.month)] = CUE / 2
    if named.day is not None:
        meant = set(years.tolist()) if years_there is None else years_there
        for year in {named.year} if named.year else meant:
            day = _days(year, named.month, named.day)
            if day is not None:
                cue[np.abs(days - day) <= 7] = CUE
    return cue


def _days(year: int | None, month: int, day: int) -> int | None:
    try:
        return (date(year or 1970, month, day) - date(1970, 1, 1)).days
    except ValueError:
        return None


FIRST_DAY = date(1970, 1, 1).toordinal()


def day_of(moment: datetime) -> int:
    """Days since 1970, in UTC."""
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).toordinal() - FIRST_DAY

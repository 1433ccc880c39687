"""How memories are weighed against a question: two arms, their neighbours, and two cues. Pure arithmetic.

The formula and its numbers were chosen by measurement on real conversations; docs/explanation/recall.md
tells what each part is worth. In short: BM25 and cosine, each normalised and let spread to the neighbouring
messages (the answer often follows the question that matches), a weighted sum, then what the question says
about who spoke and when.
"""

from __future__ import annotations

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
else:
    from memory_service.late import np

    Floats = Ints = Any

ARM = 200
"""Candidates each arm may bring."""
SPREAD = (0.3, 0.15, 0.075)
"""What a message gains from the score of those 1, 2 and 3 places before and after it."""
CUE = 0.4
ROUNDING = 1e-6
"""Cosines below are those of vectors at right angles: the best of them is near nothing."""
K1, B = 1.2, 0.75


def bm25(counts: Sequence[tuple[Ints, Floats]], lengths: Floats, documents: int) -> Floats:
    """Score every document by keywords; 0 where none occurs.

    `counts`: for each word of the question, the documents it occurs in and how often. `lengths`: words a
    document has.
    """
    scores = np.zeros(len(lengths), np.float32)
    if not documents:
        return scores
    norm = K1 * (1 - B + B * lengths / max(float(lengths.sum()) / documents, 1.0))
    for found, often in counts:
        rarity = max(np.log((documents - len(found) + 0.5) / (len(found) + 0.5)), 1e-6)
        scores[found] += np.float32(rarity) * (often * (K1 + 1)) / (often + norm[found])
    return scores


def keyword_arm(scores: Floats, before: Ints, after: Ints) -> Floats:
    """Normalise by the best, keep the first candidates, spread. In [0, 1]."""
    return _spread(_scaled(scores, 0.0), before, after)


def vector_arm(cosines: Floats, before: Ints, after: Ints) -> Floats:
    """Normalise between the best and the last candidate, spread. In [0, 1]."""
    cosines = np.where(cosines < ROUNDING, np.float32(0), cosines)
    floor = 0.0
    if len(cosines) > ARM:
        floor = max(float(np.partition(cosines, len(cosines) - ARM)[len(cosines) - ARM]), 0.0)
    return _spread(_scaled(cosines, floor), before, after)


def _scaled(scores: Floats, floor: float) -> Floats:
    best = float(scores.max(initial=0.0))
    if best <= floor:
        return np.zeros_like(scores)
    scaled = (scores - floor) / (best - floor)
    np.maximum(scaled, 0, out=scaled)
    if floor == 0.0 and len(scaled) > ARM:
        scaled[scaled < np.partition(scaled, len(scaled) - ARM)[len(scaled) - ARM]] = 0
    return scaled


def _spread(scores: Floats, before: Ints, after: Ints) -> Floats:
    """Let each score reach its neighbours. `before` and `after` name each one's neighbour, -1 for none."""
    padded = np.append(scores, np.float32(0))  # index -1 finds nothing here
    spread = scores.copy()
    for way in (before, after):
        reached = way
        links = np.append(way, np.int32(-1))
        for weight in SPREAD:
            spread += np.float32(weight) * padded[reached]
            reached = links[reached]
    best = float(spread.max(initial=0.0))
    return spread / np.float32(best) if best else spread


_FIRST_PERSON = re.compile(r"\b(i|i['’]m|i['’]ve|i['’]d|my|mine|me|we|our|us|the user|user['’]s)\b", re.IGNORECASE)
_OF_THE_OTHER = re.compile(
    r"\byou (said|told|recommended|suggested|mentioned|gave|provided|explained|listed)\b|\bremind me\b"
    r"|\b(previous|earlier|last) (chat|conversation)\b|\bassistant\b",
    re.IGNORECASE,
)


def speakers_meant(question: str, names: Collection[str]) -> set[str]:
    """Read from a question whose words answer it: the one speaker it names, or the role `user` when it says "I"."""
    lowered = question.lower()
    named = {name for name in names if re.search(rf"\b{re.escape(name.lower())}\b", lowered)}
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


def date_cue(named: DateNamed, days: NDArray[np.int32]) -> Floats:
    """Weigh each memory by how well its day (days since 1970) fits the date: the week, the month, the year."""
    cue = np.zeros(len(days), np.float32)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    years = months // 12 + 1970
    right_year = years == named.year if named.year else np.ones(len(days), bool)
    if named.month is None:
        cue[right_year] = CUE / 4
        return cue
    cue[right_year & (months % 12 + 1 == named.month)] = CUE / 2
    if named.day is not None:
        for year in {named.year} if named.year else set(years.tolist()):
            day = _days(year, named.month, named.day)
            if day is not None:
                cue[np.abs(days - day) <= 7] = CUE
    return cue


def _days(year: int | None, month: int, day: int) -> int | None:
    try:
        return (date(year or 1970, month, day) - date(1970, 1, 1)).days
    except ValueError:
        return None


def day_of(moment: datetime) -> int:
    """Days since 1970, in UTC."""
    return (moment.astimezone(UTC).date() - date(1970, 1, 1)).days

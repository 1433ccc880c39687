"""How far what is kept can be relied on: by where it comes from, never by what it says.

low: what a tool said (a page it fetched, an answer it got), and all that rests on it. normal: what users and agents
said, and what callers keep. high: what somebody has put in words of their own, and a tenant's knowledge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

Trust = Literal["low", "normal", "high"]
TRUSTS: tuple[Trust, ...] = get_args(Trust)
"""The least first."""

RANK = {trust: rank for rank, trust in enumerate(TRUSTS)}
"""By which two can be compared; the least is 0."""


def least(trusts: Iterable[Trust]) -> Trust:
    """The trust of what rests on all of these; of what rests on nothing that was said: normal."""
    return min(trusts, key=RANK.__getitem__, default="normal")


def is_less(one: Trust, other: Trust) -> bool:
    return RANK[one] < RANK[other]

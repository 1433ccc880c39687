"""What holds when memories that superseded one another go, or are withheld. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from memory_service.values import Memory


def behind(memory: Memory, memories: Mapping[str, Memory]) -> list[str]:
    """What it was replaced by, what that was by, and so on to the first that is not withheld."""
    names: list[str] = []
    name = memory.superseded_by
    while name is not None and name not in names:
        names.append(name)
        by = memories.get(name)
        name = by.superseded_by if by is not None and by.withheld else None
    return names


def valid_to(memory: Memory, names: Sequence[str], memories: Mapping[str, Memory], now: datetime) -> datetime | None:
    """Since when a memory does not hold, or None: it does if all that is behind it (`names`) is withheld."""
    by = [memories.get(name) for name in names]
    holds = all(one is not None and one.withheld for one in by)
    if holds:
        return (memory.valid_to or now) if memory.withheld else None
    return by[0].created_at if by[0] is not None and by[0].text else memory.valid_to or now

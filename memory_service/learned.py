"""What is known of a user field by field: what somebody wrote by hand, and beside it what insights state. Pure.

There is no second truth: a field is learnt as long as the insight that states it holds. What was written by hand comes
before what was learnt, what is trusted before what is not, and what is newer before what is older.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from memory_service.telling import Learned, Profile
from memory_service.values import Memory

Keeps = Callable[[str, str], bool]
"""Whether a field may have this value."""
MOST_LEARNED = 100
LONGEST_VALUE = 500
_FIELD = re.compile(r"[a-z0-9_]{1,64}")


def stated(field: object, value: object) -> dict[str, str]:
    """What an insight says of a field, as its metadata; nothing, if either is missing or not in its form."""
    if not isinstance(field, str) or not isinstance(value, str) or "\x00" in value:
        return {}
    fits = _FIELD.fullmatch(field) and value.strip() and len(value) <= LONGEST_VALUE
    return {"field": field, "value": value} if fits else {}


def without_statement(metadata: dict[str, Any]) -> dict[str, Any]:
    """Of an insight that is put in other words: what it stated is not what it says now."""
    return {name: value for name, value in metadata.items() if name not in ("field", "value")}


def is_profile(memory: Memory | None) -> bool:
    return memory is not None and memory.kind == "profile" and not memory.is_deleted


def version_of(memory: Memory | None) -> int:
    """Also of one that was deleted: the next one has another."""
    version = memory.metadata.get("version") if memory is not None and memory.kind == "profile" else None
    return version if isinstance(version, int) else 0


def document_of(memory: Memory | None) -> dict[str, Any]:
    """What somebody wrote by hand; empty, if nobody did."""
    if memory is None or not is_profile(memory):
        return {}
    return msgspec.json.decode(memory.text, type=dict[str, Any])


def profile_of(memory: Memory | None, insights: Iterable[Memory], keeps: Keeps) -> Profile:
    """`insights` that hold, newest first."""
    document = document_of(memory)
    learned = tuple(one for one in learned_of(insights, keeps) if one.field not in document)
    if memory is None or not is_profile(memory):
        return Profile(learned=learned)
    updated_at = memory.updated_at or memory.created_at
    return Profile(document=document, version=version_of(memory), updated_at=updated_at, learned=learned)


def learned_of(insights: Iterable[Memory], keeps: Keeps) -> tuple[Learned, ...]:
    """The fields that insights state, by their names; what is of low trust only where nothing else is."""
    found: dict[str, Learned] = {}
    newest_first = list(insights)
    for is_low in (False, True):
        for memory in newest_first:
            said = stated(memory.metadata.get("field"), memory.metadata.get("value"))
            if not said or (memory.trust == "low") != is_low or said["field"] in found:
                continue
            if len(found) < MOST_LEARNED and keeps(said["field"], said["value"]):
                found[said["field"]] = _learned(memory, said)
    return tuple(found[field] for field in sorted(found))


def _learned(memory: Memory, said: dict[str, str]) -> Learned:
    updated_at = memory.updated_at or memory.created_at
    return Learned(**said, insight_id=memory.memory_id, trust=memory.trust, updated_at=updated_at)

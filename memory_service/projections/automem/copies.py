"""Items as memories of AutoMem, and back: the tags they bear, the pieces of long texts, what is held whole. Pure.

AutoMem knows no tenants and names memories itself, so whose a memory is, which item it is of and where it may be found
stands in its tags. It compares them without regard to case, and some of them by their beginnings; ours are digests of
one length, so that neither makes two of them the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from memory_service.projections.base import Copy
from memory_service.values import Kind, Scope

OURS = "ams-"
EVERYTHING = "ams-all"
"""Borne by all that is ours: AutoMem may hold what others keep there."""
LONGEST_PIECE = 500
"""Characters. AutoMem takes 2,000, but has a model rewrite what is longer than this."""
NO_WORDS = "\u200b"
"""Kept in place of a text that is nothing but spaces, which AutoMem does not take: nothing to be found by, nor seen."""
TYPES: dict[Kind, str] = {"insight": "Insight"}
"""Of AutoMem's own types; there are versions that take no others."""
_LAST_SPACE, _LAST_MARK = (re.compile(f".*{what}", re.DOTALL) for what in (r"\s", r"\W"))


def user_tag(scope: Scope) -> str:
    return _tag("user", scope)


def item_tag(scope: Scope, item_id: str) -> str:
    return _tag("item", scope, item_id)


def own_tag(scope: Scope, tag: str) -> str:
    """Stands for a tag that the caller gave."""
    return _tag("tag", scope, tag)


def place_tag(
    scope: Scope, kind: Kind, is_extract: bool, session_id: str | None = None, category: str | None = None
) -> str:
    """Stands for all of a kind that a user has; of a session and of a category, if they are named."""
    return _tag("place", scope, kind, is_extract, session_id, category)


def _tag(sort: str, scope: Scope, *facts: str | bool | None) -> str:
    told = msgspec.json.encode([sort, scope.tenant_id, scope.user_id, *facts])
    return f"{OURS}{sort}-{blake2b(told, digest_size=16).hexdigest()}"


def tags_of(scope: Scope, copy: Copy) -> list[str]:
    """All that a memory of this item bears; the caller's own as they were given, unless they look like ours."""
    item = copy.item
    places = (
        place_tag(scope, item.kind, copy.is_extract, session_id, category)
        for session_id in dict.fromkeys((item.session_id, None))
        for category in dict.fromkeys((item.category, None))
    )
    readable = (tag for tag in item.tags if not _looks_like_ours(tag))
    meant = (own_tag(scope, tag) for tag in item.tags)
    return list(dict.fromkeys([EVERYTHING, user_tag(scope), item_tag(scope, item.id), *places, *meant, *readable]))


def _looks_like_ours(tag: str) -> bool:
    return any(part.strip().lower().startswith(OURS) for part in tag.split(","))


def memories_of(scope: Scope, copy: Copy) -> list[bytes]:
    """What is stored of an item, in JSON: one memory, or as many as its text has pieces."""
    item, pieces = copy.item, list(pieces_of(copy.words))
    told: dict[str, Any] = {
        "tenant_id": scope.tenant_id,
        "user_id": scope.user_id,
        "item_id": item.id,
        "digest": copy.digest,
        "kind": item.kind,
        "session_id": item.session_id,
        "category": item.category,
        "role": item.role,
        "name": item.name,
        "created_at": item.created_at.isoformat(),
        "metadata": item.metadata or None,
        "pieces": len(pieces),
    }
    told = {name: value for name, value in told.items() if value is not None}
    same = {
        "tags": tags_of(scope, copy),
        "type": TYPES.get(item.kind, "Context"),
        "importance": importance_of(copy),
        "timestamp": item.created_at.isoformat(),
    }
    return [
        msgspec.json.encode({"content": piece, **same, "metadata": {**told, "piece": number}})
        for number, piece in enumerate(pieces, start=1)
    ]


def importance_of(copy: Copy) -> float:
    """As applications weigh what they store in AutoMem themselves."""
    if copy.item.kind == "knowledge":
        return 0.9
    return 0.7 if copy.item.role == "user" or copy.item.kind in ("memory", "insight") else 0.5


def pieces_of(text: str) -> Iterator[str]:
    """Cut a text between words, so that AutoMem takes each piece as it is. Only spaces at the cuts are lost."""
    rest = text.strip() or NO_WORDS
    while len(rest) > LONGEST_PIECE:
        end = _end_of_piece(rest)
        yield rest[:end].rstrip()
        rest = rest[end:].lstrip()
    if rest:
        yield rest


def _end_of_piece(text: str) -> int:
    for last in (_LAST_SPACE, _LAST_MARK):
        found = last.match(text, 0, LONGEST_PIECE)
        if found is not None and found.end() > LONGEST_PIECE // 2:
            return found.end()
    return LONGEST_PIECE


class Mark(msgspec.Struct, frozen=True):
    """By which one of our memories is known again."""

    tenant_id: str
    user_id: str
    item_id: str
    digest: str
    piece: int
    pieces: int


def mark_of(scope: Scope, memory: dict[str, Any]) -> Mark | None:
    """Return whose memory this is, or None if it is not one of this user's."""
    metadata = memory.get("metadata")
    try:
        told = msgspec.json.decode(metadata) if isinstance(metadata, str) else metadata
        mark = msgspec.convert(told, Mark)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return mark if (mark.tenant_id, mark.user_id) == (scope.tenant_id, scope.user_id) else None


def bears(memory: dict[str, Any], tags: set[str]) -> bool:
    """Say whether a memory has any of these tags of ours."""
    held = memory.get("tags")
    return isinstance(held, list) and not tags.isdisjoint(tag.lower() for tag in held if isinstance(tag, str))


def held_of(marks: Iterable[Mark]) -> dict[str, str]:
    """Return ids with the digests of their texts: an empty one where pieces are missing, double or of several texts."""
    found: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        found[mark.item_id].append(mark)
    return {id: _digest_of_all(of_item) for id, of_item in found.items()}


def _digest_of_all(marks: list[Mark]) -> str:
    texts = {(mark.digest, mark.pieces) for mark in marks}
    digest, pieces = texts.pop()
    is_whole = not texts and sorted(mark.piece for mark in marks) == list(range(1, pieces + 1))
    return digest if is_whole else ""

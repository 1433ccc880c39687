"""Where the bytes of hot sessions are: each object is counted once, for the first piece it is found in."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec

from memory_service.pool import HotSession
from memory_service.telling import Context, LongTerm
from memory_service.values import Session, Turn

ALIGNED = 16
"""What an object takes is a multiple of this."""
OF_BYTES, OF_RAW = sys.getsizeof(b""), 48

WORDS, TURNS, BESIDE = "words of turns", "turns as objects", "ids, times and metadata of turns"
HEAD, ENTRY = "head", "entry of the pool"
CONTEXT, TEXT, ANSWERS, KNOWN = "context as an object", "context: text", "context: answers", "known of the user"
BEGIN: dict[type, str] = {HotSession: ENTRY, Session: HEAD, Turn: TURNS, Context: CONTEXT, LongTerm: KNOWN}
"""What is inside of these is of that piece."""


class Pieces:
    """Bytes by what they are of, over all sessions that were added; tables of the pool itself are not among them."""

    def __init__(self) -> None:
        self.sizes: Counter[str] = Counter()
        self._seen: dict[int, object] = {}  # with the objects, so that no other gets the address of one of them

    def add(self, entry: HotSession) -> None:
        for turn in entry.hot.turns if entry.hot else ():
            for message in turn.messages:
                self._take(message.content, WORDS)
        self._take(entry.hot, ENTRY)
        self._take(entry, ENTRY)

    def _take(self, thing: object, within: str) -> None:
        if thing is None or id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing
        piece = BEGIN.get(type(thing), within)
        self.sizes[_leaf(thing, piece)] += size_of(thing)
        for inner in inside(thing):
            self._take(inner, piece)


def _leaf(thing: object, within: str) -> str:
    """The piece that a thing itself counts to."""
    if within == TURNS and isinstance(thing, str | int | datetime | dict):
        return BESIDE
    if within in (CONTEXT, ENTRY):
        if isinstance(thing, bytes | msgspec.Raw):
            return ANSWERS
        if isinstance(thing, str):
            return TEXT
    return within


def size_of(thing: object) -> int:
    # what getsizeof says of a Raw makes no sense (msgspec 0.22)
    size = OF_RAW + OF_BYTES + len(memoryview(thing)) if isinstance(thing, msgspec.Raw) else sys.getsizeof(thing)
    return -(-size // ALIGNED) * ALIGNED


def inside(thing: Any) -> list[Any]:
    """What a thing holds, where it is of a kind that sessions are made of."""
    if isinstance(thing, msgspec.Struct):
        return [getattr(thing, name) for name in thing.__struct_fields__]
    if isinstance(thing, HotSession):
        return [getattr(thing, name) for name in HotSession.__slots__ if name != "__weakref__"]
    if isinstance(thing, tuple | list):
        return [*thing]
    return [*thing, *thing.values()] if isinstance(thing, dict) else []

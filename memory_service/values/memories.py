"""Long-term memory: what was learnt or told, what it rests on, and how it is found."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal, get_args

from msgspec.structs import replace

from memory_service.values.root import Scope, Value
from memory_service.values.sessions import Message, Turn
from memory_service.values.trust import Trust

Kind = Literal["message", "chunk", "summary", "insight", "memory", "episode", "knowledge", "profile"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OwnKind = Literal["summary", "insight", "memory", "episode", "chunk", "profile"]
OWN: tuple[Kind, ...] = get_args(OwnKind)
"""Kinds of memories of a user's own; messages are the record itself, and knowledge is nobody's own."""
EXTRACTIVE = "extractive"
"""Named as the model of what was picked and quoted, not written."""
WHOLE = 0
"""Stands for a session in place of one of its turns."""


class Source(Value, frozen=True, kw_only=True):
    """One turn a memory rests on."""

    session_id: str
    seq: int


class Rough(Value, frozen=True, kw_only=True):
    """What a memory is still to be written from by a model, and how often it could not: the to-do column."""

    messages: tuple[Message, ...]
    attempts: int = 0


class Memory(Value, frozen=True, kw_only=True):
    """One piece of long-term memory. Ids are unique per scope; derived ones come from their origin.

    `confidence` and `importance` are in [0, 1]. With `valid_to` it was superseded: kept, not shown; or deleted: only
    its id is kept. `model` says who wrote it (or `extractive`), `updated_at` when its words became other ones; `rough`:
    they are to. `trust` is that of the least trusted turn it rests on, until its words are somebody's own. `withheld`:
    the turns in quarantine for which it is kept and not shown, or `WHOLE` sessions. Without `valid_to` it holds,
    `superseded_by` or not: then that is in quarantine. `repeated_by`: the newest that says the same, of those that were
    learnt later; each is kept, superseded by the one before it, so that it holds when that goes.
    """

    memory_id: str
    kind: Kind
    text: str
    created_at: datetime
    session_id: str | None = None
    category: str | None = None
    confidence: float = 1.0
    importance: float = 0.5
    sources: tuple[Source, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    model: str | None = None
    prompt_version: str | None = None
    valid_to: datetime | None = None
    superseded_by: str | None = None
    repeated_by: str | None = None
    pinned: bool = False
    edited: bool = False
    updated_at: datetime | None = None
    agent_id: str | None = None
    rough: Rough | None = None
    trust: Trust = "normal"
    withheld: tuple[Source, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether somebody has had the last word on it: what is learnt later changes nothing about it."""
        return self.pinned or self.edited or self.is_deleted

    @property
    def is_own_words(self) -> bool:
        """Whether somebody has put it in words of their own: then it rests on nothing that was said."""
        return self.edited and self.trust == "high"

    @property
    def is_deleted(self) -> bool:
        return not self.text and self.valid_to is not None

    @property
    def is_extract(self) -> bool:
        """Whether it only repeats, word for word, what turns on record say."""
        return self.model == EXTRACTIVE and self.kind != "memory"

    def superseded(self, by: Memory) -> Memory:
        return replace(self, valid_to=by.created_at, superseded_by=by.memory_id)

    def deleted(self, now: datetime) -> Memory:
        """What is left in its place, so that everybody who holds a copy learns that it is gone."""
        return Memory(
            memory_id=self.memory_id,
            kind=self.kind,
            text="",
            created_at=now,
            valid_to=now,
            updated_at=now,
            session_id=self.session_id,
            sources=self.sources,
        )


class Vector(Value, frozen=True, kw_only=True):
    """The vectors of one item (a turn: one per message, in order; a memory: one), float32, unit length, row by row.

    `token` is the store's mark of the item's revision; a vector of an overtaken revision is dropped. `texts`: how many
    there are, when they are written.
    """

    item_id: str
    token: int
    space: str
    data: bytes
    texts: int = 1


class Only(Value, frozen=True, kw_only=True):
    """What a search is restricted to, beside kinds. Where nothing is so, nothing is found.

    What is trusted less than `min_trust` counts as if it were not there.
    """

    session_id: str | None = None
    category: str | None = None
    agent_id: str | None = None
    without_tags: frozenset[str] = frozenset()
    min_trust: Trust = "low"


class Unembedded(Value, frozen=True, kw_only=True):
    """An item that has no vector in the asked-for space yet; exactly one of `turn` and `memory` is set."""

    scope: Scope
    token: int
    turn: Turn | None = None
    memory: Memory | None = None


def turn_item_id(session_id: str, seq: int) -> str:
    """Name of a turn among searchable items; `#` is in no id, so no memory can share it."""
    return f"{session_id}#{seq}"


def derived_id(kind: str, *origin: str | int) -> str:
    """Name something by its origin: the same origin gives the same id, so doing it twice writes it once."""
    digest = hashlib.blake2b("\x1f".join(map(str, origin)).encode(), digest_size=12).hexdigest()
    return f"{kind}_{digest}"


PROFILE_ID = derived_id("profile")
"""Of a user there is one, under a name that no caller would give a memory of their own."""

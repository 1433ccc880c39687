"""What is kept of a user as it leaves a store or enters another: independent of any store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from memory_service.values import Effect, Memory, Request, Scope, Session, Sitting, Turn, Value, Vector, turn_item_id


class Exported(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is kept of a user: one of the first five is set, a request with its effect.

    `vector` is that of a turn or a memory, in the space it was last given one in; its `token` says nothing elsewhere.
    """

    session: Session | None = None
    sitting: Sitting | None = None
    request: Request | None = None
    turn: Turn | None = None
    memory: Memory | None = None
    effect: Effect | None = None
    vector: Vector | None = None

    @property
    def name(self) -> tuple[str | int, ...]:
        """By which it is known among all that is kept of its user."""
        if self.session is not None:
            return "session", self.session.session_id
        if self.sitting is not None:
            return "sitting", self.sitting.session_id, self.sitting.first_seq
        if self.request is not None:
            return "request", self.request.key
        if self.turn is not None:
            return "turn", self.turn.session_id, self.turn.seq
        assert self.memory is not None
        return "memory", self.memory.memory_id

    @property
    def versioned(self) -> Session | Sitting | None:
        return self.session or self.sitting

    @property
    def item_id(self) -> str:
        """Its name among searchable items, if it is a turn or a memory."""
        if self.turn is not None:
            return turn_item_id(self.turn.session_id, self.turn.seq)
        return self.memory.memory_id if self.memory else ""


def exported_item(value: Turn | Memory, space: str | None, data: bytes | None) -> Exported:
    """A turn or a memory, together with the vectors it has in a space, if it has any."""
    item = Exported(turn=value) if isinstance(value, Turn) else Exported(memory=value)
    if not space or data is None:
        return item
    texts = len(value.messages) if isinstance(value, Turn) else 1
    return replace(item, vector=Vector(item_id=item.item_id, token=0, space=space, data=data, texts=texts))


Queries = Sequence[tuple[str, Any, Callable[..., Exported]]]
"""Of one kind of things after the other: SQL that gives rows behind a key, the key before the first, what a row is."""
Place = tuple[int, Any]
"""Which of the queries, and the key of the last row it gave."""


FIRST_SITTING = '["", 0]'
"""A key before that of any sitting: its session and its number, as JSON."""


def first_of(queries: Queries) -> Place:
    return 0, queries[0][1]


def following(queries: Queries, place: Place, rows: Sequence[Any]) -> Place | None:
    """Where to go on behind these rows: in the next query if there were none; None behind the last."""
    number, _ = place
    if rows:
        return number, rows[-1][0]
    return (number + 1, queries[number + 1][1]) if number + 1 < len(queries) else None


class Exports(Value, frozen=True, kw_only=True):
    """A page of them; `more` says to ask again."""

    things: list[Exported]
    cursor: Any
    more: bool


class Users(Value, frozen=True, kw_only=True):
    """A page of users of whom anything is kept; `more` says to ask again."""

    scopes: list[Scope]
    cursor: Any
    more: bool


class Erased(Value, frozen=True, kw_only=True):
    """How many of each were there and are not any more."""

    sessions: int = 0
    sittings: int = 0
    requests: int = 0
    turns: int = 0
    memories: int = 0

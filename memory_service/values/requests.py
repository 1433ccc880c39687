"""What callers name their requests by, and what these did."""

from __future__ import annotations

from datetime import datetime

from memory_service.values.root import Value
from memory_service.values.sessions import Turn


class Request(Value, frozen=True, kw_only=True):
    """A caller's own name for one request, unique per scope; `digest` tells its body from another."""

    key: str
    digest: str
    made_at: datetime


class Effect(Value, frozen=True, kw_only=True):
    """What a request of that name did."""

    digest: str
    session_id: str
    turn_id: str


def effect_of(request: Request, turn: Turn) -> Effect:
    """What a request does that stores this turn."""
    return Effect(digest=request.digest, session_id=turn.session_id, turn_id=turn.turn_id)

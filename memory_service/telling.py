"""What an agent is told: of a user, and before its next answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from memory_service.values import Memory, Session, Trust, Turn, Value


class Document(Value, frozen=True, kw_only=True):
    """A piece of knowledge. One that comes again under its `doc_id` takes the place of the former."""

    doc_id: str
    content: str
    category: str
    title: str | None = None
    metadata: dict[str, Any] = {}


class Known(Value, frozen=True, kw_only=True):
    """A piece of knowledge that a question found. `score` is the sum of `parts`; higher is nearer."""

    memory_id: str
    document: Document
    created_at: datetime
    score: float
    parts: dict[str, float]


class Asked(Value, frozen=True, kw_only=True):
    """How many pieces of knowledge a context is to hold, and on which question (None: what the user said last).

    `min_trust`: of insights and summaries; the session itself is told whole.
    """

    pieces: int = 0
    question: str | None = None
    min_trust: Trust = "low"


class LongTerm(Value, frozen=True, kw_only=True):
    """What is known of a user beyond the present session.

    `insights`: most important first; `summaries`: of reflected sittings, newest first. Of these at most
    `most_summaries` are told; there is one more, for that of the present sitting may be among them. `restricted`: the
    same of what is trusted so far, where that is something else.
    """

    insights: tuple[Memory, ...] = ()
    summaries: tuple[Memory, ...] = ()
    most_summaries: int = 5
    restricted: dict[Trust, LongTerm] = {}

    def at_least(self, trust: Trust) -> LongTerm:
        return self.restricted.get(trust, self)


class Context(Value, frozen=True, kw_only=True):
    """What an agent is told before its next answer; `text` is ready to be put into a prompt, empty if nothing is known.

    `insights` and `summaries` are those of the user's long-term memory that fit the budget, `knowledge` is what does
    of the tenant's (None: nobody asked for any).
    """

    session: Session
    turns: tuple[Turn, ...]
    insights: tuple[Memory, ...]
    summaries: tuple[Memory, ...]
    text: str
    knowledge: tuple[Known, ...] | None = None
    answers: dict[Any, Any] = {}
    """What a door has made of it to send, kept as long as it holds."""

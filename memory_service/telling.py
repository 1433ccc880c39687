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


class Learned(Value, frozen=True, kw_only=True):
    """A field of a user's profile that an insight states."""

    field: str
    value: str
    insight_id: str
    trust: Trust
    updated_at: datetime


class Profile(Value, frozen=True, kw_only=True):
    """What is known of a user field by field: the document that somebody wrote (`version` 0: nobody), and `learned`.

    No learnt field has the name of one that is in the document.
    """

    document: dict[str, Any] = {}
    version: int = 0
    updated_at: datetime | None = None
    learned: tuple[Learned, ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """All of it, what was written first."""
        return {**self.document, **{one.field: one.value for one in self.learned}}


class LongTerm(Value, frozen=True, kw_only=True):
    """What is known of a user beyond the present session.

    `insights`: most important first; `summaries`: of reflected sittings, newest first. Of these at most
    `most_summaries` are told; there is one more, for that of the present sitting may be among them. `episodes`: those
    that callers wrote, newest first. `restricted`: the same of what is trusted so far, where that is something else.
    """

    insights: tuple[Memory, ...] = ()
    summaries: tuple[Memory, ...] = ()
    most_summaries: int = 5
    profile: Profile = Profile()
    episodes: tuple[Memory, ...] = ()
    restricted: dict[Trust, LongTerm] = {}

    def at_least(self, trust: Trust) -> LongTerm:
        return self.restricted.get(trust, self)


class Context(Value, frozen=True, kw_only=True):
    """What an agent is told before its next answer; `text` is ready to be put into a prompt, empty if nothing is known.

    `insights` and `summaries` are those of the user's long-term memory that fit the budget, `knowledge` is what does
    of the tenant's (None: nobody asked for any). So are `profile`, field by field, and `episodes`.
    """

    session: Session
    turns: tuple[Turn, ...]
    insights: tuple[Memory, ...]
    summaries: tuple[Memory, ...]
    text: str
    knowledge: tuple[Known, ...] | None = None
    profile: dict[str, Any] = {}
    episodes: tuple[Memory, ...] = ()
    answers: dict[Any, Any] = {}
    """What a door has made of it to send, kept as long as it holds."""

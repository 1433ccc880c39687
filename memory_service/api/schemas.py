"""The wire: bodies that come in (strict, unknown fields refused) and answers that go out.

Names and types of the first nine endpoints are fixed; fields are only ever added.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from memory_service.limits import (
    DOC_ID_MEANS,
    DOC_ID_PATTERN,
    ID_MEANS,
    ID_PATTERN,
    MAX_CATEGORY,
    MAX_DOCUMENT,
    MAX_HITS,
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_METADATA_KEYS,
    MAX_NAME,
    MAX_QUESTION,
    MAX_TEXT,
    MAX_TITLE,
    METADATA_KEY,
    NAME_PATTERN,
    SPACE_NAME_MEANS,
    SPACE_NAME_PATTERN,
    USER_ID_MEANS,
    USER_ID_PATTERN,
)
from memory_service.memories import Change
from memory_service.values import KINDS, Durability, Kind, ReflectionState, Role, Trust

Id = Annotated[str, Meta(pattern=ID_PATTERN, description=ID_MEANS)]
UserId = Annotated[str, Meta(pattern=USER_ID_PATTERN, description=USER_ID_MEANS)]
SpaceName = Annotated[str, Meta(pattern=SPACE_NAME_PATTERN, description=SPACE_NAME_MEANS)]
NO_NUL = {"pattern": r"^[^\u0000]*$"}
"""Told, not applied here: bodies look for NUL before anything else does, and where there is none that costs nothing."""
Text = Annotated[str, Meta(max_length=MAX_TEXT, extra_json_schema=NO_NUL)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=NAME_PATTERN)]
Question = Annotated[str, Meta(min_length=1, max_length=MAX_QUESTION, extra_json_schema=NO_NUL)]
DocId = Annotated[str, Meta(pattern=DOC_ID_PATTERN, description=DOC_ID_MEANS)]
Category = Annotated[
    str, Meta(min_length=1, max_length=MAX_CATEGORY, pattern=NAME_PATTERN, description="Capitals count as small")
]
Title = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE, pattern=NAME_PATTERN)]
Pieces = Annotated[int, Meta(ge=0, le=20, description="Pieces of knowledge to tell")]
MinTrust = Annotated[Trust, Meta(description="What is trusted less is left out")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339, with an offset")]
Metadata = Annotated[
    dict[str, Any],
    Meta(
        description=f"At most {MAX_METADATA_BYTES} bytes as JSON, nested {MAX_METADATA_DEPTH} deep; no NUL, and no "
        "integer of 2**53 or more",
        extra_json_schema={"maxProperties": MAX_METADATA_KEYS, "propertyNames": {"pattern": METADATA_KEY}},
    ),
]


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies."""


class SessionStart(Body):
    user_id: UserId
    session_id: Id | None = None
    restore: bool = True
    agent_id: Id | None = None
    include_knowledge: Pieces = 0
    query: Question | None = None
    min_trust: MinTrust = "low"

    @property
    def only_names(self) -> bool:
        return self.query is None


class SessionEnd(Body):
    user_id: UserId
    session_id: Id
    wait_s: Annotated[float, Meta(ge=0, le=20, description="Seconds to wait for the reflection")] = 0


class GetContext(Body):
    """`query` is what knowledge is told on; without one, what the user said last."""

    user_id: UserId
    session_id: Id
    include_knowledge: Pieces = 0
    query: Question | None = None
    min_trust: MinTrust = "low"

    @property
    def only_names(self) -> bool:
        return self.query is None


class GetReflection(Body):
    user_id: UserId
    session_id: Id


class GetReflections(Body):
    state: ReflectionState = "dead"
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class Replay(Body):
    user_id: UserId
    session_id: Id


class StoreTurn(Body):
    """`turn_id` makes a repeat safe: the same id with the same words is stored once and answered the same.

    One of the two messages may be empty.
    """

    user_id: UserId
    session_id: Id
    user_message: Text
    agent_message: Text
    turn_id: Id | None = None
    user_name: Name | None = None
    agent_name: Name | None = None
    created_at: Annotated[Moment | None, Meta(description="When it was said (1901 to 2199); now, if not given")] = None
    metadata: Metadata = field(default_factory=dict)


SOMEBODY_SPEAKS = {"anyOf": [{"properties": {name: {"minLength": 1}}} for name in ("user_message", "agent_message")]}
"""Of a turn, as JSON Schema says it."""


class Retrieve(Body):
    user_id: UserId
    query: Question
    session_id: Id | None = None
    top_k: Annotated[int, Meta(ge=1, le=MAX_HITS)] = 5
    kinds: Annotated[list[Kind], Meta(min_length=1, max_length=len(KINDS))] | None = None
    min_trust: MinTrust = "low"


class GetInsights(Body):
    user_id: UserId
    recent_only: bool = False


class GetSummaries(Body):
    user_id: UserId
    limit: Annotated[int, Meta(ge=1, le=1000)] = 5


class StoreKnowledge(Body):
    """What comes under a `doc_id` that is there takes its place; without one, it is a new piece."""

    content: Annotated[str, Meta(min_length=1, max_length=MAX_DOCUMENT, extra_json_schema=NO_NUL)]
    category: Category
    title: Title | None = None
    doc_id: DocId | None = None
    metadata: Metadata = field(default_factory=dict)


class RecallKnowledge(Body):
    query: Question
    top_k: Annotated[int, Meta(ge=1, le=100)] = 5
    category: Category | None = None


class DeleteKnowledge(Body):
    doc_id: DocId


class ContextMessage(Struct, omit_defaults=True):
    role: Role
    content: str
    name: str | None = None


class ScoreParts(Struct):
    """What the score is the sum of."""

    keyword: float
    vector: float
    speaker: float
    date: float


class KnowledgeResult(Struct, kw_only=True):
    id: str
    doc_id: str
    title: str | None
    category: str
    content: str
    metadata: dict[str, Any]
    score: float
    score_parts: ScoreParts
    created_at: datetime


class ContextAnswer(Struct, kw_only=True):
    """`restored` is in the answer of /sessions/start alone: whether the session was there before.

    `knowledge` is in it if it was asked for, `profile` and `episodes` if there are any.
    """

    session_id: str
    user_id: str
    active_context: list[ContextMessage]
    cumulative_summary: str
    insights: list[str]
    session_summaries: list[str]
    formatted_context: str
    restored: bool | UnsetType = UNSET
    knowledge: list[KnowledgeResult] | UnsetType = UNSET
    profile: dict[str, Any] | UnsetType = UNSET
    episodes: list[str] | UnsetType = UNSET


class StoreAnswer(Struct, kw_only=True):
    """`durability`: fsync (on a disk), quorum (on several), relaxed (lost if the machine is), none (memory only)."""

    status: Literal["success"] = "success"
    message: str = "Turn stored successfully"
    session_id: str
    turn_id: str
    turn_number: int
    durability: Durability
    replayed: bool


class EndAnswer(Struct, kw_only=True):
    status: Literal["success"] = "success"
    message: str
    session_id: str
    turns_count: int
    reflection: ReflectionState
    summary_generated: bool
    insights_count: int


class SourceAnswer(Struct):
    session_id: str
    turn_number: int


class Result(Struct, kw_only=True, omit_defaults=True):
    id: str
    kind: Kind
    text: str
    score: float
    score_parts: ScoreParts
    session_id: str | None
    created_at: datetime
    trust: Trust
    role: Role | None = None
    name: str | None = None
    pinned: bool = False
    sources: list[SourceAnswer] = []


class RetrieveAnswer(Struct, kw_only=True):
    """`facts` are the results as plain lines, best first. `degraded` names what was missing from the search."""

    query: str
    facts: list[str]
    count: int
    results: list[Result]
    degraded: list[str]


class InsightAnswer(Struct, kw_only=True):
    id: str
    content: str
    category: str
    confidence: float
    importance: float
    pinned: bool
    trust: Trust
    timestamp: datetime
    session_id: str
    sources: list[SourceAnswer]


class InsightsAnswer(Struct, kw_only=True):
    user_id: str
    insights: list[InsightAnswer]
    count: int


class SummaryAnswer(Struct, kw_only=True):
    session_id: str
    start_time: datetime
    end_time: datetime
    summary: str
    cumulative_summary: str
    key_topics: list[str]
    turn_count: int
    trust: Trust


class SummariesAnswer(Struct, kw_only=True):
    user_id: str
    summaries: list[SummaryAnswer]
    count: int


class ReflectionAnswer(Struct, kw_only=True):
    """State of the latest sitting's reflection. `attempts` counts those since it was last asked for."""

    session_id: str
    reflection: ReflectionState
    attempts: int
    last_error: str | None
    turns_count: int
    insights_count: int


class SittingAnswer(Struct, kw_only=True):
    """One sitting in the list of reflections; `due_at` is when it is tried next, or was last."""

    user_id: str
    session_id: str
    first_turn: int
    last_turn: int
    reflection: ReflectionState
    attempts: int
    last_error: str | None
    due_at: datetime


class ReflectionsAnswer(Struct, kw_only=True):
    reflections: list[SittingAnswer]
    count: int


class KnowledgeStoredAnswer(Struct, kw_only=True):
    """`created_at` is when it was last changed; `change` is what this request did."""

    status: Literal["success"] = "success"
    doc_id: str
    id: str
    category: str
    created_at: datetime
    change: Change
    durability: Durability


class KnowledgeAnswer(Struct, kw_only=True):
    """Best first. `degraded` names what was missing from the search."""

    query: str
    results: list[KnowledgeResult]
    count: int
    degraded: list[str]


class KnowledgeDeletedAnswer(Struct, kw_only=True):
    status: Literal["success"] = "success"
    doc_id: str
    deleted: bool = True


class HealthAnswer(Struct, kw_only=True):
    status: Literal["healthy"] = "healthy"
    service: str = "agent-memory"
    version: str


class ProbeAnswer(Struct, kw_only=True):
    status: Literal["live", "ready"]


class Problem(Struct, kw_only=True, omit_defaults=True):
    """RFC 9457. `errors` names the places of what is wrong; nothing that was sent is repeated."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    error: str
    status_code: int
    errors: list[dict[str, str]] = []

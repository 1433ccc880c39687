"""Conversations: sessions, their turns, and the sittings they are reflected on by."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from memory_service.errors import SessionEnded
from memory_service.values.root import Value
from memory_service.values.trust import Trust, least

Role = Literal["user", "assistant", "system", "tool"]
ReflectionState = Literal["none", "pending", "done", "dead"]


class Message(Value, frozen=True, kw_only=True, omit_defaults=True):
    """`content` is what can be read of it. `parts`: the whole of what was said, where that is more than a text.

    `said_at`: its time in seconds since 1970 as it came through the gateway, of whose form its parts are then.
    """

    role: Role
    content: str
    name: str | None = None
    said_at: float | None = None
    parts: dict[str, Any] | None = None

    @property
    def speaker(self) -> str:
        return self.name or self.role

    @property
    def trust(self) -> Trust:
        return "low" if self.role == "tool" else "normal"


class Withheld(Value, frozen=True, kw_only=True):
    """What a turn has said that nobody is told: it is kept where no reader looks."""

    messages: tuple[Message, ...]
    metadata: dict[str, Any] = {}


class Turn(Value, frozen=True, kw_only=True):
    """One exchange. `seq` is dense from 1 within its session; a stored turn is never rewritten.

    One in quarantine has its words in `withheld` alone.
    """

    session_id: str
    seq: int
    turn_id: str
    messages: tuple[Message, ...]
    created_at: datetime
    received_at: datetime
    metadata: dict[str, Any] = {}
    withheld: Withheld | UnsetType = UNSET

    def hidden(self) -> Turn:
        return replace(
            self, messages=(), metadata={}, withheld=Withheld(messages=self.messages, metadata=self.metadata)
        )

    def told(self) -> Turn:
        """As it was stored, in quarantine or not."""
        if not self.withheld:
            return self
        return replace(self, messages=self.withheld.messages, metadata=self.withheld.metadata, withheld=UNSET)

    @property
    def trust(self) -> Trust:
        """That of its least trusted message."""
        return least(message.trust for message in self.messages)

    def without_low(self) -> Turn:
        """What of it was not said by a tool."""
        messages = tuple(message for message in self.messages if message.trust != "low")
        return self if len(messages) == len(self.messages) else replace(self, messages=messages)


class Session(Value, frozen=True, kw_only=True):
    """The head of one conversation, and its watermarks (turn sequence numbers).

    *Live turns* are those after `live_after`; the cumulative summary covers the turns of the present
    sitting before them: no gap, no overlap. `version` counts commits of the head; `incarnation` tells
    this session from an erased one that had the same id. Turns up to `replaced_through` are of lists of messages that
    another one took the place of: on record, and not shown by the gateway. Those up to `erased_through` have lost their
    words for want of room.
    """

    session_id: str
    incarnation: str
    created_at: datetime
    touched_at: datetime
    agent_id: str | None = None
    status: Literal["active", "ended"] = "active"
    ended_by: Literal["client", "service"] | None = None
    cumulative_summary: str = ""
    turn_count: int = 0
    opened_at_seq: int = 1
    compacted_through: int = 0
    handed_over_through: int = 0
    replaced_through: int = 0
    erased_through: int = 0
    system_prompt: str | None = None
    metadata: dict[str, Any] | None = None
    version: int = 1

    @property
    def live_after(self) -> int:
        return max(self.compacted_through, self.opened_at_seq - 1)

    @property
    def live_turns(self) -> int:
        return self.turn_count - self.live_after

    @property
    def sitting_turns(self) -> int:
        return self.turn_count - self.opened_at_seq + 1

    @property
    def unreflected_turns(self) -> int:
        """Turns of the present sitting that no reflection has been asked for yet."""
        return self.turn_count - max(self.handed_over_through, self.opened_at_seq - 1)

    def require_active(self) -> None:
        """Raises SessionEnded."""
        if self.status == "ended":
            raise SessionEnded

    def with_turn(self, turn: Turn) -> Session:
        return replace(self, turn_count=turn.seq, touched_at=turn.received_at, version=self.version + 1)

    def compacted(self, through: int, summary: str) -> Session:
        return replace(self, compacted_through=through, cumulative_summary=summary, version=self.version + 1)

    def touched(self, now: datetime) -> Session:
        return replace(self, touched_at=now, version=self.version + 1)

    def handed_over(self) -> Session:
        return replace(self, handed_over_through=self.turn_count, version=self.version + 1)

    def ended(self, by: Literal["client", "service"]) -> Session:
        return replace(self, status="ended", ended_by=by, handed_over_through=self.turn_count, version=self.version + 1)

    def reopened(self, now: datetime) -> Session:
        """Begin a new sitting under the same id: earlier turns stay in the record and are no longer live."""
        return replace(
            self,
            status="active",
            ended_by=None,
            opened_at_seq=self.turn_count + 1,
            handed_over_through=self.turn_count,
            cumulative_summary="",
            touched_at=now,
            version=self.version + 1,
        )

    def begun_afresh(self, now: datetime) -> Session:
        """Begin a new sitting that has nothing to do with the turns before it."""
        return replace(self.reopened(now), replaced_through=self.turn_count)


class Sitting(Value, frozen=True, kw_only=True):
    """One stretch of a session that was handed to reflection, and the state of that work: the to-do column.

    Turns `first_seq..through_seq` are to be reflected on, those up to `reflected_through` already are.
    `summary` covers the reflected ones, which began at `started_at`, and has the trust `summary_trust`. `version`
    fences: a worker whose claim was overtaken cannot commit. `begun_anew` counts how often it was to be read from its
    beginning once more.
    """

    session_id: str
    first_seq: int
    through_seq: int
    reflection: ReflectionState = "pending"
    ended: bool = False
    reflected_through: int = 0
    summary: str = ""
    summary_trust: Trust = "normal"
    started_at: datetime | None = None
    insights_count: int = 0
    attempts: int = 0
    due_at: datetime
    lease_until: datetime | None = None
    last_error: str | None = None
    begun_anew: int = 0
    version: int = 1

    @property
    def turns_count(self) -> int:
        return self.through_seq - self.first_seq + 1

    @property
    def reflect_after(self) -> int:
        return max(self.reflected_through, self.first_seq - 1)

    def extended(self, through: int, now: datetime, *, ended: bool) -> Sitting:
        """Ask for reflection up to `through` (anew, if earlier turns were done or given up on)."""
        pending = through > self.reflect_after
        return replace(
            self,
            through_seq=through,
            ended=ended,
            reflection="pending" if pending else self.reflection,
            attempts=0 if pending else self.attempts,
            last_error=None if pending else self.last_error,
            due_at=now,
            lease_until=None,
            version=self.version + 1,
        )

    def claimed(self, lease_until: datetime) -> Sitting:
        return replace(self, attempts=self.attempts + 1, lease_until=lease_until, version=self.version + 1)

    def done(self, summary: str, insights_count: int, started_at: datetime, summary_trust: Trust = "normal") -> Sitting:
        return replace(
            self,
            reflection="done",
            reflected_through=self.through_seq,
            summary=summary,
            summary_trust=summary_trust,
            started_at=started_at,
            insights_count=self.insights_count + insights_count,
            lease_until=None,
            last_error=None,
            version=self.version + 1,
        )

    def replayed(self, now: datetime) -> Sitting:
        """Ask for reflection again on what was given up."""
        return replace(self, reflection="pending", attempts=0, due_at=now, lease_until=None, version=self.version + 1)

    def withdrawn(self) -> Sitting:
        """Ask no more for reflection on what has not been reflected on."""
        through, state = (self.reflected_through, "done") if self.reflected_through else (self.through_seq, "none")
        return replace(self, reflection=state, through_seq=through, lease_until=None, version=self.version + 1)

    def released(self) -> Sitting:
        """Give a claim back as if it had not been made."""
        return replace(self, attempts=self.attempts - 1, lease_until=None, version=self.version + 1)

    def failed(self, reason: str, retry_at: datetime | None) -> Sitting:
        """Give the claim back with the reason; without `retry_at` it is dead until replayed."""
        return replace(
            self,
            reflection="pending" if retry_at else "dead",
            due_at=retry_at or self.due_at,
            lease_until=None,
            last_error=reason,
            version=self.version + 1,
        )


class Hot(Value, frozen=True, kw_only=True):
    """What the pool keeps of a session: its head and its live turns, oldest first."""

    session: Session
    turns: tuple[Turn, ...] = ()

    def sharing(self) -> Hot:
        """The same in less room: what turns that were read back say alike, they have once."""
        nothing: dict[str, Any] = {}
        turns = (
            replace(
                turn,
                session_id=self.session.session_id,
                created_at=turn.received_at if turn.created_at == turn.received_at else turn.created_at,
                metadata=turn.metadata or nothing,
            )
            for turn in self.turns
        )
        return replace(self, turns=tuple(turns))

    def last_said(self, role: Role) -> str:
        """The last words of a speaker in the live turns; empty if there are none."""
        messages = (message for turn in reversed(self.turns) for message in reversed(turn.messages))
        return next((message.content for message in messages if message.role == role), "")

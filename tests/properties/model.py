"""What must be true of all sessions, by the simplest account of what was done to them. Knows nothing of the service."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from memory_service.values import Scope, SessionKey

SCOPES = [
    Scope(tenant_id="north", user_id="ana"),
    Scope(tenant_id="north", user_id="ben"),
    Scope(tenant_id="south", user_id="ana"),
]
KEYS = [SessionKey(scope=scope, session_id=name) for scope in SCOPES for name in ("s", "t")]
CANARIES = {scope: f"canary{scope.tenant_id}{scope.user_id}" for scope in SCOPES}
"""One word of each user that stands in all that the user says, and in nothing that anybody else does."""
REMEMBERED, FORGOTTEN = timedelta(hours=24), timedelta(days=3)
"""A name of a request is for as long as the first, by the promise, and is not after the second."""
TOUCHED_LATELY = timedelta(minutes=1)


@dataclass
class Said:
    """One turn as it was sent, and how it was first answered."""

    key: SessionKey
    word: str
    body: dict[str, Any]
    request: str | None
    at: datetime
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        return {"Idempotency-Key": self.request} if self.request else {}

    @property
    def messages(self) -> list[str]:
        return [text for text in (self.body["user_message"], self.body["agent_message"]) if text]


@dataclass
class Told:
    """One session."""

    touched_at: datetime
    turns: list[Said] = field(default_factory=list)
    opened_at: int = 1
    status: Literal["active", "client", "service"] = "active"
    closed: list[tuple[int, int]] = field(default_factory=list)

    @property
    def sitting_turns(self) -> int:
        return len(self.turns) - self.opened_at + 1

    def close(self) -> None:
        """The present sitting is over, if it has turns; it is on record that it is to be read."""
        if self.status == "active" and self.sitting_turns:
            self.closed.append((self.opened_at, len(self.turns)))

    def end(self, by: Literal["client", "service"]) -> None:
        self.close()
        self.status = by

    def reopen(self, now: datetime) -> None:
        self.status, self.opened_at, self.touched_at = "active", len(self.turns) + 1, now

    def go_on(self, now: datetime) -> None:
        if self.status == "service":
            self.reopen(now)
        elif now - self.touched_at > TOUCHED_LATELY:
            self.touched_at = now


class World:
    """All sessions, and the names of requests that are remembered."""

    def __init__(self) -> None:
        self.told: dict[SessionKey, Told] = {}
        self.requests: dict[tuple[Scope, str], Said] = {}
        self.erased: set[str] = set()
        """Words that only what was erased has held."""
        self.said = 0
        self.latest = datetime.min.replace(tzinfo=UTC)
        """The latest time at which a name was given: older ones may have been forgotten then."""

    def next_word(self) -> str:
        self.said += 1
        return f"word{self.said}"

    def of(self, scope: Scope) -> dict[SessionKey, Told]:
        return {key: told for key, told in self.told.items() if key.scope == scope}

    def add(self, said: Said, answer: dict[str, Any], now: datetime) -> None:
        """A turn was acknowledged as new."""
        said.at, said.answer = now, answer
        told = self.told[said.key]
        told.turns.append(said)
        told.touched_at = now
        if said.request:
            self.latest = max(self.latest, now)
            self.requests[said.key.scope, said.request] = said

    def erase(self, key: SessionKey) -> None:
        told = self.told.pop(key)
        self.erased |= {said.word for said in told.turns}
        self.requests = {name: said for name, said in self.requests.items() if said.key != key}

    def can_be_repeated(self, said: Said) -> bool:
        """Whether the service can tell that it comes again: its name stands for it, or it has a turn_id."""
        if said.request:
            return self.requests[said.key.scope, said.request] is said
        return "turn_id" in said.body

    def remembers(self, said: Said, now: datetime) -> bool | None:
        """Whether the name of the request must be remembered; None if it may be, or if its session takes no turns."""
        if not said.request:
            return False
        if said.at >= max(self.latest, now) - REMEMBERED:
            return True
        return False if said.at < now - FORGOTTEN and self.told[said.key].status == "active" else None

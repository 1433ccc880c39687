"""Sessions that have grown beyond what is kept of them word for word, as they are seen when a turn is added."""

from __future__ import annotations

from memory_service.values import Session, SessionKey

SLACK = 10
"""Of what is kept, one part in so many may be there besides. Many turns go at once, because all that is held of their
user is read anew each time."""


class Growth:
    """`turns`: how many of each session keep their words at least; 0 is all of them."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self._grown: dict[SessionKey, None] = {}

    @property
    def slack(self) -> int:
        return max(self.turns // SLACK, 1)

    def see(self, key: SessionKey, session: Session) -> None:
        if self.turns and session.turn_count - session.erased_through >= self.turns + self.slack:
            self._grown[key] = None

    @property
    def due(self) -> list[SessionKey]:
        return list(self._grown)

    def done(self, key: SessionKey) -> None:
        self._grown.pop(key, None)

"""What an agent is told before its next answer, the same for both clients. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from client import _calls
from client._caller import Caller
from client._calls import Call

A = TypeVar("A", covariant=True)


class Reading(Caller, ABC, Generic[A]):
    """Contexts and searches. Each gives the service's answer: awaited, or at once.

    `min_trust="normal"` leaves out what tools said and what rests on it.
    """

    @abstractmethod
    def _send(self, call: Call) -> A: ...

    def get_context(
        self,
        *,
        include_knowledge: int = 0,
        query: str | None = None,
        session_id: str | None = None,
        min_trust: str | None = None,
    ) -> A:
        """Return what to tell the agent before its next answer; `formatted_context` is ready for a prompt.

        `include_knowledge` is how many pieces of knowledge (at most 20) to tell, on `query` or else on what the user
        said last. `min_trust` holds for insights and summaries of other sessions. Works on an ended session too.
        """
        bound = self._bound(session_id)
        return self._send(_calls.context(self.user_id, bound, include_knowledge, query, min_trust))

    def retrieve(
        self,
        query: str,
        top_k: int = 5,
        kinds: Sequence[str] | None = None,
        *,
        session_id: str | None = None,
        min_trust: str | None = None,
    ) -> A:
        """Search all the user's memory, best first.

        `session_id` is sent only if given here: a search is not about the session that was started.
        """
        return self._send(_calls.retrieve(self.user_id, query, top_k, kinds, session_id, min_trust))

"""What a user may do about what is kept of them, the same for both clients. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from client import _calls
from client._caller import Caller
from client._calls import Call

A = TypeVar("A", covariant=True)


class Rights(Caller, ABC, Generic[A]):
    """See, correct, pin and delete memories. Each gives the service's answer: awaited, or at once."""

    @abstractmethod
    def _send(self, call: Call) -> A: ...

    def memories(
        self,
        kinds: Sequence[str] | None = None,
        limit: int = 50,
        *,
        cursor: str | None = None,
        superseded: bool = False,
    ) -> A:
        """List what is remembered, newest first; the `cursor` of an answer gives the next page, until it is None."""
        return self._send(_calls.memories(self.user_id, kinds, limit, cursor, superseded))

    def memory(self, memory_id: str) -> A:
        """Return one memory. Raises MemoryNotFound."""
        return self._send(_calls.memory(self.user_id, memory_id))

    def edit_memory(
        self,
        memory_id: str,
        *,
        content: str | None = None,
        category: str | None = None,
        importance: float | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        pinned: bool | None = None,
        expected_updated_at: str | datetime | None = None,
    ) -> A:
        """Correct a memory, or pin it; what is not given stays as it is, and none of it changes by itself any more.

        With `expected_updated_at`, the `updated_at` that was shown, it raises Conflict where another was quicker; an
        attempt whose answer was lost may have been that other. Raises MemoryNotFound.
        """
        if isinstance(expected_updated_at, datetime):
            expected_updated_at = expected_updated_at.isoformat()
        changes = {
            "content": content,
            "category": category,
            "importance": importance,
            "tags": None if tags is None else list(tags),
            "metadata": None if metadata is None else dict(metadata),
            "pinned": pinned,
            "expected_updated_at": expected_updated_at,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return self._send(_calls.edit_memory(self.user_id, memory_id, given))

    def delete_memory(self, memory_id: str) -> A:
        """Delete a memory. Raises MemoryNotFound, also where an attempt before had its answer lost."""
        return self._send(_calls.delete_memory(self.user_id, memory_id))

    def what_to_forget(
        self, query: str, kinds: Sequence[str] | None = None, top_k: int = 20, min_score: float = 0.0
    ) -> A:
        """Return which memories a query finds, best first, and their `ids`, for `forget`. Nothing is deleted."""
        return self._send(_calls.what_to_forget(self.user_id, query, kinds, top_k, min_score))

    def forget(self, ids: Iterable[str]) -> A:
        """Delete the memories of these ids, and no others; what is not there is passed over."""
        return self._send(_calls.forget(self.user_id, ids))

    def erase_user(self) -> A:
        """Erase all that is kept of the user; the answer counts it. Raises UserNotFound.

        So it does where an attempt before had its answer lost.
        """
        return self._send(_calls.erase_user(self.user_id))

    def erase_session(self, *, session_id: str | None = None) -> A:
        """Erase the session, its turns and what was learnt from them. Raises SessionNotFound."""
        return self._send(_calls.erase_session(self.user_id, self._bound(session_id)))

    def erase_turn(self, turn_number: int, *, session_id: str | None = None) -> A:
        """Erase the words of a turn and what was learnt from it; its number stays. Raises NotFound."""
        return self._send(_calls.erase_turn(self.user_id, self._bound(session_id), turn_number))

    def quarantine(self, turn_numbers: Iterable[int] | None = None, *, session_id: str | None = None) -> A:
        """Withhold these turns of the session, or all there are, and all that was derived from them.

        The answer counts what is withheld; `release` gives it back. Raises NotFound.
        """
        return self._send(_calls.quarantine(self.user_id, self._bound(session_id), turn_numbers))

    def release(self, turn_number: int | None = None, *, session_id: str | None = None) -> A:
        """Give back what is withheld of the session: one turn, or all. The answer counts it. Raises NotFound."""
        return self._send(_calls.release(self.user_id, self._bound(session_id), turn_number))

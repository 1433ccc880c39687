"""The profile of a user and the episodes they have had, the same for both clients. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from client import _calls
from client._caller import Caller
from client._calls import Call

A = TypeVar("A", covariant=True)


class Profiles(Caller, ABC, Generic[A]):
    """Tell and read what is known of the user. Each gives the service's answer: awaited, or at once."""

    @abstractmethod
    def _send(self, call: Call) -> A: ...

    def get_profile(self) -> A:
        """Return the `profile` that was written (`{}` at `version` 0 if none was), and beside it what was `learned`."""
        return self._send(_calls.profile(self.user_id))

    def put_profile(self, profile: Mapping[str, Any], expected_version: int | None = None) -> A:
        """Write the profile, in place of what was written; the same once more changes nothing.

        With `expected_version`, the `version` that was shown (0: none), it raises Conflict where another was quicker;
        an attempt whose answer was lost may have been that other. Raises InvalidRequest if it does not fit the schema
        of the tenant.
        """
        return self._send(_calls.put_profile(self.user_id, profile, expected_version))

    def patch_profile(self, patch: Mapping[str, Any], expected_version: int | None = None) -> A:
        """Change parts of the profile: what is given takes the place of what is there, None takes a field away.

        The rest stays as it is. `expected_version` as in `put_profile`.
        """
        return self._send(_calls.patch_profile(self.user_id, patch, expected_version))

    def delete_profile(self) -> A:
        """Delete what was written; what was learnt stays. The answer says whether there was any (`deleted`)."""
        return self._send(_calls.delete_profile(self.user_id))

    def add_episode(
        self,
        event_type: str,
        summary: str,
        *,
        timestamp: str | datetime | None = None,
        session_id: str | None = None,
        episode_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> A:
        """Tell an interaction that the user has had, at `timestamp` (with an offset; now, if not given).

        An `episode_id` of yours makes it safe to call this again after ConnectionFailed: what is there under it is
        written over, and by the same not changed. Raises Conflict for the id of another kind of memory.
        """
        if isinstance(timestamp, datetime):
            timestamp = timestamp.isoformat()
        return self._send(
            _calls.add_episode(
                self.user_id,
                event_type,
                summary,
                timestamp=timestamp,
                session_id=session_id,
                episode_id=episode_id,
                metadata=metadata,
            )
        )

    def get_episodes(self, limit: int = 5, event_type: str | None = None, *, cursor: str | None = None) -> A:
        """List interactions, newest first: those that were told, and sessions that were reflected on.

        The `cursor` of an answer gives the next page, until it is None.
        """
        return self._send(_calls.episodes(self.user_id, limit, event_type, cursor))

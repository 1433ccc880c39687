"""What bodies name, the same for each route whose bodies do: a session, the request itself, a moment."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from memory_service.api.auth import Caller
from memory_service.limits import check_moment
from memory_service.sessions import RequestName
from memory_service.values import SessionKey


def session_of(caller: Caller, body: Any) -> SessionKey:
    """The session of a body that has `user_id` and `session_id`. Raises ScopeMismatch, InsufficientScope."""
    return SessionKey(scope=caller.scope(body.user_id), session_id=body.session_id)


def request_of(body: msgspec.Struct, request_key: str | None) -> RequestName | None:
    """The name that the caller gave the request, with what tells its body from another; None without one."""
    if not request_key:
        return None
    digest = hashlib.blake2b(msgspec.json.encode(body), digest_size=16).hexdigest()
    return RequestName(key=request_key, digest=digest)


def moment_of(place: str, given: datetime | None) -> datetime | None:
    """In UTC. Raises ValidationFailed for one that cannot be kept."""
    return None if given is None else check_moment(place, given)

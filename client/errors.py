"""Everything a call can end in, other than an answer.

MemoryServiceError
├── InvalidRequest      the request cannot be served as it is (400, 405, 413, 415, 422, any other 4xx)
├── Unauthenticated     the service does not know this caller: no key, or one that is of no use (401)
├── Forbidden           it does, and what was asked is not for this key (403)
├── NotFound            404
│   ├── SessionNotFound unknown, or another user's: the two look the same
│   ├── UserNotFound    nothing is kept of this user
│   ├── MemoryNotFound  unknown, another user's, or deleted
│   └── KnowledgeNotFound
├── Conflict            the request does not fit the present state (409)
│   ├── SessionEnded    a session that was ended takes no more turns
│   └── UserExists      something is kept already of the user who was to be imported
├── Unavailable         try again later (any 5xx)
│   └── RateLimited     more was asked than is allowed (429)
├── ConnectionFailed    no answer came: whether the service acted is not known
├── BadAnswer           an answer that is not the service's: a proxy's page, a redirect
├── NoSession           no session was started or named; nothing was sent
└── ClientClosed        this client was closed; nothing was sent
"""

from __future__ import annotations

from collections.abc import Mapping


class MemoryServiceError(Exception):
    """Root of all errors of the client.

    `status` is None if there was no answer; `code` is stable, `detail` is for people; `request_id` finds the
    request in the service's log; `retry_after_s` is what the service asked for, if it did.
    """

    default_code = "error"

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code or self.default_code
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        status = f" ({self.status})" if self.status is not None else ""
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.code}{status}: {self.detail}{request}"


class InvalidRequest(MemoryServiceError):
    default_code = "invalid_request"


class Unauthenticated(MemoryServiceError):
    default_code = "unauthenticated"


class Forbidden(MemoryServiceError):
    default_code = "forbidden"


class NotFound(MemoryServiceError):
    default_code = "not_found"


class SessionNotFound(NotFound):
    default_code = "session_not_found"


class UserNotFound(NotFound):
    default_code = "user_not_found"


class MemoryNotFound(NotFound):
    default_code = "memory_not_found"


class KnowledgeNotFound(NotFound):
    default_code = "knowledge_not_found"


class Conflict(MemoryServiceError):
    default_code = "conflict"


class SessionEnded(Conflict):
    default_code = "session_ended"


class UserExists(Conflict):
    default_code = "user_exists"


class Unavailable(MemoryServiceError):
    default_code = "unavailable"


class RateLimited(Unavailable):
    default_code = "rate_limited"


class ConnectionFailed(MemoryServiceError):
    default_code = "connection_failed"


class BadAnswer(MemoryServiceError):
    default_code = "bad_answer"


class NoSession(MemoryServiceError):
    default_code = "no_session"

    def __init__(self) -> None:
        super().__init__("call start_session() first, or pass session_id=")


class ClientClosed(MemoryServiceError):
    default_code = "client_closed"

    def __init__(self) -> None:
        super().__init__("this client was closed: make another")


ERRORS: Mapping[str | int, type[MemoryServiceError]] = {
    "session_not_found": SessionNotFound,
    "session_ended": SessionEnded,
    "user_not_found": UserNotFound,
    "user_exists": UserExists,
    "memory_not_found": MemoryNotFound,
    "knowledge_not_found": KnowledgeNotFound,
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: InvalidRequest,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    503: Unavailable,
}


def error_type(status: int, code: str | None) -> type[MemoryServiceError]:
    """Choose by code, then by status, then by class of status."""
    known = ERRORS.get(code or status) or ERRORS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return Unavailable
    return InvalidRequest if status >= 400 else BadAnswer

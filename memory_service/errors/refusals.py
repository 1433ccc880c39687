"""What was asked cannot be, or not by this caller."""

from __future__ import annotations

from memory_service.errors.root import MemoryServiceError


class InvalidRequest(MemoryServiceError):
    code = "invalid_request"
    title = "The request cannot be served"


class MalformedRequest(InvalidRequest):
    code = "malformed_request"
    title = "The request is not valid HTTP"


class HeadersTooLarge(InvalidRequest):
    code = "headers_too_large"
    title = "The headers are too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the limit is {limit_bytes} bytes")


class MalformedJson(InvalidRequest):
    code = "malformed_json"
    title = "The body is not valid JSON"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported_media_type"
    title = "The body is of another media type than is read here"

    def __init__(self, media_type: str = "application/json") -> None:
        super().__init__(f"send Content-Type: {media_type}")


class ContentTooLarge(InvalidRequest):
    code = "body_too_large"
    title = "The body is too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the limit is {limit_bytes} bytes")


class ValidationFailed(InvalidRequest, ValueError):
    """`place` is a path such as `$.user_id`; `reason` never holds what was sent."""

    code = "validation_failed"
    title = "A field is not valid"

    def __init__(self, place: str, reason: str, code: str = "validation_failed") -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason, self.code = place, reason, code


class UnknownRoute(InvalidRequest):
    code = "not_found"
    title = "There is nothing at this path"


class MethodNotAllowed(InvalidRequest):
    code = "method_not_allowed"
    title = "The path does not have this method"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"allowed: {allowed}")
        self.allowed = allowed


class NotAcceptable(InvalidRequest):
    code = "not_acceptable"
    title = "The answer is of a media type that was not asked for"

    def __init__(self, media_type: str = "application/json") -> None:
        super().__init__(f"leave Accept out, or let it allow {media_type}")


class TurnIdReused(InvalidRequest):
    code = "turn_id_reused"
    title = "The turn_id was used for another turn"

    def __init__(self) -> None:
        super().__init__("this turn_id is already stored with other content; nothing was changed")


class MessageIdReused(InvalidRequest):
    code = "message_id_reused"
    title = "The message_id was used for another message"

    def __init__(self) -> None:
        super().__init__("a message_id is stored already with other content; messages before it may be stored")


class RequestKeyReused(InvalidRequest):
    code = "idempotency_key_reused"
    title = "The Idempotency-Key was used for another request"

    def __init__(self) -> None:
        super().__init__("this key stands for a request with another body; nothing was changed")


class TooSlow(MemoryServiceError):
    code = "timeout"
    title = "The request took too long to arrive"


class RequestTimeout(TooSlow):
    code = "request_timeout"
    title = "The head of the request did not arrive in time"


class BodyTimeout(TooSlow):
    code = "body_timeout"
    title = "The body of the request did not arrive in time"


class Unauthenticated(MemoryServiceError):
    code = "unauthenticated"
    title = "The caller is not known"


class RateLimited(MemoryServiceError):
    """`retry_after_s`: whole seconds, after which there is room again."""

    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"more than is allowed here; there is room again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Forbidden(MemoryServiceError):
    """`user_id`: whose memory was meant, where it was that of one user or space. It is not told."""

    user_id: str | None = None
    code = "forbidden"
    title = "The credential does not allow this"


class InsufficientScope(Forbidden):
    code = "insufficient_scope"
    title = "The credential lacks a permission"

    def __init__(self, permission: str, user_id: str | None = None) -> None:
        super().__init__(f"this needs the permission {permission!r}")
        self.user_id = user_id


class ScopeMismatch(Forbidden):
    code = "scope_mismatch"
    title = "The credential is for somebody else's memory"

    def __init__(self, reason: str, user_id: str | None = None) -> None:
        super().__init__(reason)
        self.user_id = user_id


class NotFound(MemoryServiceError):
    code = "not_found"
    title = "It does not exist"


class SessionNotFound(NotFound):
    code = "session_not_found"
    title = "There is no such session"

    def __init__(self) -> None:
        super().__init__("no session of this id for this user; start one with POST /sessions/start")


class UserNotFound(NotFound):
    code = "user_not_found"
    title = "Nothing is kept of this user"

    def __init__(self) -> None:
        super().__init__("nothing is kept of a user of this id")


class TurnNotFound(NotFound):
    code = "turn_not_found"
    title = "There is no such turn"

    def __init__(self) -> None:
        super().__init__("no turn of this number in this session")


class MessageNotFound(NotFound):
    code = "message_not_found"
    title = "There is no such message"

    def __init__(self) -> None:
        super().__init__("no message of this id in this session")


class MemoryNotFound(NotFound):
    code = "memory_not_found"
    title = "There is no such memory"

    def __init__(self) -> None:
        super().__init__("no memory of this id for this user")


class KnowledgeNotFound(NotFound):
    code = "knowledge_not_found"
    title = "There is no such piece of knowledge"

    def __init__(self) -> None:
        super().__init__("no piece of knowledge of this doc_id")


class DriverNotFound(NotFound):
    code = "driver_not_found"
    title = "There is no such memory driver"

    def __init__(self) -> None:
        super().__init__("no memory driver of this name is in use here; GET /drivers lists those that are")


class KeyNotFound(NotFound):
    code = "key_not_found"
    title = "There is no such API key"

    def __init__(self) -> None:
        super().__init__("no API key of this id; GET /keys lists those there are")


class Conflict(MemoryServiceError):
    code = "conflict"
    title = "The request does not fit the present state"


class UserExists(Conflict):
    code = "user_exists"
    title = "Something is kept already of this user"

    def __init__(self) -> None:
        super().__init__("what is kept of this user is not what the file says; it was left as it is")


class SessionEnded(Conflict):
    code = "session_ended"
    title = "The session was ended"

    def __init__(self) -> None:
        super().__init__(
            "start a new session without session_id, or this one again: restore=true goes on with what the service "
            "ended as abandoned, restore=false begins afresh under this id"
        )


class StaleVersion(Conflict):
    code = "version_conflict"
    title = "It was changed by somebody else"

    def __init__(self) -> None:
        super().__init__("changed since it was read; nothing was written, try again")


class MemoryIdTaken(Conflict):
    code = "memory_id_taken"
    title = "The id is that of another kind of memory"

    def __init__(self) -> None:
        super().__init__("a memory of another kind has this id; it was left as it is")


class KeyNotInUse(Conflict):
    code = "key_not_in_use"
    title = "The API key is not in use any more"

    def __init__(self) -> None:
        super().__init__("it was revoked or has expired; create another")

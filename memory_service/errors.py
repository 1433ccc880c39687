"""Everything that can go wrong, with a stable `code` each. None of these knows HTTP.

MemoryServiceError
├── InvalidRequest              what was asked cannot be
│   ├── MalformedRequest        what came is not HTTP
│   ├── HeadersTooLarge         the head of the request is longer than is read
│   ├── MalformedJson           the body is not JSON
│   ├── UnsupportedMediaType    the body says it is not what is read here
│   ├── ContentTooLarge         the body is longer than is read
│   ├── ValidationFailed        a field is wrong; `place` says which
│   ├── UnknownRoute            no such path
│   ├── MethodNotAllowed        the path has no such method
│   ├── NotAcceptable           the caller wants something else than is answered here
│   ├── TurnIdReused            a turn_id came again with other content
│   └── RequestKeyReused        an Idempotency-Key came again with another body
├── TooSlow                     the request did not arrive in time
│   ├── RequestTimeout          its head
│   └── BodyTimeout             its body
├── Unauthenticated             the caller may not be served
├── RateLimited                 the caller asks more than it may
├── Forbidden                   the caller is known, and may not do this
│   ├── InsufficientScope       its credential lacks a permission
│   └── ScopeMismatch           its credential is bound to another user, or to a tenant
├── NotFound
│   ├── SessionNotFound         unknown, or another user's: the two look the same
│   ├── UserNotFound            nothing is kept of this user
│   ├── TurnNotFound            the session has no turn of this number
│   ├── MemoryNotFound          unknown, or another user's
│   ├── KnowledgeNotFound       unknown, or another tenant's
│   ├── DriverNotFound          no memory driver of this name is in use
│   └── KeyNotFound             no API key of this id, or another tenant's: the two look the same
├── Conflict
│   ├── SessionEnded            a session that was ended takes no more turns
│   ├── UserExists              something is kept already of the user who is to be imported
│   ├── StaleVersion            the head moved since it was read
│   └── KeyNotInUse             the API key was revoked, or has expired
├── Unavailable                 try again later
│   ├── StoreUnavailable        the store did not answer, or refused
│   │   ├── StoreFailed         it broke while writing, and takes no more until a restart
│   │   ├── StoreThrottled      it has more to do than it was bought for
│   │   ├── StoreCorrupt        what it holds of this cannot be read; the rest can
│   │   └── StorageFull         there is no room left
│   ├── DriverUnavailable       the engine of a memory driver did not answer; the record still does
│   ├── IdentityProviderUnavailable  it did not tell its keys, without which a token cannot be checked
│   ├── Overloaded              more is waiting than is sensible
│   ├── TooManyConnections      more callers than are served at once
│   ├── DeadlineExceeded        it took too long; what was to be written may yet be
│   └── Draining                the service is about to end
├── UnsafeStart                 the service refuses to start
│   └── RecordInUse             another process has the record open, and may alone
└── ModelError                  a model's answer could not be had or used
    ├── ModelUnavailable        no answer: time-out, refusal of service, network
    ├── ModelRefused            this request was turned down; another may not be
    └── BadModelOutput          an answer that is not what was asked for
"""

from __future__ import annotations


class MemoryServiceError(Exception):
    """Root of all errors this service raises on purpose."""

    code = "internal_error"
    title = "Something went wrong in the service"


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
    code = "forbidden"
    title = "The credential does not allow this"


class InsufficientScope(Forbidden):
    code = "insufficient_scope"
    title = "The credential lacks a permission"

    def __init__(self, permission: str) -> None:
        super().__init__(f"this needs the permission {permission!r}")


class ScopeMismatch(Forbidden):
    code = "scope_mismatch"
    title = "The credential is for somebody else's memory"


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


class KeyNotInUse(Conflict):
    code = "key_not_in_use"
    title = "The API key is not in use any more"

    def __init__(self) -> None:
        super().__init__("it was revoked or has expired; create another")


class Unavailable(MemoryServiceError):
    """`retry_after_s` is when trying again makes sense."""

    code = "unavailable"
    title = "The service cannot do this now"
    retry_after_s = 1


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    title = "The store did not answer"


class StoreFailed(StoreUnavailable):
    code = "store_failed"
    title = "The store failed while writing"

    def __init__(self) -> None:
        super().__init__("writing failed; the service ends, and recovers from its record when it is started again")


class StoreCorrupt(StoreUnavailable):
    code = "store_corrupt"
    title = "The record is damaged here"
    retry_after_s = 60

    def __init__(self) -> None:
        super().__init__("what is on record of this cannot be read; what is elsewhere in the record is served")


class StoreThrottled(StoreUnavailable):
    code = "store_throttled"
    title = "The store is asked for more than it may do"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the database turned it down as too much at once; try again shortly")
        self.retry_after_s = retry_after_s


class StorageFull(StoreUnavailable):
    code = "storage_full"
    title = "There is no room left to store"
    retry_after_s = 60


class DriverUnavailable(Unavailable):
    code = "driver_unavailable"
    title = "The engine of the memory driver did not answer"


class IdentityProviderUnavailable(Unavailable):
    code = "identity_provider_unavailable"
    title = "The identity provider did not answer"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            "the keys of the identity provider could not be had, and this token's is not among those known"
        )
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Too much is waiting to be written"

    def __init__(self) -> None:
        super().__init__("more waits to be written than the disk keeps up with; nothing was stored, try again shortly")


class TooManyConnections(Unavailable):
    code = "too_many_connections"
    title = "Too many connections are open"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"
    title = "The request took too long"

    def __init__(self) -> None:
        super().__init__("a write may still land; asking again with the same turn_id tells")


class Draining(Unavailable):
    code = "draining"
    title = "The service is about to end"


class UnsafeStart(MemoryServiceError):
    code = "unsafe_start"
    title = "The service refuses to start"


class RecordInUse(UnsafeStart):
    """Another process has the record open, and only one may."""


class ModelError(MemoryServiceError):
    code = "model_error"
    title = "The model gave nothing usable"


class ModelUnavailable(ModelError):
    """`retry_after_s` is the model's own wish, or None."""

    code = "model_unavailable"
    title = "The model did not answer"

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ModelRefused(ModelError):
    """The endpoint will not take this request as it is; with other text it may."""

    code = "model_refused"
    title = "The model's endpoint turned the request down"


class BadModelOutput(ModelError):
    code = "bad_model_output"
    title = "The model's answer was not what was asked for"

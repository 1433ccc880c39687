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
│   ├── MessageIdReused         a message_id did
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
│   ├── MessageNotFound         the session has no message of this id
│   ├── MemoryNotFound          unknown, or another user's
│   ├── KnowledgeNotFound       unknown, or another tenant's
│   ├── DriverNotFound          no memory driver of this name is in use
│   └── KeyNotFound             no API key of this id, or another tenant's: the two look the same
├── Conflict
│   ├── SessionEnded            a session that was ended takes no more turns
│   ├── UserExists              something is kept already of the user who is to be imported
│   ├── StaleVersion            the head moved since it was read
│   ├── MemoryIdTaken           a memory of another kind has the id
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

from memory_service.errors.failures import (
    BadModelOutput,
    DeadlineExceeded,
    Draining,
    DriverUnavailable,
    IdentityProviderUnavailable,
    ModelError,
    ModelRefused,
    ModelUnavailable,
    Overloaded,
    RecordInUse,
    StorageFull,
    StoreCorrupt,
    StoreFailed,
    StoreThrottled,
    StoreUnavailable,
    TooManyConnections,
    Unavailable,
    UnsafeStart,
)
from memory_service.errors.refusals import (
    BodyTimeout,
    Conflict,
    ContentTooLarge,
    DriverNotFound,
    Forbidden,
    HeadersTooLarge,
    InsufficientScope,
    InvalidRequest,
    KeyNotFound,
    KeyNotInUse,
    KnowledgeNotFound,
    MalformedJson,
    MalformedRequest,
    MemoryIdTaken,
    MemoryNotFound,
    MessageIdReused,
    MessageNotFound,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RateLimited,
    RequestKeyReused,
    RequestTimeout,
    ScopeMismatch,
    SessionEnded,
    SessionNotFound,
    StaleVersion,
    TooSlow,
    TurnIdReused,
    TurnNotFound,
    Unauthenticated,
    UnknownRoute,
    UnsupportedMediaType,
    UserExists,
    UserNotFound,
    ValidationFailed,
)
from memory_service.errors.root import MemoryServiceError

__all__ = [
    "BadModelOutput",
    "BodyTimeout",
    "Conflict",
    "ContentTooLarge",
    "DeadlineExceeded",
    "Draining",
    "DriverNotFound",
    "DriverUnavailable",
    "Forbidden",
    "HeadersTooLarge",
    "IdentityProviderUnavailable",
    "InsufficientScope",
    "InvalidRequest",
    "KeyNotFound",
    "KeyNotInUse",
    "KnowledgeNotFound",
    "MalformedJson",
    "MalformedRequest",
    "MemoryIdTaken",
    "MemoryNotFound",
    "MemoryServiceError",
    "MessageIdReused",
    "MessageNotFound",
    "MethodNotAllowed",
    "ModelError",
    "ModelRefused",
    "ModelUnavailable",
    "NotAcceptable",
    "NotFound",
    "Overloaded",
    "RateLimited",
    "RecordInUse",
    "RequestKeyReused",
    "RequestTimeout",
    "ScopeMismatch",
    "SessionEnded",
    "SessionNotFound",
    "StaleVersion",
    "StorageFull",
    "StoreCorrupt",
    "StoreFailed",
    "StoreThrottled",
    "StoreUnavailable",
    "TooManyConnections",
    "TooSlow",
    "TurnIdReused",
    "TurnNotFound",
    "Unauthenticated",
    "Unavailable",
    "UnknownRoute",
    "UnsafeStart",
    "UnsupportedMediaType",
    "UserExists",
    "UserNotFound",
    "ValidationFailed",
]

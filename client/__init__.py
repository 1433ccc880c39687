"""The Python client of the memory service. It needs httpx2 and nothing of the server."""

from client.errors import (
    BadAnswer,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    KnowledgeNotFound,
    MemoryNotFound,
    MemoryServiceError,
    NoSession,
    NotFound,
    RateLimited,
    SessionEnded,
    SessionNotFound,
    Unauthenticated,
    Unavailable,
    UserExists,
    UserNotFound,
)
from client.memory_client import MemoryServiceClient, SyncMemoryServiceClient

__all__ = [
    "BadAnswer",
    "Conflict",
    "ConnectionFailed",
    "Forbidden",
    "InvalidRequest",
    "KnowledgeNotFound",
    "MemoryNotFound",
    "MemoryServiceClient",
    "MemoryServiceError",
    "NoSession",
    "NotFound",
    "RateLimited",
    "SessionEnded",
    "SessionNotFound",
    "SyncMemoryServiceClient",
    "Unauthenticated",
    "Unavailable",
    "UserExists",
    "UserNotFound",
]

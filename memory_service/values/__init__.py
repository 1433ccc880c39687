"""The nouns: frozen values, and the rules about them that need no I/O.

Times are aware UTC. `created_at` is when a thing was said or became known, as the caller tells it;
`received_at` and `touched_at` are this service's own clock. Order is by sequence, never by time.
"""

from __future__ import annotations

from memory_service.values.memories import (
    EXTRACTIVE,
    KINDS,
    OWN,
    PROFILE_ID,
    WHOLE,
    Kind,
    Memory,
    Only,
    OwnKind,
    Rough,
    Source,
    Unembedded,
    Vector,
    derived_id,
    turn_item_id,
)
from memory_service.values.requests import (
    Effect,
    Request,
    effect_of,
)
from memory_service.values.root import (
    KNOWLEDGE_OWNER,
    NOBODY,
    Durability,
    Scope,
    SessionKey,
    Value,
    knowledge_of,
    nobody_of,
)
from memory_service.values.sessions import (
    Hot,
    Message,
    ReflectionState,
    Role,
    Session,
    Sitting,
    Turn,
    Withheld,
)
from memory_service.values.trust import RANK, TRUSTS, Trust, is_less, least

__all__ = [
    "EXTRACTIVE",
    "KINDS",
    "KNOWLEDGE_OWNER",
    "NOBODY",
    "OWN",
    "PROFILE_ID",
    "RANK",
    "TRUSTS",
    "WHOLE",
    "Durability",
    "Effect",
    "Hot",
    "Kind",
    "Memory",
    "Message",
    "Only",
    "OwnKind",
    "ReflectionState",
    "Request",
    "Role",
    "Rough",
    "Scope",
    "Session",
    "SessionKey",
    "Sitting",
    "Source",
    "Trust",
    "Turn",
    "Unembedded",
    "Value",
    "Vector",
    "Withheld",
    "derived_id",
    "effect_of",
    "is_less",
    "knowledge_of",
    "least",
    "nobody_of",
    "turn_item_id",
]

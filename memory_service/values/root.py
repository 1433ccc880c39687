"""Whose memory it is, and what all values share."""

from __future__ import annotations

from typing import Literal

import msgspec

Durability = Literal["fsync", "quorum", "relaxed", "none"]


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all values: immutable, compared and hashed by content.

    Made of data that was there before it, a value is part of no cycle: the collector need not look for one, however
    many there are. So none may hold what could come to hold it, such as a function, a task or a service.
    """


class Scope(Value, frozen=True, kw_only=True):
    """Whose memory. Every verb of a store takes one: reading across users is a type error."""

    user_id: str
    tenant_id: str = "default"


KNOWLEDGE_OWNER = "~knowledge"
"""Whose a tenant's global knowledge is: no caller can be called so, for `~` is in no id."""


def knowledge_of(tenant_id: str) -> Scope:
    """The scope of what all users of a tenant may know."""
    return Scope(tenant_id=tenant_id, user_id=KNOWLEDGE_OWNER)


NOBODY = "~nobody"
"""Whose a tenant's sessions are that name no user. Nobody is told what is learnt of them, so nothing is."""


def nobody_of(tenant_id: str) -> Scope:
    """The scope of a tenant's sessions without a user."""
    return Scope(tenant_id=tenant_id, user_id=NOBODY)


class SessionKey(Value, frozen=True, kw_only=True):
    scope: Scope
    session_id: str

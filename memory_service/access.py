"""What a credential may be allowed to do."""

from __future__ import annotations

from typing import Literal, get_args

Permission = Literal["read", "write", "erase", "admin", "metrics"]
"""read: sessions, memories, searches. write: turns, memories, knowledge. erase: deleting any of it. admin: credentials,
imports, drivers. metrics: counters.
"""
PERMISSIONS: frozenset[Permission] = frozenset(get_args(Permission))
OfMemory = Literal["read", "write", "erase"]
OF_MEMORY: frozenset[OfMemory] = frozenset(get_args(OfMemory))
"""What can be granted of a memory that is not one's own."""
OPERATORS = "default"
"""The tenant whose credentials may do what concerns all tenants: drivers, counters."""

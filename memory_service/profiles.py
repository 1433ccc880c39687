"""The profile of a user: one JSON document that callers write, and beside it the fields that insights state.

The document is kept as a memory of a kind of its own, so whatever is done to all that is kept of a user is done to it.
Its versions count up from 1, and go on counting where it was deleted and is written anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from memory_service.errors import StaleVersion, UnsafeStart
from memory_service.learned import document_of, is_profile, profile_of, version_of
from memory_service.limits import check_exact, check_profile
from memory_service.long_term import INSIGHTS_WEIGHED
from memory_service.stores.base import Commit, Store
from memory_service.telling import Profile
from memory_service.values import PROFILE_ID, Memory, Scope

MOMENT = timedelta(microseconds=1)
ATTEMPTS = 100
"""At changing a profile that others change at the same time: each time one of them has won, so that so many may."""
_encode = msgspec.json.Encoder(order="sorted").encode


class Rules(Protocol):
    """What the profiles of a tenant's users have to look like."""

    def bind(self, tenant_id: str) -> bool:
        """Tell whether there are any for this tenant."""
        ...

    def check(self, tenant_id: str, place: str, document: dict[str, Any]) -> None:
        """Raise ValidationFailed for a document that does not fit. May take seconds: not for the event loop."""

    def keeps(self, tenant_id: str, field: str, value: str) -> bool:
        """Tell whether a document might have this field."""
        ...


class NoRules:
    """Any document will do."""

    def bind(self, tenant_id: str) -> bool:
        return False

    def check(self, tenant_id: str, place: str, document: dict[str, Any]) -> None: ...

    def keeps(self, tenant_id: str, field: str, value: str) -> bool:
        return True


def rules_of(path: str) -> Rules:
    """The rules of a file (PROFILE_SCHEMAS); none, if there is none. Raises UnsafeStart."""
    if not path:
        return NoRules()
    try:
        from memory_service.profile_schemas import ProfileSchemas
    except ModuleNotFoundError as exc:
        raise UnsafeStart(f"PROFILE_SCHEMAS needs {exc.name}: pip install 'agent-memory-service[profiles]'") from exc
    return ProfileSchemas(path)


class Profiles:
    """`changed` is told whose profile is another one now."""

    def __init__(
        self, store: Store, changed: Callable[[Scope], None], rules: Rules, *, now: Callable[[], datetime]
    ) -> None:
        self._store, self._changed, self._rules, self._now = store, changed, rules, now

    async def get(self, scope: Scope) -> Profile:
        """Return the profile of a user; of one who has none it is empty, at version 0."""
        held, insights = await asyncio.gather(self._store.find_memory(scope, PROFILE_ID), self._insights(scope))
        return self._profile(scope, held, insights)

    async def put(self, scope: Scope, document: dict[str, Any], expected: int | None = None) -> Profile:
        """Write a document in place of the former; nothing changes if that is the same.

        `expected` is the version that the former must have (0: there must be none). Raises StaleVersion,
        ValidationFailed.
        """
        check_profile("$.profile", document)
        return await self._change(scope, lambda _: document, expected)

    async def patch(self, scope: Scope, patch: dict[str, Any], expected: int | None = None) -> Profile:
        """Change parts of the document by a JSON merge patch (RFC 7396); the rest stays as it is.

        `expected` as in `put`. Raises StaleVersion, ValidationFailed.
        """
        check_exact("$.patch", patch)
        return await self._change(scope, partial(merged, patch=patch), expected)

    async def _change(
        self, scope: Scope, become: Callable[[dict[str, Any]], dict[str, Any]], expected: int | None
    ) -> Profile:
        for _ in range(ATTEMPTS):
            held = await self._store.find_memory(scope, PROFILE_ID)
            version = version_of(held) if is_profile(held) else 0
            if expected is not None and expected != version:
                raise StaleVersion
            document = become(document_of(held))
            check_profile("$.profile", document)
            if self._rules.bind(scope.tenant_id):
                await asyncio.to_thread(self._rules.check, scope.tenant_id, "$.profile", document)
            memory = self._written(held, document)
            if held is not None and is_profile(held) and memory.text == held.text:
                return self._profile(scope, held, await self._insights(scope))
            unchanged, absent = ((), (PROFILE_ID,)) if held is None else ((held,), ())
            try:
                await self._store.commit(Commit(scope=scope, memories=(memory,), unchanged=unchanged, absent=absent))
            except StaleVersion:  # somebody else was quicker
                continue
            self._changed(scope)
            return self._profile(scope, memory, await self._insights(scope))
        raise StaleVersion

    def _written(self, held: Memory | None, document: dict[str, Any]) -> Memory:
        """The document as it is kept, in place of what is there."""
        text, metadata = _encode(document).decode(), {"version": version_of(held) + 1}
        since = None if held is None else (held.updated_at or held.created_at) + MOMENT
        now = self._now() if since is None else max(self._now(), since)
        if held is not None and is_profile(held):
            return replace(held, text=text, metadata=metadata, updated_at=now)
        return Memory(
            memory_id=PROFILE_ID,
            kind="profile",
            text=text,
            created_at=now,
            metadata=metadata,
            edited=True,  # it is somebody's own: nothing that is learnt, erased or withheld changes it
            trust="high",
        )

    async def _insights(self, scope: Scope) -> list[Memory]:
        return await self._store.memories(scope, ["insight"], limit=INSIGHTS_WEIGHED)

    def _profile(self, scope: Scope, held: Memory | None, insights: list[Memory]) -> Profile:
        return profile_of(held, insights, partial(self._rules.keeps, scope.tenant_id))


def merged(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """What a JSON merge patch makes of a document (RFC 7396): what it has takes the place, null takes away."""
    become = dict(document)
    for name, value in patch.items():
        if value is None:
            become.pop(name, None)
        elif isinstance(value, dict):
            inner = become.get(name)
            become[name] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            become[name] = value
    return become

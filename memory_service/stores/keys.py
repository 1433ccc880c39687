"""API keys as a store keeps them, and the verbs of a store about them.

They are nobody's memory: no list of users names them, and no export or erasure of a user touches them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import datetime

from memory_service.access import OfMemory, Permission
from memory_service.values import Value


class ApiKey(Value, frozen=True, kw_only=True):
    """What a key allows: a tenant, or one user of it, and permissions. Of its secret only the SHA-256 is kept.

    `spaces`: by their names those that a key of one user may name too, and what it may there.
    """

    key_id: str
    name: str
    tenant_id: str
    user_id: str | None = None
    permissions: frozenset[Permission]
    digest: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    spaces: dict[str, frozenset[OfMemory]] = {}

    def holds(self, now: datetime) -> bool:
        """Whether it is neither revoked (whatever the clock says) nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyVerbs(ABC):
    """The part of a store that is about keys. All raise what every verb of a store raises."""

    async def put_key(self, key: ApiKey) -> None:
        """Write a key, in place of one of its id, unless that is revoked: nothing takes a revocation back."""
        with self._translated():
            await self._put_key(key)

    async def find_key(self, key_id: str) -> ApiKey | None:
        """Return the key of this id, revoked and expired ones too."""
        with self._translated():
            return await self._find_key(key_id)

    async def keys(self, tenant_id: str | None = None) -> list[ApiKey]:
        """Return the keys of a tenant, or all, oldest first, then by id."""
        with self._translated():
            found = await self._keys(tenant_id)
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    @abstractmethod
    def _translated(self) -> AbstractContextManager[None]: ...
    @abstractmethod
    async def _put_key(self, key: ApiKey) -> None: ...
    @abstractmethod
    async def _find_key(self, key_id: str) -> ApiKey | None: ...
    @abstractmethod
    async def _keys(self, tenant_id: str | None) -> list[ApiKey]: ...

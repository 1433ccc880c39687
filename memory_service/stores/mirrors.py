"""What drivers lack of the record: a to-do column for each user and driver, and the verbs of a store about it.

A driver follows a user as a corpus does, by `entries` from a cursor on. Who is due, the record says: each commit that
writes something searchable marks its user, in the same transaction, for all drivers that are followed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from memory_service.values import Scope, Value


class Mirror(Value, frozen=True, kw_only=True):
    """How far a driver has followed what is kept of a user.

    `cursor`: one of `Store.entries`; all up to there is in the driver's engine, in what `target` names. None: nothing
    there may be relied on, and whoever begins lets the engine forget this user first. `lease_until` fences: only who
    claimed it may write it.
    `changed` counts what was written of the user, `begun` how often all was to begin anew, both as of the claim.
    """

    scope: Scope
    driver: str
    target: str = ""
    cursor: Any = None
    changed: int = 0
    begun: int = 0
    lease_until: datetime | None = None


class MirrorVerbs(ABC):
    """The part of a store that is about mirrors. All raise what every verb of a store raises."""

    async def follow(self, driver: str, *, anew: bool = False) -> None:
        """Note from now on what this driver lacks: of everybody everything, if it is new here or shall begin `anew`."""
        with self._translated():
            await self._follow(driver, anew)

    async def unfollow(self, driver: str) -> None:
        """Note no more what this driver lacks, and forget how far it was."""
        with self._translated():
            await self._unfollow(driver)

    async def claim_mirrors(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        """Lease users of whom the driver lacks something and whom nobody has leased; returns at most so many.

        A user who was erased is among them, with a cursor of None.
        """
        with self._translated():
            return await self._claim_mirrors(driver, now, lease_until, limit)

    async def put_mirror(self, mirror: Mirror, *, caught_up: bool = True, lease_until: datetime | None = None) -> bool:
        """Keep how far a claimed mirror is now; returns whether it still counts.

        It does not if the claim has ended, or if all was to begin anew meanwhile: then only the claim ends.
        `caught_up`: the user is due again only if something was written since the claim. The claim ends, unless
        `lease_until` prolongs it.
        """
        with self._translated():
            return await self._put_mirror(mirror, caught_up, lease_until)

    async def mirror(self, scope: Scope, driver: str) -> Mirror:
        """Return how far a driver has followed a user."""
        with self._translated():
            return await self._mirror(scope, driver)

    async def lagging(self, driver: str) -> int:
        """Return of how many users a driver lacks something."""
        with self._translated():
            return await self._lagging(driver)

    @abstractmethod
    def _translated(self) -> AbstractContextManager[None]: ...
    @abstractmethod
    async def _follow(self, driver: str, anew: bool) -> None: ...
    @abstractmethod
    async def _unfollow(self, driver: str) -> None: ...
    @abstractmethod
    async def _claim_mirrors(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]: ...
    @abstractmethod
    async def _put_mirror(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool: ...
    @abstractmethod
    async def _mirror(self, scope: Scope, driver: str) -> Mirror: ...
    @abstractmethod
    async def _lagging(self, driver: str) -> int: ...

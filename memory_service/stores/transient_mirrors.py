"""What drivers lack of the transient store, in dictionaries."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from msgspec import Struct

from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope


class _Lag(Struct):
    """What a driver lacks of a user: it is due while `changed` is above `mirrored`."""

    changed: int = 1
    mirrored: int = 0
    begun: int = 0
    target: str = ""
    cursor: Any = None
    lease_until: datetime | None = None

    @property
    def is_due(self) -> bool:
        return self.changed > self.mirrored

    def begin_anew(self) -> None:
        self.cursor, self.begun, self.changed = None, self.begun + 1, self.changed + 1


class Lags:
    def __init__(self) -> None:
        self._lags: dict[str, dict[Scope, _Lag]] = {}

    def mark(self, scope: Scope) -> None:
        """Say to all drivers that there is something new of a user."""
        for lags in self._lags.values():
            if scope in lags:
                lags[scope].changed += 1
            else:
                lags[scope] = _Lag()

    def begin_anew(self, scope: Scope) -> None:
        """Say to all drivers that what they have of a user is no more."""
        for lags in self._lags.values():
            if scope in lags:
                lags[scope].begin_anew()

    def follow(self, driver: str, anew: bool, users: Collection[Scope]) -> None:
        lags = self._lags.setdefault(driver, {scope: _Lag() for scope in users})
        for lag in lags.values():
            lag.lease_until = None  # of a worker that is gone
            if anew:
                lag.begin_anew()

    def unfollow(self, driver: str) -> None:
        self._lags.pop(driver, None)

    def claim(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        free = [
            (scope, lag)
            for scope, lag in self._lags.get(driver, {}).items()
            if lag.is_due and (lag.lease_until is None or lag.lease_until <= now)
        ][:limit]
        for _, lag in free:
            lag.lease_until = lease_until
        return [_mirror(scope, driver, lag) for scope, lag in free]

    def put(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None, is_there: bool) -> bool:
        lag = self._lags.get(mirror.driver, {}).get(mirror.scope)
        if lag is None or lag.lease_until != mirror.lease_until:
            return False
        if lag.begun != mirror.begun:
            lag.lease_until = None
            return False
        lag.lease_until, lag.target, lag.cursor = lease_until, mirror.target, mirror.cursor
        if caught_up:
            lag.mirrored = mirror.changed
            if not lag.is_due and not is_there:
                del self._lags[mirror.driver][mirror.scope]  # of an erased user nothing is kept but what is to be done
        return True

    def mirror(self, scope: Scope, driver: str) -> Mirror:
        return _mirror(scope, driver, self._lags.get(driver, {}).get(scope) or _Lag())

    def lagging(self, driver: str) -> int:
        return sum(lag.is_due for lag in self._lags.get(driver, {}).values())


def _mirror(scope: Scope, driver: str, lag: _Lag) -> Mirror:
    return Mirror(
        scope=scope,
        driver=driver,
        target=lag.target,
        cursor=lag.cursor,
        changed=lag.changed,
        begun=lag.begun,
        lease_until=lag.lease_until,
    )

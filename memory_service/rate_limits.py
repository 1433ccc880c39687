"""How much may be asked: token buckets by name. Pure: time is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from memory_service.errors import RateLimited

BURST_S = 2
"""A credential or tenant that was silent may ask so many seconds' worth at once."""
MOST_BUCKETS = 10_000
NEARLY = 1e-9
"""What arithmetic may lose of a request."""


class Buckets:
    """Each name may spend `burst` at once, and `rate_per_s` from then on. No rate: as much as it likes.

    Of the names the last so many are remembered: the one that was silent longest begins anew.
    """

    def __init__(
        self, rate_per_s: float, burst: float, *, clock: Callable[[], float], most: int = MOST_BUCKETS
    ) -> None:
        self._rate, self._burst, self._clock, self._most = rate_per_s, max(burst, 1.0), clock, most
        self._held: dict[Hashable, tuple[float, float]] = {}

    def take(self, name: Hashable, cost: float = 1) -> None:
        """Raises RateLimited with the whole seconds until there is enough; then nothing is taken."""
        if not self._rate:
            return
        now, cost = self._clock(), min(cost, self._burst)
        left = self._left(name, now)
        self._held.pop(name, None)
        short = cost - left
        if short > NEARLY:
            self._keep(name, left, now)
            raise RateLimited(max(1, math.ceil(short / self._rate - NEARLY)))
        self._keep(name, left - cost, now)

    def give_back(self, name: Hashable, cost: float = 1) -> None:
        if name in self._held:
            left, at = self._held[name]
            self._held[name] = (min(self._burst, left + min(cost, self._burst)), at)

    @property
    def policy(self) -> tuple[int, int]:
        """How many may be asked at once, and the whole seconds in which so many come again."""
        return math.floor(self._burst + NEARLY), math.ceil(self._burst / self._rate - NEARLY)

    def look(self, name: Hashable) -> tuple[int, int]:
        """How many may be asked now, and the whole seconds until there is one more; 0 if there will be no more."""
        left = self._left(name, self._clock())
        room = math.floor(left + NEARLY)
        if room + 1 > self._burst + NEARLY:
            return room, 0
        return room, max(1, math.ceil((room + 1 - left) / self._rate - NEARLY))

    def _left(self, name: Hashable, now: float) -> float:
        left, at = self._held.get(name, (self._burst, now))
        return min(self._burst, left + (now - at) * self._rate)

    def _keep(self, name: Hashable, left: float, at: float) -> None:
        if len(self._held) >= self._most:
            del self._held[next(iter(self._held))]
        self._held[name] = (left, at)


class RateLimits:
    """What one credential may ask, and all of a tenant together, in requests a second (0: as much as they like)."""

    def __init__(self, per_credential: float, per_tenant: float, *, clock: Callable[[], float]) -> None:
        self._credentials = Buckets(per_credential, BURST_S * per_credential, clock=clock)
        self._tenants = Buckets(per_tenant, BURST_S * per_tenant, clock=clock)
        self._per_credential, self._per_tenant = bool(per_credential), bool(per_tenant)

    def spend(self, tenant_id: str, principal: str, cost: int) -> None:
        """Raises RateLimited."""
        credential = (tenant_id, principal)
        self._credentials.take(credential, cost)
        try:
            self._tenants.take(tenant_id, cost)
        except RateLimited:
            self._credentials.give_back(credential, cost)
            raise

    def policies(self) -> list[tuple[str, int, int]]:
        """Of each limit: its name, how many may be asked at once, and in how many seconds so many come again."""
        limits = (("credential", self._per_credential, self._credentials), ("tenant", self._per_tenant, self._tenants))
        return [(name, *buckets.policy) for name, there, buckets in limits if there]

    def left(self, tenant_id: str, principal: str) -> list[tuple[str, int, int]]:
        """Of each limit: its name, how many may be asked now, and in how many seconds there is one more."""
        told = []
        if self._per_credential:
            told.append(("credential", *self._credentials.look((tenant_id, principal))))
        if self._per_tenant:
            told.append(("tenant", *self._tenants.look(tenant_id)))
        return told

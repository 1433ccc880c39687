"""Erasing what is kept of users when nobody has touched it for so many days, tenant by tenant; and the words of the
first turns of sessions that have grown too long.

The former deletes what nobody asked to have deleted, so it never goes by one clock alone: a jump ahead ages nothing
(`Patience`, for as long as the days of the tenant), where the store has a clock it must say the same, and where it has
none nothing is erased until the clock of the host has had time to be put right.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from memory_service.background import JUMP, Patience
from memory_service.erasing import Erasing
from memory_service.errors import StaleVersion, StoreCorrupt, UnsafeStart, ValidationFailed
from memory_service.growth import Growth
from memory_service.limits import check_id
from memory_service.memories import KEPT_TOGETHER
from memory_service.stores.aging import AgedMemory, Tenants
from memory_service.stores.base import Store
from memory_service.stores.forgetting import read_through
from memory_service.values import Memory, Scope, SessionKey, Value

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Sessions that are asked for together; if there are more, it goes on."""
EVERY_S = 600.0
"""Between two rounds; a service that lives for less never has one."""
SETTLED_S = 3600.0
"""Within which a host that has just been started has its clock put right."""
MOST_DAYS = 36_500
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
WRITTEN = "write tenants with their days, such as acme=30,globex=365"


class Keeping(Value, frozen=True, kw_only=True):
    """For how many days what is kept of users stays, untouched; 0 is for ever. `of_tenants`: of whom it is so many."""

    days: float = 0
    of_tenants: Mapping[str, float] = {}

    @classmethod
    def of(cls, days: float, of_tenants: str) -> Keeping:
        """Read the settings. Raises UnsafeStart."""
        named: dict[str, float] = {}
        for one in filter(None, map(str.strip, of_tenants.split(","))):
            tenant_id, _, told = (part.strip() for part in one.partition("="))
            if tenant_id in named:
                raise UnsafeStart(f"TENANT_RETENTION_DAYS names a tenant twice: {WRITTEN}")
            named[_tenant(tenant_id)] = _days("TENANT_RETENTION_DAYS", told)
        return cls(days=_days("RETENTION_DAYS", days), of_tenants=named)

    @property
    def terms(self) -> list[tuple[Tenants, timedelta]]:
        """Of whom something goes, and after how long."""
        rest = (Tenants(but=tuple(self.of_tenants)), self.days)
        named = ((Tenants(only=tenant_id), days) for tenant_id, days in self.of_tenants.items())
        return [(whose, timedelta(days=days)) for whose, days in (*named, rest) if days]


class Retention:
    """A session that still waits for its reflection goes too: what was learnt from it would go with it all the same."""

    def __init__(
        self,
        store: Store,
        erasing: Erasing,
        keeping: Keeping,
        growth: Growth,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._store, self._erasing, self._keeping, self._growth, self._now = store, erasing, keeping, growth, now
        self._terms = [(whose, span, Patience(now, monotonic, span)) for whose, span in keeping.terms]
        self._monotonic, self._settled_s = monotonic, monotonic() + SETTLED_S
        self._sessions = self._memories = self._turns = self._damaged = 0
        self._last_at: datetime | None = None
        self._waits = ""
        self._late_s = 0.0

    @property
    def wanted(self) -> bool:
        return bool(self._terms or self._growth.turns)

    async def carry_out(self) -> None:
        """Erase what is due by now. Cut off anywhere, or done by several at once, it is the same in the end."""
        await self._make_room()
        if self._terms:
            await self._erase_aged()

    async def _make_room(self) -> None:
        """No clock has a say in that."""
        before = self._turns
        try:
            for key in self._growth.due:
                await self._shorten(key)
        finally:
            if self._turns > before:
                logger.info(
                    "erased the words of the first turns of long sessions", extra={"turns": self._turns - before}
                )

    async def _shorten(self, key: SessionKey) -> None:
        """What is live or waits to be read stays until it is not; then it is looked at again."""
        try:
            head = await self._store.head(key)
            wanted = head.turn_count - self._growth.turns if head else 0
            if head is None or wanted - head.erased_through < self._growth.slack:
                self._growth.done(key)
                return
            last = min(wanted, read_through(head, await self._store.sittings(key)))
            after = head.erased_through
            if last - after >= self._growth.slack:
                for first in range(after, last, AT_ONCE):
                    self._turns += (await self._erasing.words(key, first, min(first + AT_ONCE, last))).turns
        except StaleVersion:
            return
        except StoreCorrupt:  # it must not keep the others from going
            self._damaged += 1
            self._growth.done(key)

    async def _erase_aged(self) -> None:
        now, moments = self._now(), [patience() for _, _, patience in self._terms]
        self._late_s = max((now - min(moments, default=now)).total_seconds(), 0.0)
        theirs = await self._store.clock()
        doubt, told = self._doubt(theirs), self._waits
        self._waits = doubt
        if doubt:
            if doubt != told:
                logger.warning("nothing is erased for its age now", extra={"reason": doubt})
            return
        before = self._sessions, self._memories
        try:
            for (whose, span, _), ours in zip(self._terms, moments, strict=True):
                since = min(ours, theirs or ours) - span
                await self._erase_sessions(whose, since)
                await self._erase_memories(whose, since)
        finally:
            gone = {"sessions": self._sessions - before[0], "memories": self._memories - before[1]}
            if any(gone.values()):
                logger.info("erased what nobody has touched for its days", extra=gone)
        self._last_at = self._now()

    def _doubt(self, theirs: datetime | None) -> str:
        """Why the time is not to be believed; empty: it is."""
        if theirs is None:
            early = self._monotonic() < self._settled_s
            return "the clock of this host may still be put right after a start" if early else ""
        return "the clock of the store is another" if abs(theirs - self._now()) > JUMP else ""

    async def _erase_sessions(self, whose: Tenants, since: datetime) -> None:
        more = True
        while more:
            keys = await self._store.aged_sessions(whose, since, AT_ONCE)
            gone = sum([await self._erase_session(key, since) for key in keys])
            more = gone > 0 and len(keys) == AT_ONCE

    async def _erase_session(self, key: SessionKey, since: datetime) -> int:
        try:
            erased = await self._erasing.aged_session(key, since)
        except StoreCorrupt:  # it must not keep the others from going
            self._damaged += 1
            return 0
        self._sessions += erased.sessions
        self._memories += erased.memories
        return erased.sessions

    async def _erase_memories(self, whose: Tenants, since: datetime) -> None:
        more = True
        while more:
            aged = await self._store.aged_memories(whose, since, KEPT_TOGETHER)
            gone = 0
            for scope, memories in _by_owner(aged).items():
                gone += await self._erasing.aged_memories(scope, memories)
            self._memories += gone
            more = gone > 0 and len(aged) == KEPT_TOGETHER

    def stats(self) -> dict[str, Any]:
        return {
            "days": self._keeping.days,
            "tenants": dict(self._keeping.of_tenants),
            "session_turns": self._growth.turns,
            "sessions": self._sessions,
            "memories": self._memories,
            "turns": self._turns,
            "damaged": self._damaged,
            "last_at": self._last_at.isoformat() if self._last_at else None,
            "waits": self._waits,
            "late_seconds": round(self._late_s),
        }


def _by_owner(aged: Sequence[AgedMemory]) -> dict[Scope, list[Memory]]:
    owned: dict[Scope, list[Memory]] = {}
    for one in aged:
        owned.setdefault(one.scope, []).append(one.memory)
    return owned


def _tenant(given: str) -> str:
    try:
        return check_id("TENANT_RETENTION_DAYS", given)
    except ValidationFailed:
        raise UnsafeStart(f"TENANT_RETENTION_DAYS: {WRITTEN}") from None


def _days(setting: str, given: float | str) -> float:
    # Python reads 1_0 as ten; whoever wrote it may have meant something else
    days = float(given) if not isinstance(given, str) or _NUMBER.fullmatch(given) else math.nan
    if days != 0 and not 1 <= days <= MOST_DAYS:
        raise UnsafeStart(f"{setting}: days are 0 (for ever), or from 1 to {MOST_DAYS}; {WRITTEN}")
    return days

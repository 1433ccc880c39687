"""What is known of users beyond a session: loaded once, kept for those who were active lately."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice

from cachetools import Cache, LRUCache, TTLCache
from msgspec.structs import replace

from memory_service.learned import profile_of
from memory_service.stores.base import Store
from memory_service.telling import LongTerm
from memory_service.values import PROFILE_ID, Memory, Scope, Trust, is_less

Clock = Callable[[], float]

INSIGHTS_WEIGHED = 1000


class LongTermCache:
    """What is known of recently active users; forgotten when a reflection changes it.

    `max_age_s`: after which it is asked for anew, where others reflect too.
    """

    def __init__(
        self,
        load: Callable[[Scope], Awaitable[LongTerm]],
        max_users: int,
        *,
        max_age_s: float = math.inf,
        clock: Clock = time.monotonic,
    ) -> None:
        self._load = load
        most = max(max_users, 1)
        self._held: Cache[Scope, asyncio.Future[LongTerm] | LongTerm] = (
            LRUCache(most) if max_age_s == math.inf else TTLCache(most, max_age_s, clock)
        )

    async def get(self, scope: Scope) -> LongTerm:
        """Return it, asking the store at most once however many ask here."""
        held = self.begin(scope)
        # shielded: one caller that goes away must not fail the others
        return held if isinstance(held, LongTerm) else await asyncio.shield(held)

    def begin(self, scope: Scope) -> asyncio.Future[LongTerm] | LongTerm:
        """Ask the store if nobody has; a `get` that follows waits for what is left of it."""
        held = self._held.get(scope)
        if held is None:
            held = self._held[scope] = asyncio.ensure_future(self._load(scope))
            held.add_done_callback(partial(self._loaded, scope))
        return held

    def _loaded(self, scope: Scope, future: asyncio.Future[LongTerm]) -> None:
        """Keep what came of it, and not the task: that is larger than what is known of most users."""
        if self._held.get(scope) is not future:
            return
        if future.cancelled() or future.exception():
            # Also when all callers went away meanwhile: the next one must not be told of their failure.
            self.forget(scope)
        else:
            self._held[scope] = future.result()

    def ready(self, scope: Scope) -> LongTerm | None:
        """Return it if it is here, without waiting."""
        held = self._held.get(scope)
        return held if isinstance(held, LongTerm) else None

    def forget(self, scope: Scope) -> None:
        """Ask again at the next `get`; a load that is under way may have read too early and is not kept."""
        self._held.pop(scope, None)


async def _episodes(store: Store, scope: Scope, count: int) -> list[Memory]:
    return await store.memories(scope, ["episode"], limit=count) if count else []


async def load_long_term(
    store: Store,
    summaries: int,
    insights: int,
    scope: Scope,
    *,
    episodes: int = 0,
    keeps: Callable[[str, str, str], bool] = lambda tenant_id, field, value: True,
) -> LongTerm:
    """Ask the store for what a context tells of a user: so many of each, the rest left out.

    `keeps`: whether a field may have a value that was learnt, by what the tenant says.
    """
    newest, recent, by_hand, happened = await asyncio.gather(
        store.memories(scope, ["insight"], limit=INSIGHTS_WEIGHED),
        # one more than is told: the summary of the present sitting may be among them, and is left out
        store.memories(scope, ["summary"], limit=summaries + 1),
        store.find_memory(scope, PROFILE_ID),
        _episodes(store, scope, episodes),
    )
    # stable: the newest first among equals
    known = sorted(newest, key=lambda memory: (memory.pinned, memory.importance), reverse=True)
    stating = [memory for memory in newest if memory.metadata]  # few do, and each is looked at for each trust

    def of(least: Trust) -> LongTerm:
        # before the cut: what is not to be told takes no place
        trusted = islice((memory for memory in known if not is_less(memory.trust, least)), insights)
        told = [memory for memory in recent if not is_less(memory.trust, least)]
        learned = (memory for memory in stating if not is_less(memory.trust, least))
        return LongTerm(
            insights=tuple(trusted),
            summaries=tuple(told),
            most_summaries=summaries,
            profile=profile_of(by_hand, learned, partial(keeps, scope.tenant_id)),
            episodes=tuple(memory for memory in happened if not is_less(memory.trust, least)),
        )

    whole = of("low")
    restricted: dict[Trust, LongTerm] = {"normal": of("normal"), "high": of("high")}
    return replace(whole, restricted={trust: one for trust, one in restricted.items() if one != whole})

"""Quarantine of turns that, as is found out later, should not be believed, with all that was derived from them.

They are withheld at once, from everybody, and can be given back. What is left is read once more without them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime

from memory_service.errors import SessionNotFound, TurnNotFound
from memory_service.pool import SessionPool
from memory_service.stores.base import Store
from memory_service.stores.quarantine import Quarantine, Quarantined
from memory_service.values import Scope, SessionKey

logger = logging.getLogger(__name__)


class Quarantining:
    """`changed` is told of whom something is withheld or given back: what is held of them is to be dropped."""

    def __init__(
        self, store: Store, pool: SessionPool, changed: Callable[[Scope], None], *, now: Callable[[], datetime]
    ) -> None:
        self._store, self._pool, self._changed, self._now = store, pool, changed, now

    async def withhold(self, key: SessionKey, seqs: Collection[int] | None = None) -> Quarantined:
        """Withhold turns of a session with what was derived from them; without `seqs` all turns there are so far.

        Returns how much is withheld by it. Twice is once. Raises SessionNotFound, TurnNotFound; then nothing is.
        """
        done = await self._move(key, seqs, release=False)
        logger.info("put in quarantine", extra={"turns": done.turns, "memories": done.memories})
        return done

    async def release(self, key: SessionKey, seqs: Collection[int] | None = None) -> Quarantined:
        """Give back what is withheld of a session: these turns, or all; a memory with the last turn it is withheld for.

        Returns how much was given back. Raises SessionNotFound, TurnNotFound.
        """
        done = await self._move(key, seqs, release=True)
        logger.info("let out of quarantine", extra={"turns": done.turns, "memories": done.memories})
        return done

    async def _move(self, key: SessionKey, seqs: Collection[int] | None, *, release: bool) -> Quarantined:
        head = await self._store.head(key)
        if head is None:
            raise SessionNotFound
        if any(not 1 <= seq <= head.turn_count for seq in seqs or ()):
            raise TurnNotFound
        named = None if seqs is None else frozenset(seqs)
        what = Quarantine(session_id=key.session_id, seqs=named, release=release, now=self._now())
        # Who reads the session waits, so that nobody holds it as it was.
        async with self._pool.lease(key, checked=False) as entry:
            entry.show(None)
            try:
                done = await self._store.quarantine(key.scope, what)
            finally:  # also of one that failed: some of it may be done
                self._changed(key.scope)
        return done

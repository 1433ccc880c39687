"""Erasing so that it does not come back: out of the record, out of what this process holds, and of what is restored.

An erasure is noted apart from the record before it is carried out: one that failed is carried out as soon as that can
be, and each that a restored record does not know at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from memory_service.errors import SessionNotFound, StaleVersion, TurnNotFound, UserNotFound
from memory_service.pool import SessionPool
from memory_service.rights import Rights
from memory_service.stores.base import ALL, Commit, Store
from memory_service.stores.exports import Erased, Exported
from memory_service.stores.forgetting import Forgetting
from memory_service.tombstones import Tombstone, Tombstones, What, name_of
from memory_service.values import Memory, Scope, SessionKey

logger = logging.getLogger(__name__)

Named = tuple[What, tuple[str | int, ...], datetime]
"""What a thing is called where it was erased, and since when it has been there."""


class Erasing:
    """`changed` is told of whom something is no more: what is held of them is to be dropped, drivers are to be told.

    `tombstones`: where erasures are noted apart from the record; None: nowhere.
    """

    def __init__(
        self,
        store: Store,
        pool: SessionPool,
        rights: Rights,
        tombstones: Tombstones | None,
        changed: Callable[[Scope], None],
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._store, self._pool, self._rights, self._tombstones = store, pool, rights, tombstones
        self._changed, self._now = changed, now
        self._unfinished = False

    async def user(self, scope: Scope) -> Erased:
        """Erase all that is kept of a user. Raises UserNotFound."""
        if not (await self._store.export(scope, limit=1)).things:
            raise UserNotFound
        return await self._erase(scope, await self._noted("user", scope))

    async def _erase(self, scope: Scope, erasure_id: str) -> Erased:
        self._pool.forget(scope)
        with self._carried_out():
            erased = await self._store.erase(scope, erasure_id)
        self._pool.forget(scope)  # also what was read meanwhile
        self._changed(scope)
        return erased

    async def session(self, key: SessionKey) -> Erased:
        """Erase a session, its turns and what was learnt from them. Raises SessionNotFound."""
        if await self._store.head(key) is None:
            raise SessionNotFound
        erasure_id = await self._noted("session", key.scope, key.session_id)
        return await self._forget(key, Forgetting(session_id=key.session_id, now=self._now()), erasure_id)

    async def turn(self, key: SessionKey, seq: int) -> Erased:
        """Erase the words of a turn, and what was learnt from it; its number stays.

        Raises SessionNotFound, TurnNotFound.
        """
        if await self._store.head(key) is None:
            raise SessionNotFound
        if not await self._store.turns(key, seq - 1, 1):
            raise TurnNotFound
        erasure_id = await self._noted("turn", key.scope, key.session_id, seq)
        return await self._forget(key, Forgetting(session_id=key.session_id, seq=seq, now=self._now()), erasure_id)

    async def _forget(self, key: SessionKey, what: Forgetting, erasure_id: str) -> Erased:
        # Who reads the session waits, so that nobody holds it as it was when it has gone.
        async with self._pool.lease(key, checked=False) as entry:
            entry.show(None)
            with self._carried_out():
                erased = await self._store.forget(key.scope, what, erasure_id)
        self._pool.forget(key.scope)
        self._changed(key.scope)
        return erased

    async def memories(self, scope: Scope, memory_ids: Collection[str]) -> list[str]:
        """Delete memories of any kind, but for their ids: they are not learnt again. Returns those there were."""
        held = (await self._store.items(scope, list(memory_ids), "")).memories
        ids = [memory.memory_id for memory in held if not memory.is_deleted]
        if not ids:
            return []
        erasure_ids = await self._note("memory", scope, *((memory_id,) for memory_id in ids))
        with self._carried_out():
            gone = await self._rights.delete(scope, ids)
            await self._store.note_erasures(erasure_ids)
        return gone

    # What nobody has touched for long is noted nowhere: a restored record tells itself how old what it holds is, and
    # who has come back to what an erasure that failed has left must not lose it to a note.

    async def aged_session(self, key: SessionKey, untouched_since: datetime) -> Erased:
        """Erase a session as `session` does, but for one that was touched since. Nothing, if it is not there."""
        what = Forgetting(session_id=key.session_id, now=self._now(), untouched_since=untouched_since)
        return await self._forget(key, what, "")

    async def words(self, key: SessionKey, after: int, through: int) -> Erased:
        """Erase the words of turns for want of room, not what was learnt from them. Nothing, if any is still needed."""
        return await self._forget(
            key, Forgetting(session_id=key.session_id, after=after, seq=through, now=self._now()), ""
        )

    async def aged_memories(self, scope: Scope, memories: Sequence[Memory]) -> int:
        """Delete memories as `memories` does, if none of them has changed since it was read. Returns how many."""
        gone = tuple(memory.deleted(self._now()) for memory in memories)
        try:
            await self._store.commit(Commit(scope=scope, memories=gone, unchanged=tuple(memories)))
        except StaleVersion:
            return 0
        self._changed(scope)
        return len(gone)

    async def _noted(self, what: What, scope: Scope, *names: str | int) -> str:
        return (await self._note(what, scope, names) or [""])[0]

    async def _note(self, what: What, scope: Scope, *things: Sequence[str | int]) -> list[str]:
        if self._tombstones is None:
            return []
        return await asyncio.to_thread(self._tombstones.add, what, scope, things, self._now())

    @contextmanager
    def _carried_out(self) -> Iterator[None]:
        """A block that carries out what was noted; what fails in it is still to be done."""
        try:
            yield
        except BaseException:
            self._unfinished = True
            raise

    # What a record does not know of

    async def finish(self) -> None:
        """Carry out what was noted and failed."""
        if self._unfinished:
            await self.carry_out_again()

    async def carry_out_again(self) -> int:
        """Erase what a record still holds of what was erased: it was restored from before, or the erasure was cut off.

        Returns how many there were. Raises UnsafeStart if the file cannot be read.
        """
        if self._tombstones is None:
            return 0
        key, noted = await asyncio.to_thread(self._tombstones.read)
        known = await self._store.erasures() if noted else set()
        lacking = {(one.what, one.of): one for one in noted if one.erasure_id not in known}
        self._unfinished = False
        if not lacking:
            return 0
        done = 0
        async for scope in self._users():
            done += await self._erase_again(scope, key, lacking)
        await self._store.note_erasures([one.erasure_id for one in noted])
        logger.warning("erased anew what a restored record still held", extra={"count": done})
        return done

    async def _erase_again(self, scope: Scope, key: str, lacking: dict[tuple[What, str], Tombstone]) -> int:
        tombstone = lacking.get(("user", name_of(key, scope, ())))
        if tombstone and await self._was_there(scope, tombstone.erased_at):
            await self._erase(scope, tombstone.erasure_id)
            return 1
        done = 0
        if any(what != "user" for what, _ in lacking):
            for what, names, since in [found async for found in self._things(scope)]:
                of_it = lacking.get((what, name_of(key, scope, names)))
                if of_it and since <= of_it.erased_at:
                    await self._erase_thing(scope, what, names, of_it)
                    done += 1
        return done

    async def _was_there(self, scope: Scope, then: datetime) -> bool:
        """Whether anything of a user may be from before: not of who has come back to a record that was begun anew."""
        heads = await self._store.sessions(scope, ALL)
        return not heads or min(head.created_at for head in heads) <= then

    async def _erase_thing(self, scope: Scope, what: What, names: Sequence[str | int], tombstone: Tombstone) -> None:
        name = str(names[0])
        if what == "memory":
            await self._rights.delete(scope, [name])
        else:
            seq = int(names[1]) if what == "turn" else None
            key = SessionKey(scope=scope, session_id=name)
            await self._forget(key, Forgetting(session_id=name, seq=seq, now=self._now()), tombstone.erasure_id)

    async def _users(self) -> AsyncIterator[Scope]:
        cursor, more = None, True
        while more:
            page = await self._store.users(cursor)
            for scope in page.scopes:
                yield scope
            cursor, more = page.cursor, page.more

    async def _things(self, scope: Scope) -> AsyncIterator[Named]:
        cursor, more = None, True
        while more:
            page = await self._store.export(scope, cursor)
            for found in map(_named, page.things):
                if found is not None:
                    yield found
            cursor, more = page.cursor, page.more


def _named(thing: Exported) -> Named | None:
    if thing.session is not None:
        return "session", (thing.session.session_id,), thing.session.created_at
    if thing.turn is not None and thing.turn.told().messages:
        return "turn", (thing.turn.session_id, thing.turn.seq), thing.turn.received_at
    if thing.memory is not None and not thing.memory.is_deleted:
        return "memory", (thing.memory.memory_id,), thing.memory.created_at
    return None

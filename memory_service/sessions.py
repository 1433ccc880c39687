"""The life of a session: begin, go on, grow by turns, be handed to reflection, end. All that writes a head.

Every change is made under a lease and committed with the head's version; if the head moved meanwhile, it
is read again and the change made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from memory_service.errors import RequestKeyReused, SessionEnded, SessionNotFound, StaleVersion, TurnIdReused
from memory_service.pool import HotSession, SessionPool
from memory_service.stores.base import Capabilities, Commit, DuplicateRequest, DuplicateTurn, Store
from memory_service.values import (
    NOBODY,
    Hot,
    Message,
    ReflectionState,
    Request,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Value,
)

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode

STALE_ATTEMPTS = 8
FIRST_PAUSE_S = 0.01
TOUCHED_LATELY = timedelta(minutes=1)
"""Going on with a session that was touched since then writes nothing."""


class RequestName(Value, frozen=True, kw_only=True):
    """A caller's own name for one request, and what tells its body from another."""

    key: str
    digest: str


class Draft(Value, frozen=True, kw_only=True):
    """A turn as the caller gives it. Without `turn_id` a repeat cannot be told from a new turn."""

    messages: tuple[Message, ...]
    turn_id: str | None = None
    created_at: datetime | None = None
    metadata: dict[str, Any] = {}
    request: RequestName | None = None

    def is_of(self, turn: Turn) -> bool:
        """Tell whether the turn could have been made from this."""
        dated, turn = self.created_at is None or self.created_at == turn.created_at, turn.told()
        return dated and (self.messages, self.metadata) == (turn.messages, turn.metadata)

    def turn(self, session_id: str, seq: int, now: datetime) -> Turn:
        """The turn that is made from this, which has its `turn_id`."""
        return Turn(
            session_id=session_id,
            seq=seq,
            turn_id=self.turn_id or "",
            messages=self.messages,
            created_at=self.created_at or now,
            received_at=now,
            metadata=self.metadata,
        )


class Appended(Value, frozen=True, kw_only=True):
    """A stored turn and the head after it; a replayed one was there before."""

    turn: Turn
    session: Session | None
    replayed: bool


class Ended(Value, frozen=True, kw_only=True):
    """State of a session's present sitting and of the reflection on it."""

    session: Session
    sitting: Sitting | None

    @property
    def reflection(self) -> ReflectionState:
        return self.sitting.reflection if self.sitting else "none"


class Sessions:
    def __init__(
        self,
        store: Store,
        pool: SessionPool,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        chance: Callable[[], float],
    ) -> None:
        self._store, self._pool, self._now, self._new_id, self._chance = store, pool, now, new_id, chance

    async def start(self, key: SessionKey, *, restore: bool, agent_id: str | None) -> bool:
        """Begin a session, or go on with it; returns whether it was there and goes on.

        Raises SessionEnded if its client ended it and `restore` is asked for.
        """

        async def change(entry: HotSession) -> bool:
            if entry.hot is None:
                await self._create(key, entry, agent_id)
                return False
            if restore:
                await self._go_on(key, entry)
            else:
                await self._begin_afresh(key, entry)
            return restore

        return await self.changed(key, change)

    def is_under_way(self, key: SessionKey) -> bool:
        """Tell whether it is hot, and going on with it writes nothing."""
        held = self._pool.held(key)
        return held is not None and self._goes_on(held.session)

    def _goes_on(self, session: Session) -> bool:
        """Whether going on with it writes nothing."""
        return session.status == "active" and self._now() - session.touched_at <= TOUCHED_LATELY

    async def _create(self, key: SessionKey, entry: HotSession, agent_id: str | None) -> None:
        session = replace(self.new(key, self._now(), agent_id), version=1)
        await self._pool.commit(key, entry, Commit(scope=key.scope, session=session), Hot(session=session))

    def new(self, key: SessionKey, now: datetime, agent_id: str | None = None) -> Session:
        """A session that is not on record yet: its first commit makes it the first version."""
        return Session(
            session_id=key.session_id,
            incarnation=self._new_id(),
            created_at=now,
            touched_at=now,
            agent_id=agent_id,
            version=0,
        )

    async def _go_on(self, key: SessionKey, entry: HotSession) -> None:
        hot = found(entry)
        if hot.session.ended_by == "client":
            raise SessionEnded
        if self._goes_on(hot.session):
            return
        now = self._now()
        if hot.session.status == "ended":
            then = Hot(session=hot.session.reopened(now))
        else:  # whoever just came back must not be ended as abandoned
            then = Hot(session=hot.session.touched(now), turns=hot.turns)
        await self._pool.commit(key, entry, Commit(scope=key.scope, session=then.session), then)

    async def _begin_afresh(self, key: SessionKey, entry: HotSession) -> None:
        session = found(entry).session
        then = session.begun_afresh(self._now())
        commit = Commit(scope=key.scope, session=then, sittings=await self._handed_over(key, session, ended=True))
        await self._pool.commit(key, entry, commit, Hot(session=then))

    async def append(self, key: SessionKey, draft: Draft) -> Appended:
        """Add one turn; it is durable when this returns. A request or `turn_id` known already gives the turn it was.

        Raises SessionNotFound, SessionEnded, TurnIdReused, RequestKeyReused.
        """
        try:
            return await self.changed(key, partial(self._append, key, draft), checked=False)
        except (DuplicateTurn, DuplicateRequest, SessionEnded):
            turn = await self._stored_before(key, draft)
            if turn is None:
                raise
        return Appended(turn=turn, session=None, replayed=True)

    async def _stored_before(self, key: SessionKey, draft: Draft) -> Turn | None:
        """Find the turn that a repeat is a repeat of."""
        if draft.request is not None:
            effect = await self._store.find_effect(key.scope, draft.request.key)
            if effect is not None:
                if effect.digest != draft.request.digest:
                    raise RequestKeyReused
                return await self._store.find_turn(key, effect.turn_id)
        turn = await self._store.find_turn(key, draft.turn_id) if draft.turn_id else None
        if turn is not None and not draft.is_of(turn):
            raise TurnIdReused
        return turn

    async def _append(self, key: SessionKey, draft: Draft, entry: HotSession) -> Appended:
        hot = found(entry)
        hot.session.require_active()
        now = self._now()
        named = draft if draft.turn_id else replace(draft, turn_id=self._new_id())
        # the session's own text for its id, and not another that is equal: turns are many
        turn = named.turn(hot.session.session_id, hot.session.turn_count + 1, now)
        session = hot.session.with_turn(turn)
        name = draft.request
        request = Request(key=name.key, digest=name.digest, made_at=now) if name else None
        commit = Commit(scope=key.scope, session=session, turns=(turn,), request=request)
        await self._pool.commit(key, entry, commit, Hot(session=session, turns=(*hot.turns, turn)))
        return Appended(turn=turn, session=session, replayed=False)

    async def end(self, key: SessionKey, *, by_client: bool, untouched_since: datetime | None = None) -> None:
        """End a session; that it is to be reflected on is on record when this returns. Twice is once.

        One that was touched after `untouched_since` is left alone. Raises SessionNotFound.
        """
        await self.changed(key, partial(self._end, key, by_client, untouched_since))

    async def _end(self, key: SessionKey, by_client: bool, untouched_since: datetime | None, entry: HotSession) -> None:
        hot = found(entry)
        session = hot.session
        if untouched_since is not None and session.touched_at > untouched_since:
            return
        if session.status == "ended" and (session.ended_by == "client" or not by_client):
            return
        then = session.ended("client" if by_client else "service")
        commit = Commit(scope=key.scope, session=then, sittings=await self._handed_over(key, session, ended=True))
        await self._pool.commit(key, entry, commit, Hot(session=then, turns=hot.turns))

    async def hand_over(self, key: SessionKey) -> None:
        """Ask for reflection on a conversation that goes on, without ending it. Raises SessionNotFound."""
        await self.changed(key, partial(self._hand_over, key))

    async def _hand_over(self, key: SessionKey, entry: HotSession) -> None:
        hot = found(entry)
        if hot.session.status == "active" and hot.session.unreflected_turns:
            then = hot.session.handed_over()
            sittings = await self._handed_over(key, hot.session, ended=False)
            commit = Commit(scope=key.scope, session=then, sittings=sittings)
            await self._pool.commit(key, entry, commit, Hot(session=then, turns=hot.turns))

    async def _handed_over(self, key: SessionKey, session: Session, *, ended: bool) -> tuple[Sitting, ...]:
        """Make the to-do of the present sitting, to be committed with the head; none if there is nothing to read."""
        if session.status == "ended" or not session.sitting_turns or key.scope.user_id == NOBODY:
            return ()
        first, through, now = session.opened_at_seq, session.turn_count, self._now()
        held = await self._present_sitting(key, session)
        if held is not None:
            return (held.extended(through, now, ended=ended),)
        new = Sitting(session_id=key.session_id, first_seq=first, through_seq=through, ended=ended, due_at=now)
        return (new,)

    async def present_state(self, key: SessionKey) -> Ended:
        """Tell the state of the present sitting. Raises SessionNotFound."""
        session = found(await self._pool.read(key)).session
        return Ended(session=session, sitting=await self._present_sitting(key, session))

    async def _present_sitting(self, key: SessionKey, session: Session) -> Sitting | None:
        sittings = await self._store.sittings(key)
        return next((sitting for sitting in sittings if sitting.first_seq == session.opened_at_seq), None)

    async def changed(
        self, key: SessionKey, change: Callable[[HotSession], Awaitable[T]], *, checked: bool = True
    ) -> T:
        """Make a change of what is stored, again if it moved meanwhile.

        Not `checked` first: for a change that always commits, which then finds out by itself.
        """
        for attempt in range(STALE_ATTEMPTS - 1):
            try:
                async with self._pool.lease(key, checked=checked or attempt > 0) as entry:
                    return await change(entry)
            except StaleVersion:
                # others are at it: the same steps together would only lead to the same again
                await asyncio.sleep(self._chance() * FIRST_PAUSE_S * 2**attempt if attempt else 0)
            except SessionEnded:
                if checked or attempt or self._pool.exclusive:
                    raise  # otherwise it may be what somebody else has moved on from
        async with self._pool.lease(key) as entry:
            return await change(entry)


def in_parts(turns: Sequence[Turn], most: Capabilities) -> Iterator[tuple[Turn, ...]]:
    """Cut turns into what one commit may hold; a commit that writes none is one, too."""
    first = size = 0
    for place, turn in enumerate(turns):
        size += len(_encode(turn.messages))
        if place > first and (place - first == most.most_turns or size > most.most_bytes):
            yield tuple(turns[first:place])
            first, size = place, len(_encode(turn.messages))
    yield tuple(turns[first:])


def found(entry: HotSession) -> Hot:
    """The session as stored. Raises SessionNotFound."""
    if entry.hot is None:
        raise SessionNotFound
    return entry.hot

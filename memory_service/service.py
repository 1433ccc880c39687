"""The verbs: one method per thing a caller may want. Knows nothing of HTTP, of databases or of models."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from memory_service.context import assemble
from memory_service.errors import SessionEnded, SessionNotFound, StaleVersion, TurnIdReused
from memory_service.llm.base import Embedder, Reader
from memory_service.pool import HotSession, LongTermCache, SessionPool
from memory_service.recall import Recall, Retrieved
from memory_service.reflection import Reflector
from memory_service.scheduler import Scheduler
from memory_service.stores.base import Commit, DuplicateTurn, Store
from memory_service.values import (
    Context,
    Durability,
    Hot,
    Kind,
    LongTerm,
    Memory,
    Message,
    ReflectionState,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Value,
)

T = TypeVar("T")

STALE_ATTEMPTS = 5
GROWTH = 4
"""A conversation that goes on is reflected on when this many times the threshold is unreflected."""
RECENT = timedelta(days=30)
SWEPT_AT_ONCE = 200
INSIGHTS_WEIGHED = 1000


class Limits(Value, frozen=True, kw_only=True):
    """Numbers that shape a memory; see the settings of the same names."""

    m_sessions_recent: int = 5
    context_insights: int = 20
    context_budget_tokens: int = 4000
    reflection_threshold_turns: int = 15
    idle_after: timedelta = timedelta(minutes=30)
    abandoned_after: timedelta = timedelta(hours=24)


async def load_long_term(store: Store, limits: Limits, scope: Scope) -> LongTerm:
    """Ask the store for what a context tells of a user."""
    insights = await store.memories(scope, ["insight"], limit=INSIGHTS_WEIGHED)
    insights.sort(key=lambda memory: memory.importance, reverse=True)  # stable: the newest first among equals
    # one more summary than is told: that of the present sitting may be among them, and is left out
    summaries = await store.memories(scope, ["summary"], limit=limits.m_sessions_recent + 1)
    return LongTerm(insights=tuple(insights[: limits.context_insights]), summaries=tuple(summaries))


class Draft(Value, frozen=True, kw_only=True):
    """A turn as the caller gives it. Without `turn_id` a repeat cannot be told from a new turn."""

    messages: tuple[Message, ...]
    turn_id: str | None = None
    created_at: datetime | None = None
    metadata: dict[str, Any] = {}


class Stored(Value, frozen=True, kw_only=True):
    turn: Turn
    durability: Durability
    replayed: bool


class Ended(Value, frozen=True, kw_only=True):
    """State of a session's present sitting and of the reflection on it."""

    session: Session
    sitting: Sitting | None

    @property
    def reflection(self) -> ReflectionState:
        return self.sitting.reflection if self.sitting else "none"


class MemoryService:
    def __init__(
        self,
        store: Store,
        pool: SessionPool,
        long_term: LongTermCache,
        recall: Recall,
        reflector: Reflector,
        scheduler: Scheduler,
        reader: Reader,
        embedder: Embedder,
        *,
        limits: Limits,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._pool, self._long_term, self._recall = store, pool, long_term, recall
        self._reflector, self._scheduler, self._reader, self._embedder = reflector, scheduler, reader, embedder
        self._limits, self._now, self._new_id = limits, now, new_id

    # Sessions

    async def start_session(
        self, scope: Scope, session_id: str | None, *, restore: bool, agent_id: str | None = None
    ) -> tuple[Context, bool]:
        """Begin a session, or go on with it; returns its context and whether it was there before.

        Raises SessionEnded if the client ended it and `restore` is asked for.
        """
        key = SessionKey(scope=scope, session_id=session_id or self._new_id())

        async def change(entry: HotSession) -> bool:
            if entry.hot is None:
                await self._create(key, entry, agent_id)
                return False
            if restore:
                await self._go_on(key, entry)
            else:
                await self._begin_afresh(key, entry)
            return restore

        restored = await self._changed(key, change)
        return await self.context(key), restored

    async def _create(self, key: SessionKey, entry: HotSession, agent_id: str | None) -> None:
        now = self._now()
        session = Session(
            session_id=key.session_id, incarnation=self._new_id(), created_at=now, touched_at=now, agent_id=agent_id
        )
        await self._pool.commit(key, entry, Commit(scope=key.scope, session=session), Hot(session=session))

    async def _go_on(self, key: SessionKey, entry: HotSession) -> None:
        session = _found(entry).session
        if session.status == "active":
            return
        if session.ended_by == "client":
            raise SessionEnded
        then = session.reopened(self._now())
        await self._pool.commit(key, entry, Commit(scope=key.scope, session=then), Hot(session=then))

    async def _begin_afresh(self, key: SessionKey, entry: HotSession) -> None:
        session = _found(entry).session
        sittings = () if session.status == "ended" else await self._sitting_handed_over(key, session, ended=True)
        then = session.reopened(self._now())
        commit = Commit(scope=key.scope, session=then, sittings=sittings)
        await self._pool.commit(key, entry, commit, Hot(session=then))
        if sittings:
            self._reflect_soon(key.scope)

    async def end_session(self, key: SessionKey, wait_s: float = 0) -> Ended:
        """End a session; its reflection is on record before this returns. Ending twice changes nothing.

        `wait_s` is how long to wait for the reflection. Raises SessionNotFound.
        """
        await self._changed(key, partial(self._end, key, by_client=True))
        ended = await self.reflection(key)
        deadline = time.monotonic() + wait_s
        while ended.reflection == "pending" and (left := deadline - time.monotonic()) > 0:
            await self._reflector.attempt_ended(key, min(left, 1.0))
            ended = await self.reflection(key)
        return ended

    async def _end(self, key: SessionKey, entry: HotSession, *, by_client: bool) -> None:
        hot = _found(entry)
        session = hot.session
        if session.status == "ended" and (session.ended_by == "client" or not by_client):
            return
        sittings = () if session.status == "ended" else await self._sitting_handed_over(key, session, ended=True)
        then = session.ended("client" if by_client else "service")
        commit = Commit(scope=key.scope, session=then, sittings=sittings)
        await self._pool.commit(key, entry, commit, Hot(session=then, turns=hot.turns))
        if sittings:
            self._reflect_soon(key.scope)

    async def reflection(self, key: SessionKey) -> Ended:
        """Tell the state of the present sitting's reflection. Raises SessionNotFound."""
        session = _found(await self._pool.read(key)).session
        return Ended(session=session, sitting=await self._present_sitting(key, session))

    async def _present_sitting(self, key: SessionKey, session: Session) -> Sitting | None:
        sittings = await self._store.sittings(key)
        return next((sitting for sitting in sittings if sitting.first_seq == session.opened_at_seq), None)

    async def _sitting_handed_over(self, key: SessionKey, session: Session, *, ended: bool) -> tuple[Sitting, ...]:
        """Make the to-do of the present sitting's turns, to be committed with the head; none if it has no turns."""
        if not session.sitting_turns:
            return ()
        through, now = session.turn_count, self._now()
        held = await self._present_sitting(key, session)
        if held is not None:
            return (held.extended(through, now, ended=ended),)
        return (
            Sitting(
                session_id=key.session_id,
                first_seq=session.opened_at_seq,
                through_seq=through,
                ended=ended,
                due_at=now,
            ),
        )

    # Turns and context

    async def store_turn(self, key: SessionKey, draft: Draft) -> Stored:
        """Append one turn; it is durable when this returns. Never waits for a model.

        A `turn_id` that is stored already is answered as it was the first time.
        Raises SessionNotFound, SessionEnded, TurnIdReused.
        """
        try:
            return await self._changed(key, partial(self._append, key, draft))
        except (DuplicateTurn, SessionEnded):
            replay = await self._replay(key, draft)
            if replay is None:
                raise
            return replay

    async def _append(self, key: SessionKey, draft: Draft, entry: HotSession) -> Stored:
        hot = _found(entry)
        hot.session.require_active()
        now = self._now()
        turn = Turn(
            session_id=key.session_id,
            seq=hot.session.turn_count + 1,
            turn_id=draft.turn_id or self._new_id(),
            messages=draft.messages,
            created_at=draft.created_at or now,
            received_at=now,
            metadata=draft.metadata,
        )
        session = hot.session.with_turn(turn)
        commit = Commit(scope=key.scope, session=session, turns=(turn,))
        await self._pool.commit(key, entry, commit, Hot(session=session, turns=(*hot.turns, turn)))
        self._follow_up(key, session)
        return Stored(turn=turn, durability=self._store.capabilities.durability, replayed=False)

    def _follow_up(self, key: SessionKey, session: Session) -> None:
        """Ring for the work a new turn may have made; what is to be done is in the store."""
        self._embed_soon()
        if self._reflector.needs_compaction(session):
            self._scheduler.soon(f"compact {_name(key.scope)}/{key.session_id}", lambda: self._reflector.compact(key))
        if session.unreflected_turns >= GROWTH * self._limits.reflection_threshold_turns:
            self._scheduler.soon(f"hand-over {_name(key.scope)}/{key.session_id}", lambda: self._hand_over(key))

    async def _replay(self, key: SessionKey, draft: Draft) -> Stored | None:
        if draft.turn_id is None:
            return None
        turn = await self._store.find_turn(key, draft.turn_id)
        if turn is None:
            return None
        if (turn.messages, turn.metadata) != (draft.messages, draft.metadata) or (
            draft.created_at is not None and draft.created_at != turn.created_at
        ):
            raise TurnIdReused
        return Stored(turn=turn, durability=self._store.capabilities.durability, replayed=True)

    async def context(self, key: SessionKey) -> Context:
        """Tell what an agent should know before its next answer; an ended session can still be read.

        Raises SessionNotFound.
        """
        entry = await self._pool.read(key)
        hot = _found(entry)
        long_term = self._long_term.ready(key.scope) or await self._long_term.get(key.scope)
        of = entry.context_of
        if entry.context is not None and of is not None and of[0] is hot and of[1] is long_term:
            return entry.context
        context = assemble(hot, long_term, self._limits.context_budget_tokens)
        if entry.hot is hot:
            entry.context, entry.context_of = context, (hot, long_term)
        return context

    # Memories

    async def retrieve(self, scope: Scope, question: str, limit: int, kinds: Collection[Kind] | None) -> Retrieved:
        """Return what the user's memory holds on a question, best first; waits for the embedding of the question."""
        return await self._recall.retrieve(scope, question, limit, kinds)

    async def insights(self, scope: Scope, *, recent_only: bool) -> list[Memory]:
        """Return the insights that hold, newest first; `recent_only`: of the last 30 days."""
        return await self._store.memories(scope, ["insight"], since=self._now() - RECENT if recent_only else None)

    async def summaries(self, scope: Scope, limit: int) -> list[Memory]:
        """Return the summaries of reflected sittings, newest first."""
        return await self._store.memories(scope, ["summary"], limit=limit)

    # Background

    async def sweep(self) -> None:
        """Find the work that is left: by a crash, by a model that failed, by a conversation nobody ended."""
        now = self._now()
        for key in await self._store.due_sessions(now - self._limits.abandoned_after, 0, SWEPT_AT_ONCE):
            await self._changed(key, partial(self._end, key, by_client=False))
        threshold = self._limits.reflection_threshold_turns
        for key in await self._store.due_sessions(now - self._limits.idle_after, threshold, SWEPT_AT_ONCE):
            await self._hand_over(key)
        for scope, _ in await self._store.due_reflections(now, SWEPT_AT_ONCE):
            self._reflect_soon(scope)
        if await self._store.due_vectors(self._embedder.space, 1):
            self._embed_soon()

    async def _hand_over(self, key: SessionKey) -> None:
        """Ask for reflection on a conversation that goes on, without ending it."""

        async def change(entry: HotSession) -> None:
            hot = _found(entry)
            if hot.session.status == "active" and hot.session.unreflected_turns:
                sittings = await self._sitting_handed_over(key, hot.session, ended=False)
                then = hot.session.handed_over()
                commit = Commit(scope=key.scope, session=then, sittings=sittings)
                await self._pool.commit(key, entry, commit, Hot(session=then, turns=hot.turns))

        await self._changed(key, change)
        self._reflect_soon(key.scope)

    def _reflect_soon(self, scope: Scope) -> None:
        async def job() -> None:
            again = await self._reflector.reflect_due(scope)
            self._embed_soon()
            if again is not None:
                self._scheduler.at(again, name, job)

        name = f"reflect {_name(scope)}"
        self._scheduler.soon(name, job)

    def _embed_soon(self) -> None:
        self._scheduler.soon("embed", self._recall.embed_due)

    async def evict_idle(self) -> None:
        """Drop idle sessions from the pool."""
        self._pool.evict_idle()

    async def _changed(self, key: SessionKey, change: Callable[[HotSession], Awaitable[T]]) -> T:
        """Lease a session and change it; if it was changed elsewhere meanwhile, read it again and start over."""
        for _ in range(STALE_ATTEMPTS - 1):
            try:
                async with self._pool.lease(key) as entry:
                    return await change(entry)
            except StaleVersion:
                continue
        async with self._pool.lease(key) as entry:
            return await change(entry)

    # Monitoring

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        await self._store.ping()

    def stats(self) -> dict[str, Any]:
        """Join what each part counts of itself; no I/O."""
        return {
            **self._pool.stats(),
            "durability": self._store.capabilities.durability,
            "store": self._store.usage(),
            "queues": self._scheduler.stats(),
            "reflection": self._reflector.stats(),
            "recall": self._recall.stats(),
            "tokens": {
                "model": self._reader.name,
                **self._reader.usage(),
                "embedding": self._embedder.usage(),
            },
        }


def _found(entry: HotSession) -> Hot:
    if entry.hot is None:
        raise SessionNotFound
    return entry.hot


def _name(scope: Scope) -> str:
    return f"{scope.tenant_id}/{scope.user_id}"

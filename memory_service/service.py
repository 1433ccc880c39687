"""The verbs: one method per thing a caller may want. Knows nothing of HTTP, of databases or of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from memory_service.audit import Audit
from memory_service.background import Background
from memory_service.context import assemble
from memory_service.corpus import Item
from memory_service.drivers_in_use import DriversInUse
from memory_service.embedding import Embedding
from memory_service.engines import Engines
from memory_service.episodes import Episodes
from memory_service.erasing import Erasing
from memory_service.errors import Draining
from memory_service.gateway.verbs import Gateway
from memory_service.keys import Keys
from memory_service.limits import MAX_QUESTION
from memory_service.llm.base import Embedder, Reader
from memory_service.long_term import LongTermCache
from memory_service.memories import Memories, document_memory_id, known_of
from memory_service.messages import Messages
from memory_service.pool import SessionPool, Tier
from memory_service.profiles import NoRules, Profiles, Rules
from memory_service.quarantine import Quarantining
from memory_service.recall import Recall, Retrieved
from memory_service.redaction import Redactor
from memory_service.refining import Refiner
from memory_service.reflection import Reflector
from memory_service.retention import Keeping, Retention
from memory_service.revisions import Revisions
from memory_service.rights import Rights
from memory_service.scheduler import Scheduler
from memory_service.sessions import Draft, Ended, Sessions, found
from memory_service.stores.base import Commit, Store
from memory_service.telling import Asked, Context, Known
from memory_service.tombstones import Tombstones
from memory_service.transfers import Transfers
from memory_service.values import (
    Durability,
    Hot,
    Kind,
    Memory,
    Only,
    ReflectionState,
    Scope,
    SessionKey,
    Sitting,
    Trust,
    Turn,
    Value,
    knowledge_of,
)
from memory_service.watchdog import Watchdog

RECENT = timedelta(days=30)
REPLAYED_AT_ONCE = 50


class Stored(Value, frozen=True, kw_only=True):
    turn: Turn
    durability: Durability
    replayed: bool


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a service is made of; `app.py` makes them."""

    store: Store
    pool: SessionPool
    long_term: LongTermCache
    sessions: Sessions
    audit: Audit
    keys: Keys
    messages: Messages
    revisions: Revisions
    embedding: Embedding
    recall: Recall
    engines: Engines
    background: Background
    reflector: Reflector
    refiner: Refiner
    scheduler: Scheduler
    transfers: Transfers
    reader: Reader
    embedder: Embedder
    watchdog: Watchdog
    redactor: Redactor
    tier: Tier | None = None
    tombstones: Tombstones | None = None
    keeping: Keeping = Keeping()
    rules: Rules = NoRules()


class MemoryService:
    def __init__(
        self,
        parts: Parts,
        *,
        context_budget_tokens: int,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._parts = parts
        self._store, self._pool, self._long_term = parts.store, parts.pool, parts.long_term
        self._sessions, self.audit = parts.sessions, parts.audit
        self._recall, self._background, self._reflector = parts.recall, parts.background, parts.reflector
        self.messages = parts.messages
        self.memories = Memories(parts.store, self._memories_changed, now=now, new_id=new_id)
        """What callers write themselves."""
        self.profiles = Profiles(parts.store, self._memories_changed, parts.rules, now=now)
        self.episodes = Episodes(parts.store, self._memories_changed, now=now, new_id=new_id)
        self.rights = Rights(parts.store, self._memories_gone, now=now)
        """What a user may do about their memories."""
        self.drivers = DriversInUse(parts.store, parts.engines, parts.recall, parts.background)
        erased, growth = self._something_erased, parts.background.growth
        self.erasing = Erasing(parts.store, parts.pool, self.rights, parts.tombstones, erased, now=now)
        self.retention = Retention(parts.store, self.erasing, parts.keeping, growth, now=now, monotonic=monotonic)
        self.quarantine = Quarantining(parts.store, parts.pool, erased, now=now)
        """Withholding what should not be believed, and giving it back."""
        self.gateway = Gateway(
            parts.store,
            parts.revisions,
            self.memories,
            parts.recall,
            parts.embedding,
            parts.background,
            refines=parts.refiner.wanted,
            clean=parts.redactor.text,
            now=now,
            new_id=new_id,
        )
        self._context_budget_tokens, self._now, self._new_id = context_budget_tokens, now, new_id
        self._draining = False

    def _memories_changed(self, scope: Scope) -> None:
        self._long_term.forget(scope)
        self._background.embed_soon(scope)

    def _something_erased(self, scope: Scope) -> None:
        self._recall.forget(scope)
        self._memories_changed(scope)
        self._background.reflect_soon(scope)
        if self._parts.tier is not None:
            self._parts.scheduler.soon("forget in Redis", partial(self._parts.tier.forget, scope), slotted=False)

    def _memories_gone(self, scope: Scope) -> None:
        self._recall.forget(scope)  # a corpus only marks what is gone
        self._memories_changed(scope)

    async def start_session(
        self,
        scope: Scope,
        session_id: str | None,
        *,
        restore: bool,
        agent_id: str | None = None,
        asked: Asked | None = None,
    ) -> tuple[Context, bool]:
        """Begin a session, or go on with it; returns its context and whether it goes on.

        `restore=False` begins afresh under the id: earlier turns stay on record and are reflected on.
        Raises SessionEnded if the client ended it and `restore` is asked for.
        """
        key = SessionKey(scope=scope, session_id=session_id or self._new_id())
        if restore and self._sessions.is_under_way(key):
            return await self._context(key, asked, checked=False), True
        if not self._pool.exclusive:
            self._long_term.forget(scope)  # who comes back is told what others have learnt
        self._long_term.begin(scope)  # beside the session: where the store is far away each wait counts
        restored = await self._sessions.start(key, restore=restore, agent_id=agent_id)
        if not restore:
            self._background.reflect_soon(scope)
        return await self._context(key, asked, checked=False), restored

    async def store_turn(self, key: SessionKey, draft: Draft) -> Stored:
        """Append one turn; it is durable when this returns. Never waits for a model.

        A `turn_id` that is stored already is answered as it was the first time.
        Raises SessionNotFound, SessionEnded, TurnIdReused, Overloaded.
        """
        self._store.require_room()  # before it waits for those before it in its session: they may wait for long
        appended = await self._sessions.append(key, draft)
        if appended.session is not None:
            self._background.after_turn(key, appended.session)
        return Stored(turn=appended.turn, durability=self.durability, replayed=appended.replayed)

    @property
    def durability(self) -> Durability:
        """How safe what was stored is."""
        return self._store.capabilities.durability

    async def context(self, key: SessionKey, asked: Asked | None = None) -> Context:
        """Tell what an agent should know before its next answer; an ended session can still be read.

        It waits for a model only if knowledge is asked for: for the embedding of the question. Raises SessionNotFound.
        """
        return await self._context(key, asked, checked=True)

    async def _context(self, key: SessionKey, asked: Asked | None, *, checked: bool) -> Context:
        entry = self._pool.use(key) or await self._pool.read(key, checked=checked)
        hot = found(entry)
        long_term = self._long_term.ready(key.scope) or await self._long_term.get(key.scope)
        if asked is not None:
            known = await self._known(key.scope, hot, asked) if asked.pieces else None
            return assemble(hot, long_term.at_least(asked.min_trust), self._context_budget_tokens, known)
        of = entry.context_of
        if entry.context is not None and of is not None and of[0] is hot and of[1] is long_term:
            return entry.context
        context = assemble(hot, long_term, self._context_budget_tokens)
        if entry.hot is hot:
            entry.context, entry.context_of = context, (hot, long_term)
        return context

    async def known(self, key: SessionKey) -> str:
        """Tell what is known beside what was said last, ready for a prompt; also where the session has yet to begin."""
        hot = (await self._pool.read(key)).hot or Hot(session=self._sessions.new(key, self._now()))
        return assemble(replace(hot, turns=()), await self._long_term.get(key.scope), self._context_budget_tokens).text

    async def _known(self, scope: Scope, hot: Hot, asked: Asked) -> list[Known]:
        """Knowledge on what was asked, best first; none where nothing was."""
        question = asked.question or hot.last_said("user")[-MAX_QUESTION:]  # a long message asks at its end
        if not question:
            return []
        retrieved = await self.recall_knowledge(scope.tenant_id, question, asked.pieces, None)
        return [known_of(hit) for hit in retrieved.hits]

    async def end_session(self, key: SessionKey, wait_s: float = 0) -> Ended:
        """End a session; its reflection is on record before this returns. Ending twice changes nothing.

        `wait_s` is how long to wait for the reflection, unless the service is about to end. Raises SessionNotFound.
        """
        await self._sessions.end(key, by_client=True)
        self._background.reflect_soon(key.scope)
        ended = await self.reflection(key)
        deadline = time.monotonic() + wait_s
        while ended.reflection == "pending" and not self._draining and (left := deadline - time.monotonic()) > 0:
            await self._reflector.attempt_ended(key, min(left, 1.0))
            ended = await self.reflection(key)
        return ended

    async def reflection(self, key: SessionKey) -> Ended:
        """Tell the state of the present sitting's reflection. Raises SessionNotFound."""
        return await self._sessions.present_state(key)

    async def reflections(self, tenant_id: str, state: ReflectionState, limit: int) -> list[tuple[Scope, Sitting]]:
        """Return sittings whose reflection is in this state, longest due first: `dead` are the given-up ones."""
        return await self._store.reflections(tenant_id, state, limit)

    async def replay(self, key: SessionKey) -> Ended:
        """Reflect again on the sittings of a session that were given up. Raises SessionNotFound."""
        ended = await self.reflection(key)
        dead = [sitting for sitting in await self._store.sittings(key) if sitting.reflection == "dead"]
        if not dead:
            return ended
        for start in range(0, len(dead), REPLAYED_AT_ONCE):  # each stands for itself: they need not go together
            again = tuple(sitting.replayed(self._now()) for sitting in dead[start : start + REPLAYED_AT_ONCE])
            await self._store.commit(Commit(scope=key.scope, sittings=again))
        self._background.reflect_soon(key.scope)
        return await self.reflection(key)

    async def retrieve(
        self, scope: Scope, question: str, limit: int, kinds: Collection[Kind] | None, min_trust: Trust = "low"
    ) -> Retrieved:
        """Return what the user's memory holds on a question, best first; waits for the embedding of the question."""
        return await self._recall.retrieve(scope, question, limit, kinds, Only(min_trust=min_trust))

    async def recall(
        self,
        scope: Scope,
        question: str,
        limit: int,
        only: Only,
        *,
        by_words: bool = False,
        drivers: Sequence[str] | None = None,
    ) -> Retrieved:
        """Return what of the user's memory is so and near to the question, best first.

        `by_words`: by these alone. `drivers`: which are asked, each if the one before cannot answer; else those in use.
        """
        return await self._recall.retrieve(scope, question, limit, only=only, by_words=by_words, drivers=drivers)

    async def newest(self, scope: Scope, limit: int, only: Only) -> list[Item]:
        """Return what of the user's memory is so, newest first: what was said, learned and remembered."""
        return await self._recall.newest(scope, limit, only)

    async def delete_memory(self, scope: Scope, memory_id: str) -> bool:
        """Delete a memory of any kind; returns whether there was one."""
        return bool(await self.erasing.memories(scope, [memory_id]))

    async def recall_knowledge(
        self,
        tenant_id: str,
        question: str,
        limit: int,
        category: str | None,
        *,
        drivers: Sequence[str] | None = None,
    ) -> Retrieved:
        """Return what the knowledge of a tenant holds on a question (of a category, or all of it), best first."""
        only = Only(category=category.lower()) if category is not None else None
        scope = knowledge_of(tenant_id)
        return await self._recall.retrieve(scope, question, limit, ["knowledge"], only, drivers=drivers)

    async def delete_document(self, tenant_id: str, doc_id: str) -> bool:
        """Delete a piece of knowledge; returns whether there was one."""
        return await self.delete_memory(knowledge_of(tenant_id), document_memory_id(doc_id))

    async def insights(self, scope: Scope, *, recent_only: bool) -> list[Memory]:
        """Return the insights that hold, newest first; `recent_only`: of the last 30 days."""
        return await self._store.memories(scope, ["insight"], since=self._now() - RECENT if recent_only else None)

    async def summaries(self, scope: Scope, limit: int) -> list[Memory]:
        """Return the summaries of reflected sittings, newest first."""
        return await self._store.memories(scope, ["summary"], limit=limit)

    @property
    def transfers(self) -> Transfers:
        """All that is kept of a user: given out, taken in."""
        return self._parts.transfers

    @property
    def keys(self) -> Keys:
        """The API keys there are."""
        return self._parts.keys

    @property
    def engines(self) -> Engines:
        """The engines that follow the record: how they fare, and what they hold."""
        return self._parts.engines

    async def sweep(self) -> None:
        """Find the work that is left, now."""
        await self.erasing.finish()
        await self._background.sweep()

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        await self._store.ping()

    async def ready(self) -> None:
        """Raise what keeps this service from taking requests: Draining, Overloaded, StoreFailed, StoreUnavailable."""
        if self._draining:
            raise Draining("it finishes what it has accepted")
        self._store.require_room()
        await self._store.ping()

    @property
    def answers_at_once(self) -> bool:
        """Whether no task is needed before it waits for something: the record is in this process, and on no network."""
        return self._store.capabilities.exclusive

    def asked(self) -> None:
        """Note that a request is served: what else there is to do takes its time from that."""
        self._parts.watchdog.requests += 1

    def drain(self) -> None:
        """Say from now on that the service is not ready: it is about to end."""
        self._draining = True

    def wind_up(self) -> None:
        """Begin to end: what runs in the background has the grace from now on, beside the requests."""
        self._parts.scheduler.wind_up()

    async def store_failed(self) -> None:
        """Wait until the store has broken in a way that only a new start mends."""
        await self._store.failed()

    def stats(self) -> dict[str, Any]:
        """Join what each part counts of itself; no I/O."""
        parts = self._parts
        return {
            **parts.pool.stats(),
            "hot_tier": parts.tier.stats() if parts.tier else {"state": "off"},
            "durability": parts.store.capabilities.durability,
            "store": parts.store.usage(),
            "queues": parts.scheduler.stats(),
            "reflection": parts.reflector.stats(),
            "refining": parts.refiner.stats(),
            "recall": parts.recall.stats(),
            "drivers": parts.engines.stats(),
            "redaction": parts.redactor.stats(),
            "retention": self.retention.stats(),
            "audit": parts.audit.stats(),
            "event_loop": parts.watchdog.stats(),
            "tokens": {"model": parts.reader.name, **parts.reader.usage(), "embedding": parts.embedder.usage()},
        }

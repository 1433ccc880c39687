"""What is done without being asked: rings for the work that verbs leave behind, and sweeps up what is left.

What is to be done is in the store; here is only when to look.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from memory_service.embedding import Embedding
from memory_service.engines import Engines
from memory_service.growth import Growth
from memory_service.refining import Refiner
from memory_service.reflection import Reflector
from memory_service.scheduler import Job, Scheduler
from memory_service.sessions import Sessions
from memory_service.stores.base import Store
from memory_service.values import NOBODY, Scope, Session, SessionKey

GROWTH = 4
"""A conversation that goes on is reflected on when this many times the threshold is unreflected."""
SWEPT_AT_ONCE = 200


JUMP = timedelta(minutes=1)
"""A clock that is ahead by more than this between two looks was set ahead."""


class Patience:
    """The time by which callers are judged to have gone: the clock's, except that a jump ahead ages nobody.

    For as long as `span` after such a jump it is what it would be without; then nobody from before is left to wrong.
    """

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float], span: timedelta) -> None:
        self._now, self._monotonic, self._span = now, monotonic, span
        self._then, self._then_s = now(), monotonic()
        self._jumped_s: float | None = None

    def __call__(self) -> datetime:
        now, now_s = self._now(), self._monotonic()
        steady = self._then + timedelta(seconds=now_s - self._then_s)
        if now > steady + JUMP:
            if self._jumped_s is None:
                self._jumped_s = now_s
            if now_s - self._jumped_s < self._span.total_seconds():
                return steady
        self._then, self._then_s, self._jumped_s = now, now_s, None
        return now


class Background:
    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        embedding: Embedding,
        reflector: Reflector,
        refiner: Refiner,
        engines: Engines,
        scheduler: Scheduler,
        *,
        threshold_turns: int,
        session_turns: int,
        idle_after: timedelta,
        abandoned_after: timedelta,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._patience = Patience(now, monotonic, max(idle_after, abandoned_after))
        self._store, self._sessions, self._embedding = store, sessions, embedding
        self._reflector, self._refiner, self._engines, self._scheduler = reflector, refiner, engines, scheduler
        self._threshold_turns, self._idle_after, self._abandoned_after = threshold_turns, idle_after, abandoned_after
        self.growth, self._now = Growth(session_turns), now

    def after_turn(self, key: SessionKey, session: Session) -> None:
        """Ring for the work a new turn may have made."""
        self.growth.see(key, session)
        self.embed_soon(key.scope)
        if key.scope.user_id == NOBODY:
            return  # nobody is told its context
        if self._reflector.needs_compaction(session):
            self._patiently(f"compact {_name(key.scope)}/{key.session_id}", lambda: self._reflector.compact(key))
        if session.unreflected_turns >= GROWTH * self._threshold_turns:
            self._patiently(f"hand-over {_name(key.scope)}/{key.session_id}", lambda: self._hand_over(key))

    def _patiently(self, name: str, job: Job) -> None:
        """For what a turn leaves to do: while turns come in quickly they need the time themselves, and the next one
        would leave it again. What somebody may wait for, as when a session ended, is not put off.
        """
        self._scheduler.soon(name, job, patient=True)

    def embed_soon(self, scope: Scope) -> None:
        """Ring for what something new of a user makes to do: vectors, and copies in the engines of drivers."""
        self._embedding.ring(scope)
        self.mirror_soon()
        self._embed_patiently()

    def _embed_patiently(self) -> None:
        # No slot: what is local and fast must not queue behind reflections that wait for a model.
        self._scheduler.soon("embed", self._embed, slotted=False, patient=True)

    async def _embed(self) -> None:
        if await self._embedding.embed_rung():
            self._embed_patiently()
        self.mirror_soon()  # the vectors

    async def _embed_everybody(self) -> None:
        await self._embedding.embed_due()
        self.mirror_soon()

    def mirror_soon(self) -> None:
        """Bring the engines of drivers what they lack; one that fails is tried again soon."""
        for name in self._engines.names:
            self._mirror_soon(name)

    def _mirror_soon(self, name: str) -> None:
        async def job() -> None:
            again_s = await self._engines.catch_up(name)
            if again_s is not None:
                self._scheduler.at(self._now() + timedelta(seconds=again_s), f"mirror {name}", job)

        # no slot either: an engine that hangs is given up on soon
        self._scheduler.soon(f"mirror {name}", job, slotted=False)

    def refine_soon(self) -> None:
        """Let a model write the memories that are still to be; what it does not, the next sweep asks for again."""
        if self._refiner.wanted:
            self._scheduler.soon("refine", lambda: self._refiner.refine_due(self.embed_soon))

    def reflect_soon(self, scope: Scope, *, patient: bool = False) -> None:
        """Reflect on what is due of one user; a failed attempt rings again when its time has come."""
        name = f"reflect {_name(scope)}"

        async def job() -> None:
            again = await self._reflector.reflect_due(scope)
            self.embed_soon(scope)
            if again is not None:
                self._scheduler.at(again, name, job, patient=patient)

        self._scheduler.soon(name, job, patient=patient)

    async def sweep(self) -> None:
        """Find the work that is left: by a crash, by a model that failed, by a conversation nobody ended."""
        now = self._now()
        patient = self._patience()
        abandoned = patient - self._abandoned_after
        for key in await self._store.due_sessions(abandoned, 0, SWEPT_AT_ONCE):
            await self._sessions.end(key, by_client=False, untouched_since=abandoned)
            self.reflect_soon(key.scope)
        for key in await self._store.due_sessions(patient - self._idle_after, self._threshold_turns, SWEPT_AT_ONCE):
            await self._hand_over(key)
        for scope, _ in await self._store.due_reflections(now, SWEPT_AT_ONCE):
            self.reflect_soon(scope, patient=True)
        self.refine_soon()
        self._scheduler.soon("embed everybody's", self._embed_everybody, slotted=False)
        self.mirror_soon()

    async def _hand_over(self, key: SessionKey) -> None:
        await self._sessions.hand_over(key)
        self.reflect_soon(key.scope, patient=True)


def _name(scope: Scope) -> str:
    return f"{scope.tenant_id}/{scope.user_id}"

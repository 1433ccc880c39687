"""Whatever is done to sessions, in whatever order: nothing is lost, doubled, shown twice or left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_service.app import open_service
from memory_service.errors import SessionEnded, SessionNotFound, TurnIdReused
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.values import Context, Kind, Memory, Message, Scope, SessionKey
from tests.support.background import Clock, record, settled

T = TypeVar("T")

K, L, THRESHOLD, GROWTH = 2, 3, 2, 4
IDLE, ABANDONED = timedelta(minutes=30), timedelta(hours=24)
KEYS = [SessionKey(scope=Scope(user_id=user), session_id=name) for user in ("ana", "ben") for name in ("s", "t")]

keys = st.sampled_from(KEYS)
some = st.integers(0, 1_000)


@dataclass
class Said:
    turn_id: str
    text: str


@dataclass
class Told:
    """What a session must be, by the simplest account of what was done to it."""

    turns: list[Said] = field(default_factory=list)
    opened_at: int = 1
    status: Literal["active", "client", "service"] = "active"
    touched_at: datetime = field(default_factory=lambda: Clock().at)
    closed: list[tuple[int, int]] = field(default_factory=list)

    def close(self) -> None:
        """The present sitting is over, if it has turns; it is on record that it is to be read."""
        if self.status == "active" and len(self.turns) >= self.opened_at:
            self.closed.append((self.opened_at, len(self.turns)))

    def end(self, by: Literal["client", "service"]) -> None:
        self.close()
        self.status = by

    def reopen(self, now: datetime) -> None:
        self.status, self.opened_at, self.touched_at = "active", len(self.turns) + 1, now


class SessionMachine(RuleBasedStateMachine):
    """Over the store that forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.told: dict[SessionKey, Told] = {}
        self.said = 0
        self.stack = AsyncExitStack()

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    def store_url(self) -> str:
        return "transient://"

    @initialize()
    def open(self) -> None:
        chosen = Settings(
            _env_file=None,
            store_url=self.store_url(),
            k_turn_buffer=K,
            l_turn_chunks=L,
            reflection_threshold_turns=THRESHOLD,
            session_ttl_minutes=IDLE / timedelta(minutes=1),
            session_abandon_hours=ABANDONED / timedelta(hours=1),
            sweep_interval_seconds=3600,
        )
        self.service: MemoryService = self.run(self.stack.enter_async_context(open_service(chosen, self.clock.around)))

    def teardown(self) -> None:
        try:
            if hasattr(self, "service"):
                self.settle()
        finally:
            self.run(self.stack.aclose())
            self.runner.close()

    # What callers do

    @rule(key=keys)
    def restore(self, key: SessionKey) -> None:
        told = self.told.get(key)
        start = self.service.start_session(key.scope, key.session_id, restore=True)
        if told is not None and told.status == "client":
            with pytest.raises(SessionEnded):
                self.run(start)
            return
        context, restored = self.run(start)
        assert restored == (told is not None)
        told = self.told.setdefault(key, Told())
        told.touched_at = self.clock()
        if told.status == "service":
            told.reopen(self.clock())
        self.check_shown(key, context)

    @rule(key=keys)
    def begin_afresh(self, key: SessionKey) -> None:
        context, restored = self.run(self.service.start_session(key.scope, key.session_id, restore=False))
        assert not restored
        told = self.told.setdefault(key, Told(touched_at=self.clock()))
        told.close()
        told.reopen(self.clock())
        self.check_shown(key, context)
        assert context.turns == ()

    @rule(key=keys, named=st.booleans(), times=st.integers(1, 5))
    def store(self, key: SessionKey, named: bool, times: int) -> None:
        for _ in range(times):
            self.say(key, named)

    def say(self, key: SessionKey, named: bool) -> None:
        told = self.told.get(key)
        self.said += 1
        text = f"I prefer {key.scope.user_id}{self.said} to all others."
        store = self.service.store_turn(key, draft(text, f"turn{self.said}" if named else None))
        if told is None or told.status != "active":
            with pytest.raises(SessionNotFound if told is None else SessionEnded):
                self.run(store)
            return
        stored = self.run(store)
        told.turns.append(Said(stored.turn.turn_id, text))
        told.touched_at = self.clock()
        assert (stored.turn.seq, stored.replayed) == (len(told.turns), False)

    @rule(key=keys, which=some)
    def replay(self, key: SessionKey, which: int) -> None:
        told = self.told.get(key)
        if told is None or not told.turns:
            return
        seq = which % len(told.turns) + 1
        said = told.turns[seq - 1]
        again = self.run(self.service.store_turn(key, draft(said.text, said.turn_id)))
        assert (again.replayed, again.turn.seq, again.turn.turn_id) == (True, seq, said.turn_id)
        with pytest.raises(TurnIdReused):
            self.run(self.service.store_turn(key, draft("Something else.", said.turn_id)))

    @rule(key=keys)
    def end(self, key: SessionKey) -> None:
        told = self.told.get(key)
        end = self.service.end_session(key)
        if told is None:
            with pytest.raises(SessionNotFound):
                self.run(end)
            return
        told.end("client")
        ended = self.run(end)
        assert ended.session.sitting_turns == len(told.turns) - told.opened_at + 1
        assert (ended.reflection == "none") == (ended.session.sitting_turns == 0)

    @rule(key=keys, which=some)
    def search(self, key: SessionKey, which: int) -> None:
        told = self.told.get(key)
        if told is None or not told.turns:
            return
        wanted = told.turns[which % len(told.turns)].text
        found = self.run(self.service.retrieve(key.scope, wanted, 100, None))
        texts = [hit.item.text for hit in found.hits]
        assert wanted in texts
        assert not any(other in text for text in texts for other in others(key.scope))

    # What happens without being asked

    @rule()
    def evict_everything(self) -> None:
        self.service._pool.evict_all()

    @rule(pause=st.sampled_from([timedelta(minutes=5), timedelta(minutes=31), timedelta(hours=25)]))
    def sweep(self, pause: timedelta) -> None:
        self.clock.at += pause
        self.run(self.service.sweep())
        for told in self.told.values():
            if told.status == "active" and told.touched_at <= self.clock() - ABANDONED:
                told.end("service")

    @rule()
    def settle(self) -> None:
        """Let the background work come to rest, and look at all it left."""
        self.run(settled(self.service))
        for scope in {key.scope for key in KEYS}:
            of_user = [key for key in KEYS if key.scope == scope]
            self.check_memories(scope, {key.session_id: self.told[key] for key in of_user if key in self.told})

    # What must hold

    @invariant()
    def every_session_shows_what_it_was_told(self) -> None:
        for key in KEYS if hasattr(self, "service") else ():
            if key in self.told:
                self.check_shown(key, self.run(self.service.context(key)))
                turns = self.run(record(self.service).turns(key))
                assert [turn.seq for turn in turns] == list(range(1, len(turns) + 1))
                assert [(turn.turn_id, turn.messages[0].content) for turn in turns] == [
                    (said.turn_id, said.text) for said in self.told[key].turns
                ]
            else:
                with pytest.raises(SessionNotFound):
                    self.run(self.service.context(key))

    def check_shown(self, key: SessionKey, context: Context) -> None:
        told, session = self.told[key], context.session
        assert (session.turn_count, session.opened_at_seq) == (len(told.turns), told.opened_at)
        assert (session.ended_by or session.status) == told.status
        shown = [(turn.seq, turn.messages[0].content) for turn in context.turns]
        live = list(enumerate((said.text for said in told.turns), start=1))[session.live_after :]
        assert shown == live
        assert all(text in context.text for _, text in live)
        compacted = session.live_after - (told.opened_at - 1)
        assert compacted >= 0
        assert compacted % K == 0
        assert bool(session.cumulative_summary) == bool(compacted)
        assert not any(other in context.text for other in others(key.scope))

    def check_memories(self, scope: Scope, told: dict[str, Told]) -> None:
        """Each sitting that was to be read has one summary, and its turns are in its extracts once."""
        spans: list[tuple[str, int, int]] = []
        for session_id, session in told.items():
            key = SessionKey(scope=scope, session_id=session_id)
            state = self.run(self.service.reflection(key))
            assert state.reflection in ("none", "done")
            spans += [(session_id, first, last) for first, last in session.closed]
            if session.status == "active":
                head = state.session
                assert head.live_turns < 2 * K
                assert head.unreflected_turns < GROWTH * THRESHOLD
                if session.touched_at <= self.clock() - IDLE:
                    assert head.unreflected_turns < THRESHOLD
                if head.handed_over_through >= session.opened_at:
                    spans.append((session_id, session.opened_at, head.handed_over_through))
        assert sorted(self.span(summary) for summary in self.memories(scope, "summary")) == sorted(spans)
        extracted = [(s.session_id, s.seq) for chunk in self.memories(scope, "chunk") for s in chunk.sources]
        assert sorted(extracted) == sorted((name, seq) for name, a, b in spans for seq in range(a, b + 1))
        for insight in self.memories(scope, "insight"):
            assert insight.sources
            for source in insight.sources:
                assert told[source.session_id].turns[source.seq - 1].text in insight.text

    def memories(self, scope: Scope, kind: Kind) -> list[Memory]:
        return self.run(record(self.service).memories(scope, [kind], superseded=True))

    def span(self, summary: Memory) -> tuple[str, int, int]:
        first, last = summary.sources
        assert summary.text
        assert summary.metadata["turn_count"] == last.seq - first.seq + 1
        return first.session_id, first.seq, last.seq


class StoredSessionMachine(SessionMachine):
    """Over SQLite, whose service may be stopped and started again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()

    def store_url(self) -> str:
        return f"sqlite:///{self.folder.name}/memory.db"

    @precondition(lambda self: hasattr(self, "service"))
    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


def draft(text: str, turn_id: str | None) -> Draft:
    return Draft(messages=(Message(role="user", content=text),), turn_id=turn_id)


def others(scope: Scope) -> list[Any]:
    """Names of the other users, which stand in all that they say."""
    return [key.scope.user_id for key in KEYS if key.scope != scope]


modest = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestSessions = SessionMachine.TestCase
TestSessions.settings = modest
TestStoredSessions = StoredSessionMachine.TestCase
TestStoredSessions.settings = modest

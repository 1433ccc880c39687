"""Quarantine as a property of the graph of what rests on what, and what happens while it is carried out."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from memory_service.errors import SessionNotFound, StoreUnavailable, TurnNotFound
from memory_service.pool import SessionPool
from memory_service.quarantine import Quarantining
from memory_service.stores.quarantine import Concerned, Quarantine, rewritten
from memory_service.values import Memory, Scope, Source, Turn
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, a_memory, a_session, a_sitting, a_turn, begin

SESSIONS, TURNS = ("a", "b"), 4
Place = tuple[str, int]
places = st.tuples(st.sampled_from(SESSIONS), st.integers(1, TURNS))


class Graph:
    """Two sessions of two sittings each, and memories that rest on their turns; `poison`: what is in quarantine.

    It tells by itself what must hold: that is written down here once more, from what is poison alone.
    """

    def __init__(self, memories: list[Memory]) -> None:
        self.sessions = {name: replace(a_session(name), turn_count=TURNS) for name in SESSIONS}
        self.sittings = {
            name: [a_sitting(name, first_seq=first, through_seq=first + 1) for first in (1, 3)] for name in SESSIONS
        }
        self.turns = {name: [a_turn(seq, name) for seq in range(1, TURNS + 1)] for name in SESSIONS}
        self.memories = {memory.memory_id: memory for memory in memories}
        self.poison: set[Place] = set()
        self.whole: set[str] = set()
        self.clock = NOON

    def move(self, session_id: str, seqs: frozenset[int] | None, *, release: bool) -> None:
        self.clock += timedelta(minutes=1)
        what = Quarantine(session_id=session_id, seqs=seqs, release=release, now=self.clock)
        then = rewritten(what, self.held(session_id))
        for turn in then.turns:
            self.turns[session_id][turn.seq - 1] = turn
        self.memories |= {memory.memory_id: memory for memory in then.memories}
        for sitting in then.sittings:
            self.sittings[session_id][sitting.first_seq > 1] = sitting
        self.note(session_id, seqs, release)

    def held(self, session_id: str) -> Concerned:
        return Concerned(
            session=self.sessions[session_id],
            sittings=self.sittings[session_id],
            turns=self.turns[session_id],
            memories=[*self.memories.values()],
        )

    def note(self, session_id: str, seqs: frozenset[int] | None, release: bool) -> None:
        named = {(session_id, seq) for seq in (seqs or range(1, TURNS + 1))}
        if not release:
            self.poison |= named
            self.whole |= {session_id} if seqs is None else set()
        elif named & self.poison or seqs is None:
            self.poison -= named
            if seqs is None or not any(name == session_id for name, _ in self.poison):
                self.whole.discard(session_id)

    def is_poisoned(self, memory: Memory) -> bool:
        if not memory.text or (memory.edited and memory.trust == "high"):
            return False
        if not memory.sources:
            return memory.session_id in self.whole
        rests_on = {(source.session_id, source.seq) for source in memory.sources}
        if memory.kind == "summary" or memory.model == "gpt":  # all of their sittings was before a model's eyes
            rests_on |= {(name, seq - 1 if seq % 2 == 0 else seq + 1) for name, seq in rests_on}
        return bool(rests_on & self.poison)

    def holds(self, memory: Memory) -> bool:
        if not memory.text or self.is_poisoned(memory):
            return False
        by = memory.superseded_by
        while by is not None and self.is_poisoned(self.memories[by]):
            by = self.memories[by].superseded_by
        return by is None

    @property
    def current(self) -> set[str]:
        return {name for name, memory in self.memories.items() if memory.valid_to is None}

    def check(self) -> None:
        assert self.current == {name for name, memory in self.memories.items() if self.holds(memory)}
        for name, turns in self.turns.items():
            assert [bool(turn.messages) for turn in turns] == [(name, turn.seq) not in self.poison for turn in turns]
            assert all(turn.told().messages for turn in turns)

    @property
    def words(self) -> list[Turn]:
        return [turn for turns in self.turns.values() for turn in turns]

    @property
    def known(self) -> list[Memory]:
        return [replace(memory, updated_at=None) for memory in self.memories.values()]


@st.composite
def memories(draw: st.DrawFn) -> list[Memory]:
    """Each may have been replaced by one of those after it."""
    found: list[Memory] = []
    count = draw(st.integers(1, 7))
    for number in range(count):
        sources = tuple(Source(session_id=name, seq=seq) for name, seq in draw(st.lists(places, max_size=3)))
        memory = replace(
            a_memory(f"m{number}", created_at=NOON + timedelta(seconds=number)),
            kind=draw(st.sampled_from(["insight", "summary", "chunk", "memory"])),
            sources=sources,
            session_id=sources[0].session_id if sources else draw(st.sampled_from([*SESSIONS, None])),
            model=draw(st.sampled_from([None, "gpt", "extractive"])),
            edited=draw(st.booleans()),
            trust=draw(st.sampled_from(["low", "normal", "high"])),
        )
        by = draw(st.sampled_from([None, *range(number + 1, count)]))
        if by is not None:
            memory = replace(memory, superseded_by=f"m{by}", valid_to=NOON + timedelta(seconds=by))
        found.append(memory.deleted(NOON) if draw(st.integers(0, 9)) == 9 else memory)
    return found


some_turns = st.none() | st.frozensets(st.integers(1, TURNS), min_size=1, max_size=2)
moves = st.lists(st.tuples(st.sampled_from(SESSIONS), some_turns, st.booleans()), min_size=1, max_size=5)


@settings(max_examples=200)
@given(memories(), moves, st.permutations([(name, seq) for name in SESSIONS for seq in range(1, TURNS + 1)]))
def test_what_holds_follows_from_what_is_poison_and_is_after_a_release_what_it_was(
    held: list[Memory], moved: list[Any], order: list[Place]
) -> None:
    graph = Graph(held)
    before = graph.words, graph.known, graph.current
    for session_id, seqs, release in moved:
        graph.move(session_id, seqs, release=release)
        graph.check()
    for session_id, seq in order:
        graph.move(session_id, frozenset({seq}), release=True)
        graph.check()
    for session_id in SESSIONS:  # what is withheld of a session without a turn that is
        graph.move(session_id, None, release=True)
    assert (graph.words, graph.known, graph.current) == before


def test_what_was_read_anew_since_is_not_withheld_again_unless_a_former_try_may_have_been_cut_off() -> None:
    graph = Graph([])
    graph.move("a", frozenset({2}), release=False)
    sources = tuple(Source(session_id="a", seq=seq) for seq in (1, 2))
    graph.memories["clean"] = replace(a_memory("clean"), kind="summary", sources=sources)
    what = Quarantine(session_id="a", seqs=frozenset({2}), now=NOON)
    once_more = rewritten(what, graph.held("a"))
    assert (once_more.counts.turns, once_more.session) == (1, None)
    cut_off = rewritten(replace(what, again=True), graph.held("a"))
    assert [memory.memory_id for memory in cut_off.memories] == ["clean"]
    assert len(cut_off.sittings) == 1


KEY = a_key()


class World:
    """`changed`: of whom it was told that what is held of them is old."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.pool = SessionPool(self.store.load, self.store.commit, max_sessions=10, ttl_s=60)
        self.changed: list[Scope] = []
        self.quarantine = Quarantining(self.store, self.pool, self.changed.append, now=lambda: NOON)

    async def words(self) -> list[bool]:
        hot = (await self.pool.read(KEY)).hot
        assert hot is not None
        return [bool(turn.messages) for turn in hot.turns]


async def test_who_reads_a_session_while_it_is_withheld_waits_and_holds_none_of_it() -> None:
    world = World()
    await begin(world.store, KEY, turns=2)
    assert await world.words() == [True, True]
    hang = world.store.hang_at("quarantine")
    task = asyncio.ensure_future(world.quarantine.withhold(KEY, [1]))
    await hang.reached.wait()
    reading = asyncio.ensure_future(world.words())
    await asyncio.sleep(0)
    hang.release()
    await task
    assert await reading == await world.words() == [False, True]
    assert world.changed == [KEY.scope]


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done and not told"])
async def test_after_a_failure_nothing_is_held_that_may_be_withheld(after: bool) -> None:
    world = World()
    await begin(world.store, KEY, turns=2)
    assert await world.words() == [True, True]
    world.store.fail_at("quarantine", StoreUnavailable("away"), after=after)
    with pytest.raises(StoreUnavailable):
        await world.quarantine.withhold(KEY)
    assert await world.words() == [not after, not after]
    assert world.changed == [KEY.scope]
    assert (await world.quarantine.withhold(KEY)).turns == 2
    assert await world.words() == [False, False]


async def test_what_is_not_there_is_refused_before_anything_is_done() -> None:
    world = World()
    await begin(world.store, KEY, turns=2)
    for call in (world.quarantine.withhold, world.quarantine.release):
        with pytest.raises(SessionNotFound):
            await call(a_key("t"))
        for seqs in ([0], [3], [1, 3]):
            with pytest.raises(TurnNotFound):
                await call(KEY, seqs)
    assert await world.words() == [True, True]
    assert world.changed == []

"""The verbs of the store contract, each on a record of the same size: users with a session of ten turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.values import Hot, Request, SessionKey, Unembedded
from tests.support.values import NOON, a_key, a_memory, a_sitting, a_vector, begin, minutes, next_turn

Work = Callable[[int], Awaitable[object]]

TURNS, LIVE = 10, 5
TEXT = "We talked about the house by the lake, and whether there is money enough for it. " * 3
"""Said by either side: a turn of half a kilobyte of words."""
DIMENSIONS_BYTES = 2 * 256 * 4
"""Vectors of a turn: one for each message."""


class Verbs:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._hot: dict[int, Hot] = {}
        self._cursors: dict[int, Any] = {}
        self._due: list[Unembedded] = []

    async def prepare(self, users: int) -> None:
        for number in range(users):
            key = key_of(number)
            hot = Hot(session=await begin(self._store, key))
            for _ in range(TURNS):
                commit, hot = next_turn(hot, key, text=TEXT)
                await self._store.commit(commit)
            head = hot.session.compacted(TURNS - LIVE, TEXT)
            await self._store.commit(Commit(scope=key.scope, session=head))
            self._hot[number] = Hot(session=head, turns=hot.turns[-LIVE:])

    async def new_session(self, number: int) -> None:
        await begin(self._store, a_key("new", key_of(number).scope.user_id))

    async def turn(self, number: int) -> None:
        key = key_of(number)
        commit, self._hot[number] = next_turn(self._hot[number], key, text=TEXT)
        await self._store.commit(commit)

    async def named_turn(self, number: int) -> None:
        key = key_of(number)
        commit, self._hot[number] = next_turn(self._hot[number], key, text=TEXT)
        await self._store.commit(replace(commit, request=Request(key="k", digest="d", made_at=NOON)))

    async def ended(self, number: int) -> None:
        head = self._hot[number].session.ended("client")
        commit = Commit(scope=key_of(number).scope, session=head, sittings=(a_sitting(),))
        await self._store.commit(commit)

    async def reflected(self, number: int) -> None:
        memories = (a_memory("summary_1", kind="summary", text=TEXT), *(a_memory(f"m{n}", text=TEXT) for n in range(3)))
        sitting = a_sitting().claimed(minutes(20))
        await self._store.commit(Commit(scope=key_of(number).scope, sittings=(sitting,), memories=memories))

    async def due(self, _: int) -> None:
        self._due = await self._store.due_vectors("space", 100)

    async def vector(self, number: int) -> None:
        item = self._due[number]
        vectors = (a_vector(item, data=bytes(DIMENSIONS_BYTES)),)
        await self._store.commit(Commit(scope=item.scope, vectors=vectors))

    async def entries(self, number: int) -> None:
        page = await self._store.entries(key_of(number).scope, self._cursors.get(number), "space")
        self._cursors[number] = page.cursor


def key_of(number: int) -> SessionKey:
    return a_key(user_id=f"user-{number}")


async def verbs_of(store: Store, users: int) -> AsyncIterator[tuple[str, Work]]:
    """Each kind of call by name, in an order in which one leaves to the next what it needs."""
    verbs = Verbs(store)
    await verbs.prepare(users)
    yield "commit: new session", verbs.new_session
    yield "commit: turn", verbs.turn
    yield "commit: turn, named request", verbs.named_turn
    yield "commit: end, sitting", verbs.ended
    yield "commit: sitting, 4 memories", verbs.reflected
    yield "load: 7 live turns", lambda number: store.load(key_of(number))
    yield "turns: 12", lambda number: store.turns(key_of(number))
    yield "find_turn", lambda number: store.find_turn(key_of(number), "t1")
    yield "find_effect", lambda number: store.find_effect(key_of(number).scope, "k")
    yield "sittings: 1", lambda number: store.sittings(key_of(number))
    yield "memories: 3", lambda number: store.memories(key_of(number).scope, ["insight"])
    yield "entries: all of a user", verbs.entries
    yield "entries: nothing new", verbs.entries
    yield "due_reflections: one user", lambda number: store.due_reflections(NOON, 10, key_of(number).scope)
    yield "due_reflections: all", lambda _: store.due_reflections(minutes(1000), 10)
    yield "reflections: 10", lambda _: store.reflections("default", "pending", 10)
    yield "due_sessions: 10", lambda _: store.due_sessions(minutes(1000), 0, 10)
    yield "due_vectors: 100", verbs.due
    yield "commit: vectors of a turn", verbs.vector
    yield "ping", lambda _: store.ping()

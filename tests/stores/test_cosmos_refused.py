"""Commits in Cosmos DB that go wrong between their memories and their batch, or after it: all of it, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores import make_store
from memory_service.stores.base import Commit, DuplicateRequest, DuplicateTurn, Store
from memory_service.stores.cosmos import client
from memory_service.values import Memory, Request, Session, Sitting
from tests.cosmos.launcher import CosmosServer
from tests.stores.cosmos_account import documents, everything, settings_for
from tests.support.background import until
from tests.support.stores import opened
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_sitting,
    a_turn,
    begin,
    embed_all,
    minutes,
    next_turn,
)

KEY = a_key()
SCOPE = KEY.scope
LOST = {"op": "batch", "drop": "after", "times": 1}
KINDS = ("insight", "summary", "chunk")
TAUGHT = (
    a_memory("new", text="likes tea"),
    a_memory("held", text="likes green tea"),
    a_memory("summary_1", kind="summary", text="of tea"),
)
"""What a reflection brings: one that is new, one written over, and one of another container."""


Work = Callable[[Store], Awaitable[None]]


class Meanwhile:
    """What another process does to the end at a named point of a commit, before that goes on."""

    def __init__(self, server: CosmosServer) -> None:
        self._server = server
        self._work: dict[str, Work] = {}

    def at(self, name: str, work: Work) -> None:
        self._work[name] = work

    def __call__(self, name: str) -> None:
        if work := self._work.pop(name, None):
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self._elsewhere(work)).result()

    async def _elsewhere(self, work: Work) -> None:
        async with opened(settings_for(self._server)) as store:
            await work(store)


@pytest.fixture
def meanwhile(cosmos_server: CosmosServer) -> Meanwhile:
    return Meanwhile(cosmos_server)


@pytest.fixture
async def store(cosmos_server: CosmosServer, meanwhile: Meanwhile) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        store = make_store(settings_for(cosmos_server), meanwhile)
        await store.start(stack)
        yield store


@pytest.fixture
async def other(store: Store, cosmos_server: CosmosServer) -> AsyncIterator[Store]:
    """Another process on the same record."""
    async with opened(settings_for(cosmos_server)) as other:
        yield other


@pytest.fixture
def after_reading(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """What the other process does once the next commit has read which memories there are."""

    def does(work: Work) -> None:
        memories = store._commits._memories  # type: ignore[attr-defined]
        held = memories.held

        async def slow(*asked: Any) -> Any:
            found = await held(*asked)
            monkeypatch.undo()
            await work(other)
            return found

        monkeypatch.setattr(memories, "held", slow)

    return does


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long is waited before a batch is sent again that another can go on meanwhile."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 1.0)


@pytest.fixture
async def claimed(store: Store) -> Sitting:
    """A sitting that a worker has claimed, of a user of whom something is known."""
    await begin(store, KEY, turns=3)
    await store.commit(Commit(scope=SCOPE, memories=(a_memory("held", text="likes drinks"),)))
    await embed_all(store)
    sitting = a_sitting()
    await store.commit(Commit(scope=SCOPE, sittings=(sitting,)))
    taken = sitting.claimed(minutes(5))
    await store.commit(Commit(scope=SCOPE, sittings=(taken,)))
    return taken


def reflected(sitting: Sitting, *memories: Memory) -> Commit:
    return Commit(scope=SCOPE, sittings=(sitting.done("of tea", 1, NOON),), memories=memories or TAUGHT)


def extended(sitting: Sitting) -> Commit:
    return Commit(scope=SCOPE, sittings=(sitting.extended(4, NOON, ended=False),))


async def memories(store: Store) -> list[Memory]:
    return await store.memories(SCOPE, KINDS, superseded=True)


def held(server: CosmosServer) -> Any:
    """What is held of memories, but for what any write changes."""
    kept = [document for name in ("insights", "session_summaries") for document in documents(server, name)]
    changing = ("_etag", "_ts", "_self", "_rid")
    return [{name: value for name, value in document.items() if name not in changing} for document in kept]


# Refused after its memories were written


async def test_memories_of_a_commit_that_is_overtaken_on_its_way_are_taken_back(
    store: Store, meanwhile: Meanwhile, claimed: Sitting, cosmos_server: CosmosServer
) -> None:
    before = held(cosmos_server)
    assert [document["space"] for document in before] == ["space"]

    async def extend(other: Store) -> None:
        assert len(await memories(other)) == len(TAUGHT)
        await other.commit(extended(claimed))

    meanwhile.at("after_memories", extend)
    with pytest.raises(StaleVersion):
        await store.commit(reflected(claimed))
    assert held(cosmos_server) == before
    assert await memories(store) == [a_memory("held", text="likes drinks")]


async def test_what_was_taken_back_is_found_as_it_was_by_whoever_had_seen_the_other(
    store: Store, other: Store, meanwhile: Meanwhile, claimed: Sitting
) -> None:
    start = await other.entries(SCOPE, None, "space")
    seen = []

    async def look_and_extend(third: Store) -> None:
        page = await third.entries(SCOPE, start.cursor, "space")
        assert [memory.text for memory in page.memories] == ["likes green tea"]
        await embed_all(third)
        await third.commit(extended(claimed))
        seen.append(page.cursor)

    meanwhile.at("after_memories", look_and_extend)
    with pytest.raises(StaleVersion):
        await store.commit(reflected(claimed, a_memory("held", text="likes green tea")))
    again = await other.entries(SCOPE, seen[0], "space")
    assert [memory.text for memory in again.memories] == ["likes drinks"]
    assert [vector.item_id for vector in again.vectors] == ["held"]
    assert await embed_all(other) == 0


@pytest.mark.parametrize(
    ("blocked", "error"),
    [("turn", DuplicateTurn), ("request", DuplicateRequest), ("head", StaleVersion)],
)
async def test_whatever_refuses_a_commit_on_its_way_its_memories_are_taken_back(
    store: Store,
    meanwhile: Meanwhile,
    claimed: Sitting,
    cosmos_server: CosmosServer,
    blocked: str,
    error: type[Exception],
) -> None:
    hot = await store.load(KEY)
    assert hot is not None
    before = held(cosmos_server)
    name = Request(key="k", digest="d", made_at=NOON)
    commit, _ = next_turn(hot, KEY, turn_id="mine")

    async def block(other: Store) -> None:
        if blocked == "head":
            await other.commit(next_turn(hot, KEY, turn_id="theirs")[0])
            return
        another = await begin(other, a_key("another"))  # so that the head stays as it is
        turn = a_turn(1, "s", turn_id="mine") if blocked == "turn" else a_turn(1, "another")
        request = name if blocked == "request" else None
        await other.commit(Commit(scope=SCOPE, session=another.with_turn(turn), turns=(turn,), request=request))

    meanwhile.at("after_memories", block)
    with pytest.raises(error):
        await store.commit(replace(commit, request=name, memories=TAUGHT))
    assert held(cosmos_server) == before


THEIRS = tuple(replace(memory, text=f"{memory.text}, they say") for memory in TAUGHT)


def texts(memories: Iterable[Memory]) -> list[str]:
    return sorted(memory.text for memory in memories)


async def test_of_two_workers_of_whom_one_is_late_only_what_the_other_brought_is_there(
    store: Store, meanwhile: Meanwhile, claimed: Sitting
) -> None:
    """The late one has written its memories, under the same ids and one more, when the other writes all of its own."""
    meanwhile.at("after_memories", lambda other: other.commit(reflected(claimed, *THEIRS)))
    with pytest.raises(StaleVersion):
        await store.commit(reflected(claimed, *TAUGHT, a_memory("too many")))
    assert texts(await memories(store)) == texts(THEIRS)


async def test_a_worker_that_looked_before_another_wrote_writes_over_nothing(
    store: Store, claimed: Sitting, after_reading: Callable[[Work], None]
) -> None:
    after_reading(lambda other: other.commit(reflected(claimed, *THEIRS)))
    with pytest.raises(StaleVersion):
        await store.commit(reflected(claimed, *TAUGHT, a_memory("too many")))
    assert texts(await memories(store)) == texts(THEIRS)


async def test_a_memory_that_is_given_its_vector_between_look_and_write_is_written_all_the_same(
    store: Store, claimed: Sitting, after_reading: Callable[[Work], None]
) -> None:
    await store.commit(Commit(scope=SCOPE, memories=(a_memory("held", text="likes water"),)))

    async def embed(other: Store) -> None:
        assert await embed_all(other) == 1

    after_reading(embed)
    await store.commit(reflected(claimed))
    assert texts(await memories(store)) == texts(TAUGHT)
    assert (await store.sittings(KEY))[0].reflection == "done"


async def test_memories_are_taken_back_though_the_answer_to_that_is_lost(
    store: Store, meanwhile: Meanwhile, claimed: Sitting, cosmos_server: CosmosServer
) -> None:
    before = held(cosmos_server)

    async def extend(other: Store) -> None:
        await other.commit(extended(claimed))
        cosmos_server.fails({**LOST, "path": "insights"}, {**LOST, "path": "session_summaries"})

    meanwhile.at("after_memories", extend)
    with pytest.raises(StaleVersion):
        await store.commit(reflected(claimed))
    assert held(cosmos_server) == before


# Taken effect, and not told


def kinds_of_commit(head: Session, sitting: Sitting) -> dict[str, Commit]:
    """One of each kind that is made, on a session with three turns and its claimed sitting."""
    turn = a_turn(4)
    return {
        "a new session": Commit(scope=SCOPE, session=replace(head, session_id="new", version=1, turn_count=0)),
        "a touch": Commit(scope=SCOPE, session=head.touched(minutes(9))),
        "a compaction": Commit(scope=SCOPE, session=head.compacted(2, "so far")),
        "an end": Commit(scope=SCOPE, session=head.ended("client"), sittings=(a_sitting(first_seq=9),)),
        "a turn": Commit(scope=SCOPE, session=head.with_turn(turn), turns=(turn,)),
        "a named turn": Commit(
            scope=SCOPE,
            session=head.with_turn(turn),
            turns=(turn,),
            request=Request(key="k", digest="d", made_at=NOON),
        ),
        "a claim": Commit(scope=SCOPE, sittings=(sitting.claimed(minutes(7)),)),
        "a reflection": reflected(sitting),
    }


KINDS_OF_COMMIT = list(
    kinds_of_commit(Session(session_id="s", incarnation="i", created_at=NOON, touched_at=NOON), a_sitting())
)


def moved_on(commit: Commit) -> list[Commit]:
    """What another process may make of it at once: each head and each sitting goes on."""
    moved = []
    if commit.session is not None:
        moved.append(Commit(scope=SCOPE, session=commit.session.touched(minutes(99))))
    return moved + [Commit(scope=SCOPE, sittings=(s.extended(9, minutes(99), ended=False),)) for s in commit.sittings]


@pytest.mark.parametrize("kind", KINDS_OF_COMMIT)
async def test_a_commit_whose_answer_was_lost_is_acknowledged_though_others_went_on_meanwhile(
    store: Store, other: Store, claimed: Sitting, cosmos_server: CosmosServer, kind: str, patient: None
) -> None:
    hot = await store.load(KEY)
    assert hot is not None
    commit = kinds_of_commit(hot.session, claimed)[kind]
    cosmos_server.fails({**LOST, "path": "interactions"})
    writing = asyncio.create_task(store.commit(commit))

    async def landed() -> bool:
        versions = {document["id"]: document.get("version") for document in documents(cosmos_server, "interactions")}
        asked = commit.session or commit.sittings[0]
        return asked.version in versions.values() and len(versions) > before

    before = len(documents(cosmos_server, "interactions"))
    await until(landed)
    for then in moved_on(commit):
        await other.commit(then)
    await writing
    state = everything(cosmos_server)
    with pytest.raises((StaleVersion, DuplicateRequest, DuplicateTurn)):
        await store.commit(commit)
    told = [memory.text for memory in await memories(store)]
    assert len(told) == (3 if commit.memories else 1)
    assert everything(cosmos_server)["interactions"] == state["interactions"]


@pytest.mark.parametrize("path", ["insights", "session_summaries", "interactions"])
async def test_a_reflection_is_kept_once_whichever_of_its_answers_is_lost(
    store: Store, claimed: Sitting, cosmos_server: CosmosServer, path: str
) -> None:
    cosmos_server.fails({**LOST, "path": path})
    await store.commit(reflected(claimed))
    assert texts(await memories(store)) == texts(TAUGHT)
    assert (await store.sittings(KEY))[0].reflection == "done"


async def test_a_refusal_that_the_look_before_finds_writes_nothing_at_all(
    store: Store, claimed: Sitting, cosmos_server: CosmosServer
) -> None:
    await store.commit(extended(claimed))
    before = everything(cosmos_server)
    with pytest.raises(StaleVersion):
        await store.commit(reflected(claimed))
    assert everything(cosmos_server) == before

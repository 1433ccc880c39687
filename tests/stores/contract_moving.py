"""All that is kept of a user: given out, taken in, deleted; and who the users are."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from memory_service.stores.base import Commit, Store
from memory_service.stores.exports import Erased, Exported
from memory_service.stores.transient import TransientStore
from memory_service.values import Request, Scope, Session
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_scope,
    a_session,
    a_sitting,
    a_turn,
    a_vector,
    embed_all,
    item_id_of,
)

ANA = a_scope()
NAMES = ["s", "a/b?#\\ '\"", "ünï 会话 🙂"]

KINDS = ["session", "sitting", "request", "turn", "memory"]


async def a_life(store: Store, scope: Scope = ANA) -> list[Session]:
    """Sessions with turns, sittings, names of requests, memories of all sorts; some with vectors. Returns the heads."""
    heads = []
    for name in NAMES:
        head = a_session(name)
        await store.commit(Commit(scope=scope, session=head))
        for seq in (1, 2):
            turn = a_turn(seq, name, text=f"{scope.user_id} says {seq} in {name}", metadata={"n": 2**60, "x": [None]})
            head = head.with_turn(turn)
            request = Request(key=f"r {name} {seq}", digest="d", made_at=NOON)
            await store.commit(Commit(scope=scope, session=head, turns=(turn,), request=request))
        head = head.handed_over()
        sitting = a_sitting(name, through_seq=2)
        await store.commit(Commit(scope=scope, session=head, sittings=(sitting,)))
        heads.append(head)
    newer = a_memory("insight_b", text="tea 🙂")
    memories = (a_memory("insight_a").superseded(newer), newer, a_memory("summary_s", kind="summary", session_id="s"))
    await store.commit(Commit(scope=scope, memories=memories))
    await embed_all(store)
    await store.commit(Commit(scope=scope, memories=(a_memory("insight_c"),)))  # this one has no vector yet
    return heads


async def all_of(store: Store, scope: Scope = ANA, limit: int = 1000) -> list[Exported]:
    page = await store.export(scope, limit=limit)
    things = page.things
    while page.more:
        page = await store.export(scope, page.cursor, limit)
        assert len(page.things) <= limit
        things += page.things
        assert len(things) < 1000, "the pages never end"
    return things


async def all_users(store: Store, limit: int = 1000) -> list[Scope]:
    page = await store.users(limit=limit)
    scopes = page.scopes
    while page.more:
        page = await store.users(page.cursor, limit)
        scopes += page.scopes
        assert len(scopes) < 1000, "the pages never end"
    return scopes


def by_name(things: list[Exported]) -> dict[object, Exported]:
    assert len({thing.name for thing in things}) == len(things)
    return {thing.name: replace(thing, vector=thing.vector and replace(thing.vector, token=0)) for thing in things}


class MovingContract:
    async def test_an_export_holds_everything_that_was_written(self, store: Store) -> None:
        heads = await a_life(store)
        things = await all_of(store)
        assert [thing.session for thing in things if thing.session] == sorted(heads, key=lambda head: head.session_id)
        assert {thing.name for thing in things if thing.sitting} == {("sitting", name, 1) for name in NAMES}
        assert {thing.name for thing in things if thing.turn} == {("turn", n, seq) for n in NAMES for seq in (1, 2)}
        assert {thing.name for thing in things if thing.request} == {
            ("request", f"r {n} {seq}") for n in NAMES for seq in (1, 2)
        }
        named = ("insight_a", "insight_b", "insight_c", "summary_s")
        assert {thing.name for thing in things if thing.memory} == {("memory", name) for name in named}
        bare = [thing.name for thing in things if (thing.turn or thing.memory) and thing.vector is None]
        assert bare == [("memory", "insight_c")]
        assert len(things) == 3 + 3 + 6 + 6 + 4

    async def test_sessions_come_before_what_is_in_them_and_turns_in_their_order(self, store: Store) -> None:
        await a_life(store)
        kinds = [thing.name[0] for thing in await all_of(store)]
        assert kinds == sorted(kinds, key=lambda kind: KINDS.index(str(kind)))
        turns = [thing.turn for thing in await all_of(store) if thing.turn]
        assert [(turn.session_id, turn.seq) for turn in turns] == [(n, seq) for n in NAMES for seq in (1, 2)]

    async def test_each_kind_comes_in_the_order_of_its_names_whatever_it_was_written_in(self, store: Store) -> None:
        other = TransientStore()
        await a_life(other)
        things = await all_of(other)
        turns = [thing for thing in things if thing.turn]
        named = [thing for thing in things if not thing.turn]
        heads = [thing for thing in named if thing.session]
        await store.restore(ANA, [*heads[::-1], *(thing for thing in named[::-1] if not thing.session), *turns])
        assert [thing.name for thing in await all_of(store)] == [thing.name for thing in things]
        assert [thing.name for thing in await all_of(store, limit=2)] == [thing.name for thing in things]
        assert [thing.name for thing in named] == sorted(
            (thing.name for thing in named), key=lambda name: (KINDS.index(str(name[0])), name)
        )

    @pytest.mark.parametrize("limit", [1, 2, 5])
    async def test_an_export_page_by_page_is_the_same(self, store: Store, limit: int) -> None:
        await a_life(store)
        assert await all_of(store, limit=limit) == await all_of(store)

    async def test_what_was_exported_is_restored_whole(self, store: Store) -> None:
        await a_life(store)
        things = await all_of(store)
        await store.erase(ANA)
        await store.restore(ANA, things)
        assert by_name(await all_of(store)) == by_name(things)

    async def test_a_restored_user_goes_on_where_they_were(self, store: Store) -> None:
        heads = await a_life(store)
        things = await all_of(store)
        await store.erase(ANA)
        await store.restore(ANA, things)
        key = a_key("s")
        hot = await store.load(key)
        assert hot is not None
        assert hot.session == heads[0]
        assert [turn.seq for turn in hot.turns] == [1, 2]
        turn = a_turn(3)
        await store.commit(Commit(scope=ANA, session=hot.session.with_turn(turn), turns=(turn,)))
        assert [turn.seq for turn in await store.turns(key)] == [1, 2, 3]
        effect = await store.find_effect(ANA, "r s 1")
        assert effect is not None
        assert effect.turn_id == "t1"
        (sitting,) = await store.sittings(key)
        await store.commit(Commit(scope=ANA, sittings=(sitting.claimed(NOON),)))
        entries = await store.entries(ANA, None, "space")
        assert len(entries.turns) == 7
        assert {memory.memory_id for memory in entries.memories if not memory.valid_to} == {
            *("insight_b", "insight_c", "summary_s")
        }
        embedded = {vector.item_id for vector in entries.vectors}
        assert {"s#1", "insight_b"} <= embedded
        assert {item_id_of(item) for item in await store.due_vectors("space", 100)} == {"insight_c", "s#3"}

    async def test_restoring_twice_changes_nothing(self, store: Store) -> None:
        await a_life(store)
        things = await all_of(store)
        await store.restore(ANA, things)
        assert by_name(await all_of(store)) == by_name(things)

    async def test_an_item_has_the_vector_of_the_space_it_was_given_one_in_last(self, store: Store) -> None:
        await a_life(store)
        for item in await store.due_vectors("another", 100):
            await store.commit(Commit(scope=ANA, vectors=(a_vector(item, "another"),)))
        things = by_name(await all_of(store))
        assert {thing.vector.space for thing in things.values() if thing.vector} == {"another"}
        assert len(things) == 22

    async def test_restoring_puts_back_what_changed_since(self, store: Store) -> None:
        await a_life(store)
        things = await all_of(store)
        hot = await store.load(a_key("s"))
        assert hot is not None
        await store.commit(Commit(scope=ANA, session=hot.session.touched(NOON)))
        await store.commit(Commit(scope=ANA, memories=(a_memory("insight_b", text="other words"),)))
        await store.restore(ANA, things)
        assert by_name(await all_of(store)) == by_name(things)

    async def test_a_vector_of_words_that_were_replaced_is_gone(self, store: Store) -> None:
        await a_life(store)
        things = [thing for thing in await all_of(store) if thing.name in (("turn", "s", 1), ("memory", "insight_b"))]
        await store.restore(ANA, [replace(thing, vector=None) for thing in things])
        vectors = (await store.entries(ANA, None, "space")).vectors
        assert not {"s#1", "insight_b"} & {vector.item_id for vector in vectors}
        assert len(await store.due_vectors("space", 100)) == 3

    async def test_a_store_takes_in_what_another_gave_out(self, store: Store) -> None:
        other = TransientStore()
        await a_life(other)
        await store.restore(ANA, await all_of(other))
        assert by_name(await all_of(store)) == by_name(await all_of(other))

    async def test_more_than_fits_one_batch_is_taken_in_and_given_out(self, store: Store) -> None:
        turns = [Exported(turn=a_turn(seq, text="x" * 5_000)) for seq in range(1, 251)]
        things = [Exported(session=a_session(turn_count=250, version=251)), *turns]
        await store.restore(ANA, things)
        assert [thing.turn for thing in await all_of(store) if thing.turn] == [thing.turn for thing in turns]

    async def test_nothing_restored_is_nothing(self, store: Store) -> None:
        await store.restore(ANA, [])
        assert await all_of(store) == []

    async def test_what_one_user_has_is_in_no_other_export(self, store: Store) -> None:
        strangers = [a_scope("ben"), a_scope("ana", "acme"), a_scope("a|na"), a_scope("na", "default|a")]
        for scope in [ANA, *strangers]:
            await a_life(store, scope)
        before = by_name(await all_of(store))
        for stranger in strangers:
            await store.erase(stranger)
            assert await all_of(store, stranger) == []
        assert by_name(await all_of(store)) == before
        assert await all_of(store, a_scope("nobody")) == []

    async def test_erasing_says_what_was_there_and_leaves_nothing(self, store: Store) -> None:
        await a_life(store)
        assert await store.erase(ANA) == Erased(sessions=3, sittings=3, requests=6, turns=6, memories=4)
        assert await store.erase(ANA) == Erased()
        assert await all_of(store) == []
        assert await store.load(a_key("s")) is None
        assert await store.turns(a_key("s")) == []
        assert await store.due_vectors("space", 10) == []
        assert await store.due_reflections(NOON, 10) == []
        assert await all_users(store) == []
        entries = await store.entries(ANA, None, "space")
        assert (entries.turns, entries.memories, entries.vectors) == ([], [], [])

    async def test_an_erased_user_may_begin_anew(self, store: Store) -> None:
        await a_life(store)
        await store.erase(ANA)
        await a_life(store)
        assert len(await all_of(store)) == 22

    async def test_a_vector_computed_for_erased_words_is_dropped(self, store: Store) -> None:
        await a_life(store)
        (late,) = await store.due_vectors("space", 10)
        await store.erase(ANA)
        await store.commit(Commit(scope=ANA, vectors=(a_vector(late),)))
        assert [thing.name for thing in await all_of(store)] == []
        assert (await store.users()).scopes == [], "not even the name"

    @pytest.mark.parametrize("limit", [1, 2, 1000])
    async def test_every_user_is_named_once(self, store: Store, limit: int) -> None:
        scopes = [a_scope(f"u{n}", tenant) for n in range(3) for tenant in ("default", "acme|x")]
        scopes += [a_scope("ünï 🙂"), a_scope("%7C")]
        for scope in scopes:
            await store.commit(Commit(scope=scope, session=a_session(), memories=(a_memory("summary_x"),)))
            await store.commit(Commit(scope=scope, memories=(a_memory("insight_x"),)))
        only_memories = a_scope("only memories")
        await store.commit(Commit(scope=only_memories, memories=(a_memory("insight_x"), a_memory("chunk_x"))))
        found = await all_users(store, limit)
        assert len(found) == len(set(found))
        assert set(found) == {*scopes, only_memories}

    async def test_of_nobody_there_is_nobody(self, store: Store) -> None:
        assert await all_users(store) == []

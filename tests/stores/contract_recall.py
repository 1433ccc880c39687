"""Memories, the entries recall follows, and vectors."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from memory_service.stores.base import Commit, Entries, Store
from memory_service.values import KINDS, TRUSTS, Memory, turn_item_id
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_scope,
    a_sitting,
    a_vector,
    begin,
    embed_all,
    item_id_of,
    minutes,
)

ANA = a_scope()


async def keep(store: Store, *memories: Memory) -> None:
    await store.commit(Commit(scope=ANA, memories=memories))


async def ids(store: Store, *args: Any, **choice: Any) -> list[str]:
    return [memory.memory_id for memory in await store.memories(ANA, *args, **choice)]


async def followed(store: Store, cursor: Any = None, space: str = "space", limit: int = 2000) -> list[Entries]:
    """All pages since the cursor."""
    pages = [await store.entries(ANA, cursor, space, limit)]
    while pages[-1].more:
        pages.append(await store.entries(ANA, pages[-1].cursor, space, limit))
        assert len(pages) < 100, "the pages never end"
    return pages


def names(pages: list[Entries]) -> list[str]:
    """Names of all items in these pages; a vector's ends in `+`."""
    found: list[str] = []
    for page in pages:
        found += [turn_item_id(turn.session_id, turn.seq) for turn in page.turns]
        found += [memory.memory_id for memory in page.memories]
        found += [f"{vector.item_id}+" for vector in page.vectors]
    return found


class RecallContract:
    # Memories

    async def test_memories_are_given_by_kind(self, store: Store) -> None:
        await keep(store, *(a_memory(kind, kind=kind) for kind in KINDS))
        for kind in KINDS:
            assert await ids(store, [kind]) == [kind]
        assert sorted(await ids(store, ["insight", "summary"])) == ["insight", "summary"]
        assert await ids(store, []) == []
        assert sorted(await ids(store, KINDS)) == sorted(KINDS)

    async def test_a_memory_is_found_by_its_id_alone_whatever_became_of_it(self, store: Store) -> None:
        old = a_memory("old", tags=("a", "b"))
        await keep(store, old, a_memory("summary_1", kind="summary"), a_memory("gone"))
        await store.commit(Commit(scope=a_scope("ben"), memories=(a_memory("his"),)))
        assert await store.find_memory(ANA, "old") == old
        assert await store.find_memory(ANA, "summary_1") == a_memory("summary_1", kind="summary")
        await keep(store, old.superseded(a_memory("new")), a_memory("gone").deleted(minutes(1)))
        assert await store.find_memory(ANA, "old") == old.superseded(a_memory("new"))
        assert await store.find_memory(ANA, "gone") == a_memory("gone").deleted(minutes(1))
        assert [await store.find_memory(ANA, name) for name in ("his", "", "s#1", "ol")] == [None] * 4

    async def test_of_a_deleted_memory_only_the_id_is_left_and_its_followers_are_told(self, store: Store) -> None:
        await keep(store, a_memory("m", text="walnuts", metadata={"a": "walnuts"}, tags=("walnuts",)))
        await embed_all(store)
        pages = await followed(store)
        await keep(store, a_memory("m").deleted(minutes(1)))
        assert await ids(store, ["insight"]) == []
        assert "walnuts" not in str(await store.memories(ANA, ["insight"], superseded=True))
        (page,) = await followed(store, pages[-1].cursor)
        assert [(memory.memory_id, memory.valid_to) for memory in page.memories] == [("m", minutes(1))]
        assert names(await followed(store))[0] == "m", "who comes later is told too, and finds no vector"
        assert "m+" not in names(await followed(store))
        assert "walnuts" not in str((await store.export(ANA)).things)

    async def test_how_far_a_memory_and_a_summary_are_trusted_is_kept_through_every_door(self, store: Store) -> None:
        await begin(store, a_key(), turns=3)
        sitting = a_sitting().done("all of it", 1, NOON, "low")
        await store.commit(Commit(scope=ANA, sittings=(replace(sitting, version=1),)))
        for trust in TRUSTS:
            memory = a_memory(f"of {trust}", trust=trust)
            await keep(store, memory)
            assert await store.find_memory(ANA, memory.memory_id) == memory
        assert [one.summary_trust for one in await store.sittings(a_key())] == ["low"]
        (page,) = await followed(store)
        listed = await store.memories(ANA, ["insight"])
        for told in (page.memories, listed, (await store.items(ANA, [one.memory_id for one in listed], "")).memories):
            assert {one.memory_id: one.trust for one in told} == {f"of {trust}": trust for trust in TRUSTS}

    async def test_memories_come_newest_first_and_by_id_among_equals(self, store: Store) -> None:
        times = {"e": 0, "b": 1, "d": 1, "a": 1, "c": 2}
        for memory_id, when in times.items():
            await keep(store, a_memory(memory_id, created_at=minutes(when)))
        assert await ids(store, ["insight"]) == ["c", "a", "b", "d", "e"]
        assert await ids(store, ["insight"], limit=2) == ["c", "a"]
        assert await ids(store, ["insight"], limit=0) == []

    async def test_a_list_goes_on_after_a_place_in_it(self, store: Store) -> None:
        times = {"e": 0, "b": 1, "d": 1, "a": 1, "c": 2}
        kinds = {"a": "summary", "d": "episode"}
        for memory_id, when in times.items():
            await keep(store, a_memory(memory_id, created_at=minutes(when), kind=kinds.get(memory_id, "insight")))
        in_order = await ids(store, KINDS)
        assert in_order == ["c", "a", "b", "d", "e"]
        for count, memory_id in enumerate(in_order, 1):
            assert await ids(store, KINDS, after=(minutes(times[memory_id]), memory_id)) == in_order[count:]
        assert await ids(store, KINDS, after=(minutes(1), "aa"), limit=1) == ["b"], "as if it were still there"
        assert await ids(store, KINDS, after=(minutes(1), "aa"), since=minutes(1)) == ["b", "d"]

    async def test_the_limit_cuts_after_all_kinds_are_put_in_order(self, store: Store) -> None:
        await keep(store, a_memory("old", kind="insight"), a_memory("new", kind="summary", created_at=minutes(1)))
        assert await ids(store, ["insight", "summary"], limit=1) == ["new"]

    async def test_since_takes_that_moment_and_later(self, store: Store) -> None:
        await keep(store, *(a_memory(f"m{when}", created_at=minutes(when)) for when in (-1, 0, 1)))
        assert await ids(store, ["insight"], since=NOON) == ["m1", "m0"]
        assert await ids(store, ["insight"], since=minutes(2)) == []

    async def test_a_superseded_memory_is_kept_and_only_shown_when_asked_for(self, store: Store) -> None:
        old, new = a_memory("old"), a_memory("new", created_at=minutes(1))
        await keep(store, old)
        await keep(store, old.superseded(new), new)
        assert await ids(store, ["insight"]) == ["new"]
        assert await ids(store, ["insight"], limit=5) == ["new"]
        assert await store.memories(ANA, ["insight"], superseded=True) == [new, old.superseded(new)]

    async def test_a_memory_written_again_replaces_the_earlier_one(self, store: Store) -> None:
        await keep(store, a_memory("m", text="first"), a_memory("other"))
        again = a_memory("m", kind="summary", text="second", created_at=minutes(5))
        await keep(store, again)
        assert await store.memories(ANA, KINDS) == [again, a_memory("other")]
        assert await ids(store, ["insight"]) == ["other"]

    # Entries

    async def test_entries_of_a_user_with_nothing_are_empty(self, store: Store) -> None:
        (page,) = await followed(store)
        assert (page.turns, page.memories, page.vectors, page.more) == ([], [], [], False)

    async def test_pages_of_any_size_give_everything_exactly_once_and_then_nothing(self, store: Store) -> None:
        await begin(store, a_key(), turns=5)
        await keep(store, *(a_memory(f"m{number}") for number in range(5)))
        await embed_all(store)
        items = [turn_item_id("s", seq) for seq in range(1, 6)] + [f"m{number}" for number in range(5)]
        expected = sorted([*items, *(f"{item}+" for item in items)])
        for limit in (1, 2, 3, 5, 7, 100):
            pages = await followed(store, limit=limit)
            assert sorted(names(pages)) == expected
            assert names(await followed(store, pages[-1].cursor, limit=limit)) == []

    async def test_no_page_is_larger_than_asked_for(self, store: Store) -> None:
        await begin(store, a_key(), turns=5)
        await keep(store, *(a_memory(f"m{number}") for number in range(5)))
        await embed_all(store)
        for page in await followed(store, limit=2):
            assert max(len(page.turns), len(page.memories), len(page.vectors)) <= 2

    async def test_turns_of_a_session_come_in_order(self, store: Store) -> None:
        await begin(store, a_key(), turns=7)
        turns = [turn.seq for page in await followed(store, limit=3) for turn in page.turns]
        assert turns == [1, 2, 3, 4, 5, 6, 7]

    async def test_a_cursor_sees_what_was_committed_since(self, store: Store) -> None:
        await begin(store, a_key(), turns=2)
        cursor = (await followed(store))[-1].cursor
        await begin(store, a_key("s2"), turns=1)
        pages = await followed(store, cursor)
        assert names(pages) == ["s2#1"]
        await keep(store, a_memory("m"))
        pages = await followed(store, pages[-1].cursor)
        assert names(pages) == ["m"]
        await embed_all(store)
        since = await followed(store, pages[-1].cursor)
        assert sorted(names(since)) == ["m+", "s#1+", "s#2+", "s2#1+"]

    async def test_a_memory_written_again_comes_again_and_the_later_one_holds(self, store: Store) -> None:
        await keep(store, a_memory("m", text="first"), a_memory("other"))
        pages = await followed(store)
        again = a_memory("m", text="second")
        await keep(store, again)
        since = await followed(store, pages[-1].cursor)
        assert [memory for page in since for memory in page.memories] == [again]
        anew = [memory for page in await followed(store) for memory in page.memories]
        assert [memory for memory in anew if memory.memory_id == "m"][-1] == again

    async def test_a_superseded_memory_comes_again_to_be_taken_out(self, store: Store) -> None:
        old, new = a_memory("old"), a_memory("new")
        await keep(store, old)
        pages = await followed(store)
        await keep(store, old.superseded(new), new)
        since = [memory for page in await followed(store, pages[-1].cursor) for memory in page.memories]
        assert sorted(memory.memory_id for memory in since) == ["new", "old"]
        assert old.superseded(new) in since

    async def test_only_vectors_of_the_asked_space_are_given(self, store: Store) -> None:
        await keep(store, a_memory("m"))
        for space, data in (("one", b"1111"), ("two", b"2222")):
            (item,) = await store.due_vectors(space, 10)
            await store.commit(Commit(scope=ANA, vectors=(a_vector(item, space, data),)))
        for space, data in (("two", b"2222"), ("one", b"1111")):
            (page,) = await followed(store, space=space)
            assert [(vector.item_id, vector.space, vector.data) for vector in page.vectors] == [("m", space, data)]
        (page,) = await followed(store, space="none")
        assert page.vectors == []

    async def test_a_vector_never_comes_before_its_item(self, store: Store) -> None:
        """Recall passes over a vector whose item it has not seen: coming early, it would be lost to searches."""
        await begin(store, a_key(), turns=3)
        await keep(store, *(a_memory(f"m{number}") for number in range(3)))
        for item in reversed(await store.due_vectors("space", 100)):  # a model may answer in any order
            await store.commit(Commit(scope=ANA, vectors=(a_vector(item),)))
        for limit in (1, 2, 3, 4):
            seen = names(await followed(store, limit=limit))
            for vector in [name for name in seen if name.endswith("+")]:
                assert seen.index(vector) > seen.index(vector[:-1]), f"with pages of {limit}: {seen}"

    # Vectors

    async def test_what_has_no_vector_is_due_with_its_content(self, store: Store) -> None:
        await begin(store, a_key(), turns=1)
        await keep(store, a_memory("m"))
        due = await store.due_vectors("space", 10)
        assert sorted(map(item_id_of, due)) == ["m", "s#1"]
        for item in due:
            assert item.scope == ANA
            assert (item.turn is None) != (item.memory is None)
            assert item.turn in [None, *await store.turns(a_key())]
            assert item.memory in (None, a_memory("m"))

    async def test_turns_and_memories_without_a_vector_come_oldest_first(self, store: Store) -> None:
        await begin(store, a_key(), turns=4)
        await begin(store, a_key(user_id="ben"), turns=2)
        for number in range(3):
            await keep(store, a_memory(f"m{number}", created_at=minutes(-number)))
        due = await store.due_vectors("space", 100)
        turns = [(item.scope.user_id, item.turn.seq) for item in due if item.turn]
        assert turns == [("ana", 1), ("ana", 2), ("ana", 3), ("ana", 4), ("ben", 1), ("ben", 2)]
        assert [item.memory.memory_id for item in due if item.memory] == ["m0", "m1", "m2"]

    async def test_due_vectors_of_some_users_are_all_of_theirs(self, store: Store) -> None:
        users = [a_scope(f"u{n}") for n in range(20)]
        for user in users:
            await begin(store, a_key(user_id=user.user_id), turns=1)
        wanted = [*users[3:15], a_scope("nobody")]
        due = await store.due_vectors("space", 100, wanted)
        assert {item.scope for item in due} >= set(users[3:15])
        assert len(await store.due_vectors("space", 5, wanted)) == 5
        await embed_all(store)
        assert await store.due_vectors("space", 100, wanted) == []
        assert await store.due_vectors("space", 100, []) == []

    async def test_the_limit_of_due_vectors_takes_the_first_of_them(self, store: Store) -> None:
        await begin(store, a_key(), turns=4)
        await keep(store, a_memory("m"))
        everything = await store.due_vectors("space", 100)
        assert len(everything) == 5
        for limit in range(6):
            assert await store.due_vectors("space", limit) == everything[:limit]

    async def test_nothing_is_due_once_it_has_its_vector(self, store: Store) -> None:
        await begin(store, a_key(), turns=3)
        await begin(store, a_key(user_id="ben"), turns=3)
        await keep(store, a_memory("m"))
        assert await embed_all(store) == 7
        assert await store.due_vectors("space", 10) == []

    async def test_another_space_makes_everything_due_again(self, store: Store) -> None:
        await begin(store, a_key(), turns=2)
        await keep(store, a_memory("m"))
        for space in ("m-space", "a-space", "z-space", "m-space"):  # before, after and again, as names sort
            assert await embed_all(store, space) == 3
            assert await store.due_vectors(space, 10) == []

    async def test_what_has_no_vector_at_all_comes_before_what_has_one_of_another_space(self, store: Store) -> None:
        await begin(store, a_key(), turns=2)
        await embed_all(store, "old")
        await begin(store, a_key("s2"), turns=1)
        assert [item_id_of(item) for item in await store.due_vectors("new", 10)] == ["s2#1", "s#1", "s#2"]

    async def test_a_vector_of_an_overtaken_revision_is_dropped(self, store: Store) -> None:
        await keep(store, a_memory("m", text="first"))
        (overtaken,) = await store.due_vectors("space", 10)
        await keep(store, a_memory("m", text="second"))
        await store.commit(Commit(scope=ANA, vectors=(a_vector(overtaken),)))
        (page,) = await followed(store)
        assert page.vectors == []
        (due,) = await store.due_vectors("space", 10)
        assert due.memory == a_memory("m", text="second")

    async def test_a_memory_written_again_has_no_vector_until_it_gets_a_new_one(self, store: Store) -> None:
        await keep(store, a_memory("m", text="first"))
        await embed_all(store)
        await keep(store, a_memory("m", text="second"))
        (page,) = await followed(store)
        assert page.vectors == [], "the vector of other words"
        (due,) = await store.due_vectors("space", 10)
        await store.commit(Commit(scope=ANA, vectors=(a_vector(due, data=b"anew"),)))
        (page,) = await followed(store)
        assert [vector.data for vector in page.vectors] == [b"anew"]
        assert await store.due_vectors("space", 10) == []

    async def test_a_vector_written_twice_is_one_vector(self, store: Store) -> None:
        await keep(store, a_memory("m"))
        (item,) = await store.due_vectors("space", 10)
        for data in (b"1111", b"2222"):
            await store.commit(Commit(scope=ANA, vectors=(a_vector(item, data=data),)))
        (page,) = await followed(store)
        assert [vector.data for vector in page.vectors] == [b"2222"]

    async def test_nobody_can_give_a_vector_to_anothers_item(self, store: Store) -> None:
        await keep(store, a_memory("m"))
        (item,) = await store.due_vectors("space", 10)
        await store.commit(Commit(scope=a_scope("ben"), memories=(a_memory("m"),), vectors=(a_vector(item),)))
        assert len(await store.due_vectors("space", 10)) == 2
        for scope in (ANA, a_scope("ben")):
            assert (await store.entries(scope, None, "space")).vectors == []

"""What many commits write alike goes into SQLite by one statement: the same is there as if they came one by one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.base import Commit
from memory_service.stores.sqlite import SQLiteStore, alike
from memory_service.stores.sqlite.writer import TOGETHER, Writer
from memory_service.values import Hot, Request, Session, Sitting, Unembedded, Vector
from tests.stores.sqlite_file import rows, together
from tests.support.values import NOON, a_key, a_memory, a_scope, a_vector, begin, item_id_of, new_session, next_turn

USERS = [a_scope("ana"), a_scope("ben"), a_scope("ana", "acme")]
"""Each has a name or a tenant like another's. All have sessions, turns and memories of the same names."""


async def furnished(store: SQLiteStore) -> list[Unembedded]:
    """Two turns and two memories of each user, none with a vector."""
    for scope in USERS:
        await begin(store, a_key("s", scope.user_id, scope.tenant_id), turns=2)
        await store.commit(Commit(scope=scope, memories=(a_memory("m"), a_memory("n"))))
    due = await store.due_vectors("space", 100)
    assert len(due) == 4 * len(USERS)
    return due


def of_each(due: list[Unembedded]) -> list[Commit]:
    """The vectors of each user, no two the same."""
    return [
        Commit(scope=scope, vectors=tuple(a_vector(item, data=bytes([item.token] * 8)) for item in items))
        for scope in USERS
        if (items := [item for item in due if item.scope == scope])
    ]


async def kept(store: SQLiteStore) -> dict[tuple[str, str, str], bytes]:
    """What vectors there are, by tenant, user and item."""
    return {
        (scope.tenant_id, scope.user_id, vector.item_id): vector.data
        for scope in USERS
        for vector in (await store.entries(scope, None, "space")).vectors
    }


def expected(due: list[Unembedded]) -> dict[tuple[str, str, str], bytes]:
    return {(item.scope.tenant_id, item.scope.user_id, item_id_of(item)): bytes([item.token] * 8) for item in due}


async def test_vectors_given_together_are_each_with_the_item_they_are_of(store: SQLiteStore, path: Path) -> None:
    due = await furnished(store)
    await store.follow("engine")
    before = [(await store.mirror(scope, "engine")).changed for scope in USERS]
    assert await together(store, path, of_each(due)) == [None] * len(USERS)
    assert await kept(store) == expected(due)
    assert await store.due_vectors("space", 100) == []
    after = [(await store.mirror(scope, "engine")).changed for scope in USERS]
    assert all(now > then for now, then in zip(after, before, strict=True))


async def test_vectors_turns_and_all_else_may_wait_together(store: SQLiteStore, path: Path) -> None:
    due = await furnished(store)
    hots = {key: await store.load(key) or pytest.fail() for key in [a_key("s", "ana"), a_key("s", "ben")]}
    grown = {key: next_turn(hot, key) for key, hot in hots.items()}
    turns = [commit for commit, _ in grown.values()]
    vectors = of_each(due)
    group = [vectors[0], turns[0], new_session(1), *vectors[1:], turns[1], new_session(2)]
    assert await together(store, path, group) == [None] * len(group)
    assert await kept(store) == expected(due)
    assert {key: await store.load(key) for key in hots} == {key: hot for key, (_, hot) in grown.items()}
    assert rows(path, "SELECT user_id FROM owners WHERE user_id LIKE 'user%' ORDER BY id") == [("user1",), ("user2",)]


async def test_of_what_waits_with_turns_nothing_is_left_out(store: SQLiteStore, path: Path) -> None:
    hots = {key: Hot(session=await begin(store, key)) for key in [a_key("s", "ana"), a_key("s", "ben")]}
    turns = [next_turn(hot, key)[0] for key, hot in hots.items()]
    assert await together(store, path, [*turns, new_session(1)]) == [None] * 3
    assert rows(path, "SELECT count(*) FROM turns") == [(3,)]


async def test_any_number_of_turns_is_written_without_one_of_them_being_written_by_itself(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hots = {key: Hot(session=await begin(store, key)) for key in [a_key(f"s{number}") for number in range(7)]}
    monkeypatch.setattr(Writer, "_applied", lambda writer, change: StaleVersion())
    for count in range(TOGETHER, 8):
        commits = []
        for key in list(hots)[:count]:
            commit, hots[key] = next_turn(hots[key], key)
            commits.append(commit)
        assert await together(store, path, commits) == [None] * count


OF_MORE = {
    "sittings": (Sitting(session_id="s", first_seq=1, through_seq=3, due_at=NOON),),
    "memories": (a_memory("m"),),
    "vectors": (Vector(item_id="s#1", token=1, space="space", data=b"12345678"),),
    "request": Request(key="name", digest="digest", made_at=NOON),
    "epoch": "epoch",
    "unchanged": (a_memory("m"),),
    "absent": ("m",),
}
"""What else a commit of a turn may hold, or hang on."""


def test_a_turn_is_written_with_others_only_where_its_commit_is_of_nothing_else() -> None:
    head = Session(session_id="s", incarnation="i", created_at=NOON, touched_at=NOON)
    plain, _ = next_turn(Hot(session=head), a_key("s", "ana"))
    assert alike.appends(plain)
    assert {*OF_MORE, "scope", "session", "turns"} == set(Commit.__struct_fields__)
    for field, value in OF_MORE.items():
        assert not alike.appends(replace(plain, **{field: value})), field
    for field, value in {"turns": (), "session": None}.items():
        assert not alike.appends(replace(plain, **{field: value})), field


async def test_the_vector_of_an_item_that_was_written_anew_is_dropped_and_no_other(
    store: SQLiteStore, path: Path
) -> None:
    due = await furnished(store)
    await store.commit(Commit(scope=USERS[0], memories=(a_memory("m", text="other words"),)))
    assert await together(store, path, of_each(due)) == [None] * len(USERS)
    gone = ("default", "ana", "m")
    assert await kept(store) == {name: data for name, data in expected(due).items() if name != gone}
    assert [item_id_of(item) for item in await store.due_vectors("space", 100)] == ["m"]


async def test_a_vector_is_written_to_no_item_of_another_user(store: SQLiteStore, path: Path) -> None:
    due = await furnished(store)
    ours = [item for item in due if item.scope == USERS[0]]
    forged = Commit(scope=USERS[1], vectors=tuple(a_vector(item) for item in ours))
    unknown = Commit(scope=a_scope("eve"), vectors=tuple(a_vector(item) for item in ours))
    assert await together(store, path, [forged, unknown]) == [None, None]
    assert await kept(store) == {}
    assert rows(path, "SELECT count(*) FROM turns WHERE space IS NOT NULL") == [(0,)]
    assert len(await store.due_vectors("space", 100)) == len(due)


@pytest.mark.parametrize("count", [1, 2])
async def test_late_vectors_do_not_bring_back_the_name_of_one_who_was_erased(
    store: SQLiteStore, path: Path, count: int
) -> None:
    await store.follow("engine")
    await begin(store, a_key(), turns=2)
    due = await store.due_vectors("space", 10)
    await store.erase(a_scope(), "an erasure")
    for mirror in await store.claim_mirrors("engine", NOON, NOON + timedelta(days=1), 10):
        await store.put_mirror(mirror, caught_up=True, lease_until=None)
    await store.commit(Commit(scope=a_scope(), vectors=tuple(map(a_vector, due[:count]))))
    assert rows(path, "SELECT user_id FROM mirrors") == []


async def test_a_vector_made_anew_takes_the_place_of_the_former_and_is_seen_by_who_follows(
    store: SQLiteStore, path: Path
) -> None:
    due = await furnished(store)
    await together(store, path, of_each(due))
    seen = (await store.entries(USERS[0], None, "space")).cursor
    again = [Commit(scope=one.scope, vectors=tuple(_moved(vector) for vector in one.vectors)) for one in of_each(due)]
    assert await together(store, path, again) == [None] * len(USERS)
    news = (await store.entries(USERS[0], seen, "space")).vectors
    assert {vector.data for vector in news} == {b"\1" * 8}
    assert set((await kept(store)).values()) == {b"\1" * 8}


def _moved(vector: Vector) -> Vector:
    return Vector(item_id=vector.item_id, token=vector.token, space=vector.space, data=b"\1" * 8, texts=vector.texts)


async def test_more_rows_than_one_statement_takes_are_one_commit_all_the_same(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alike, "MOST_ROWS", 3)
    due = await furnished(store)
    assert await together(store, path, of_each(due)) == [None] * len(USERS)
    assert await kept(store) == expected(due)
    hots = {key: Hot(session=await begin(store, key)) for key in [a_key(f"t{number}") for number in range(7)]}
    behind, *right = [next_turn(hot, key)[0] for key, hot in hots.items()]
    await store.commit(behind)
    outcomes = await together(store, path, [*right, behind])  # the last statement fails, and none of the first may stay
    assert [outcome is None for outcome in outcomes] == [True] * 6 + [False]
    assert rows(
        path,
        "SELECT count(*) FROM turns WHERE turn_id = 't1' AND session IN"
        " (SELECT id FROM sessions WHERE session_id LIKE 't_')",
    ) == [(7,)]

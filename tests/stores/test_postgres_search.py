"""Search by PostgreSQL's own entries, and what is done where there are none: without pgvector, or not of everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import psycopg
import pytest

from memory_service.errors import UnsafeStart
from memory_service.stores import indexing
from memory_service.stores.base import Commit, Store
from memory_service.stores.postgres import PostgresStore, moving, schema, search
from memory_service.values import Hot, Memory, Scope
from tests.postgres.launcher import PostgresServer
from tests.postgres.proxy import pooling
from tests.stores.contract_candidates import (
    ANA,
    BEN,
    NOWHERE,
    CandidatesContract,
    asked,
    learned,
    names,
    point,
    row,
    said,
)
from tests.stores.postgres_database import everything, execute, rows, settings_for
from tests.support.stores import opened
from tests.support.values import a_key, a_memory, a_session, a_sitting, a_turn, next_turn


class TestPostgresCandidates(CandidatesContract):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[Store]:
        async with pooling(postgres_url) as proxy, opened(settings_for(proxy.url, store_search="store")) as store:
            yield store


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with opened(settings_for(postgres_url, store_search="store")) as store:
        assert isinstance(store, PostgresStore)
        yield store


# Who searches


@pytest.mark.parametrize(
    ("wish", "by", "why"),
    [
        ("auto", "store", "STORE_SEARCH=auto: users with more than 500 turns"),
        ("store", "store", "STORE_SEARCH=store: all users"),
        ("process", "process", "STORE_SEARCH=process"),
    ],
)
async def test_a_database_with_pgvector_searches_unless_it_shall_not(
    postgres_url: str, wish: str, by: str, why: str
) -> None:
    async with opened(settings_for(postgres_url, store_search=wish)) as store:
        assert (store.searched_by, store.searched_why) == (by, why)
        await said(store, "I am allergic to walnuts")
    held = everything(postgres_url).get("search_entries") if by == "store" else None
    assert (held is not None) == (by == "store")
    tables = rows(postgres_url, "SELECT to_regclass('search_entries') IS NOT NULL")
    assert tables == [(by == "store",)], "what is not used is not made either"


@pytest.fixture
def plain_url(postgres_url: str) -> Iterator[str]:
    """URL of the database for somebody who may make tables and no extensions."""
    execute(postgres_url, "CREATE ROLE plain LOGIN; GRANT ALL ON SCHEMA public TO plain")
    yield postgres_url.replace("postgres@", "plain@")
    execute(postgres_url, "REASSIGN OWNED BY plain TO postgres; DROP OWNED BY plain; DROP ROLE plain")


async def test_where_pgvector_may_not_be_made_the_process_searches(
    plain_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(plain_url) as store:
        assert store.searched_by == "process"
        assert store.searched_why == "no pgvector: CREATE EXTENSION vector was refused (InsufficientPrivilege)"
        (told,) = [record for record in caplog.records if record.message == "the store does not search"]
        assert vars(told)["reason"] == store.searched_why
        await said(store, "I am allergic to walnuts")
        assert not await store.narrows(ANA)


async def test_where_pgvector_may_not_be_made_and_must_be_there_is_no_start(plain_url: str) -> None:
    with pytest.raises(UnsafeStart, match=r"STORE_SEARCH=store: no pgvector: CREATE EXTENSION vector"):
        async with opened(settings_for(plain_url, store_search="store")):
            pass


async def test_pgvector_out_of_sight_is_as_good_as_none(postgres_url: str) -> None:
    execute(postgres_url, "CREATE SCHEMA elsewhere; CREATE EXTENSION vector SCHEMA elsewhere")
    async with opened(postgres_url) as store:
        assert (store.searched_by, store.searched_why) == (
            "process",
            "pgvector 0.7 or later, in the search path, is needed",
        )
        await said(store, "I am allergic to walnuts")


async def test_once_pgvector_is_there_who_comes_after_is_narrowed_and_who_was_there_is_read_whole(
    plain_url: str, postgres_url: str
) -> None:
    async with opened(plain_url) as store:
        await said(store, "I am allergic to walnuts")
    execute(postgres_url, "CREATE EXTENSION vector")
    async with opened(settings_for(plain_url, store_search="store")) as store:
        assert store.searched_by == "store"
        await said(store, "I am allergic to walnuts", scope=BEN)
        await said(store, "walnuts again", session_id="later")
        assert [await store.narrows(scope) for scope in (ANA, BEN)] == [False, True]
        assert names(await asked(store, "walnuts", scope=BEN)) == ["s#1"]


# What is made, and made anew


async def waits(url: str) -> None:
    """Until somebody waits for a lock."""
    async with asyncio.timeout(10):
        while not rows(url, "SELECT FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 (nobody in the server rings)
            await asyncio.sleep(0.01)


async def test_who_begins_to_search_does_not_get_into_the_way_of_a_commit_under_way(postgres_url: str) -> None:
    """It locks a user's row, then writes to it; a start that took a lesser lock before made each wait for the other."""

    async def starts() -> str:
        async with opened(postgres_url) as store:
            return store.searched_by

    async with opened(settings_for(postgres_url, store_search="process")) as store:
        await said(store, "I am allergic to walnuts")
    async with await psycopg.AsyncConnection.connect(postgres_url) as commit:
        await commit.execute("SELECT FROM owners FOR UPDATE")
        start = asyncio.create_task(starts())
        await waits(postgres_url)
        await commit.execute("UPDATE owners SET written = written + 1")
        await commit.commit()
        assert await start == "store"


async def test_a_change_of_the_schema_does_not_wait_long_for_a_backup(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind it everybody waits."""
    monkeypatch.setattr(schema, "LOCK_S", 0.1)
    async with opened(settings_for(postgres_url, store_search="process")):
        pass
    with psycopg.connect(postgres_url) as backup:
        backup.execute("LOCK TABLE owners IN ACCESS SHARE MODE")
        with pytest.raises(UnsafeStart, match=r"another connection holds a table \(a backup\?\); start again"):
            async with opened(postgres_url):
                pass
    async with opened(postgres_url) as store:
        assert store.searched_by == "store"


@pytest.mark.parametrize(
    "loss",
    ["DROP EXTENSION vector CASCADE", "DROP TABLE search_entries"],
    ids=["dropped with the extension", "left out where a dump was restored without the extension"],
)
async def test_entries_that_are_gone_are_begun_anew(postgres_url: str, loss: str) -> None:
    async with opened(postgres_url) as store:
        await said(store, "I am allergic to walnuts")
    execute(postgres_url, loss)
    async with opened(settings_for(postgres_url, store_search="store")) as store:
        await said(store, "walnuts again", session_id="later")
        await said(store, "I am allergic to walnuts", scope=BEN)
        assert [await store.narrows(scope) for scope in (ANA, BEN)] == [False, True]
        assert names(await asked(store, "walnuts", scope=BEN)) == ["s#1"]


# Whom it narrows


async def test_memories_that_are_dearer_to_read_are_narrowed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "READ_WHOLE_TURNS", 2)
    async with opened(postgres_url) as store:
        await said(store, "walnuts", "cake")
        await said(store, "walnuts", "cake", "tea", scope=BEN)
        await learned(store, *(a_memory(f"m{number}") for number in range(5)))
        assert not await store.narrows(ANA), "two turns, whatever was learned from them"
        assert await store.narrows(BEN)
        assert not await store.narrows(Scope(user_id="nobody"))
        await said(store, "tea", session_id="later")
        assert await store.narrows(ANA)


async def test_of_whom_another_writes_without_entries_all_is_read(store: Store, postgres_url: str) -> None:
    """A process of the same record that was told not to search, or started before there was pgvector."""
    await said(store, "I am allergic to walnuts")
    await said(store, "I am allergic to walnuts", scope=BEN)
    await learned(store, a_memory("m", text="eats no walnuts"))
    async with opened(settings_for(postgres_url, store_search="process")) as other:
        await learned(other, a_memory("m", text="eats walnuts again"))
    assert [await store.narrows(scope) for scope in (ANA, BEN)] == [False, True]
    assert names(await asked(store, "walnuts")) == ["s#1"], "of another revision nothing is found"
    await said(store, "tea", session_id="later")
    assert not await store.narrows(ANA), "what is missing does not come by itself"


async def test_of_whom_another_writes_vectors_without_directions_all_is_read(store: Store, postgres_url: str) -> None:
    await learned(store, a_memory("m"))
    async with opened(settings_for(postgres_url, store_search="process")) as other:
        await point(other, {"m": row(1)})
    assert not await store.narrows(ANA)


@pytest.mark.parametrize("function", ["commit_with_entries", "commit_change"])
async def test_of_two_who_write_the_first_of_a_user_both_count(
    store: PostgresStore, postgres_url: str, function: str
) -> None:
    first = Commit(scope=ANA, session=a_session("first", turn_count=1), turns=(a_turn(1, "first", text="walnuts"),))
    change = await store._commits.change_of(first)
    async with await psycopg.AsyncConnection.connect(postgres_url) as other:
        await other.execute(f"SELECT {function}('default', 'ana', %s, false)".encode(), (change,))
        second = asyncio.create_task(said(store, "walnuts", session_id="second"))
        await waits(postgres_url)
        await other.commit()
        await second
    assert await store.narrows(ANA) == (function == "commit_with_entries")
    await said(store, "tea", session_id="later")
    assert await store.narrows(ANA) == (function == "commit_with_entries")


async def test_who_is_moved_here_whole_is_narrowed(store: Store, postgres_server: PostgresServer) -> None:
    """What a database without entries holds gets them on its way into another."""
    url = postgres_server.new_database()
    try:
        async with opened(settings_for(url, store_search="process")) as other:
            await said(other, "I am allergic to walnuts", "The weather is fine")
            await learned(other, a_memory("m", text="eats no walnuts"), a_memory("gone", text="walnuts"))
            await learned(other, a_memory("gone", text="walnuts").superseded(a_memory("m")))
            await point(other, {"s#1": np.stack([row(1), row(1)]), "m": row(0, 1)})
            things = (await other.export(ANA)).things
        await store.restore(ANA, things)
        await store.restore(ANA, things)
    finally:
        postgres_server.drop_database(url)
    assert await store.narrows(ANA)
    assert names(await asked(store, "walnuts")) == ["m", "s#1"]
    assert names(await asked(store, "", row(1), limit=1, kinds=["message"])) == ["s#1"]
    await said(store, "walnuts", session_id="later")
    assert await store.narrows(ANA)


async def test_what_is_too_much_for_one_transaction_is_moved_in_several(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand long turns are a hundred megabytes: they were not written in the time of a call, however often."""
    await said(store, *["walnuts"] * 7)
    await learned(store, a_memory("m", text="walnuts"))
    things = (await store.export(ANA)).things
    monkeypatch.setattr(moving, "AT_ONCE", 500)
    await store.restore(BEN, things)
    assert (await store.export(BEN)).things == things
    assert store.usage()["verbs"]["restore"]["round_trips"] > 40
    assert await store.narrows(BEN)
    assert names(await asked(store, "walnuts", scope=BEN)) == ["m", *(f"s#{seq}" for seq in range(1, 8))]


# What is kept


async def test_a_commit_made_again_for_a_lost_answer_leaves_what_came_after_it(
    store: PostgresStore, postgres_url: str
) -> None:
    head = a_session()
    await store.commit(Commit(scope=ANA, session=head))
    turn, _ = next_turn(Hot(session=head), a_key(), text="walnuts")
    await store.commit(turn)
    await point(store, {"s#1": np.stack([row(1), row(1)])})
    before = everything(postgres_url)
    change = await store._commits.change_of(turn)
    rows(postgres_url, "SELECT commit_with_entries('default', 'ana', %s, true)", change)
    assert everything(postgres_url) == before
    assert names(await asked(store, "", row(1))) == ["s#1"]
    assert await store.narrows(ANA)


async def test_a_commit_made_again_for_a_lost_answer_brings_nothing_back_that_others_wrote_over(
    store: PostgresStore, postgres_url: str
) -> None:
    old, new = a_memory("old", text="lives in Porto"), a_memory("new", text="lives in Lisbon")
    sitting = a_sitting()
    await said(store, "hello")
    await store.commit(Commit(scope=ANA, sittings=(sitting,)))

    async def twice(memory: Memory, between: Memory) -> None:
        """Its answer is lost, and before it is sent again somebody else writes the memory."""
        nonlocal sitting
        sitting = sitting.replayed(sitting.due_at)
        commit = Commit(scope=ANA, sittings=(sitting,), memories=(memory,))
        await store.commit(commit)
        await learned(store, between)
        change = await store._commits.change_of(commit)
        rows(postgres_url, "SELECT commit_with_entries('default', 'ana', %s, true)", change)

    await twice(old, old.superseded(new))
    assert names(await asked(store, "Porto")) == []
    await twice(new.superseded(old), new)
    assert names(await asked(store, "Lisbon")) == ["new"]
    assert await store.narrows(ANA)


async def test_of_a_user_who_is_erased_no_entry_is_left(store: Store, postgres_url: str) -> None:
    await said(store, "I am allergic to walnuts")
    await said(store, "tea", scope=BEN)
    await learned(store, a_memory("m"))
    await store.erase(ANA)
    (left,) = everything(postgres_url)["search_entries"]
    assert "'teaq'" in str(left)


async def test_searches_that_take_long_leave_connections_to_others(store: Store, postgres_url: str) -> None:
    """They had all ten, and a turn was stored after five seconds."""
    await said(store, "walnuts")
    with psycopg.connect(postgres_url) as slow:
        slow.execute("LOCK TABLE search_entries")
        searches = [asyncio.create_task(asked(store, "walnuts")) for _ in range(30)]
        await waits(postgres_url)
        async with asyncio.timeout(4):
            for _ in range(5):
                assert await store.head(a_key()) is not None
    assert [names(found) for found in await asyncio.gather(*searches)] == [["s#1"]] * 30


async def test_long_texts_are_not_unpacked_anew_for_each_word_of_a_question(store: Store, postgres_url: str) -> None:
    """Five times the time: it is what made the search of a few thousand long turns too slow to be answered."""
    terms = [f"term{number}" for number in range(30)]
    await said(store, " ".join([*terms, *(f"word{number}" for number in range(15_000))]))
    assert names(await asked(store, " ".join(terms))) == ["s#1"]
    toast = "SELECT reltoastrelid FROM pg_class WHERE relname = 'search_entries'"
    ((pages,),) = rows(postgres_url, f"SELECT pg_relation_size(({toast})) / 8192")
    sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) WITH {search.MINE}, {search.BY_WORDS} SELECT FROM by_words"
    values = {"tenant": "default", "user": "ana", "kinds": ["message"], "with_extracts": False, "limit": 50}
    values |= {"terms": [f"{term}q" for term in terms], "any_term": " | ".join(f"{term}q" for term in terms)}
    with psycopg.connect(postgres_url) as db:
        ((plan,),) = db.execute(sql.encode(), values).fetchall()
    assert pages > 5
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 6 * pages


async def test_among_many_users_one_is_found_by_an_index(store: Store, postgres_url: str) -> None:
    for number in range(60):
        await said(store, *["walnuts and cake"] * 30, scope=Scope(user_id=f"user-{number}"))
    await said(store, "walnuts")
    execute(postgres_url, "ANALYZE")
    parts = [search.MINE, search.BY_WORDS, search.BY_DIRECTION]
    arms = "SELECT item_id FROM by_words UNION SELECT item_id FROM by_direction"
    sql = f"EXPLAIN WITH {', '.join([*parts, search.FOUND.format(arms=arms)])}"
    values = {"tenant": "default", "user": "ana", "kinds": ["message"], "with_extracts": False, "space": "space"}
    values |= {"terms": ["walnutq"], "any_term": "walnutq", "direction": str([1] * 256), "limit": 50}
    with psycopg.connect(postgres_url) as db:
        plan = "\n".join(line for (line,) in db.execute(sql.encode(), values).fetchall())
    assert "Index Cond: (owner = " in plan
    assert "Seq Scan on search_entries" not in plan
    assert names(await asked(store, "walnuts", NOWHERE)) == ["s#1"]

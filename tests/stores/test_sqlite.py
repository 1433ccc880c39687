"""The embedded store keeps the contract; and what only SQLite does: group commit, on a disk that may fail."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from memory_service.chaos.disk import FailingDisk
from memory_service.errors import Overloaded, StaleVersion, StorageFull, StoreFailed, StoreUnavailable
from memory_service.stores.aging import Tenants
from memory_service.stores.base import Commit, DuplicateTurn
from memory_service.stores.sqlite import SQLiteStore, aging, schema, writer
from memory_service.values import Hot
from tests.stores.contract import DurableStoreContract
from tests.stores.sqlite_file import (
    PATIENCE_S,
    contents,
    everything,
    handed_over,
    other_process,
    raw,
    rows,
    together,
    writing_blocked,
)
from tests.support.background import until
from tests.support.stores import opened, store_of
from tests.support.values import (
    NOON,
    a_key,
    a_memory,
    a_scope,
    a_session,
    a_sitting,
    a_turn,
    begin,
    new_session,
    next_turn,
)


class TestSQLiteStore(DurableStoreContract):
    @pytest.fixture
    def record(self, url: str) -> str:
        return url

    def everything(self, store: Any) -> Any:
        return everything(store._path)

    def contents(self, store: Any) -> list[str]:
        return contents(store._path)


# What is promised of durability


async def test_it_promises_fsync_and_its_writer_is_set_to_keep_that(store: SQLiteStore, path: Path) -> None:
    assert store.capabilities.durability == "fsync"
    assert store.capabilities.exclusive
    assert store._writer._db.pragma("synchronous") == 2  # FULL
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


async def test_the_writer_keeps_references_and_erases_what_is_deleted(store: SQLiteStore) -> None:
    assert store._writer._db.pragma("foreign_keys") == 1
    assert store._writer._db.pragma("secure_delete") == 1


async def test_readers_cannot_write(store: SQLiteStore) -> None:
    with pytest.raises(apsw.ReadOnlyError):
        await store._read(lambda db: db.execute("DELETE FROM owners"))


async def test_what_is_acknowledged_is_in_the_file_at_once(store: SQLiteStore, path: Path) -> None:
    await store.commit(new_session(1))
    assert contents(path) == ["said 1", "You said: said 1"]


async def test_what_was_acknowledged_is_there_after_the_process_is_killed(path: Path, url: str) -> None:
    async with other_process(url, "await begin(store, a_key(), turns=7)") as other:
        assert other.said == "ready"
        await other.kill()
    async with opened(url) as store:
        assert len(await store.turns(a_key())) == 7


# Group commit


async def test_commits_that_wait_together_are_made_durable_together(store: SQLiteStore, path: Path) -> None:
    before = store.usage()["groups"]
    with writing_blocked(path):
        tasks = await handed_over(store, [new_session(number) for number in range(200)])
    await asyncio.gather(*tasks)
    usage = store.usage()
    assert usage["commits"] == 200
    assert usage["waiting_commits"] == 0
    assert usage["groups"] - before <= 2  # the one the writer had begun, and all the others
    assert sorted(contents(path)) == sorted(said for n in range(200) for said in (f"said {n}", f"You said: said {n}"))


async def test_no_group_is_larger_than_its_limit(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_GROUP", 10)
    with writing_blocked(path):
        tasks = await handed_over(store, [new_session(number) for number in range(50)])
    await asyncio.gather(*tasks)
    assert store.usage()["groups"] >= 5


async def test_one_refused_commit_in_a_group_leaves_the_others(store: SQLiteStore, path: Path) -> None:
    key = a_key()
    head = await begin(store, key, turns=1)
    repeat = a_turn(2, turn_id="t1")
    stale = Commit(scope=key.scope, session=head, memories=(a_memory("lost"),))
    duplicate = Commit(scope=key.scope, memories=(a_memory("m"),), session=head.with_turn(repeat), turns=(repeat,))
    with writing_blocked(path):
        group = [new_session(1), stale, new_session(2), duplicate, new_session(3)]
        tasks = await handed_over(store, group)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), StaleVersion, type(None), DuplicateTurn, type(None)]
    assert rows(path, "SELECT user_id FROM owners ORDER BY id") == [("ana",), ("user1",), ("user2",), ("user3",)]
    assert contents(path)[2:] == [said for n in (1, 2, 3) for said in (f"said {n}", f"You said: said {n}")]
    assert rows(path, "SELECT * FROM memories") == []
    assert (await store.load(key) or pytest.fail()).session == head


async def test_within_a_group_each_commit_sees_those_before_it(store: SQLiteStore, path: Path) -> None:
    key = a_key()
    hot = Hot(session=a_session())
    group = [Commit(scope=key.scope, session=hot.session)]
    for _ in range(5):
        commit, hot = next_turn(hot, key)
        group.append(commit)
    with writing_blocked(path):
        tasks = await handed_over(store, group)
    await asyncio.gather(*tasks)
    assert await store.load(key) == hot


# Turns that are appended together

TWINS = [a_key("s", "ana"), a_key("s", "ben"), a_key("s", "ana", "acme"), a_key("t", "ana")]
"""Each has a session, a user or a tenant like another's, and none is the same."""
WORDS = ["plain", 'quotes " and \\ and \u2028 and 😀', "long " * 3000]


async def test_turns_appended_together_are_each_where_they_belong(store: SQLiteStore, path: Path) -> None:
    hots = {key: Hot(session=await begin(store, key)) for key in TWINS}
    await store.follow("engine")
    for words in WORDS:
        commits = []
        for key, hot in hots.items():
            commit, hots[key] = next_turn(hot, key, text=f"{words} for {key}")
            commits.append(commit)
        assert await together(store, path, commits) == [None] * len(TWINS)
    for key, hot in hots.items():
        assert await store.load(key) == hot
        assert (await store.mirror(key.scope, "engine")).changed > 3
    assert rows(path, "SELECT count(*) FROM turns WHERE compressed IS NOT NULL") == [(len(TWINS),)]


def amiss(hot: Hot) -> dict[str, Commit]:
    """Turns that cannot be appended to a session of one turn of Ben's, and why not."""
    session, turn, repeat = hot.session, a_turn(2), a_turn(2, turn_id="t1")
    behind, another = replace(session, version=session.version - 1), replace(session, incarnation="another")
    nowhere = replace(session, session_id="nowhere")
    return {
        "it is behind": Commit(scope=a_scope("ben"), session=behind.with_turn(turn), turns=(turn,)),
        "of another incarnation": Commit(scope=a_scope("ben"), session=another.with_turn(turn), turns=(turn,)),
        "stored before": Commit(scope=a_scope("ben"), session=session.with_turn(repeat), turns=(repeat,)),
        "of no session": Commit(
            scope=a_scope("ben"), session=nowhere.with_turn(turn), turns=(a_turn(2, session_id="nowhere"),)
        ),
        "of a user who has none": Commit(scope=a_scope("eve"), session=session.with_turn(turn), turns=(turn,)),
    }


@pytest.mark.parametrize("why", amiss(Hot(session=a_session())))
async def test_one_turn_that_cannot_be_appended_leaves_those_it_waits_with(
    store: SQLiteStore, path: Path, why: str
) -> None:
    hots = {}
    for key in TWINS:
        await begin(store, key, turns=1)
        hots[key] = await store.load(key) or pytest.fail()
    ben = hots.pop(TWINS[1])
    grown = {key: next_turn(hot, key) for key, hot in hots.items()}
    commits = [commit for commit, _ in grown.values()]
    outcomes = await together(store, path, [commits[0], amiss(ben)[why], *commits[1:]])
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        DuplicateTurn if why == "stored before" else StaleVersion,
        *[type(None)] * (len(commits) - 1),
    ]
    assert {key: await store.load(key) for key in TWINS} == {TWINS[1]: ben} | {
        key: hot for key, (_, hot) in grown.items()
    }


async def test_nothing_is_acknowledged_or_shown_before_it_is_durable(store: SQLiteStore, path: Path) -> None:
    with writing_blocked(path):
        (task,) = await handed_over(store, [new_session(1)])
        for _ in range(5):
            assert await store.load(a_key(user_id="user1")) is None  # each a round through a reader's thread
        assert not task.done()
    await task


async def test_a_cancelled_caller_is_not_let_go_before_its_commit_is_settled(store: SQLiteStore, path: Path) -> None:
    with writing_blocked(path):
        (task,) = await handed_over(store, [new_session(1)])
        for _ in range(3):  # each cancellation anew
            task.cancel()
            await store.ping()
            assert not task.done()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.load(a_key(user_id="user1")) is not None


async def test_commits_that_wait_when_it_is_stopped_are_still_written(path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        store = store_of(url)
        await store.start(stack)
        assert isinstance(store, SQLiteStore)
        queue, submit = store._writer._queue, store._writer.submit  # a caller of `commit` cannot be torn from a hang
        with writing_blocked(path):
            waiting = [submit(new_session(0))]
            await asyncio.sleep(0)  # it is handed over
            await until(lambda: store._writer._group_begun_s)  # the writer has taken it alone, and is held up
            waiting += [submit(new_session(number)) for number in range(1, 20)]
            stopping = asyncio.create_task(stack.aclose())
            await until(lambda: queue.qsize() == 2)  # those, together, and the order to stop
        await stopping
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*waiting)
    assert len(contents(path)) == 40


async def test_after_it_was_stopped_a_verb_fails_instead_of_waiting_forever(url: str) -> None:
    async with opened(url) as store:
        await store.commit(new_session(1))
    async with asyncio.timeout(PATIENCE_S):
        for verb in (store.commit(new_session(2)), store.load(a_key()), store.ping()):
            with pytest.raises(StoreUnavailable):
                await verb


# A database that fails


def limit_pages(store: SQLiteStore, more: int) -> None:
    """Make the disk full, as far as SQLite can tell: so many pages more may be written."""
    db = store._writer._db
    db.pragma("max_page_count", db.pragma("page_count") + more)


async def test_a_full_disk_is_told_to_everybody_who_waits_and_nothing_is_acknowledged(
    store: SQLiteStore, path: Path
) -> None:
    await store.commit(new_session(0))
    before = everything(path)
    limit_pages(store, 3)
    big = [Commit(scope=a_scope(f"user{n}"), memories=(a_memory("m", text="x" * 50_000),)) for n in range(10)]
    with writing_blocked(path):
        tasks = await handed_over(store, big)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StorageFull}
    assert {type(outcome.__cause__) for outcome in outcomes if outcome} == {apsw.FullError}
    assert everything(path) == before
    assert store.usage()["waiting_commits"] == 0


async def test_it_works_again_when_there_is_room(store: SQLiteStore, path: Path) -> None:
    limit_pages(store, 3)
    big = Commit(scope=a_scope(), memories=(a_memory("m", text="x" * 50_000),))
    for _ in range(3):
        with pytest.raises(StorageFull):
            await store.commit(big)
    limit_pages(store, 10_000)
    await store.commit(big)
    assert await store.memories(a_scope(), ["insight"]) == list(big.memories)


async def test_on_a_nearly_full_disk_exactly_what_was_acknowledged_is_kept(store: SQLiteStore, path: Path) -> None:
    limit_pages(store, 40)
    commits = [Commit(scope=a_scope(), memories=(a_memory(f"m{n:02}", text="x" * 10_000),)) for n in range(30)]
    outcomes = [await asyncio.gather(store.commit(commit), return_exceptions=True) for commit in commits]
    kept = [f"m{number:02}" for number, (outcome,) in enumerate(outcomes) if outcome is None]
    assert 0 < len(kept) < 30
    assert [memory_id for (memory_id,) in rows(path, "SELECT memory_id FROM memories ORDER BY memory_id")] == kept


async def test_a_commit_that_finds_the_file_locked_for_too_long_fails(store: SQLiteStore, path: Path) -> None:
    store._writer._db.set_busy_timeout(0)
    with writing_blocked(path), pytest.raises(StoreUnavailable):
        await store.commit(new_session(1))
    await store.commit(new_session(1))


def log_of(path: Path) -> bytes:
    return Path(f"{path}-wal").read_bytes()


async def test_who_reads_long_keeps_the_log_and_holds_up_nobody_who_writes(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a backup: what somebody has deleted is out of the log with a later write."""
    monkeypatch.setattr(writer, "CLEARING_S", 1.0)
    memory = a_memory("m", text="canary", kind="memory")
    await store.commit(Commit(scope=a_scope(), memories=(memory,)))
    with raw(path) as reader:
        reader.execute("BEGIN; SELECT count(*) FROM memories").fetchall()
        began = time.monotonic()
        await store.commit(Commit(scope=a_scope(), memories=(memory.deleted(NOON),)))
        for number in range(10):
            await store.commit(new_session(number))
        assert time.monotonic() - began < 10 * 1.0, "it is tried once, and later again"
        assert b"canary" in log_of(path)
        store._writer._cleared_from_s = 0.0  # then is now
        await store.commit(new_session(10))
        assert b"canary" in log_of(path)
        reader.execute("COMMIT")
    store._writer._cleared_from_s = 0.0
    await store.commit(new_session(11))
    assert b"canary" not in log_of(path)
    assert store._writer._db.execute("PRAGMA busy_timeout").fetchall() == [(schema.BUSY_MS,)]


async def test_only_what_somebody_takes_back_clears_the_log(store: SQLiteStore, path: Path) -> None:
    """It takes a few milliseconds, which what is stored, pinned or learnt anew need not wait for."""
    learnt, own = a_memory("learnt", kind="chunk"), a_memory("own", kind="memory")
    commits = [
        (learnt, own),
        (replace(learnt, text="one that grew"), own),
        (replace(learnt, text="one that grew", valid_to=NOON, superseded_by="own"),),
        (replace(own, pinned=True),),
    ]
    for memories in commits:
        await store.commit(Commit(scope=a_scope(), memories=memories))
        assert log_of(path)
    await store.commit(Commit(scope=a_scope(), memories=(replace(own, tags=("other",)),)))
    assert log_of(path) == b""


async def test_a_writer_whose_connection_broke_still_answers_everybody(store: SQLiteStore) -> None:
    store._writer._db.close()
    for number in range(3):
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StoreUnavailable):
                await store._writer.submit(new_session(number))  # a caller of `commit` cannot be torn from a hang


async def test_after_an_io_error_nothing_more_is_written_until_a_new_start(path: Path, url: str) -> None:
    """What a failed sync left of the pages before it is unknown; only reading the file anew tells."""
    healthy = 1_000_000
    disk = FailingDisk(fail_at=healthy, length=healthy, error=lambda: apsw.IOError("injected"))
    try:
        broken = writer.Writer(schema.open_writer(path, vfs=disk.vfs_name), asyncio.get_running_loop())
        broken.start()
        await broken.submit(new_session(0))
        assert not broken.broken.is_set()
        disk._failing = range(disk.calls + 1, healthy)
        with pytest.raises(StoreFailed):
            await broken.submit(new_session(1))
        await asyncio.wait_for(broken.broken.wait(), PATIENCE_S)
        disk._failing = range(0)  # even if the disk is well again
        for refused in (broken.require_room, lambda: broken.submit(new_session(2))):
            with pytest.raises(StoreFailed):
                refused()
        assert broken.waiting == 0
        await broken.stop()
    finally:
        disk.unregister()
    async with opened(url) as store:
        assert contents(path) == ["said 0", "You said: said 0"]
        await store.commit(new_session(2))


async def test_a_full_disk_does_not_break_it_for_good(store: SQLiteStore) -> None:
    limit_pages(store, 3)
    with pytest.raises(StorageFull):
        await store.commit(Commit(scope=a_scope(), memories=(a_memory("m", text="x" * 50_000),)))
    store.require_room()
    assert not store._writer.broken.is_set()


async def test_a_failing_read_is_store_unavailable_and_tells_nothing_of_its_words(
    store: SQLiteStore, path: Path
) -> None:
    await begin(store, a_key("very-secret"), turns=1)
    with raw(path) as db:
        db.execute("ALTER TABLE turns RENAME TO gone; ALTER TABLE owners RENAME TO gone_too")
    for verb in (store.load(a_key("very-secret")), store.turns(a_key("very-secret")), store.ping()):
        with pytest.raises(StoreUnavailable) as caught:
            await verb
        assert isinstance(caught.value.__cause__, apsw.SQLError)
        assert "secret" not in str(caught.value)


async def test_a_queue_that_is_full_refuses_and_takes_up_work_again(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 3)
    with writing_blocked(path):
        tasks = await handed_over(store, [new_session(number) for number in range(3)])
        for refused in (store.require_room, lambda: store._writer.submit(new_session(3))):
            with pytest.raises(Overloaded):
                refused()
        with pytest.raises(Overloaded):
            await store.commit(new_session(3))
        assert store.usage()["waiting_commits"] == 3
    await asyncio.gather(*tasks)
    await store.commit(new_session(4))
    assert await store.load(a_key(user_id="user3")) is None


# Readers


async def test_a_verb_sees_one_state_from_its_first_statement_to_its_last(store: SQLiteStore) -> None:
    """What recall follows would have gaps otherwise: a vector of a turn that the same page does not hold yet."""
    counted, committed = threading.Event(), threading.Event()

    def count_twice(db: apsw.Connection) -> list[int]:
        first = db.execute("SELECT count(*) FROM turns").fetchall()
        counted.set()
        assert committed.wait(PATIENCE_S)
        second = db.execute("SELECT count(*) FROM turns").fetchall()
        return [int(str(count)) for ((count,),) in (first, second)]

    reading = asyncio.create_task(store._read(count_twice))
    await asyncio.to_thread(counted.wait, PATIENCE_S)
    await store.commit(new_session(1))
    committed.set()
    assert await reading == [0, 0]
    assert len(await store.turns(a_key(user_id="user1"))) == 1


@pytest.mark.parametrize("of", [Tenants(), Tenants(only="acme"), Tenants(but=("acme",))])
async def test_what_is_aged_is_found_by_its_age_alone(store: SQLiteStore, path: Path, of: Tenants) -> None:
    asked: list[tuple[str, Any]] = []

    def look(_: object, sql: str, values: Any) -> bool:
        asked.append((sql, values))
        return True

    with closing(apsw.Connection(str(path))) as db:
        db.exec_trace = look
        aging.sessions(db, of, NOON, 10)
        aging.memories(db, of, NOON, 10)
        db.exec_trace = None
        plans = [str(db.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()) for sql, values in asked]
    indexes = ("sessions_active (touched_at<?)", "sessions_ended (touched_at<?)", "memories_by_age (created_at<?)")
    assert [index in plan for index, plan in zip(indexes, plans, strict=True)] == [True] * 3
    assert "TEMP B-TREE" not in str(plans), "they come in their order"


async def test_a_cancelled_read_leaves_its_reader_usable(store: SQLiteStore) -> None:
    await begin(store, a_key(), turns=3)
    for _ in range(20):
        task = asyncio.create_task(store.turns(a_key()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(await store.turns(a_key())) == 3


Statements = list[tuple[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """What a store that is opened after this reads, by whichever of its threads."""
    asked: Statements = []

    def open_traced(path: Path) -> apsw.Connection:
        connection = schema.open_reader(path)
        connection.exec_trace = lambda cursor, sql, values: asked.append((sql, values)) or True
        return connection

    monkeypatch.setattr("memory_service.stores.sqlite.open_reader", open_traced)
    return asked


async def test_what_is_due_of_a_user_is_found_by_an_index_whatever_sessions_there_are(
    asked: Statements, store: SQLiteStore, path: Path
) -> None:
    await begin(store, a_key(), turns=1)
    await store.commit(Commit(scope=a_scope(), sittings=(a_sitting(),)))
    assert len(await store.due_reflections(NOON, 10, a_scope())) == 1
    asked.clear()
    for scope in (a_scope(), None):
        assert len(await store.due_reflections(NOON, 10, scope)) == 1
    selects = [one for one in asked if one[0].startswith("SELECT")]
    with raw(path) as db:
        plans = [str(db.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()) for sql, values in selects]
    assert ["sittings_pending_of_owner" in plan for plan in plans] == [True, False]
    assert ["sittings_pending " in plan for plan in plans] == [False, True]
    assert "TEMP B-TREE" not in str(plans), "they come in their order"


async def test_what_was_pending_before_sittings_had_owners_is_still_due(path: Path, url: str) -> None:
    async with opened(url) as store:
        await begin(store, a_key(), turns=1)
        await store.commit(Commit(scope=a_scope(), sittings=(a_sitting(),)))
    with raw(path) as db:
        db.execute(
            "DROP INDEX sittings_pending_of_owner; ALTER TABLE sittings DROP COLUMN owner;"
            "DELETE FROM migrations WHERE number = 10"
        )
    async with opened(url) as store:
        assert len(await store.due_reflections(NOON, 10, a_scope())) == 1


async def test_a_record_in_which_names_of_turns_are_in_the_order_of_sessions_is_served(path: Path, url: str) -> None:
    """So they were before, and stay so in a record that was made then."""
    async with opened(url) as store:
        hot = Hot(session=await begin(store, a_key(), turns=2))
    with raw(path) as db:
        ((made,),) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'turns'").fetchall()
        indexes = db.execute("SELECT sql FROM sqlite_schema WHERE tbl_name = 'turns' AND type = 'index'").fetchall()
        before = made.replace("UNIQUE (turn_id, session)", "UNIQUE (session, turn_id)")
        assert before != made
        db.execute("ALTER TABLE turns RENAME TO turns_now").fetchall()
        db.execute(before).fetchall()
        db.execute("INSERT INTO turns SELECT * FROM turns_now; DROP TABLE turns_now").fetchall()
        for (index,) in indexes:
            db.execute(index or "").fetchall()  # those of constraints have no words
    async with opened(url) as store:
        assert await store.find_turn(a_key(), "t2") is not None
        repeat, _ = next_turn(hot, a_key(), turn_id="t2")
        with pytest.raises(DuplicateTurn):
            await store.commit(repeat)
        following, _ = next_turn(hot, a_key(), turn_id="t3")
        await store.commit(following)
        assert len(await store.find_turns(a_key(), ("t1", "t2", "t3"))) == 3


async def test_turns_are_found_by_names_that_are_in_the_order_of_all(
    asked: Statements, store: SQLiteStore, path: Path
) -> None:
    """Beginning with the session each would be on a page of its own."""
    await begin(store, a_key(), turns=2)
    asked.clear()
    assert await store.find_turn(a_key(), "t2") is not None
    assert len(await store.find_turns(a_key(), ("t1", "t2"))) == 2
    with raw(path) as db:
        selects = [one for one in asked if one[0].startswith("SELECT")]
        plans = [str(db.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()) for sql, values in selects]
    assert len(plans) == 2
    assert all("(turn_id=? AND session=?)" in plan for plan in plans)

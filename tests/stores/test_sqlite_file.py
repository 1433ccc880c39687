"""The database file: one owner, sound, of our own schema, and let go of when the store is stopped."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import apsw
import pytest

from memory_service.errors import StoreFailed, UnsafeStart
from memory_service.stores.base import Commit
from memory_service.stores.sqlite import SQLiteStore, schema
from tests.stores.sqlite_file import ROOT, bytes_of, other_process, overwrite, raw, rows
from tests.support.stores import opened, store_of
from tests.support.values import NOON, a_key, a_scope, begin, new_session

DIARY = b"this is my diary\n" * 200


# One owner


async def test_a_second_store_on_the_same_file_is_refused_and_told_who_has_it(store: SQLiteStore, url: str) -> None:
    with pytest.raises(UnsafeStart, match=rf"in use by process {os.getpid()}\b"):
        async with opened(url):
            pass
    await store.commit(new_session(1))


async def test_a_link_to_the_file_is_the_file(store: SQLiteStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(UnsafeStart, match="in use by process"):
        async with opened(f"sqlite:///{link}"):
            pass


@pytest.mark.parametrize("there", [True, False], ids=["a database", "nothing yet"])
async def test_a_record_may_be_reached_through_a_link(path: Path, there: bool) -> None:
    target, link = path.with_name("target.db"), path.with_name("link.db")
    link.symlink_to(target.name)
    if there:
        async with opened(f"sqlite:///{target}") as store:
            await store.commit(new_session(1))
    async with opened(f"sqlite:///{link}") as store:
        await store.commit(new_session(2))
    assert target.exists()
    assert link.is_symlink()


async def test_a_file_of_two_names_is_refused(path: Path, url: str) -> None:
    async with opened(url):
        pass
    path.with_name("second.db").hardlink_to(path)
    for name in (path, path.with_name("second.db")):
        with pytest.raises(UnsafeStart, match="second name"):
            async with opened(f"sqlite:///{name}"):
                pass


@pytest.mark.parametrize("name", ["", ".", "loop.db"], ids=["a folder", "this folder", "a link to itself"])
async def test_what_can_be_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.db").symlink_to("loop.db")
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(UnsafeStart, match="STORE_URL: "):
        async with opened(f"sqlite:///{tmp_path}/{name}"):
            pass
    assert sorted(tmp_path.parent.iterdir()) == before


async def test_once_the_lock_is_taken_away_nothing_more_is_acknowledged(store: SQLiteStore, path: Path) -> None:
    path.with_name(path.name + ".lock").unlink()
    with pytest.raises(StoreFailed):
        await store.commit(new_session(1))
    async with asyncio.timeout(5):
        await store.failed()


async def test_a_second_process_is_refused_and_told_who_has_it(store: SQLiteStore, url: str) -> None:
    async with other_process(url) as other:
        assert f"in use by process {os.getpid()};" in other.said
    await store.commit(new_session(1))


async def test_the_file_of_a_killed_process_can_be_opened(path: Path, url: str) -> None:
    async with other_process(url) as other:
        assert other.said == "ready"
        with pytest.raises(UnsafeStart, match=rf"in use by process {other.pid}\b"):
            async with opened(url):
                pass
        await other.kill()
    async with opened(url) as store:
        await store.commit(new_session(1))


async def test_a_store_that_was_stopped_can_be_opened_again(url: str) -> None:
    for number in range(3):
        async with opened(url) as store:
            await store.commit(new_session(number))


async def test_leases_of_a_dead_process_are_cleared_at_start(url: str) -> None:
    work = """
        await begin(store, a_key(), turns=3)
        claimed = a_sitting().claimed(minutes(10_000))
        await store.commit(Commit(scope=a_scope(), sittings=(a_sitting(),)))
        await store.commit(Commit(scope=a_scope(), sittings=(claimed,)))
        assert await store.due_reflections(minutes(1), 10) == []
    """
    async with other_process(url, work) as other:
        assert other.said == "ready"
        await other.kill()
    async with opened(url) as store:
        ((_, sitting),) = await store.due_reflections(NOON, 10)
        assert sitting.attempts == 1
        await store.commit(Commit(scope=a_scope(), sittings=(sitting.claimed(NOON),)))


# A sound file


async def test_a_newer_schema_is_refused_and_the_file_is_left_as_it_is(path: Path, url: str) -> None:
    async with opened(url) as store:
        await begin(store, a_key(), turns=3)
    with raw(path) as db:
        db.execute("INSERT INTO migrations VALUES (9999, 'of the future')")
    before = bytes_of(path)
    with pytest.raises(UnsafeStart, match=r"newer version.*9999"):
        async with opened(url):
            pass
    assert bytes_of(path) == before
    assert [file.name for file in path.parent.iterdir() if file.name.endswith(("-wal", "-shm"))] == []


@pytest.mark.parametrize("content", [DIARY, b"\0" * 4096], ids=["text", "zeros"])
async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path, url: str, content: bytes) -> None:
    overwrite(path, content)
    with pytest.raises(UnsafeStart, match="no SQLite database"):
        async with opened(url):
            pass
    assert bytes_of(path) == content


async def test_a_damaged_database_is_refused(path: Path, url: str) -> None:
    async with opened(url) as store:
        await begin(store, a_key(), turns=50)
    whole = bytes_of(path)
    overwrite(path, whole[:100] + b"\xff" * 900 + whole[1000:])
    with pytest.raises(UnsafeStart, match="damaged"):
        async with opened(url):
            pass


async def test_a_start_that_was_refused_leaves_nothing_open_even_while_its_error_is_held(path: Path, url: str) -> None:
    overwrite(path, DIARY)
    before = set(apsw.connections())  # a tokenizer of another test may still be about
    with pytest.raises(UnsafeStart) as held:
        async with opened(url):
            pass
    assert set(apsw.connections()) <= before
    overwrite(path, b"")
    async with opened(url) as store:
        await store.ping()
    assert held.value.code == "unsafe_start"


async def test_a_file_locked_by_somebody_else_is_refused(path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OF_EVERY_CONNECTION", "PRAGMA busy_timeout = 0;")
    with raw(path) as db:
        db.execute("CREATE TABLE theirs (x)")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnsafeStart):
            async with opened(url):
                pass


async def test_a_path_that_cannot_be_made_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.db").mkdir()
    for path in (tmp_path / "file" / "memory.db", tmp_path / "folder.db"):
        with pytest.raises(UnsafeStart, match=path.name):
            async with opened(f"sqlite:///{path}"):
                pass


async def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/a/b/memory.db") as store:
        await store.ping()
    assert (tmp_path / "a" / "b" / "memory.db").exists()


async def test_three_slashes_are_a_relative_path_and_four_an_absolute_one(tmp_path: Path) -> None:
    for url, path in {
        "sqlite:///./data/one.db": tmp_path / "data" / "one.db",  # tests run in a folder of their own
        "sqlite:///two.db": tmp_path / "two.db",
        f"sqlite:///{tmp_path}/three.db": tmp_path / "three.db",
    }.items():
        async with opened(url):
            assert path.exists()


@pytest.mark.parametrize("url", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://memory.db", "sqlite:///:memory:"])
def test_a_url_that_names_no_file_is_refused_with_one_that_does(url: str) -> None:
    with pytest.raises(UnsafeStart, match="STORE_URL: write sqlite:///PATH"):
        store_of(url)


async def test_an_old_sqlite_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SAFE_SQLITE", apsw.SQLITE_VERSION_NUMBER + 1)
    with pytest.raises(UnsafeStart, match=r"3\.51\.3"):
        async with opened(url):
            pass


async def test_every_migration_is_recorded_once_with_its_hash(path: Path, url: str) -> None:
    for _ in range(2):
        async with opened(url):
            pass
    files = sorted((ROOT / "memory_service/stores/sqlite/migrations").glob("*.sql"))
    assert files
    expected = [(int(file.name[:4]), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    assert rows(path, "SELECT number, sha256 FROM migrations ORDER BY number") == expected


async def test_numbers_of_migrations_have_no_gap() -> None:
    files = sorted((ROOT / "memory_service/stores/sqlite/migrations").glob("*.sql"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))


# Lifetime


async def test_stopping_closes_every_connection_and_ends_every_thread(url: str) -> None:
    before = set(apsw.connections())
    async with opened(url) as store:
        await store.commit(new_session(1))
        await asyncio.gather(*(store.load(a_key()) for _ in range(50)))
        assert set(apsw.connections()) - before
        assert [thread for thread in threading.enumerate() if thread.name.startswith("sqlite-")] != []
    assert set(apsw.connections()) <= before
    assert [thread for thread in threading.enumerate() if thread.name.startswith("sqlite-")] == []

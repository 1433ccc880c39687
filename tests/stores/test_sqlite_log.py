"""The log of the SQLite file: moved into it once those who wait were told, begun anew, and heard of when that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from memory_service.errors import StoreFailed
from memory_service.stores.base import Commit
from memory_service.stores.sqlite import log
from memory_service.stores.sqlite.schema import open_writer
from memory_service.stores.sqlite.writer import Writer
from memory_service.values import Hot
from tests.stores.sqlite_file import raw, rows
from tests.support.background import until
from tests.support.values import a_key, a_memory, a_scope, a_session, new_session, next_turn

LONG, PAGE = 20, 4096
TRIES, PATIENCE_S = 3, 5
SQLITES_OWN = 1000
"""Pages after which SQLite moves them by itself, unless told otherwise."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is long soon."""
    monkeypatch.setattr(log, "LONG", LONG)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    writer = Writer(open_writer(path), asyncio.get_running_loop())
    writer.start()
    yield writer
    await writer.stop()


async def write(writer: Writer, times: int) -> None:
    """So many commits, each of a page at least."""
    for _ in range(times):
        await writer.submit(Commit(scope=a_scope(), memories=(a_memory("m", text="x" * PAGE),)))


def longest(path: Path) -> float:
    """Pages of the log, as many as it ever had."""
    return path.with_name(path.name + "-wal").stat().st_size / PAGE


def to_move(path: Path) -> int:
    """Pages of the log that are not moved yet."""
    with raw(path) as db:
        db.execute("SELECT count(*) FROM owners").fetchall()  # before, it does not know that there is a log
        pages, moved = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    return pages - moved


class Turns:
    """Commits a session's next turn, each time it is called."""

    def __init__(self, writer: Writer, hot: Hot) -> None:
        self._writer, self._hot = writer, hot

    async def __call__(self) -> None:
        commit, self._hot = next_turn(self._hot, a_key("s"))
        await self._writer.submit(commit)


async def until_moved(path: Path, again: Callable[[], Awaitable[None]]) -> None:
    """Wait until it is. Who looks may be in its way, and then it is tried again after the next commit: `again`."""
    for _ in range(TRIES):
        with suppress(TimeoutError):
            await until(lambda: to_move(path) < LONG, PATIENCE_S)
            return
        await again()
    pytest.fail("the log is not moved")


async def test_a_log_that_is_long_is_moved_and_begun_anew(path: Path, writer: Writer) -> None:
    await write(writer, 200)
    await until_moved(path, lambda: write(writer, 1))
    assert LONG <= longest(path) < 10 * LONG  # of some 1,000 in all


async def test_one_that_is_short_is_not_moved(path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LONG", 1_000_000)
    await write(writer, SQLITES_OWN)
    assert to_move(path) > 2 * SQLITES_OWN  # nor does SQLite do so by itself


async def test_turns_are_so_small_that_it_is_looked_at_after_many(path: Path, writer: Writer) -> None:
    hot = Hot(session=a_session("s"))
    await writer.submit(Commit(scope=a_key("s").scope, session=hot.session))
    before, unseen = to_move(path), 0
    for _ in range(log.COMMITS):
        commit, hot = next_turn(hot, a_key("s"))
        unseen = max(unseen, to_move(path))
        await writer.submit(commit)
    assert unseen > before + LONG

    await until_moved(path, Turns(writer, hot))


async def test_while_somebody_reads_what_is_older_it_is_tried_again_after_each_transaction(
    path: Path, writer: Writer
) -> None:
    hot = Hot(session=a_session("s"))
    await writer.submit(Commit(scope=a_key("s").scope, session=hot.session))
    with raw(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM memories").fetchall()
        await write(writer, 5 * LONG)
        held_up = longest(path)
        assert held_up > 5 * LONG
    commit, hot = next_turn(hot, a_key("s"))
    await writer.submit(commit)
    await until_moved(path, Turns(writer, hot))
    await write(writer, 5 * LONG)
    assert longest(path) < held_up + LONG


class Failing:
    """A connection that tells how long its log is, and moves it only when the disk is well."""

    def __init__(self, db: apsw.Connection, error: apsw.Error) -> None:
        self._db, self._error = db, error
        self.looked = self.asked = 0

    def wal_checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> tuple[int, int]:
        if mode == apsw.SQLITE_CHECKPOINT_NOOP:
            self.looked += 1
            return self._db.wal_checkpoint(mode=mode)
        self.asked += 1
        raise self._error


def fail(writer: Writer, error: apsw.Error) -> Failing:
    failing = Failing(writer._db, error)
    writer._log._db = failing  # type: ignore[assignment]
    return failing


async def test_a_disk_that_fails_then_is_not_written_any_more(path: Path, writer: Writer) -> None:
    failing = fail(writer, apsw.IOError("injected"))
    told = 0
    with pytest.raises(StoreFailed):
        while True:
            await writer.submit(new_session(told))
            told += 1
    await asyncio.wait_for(writer.broken.wait(), 20)
    assert failing.asked == 1
    assert rows(path, "SELECT count(*) FROM sessions") == [(told,)]


async def test_one_that_is_full_is_tried_again(path: Path, writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    failing = fail(writer, apsw.FullError("injected"))
    await write(writer, 5 * LONG)
    assert failing.asked > LONG
    assert "the log could not be moved" in caplog.messages
    writer._log._db = writer._db
    await write(writer, 1)
    await until_moved(path, lambda: write(writer, 1))
    assert not writer.broken.is_set()


async def test_after_a_group_that_could_not_be_written_the_log_is_let_alone(path: Path) -> None:
    writer = Writer(open_writer(path), asyncio.get_running_loop(), in_place=lambda: False)
    writer.start()
    failing = fail(writer, apsw.IOError("injected"))
    with pytest.raises(StoreFailed):
        await writer.submit(new_session(0))
    await writer.stop()
    assert failing.looked == 0


async def test_what_was_queued_when_it_failed_is_not_written_either(path: Path) -> None:
    reached, queued = threading.Event(), threading.Event()

    def pause(name: str) -> None:
        if name == "after_commit":
            reached.set()
            assert queued.wait(20)

    writer = Writer(open_writer(path), asyncio.get_running_loop(), pause)
    fail(writer, apsw.IOError("injected"))
    writer.start()
    for number in range(LONG):
        reached.clear()
        queued.clear()
        first = writer.submit(new_session(2 * number))
        await until(reached.is_set)
        second = writer.submit(new_session(2 * number + 1))
        await asyncio.sleep(0)  # it is handed over
        queued.set()
        await first
        if isinstance((await asyncio.gather(second, return_exceptions=True))[0], StoreFailed):
            break
    await writer.stop()
    assert rows(path, "SELECT count(*) FROM sessions") == [(2 * number + 1,)]

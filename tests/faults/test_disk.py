"""Disks that lose what was not synced, fail in the middle or fill up: what is acknowledged stays, the rest is said."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random

import apsw
import httpx2
import pytest

from memory_service.chaos.disk import SECTOR, Acknowledged, FailingDisk, RecordingDisk, Sync, Tape, Truncate, Write
from memory_service.chaos.disk import written as written_to
from memory_service.chaos.power import run_io_faults, run_power_cuts
from memory_service.errors import StorageFull, StoreFailed
from memory_service.server import serving
from memory_service.settings import Settings
from memory_service.stores.base import Commit
from memory_service.stores.sqlite.schema import open_writer
from memory_service.stores.sqlite.writer import Writer
from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, damage, on_disk, started
from tests.support.background import record
from tests.support.large import image
from tests.support.values import a_scope, a_session, a_turn

SEED = 20_260_301
BROKEN = 70
FAR = 10**9


# A tape, and what a power cut leaves of it


def fates(tape: Tape, tries: int = 300) -> set[bytes]:
    """All that may be found in the file `f` after the last event."""
    return {tape.image(len(tape.events), Random(seed)).get("f", b"") for seed in range(tries)}


def test_what_was_synced_is_there_after_every_cut() -> None:
    tape = Tape([Write("f", 0, b"old"), Sync("f"), Write("f", 2, b"new"), Sync("f")])
    assert fates(tape) == {b"olnew"}
    assert tape.image(2, Random(1)) == {"f": b"old"}
    assert tape.image(0, Random(1)) == {}


def test_what_was_not_synced_is_there_or_lost_each_write_for_itself() -> None:
    tape = Tape([Write("f", 0, b"--"), Sync("f"), Write("f", 0, b"a"), Write("f", 1, b"b")])
    assert fates(tape) == {b"--", b"a-", b"-b", b"ab"}


def test_a_sync_of_one_file_says_nothing_of_another() -> None:
    tape = Tape([Write("f", 0, b"a"), Write("g", 0, b"b"), Sync("g")])
    assert fates(tape) == {b"", b"a"}
    assert {tape.image(3, Random(seed))["g"] for seed in range(50)} == {b"b"}


def test_a_long_write_that_was_not_synced_may_be_torn_at_a_sector() -> None:
    data = bytes(range(256)) * 8
    sizes = {len(found) for found in fates(Tape([Write("f", 0, data)]))}
    assert sizes == {0, SECTOR, 2 * SECTOR, 3 * SECTOR, len(data)}
    assert all(data.startswith(found) for found in fates(Tape([Write("f", 0, data)])))


def test_a_truncation_that_was_not_synced_may_not_have_been() -> None:
    assert fates(Tape([Write("f", 0, b"abcd"), Sync("f"), Truncate("f", 1)])) == {b"abcd", b"a"}


def test_a_write_behind_the_end_leaves_zeros_before_it() -> None:
    assert fates(Tape([Write("f", 3, b"x"), Sync("f")])) == {b"\0\0\0x"}


def test_the_same_seed_leaves_the_same() -> None:
    tape = Tape([Write("f", 600 * n, bytes([n]) * 1_100) for n in range(20)])
    assert [tape.image(15, Random(7)) for _ in range(3)] == [tape.image(15, Random(7))] * 3
    assert tape.image(15, Random(7)) != tape.image(15, Random(8))


def test_acknowledged_is_what_was_said_before_the_cut() -> None:
    tape = Tape([Acknowledged("a"), Write("f", 0, b"x"), Acknowledged("b")])
    assert [tape.acknowledged(until) for until in range(4)] == [set(), {"a"}, {"a"}, {"a", "b"}]
    assert fates(tape) == {b"", b"x"}


def filled(path: Path, vfs: str) -> None:
    with closing(apsw.Connection(str(path), vfs=vfs)) as db:
        db.execute("CREATE TABLE t (x)")
        for number in range(20):
            db.execute("INSERT INTO t VALUES (?)", (f"{number} {'x' * 500}",))


def test_a_recording_disk_writes_through_and_its_whole_tape_is_the_file(tmp_path: Path) -> None:
    tape, path = Tape(), tmp_path / "recorded.db"
    disk = RecordingDisk(tape)
    try:
        filled(path, disk.vfs_name)
    finally:
        disk.unregister()
    assert {type(event) for event in tape.events} >= {Write, Sync}
    assert tape.image(len(tape.events), Random(1))["recorded.db"] == path.read_bytes()
    (tmp_path / "left").mkdir()
    tape_made = list(written_to(tape.image(len(tape.events), Random(1)), tmp_path / "left"))
    with closing(apsw.Connection(str(next(p for p in tape_made if p.name == "recorded.db")))) as db:
        assert db.execute("SELECT count(*) FROM t").get == 20


@pytest.mark.parametrize(("length", "failures"), [(1, 1), (3, 3)])
def test_a_failing_disk_fails_from_its_nth_call_on_for_so_many_calls(length: int, failures: int) -> None:
    disk = FailingDisk(4, length, lambda: apsw.FullError("injected"))
    try:
        failed = 0
        for _ in range(10):
            try:
                disk.count()
            except apsw.FullError:
                failed += 1
        assert (disk.calls, failed) == (10, failures)
    finally:
        disk.unregister()


def test_a_failing_disk_fails_the_statement_and_spares_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "failing.db"
    disk = FailingDisk(40, 1, lambda: apsw.IOError("injected"))
    try:
        with pytest.raises(apsw.IOError):
            filled(path, disk.vfs_name)
    finally:
        disk.unregister()
    with closing(apsw.Connection(str(path))) as db:
        assert db.execute("PRAGMA integrity_check").get == "ok"
        assert 0 < db.execute("SELECT count(*) FROM t").get < 20


# The store's own writer under it


def test_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    found = run_power_cuts(60, SEED)
    assert (found.power_cuts, found.lost, found.doubled, found.damaged) == (60, 0, 0, 0)
    assert found.acknowledged > 500


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_power_cuts_find_a_writer_that_acknowledges_what_it_did_not_sync(synchronous: str) -> None:
    found = run_power_cuts(60, SEED, synchronous=synchronous)
    assert found.lost > 0


def test_disk_faults_at_any_call_lose_nothing_and_are_said() -> None:
    found = run_io_faults(every=7)
    assert (found.lost, found.damaged) == (0, 0)
    assert found.faults > 20
    assert found.refused > 0
    assert found.stopped > 0


@asynccontextmanager
async def writing(path: Path, disk: FailingDisk) -> AsyncIterator[Writer]:
    writer = Writer(open_writer(path, vfs=disk.vfs_name), asyncio.get_running_loop())
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()
        disk.unregister()


def a_commit(number: int) -> Commit:
    session_id = f"s{number}"
    session = a_session(session_id, turn_count=1)
    return Commit(scope=a_scope(), session=session, turns=(a_turn(1, session_id),))


async def calls_before_the_second_commit(path: Path) -> int:
    disk = FailingDisk(FAR, 1, AssertionError)
    async with writing(path, disk) as writer:
        await writer.submit(a_commit(1))
        return disk.calls


@pytest.mark.parametrize("error", [apsw.IOError, apsw.CorruptError])
async def test_a_writer_that_meets_an_io_error_is_broken_for_good(tmp_path: Path, error: type[Exception]) -> None:
    calls = await calls_before_the_second_commit(tmp_path / "counted.db")
    disk = FailingDisk(calls + 1, 1, lambda: error("injected"))
    async with writing(tmp_path / "broken.db", disk) as writer:
        await writer.submit(a_commit(1))
        assert not writer.broken.is_set()
        with pytest.raises(StoreFailed):
            await writer.submit(a_commit(2))
        await asyncio.wait_for(writer.broken.wait(), 5)
        for refused in (writer.require_room, lambda: writer.submit(a_commit(3))):
            with pytest.raises(StoreFailed):
                refused()
        assert writer.waiting == 0


async def test_a_writer_that_finds_the_disk_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    calls = await calls_before_the_second_commit(tmp_path / "counted.db")
    disk = FailingDisk(calls + 1, 1, lambda: apsw.FullError("injected"))
    async with writing(tmp_path / "full.db", disk) as writer:
        await writer.submit(a_commit(1))
        with pytest.raises(StorageFull):
            await writer.submit(a_commit(2))
        assert not writer.broken.is_set()
        await writer.submit(a_commit(2))


# The whole service on such a disk


def no_more_room_in_files(pid: int, size: int) -> None:
    """From now on the kernel refuses the process any write beyond this size of a file: SQLite sees an I/O error."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def breaking(make_process: MakeProcess) -> Iterator[MakeProcess]:
    if not hasattr(resource, "prlimit"):
        pytest.skip("the kernel of this system cannot limit the files of another process")
    return make_process


async def test_a_service_whose_disk_fails_says_so_ends_with_a_status_of_its_own_and_comes_back_whole(
    breaking: MakeProcess,
) -> None:
    process = breaking()
    await started(process)
    dying = process.process
    assert dying is not None
    async with Door(process.url) as door, httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
        await door.start("ana", "s")
        acknowledged = [(await door.store("ana", "s", f"I prefer tea {n}."))["turn_number"] for n in range(5)]
        await door.settled()
        no_more_room_in_files(dying.pid, process.database.with_name("memory.db-wal").stat().st_size)

        turn = {"user_id": "ana", "session_id": "s", "user_message": "Lost?", "agent_message": "", "turn_id": "lost"}
        refused = await door.ask("/memory/store", **turn)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_failed")
        assert int(refused.headers["retry-after"]) > 0
        with suppress(httpx2.TransportError):  # it may end at any moment now
            assert (await http.get("/readyz")).status_code == 503
            assert (await http.get("/livez")).status_code == 200
            assert b"I prefer tea 4." in await door.context("ana", "s")  # what is on record can still be read
    assert await asyncio.to_thread(dying.wait, 30) == BROKEN
    process.process = None

    kept = await on_disk(process.database, "ana", "s")
    assert [turn.seq for turn in kept] == acknowledged == [1, 2, 3, 4, 5]
    assert damage(process.database) == []
    await started(process)
    async with Door(process.url) as door:
        again = await door.store("ana", "s", "Lost?", turn_id="lost")
        assert (again["turn_number"], again["replayed"]) == (6, False)


SAID = image(90_000)
"""That hardly gets smaller."""


async def test_a_full_disk_is_507_and_the_same_turn_is_stored_once_there_is_room(
    make_settings: Callable[..., Settings],
) -> None:
    async with serving(make_settings()) as (url, service), Door(url) as door:
        await door.start("ana", "s")
        await door.store("ana", "s", "I prefer tea.")
        await door.settled()
        db: apsw.Connection = record(service)._writer._db  # type: ignore[attr-defined]
        most = db.pragma("max_page_count")
        db.pragma("max_page_count", db.pragma("page_count"))

        turn = {"user_id": "ana", "session_id": "s", "user_message": SAID, "agent_message": "", "turn_id": "x"}
        for _ in range(3):
            refused = await door.ask("/memory/store", **turn)
            assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
            assert refused.headers["content-type"] == "application/problem+json"
            assert int(refused.headers["retry-after"]) > 0
        assert SAID[:10].encode() not in await door.context("ana", "s")
        assert b"I prefer tea." in await door.context("ana", "s")

        db.pragma("max_page_count", most)
        stored = await door.post("/memory/store", **turn)
        assert (stored["turn_number"], stored["replayed"]) == (2, False)
        assert (await door.post("/memory/store", **turn))["replayed"] is True

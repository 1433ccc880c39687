"""`memory-service backup` and `restore`, as commands beside a service that is used, killed and stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import apsw
import httpx2
import pytest
from click.testing import CliRunner

from memory_service.cli import main
from memory_service.errors import UnsafeStart
from memory_service.stores.base import Commit
from memory_service.stores.sqlite import schema
from memory_service.stores.sqlite.backup import back_up, restore
from memory_service.stores.sqlite.schema import RESTORING, open_writer
from memory_service.values import Hot
from tests.stores.sqlite_file import ROOT, raw, rows
from tests.support.process import ServiceProcess, service_process
from tests.support.stores import opened
from tests.support.values import NOON, a_key, a_scope, a_sitting, begin, minutes, next_turn

T = TypeVar("T")

WRITERS = 32
START, STORE = "/sessions/start", "/memory/store"
WORD = "walnuts"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with service_process(tmp_path, LOG_LEVEL="WARNING") as process:
        yield process


def command(service: ServiceProcess, *words: str) -> subprocess.Popen[str]:
    url = f"sqlite:///{service.database}"
    return subprocess.Popen(
        [sys.executable, "-m", "memory_service", *words, "--store-url", url],
        cwd=service.database.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(service: ServiceProcess, *words: str, status: int = 0) -> str:
    """Run a command to its end; returns what it said."""
    process = command(service, *words)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == status, said + complained
    return said + complained


class Writers:
    """Callers who store turns until they are told to stop; `acknowledged` are those that were answered."""

    def __init__(self, service: ServiceProcess, names: list[str]) -> None:
        self._service, self._names = service, names
        self.acknowledged: list[str] = []
        self._enough, self._until = asyncio.Event(), asyncio.Event()

    async def run(self, count: int, then: Callable[[], T]) -> T:
        """Store, do something once so many are acknowledged, and stop when it is done."""
        everybody = httpx2.AsyncClient(base_url=self._service.url, trust_env=False, timeout=60)
        async with everybody as http, asyncio.TaskGroup() as writing:
            for name in self._names:
                writing.create_task(self._write(http, name, count))
            await self._enough.wait()
            try:
                return await asyncio.to_thread(then)
            finally:
                self._until.set()

    async def _write(self, http: httpx2.AsyncClient, name: str, enough: int) -> None:
        await http.post(START, json={"user_id": name, "session_id": "s"})
        number = 0
        while not self._until.is_set():
            said = f"{name} said {number} " + "x" * 2000
            body = {"user_id": name, "session_id": "s", "user_message": said, "agent_message": ""}
            answer = await http.post(STORE, json=body)
            if answer.status_code == 503:
                assert answer.json()["code"] == "overloaded"  # a disk that stalls
                continue
            assert answer.status_code == 200
            self.acknowledged.append(said)
            number += 1
            if len(self.acknowledged) >= enough:
                self._enough.set()


def stored(service: ServiceProcess, count: int = 5, name: str = "ana") -> list[str]:
    """Store so many turns at least; returns them."""
    writers = Writers(service, [name])
    asyncio.run(writers.run(count, lambda: None))
    return writers.acknowledged


def said_in(record: Path) -> list[str]:
    """Every message on record, in order."""
    return [text for (text,) in rows(record, "SELECT body ->> '$.messages[0].content' FROM turns ORDER BY id")]


def test_under_load_it_holds_all_that_was_answered_before_and_the_service_notices_nothing(
    service: ServiceProcess, tmp_path: Path
) -> None:
    copy, wal = tmp_path / "copy.db", Path(f"{service.database}-wal")
    writers = Writers(service, [f"u{number}" for number in range(WRITERS)])

    def back_up() -> tuple[str, list[str], int]:
        log, before = wal.stat().st_ino, list(writers.acknowledged)
        said = done(service, "backup", str(copy))
        assert wal.stat().st_ino == log
        return said, before, len(writers.acknowledged)

    said, before, after = asyncio.run(writers.run(500, back_up))
    assert f"{copy}: {copy.stat().st_size} bytes, checked" in said
    assert after > len(before)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob("*copy*")] == ["copy.db"]
    assert rows(copy, "PRAGMA integrity_check") == [("ok",)]
    copied = said_in(copy)
    assert set(before) <= set(copied)
    assert len(copied) == len(set(copied))
    service.kill()
    assert rows(service.database, "PRAGMA integrity_check") == [("ok",)]
    assert sorted(said_in(service.database)) == sorted(writers.acknowledged), "nothing was lost"
    assert str(tmp_path / "memory.db.before-") in done(service, "restore", str(copy))
    (kept,) = tmp_path.glob("memory.db.before-*Z")
    assert sorted(said_in(kept)) == sorted(writers.acknowledged)
    service.start()
    assert said_in(service.database) == copied
    assert stored(service, name="late") == said_in(service.database)[len(copied) :]


def test_of_a_service_that_was_killed_the_log_is_copied_too_and_left_where_it_is(
    service: ServiceProcess, tmp_path: Path
) -> None:
    acknowledged = stored(service)
    service.kill()
    files = {path: path.read_bytes() for path in (service.database, Path(f"{service.database}-wal"))}
    assert all(files.values())
    copy = tmp_path / "copy.db"
    back_up(service.database, copy, force=False)
    assert {path: path.read_bytes() for path in files} == files
    assert said_in(copy) == acknowledged
    kept = restore(copy, service.database, NOON)
    assert kept is not None
    assert not Path(f"{service.database}-wal").exists()
    assert said_in(kept) == said_in(service.database) == acknowledged


def test_a_backup_that_is_killed_leaves_no_file_under_the_name_and_the_service_as_it_was(
    service: ServiceProcess, tmp_path: Path
) -> None:
    acknowledged, copy = stored(service), tmp_path / "copy.db"
    killed = 0
    for wait_s in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0):
        process = command(service, "backup", str(copy))
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=wait_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if copy.exists():
            assert said_in(copy) == acknowledged
            copy.unlink()
    assert killed
    acknowledged += stored(service, name="late")
    service.kill()
    assert rows(service.database, "PRAGMA integrity_check") == [("ok",)]
    assert said_in(service.database) == acknowledged


def test_wherever_a_backup_is_killed_there_is_no_half_file_under_the_name(record: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    without = 0
    for at in range(1, 100):
        copy = tmp_path / "copies" / f"{at}.db"
        child = os.fork()
        if not child:
            try:
                die_at(at)
                back_up(record, copy, force=False)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        without += not copy.exists()
        assert not copy.exists() or said_in(copy) == ["hello"] * 3, at
        if not os.WIFSIGNALED(status):
            break
    assert copy.exists()
    assert without > 10


def die_at(at: int) -> None:
    """Kill this process at so manyth of what it asks of SQLite or of the file system."""
    left = at

    def count(*_: object) -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    apsw.connection_hooks.append(lambda db: setattr(db, "exec_trace", count))
    sys.addaudithook(lambda event, _: bool(event in ("os.link", "os.remove", "open", "os.rename") and count()))


# What is refused


def test_a_record_that_is_served_is_not_restored_over(service: ServiceProcess, tmp_path: Path) -> None:
    acknowledged = stored(service)
    back_up(service.database, tmp_path / "copy.db", force=False)
    assert "is in use by process" in done(service, "restore", "copy.db", status=3)
    assert not list(tmp_path.glob("memory.db.before*"))
    assert not Path(f"{service.database}{RESTORING}").exists()
    assert said_in(service.database) == acknowledged


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record that nobody serves, with three turns in it."""
    path = tmp_path / "memory.db"

    async def make() -> None:
        async with opened(f"sqlite:///{path}") as store:
            await begin(store, a_key(), 3)

    asyncio.run(make())
    return path


def refusal(work: Callable[..., object], *args: object, **more: object) -> str:
    with pytest.raises(UnsafeStart) as refused:
        work(*args, **more)
    return str(refused.value)


def test_nothing_is_overwritten_unless_that_is_said_and_never_the_record(record: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    before = record.read_bytes()
    assert "--force replaces it" in refusal(back_up, record, copy, force=False)
    assert copy.read_text() == "mine"
    (tmp_path / "link").symlink_to(record)
    for name in (
        "memory.db",
        "memory.db-wal",
        "memory.db-shm",
        "memory.db.lock",
        "link",
        "../" + tmp_path.name + "/link",
    ):
        assert "the record itself" in refusal(back_up, record, tmp_path / name, force=True)
        assert "the record itself" in refusal(back_up, tmp_path / "link", tmp_path / name, force=True)
    assert "cannot write" in refusal(back_up, record, tmp_path / "nowhere/copy.db", force=False)
    assert "there is nothing" in refusal(back_up, tmp_path / "none.db", tmp_path / "new.db", force=False)
    assert not (tmp_path / "none.db").exists()
    back_up(record, copy, force=True)
    assert said_in(copy) == ["hello"] * 3
    assert record.read_bytes() == before


def test_what_is_no_whole_backup_is_refused_and_the_record_left_as_it_is(record: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.db", tmp_path / "other.db"
    back_up(record, copy, force=False)
    before, whole = record.read_bytes(), copy.read_bytes()
    for content in (b"", b"no database" * 1000, whole[: len(whole) // 2], whole[:8192] + b"\1" * 8192 + whole[16384:]):
        other.write_bytes(content)
        refusal(restore, other, record, NOON)
    other.write_bytes(whole)
    Path(f"{other}-wal").write_bytes(b"log")
    assert "has a log beside it" in refusal(restore, other, record, NOON)
    other.unlink()
    Path(f"{other}-wal").unlink()
    with raw(other) as foreign:
        foreign.execute("CREATE TABLE t (x)")
    assert "is not a record of this service" in refusal(restore, other, record, NOON)
    with raw(copy) as newer:
        newer.execute("INSERT INTO migrations VALUES (9999, 'x')")
    assert "newer version" in refusal(restore, copy, record, NOON)
    assert "the record itself" in refusal(restore, record, record, NOON)
    assert record.read_bytes() == before
    assert not list(tmp_path.glob("memory.db.*before*"))
    assert not Path(f"{record}{RESTORING}").exists()


def test_wherever_a_restore_is_killed_no_service_starts_on_what_is_left_until_it_is_run_again(
    record: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    back_up(record, copy, force=False)
    lost = 0
    for at in range(1, 200):
        place = tmp_path / str(at) / "memory.db"
        place.parent.mkdir()
        shutil.copy(record, place)
        child = os.fork()
        if not child:
            try:
                die_at(at)
                restore(copy, place, NOON)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        half = Path(f"{place}{RESTORING}")
        if not place.exists():
            lost += 1
            assert half.exists()
        if half.exists():
            assert "a restore of" in refusal(open_writer, place)
            restore(copy, place, NOON)
        open_writer(place).close()
        assert said_in(place) == ["hello"] * 3
        if not os.WIFSIGNALED(status):
            break
    assert at > 10
    assert lost


def test_claims_in_a_backup_are_void_and_engines_are_brought_everything_anew(tmp_path: Path) -> None:
    record, copy = tmp_path / "memory.db", tmp_path / "copy.db"

    async def look() -> tuple[int, int]:
        async with opened(f"sqlite:///{record}") as store:
            return len(await store.due_reflections(minutes(1), 10)), await store.lagging("pgvector")

    async def make() -> None:
        async with opened(f"sqlite:///{record}") as store:
            await begin(store, a_key(), 3)
            await store.commit(Commit(scope=a_scope(), sittings=(a_sitting(),)))
            await store.commit(Commit(scope=a_scope(), sittings=(a_sitting().claimed(minutes(60)),)))
            await store.follow("pgvector")
            (mirror,) = await store.claim_mirrors("pgvector", NOON, minutes(60), 1)
            assert await store.put_mirror(mirror)
            back_up(record, copy, force=False)
            assert await store.lagging("pgvector") == 0

    asyncio.run(make())
    assert restore(copy, record, NOON) is not None
    assert asyncio.run(look()) == (1, 1)


def test_what_a_migration_drops_in_a_restore_leaves_no_words_that_an_erasure_would_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, copy, ours = tmp_path / "memory.db", tmp_path / "copy.db", schema._ours()
    of_a_later_version = "CREATE TABLE passing AS SELECT body FROM turns; DROP TABLE passing"

    async def make() -> None:
        async with opened(f"sqlite:///{record}") as store:
            hot = Hot(session=await begin(store, a_key()))
            for _ in range(20):
                commit, hot = next_turn(hot, a_key(), text=f"I like {WORD}")
                await store.commit(commit)

    async def erase() -> None:
        async with opened(f"sqlite:///{record}") as store:
            await store.erase(a_scope())

    asyncio.run(make())
    back_up(record, copy, force=False)
    monkeypatch.setattr(schema, "_ours", lambda: [*ours, (len(ours) + 1, of_a_later_version)])
    restore(copy, record, NOON)
    assert WORD.encode() in record.read_bytes()
    asyncio.run(erase())
    assert WORD.encode() not in record.read_bytes()


@pytest.mark.parametrize(
    ("url", "tool"),
    [("postgresql://u@h/d", "pg_dump"), ("cosmos:", "continuous backup"), ("transient://", "keeps nothing")],
)
def test_other_stores_are_told_their_own_tool(url: str, tool: str) -> None:
    for name in ("backup", "restore"):
        refused = CliRunner().invoke(main, [name, "copy.db", "--store-url", url])
        assert refused.exit_code == 2
        assert tool in refused.output
        assert "docs/how-to/backup-and-restore.md" in refused.output

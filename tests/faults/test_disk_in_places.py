"""A disk that fails in one place: under a whole group of commits, or while the log is moved into the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from memory_service.errors import StorageFull, StoreFailed
from memory_service.stores.sqlite import log
from memory_service.stores.sqlite.schema import open_writer
from memory_service.stores.sqlite.writer import Writer
from tests.stores.sqlite_file import contents
from tests.support.background import until
from tests.support.values import new_session


class Disk(apsw.VFS):
    """Passes everything on until `fails` is set; then the calls it names fail."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self.error = error
        self.fails: Callable[[str, str], bool] = lambda call, file: False
        self.failed = 0
        super().__init__("places", base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return File(self, name, flags)

    def call(self, call: str, file: str) -> None:
        if self.fails(call, file):
            self.failed += 1
            raise self.error()


class File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk, self._name = disk, name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.call("write", self._name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.call("sync", self._name)
        super().xSync(flags)


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize(("error", "told"), [(apsw.IOError, StoreFailed), (apsw.FullError, StorageFull)])
async def test_a_group_that_meets_a_failing_log_is_refused_to_the_last_of_it(
    tmp_path: Path, call: str, error: type[Exception], told: type[Exception]
) -> None:
    disk = Disk(lambda: error("injected"))
    try:
        writer = Writer(open_writer(tmp_path / "memory.db", vfs="places"), asyncio.get_running_loop())
        waiting = [writer.submit(new_session(number)) for number in range(50)]  # before there is anybody to take them
        disk.fails = lambda made, file: made == call and file.endswith("-wal")
        writer.start()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [told] * 50
        assert disk.failed >= 1
        disk.fails = lambda made, file: False
        if told is StorageFull:
            await writer.submit(new_session(99))
        else:
            await until(writer.broken.is_set)
            with pytest.raises(StoreFailed):
                writer.submit(new_session(99))
        await writer.stop()
    finally:
        disk.unregister()
    kept = contents(tmp_path / "memory.db")
    assert ("said 99" in kept) == (told is StorageFull)


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize(("error", "told"), [(apsw.IOError, StoreFailed), (apsw.FullError, StorageFull)])
async def test_what_was_acknowledged_is_kept_while_the_log_cannot_be_moved_into_the_file(
    tmp_path: Path, call: str, error: type[Exception], told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LONG", 1)  # it is moved after each commit
    disk, path = Disk(lambda: error("injected")), tmp_path / "memory.db"
    acknowledged = []
    try:
        writer = Writer(open_writer(path, vfs="places"), asyncio.get_running_loop())
        writer.start()
        for number in range(20):
            failing = 5 <= number < 15
            disk.fails = lambda made, file, failing=failing: failing and made == call and file.endswith(".db")
            with suppress(told):
                await writer.submit(new_session(number))
                acknowledged.append(f"said {number}")
        assert disk.failed >= 1
        await until(lambda: writer.broken.is_set() or told is StorageFull)
        assert writer.broken.is_set() == (told is StoreFailed)
        assert ("said 19" in acknowledged) == (told is StorageFull)
        await writer.stop()
    finally:
        disk.unregister()
    assert len(acknowledged) >= 5
    assert set(acknowledged) <= set(contents(path))

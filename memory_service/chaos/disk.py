"""A disk that remembers, and one that fails: SQLite file systems that record every write, or break the N-th call."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct, field

SECTOR = 512


class Write(Struct, frozen=True):
    file: str
    offset: int
    data: bytes


class Truncate(Struct, frozen=True):
    file: str
    size: int


class Sync(Struct, frozen=True):
    file: str


class Acknowledged(Struct, frozen=True):
    """Somebody was told that this is stored."""

    what: str


Event = Write | Truncate | Sync | Acknowledged


class Tape(Struct):
    """Everything that happened to the disk, in order, and when what was acknowledged."""

    events: list[Event] = field(default_factory=list)

    def image(self, until: int, chance: random.Random) -> dict[str, bytes]:
        """Make the files as a power cut after `until` events may leave them.

        What was synced is there. What was not is there, or not, or torn at a sector, each write for itself.
        """
        files: dict[str, bytearray] = {}
        unsynced: dict[str, list[Write | Truncate]] = {}
        for event in self.events[:until]:
            if isinstance(event, Sync):
                for change in unsynced.pop(event.file, []):
                    _apply(files, change)
            elif not isinstance(event, Acknowledged):
                unsynced.setdefault(event.file, []).append(event)
        for changes in unsynced.values():
            for change in changes:
                survivor = _surviving(change, chance)
                if survivor is not None:
                    _apply(files, survivor)
        return {name: bytes(content) for name, content in files.items()}

    def acknowledged(self, until: int) -> set[str]:
        return {event.what for event in self.events[:until] if isinstance(event, Acknowledged)}


def _apply(files: dict[str, bytearray], change: Write | Truncate) -> None:
    content = files.setdefault(change.file, bytearray())
    if isinstance(change, Truncate):
        del content[change.size :]
        return
    if len(content) < change.offset:
        content.extend(b"\0" * (change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _surviving(change: Write | Truncate, chance: random.Random) -> Write | Truncate | None:
    fate = chance.random()
    if fate < 0.4:
        return None
    if fate < 0.7 and isinstance(change, Write) and len(change.data) > SECTOR:
        sectors = chance.randrange(1, len(change.data) // SECTOR + 1)
        return Write(change.file, change.offset, change.data[: sectors * SECTOR])
    return change


class RecordingDisk(apsw.VFS):
    """Passes everything on, and notes it on a tape. Use with `locking_mode = EXCLUSIVE`: it has no shared memory."""

    def __init__(self, tape: Tape, name: str = "recording") -> None:
        self.vfs_name = name
        self._tape = tape
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _RecordedFile(self._tape, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        self._tape.events.append(Truncate(Path(name).name, 0))
        self._tape.events.append(Sync(Path(name).name))
        super().xDelete(name, syncdir)


class _RecordedFile(apsw.VFSFile):
    def __init__(self, tape: Tape, name: Any, flags: list[int]) -> None:
        self._tape = tape
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary").name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._tape.events.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._tape.events.append(Truncate(self._name, size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._tape.events.append(Sync(self._name))


class FailingDisk(apsw.VFS):
    """Passes everything on, but the N-th call that changes the disk fails, and so do the next `length` - 1."""

    def __init__(self, fail_at: int, length: int, error: Callable[[], Exception], name: str = "failing") -> None:
        self.vfs_name = name
        self.calls = 0
        self._failing = range(fail_at, fail_at + length)
        self._error = error
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _FailingFile(self, name, flags)

    def count(self) -> None:
        self.calls += 1
        if self.calls in self._failing:
            raise self._error()


class _FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.count()
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._disk.count()
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        self._disk.count()
        super().xSync(flags)


def written(files: dict[str, bytes], folder: Path) -> Iterator[Path]:
    """Write an image's files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        yield path

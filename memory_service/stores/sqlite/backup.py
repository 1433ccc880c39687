"""A copy of the record while it is served, and the way back: SQLite's own backup, checked before it counts.

The copy is read by a connection that cannot write and is told to leave the log alone: the service's files are as they
would be without it, but that its log cannot begin anew until the copy is done.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import mkstemp
from urllib.parse import quote

import apsw

from memory_service.errors import UnsafeStart
from memory_service.points import nowhere
from memory_service.stores.sqlite import mirrors
from memory_service.stores.sqlite.schema import RESTORING, examine, migrate, owned

PAGES = 512
"""Copied at a time, about 2 MB. Then it rests as long as they took: who writes has the disk for half of the time."""
LONGEST_REST_S = 1.0
OF_A_RECORD = ("", "-wal", "-shm", ".lock", RESTORING)
"""Endings of the names of its files."""

Tell = Callable[[int, int], None]
"""Told how many pages are left, of how many."""


def back_up(record: Path, target: Path, *, force: bool, tell: Tell = lambda _left, _of: None) -> None:
    """Copy a record, which may be served meanwhile, to a file of its own.

    What was committed before this began is in it. It has its name when it is whole and on the disk.
    Raises UnsafeStart.
    """
    _require_file(record, "STORE_URL")
    if target.resolve() in [_beside(record.resolve(), ending) for ending in OF_A_RECORD]:
        raise UnsafeStart(f"{target} is the record itself, or belongs to it; name another file")
    if target.exists() and not force:
        raise UnsafeStart(f"{target} is there already; --force replaces it")
    try:
        with _part_of(target) as part:
            with _in_words(record), closing(_reader(record)) as source:
                _copy(source, part, tell, rests=True)
            _require_whole(part)
            _name(part, target, force)
    except OSError as exc:
        raise UnsafeStart(f"cannot write {target}: {exc.strerror}") from exc


def restore(backup: Path, record: Path, now: datetime) -> Path | None:
    """Put a backup in the place of a record that nobody has open; returns where that is kept, if there was one.

    Cut off anywhere, no service starts on what is left until it is run again. Raises UnsafeStart.
    """
    _require_file(backup, "the backup")
    if _size(_beside(backup, "-wal")):
        raise UnsafeStart(f"{backup} has a log beside it (-wal), so it is no backup: it may be a record in use")
    with owned(record) as path:
        if backup.resolve() in [_beside(path, ending) for ending in OF_A_RECORD]:
            raise UnsafeStart(f"{backup} is the record itself, or belongs to it")
        try:
            return _put_in_place(backup, path, now)
        except OSError as exc:
            raise UnsafeStart(f"cannot restore {path}: {exc.strerror}; run it again") from exc


def _put_in_place(backup: Path, path: Path, now: datetime) -> Path | None:
    _require_whole(backup)
    half = _beside(path, RESTORING)
    _beside(half, "-journal").unlink(missing_ok=True)  # of one that was cut off
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)):
        pass  # empty, and at no moment gone
    if path.exists():
        shutil.copymode(path, half)
    with _in_words(backup), closing(_unchanging(backup)) as source:
        _copy(source, half, lambda _left, _of: None, rests=False)
    _require_whole(half)
    _make_good(half)
    kept = _set_aside(path, now)
    half.replace(path)
    _sync(path.parent)
    return kept


def _make_good(half: Path) -> None:
    """Make of a state of some time ago one that can be served now. Of what was erased since, the next start rids it."""
    with _in_words(half), closing(apsw.Connection(str(half))) as db:
        db.execute("PRAGMA secure_delete = ON").fetchall()  # an erasure does not look at what a migration leaves
        migrate(db, nowhere)
        for (driver,) in db.execute("SELECT name FROM drivers").fetchall():
            mirrors.follow(db, str(driver), anew=True)  # engines have seen what the record no longer knows of
    with half.open("rb") as file:
        os.fsync(file.fileno())


def _set_aside(path: Path, now: datetime) -> Path | None:
    """Give a record another name, its log too. Between the two, and until there is a new one, no service starts."""
    kept = _beside(path, f".before-{now:%Y%m%dT%H%M%S%fZ}")
    found = path.exists() or bool(_size(_beside(path, "-wal")))
    for ending in ("", "-wal"):
        if _beside(path, ending).exists():
            _beside(path, ending).rename(_beside(kept, ending))
    _beside(path, "-shm").unlink(missing_ok=True)  # made anew from the log
    return kept if found else None


def _copy(source: apsw.Connection, target: Path, tell: Tell, *, rests: bool) -> None:
    """Copy one state: the transaction keeps it, or each commit of another would begin the copy anew."""
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    with closing(apsw.Connection(str(target))) as db:
        db.execute("PRAGMA synchronous = FULL").fetchall()
        with db.backup("main", source, "main") as copying:
            while not copying.done:
                began = time.monotonic()
                copying.step(PAGES)
                tell(copying.remaining, copying.page_count)
                if rests:
                    time.sleep(min(time.monotonic() - began, LONGEST_REST_S))
        db.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, and reading it makes no other
    source.execute("COMMIT")


def _reader(record: Path) -> apsw.Connection:
    db = apsw.Connection(str(record), flags=apsw.SQLITE_OPEN_READONLY)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # the last to close would move the log and delete it
    db.set_busy_timeout(5000)
    return db


def _unchanging(path: Path) -> apsw.Connection:
    """Open a file that nobody writes: no lock is taken, and nothing is made beside it."""
    name = f"file:{quote(str(path.resolve()))}?immutable=1"
    return apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def _require_whole(path: Path) -> None:
    """Raises UnsafeStart if a file is damaged, is of a newer version or not ours."""
    with _in_words(path), closing(_unchanging(path)) as db:
        examine(db, path)
        if not _is_ours(db):
            raise UnsafeStart(f"{path} is no record of this service")
        if db.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
            raise UnsafeStart(f"{path} is damaged")


def _is_ours(db: apsw.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchall())


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Raises UnsafeStart for what SQLite finds wrong with a file."""
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError) as exc:
        raise UnsafeStart(f"{path} is damaged or is no SQLite database") from exc
    except apsw.FullError as exc:
        raise UnsafeStart("there is no room for the copy") from exc
    except apsw.Error as exc:
        raise UnsafeStart(f"{path} cannot be copied ({type(exc).__name__})") from exc


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """A file beside the target, for its owner alone; it is deleted unless it got another name."""
    handle, name = mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        for ending in ("", "-journal"):
            with suppress(OSError):
                Path(name + ending).unlink()


def _name(part: Path, target: Path, force: bool) -> None:
    """Sync a file and give it its name, which nobody else must have taken meanwhile."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    if force:
        part.replace(target)
    else:
        target.hardlink_to(part)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_file(path: Path, what: str) -> None:
    if not _size(path):
        raise UnsafeStart(f"{what}: there is nothing in {path}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)

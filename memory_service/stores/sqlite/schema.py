"""Opening the file safely: one owner, a sound SQLite, and the schema this code expects."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path

import apsw

from memory_service.errors import RecordInUse, UnsafeStart
from memory_service.points import Point, nowhere

SAFE_SQLITE = 3_051_003
"""First version without the WAL-reset bug, by which a checkpoint could lose committed pages."""

RESTORING = ".restoring"
"""Ending of the name of what is about to take the place of a record. As long as it is there, nobody starts."""

CHECK_S = 1.0
"""Seconds that looking for damage may hold up a start: a small file is looked at whole, a large one in part."""
CHECK_EVERY = 10_000

BUSY_MS = 5000

TICK_NS = 1_000_000_000
"""What happens to a folder within less may leave it with the same time."""

OF_EVERY_CONNECTION = f"""
PRAGMA busy_timeout = {BUSY_MS};
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA temp_store = MEMORY;
"""
OF_THE_WRITER = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
"""


@contextmanager
def owned(path: Path) -> Iterator[Path]:
    """Hold the file as the only process, and give its one true name; the kernel lets go when the process ends.

    Raises RecordInUse, naming the process that has it, or UnsafeStart.
    """
    import fcntl  # not on Windows; this store is the only part that needs it

    try:
        path = _true_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("a+")
    except OSError as exc:
        raise UnsafeStart(f"STORE_URL: cannot use {path}: {exc.strerror}") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.seek(0)
            raise RecordInUse(f"{path} is in use by process {lock.read().strip() or '?'}; stop it first") from exc
        with suppress(OSError):  # on a full disk the lock holds without a note of who has it
            os.truncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"{os.getpid()}\n".encode())
        yield path


def _true_name(path: Path) -> Path:
    """Follow links, for a file has one lock and one log, whatever it is called. Raises UnsafeStart."""
    try:
        path = path.resolve()
    except RuntimeError as exc:  # Python below 3.13 says so
        raise UnsafeStart(f"STORE_URL: {path} is a link that leads to itself") from exc
    if path.is_dir():
        raise UnsafeStart(f"STORE_URL: {path} is a folder; name a file in it")
    if path.exists() and path.stat().st_nlink > 1:
        raise UnsafeStart(
            f"{path} has a second name (a hard link), by which another process could write it; remove one"
        )
    return path


def open_writer(path: Path, point: Point = nowhere, vfs: str | None = None) -> apsw.Connection:
    """Open the connection that alone writes, with the schema brought up to date. Raises UnsafeStart."""
    if apsw.SQLITE_VERSION_NUMBER < SAFE_SQLITE:
        raise UnsafeStart(f"SQLite {apsw.sqlite_lib_version()} can lose committed data; 3.51.3 or later is needed")
    if path.with_name(path.name + RESTORING).exists():
        raise UnsafeStart(f"a restore of {path} was cut off; run memory-service restore again")
    log_left = _log_left(path)
    try:
        with ExitStack() as undo:
            db = apsw.Connection(str(path), vfs=vfs)
            undo.callback(db.close)
            if log_left:  # unless it is served, its log is not moved into it
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if vfs:  # one of ours, which has no shared memory: WAL then works for a single connection
                _set(db, "PRAGMA locking_mode = EXCLUSIVE")
            _set(db, OF_EVERY_CONNECTION)
            examine(db, path)
            _set(db, OF_THE_WRITER)
            if db.pragma("journal_mode") != "wal":
                raise UnsafeStart(f"{path} is on a file system that cannot hold a write-ahead log")
            migrate(db, point)
            # We are the only owner: a lease that stands in the file belonged to a process that is gone.
            db.execute("UPDATE sittings SET lease_until = NULL WHERE lease_until IS NOT NULL")
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            undo.pop_all()
    except (apsw.NotADBError, apsw.CorruptError) as exc:
        raise UnsafeStart(f"{path} is damaged or is no SQLite database; restore it from a backup") from exc
    except apsw.Error as exc:
        raise UnsafeStart(f"{path} cannot be opened for writing ({type(exc).__name__})") from exc
    return db


def _log_left(path: Path) -> bool:
    """Tell whether a process that was killed left a log. Raises UnsafeStart if the file it belongs to is gone:
    SQLite would begin a new record and delete the log.
    """
    log = path.with_name(path.name + "-wal")
    left = log.exists() and log.stat().st_size > 0
    if left and (not path.exists() or not path.stat().st_size):
        raise UnsafeStart(f"{path} is damaged: it is empty or gone, and its log is not; restore it from a backup")
    return left


def examine(db: apsw.Connection, path: Path) -> None:
    """Look at a file before anything is written to it. Raises UnsafeStart if it is damaged, newer or not ours."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and "migrations" not in tables:
        raise UnsafeStart(f"{path} is a database, but is not a record of this service; it was left as it is")
    newer = _applied(db) - {number for number, _ in _ours()} if tables else set()
    if newer:
        raise UnsafeStart(f"{path} was written by a newer version of this service (schema {max(newer)})")
    until = time.monotonic() + CHECK_S
    db.set_progress_handler(lambda: time.monotonic() > until, CHECK_EVERY)
    try:
        found = db.execute("PRAGMA quick_check(1)").fetchall()
    except apsw.InterruptError:
        return  # it is large: what is damaged further on is told of when it is met
    finally:
        db.set_progress_handler(None)
    if found != [("ok",)]:
        raise UnsafeStart(f"{path} is damaged; restore it from a backup")


def in_place(path: Path) -> Callable[[], bool]:
    """Make a look at whether the files of an open record, and the lock on it, still have their names."""
    names = [path, *(path.with_name(path.name + ending) for ending in ("-wal", ".lock"))]

    def identities() -> list[tuple[int, int]]:
        return [(found.st_dev, found.st_ino) for found in map(os.stat, names)]

    opened, unchanged = identities(), (0, 0, 0)

    def look() -> bool:
        """A name that goes changes the folder: as long as that is as it was, its names need not be looked at."""
        nonlocal unchanged
        try:
            folder = path.parent.stat()
            found = (folder.st_dev, folder.st_ino, folder.st_mtime_ns)
            if found == unchanged:
                return True
            there = identities() == opened
        except FileNotFoundError:
            return False
        if there and time.time_ns() - folder.st_mtime_ns > TICK_NS:
            unchanged = found
        return there

    return look


def open_reader(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    _set(db, OF_EVERY_CONNECTION + "PRAGMA query_only = ON;")
    return db


def _set(db: apsw.Connection, pragmas: str) -> None:
    # apsw halts at the first row: unless all are fetched, what stands behind a pragma that answers is not executed.
    db.execute(pragmas).fetchall()


def _applied(db: apsw.Connection) -> set[int]:
    return {number for (number,) in db.execute("SELECT number FROM migrations")}


def _ours() -> list[tuple[int, str]]:
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8"))
        for file in resources.files(__package__).joinpath("migrations").iterdir()
        if file.name.endswith(".sql")
    )


def migrate(db: apsw.Connection, point: Point) -> None:
    """Apply the numbered migrations that are missing, each in one transaction."""
    db.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT")
    applied = _applied(db)
    for number, script in _ours():
        if number not in applied:
            with db:
                db.execute(script)
                digest = hashlib.sha256(script.encode()).hexdigest()
                db.execute("INSERT INTO migrations VALUES (?, ?)", (number, digest))
                point("in_migration")

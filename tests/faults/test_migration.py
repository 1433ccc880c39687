"""A migration that is cut off at any of its statements: the record is what it was, and the next start completes it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from memory_service.stores.sqlite.schema import open_writer
from tests.stores.sqlite_file import ROOT, everything, rows

MIGRATIONS = sorted((ROOT / "memory_service/stores/sqlite/migrations").glob("*.sql"))

KILLED_AT_EACH = """
import json, os, shutil, signal, sys
from pathlib import Path
import apsw
from memory_service.stores.sqlite.schema import open_writer

before, folder, most = Path(sys.argv[1]), Path(sys.argv[2]), 500


def open_and_die(path, at):
    left = at

    def trace(cursor, sql, bindings):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    apsw.connection_hooks.append(lambda db: setattr(db, "exec_trace", trace))
    open_writer(path).close()


for at in range(1, most):
    place = folder / str(at)
    place.mkdir()
    if before.exists():
        shutil.copy(before, place / "memory.db")
    child = os.fork()
    if not child:
        try:
            open_and_die(place / "memory.db", at)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        break
print(at - 1)
"""
"""Opens copies of a record in processes of their own, and kills each before one statement more than the last."""


def killed_at_each(before: Path, folder: Path) -> int:
    """Returns how many statements there were to die at; `folder` holds what each death left."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH, str(before), str(folder)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


def reopened(path: Path) -> dict[str, Any]:
    """Open it as a service would, and look at all of it."""
    open_writer(path).close()
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    return {"schema": sorted(rows(path, "SELECT type, name, sql FROM sqlite_schema")), "rows": everything(path)}


def of_the_first_version(path: Path) -> None:
    """A record with a turn in it that the first migration alone has made."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT")
    db.execute(MIGRATIONS[0].read_text())
    db.execute("INSERT INTO migrations VALUES (1, 'first')")
    db.execute("INSERT INTO owners VALUES (1, 'default', 'ana')")
    db.execute("INSERT INTO sessions VALUES (1, 1, 's', 1, 'active', 0, 1, 0, ?)", (json.dumps({"kept": "head"}),))
    db.execute("INSERT INTO turns VALUES (1, 1, 1, 1, 't1', NULL, ?)", (json.dumps({"kept": "turn"}),))
    db.close()


def of_no_version(path: Path) -> None:
    """No record yet."""


@pytest.mark.parametrize("made", [of_no_version, of_the_first_version])
def test_a_migration_killed_at_any_statement_is_completed_by_the_next_start(
    tmp_path: Path, made: Callable[[Path], None]
) -> None:
    before = tmp_path / "before.db"
    made(before)
    deaths = killed_at_each(before, tmp_path / "left")
    assert deaths > 3 * len(MIGRATIONS)
    whole = reopened(tmp_path / "left" / str(deaths + 1) / "memory.db")  # the one that was not killed
    assert [number for number, _ in whole["rows"]["migrations"]] == list(range(1, len(MIGRATIONS) + 1))
    halfway = set()
    for at in range(1, deaths + 1):
        left = tmp_path / "left" / str(at) / "memory.db"
        if left.exists() and left.stat().st_size:
            tables = rows(left, "SELECT name FROM sqlite_schema WHERE name = 'migrations'")
            halfway.add(len(rows(left, "SELECT * FROM migrations")) if tables else 0)
        assert reopened(left) == whole, at
    assert len(halfway) > 1  # some died between two migrations

"""The write-ahead log: its pages are moved into the file when those who wait for a commit have been told.

Left alone, SQLite moves them inside the COMMIT by which the log has become long: at 4,000 turns a second twenty times
a second, for 2 to 20 ms, and all who wait for that commit wait for that too.
"""

from __future__ import annotations

import apsw

LONG = 1000
"""Pages from which on they are moved."""
COMMITS = 64
"""After so many its length is looked at. SQLite could tell it each time, but that would mean to wait for the
interpreter within the COMMIT.
"""


class Log:
    """Looks after the log of a connection, in the thread that writes."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._commits = 0
        db.wal_autocheckpoint(0)

    def tend(self, commits: int) -> None:
        """Do what there is to do about it after a transaction of so many commits. Raises apsw.Error."""
        self._commits += commits
        if self._commits < COMMITS:
            return
        self._commits = 0
        pages, _ = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        if pages >= LONG:
            pages, moved = self._db.wal_checkpoint()
            if moved < pages:  # somebody reads what is older: it can be begun anew only when that is over
                self._commits = COMMITS

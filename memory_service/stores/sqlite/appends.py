"""The turns that a whole group of commits appends, written and made durable by one statement.

Each statement gives away the interpreter's lock, and has to wait for it afterwards until the event loop has nothing to
do. With one statement for the group SQLite works beside the loop, and not in turn with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain

import apsw

from memory_service.stores.base import Commit
from memory_service.stores.sqlite.rows import kept_of, session_state

Row = tuple[object, ...]

USUAL = 20_000
"""Characters of a message: longer ones take long by themselves, and have a statement of their own."""

COLUMNS = (
    "tenant_id, user_id, session_id, incarnation, version, status, touched_at, unreflected_turns, live_after, head,"
    " seq, turn_id, body, compressed"
)
COUNT = COLUMNS.count(",") + 1

OF_THE_WRITER = f"""
CREATE TEMP VIEW appended ({COLUMNS}) AS SELECT {", ".join(["NULL"] * COUNT)} WHERE false;
CREATE TEMP TRIGGER append INSTEAD OF INSERT ON appended WHEN NEW.tenant_id IS NOT NULL
BEGIN
    UPDATE sessions SET version = NEW.version, status = NEW.status, touched_at = NEW.touched_at,
        unreflected_turns = NEW.unreflected_turns, live_after = NEW.live_after, head = NEW.head
    WHERE owner = (SELECT id FROM owners WHERE tenant_id = NEW.tenant_id AND user_id = NEW.user_id)
        AND session_id = NEW.session_id AND version = NEW.version - 1 AND head ->> 'incarnation' = NEW.incarnation;
    SELECT RAISE(ABORT, 'the head has moved') WHERE changes() <> 1;
    INSERT INTO turns (owner, session, seq, turn_id, body, compressed)
        SELECT owner, sessions.id, NEW.seq, NEW.turn_id, NEW.body, NEW.compressed FROM owners
        CROSS JOIN sessions ON sessions.owner = owners.id AND sessions.session_id = NEW.session_id
        WHERE owners.tenant_id = NEW.tenant_id AND owners.user_id = NEW.user_id;
    INSERT INTO mirrors (driver, tenant_id, user_id) SELECT name, NEW.tenant_id, NEW.user_id FROM drivers WHERE true
        ON CONFLICT DO UPDATE SET changed = changed + 1;
END;
"""


def prepare(db: apsw.Connection) -> None:
    """Make, for this connection alone, what is inserted into by `append_all`."""
    db.execute(OF_THE_WRITER)


def appends(commit: Commit) -> bool:
    """Tell whether all it does is to append a turn of usual size to a session that is there."""
    session, turns = commit.session, commit.turns
    return (
        session is not None
        and session.version > 1
        and len(turns) == 1
        and all(message.parts is None and len(message.content) <= USUAL for message in turns[0].messages)
        and commit.request is None
        and commit.epoch is None
        and not (commit.sittings or commit.memories or commit.vectors or commit.is_conditional)
    )


class NotAll(Exception):
    """One of them cannot be written: which, is found out by writing them one by one."""


def row_of(commit: Commit) -> Row | None:
    """What is written of a commit that appends; None of one that does anything else."""
    if not appends(commit):
        return None
    scope, session, turn = commit.scope, commit.session, commit.turns[0]
    assert session is not None
    whose = (scope.tenant_id, scope.user_id, turn.session_id, session.incarnation)
    return (*whose, *session_state(session), turn.seq, turn.turn_id, *kept_of(turn))


def append_all(db: apsw.Connection, rows: Sequence[Row]) -> None:
    """Write all of these or none of them, and then raise NotAll. Outside a transaction it is one.

    As many rows without values are added as make up a power of two: there is then a statement for a few sizes alone,
    and SQLite need not read it anew.
    """
    size = 1 << (len(rows) - 1).bit_length()
    values = [*chain.from_iterable(rows), *[None] * ((size - len(rows)) * COUNT)]
    try:
        db.execute(_of_rows(size), values)
    except apsw.ConstraintError as exc:
        raise NotAll from exc


@cache
def _of_rows(rows: int) -> str:
    row = f"({', '.join('?' * COUNT)})"
    return f"INSERT INTO appended VALUES {', '.join([row] * rows)}"

"""The turns that a whole group of commits appends, written by three statements.

Each statement gives away the interpreter's lock, and has to wait for it afterwards: a statement for each row would cost
a busy service more than the writing does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import apsw

from memory_service.stores.base import Commit
from memory_service.stores.sqlite.rows import kept_of, session_state

USUAL = 20_000
"""Characters of a message: longer ones take long by themselves, and have a statement of their own."""

HEADS = """
WITH new (tenant_id, user_id, session_id, incarnation, version, status, touched_at, unreflected_turns, live_after, head)
AS (VALUES {rows})
UPDATE sessions SET version = new.version, status = new.status, touched_at = new.touched_at,
    unreflected_turns = new.unreflected_turns, live_after = new.live_after, head = new.head
FROM new CROSS JOIN owners ON owners.tenant_id = new.tenant_id AND owners.user_id = new.user_id
WHERE sessions.owner = owners.id AND sessions.session_id = new.session_id AND sessions.version = new.version - 1
    AND sessions.head ->> 'incarnation' = new.incarnation
"""
TURNS = """
WITH new (tenant_id, user_id, session_id, seq, turn_id, body, compressed) AS (VALUES {rows})
INSERT INTO turns (owner, session, seq, turn_id, body, compressed)
SELECT owners.id, sessions.id, seq, turn_id, body, compressed
FROM new CROSS JOIN owners ON owners.tenant_id = new.tenant_id AND owners.user_id = new.user_id
CROSS JOIN sessions ON sessions.owner = owners.id AND sessions.session_id = new.session_id
"""
MARKS = """
WITH new (tenant_id, user_id) AS (VALUES {rows})
INSERT INTO mirrors (driver, tenant_id, user_id)
SELECT name, tenant_id, user_id FROM drivers CROSS JOIN new WHERE tenant_id IS NOT NULL
ON CONFLICT DO UPDATE SET changed = changed + 1
"""


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


def append_all(db: apsw.Connection, commits: Sequence[Commit]) -> None:
    """Write these, all of which append. Raises NotAll; what was written by then is to be undone."""
    heads: list[object] = []
    turns: list[object] = []
    users: list[object] = []
    for commit in commits:
        assert commit.session is not None
        (turn,) = commit.turns
        user = (commit.scope.tenant_id, commit.scope.user_id)
        users += user
        heads += (*user, turn.session_id, commit.session.incarnation, *session_state(commit.session))
        turns += (*user, turn.session_id, turn.seq, turn.turn_id, *kept_of(turn))
    try:
        for sql, values in ((HEADS, heads), (TURNS, turns)):
            _write(db, sql, values, len(commits))
            if db.changes() != len(commits):
                raise NotAll
    except apsw.ConstraintError as exc:
        raise NotAll from exc
    _write(db, MARKS, users, len(commits))


def _write(db: apsw.Connection, sql: str, values: list[object], rows: int) -> None:
    """Execute with so many rows of values, and as many without any as make up a power of two: there is then a
    statement for a few sizes alone, and SQLite need not read it anew.
    """
    size, columns = 1 << (rows - 1).bit_length(), len(values) // rows
    db.execute(_with_rows(sql, size, columns), [*values, *[None] * ((size - rows) * columns)])


@cache
def _with_rows(sql: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return sql.format(rows=", ".join([row] * rows))

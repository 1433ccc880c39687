"""The turns that a whole group of commits appends, written by three statements.

Each statement gives away the interpreter's lock, and has to wait for it afterwards: a statement for each row would cost
a busy service more than the writing does.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from memory_service.stores.base import Commit
from memory_service.stores.sqlite.mirrors import MARK_ALL
from memory_service.stores.sqlite.rows import kept_of, session_state
from memory_service.values import Turn

USUAL = 20_000
"""Characters of a message: longer ones take long by themselves, and a group of them would be one large text."""

HEADS = """
UPDATE sessions SET version = new.version, status = new.status, touched_at = new.touched_at,
    unreflected_turns = new.unreflected_turns, live_after = new.live_after, head = new.head
FROM (
    SELECT owners.id AS owner, value ->> 2 AS session_id, value ->> 3 AS incarnation, value ->> 4 AS version,
        value ->> 5 AS status, value ->> 6 AS touched_at, value ->> 7 AS unreflected_turns, value ->> 8 AS live_after,
        value ->> 9 AS head
    FROM json_each(?) CROSS JOIN owners ON tenant_id = value ->> 0 AND user_id = value ->> 1
) AS new
WHERE sessions.owner = new.owner AND sessions.session_id = new.session_id AND sessions.version = new.version - 1
    AND sessions.head ->> 'incarnation' = new.incarnation
"""
TURNS = """
INSERT INTO turns (owner, session, seq, turn_id, body, compressed)
SELECT owners.id, sessions.id, value ->> 3, value ->> 4, value ->> 5, unhex(value ->> 6)
FROM json_each(?) CROSS JOIN owners ON tenant_id = value ->> 0 AND user_id = value ->> 1
CROSS JOIN sessions ON sessions.owner = owners.id AND sessions.session_id = value ->> 2
ORDER BY key
"""

_encode = msgspec.json.Encoder().encode


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
    heads, turns = [], []
    for commit in commits:
        assert commit.session is not None
        whose = (commit.scope.tenant_id, commit.scope.user_id, commit.session.session_id)
        heads.append((*whose, commit.session.incarnation, *session_state(commit.session)))
        turns += [(*whose, turn.seq, turn.turn_id, *_kept(turn)) for turn in commit.turns]
    try:
        _write(db, HEADS, heads)
        _write(db, TURNS, turns)
    except apsw.ConstraintError as exc:
        raise NotAll from exc
    db.execute(MARK_ALL, (_text(heads),))


def _kept(turn: Turn) -> tuple[str, str | None]:
    """Of a turn its `body` and `compressed`, this in hexadecimal digits: JSON has no bytes."""
    text, small = kept_of(turn)
    return text, None if small is None else small.hex()


def _write(db: apsw.Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
    db.execute(sql, (_text(rows),))
    if db.changes() != len(rows):
        raise NotAll


def _text(rows: Sequence[tuple[object, ...]]) -> str:
    return _encode(rows).decode()

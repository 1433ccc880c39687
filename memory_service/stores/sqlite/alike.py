"""What many commits write alike, the turns that they append and vectors, all of it by one statement.

Each statement gives away the interpreter's lock, and has to wait for it afterwards until the event loop has nothing to
do. With one statement for all of them SQLite works beside the loop, and not in turn with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import apsw

from memory_service.stores.base import Commit
from memory_service.stores.sqlite.rows import kept_of, session_state

Row = tuple[object, ...]

USUAL = 20_000
"""Characters of a message: longer ones take long by themselves, and have a statement of their own."""

MOST_ROWS = 512
"""Of one statement."""
COLUMNS = {
    "appended": "tenant_id, user_id, session_id, incarnation, version, status, touched_at, unreflected_turns,"
    " live_after, head, seq, turn_id, body, compressed",
    "embedded": "tenant_id, user_id, is_turn, token, space, item_id, data",
}
COUNTS = {name: columns.count(",") + 1 for name, columns in COLUMNS.items()}

OWNER = "(SELECT id FROM owners WHERE tenant_id = NEW.tenant_id AND user_id = NEW.user_id)"
MARK = f"""
    INSERT INTO mirrors (driver, tenant_id, user_id) SELECT name, NEW.tenant_id, NEW.user_id FROM drivers
        WHERE {OWNER} IS NOT NULL -- of who was erased nothing is kept, the name neither
        ON CONFLICT DO UPDATE SET changed = changed + 1;
"""
ACTIONS = {
    "appended": f"""
    UPDATE sessions SET version = NEW.version, status = NEW.status, touched_at = NEW.touched_at,
        unreflected_turns = NEW.unreflected_turns, live_after = NEW.live_after, head = NEW.head
    WHERE owner = {OWNER} AND session_id = NEW.session_id AND version = NEW.version - 1
        AND head ->> 'incarnation' = NEW.incarnation;
    SELECT RAISE(ABORT, 'the head has moved') WHERE changes() <> 1;
    INSERT INTO turns (owner, session, seq, turn_id, body, compressed)
        SELECT owner, id, NEW.seq, NEW.turn_id, NEW.body, NEW.compressed FROM sessions
        WHERE owner = {OWNER} AND session_id = NEW.session_id;
""",
    # An item that was written anew since is in another row: its vector would be of other words.
    "embedded": f"""
    UPDATE turns SET space = NEW.space WHERE NEW.is_turn AND id = NEW.token AND owner = {OWNER};
    UPDATE memories SET space = NEW.space WHERE NOT NEW.is_turn AND id = NEW.token AND owner = {OWNER};
    INSERT OR REPLACE INTO vectors (owner, item_id, space, data)
        SELECT owner, NEW.item_id, NEW.space, NEW.data FROM (
            SELECT owner FROM turns WHERE NEW.is_turn AND id = NEW.token
            UNION ALL SELECT owner FROM memories WHERE NOT NEW.is_turn AND id = NEW.token
        ) WHERE owner = {OWNER};
""",
}


class NotAll(Exception):
    """One of them cannot be written: which, is found out by writing them one by one."""


class Alike(NamedTuple):
    """What a commit writes: rows of one of the `COLUMNS`."""

    into: str
    rows: list[Row]


def prepare(db: apsw.Connection) -> None:
    """Make, for this connection alone, what is inserted into."""
    for name, columns in COLUMNS.items():
        empty = ", ".join(["NULL"] * COUNTS[name])
        db.execute(
            f"CREATE TEMP VIEW {name} ({columns}) AS SELECT {empty} WHERE false;"
            f"CREATE TEMP TRIGGER {name}_row INSTEAD OF INSERT ON {name} WHEN NEW.tenant_id IS NOT NULL"
            f" BEGIN {ACTIONS[name]} {MARK} END;"
        )


def appends(commit: Commit) -> bool:
    """Tell whether all it does is to append a turn of usual size to a session that is there."""
    session, turns = commit.session, commit.turns
    return (
        session is not None
        and session.version > 1
        and len(turns) == 1
        and commit == Commit(scope=commit.scope, session=session, turns=turns)
        and all(message.parts is None and len(message.content) <= USUAL for message in turns[0].messages)
    )


def embeds(commit: Commit) -> bool:
    """Tell whether all it does is to give items their vectors."""
    return bool(commit.vectors) and commit == Commit(scope=commit.scope, vectors=commit.vectors)


def alike(commit: Commit) -> Alike | None:
    """What is written of a commit that does what many do; None of any other."""
    whose = (commit.scope.tenant_id, commit.scope.user_id)
    if appends(commit):
        session, turn = commit.session, commit.turns[0]
        assert session is not None
        named = (*whose, turn.session_id, session.incarnation)
        return Alike("appended", [(*named, *session_state(session), turn.seq, turn.turn_id, *kept_of(turn))])
    if embeds(commit):
        vectors = commit.vectors
        return Alike("embedded", [(*whose, "#" in v.item_id, v.token, v.space, v.item_id, v.data) for v in vectors])
    return None


def write_alike(db: apsw.Connection, into: str, rows: Sequence[Row]) -> None:
    """Write all of these or none of them, and then raise NotAll. Outside a transaction it is one."""
    try:
        if len(rows) <= MOST_ROWS:
            _write(db, into, rows)
        else:
            with db:
                for first in range(0, len(rows), MOST_ROWS):
                    _write(db, into, rows[first : first + MOST_ROWS])
    except apsw.ConstraintError as exc:
        raise NotAll from exc


def _write(db: apsw.Connection, into: str, rows: Sequence[Row]) -> None:
    """Execute with as many rows more, without values, as make up a power of two: there is then a statement for a few
    sizes alone, and SQLite need not read it anew.
    """
    size = 1 << (len(rows) - 1).bit_length()
    db.execute(_insert(into, size), [*chain.from_iterable(rows), *[None] * ((size - len(rows)) * COUNTS[into])])


@cache
def _insert(into: str, rows: int) -> str:
    row = f"({', '.join('?' * COUNTS[into])})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * rows)}"

"""All that is kept of a user: out of the tables, and into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from memory_service.stores.bodies import exported_request, memory_of, micros, session_of, sitting_of, turn_of
from memory_service.stores.exports import (
    FIRST_SITTING,
    Exported,
    Exports,
    Place,
    Queries,
    Users,
    exported_item,
    first_of,
    following,
)
from memory_service.stores.sqlite.mirrors import mark
from memory_service.stores.sqlite.rows import (
    OF_TURN,
    kept_of,
    known_owner,
    one,
    owner_of,
    put_memory,
    put_vector,
    session_state,
    sitting_state,
)
from memory_service.values import Effect, Request, Scope, Session, Sitting, Turn, turn_item_id

FIRST_USERS = ("", "")
QUERIES: Queries = (
    (
        "SELECT session_id, head FROM sessions WHERE owner = ?1 AND session_id > ?2 ORDER BY session_id LIMIT ?3",
        "",
        lambda _, head: Exported(session=session_of(head)),
    ),
    (
        "SELECT json_array(session_id, first_seq), body FROM sessions JOIN sittings ON sittings.session = sessions.id"
        " WHERE sessions.owner = ?1 AND session_id >= ?2 ->> 0 AND (session_id, first_seq) > (?2 ->> 0, ?2 ->> 1)"
        " ORDER BY session_id, first_seq LIMIT ?3",
        FIRST_SITTING,
        lambda _, body: Exported(sitting=sitting_of(body)),
    ),
    (
        "SELECT request_key, request_key, made_at, digest, session_id, turn_id FROM requests"
        " WHERE owner = ?1 AND request_key > ?2 ORDER BY request_key LIMIT ?3",
        "",
        exported_request,
    ),
    (
        f"SELECT turns.id, {OF_TURN}, turns.space, data FROM turns JOIN sessions ON sessions.id = turns.session"
        " LEFT JOIN vectors ON vectors.owner = turns.owner AND item_id = session_id || '#' || seq"
        " AND vectors.space = turns.space WHERE turns.owner = ?1 AND turns.id > ?2 ORDER BY turns.id LIMIT ?3",
        0,
        lambda _, body, space, data: exported_item(turn_of(body), space, data),
    ),
    (
        "SELECT memory_id, body, memories.space, data FROM memories"
        " LEFT JOIN vectors ON vectors.owner = memories.owner AND item_id = memory_id"
        " AND vectors.space = memories.space WHERE memories.owner = ?1 AND memory_id > ?2 ORDER BY memory_id LIMIT ?3",
        "",
        lambda _, body, space, data: exported_item(memory_of(body), space, data),
    ),
)


def users(db: apsw.Connection, cursor: tuple[str, str] | None, limit: int) -> Users:
    sql = (
        "SELECT tenant_id, user_id FROM owners WHERE (tenant_id, user_id) > (?, ?) ORDER BY tenant_id, user_id LIMIT ?"
    )
    found: list[Any] = db.execute(sql, (*(cursor or FIRST_USERS), limit)).fetchall()
    scopes = [Scope(tenant_id=tenant_id, user_id=user_id) for tenant_id, user_id in found]
    return Users(scopes=scopes, cursor=found[-1] if found else cursor, more=len(found) == limit)


def export(db: apsw.Connection, scope: Scope, cursor: Place | None, limit: int) -> Exports:
    owner = known_owner(db, scope)
    if owner is None:
        return Exports(things=[], cursor=cursor, more=False)
    things: list[Exported] = []
    place: Place | None = cursor or first_of(QUERIES)
    while place is not None and len(things) < limit:
        number, after = place
        rows = db.execute(QUERIES[number][0], (owner, after, limit - len(things))).fetchall()
        things += [QUERIES[number][2](*row) for row in rows]
        place = following(QUERIES, place, rows)
    return Exports(things=things, cursor=place, more=place is not None)


def restore(db: apsw.Connection, scope: Scope, things: Sequence[Exported]) -> None:
    owner = owner_of(db, scope)
    mark(db, scope)
    for thing in things:
        if thing.session is not None:
            _restore_session(db, owner, thing.session)
        elif thing.sitting is not None:
            _restore_sitting(db, owner, thing.sitting)
        elif thing.request is not None and thing.effect is not None:
            _restore_request(db, owner, thing.request, thing.effect)
        elif thing.turn is not None:
            _restore_turn(db, owner, thing.turn)
        elif thing.memory is not None:
            put_memory(db, owner, thing.memory)
        if thing.vector is not None:
            put_vector(db, owner, thing.vector, db.last_insert_rowid())


def _restore_session(db: apsw.Connection, owner: int, head: Session) -> None:
    db.execute(
        "INSERT INTO sessions (version, status, touched_at, unreflected_turns, live_after, head, owner, session_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, session_id) DO UPDATE SET version = excluded.version,"
        " status = excluded.status, touched_at = excluded.touched_at, unreflected_turns = excluded.unreflected_turns,"
        " live_after = excluded.live_after, head = excluded.head",
        (*session_state(head), owner, head.session_id),
    )


def _session(db: apsw.Connection, owner: int, session_id: str) -> int | None:
    return one(db, "SELECT id FROM sessions WHERE owner = ? AND session_id = ?", (owner, session_id))


def _restore_sitting(db: apsw.Connection, owner: int, sitting: Sitting) -> None:
    db.execute(
        "INSERT OR REPLACE INTO sittings (version, reflection, due_at, lease_until, body, session, first_seq, owner)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*sitting_state(sitting), _session(db, owner, sitting.session_id), sitting.first_seq, owner),
    )


def _restore_request(db: apsw.Connection, owner: int, request: Request, effect: Effect) -> None:
    did = (effect.digest, effect.session_id, effect.turn_id, micros(request.made_at))
    db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?)", (owner, request.key, *did))


def _restore_turn(db: apsw.Connection, owner: int, turn: Turn) -> None:
    session = _session(db, owner, turn.session_id)
    item_id = turn_item_id(turn.session_id, turn.seq)
    db.execute("DELETE FROM vectors WHERE owner = ? AND item_id = ?", (owner, item_id))
    db.execute(
        "INSERT OR REPLACE INTO turns (owner, session, seq, turn_id, body, compressed) VALUES (?, ?, ?, ?, ?, ?)",
        (owner, session, turn.seq, turn.turn_id, *kept_of(turn)),
    )

"""Rows: how each value is written, inside a transaction that somebody else opens and ends."""

from __future__ import annotations

import apsw

from memory_service.errors import StaleVersion
from memory_service.stores.base import REQUESTS_KEPT, Commit, DuplicateRequest, DuplicateTurn
from memory_service.stores.bodies import memory_of, micros, micros_or_none, require_unchanged, text_of
from memory_service.stores.compression import compressed
from memory_service.stores.sqlite.mirrors import mark
from memory_service.values import Memory, Request, Scope, Session, Sitting, Turn, Vector

OF_TURN = "coalesce(compressed, body)"
"""Reads a turn: a large one is kept compressed."""


def apply(db: apsw.Connection, commit: Commit) -> bool:
    """Write one commit into the open transaction; returns whether somebody deletes or replaces words by it.

    Raises StaleVersion or DuplicateTurn.
    """
    owner = owner_at(db, commit)
    if owner is None:
        return False  # vectors of a user who was erased
    is_last_word = any(_is_last_word(db, owner, memory) for memory in commit.memories)
    if commit.request is not None:
        put_request(db, owner, commit.request, commit.turns[0])
    if commit.session is not None:
        session = put_session(db, owner, commit.session)
        for turn in commit.turns:
            put_turn(db, owner, session, turn)
    _put_derived(db, owner, commit)
    if commit.is_searchable:
        mark(db, commit.scope)
    return is_last_word


def _is_last_word(db: apsw.Connection, owner: int, memory: Memory) -> bool:
    """Whether it takes the place of other words by somebody's wish, and not because more was learnt."""
    if not (memory.edited or memory.is_deleted or memory.kind in ("memory", "episode", "knowledge")):
        return False
    held = find_memory(db, owner, memory.memory_id)
    return held is not None and _words(held) != _words(memory)


def _words(memory: Memory) -> tuple[object, ...]:
    return memory.text, memory.metadata, memory.tags, memory.category, memory.rough


def _put_derived(db: apsw.Connection, owner: int, commit: Commit) -> None:
    for sitting in commit.sittings:
        put_sitting(db, owner, sitting)
    put_memories(db, owner, commit)
    for vector in commit.vectors:
        put_vector(db, owner, vector, vector.token)


def one(db: apsw.Connection, sql: str, values: tuple[object, ...]) -> int | None:
    for (found,) in db.execute(sql, values):
        return int(found)
    return None


def owner_at(db: apsw.Connection, commit: Commit) -> int | None:
    """The row of whom it is, made for what is their first. Raises StaleVersion if its epoch is over."""
    if commit.epoch is not None and epoch_of(db, commit.scope) != commit.epoch:
        raise StaleVersion
    if commit.session is not None or commit.memories:
        return owner_of(db, commit.scope)
    owner = known_owner(db, commit.scope)
    if owner is None and commit.sittings:
        raise StaleVersion
    return owner


def known_owner(db: apsw.Connection, scope: Scope) -> int | None:
    return one(db, "SELECT id FROM owners WHERE tenant_id = ? AND user_id = ?", (scope.tenant_id, scope.user_id))


def owner_of(db: apsw.Connection, scope: Scope) -> int:
    found = known_owner(db, scope)
    if found is None:
        sql = "INSERT INTO owners (tenant_id, user_id, epoch) VALUES (?, ?, lower(hex(randomblob(8))))"
        db.execute(sql, (scope.tenant_id, scope.user_id))
        return db.last_insert_rowid()
    return found


def epoch_of(db: apsw.Connection, scope: Scope) -> str:
    sql = "SELECT epoch FROM owners WHERE tenant_id = ? AND user_id = ?"
    return next((str(epoch) for (epoch,) in db.execute(sql, (scope.tenant_id, scope.user_id))), "")


def session_state(head: Session) -> tuple[object, ...]:
    touched_at = micros(head.touched_at)
    return head.version, head.status, touched_at, head.unreflected_turns, head.live_after, text_of(head)


def put_session(db: apsw.Connection, owner: int, head: Session) -> int:
    state = session_state(head)
    if head.version == 1:
        sql = (
            "INSERT INTO sessions (version, status, touched_at, unreflected_turns, live_after, head, owner, session_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, session_id) DO NOTHING RETURNING id"
        )
        row = one(db, sql, (*state, owner, head.session_id))
    else:
        sql = (
            "UPDATE sessions SET version = ?, status = ?, touched_at = ?, unreflected_turns = ?, live_after = ?,"
            " head = ? WHERE owner = ? AND session_id = ? AND version = ? AND head ->> 'incarnation' = ? RETURNING id"
        )
        row = one(db, sql, (*state, owner, head.session_id, head.version - 1, head.incarnation))
    if row is None:
        raise StaleVersion
    return row


def put_request(db: apsw.Connection, owner: int, request: Request, turn: Turn) -> None:
    db.execute("DELETE FROM requests WHERE made_at < ?", (micros(request.made_at - REQUESTS_KEPT),))
    sql = "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1"
    effect = (request.digest, turn.session_id, turn.turn_id, micros(request.made_at))
    if one(db, sql, (owner, request.key, *effect)) is None:
        raise DuplicateRequest


def put_turn(db: apsw.Connection, owner: int, session: int, turn: Turn) -> None:
    try:
        db.execute(
            "INSERT INTO turns (owner, session, seq, turn_id, body, compressed) VALUES (?, ?, ?, ?, ?, ?)",
            (owner, session, turn.seq, turn.turn_id, *kept_of(turn)),
        )
    except apsw.ConstraintError as exc:
        raise (DuplicateTurn if "turn_id" in str(exc) else StaleVersion) from exc


def kept_of(turn: Turn) -> tuple[str, bytes | None]:
    """Of a turn its `body` and `compressed`: one of the two has it."""
    text = text_of(turn)
    small = compressed(text)
    return (text, None) if small is None else ("", small)


def sitting_state(sitting: Sitting) -> tuple[object, ...]:
    due_at, lease_until = micros(sitting.due_at), micros_or_none(sitting.lease_until)
    return sitting.version, sitting.reflection, due_at, lease_until, text_of(sitting)


def put_sitting(db: apsw.Connection, owner: int, sitting: Sitting) -> None:
    session = one(db, "SELECT id FROM sessions WHERE owner = ? AND session_id = ?", (owner, sitting.session_id))
    state = sitting_state(sitting)
    if sitting.version == 1:
        sql = (
            "INSERT INTO sittings (version, reflection, due_at, lease_until, body, session, first_seq, owner)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1"
        )
        row = one(db, sql, (*state, session, sitting.first_seq, owner)) if session else None
    else:
        sql = (
            "UPDATE sittings SET version = ?, reflection = ?, due_at = ?, lease_until = ?, body = ?"
            " WHERE session = ? AND first_seq = ? AND version = ? RETURNING 1"
        )
        row = one(db, sql, (*state, session, sitting.first_seq, sitting.version - 1))
    if row is None:
        raise StaleVersion


def put_memories(db: apsw.Connection, owner: int, commit: Commit) -> None:
    for read in commit.unchanged:
        require_unchanged(read, find_memory(db, owner, read.memory_id))
    if any(find_memory(db, owner, memory_id) for memory_id in commit.absent):
        raise StaleVersion
    for memory in commit.memories:
        put_memory(db, owner, memory)


def find_memory(db: apsw.Connection, owner: int, memory_id: str) -> Memory | None:
    for (body,) in db.execute("SELECT body FROM memories WHERE owner = ? AND memory_id = ?", (owner, memory_id)):
        return memory_of(body)
    return None


def put_memory(db: apsw.Connection, owner: int, memory: Memory) -> None:
    # REPLACE gives the row a new id: readers that follow ids as a cursor see the memory again.
    db.execute("DELETE FROM vectors WHERE owner = ? AND item_id = ?", (owner, memory.memory_id))
    db.execute(
        "INSERT OR REPLACE INTO memories (owner, memory_id, kind, created_at, superseded, body)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            owner,
            memory.memory_id,
            memory.kind,
            micros(memory.created_at),
            memory.valid_to is not None,
            text_of(memory),
        ),
    )


ITEMS: dict[bool, str] = {
    True: "UPDATE turns SET space = ? WHERE id = ? AND owner = ? RETURNING 1",
    False: "UPDATE memories SET space = ? WHERE id = ? AND owner = ? RETURNING 1",
}


def put_vector(db: apsw.Connection, owner: int, vector: Vector, token: int) -> None:
    """`token`: the row that the item must still be in."""
    marked = one(db, ITEMS["#" in vector.item_id], (vector.space, token, owner))
    if marked:  # otherwise the item was written anew since: its vector would be of other words
        db.execute(
            "INSERT OR REPLACE INTO vectors (owner, item_id, space, data) VALUES (?, ?, ?, ?)",
            (owner, vector.item_id, vector.space, vector.data),
        )

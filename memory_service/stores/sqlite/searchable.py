"""What recall searches of a user, and which of it has no vector yet: each a function over a connection."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from memory_service.stores.base import Entries
from memory_service.stores.bodies import memory_of, turn_of, turns_named
from memory_service.stores.sqlite.rows import OF_TURN, epoch_of
from memory_service.values import Scope, Unembedded, Vector

OWNER = "(SELECT id FROM owners WHERE tenant_id = ? AND user_id = ?)"
NAMED = "(SELECT value FROM json_each(?))"
TURNS_NAMED = f"""
SELECT {OF_TURN} FROM json_each(?) AS named
JOIN sessions ON sessions.owner = {OWNER} AND session_id = named.value ->> 0
JOIN turns ON turns.session = sessions.id AND turns.seq = named.value ->> 1 ORDER BY sessions.id, turns.seq
"""
MEMORIES_NAMED = f"SELECT body FROM memories WHERE owner = {OWNER} AND memory_id IN {NAMED}"
VECTORS_NAMED = f"SELECT item_id, data FROM vectors WHERE owner = {OWNER} AND space = ? AND item_id IN {NAMED}"


def entries(db: apsw.Connection, scope: Scope, cursor: tuple[int, int, int], space: str, limit: int) -> Entries:
    def following(table: str, column: str, after: int, *values: object, where: str = "") -> list[tuple[Any, ...]]:
        sql = f"SELECT id, {column} FROM {table} WHERE owner = {OWNER} AND id > ? {where} ORDER BY id LIMIT ?"
        return db.execute(sql, (scope.tenant_id, scope.user_id, after, *values, limit)).fetchall()

    turns = following("turns", OF_TURN, cursor[0])
    memories = following("memories", "body", cursor[1])
    # Not before all items are out: the vector of a late item may be an early one, and would find nothing to go with.
    unread = limit in (len(turns), len(memories))
    vectors = [] if unread else following("vectors", "item_id, data", cursor[2], space, where="AND space = ?")
    tables = (turns, memories, vectors)
    return Entries(
        turns=[turn_of(body) for _, body in turns],
        memories=[memory_of(body) for _, body in memories],
        vectors=[Vector(item_id=item, token=0, space=space, data=data) for _, item, data in vectors],
        cursor=tuple(rows[-1][0] if rows else before for rows, before in zip(tables, cursor, strict=True)),
        more=any(len(rows) == limit for rows in tables),
        epoch=epoch_of(db, scope),
    )


def items(db: apsw.Connection, scope: Scope, item_ids: tuple[str, ...], space: str) -> Entries:
    owner, names = (scope.tenant_id, scope.user_id), msgspec.json.encode(item_ids).decode()
    numbers = msgspec.json.encode(turns_named(item_ids)).decode()
    return Entries(
        turns=[turn_of(body) for (body,) in db.execute(TURNS_NAMED, (numbers, *owner))],
        memories=[memory_of(body) for (body,) in db.execute(MEMORIES_NAMED, (*owner, names))],
        vectors=vectors(db, scope, item_ids, space),
        cursor=None,
        more=False,
    )


def vectors(db: apsw.Connection, scope: Scope, item_ids: tuple[str, ...], space: str) -> list[Vector]:
    named = (scope.tenant_id, scope.user_id, space, msgspec.json.encode(item_ids).decode())
    return [
        Vector(item_id=item_id, token=0, space=space, data=data) for item_id, data in db.execute(VECTORS_NAMED, named)
    ]


def due_vectors(db: apsw.Connection, space: str, limit: int) -> list[Unembedded]:
    found: list[Unembedded] = []
    for table, body in (("turns", OF_TURN), ("memories", "body")):
        # three ranges of one index: no vector yet, and vectors of another space on either side of ours
        for where, values in (("space IS NULL", ()), ("space < ?", (space,)), ("space > ?", (space,))):
            if len(found) < limit:
                sql = (
                    f"SELECT {table}.id, tenant_id, user_id, {body} FROM {table} JOIN owners ON owners.id = owner"
                    f" WHERE {where} ORDER BY {table}.space, {table}.id LIMIT ?"
                )
                rows = db.execute(sql, (*values, limit - len(found))).fetchall()
                found += [_unembedded(table, row) for row in rows]
    return found


def _unembedded(table: str, row: tuple[Any, ...]) -> Unembedded:
    token, tenant_id, user_id, body = row
    scope = Scope(tenant_id=tenant_id, user_id=user_id)
    if table == "turns":
        return Unembedded(scope=scope, token=token, turn=turn_of(body))
    return Unembedded(scope=scope, token=token, memory=memory_of(body))

"""All that is kept of a user: out of the tables, and into them; and who the users are."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from psycopg import AsyncConnection

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
from memory_service.stores.indexing import Index
from memory_service.stores.postgres.client import Client
from memory_service.stores.postgres.commits import (
    direction_columns,
    entries_of,
    memory_columns,
    session_columns,
    sitting_columns,
    turn_columns,
)
from memory_service.values import Scope

OWNER = "(SELECT id FROM owners WHERE tenant_id = %(tenant)s AND user_id = %(user)s)"
USERS = (
    "SELECT tenant_id, user_id FROM owners WHERE (tenant_id, user_id) > (%s, %s) ORDER BY tenant_id, user_id LIMIT %s"
)

QUERIES: Queries = (
    (
        f"SELECT session_id, head FROM sessions WHERE owner = {OWNER} AND session_id > %(after)s"
        " ORDER BY session_id LIMIT %(limit)s",
        "",
        lambda _, head: Exported(session=session_of(head)),
    ),
    (
        "SELECT json_build_array(session_id, first_seq)::text, body FROM sittings"
        f" JOIN sessions ON sessions.id = session WHERE sittings.owner = {OWNER} AND (session_id, first_seq)"
        " > (%(after)s::json ->> 0, (%(after)s::json ->> 1)::bigint) ORDER BY session_id, first_seq LIMIT %(limit)s",
        FIRST_SITTING,
        lambda _, body: Exported(sitting=sitting_of(body)),
    ),
    (
        "SELECT request_key, request_key, made_at, digest, session_id, turn_id FROM requests"
        f" WHERE owner = {OWNER} AND request_key > %(after)s ORDER BY request_key LIMIT %(limit)s",
        "",
        exported_request,
    ),
    (
        "SELECT turns.written, body, turns.space, data FROM turns JOIN sessions ON sessions.id = turns.session"
        " LEFT JOIN vectors ON vectors.owner = turns.owner AND item_id = session_id || '#' || seq"
        f" AND vectors.space = turns.space WHERE turns.owner = {OWNER} AND turns.written > %(after)s"
        " ORDER BY turns.written LIMIT %(limit)s",
        0,
        lambda _, body, space, data: exported_item(turn_of(body), space, data),
    ),
    (
        "SELECT memory_id, body, memories.space, data FROM memories"
        " LEFT JOIN vectors ON vectors.owner = memories.owner AND item_id = memory_id"
        f" AND vectors.space = memories.space WHERE memories.owner = {OWNER} AND memory_id > %(after)s"
        " ORDER BY memory_id LIMIT %(limit)s",
        "",
        lambda _, body, space, data: exported_item(memory_of(body), space, data),
    ),
)

# Each is given the same things; `n` is the place of one among them, which becomes its place in the order of writing.
GIVEN = (
    "json_to_recordset(%(things)s::json)"
    " AS given(n bigint, kind text, columns json, space text, data text, search json)"
)
LOCK = [
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
    "INSERT INTO owners (tenant_id, user_id) VALUES (%(tenant)s, %(user)s) ON CONFLICT DO NOTHING",
    f"SELECT id FROM owners WHERE id = {OWNER} FOR UPDATE",
]
RESTORE = [
    f"""
    DELETE FROM vectors USING {GIVEN} WHERE owner = {OWNER} AND item_id = columns ->> 'item_id'
    """,
    f"""
    DELETE FROM turns USING {GIVEN}, sessions WHERE turns.owner = {OWNER} AND kind = 'turn' AND sessions.id = session
        AND session_id = columns ->> 'session_id' AND turns.seq = (columns ->> 'seq')::bigint
    """,
    f"""
    DELETE FROM memories USING {GIVEN} WHERE owner = {OWNER} AND given.kind = 'memory'
        AND memory_id = columns ->> 'item_id'
    """,
    f"""
    INSERT INTO sessions
        (owner, session_id, version, status, touched_at, unreflected_turns, live_after, incarnation, head)
    SELECT {OWNER}, session_id, version, status, touched_at, unreflected_turns, live_after, incarnation, body
    FROM {GIVEN},
        json_to_record(columns) AS of_it(session_id text, version bigint, status text, touched_at bigint,
            unreflected_turns bigint, live_after bigint, incarnation text, body text)
    WHERE kind = 'session' ORDER BY n
    ON CONFLICT (owner, session_id) DO UPDATE SET version = excluded.version, status = excluded.status,
        touched_at = excluded.touched_at, unreflected_turns = excluded.unreflected_turns,
        live_after = excluded.live_after, incarnation = excluded.incarnation, head = excluded.head
    """,
    f"""
    INSERT INTO sittings (owner, session, first_seq, version, reflection, due_at, lease_until, body)
    SELECT owner, id, first_seq, of_it.version, reflection, due_at, lease_until, body FROM {GIVEN},
        json_to_record(columns) AS of_it(session_id text, first_seq bigint, version bigint, reflection text,
            due_at bigint, lease_until bigint, body text)
        JOIN sessions ON sessions.owner = {OWNER} AND sessions.session_id = of_it.session_id
    WHERE kind = 'sitting' ORDER BY n
    ON CONFLICT (session, first_seq) DO UPDATE SET version = excluded.version, reflection = excluded.reflection,
        due_at = excluded.due_at, lease_until = excluded.lease_until, body = excluded.body
    """,
    f"""
    INSERT INTO requests
    SELECT {OWNER}, key, digest, session_id, turn_id, made_at FROM {GIVEN},
        json_to_record(columns) AS of_it(key text, digest text, session_id text, turn_id text, made_at bigint)
    WHERE kind = 'request'
    ON CONFLICT (owner, request_key) DO UPDATE SET digest = excluded.digest, session_id = excluded.session_id,
        turn_id = excluded.turn_id, made_at = excluded.made_at
    """,
    f"""
    INSERT INTO turns (owner, session, seq, turn_id, written, body)
    SELECT owner, id, seq, turn_id, n + (SELECT written FROM owners WHERE id = owner), body FROM {GIVEN},
        json_to_record(columns) AS of_it(session_id text, seq bigint, turn_id text, body text)
        JOIN sessions ON sessions.owner = {OWNER} AND sessions.session_id = of_it.session_id
    WHERE kind = 'turn' ORDER BY n
    """,
    f"""
    INSERT INTO memories
        (owner, memory_id, kind, created_at, superseded, session_id, updated_at, rough, settled, written, body)
    SELECT {OWNER}, memory_id, of_it.kind, created_at, superseded, session_id, updated_at, rough, settled,
        n + (SELECT written FROM owners WHERE id = {OWNER}), body FROM {GIVEN},
        json_to_record(columns) AS of_it(memory_id text, kind text, created_at bigint, superseded boolean,
            session_id text, updated_at text, rough boolean, settled boolean, body text)
    WHERE given.kind = 'memory' ORDER BY n
    """,
    f"""
    WITH marked AS (
        UPDATE turns SET space = given.space FROM {GIVEN}
        WHERE owner = {OWNER} AND given.kind = 'turn' AND given.space IS NOT NULL
            AND written = n + (SELECT written FROM owners WHERE id = {OWNER})
    ), too AS (
        UPDATE memories SET space = given.space FROM {GIVEN}
        WHERE owner = {OWNER} AND given.kind = 'memory' AND given.space IS NOT NULL
            AND memories.written = n + (SELECT written FROM owners WHERE id = {OWNER})
    )
    INSERT INTO vectors (owner, item_id, space, written, data)
    SELECT {OWNER}, columns ->> 'item_id', space, %(count)s + n + (SELECT written FROM owners WHERE id = {OWNER}),
        decode(data, 'base64') FROM {GIVEN} WHERE space IS NOT NULL
    """,
    f"UPDATE owners SET written = written + 2 * %(count)s WHERE id = {OWNER}",
]
# Before the last of these, where the record is searched: what each is found by.
RESTORE_ENTRIES = [
    f"""
    DELETE FROM search_entries USING {GIVEN} WHERE owner = {OWNER} AND item_id = columns ->> 'item_id'
    """,
    f"""
    INSERT INTO search_entries (owner, item_id, revision, kind, extract, words, space, direction)
    SELECT {OWNER}, of_it.item_id, coalesce(turns.id, memories.id), of_it.kind, extract, words::tsvector, given.space,
        direction::halfvec FROM {GIVEN}
        CROSS JOIN json_to_record(search) AS of_it(item_id text, kind text, extract boolean, words text, direction text)
        LEFT JOIN turns ON turns.owner = {OWNER} AND of_it.kind = 'message'
            AND turns.written = n + (SELECT written FROM owners WHERE id = {OWNER})
        LEFT JOIN memories ON memories.owner = {OWNER} AND of_it.kind <> 'message'
            AND memories.written = n + (SELECT written FROM owners WHERE id = {OWNER})
    WHERE words IS NOT NULL
    """,
    f"UPDATE owners SET indexed = indexed + 2 * %(count)s WHERE id = {OWNER} AND indexed = written",
]
AT_ONCE = 2_000_000
"""Bytes that are written in one transaction, about: it has the time of a call."""


class Moving:
    def __init__(self, client: Client, index: Index) -> None:
        self._client, self._index = client, index

    async def users(self, cursor: tuple[str, str] | None, limit: int) -> Users:
        rows = await self._client.rows("users", USERS, (*(cursor or ("", "")), limit))
        scopes = [Scope(tenant_id=tenant_id, user_id=user_id) for tenant_id, user_id in rows]
        return Users(scopes=scopes, cursor=rows[-1] if rows else cursor, more=len(rows) == limit)

    async def export(self, scope: Scope, cursor: Place | None, limit: int) -> Exports:
        things: list[Exported] = []
        place: Place | None = cursor or first_of(QUERIES)
        while place is not None and len(things) < limit:
            number, after = place
            values = {**named(scope), "after": after, "limit": limit - len(things)}
            rows = await self._client.rows("export", QUERIES[number][0], values)
            things += [QUERIES[number][2](*row) for row in rows]
            place = following(QUERIES, place, rows)
        return Exports(things=things, cursor=place, more=place is not None)

    async def restore(self, scope: Scope, things: Sequence[Exported]) -> None:
        for part in _parts(things):
            await self._write(scope, part)

    async def _write(self, scope: Scope, things: Sequence[Exported]) -> None:
        values = await self.values(scope, things)

        async def work(db: AsyncConnection[Any], _: bool) -> None:
            async with db.transaction():
                for sql in LOCK:
                    await self._client.execute(db, "restore", sql, values)
                await self.write_in(db, "restore", values)

        await self._client.call(work)

    async def values(self, scope: Scope, things: Sequence[Exported]) -> dict[str, Any]:
        """Things as the statements read them."""
        turns = [thing.turn for thing in things if thing.turn]
        entries = await entries_of(self._index, turns, [thing.memory for thing in things if thing.memory])
        given = [_given(n, thing) for n, thing in enumerate(things, 1)]
        for columns, thing in zip(given, things, strict=True):
            if thing.item_id in entries:
                direction = direction_columns(self._index, thing.vector) if thing.vector else {}
                columns["search"] = {**entries[thing.item_id], **direction}
        return {**named(scope), "things": msgspec.json.encode(given).decode(), "count": len(things)}

    async def write_in(self, db: AsyncConnection[Any], verb: str, values: dict[str, Any]) -> None:
        """Write them in a transaction that holds their owner's row."""
        for sql in (*RESTORE[:-1], *(RESTORE_ENTRIES if self._index.kept else []), RESTORE[-1]):
            await self._client.execute(db, verb, sql, values)


def named(scope: Scope) -> dict[str, Any]:
    return {"tenant": scope.tenant_id, "user": scope.user_id}


def _parts(things: Sequence[Exported]) -> Iterator[Sequence[Exported]]:
    first = size = 0
    for place, thing in enumerate(things):
        size += len(msgspec.json.encode(thing))
        if size > AT_ONCE and place > first:
            yield things[first:place]
            first, size = place, len(msgspec.json.encode(thing))
    yield things[first:]


def _given(n: int, thing: Exported) -> dict[str, Any]:
    """One thing as the statements of `RESTORE` read it."""
    if thing.session is not None:
        return {"n": n, "kind": "session", "columns": session_columns(thing.session)}
    if thing.sitting is not None:
        return {"n": n, "kind": "sitting", "columns": sitting_columns(thing.sitting)}
    if thing.request is not None and thing.effect is not None:
        columns = {**msgspec.to_builtins(thing.effect), "key": thing.request.key}
        return {"n": n, "kind": "request", "columns": {**columns, "made_at": micros(thing.request.made_at)}}
    given: dict[str, Any] = {"n": n}
    if thing.turn is not None:
        given |= {"kind": "turn", "columns": {"session_id": thing.turn.session_id, **turn_columns(thing.turn)}}
    elif thing.memory is not None:
        given |= {"kind": "memory", "columns": memory_columns(thing.memory)}
    given["columns"]["item_id"] = thing.item_id
    if thing.vector is not None:
        given |= {"space": thing.vector.space, "data": base64.b64encode(thing.vector.data).decode()}
    return given

"""Taking what is kept of a user away from the tables: all of it, a session, or a turn. Each in one transaction.

So is what is put in quarantine, which stays in the tables.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from psycopg import AsyncConnection

from memory_service.stores.bodies import memory_of, session_of, sitting_of, turn_of
from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting, Held, forgotten
from memory_service.stores.postgres.client import Client
from memory_service.stores.postgres.moving import LOCK, OWNER, Moving, named
from memory_service.stores.quarantine import Concerned, Quarantine, Quarantined, rewritten
from memory_service.values import Scope, turn_item_id

OF_A_USER = ("vectors", "memories", "requests", "turns", "sittings", "sessions")
SESSION = f"(SELECT id FROM sessions WHERE owner = {OWNER} AND session_id = %(session)s)"
# `$` comes right behind `#`, by which a turn's name among searchable items goes on from that of its session.
ITEMS_OF_SESSION = "item_id >= %(session)s || '#' AND item_id < %(session)s || '$'"
OF_A_SESSION = (
    ("vectors", f"DELETE FROM vectors WHERE owner = {OWNER} AND {ITEMS_OF_SESSION}"),
    ("requests", f"DELETE FROM requests WHERE owner = {OWNER} AND session_id = %(session)s"),
    ("turns", f"DELETE FROM turns WHERE session = {SESSION}"),
    ("sittings", f"DELETE FROM sittings WHERE session = {SESSION}"),
    ("sessions", f"DELETE FROM sessions WHERE id = {SESSION}"),
)
# The name of the request that stored it stays: otherwise a repeat of that would bring the words back.
OF_A_TURN = (
    ("vectors", f"DELETE FROM vectors WHERE owner = {OWNER} AND item_id = %(item)s"),
    ("turns", f"DELETE FROM turns WHERE session = {SESSION} AND seq = %(seq)s"),
)
MEMORIES = (
    ("vectors", f"DELETE FROM vectors WHERE owner = {OWNER} AND item_id = ANY(%(memories)s)"),
    ("memories", f"DELETE FROM memories WHERE owner = {OWNER} AND memory_id = ANY(%(memories)s)"),
)
ENTRIES = (
    f"DELETE FROM search_entries WHERE owner = {OWNER} AND (item_id = ANY(%(memories)s) OR item_id = %(item)s"
    f" OR (%(item)s = '' AND {ITEMS_OF_SESSION}))"
)
TURNS = f"SELECT body FROM turns WHERE session = {SESSION} AND seq BETWEEN %(first)s AND %(seq)s ORDER BY seq"
NOTE = "INSERT INTO erasures SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
NEW_EPOCH = f"UPDATE owners SET epoch = DEFAULT WHERE id = {OWNER}"
# Of whom nothing is left not even the name stays.
OF_NOBODY = f"DELETE FROM owners WHERE id = {OWNER}" + "".join(
    f" AND NOT EXISTS (SELECT FROM {table} WHERE {table}.owner = owners.id)"
    for table in ("sessions", "memories", "requests")
)

Rows = list[tuple[Any, ...]]
T = TypeVar("T")
Work = Callable[[AsyncConnection[Any]], Awaitable[T]]


class Erasing:
    def __init__(self, client: Client, moving: Moving) -> None:
        self._client, self._moving = client, moving

    async def epoch(self, scope: Scope) -> str:
        sql = "SELECT epoch FROM owners WHERE tenant_id = %s AND user_id = %s"
        rows = await self._client.rows("epoch", sql, (scope.tenant_id, scope.user_id))
        return str(rows[0][0]) if rows else ""

    async def note(self, erasure_ids: Collection[str]) -> None:
        async def work(db: AsyncConnection[Any], _: bool) -> None:
            await self._client.execute(db, "erase", NOTE, (list(erasure_ids),))

        await self._client.call(work)

    async def erasures(self) -> set[str]:
        return {
            erasure_id for (erasure_id,) in await self._client.rows("erasures", "SELECT erasure_id FROM erasures", ())
        }

    async def erase(self, scope: Scope, erasure_id: str) -> Erased:
        async def work(db: AsyncConnection[Any]) -> Erased:
            gone = {}
            for table in OF_A_USER:
                sql = f"DELETE FROM {table} WHERE owner = {OWNER}"
                gone[table] = (await self._client.execute(db, "erase", sql, named(scope))).rowcount
            await self._client.execute(db, "erase", f"DELETE FROM owners WHERE id = {OWNER}", named(scope))
            return _counted(gone)

        return await self._alone(scope, erasure_id, work)

    async def forget(self, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
        async def work(db: AsyncConnection[Any]) -> Erased:
            values = {**named(scope), "session": what.session_id, "first": what.first, "seq": what.seq}
            values["item"] = _item_of(what)
            held = await self._held(db, values)
            if held is None or what.spares(held.session, held.sittings):
                return Erased()
            with_it = forgotten(what, held)
            values["memories"] = list(with_it.memories)
            gone = {}
            for table, sql in (*_of(what), *MEMORIES):
                gone[table] = (await self._client.execute(db, "forget", sql, values)).rowcount
            if (await self._rows(db, "SELECT to_regclass('search_entries')", {}))[0][0]:
                await self._client.execute(db, "forget", ENTRIES, values)
            await self._moving.write_in(db, "forget", await self._moving.values(scope, with_it.left))
            for sql in (NEW_EPOCH, OF_NOBODY):
                await self._client.execute(db, "forget", sql, values)
            return _counted(gone if what.after is None else {**gone, "turns": len(with_it.turns)})

        return await self._alone(scope, erasure_id, work)

    async def quarantine(self, scope: Scope, what: Quarantine) -> Quarantined:
        async def work(db: AsyncConnection[Any]) -> Quarantined:
            values = {**named(scope), "session": what.session_id}
            held = await self._concerned(db, values)
            if held is None:
                return Quarantined()
            then = rewritten(what, held)
            if then.session is not None:
                await self._moving.write_in(db, "quarantine", await self._moving.values(scope, then.things))
                await self._client.execute(db, "quarantine", NEW_EPOCH, values)
            return then.counts

        return await self._alone(scope, "", work)

    async def _alone(self, scope: Scope, erasure_id: str, work: Work[T]) -> T:
        """Work in a transaction in which nobody else writes this user, and in which the erasure is noted."""

        async def transaction(db: AsyncConnection[Any], _: bool) -> T:
            async with db.transaction():
                for sql in (LOCK[0], LOCK[-1]):
                    await self._client.execute(db, "erase", sql, named(scope))
                if erasure_id:
                    await self._client.execute(db, "erase", NOTE, ([erasure_id],))
                return await work(db)

        return await self._client.call(transaction)

    async def _held(self, db: AsyncConnection[Any], values: dict[str, Any]) -> Held | None:
        heads = await self._rows(db, f"SELECT head FROM sessions WHERE id = {SESSION}", values)
        turns = await self._rows(db, TURNS, values)
        if not heads or (values["seq"] is not None and not turns):
            return None
        sittings = await self._rows(
            db, f"SELECT body FROM sittings WHERE session = {SESSION} ORDER BY first_seq", values
        )
        memories = await self._rows(db, f"SELECT body FROM memories WHERE owner = {OWNER} ORDER BY written", values)
        return Held(
            session=session_of(heads[0][0]),
            sittings=[sitting_of(body) for (body,) in sittings],
            turns=[turn_of(body) for (body,) in turns],
            memories=[memory_of(body) for (body,) in memories],
        )

    async def _concerned(self, db: AsyncConnection[Any], values: dict[str, Any]) -> Concerned | None:
        heads = await self._rows(db, f"SELECT head FROM sessions WHERE id = {SESSION}", values)
        if not heads:
            return None
        of_session = f"WHERE session = {SESSION} ORDER BY"
        sittings = await self._rows(db, f"SELECT body FROM sittings {of_session} first_seq", values)
        turns = await self._rows(db, f"SELECT body FROM turns {of_session} seq", values)
        memories = await self._rows(db, f"SELECT body FROM memories WHERE owner = {OWNER} ORDER BY written", values)
        return Concerned(
            session=session_of(heads[0][0]),
            sittings=[sitting_of(body) for (body,) in sittings],
            turns=[turn_of(body) for (body,) in turns],
            memories=[memory_of(body) for (body,) in memories],
        )

    async def _rows(self, db: AsyncConnection[Any], sql: str, values: dict[str, Any]) -> Rows:
        return list(await (await self._client.execute(db, "forget", sql, values)).fetchall())


def _of(what: Forgetting) -> tuple[tuple[str, str], ...]:
    """What is deleted beside memories. For room nothing is: what is left of the turns is written over them."""
    if what.seq is None:
        return OF_A_SESSION
    return OF_A_TURN if what.after is None else ()


def _item_of(what: Forgetting) -> str:
    """The turn's name among searchable items; empty for a whole session."""
    return "" if what.seq is None else turn_item_id(what.session_id, what.seq)


def _counted(gone: dict[str, int]) -> Erased:
    return Erased(**{table: count for table, count in gone.items() if table != "vectors"})

"""Taking what is kept of a user away from the tables: all of it, a session, or a turn. Inside one transaction.

So is what is put in quarantine, which stays in the tables.
"""

from __future__ import annotations

import apsw

from memory_service.stores.bodies import memory_of, session_of, sitting_of, turn_of
from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting, Held, forgotten
from memory_service.stores.quarantine import Concerned, Quarantine, Quarantined, rewritten
from memory_service.stores.sqlite.mirrors import begin_anew
from memory_service.stores.sqlite.moving import restore
from memory_service.stores.sqlite.rows import OF_TURN, known_owner
from memory_service.values import Scope

OF_A_USER = (
    ("vectors", "DELETE FROM vectors WHERE owner = ?"),
    ("memories", "DELETE FROM memories WHERE owner = ?"),
    ("requests", "DELETE FROM requests WHERE owner = ?"),
    ("turns", "DELETE FROM turns WHERE owner = ?"),
    ("sittings", "DELETE FROM sittings WHERE session IN (SELECT id FROM sessions WHERE owner = ?)"),
    ("sessions", "DELETE FROM sessions WHERE owner = ?"),
    ("owners", "DELETE FROM owners WHERE id = ?"),
)
# `$` comes right behind `#`, by which a turn's name among searchable items goes on from that of its session.
OF_A_SESSION = (
    ("vectors", "DELETE FROM vectors WHERE owner = ? AND item_id >= ? || '#' AND item_id < ?2 || '$'"),
    ("requests", "DELETE FROM requests WHERE owner = ? AND session_id = ?"),
    ("turns", "DELETE FROM turns WHERE owner = ? AND session = ?3"),
    ("sittings", "DELETE FROM sittings WHERE session = ?3"),
    ("sessions", "DELETE FROM sessions WHERE owner = ? AND session_id = ?"),
)

# Of whom nothing is left not even the name stays.
OF_NOBODY = (
    "DELETE FROM owners WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM sessions WHERE owner = ?1)"
    " AND NOT EXISTS (SELECT 1 FROM memories WHERE owner = ?1) AND NOT EXISTS (SELECT 1 FROM requests WHERE owner = ?1)"
)


def erase(db: apsw.Connection, scope: Scope, erasure_id: str) -> Erased:
    note(db, erasure_id)
    owner = known_owner(db, scope)
    if owner is None:
        return Erased()
    begin_anew(db, scope)
    gone = {}
    for table, sql in OF_A_USER:
        db.execute(sql, (owner,))
        gone[table] = db.changes()
    return _counted(gone)


def forget(db: apsw.Connection, scope: Scope, what: Forgetting, erasure_id: str) -> Erased:
    note(db, erasure_id)
    owner = known_owner(db, scope)
    held = None if owner is None else _held(db, owner, what)
    if owner is None or held is None or what.spares(held.session, held.sittings):
        return Erased()
    with_it = forgotten(what, held)
    # Turns are written over by what is left of them. The names of the requests that stored them stay: otherwise a
    # repeat of one would bring the words back.
    gone = _delete_session(db, owner, what.session_id) if what.seq is None else {"turns": len(with_it.turns)}
    for memory_id in with_it.memories:
        db.execute("DELETE FROM vectors WHERE owner = ? AND item_id = ?", (owner, memory_id))
        db.execute("DELETE FROM memories WHERE owner = ? AND memory_id = ?", (owner, memory_id))
    restore(db, scope, with_it.left)
    _begin_epoch(db, owner, scope)
    return _counted({**gone, "memories": len(with_it.memories)})


def quarantine(db: apsw.Connection, scope: Scope, what: Quarantine) -> Quarantined:
    owner = known_owner(db, scope)
    held = None if owner is None else _concerned(db, owner, what)
    if owner is None or held is None:
        return Quarantined()
    then = rewritten(what, held)
    if then.session is not None:
        restore(db, scope, then.things)
        _begin_epoch(db, owner, scope)
    return then.counts


def _begin_epoch(db: apsw.Connection, owner: int, scope: Scope) -> None:
    db.execute("UPDATE owners SET epoch = lower(hex(randomblob(8))) WHERE id = ?", (owner,))
    db.execute(OF_NOBODY, (owner,))
    begin_anew(db, scope)


def note(db: apsw.Connection, *erasure_ids: str) -> None:
    db.executemany("INSERT OR IGNORE INTO erasures VALUES (?)", [(one,) for one in erasure_ids if one])


def erasures(db: apsw.Connection) -> set[str]:
    return {str(erasure_id) for (erasure_id,) in db.execute("SELECT erasure_id FROM erasures")}


def _concerned(db: apsw.Connection, owner: int, what: Quarantine) -> Concerned | None:
    sql = "SELECT id, head FROM sessions WHERE owner = ? AND session_id = ?"
    for session, head in db.execute(sql, (owner, what.session_id)):
        sittings = db.execute("SELECT body FROM sittings WHERE session = ? ORDER BY first_seq", (session,))
        turns = db.execute(f"SELECT {OF_TURN} FROM turns WHERE session = ? ORDER BY seq", (session,))
        memories = db.execute("SELECT body FROM memories WHERE owner = ? ORDER BY id", (owner,))
        return Concerned(
            session=session_of(head),
            sittings=[sitting_of(body) for (body,) in sittings],
            turns=[turn_of(body) for (body,) in turns],
            memories=[memory_of(body) for (body,) in memories],
        )
    return None


def _held(db: apsw.Connection, owner: int, what: Forgetting) -> Held | None:
    sql = "SELECT id, head FROM sessions WHERE owner = ? AND session_id = ?"
    for session, head in db.execute(sql, (owner, what.session_id)):
        sittings = db.execute("SELECT body FROM sittings WHERE session = ? ORDER BY first_seq", (session,))
        rows = db.execute(
            f"SELECT {OF_TURN} FROM turns WHERE session = ? AND seq BETWEEN ? AND ?", (session, what.first, what.seq)
        )
        turns = [turn_of(body) for (body,) in rows]
        if what.seq is not None and not turns:
            return None
        memories = db.execute("SELECT body FROM memories WHERE owner = ? ORDER BY id", (owner,))
        return Held(
            session=session_of(head),
            sittings=[sitting_of(body) for (body,) in sittings],
            turns=turns,
            memories=[memory_of(body) for (body,) in memories],
        )
    return None


def _delete_session(db: apsw.Connection, owner: int, session_id: str) -> dict[str, int]:
    ((session,),) = db.execute("SELECT id FROM sessions WHERE owner = ? AND session_id = ?", (owner, session_id))
    gone = {}
    for table, sql in OF_A_SESSION:
        db.execute(sql, (owner, session_id, session)[: 3 if "?3" in sql else 2])
        gone[table] = db.changes()
    return gone


def _counted(gone: dict[str, int]) -> Erased:
    return Erased(**{name: count for name, count in gone.items() if name not in ("vectors", "owners")})

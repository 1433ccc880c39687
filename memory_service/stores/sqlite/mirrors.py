"""Rows of mirrors: what drivers lack of a user."""

from __future__ import annotations

from datetime import datetime

import apsw
import msgspec

from memory_service.stores.bodies import MIRROR_COLUMNS, micros, micros_or_none, mirror_of
from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope

MARK = """
INSERT INTO mirrors (driver, tenant_id, user_id) SELECT name, ?, ? FROM drivers WHERE true
ON CONFLICT DO UPDATE SET changed = changed + 1
"""
MARK_ALL = """
INSERT INTO mirrors (driver, tenant_id, user_id)
SELECT name, value ->> 0, value ->> 1 FROM drivers CROSS JOIN json_each(?) WHERE true
ON CONFLICT DO UPDATE SET changed = changed + 1
"""
ANEW = "cursor = 'null', begun = begun + 1, changed = changed + 1"
CLAIM = f"""
UPDATE mirrors SET lease_until = ? WHERE driver = ? AND (tenant_id, user_id) IN (
    SELECT tenant_id, user_id FROM mirrors
    WHERE driver = ? AND mirrored < changed AND (lease_until IS NULL OR lease_until <= ?) LIMIT ?
) RETURNING {MIRROR_COLUMNS}
"""
OURS = "driver = ? AND tenant_id = ? AND user_id = ? AND lease_until IS ?"
# The row of a user who was erased, and has been forgotten, would be the last that is kept of them.
DONE = f"""
DELETE FROM mirrors WHERE {OURS} AND mirrored >= changed
    AND (tenant_id, user_id) NOT IN (SELECT tenant_id, user_id FROM owners WHERE tenant_id = ? AND user_id = ?)
"""


def mark(db: apsw.Connection, scope: Scope) -> None:
    """Say to all drivers that there is something new of a user."""
    db.execute(MARK, (scope.tenant_id, scope.user_id))


def begin_anew(db: apsw.Connection, scope: Scope) -> None:
    """Say to all drivers that what they have of a user is no more."""
    db.execute(f"UPDATE mirrors SET {ANEW} WHERE tenant_id = ? AND user_id = ?", (scope.tenant_id, scope.user_id))


def follow(db: apsw.Connection, driver: str, anew: bool) -> None:
    db.execute("INSERT OR IGNORE INTO drivers VALUES (?)", (driver,))
    if db.changes():
        sql = "INSERT OR IGNORE INTO mirrors (driver, tenant_id, user_id) SELECT ?, tenant_id, user_id FROM owners"
        db.execute(sql, (driver,))
    elif anew:
        db.execute(f"UPDATE mirrors SET {ANEW} WHERE driver = ?", (driver,))
    # one process owns the file: a lease that is not this one's is of a process that is gone
    db.execute("UPDATE mirrors SET lease_until = NULL WHERE driver = ? AND lease_until IS NOT NULL", (driver,))


def unfollow(db: apsw.Connection, driver: str) -> None:
    db.execute("DELETE FROM mirrors WHERE driver = ?", (driver,))
    db.execute("DELETE FROM drivers WHERE name = ?", (driver,))


def claim(db: apsw.Connection, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
    rows = db.execute(CLAIM, (micros(lease_until), driver, driver, micros(now), limit)).fetchall()
    return [mirror_of(driver, row) for row in rows]


def put(db: apsw.Connection, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
    names = (mirror.driver, mirror.scope.tenant_id, mirror.scope.user_id)
    ours = (*names, micros_or_none(mirror.lease_until))
    cursor, then = msgspec.json.encode(mirror.cursor).decode(), micros_or_none(lease_until)
    db.execute(
        f"UPDATE mirrors SET target = ?, cursor = ?, mirrored = iif(?, ?, mirrored), lease_until = ?"
        f" WHERE {OURS} AND begun = ?",
        (mirror.target, cursor, caught_up, mirror.changed, then, *ours, mirror.begun),
    )
    counts = bool(db.changes())
    if not counts:
        db.execute(f"UPDATE mirrors SET lease_until = NULL WHERE {OURS}", ours)
    elif caught_up:
        db.execute(DONE, (*names, then, *names[1:]))
    return counts


def find(db: apsw.Connection, scope: Scope, driver: str) -> Mirror:
    sql = f"SELECT {MIRROR_COLUMNS} FROM mirrors WHERE driver = ? AND tenant_id = ? AND user_id = ?"
    for row in db.execute(sql, (driver, scope.tenant_id, scope.user_id)):
        return mirror_of(driver, row)
    return Mirror(scope=scope, driver=driver)


def lagging(db: apsw.Connection, driver: str) -> int:
    sql = "SELECT count(*) FROM mirrors WHERE driver = ? AND mirrored < changed"
    ((count,),) = db.execute(sql, (driver,))
    assert isinstance(count, int)
    return count

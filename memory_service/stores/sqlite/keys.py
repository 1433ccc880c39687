"""API keys in SQLite."""

from __future__ import annotations

import apsw

from memory_service.stores.bodies import key_of, text_of
from memory_service.stores.keys import ApiKey

PUT = """
INSERT INTO api_keys (key_id, tenant_id, revoked, body) VALUES (?, ?, ?, ?)
ON CONFLICT (key_id) DO UPDATE SET tenant_id = excluded.tenant_id, revoked = excluded.revoked, body = excluded.body
WHERE NOT api_keys.revoked
"""


def put(db: apsw.Connection, key: ApiKey) -> None:
    db.execute(PUT, (key.key_id, key.tenant_id, key.revoked_at is not None, text_of(key)))


def find(db: apsw.Connection, key_id: str) -> ApiKey | None:
    found = db.execute("SELECT body FROM api_keys WHERE key_id = ?", (key_id,))
    return next((key_of(body) for (body,) in found), None)


def of_tenant(db: apsw.Connection, tenant_id: str | None) -> list[ApiKey]:
    rows = db.execute("SELECT body FROM api_keys WHERE ?1 IS NULL OR tenant_id = ?1", (tenant_id,))
    return [key_of(body) for (body,) in rows]

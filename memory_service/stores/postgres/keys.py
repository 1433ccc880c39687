"""API keys in PostgreSQL."""

from __future__ import annotations

from memory_service.stores.bodies import key_of, text_of
from memory_service.stores.keys import ApiKey
from memory_service.stores.postgres.client import Client

PUT = """
INSERT INTO api_keys (key_id, tenant_id, revoked, body) VALUES (%s, %s, %s, %s)
ON CONFLICT (key_id) DO UPDATE SET tenant_id = excluded.tenant_id, revoked = excluded.revoked, body = excluded.body
WHERE NOT api_keys.revoked RETURNING key_id
"""


class Keys:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def put(self, key: ApiKey) -> None:
        values = (key.key_id, key.tenant_id, key.revoked_at is not None, text_of(key))
        await self._client.rows("put_key", PUT, values)

    async def find(self, key_id: str) -> ApiKey | None:
        rows = await self._client.rows("find_key", "SELECT body FROM api_keys WHERE key_id = %s", (key_id,))
        return key_of(rows[0][0]) if rows else None

    async def of_tenant(self, tenant_id: str | None) -> list[ApiKey]:
        where, values = ("", ()) if tenant_id is None else (" WHERE tenant_id = %s", (tenant_id,))
        return [
            key_of(body) for (body,) in await self._client.rows("keys", f"SELECT body FROM api_keys{where}", values)
        ]

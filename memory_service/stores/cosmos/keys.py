"""API keys in Cosmos DB: documents in a partition of no user, in the container of sessions."""

from __future__ import annotations

from memory_service.errors import StoreUnavailable
from memory_service.stores.bodies import text_of
from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos.client import Client, Refused
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import API_KEY, Document, key_id, key_of
from memory_service.stores.keys import ApiKey

KEYS = "~keys"
"""Their partition: those of users have a bar in their names."""
ATTEMPTS = 10


class Keys:
    def __init__(self, client: Client, names: Names) -> None:
        self._client, self._container = client, names.interactions

    async def put(self, key: ApiKey) -> None:
        """Write over what was read, until nobody wrote in between: a revocation would be written over."""
        whole = {
            "id": key_id(key.key_id),
            "owner": KEYS,
            "type": API_KEY,
            "tenant": key.tenant_id,
            "body": text_of(key),
        }
        for _ in range(ATTEMPTS):
            held = await self._found("put_key", key.key_id)
            if held is not None and key_of(held).revoked_at is not None:
                return
            operation = batches.create(whole) if held is None else batches.replace(whole, held)
            try:
                await batches.send(self._client, self._container, [operation], KEYS, "put_key")
            except Refused:
                continue
            return
        raise StoreUnavailable("Cosmos DB: the key is being changed by others")

    async def find(self, its_id: str) -> ApiKey | None:
        held = await self._found("find_key", its_id)
        return key_of(held) if held else None

    async def of_tenant(self, tenant_id: str | None) -> list[ApiKey]:
        where = "c.type = @type" + ("" if tenant_id is None else " AND c.tenant = @tenant")
        values = {"type": API_KEY, **({} if tenant_id is None else {"tenant": tenant_id})}
        rows = await self._client.rows("keys", self._container, f"SELECT * FROM c WHERE {where}", values, KEYS)
        return [key_of(row) for row in rows]

    async def _found(self, verb: str, its_id: str) -> Document | None:
        return await self._client.find(verb, self._container, key_id(its_id), KEYS)

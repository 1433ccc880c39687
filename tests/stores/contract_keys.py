"""API keys: kept whole, found by their id, listed by tenant; and nobody takes them for something a user has."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace

from memory_service.settings import Settings
from memory_service.stores.base import Store
from memory_service.stores.keys import ApiKey
from tests.support.stores import opened
from tests.support.values import NOON, a_key, a_scope, begin, embed_all, minutes

LIKE_A_USER = ["~keys", "~keys|", "|~keys", "default|ana"]


def an_api_key(key_id: str = "abcd1234", **changes: Any) -> ApiKey:
    given = {"name": "the app", "tenant_id": "acme", "permissions": frozenset({"read", "write"}), **changes}
    return ApiKey(key_id=key_id, digest=f"digest of {key_id}", created_at=NOON, **given)


WHOLE = an_api_key(
    "whole000",
    user_id="ana",
    permissions=frozenset({"read", "write", "erase", "admin", "metrics"}),
    expires_at=minutes(5),
    revoked_at=minutes(3),
    spaces={"research": frozenset({"read", "write"}), "a.b_c-d": frozenset({"erase"})},
)


class KeyContract:
    async def test_a_key_is_found_by_its_id_with_all_it_says(self, store: Store) -> None:
        for key in (an_api_key(), WHOLE):
            await store.put_key(key)
            assert await store.find_key(key.key_id) == key
        assert await store.find_key("nokey000") is None

    async def test_names_that_look_like_something_else_are_found_as_they_are(self, store: Store) -> None:
        for key_id in LIKE_A_USER:
            await store.put_key(an_api_key(key_id, tenant_id=key_id))
        for key_id in LIKE_A_USER:
            assert await store.find_key(key_id) == an_api_key(key_id, tenant_id=key_id)
            assert [key.key_id for key in await store.keys(key_id)] == [key_id]

    async def test_keys_are_listed_by_tenant_oldest_first(self, store: Store) -> None:
        assert await store.keys() == []
        young, old = an_api_key("aaaa0000"), replace(an_api_key("zzzz0000"), created_at=minutes(-1))
        same, foreign = an_api_key("bbbb0000"), an_api_key("cccc0000", tenant_id="acme2")
        for key in (young, foreign, same, old):
            await store.put_key(key)
        assert await store.keys("acme") == [old, young, same]
        assert await store.keys("acme2") == [foreign]
        assert await store.keys("acm") == []
        assert await store.keys() == [old, young, same, foreign]

    async def test_a_key_that_comes_again_takes_the_place_of_the_former(self, store: Store) -> None:
        await store.put_key(an_api_key())
        then = an_api_key(name="renamed", expires_at=minutes(1))
        await store.put_key(then)
        assert await store.keys() == [then]

    async def test_nothing_takes_a_revocation_back(self, store: Store) -> None:
        revoked = an_api_key(revoked_at=NOON)
        await store.put_key(an_api_key())
        await store.put_key(revoked)
        await store.put_key(an_api_key())
        await store.put_key(an_api_key(expires_at=minutes(9), tenant_id="other"))
        assert await store.keys() == [revoked]

    async def test_a_revocation_stands_whoever_writes_at_the_same_time(self, store: Store) -> None:
        await store.put_key(an_api_key())
        others = [an_api_key(name=f"name {number}") for number in range(4)]
        await asyncio.gather(*map(store.put_key, [*others, an_api_key(revoked_at=NOON), *others]))
        found = await store.find_key("abcd1234")
        assert found is not None
        assert found.revoked_at == NOON

    async def test_a_key_is_nothing_that_a_user_has(self, store: Store) -> None:
        await store.put_key(an_api_key(tenant_id="default", user_id="ana"))
        assert (await store.users()).scopes == []
        assert (await store.export(a_scope())).things == []
        assert await store.due_vectors("space", 10) == []
        await store.follow("engine")
        assert await store.lagging("engine") == 0
        await begin(store, a_key(), turns=2)
        await embed_all(store)
        await store.erase(a_scope())
        assert [key.key_id for key in await store.keys()] == ["abcd1234"]
        assert (await store.users()).scopes == []


class DurableKeyContract:
    async def test_keys_are_there_after_reopening(self, record: str | Settings) -> None:
        async with opened(record) as store:
            await store.put_key(WHOLE)
            await store.put_key(an_api_key())
        async with opened(record) as store:
            assert await store.keys() == [an_api_key(), WHOLE]

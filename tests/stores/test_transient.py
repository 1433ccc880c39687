"""The store of dictionaries keeps the contract, and says that it keeps nothing else.

So does the fake that other tests stand on.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from memory_service.values import Turn
from tests.stores.contract import StoreContract
from tests.support.stores import YieldingStore, opened, store_of
from tests.support.values import a_key, begin


class TestTransientStore(StoreContract):
    @pytest.fixture
    def record(self) -> str:
        return "transient://"

    def everything(self, store: Any) -> Any:
        return copy.deepcopy(
            {scope: record for scope, record in store._records.items() if record.sessions or record.items}
        )

    def contents(self, store: Any) -> list[str]:
        items = [item for record in store._records.values() for item in record.items.values()]
        said = [item.value for item in sorted(items, key=lambda item: item.token) if isinstance(item.value, Turn)]
        return [message.content for turn in said for message in turn.messages]


class TestYieldingStore(TestTransientStore):
    @pytest.fixture
    async def store(self) -> AsyncIterator[YieldingStore]:
        async with AsyncExitStack() as stack:
            store = YieldingStore()
            await store.start(stack)
            yield store

    def everything(self, store: Any) -> Any:
        return super().everything(store.inner)

    def contents(self, store: Any) -> list[str]:
        return super().contents(store.inner)


def test_it_promises_no_durability() -> None:
    assert store_of("transient://").capabilities.durability == "none"


async def test_each_one_is_empty_at_first() -> None:
    async with opened("transient://") as one, opened("transient://") as other:
        await begin(one, a_key(), turns=1)
        assert await other.load(a_key()) is None

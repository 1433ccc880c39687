"""What every store must do: all that `memory_service/stores/base.py` promises.

A backend's test file subclasses `StoreContract`, says how to open it (`record`) and how to look at what it
keeps *around* its verbs (`everything`, `contents`): a store that tells itself lies is found out.
A store that promises to be durable subclasses `DurableStoreContract`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory_service.errors import StaleVersion
from memory_service.settings import Settings
from memory_service.stores.base import Commit, DuplicateTurn, Store
from tests.stores.contract_aging import AgingContract
from tests.stores.contract_commits import CommitContract
from tests.stores.contract_due import DueContract
from tests.stores.contract_erasing import ErasingContract
from tests.stores.contract_gateway import GatewayContract
from tests.stores.contract_keys import DurableKeyContract, KeyContract
from tests.stores.contract_large import LargeContract
from tests.stores.contract_mirrors import MirrorContract
from tests.stores.contract_moving import MovingContract
from tests.stores.contract_quarantine import QuarantineContract
from tests.stores.contract_reads import ReadContract
from tests.stores.contract_recall import RecallContract
from tests.stores.contract_room import RoomContract
from tests.support.stores import opened
from tests.support.values import a_key, a_memory, a_scope, a_sitting, a_turn, a_vector, begin, embed_all


class StoreContract(
    CommitContract,
    ReadContract,
    RecallContract,
    DueContract,
    GatewayContract,
    KeyContract,
    MirrorContract,
    MovingContract,
    ErasingContract,
    AgingContract,
    QuarantineContract,
    LargeContract,
    RoomContract,
):
    @pytest.fixture
    def record(self) -> str | Settings:
        """STORE_URL, or settings, of a record of the test's own, empty at first."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, record: str | Settings) -> AsyncIterator[Store]:
        async with opened(record) as store:
            yield store

    def everything(self, store: Store) -> Any:
        """All that is kept, read around the store, in a form that can be compared."""
        raise NotImplementedError

    def contents(self, store: Store) -> list[str]:
        """What was said, message by message in the order of writing, read around the store."""
        raise NotImplementedError

    async def test_it_answers_a_ping(self, store: Store) -> None:
        await store.ping()  # raises nothing

    async def test_it_tells_the_time_or_says_that_it_has_none_of_its_own(self, store: Store) -> None:
        told = await store.clock()
        assert (told is None) == store.capabilities.exclusive
        assert told is None or abs(told - datetime.now(UTC)) < timedelta(seconds=3)

    async def test_its_usage_is_a_dictionary_of_counters(self, store: Store) -> None:
        def counts(held: Any) -> bool:
            return isinstance(held, int | float) or all(map(counts, held.values()))

        assert counts(store.usage())


class DurableStoreContract(DurableKeyContract, StoreContract):
    async def test_what_was_committed_is_there_after_reopening(self, record: str | Settings) -> None:
        key = a_key()
        async with opened(record) as store:
            head = await begin(store, key, turns=12)
            then = head.compacted(10, "so far")
            sitting, memory = a_sitting(), a_memory("m", text="likes tea")
            await store.commit(Commit(scope=key.scope, session=then, sittings=(sitting,), memories=(memory,)))
            await embed_all(store)
            before = await store.entries(key.scope, None, "space")
        async with opened(record) as store:
            hot = await store.load(key)
            assert hot is not None
            assert hot.session == then
            assert [turn.seq for turn in hot.turns] == [11, 12]
            assert [turn.seq for turn in await store.turns(key)] == list(range(1, 13))
            assert await store.sittings(key) == [sitting]
            assert await store.memories(key.scope, ["insight"]) == [memory]
            after = await store.entries(key.scope, None, "space")
            assert (after.turns, after.memories, after.vectors) == (before.turns, before.memories, before.vectors)
            assert await store.due_vectors("space", 10) == []

    async def test_versions_and_turn_ids_are_still_fenced_after_reopening(self, record: str | Settings) -> None:
        key = a_key()
        async with opened(record) as store:
            head = await begin(store, key, turns=2)
        async with opened(record) as store:
            with pytest.raises(StaleVersion):
                await store.commit(Commit(scope=key.scope, session=head))
            again = a_turn(3, turn_id="t1")
            with pytest.raises(DuplicateTurn):
                await store.commit(Commit(scope=key.scope, session=head.with_turn(again), turns=(again,)))

    async def test_a_cursor_holds_across_reopening_and_no_token_is_given_twice(self, record: str | Settings) -> None:
        key = a_key()
        async with opened(record) as store:
            await store.commit(Commit(scope=key.scope, memories=(a_memory("m", text="old"),)))
            (overtaken,) = await store.due_vectors("space", 10)
            cursor = (await store.entries(key.scope, None, "space")).cursor
        async with opened(record) as store:
            await store.commit(Commit(scope=key.scope, memories=(a_memory("m", text="new"),)))
            await store.commit(Commit(scope=key.scope, vectors=(a_vector(overtaken),)))
            new = await store.entries(key.scope, cursor, "space")
            assert [memory.text for memory in new.memories] == ["new"]
            assert new.vectors == []
            assert len(await store.due_vectors("space", 10)) == 1

    async def test_two_users_stay_apart_after_reopening(self, record: str | Settings) -> None:
        async with opened(record) as store:
            await begin(store, a_key(), turns=1)
            await begin(store, a_key(user_id="ben"), turns=2)
        async with opened(record) as store:
            assert len(await store.turns(a_key())) == 1
            assert len(await store.turns(a_key(user_id="ben"))) == 2
            assert await store.memories(a_scope("ben"), ["insight"]) == []

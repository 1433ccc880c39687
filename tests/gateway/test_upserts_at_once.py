"""Several callers upsert one session at once: no message is lost or doubled, and the last list wins as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from memory_service.app import Surroundings, make_models, make_parts, make_service
from memory_service.errors import StoreUnavailable
from memory_service.gateway.models import GetSessionContextRequest
from memory_service.service import MemoryService
from memory_service.settings import Settings
from memory_service.stores.base import Capabilities, Commit
from memory_service.values import Scope, SessionKey
from tests.gateway.conftest import ANYBODY, an_upsert, said
from tests.support.stores import FaultyStore, YieldingStore

KEY = SessionKey(scope=Scope(user_id="ana"), session_id="s")
SHARED = Capabilities(durability="none", exclusive=False)
SMALL = Capabilities(durability="none", exclusive=False, most_turns=3, most_bytes=10_000)
Replica = Callable[[YieldingStore], MemoryService]


class SharedStore(FaultyStore):
    """One that others write too: who holds a session has to look whether it moved."""

    capabilities = SHARED


class SmallStore(SharedStore):
    """One that takes three turns in a commit."""

    capabilities = SMALL

    async def _commit(self, commit: Commit) -> None:
        assert len(commit.turns) <= SMALL.most_turns
        await super()._commit(commit)


@pytest.fixture
async def replica(make_settings: Callable[..., Settings]) -> AsyncIterator[Replica]:
    """Services without background work over one store, each with a pool of its own."""
    async with AsyncExitStack() as stack:

        def make(store: YieldingStore) -> MemoryService:
            settings = make_settings()
            around = Surroundings()
            return make_service(settings, make_parts(settings, store, *make_models(settings, stack), around), around)

        yield make


async def upsert(service: MemoryService, *words: str, **given: Any) -> None:
    await service._parts.revisions.revise(KEY, wanted(*words))


def wanted(*words: str) -> Any:
    from memory_service.gateway.messages import kept_of
    from memory_service.revisions import Wanted

    messages = an_upsert(said(*words)).session_context.messages
    return Wanted(said=tuple(kept_of(message, "$") for message in messages))


async def shown(service: MemoryService) -> list[str | None]:
    request = GetSessionContextRequest(session_id="s")
    results = (await service.gateway.get_session_context(ANYBODY, request)).results
    return [message.text for one in results for message in one.messages]


async def on_record(store: YieldingStore) -> list[str]:
    turns = await store.turns(KEY)
    assert [turn.seq for turn in turns] == list(range(1, len(turns) + 1))
    return [turn.messages[0].content for turn in turns]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_callers_who_send_the_same_list_store_it_once(replica: Replica, replicas: int) -> None:
    store = SharedStore()
    services = [replica(store) for _ in range(replicas)]
    for count in (1, 4, 6):
        words = [str(n) for n in range(count)]
        await asyncio.gather(*(upsert(services[n % replicas], *words) for n in range(6)))
        assert await on_record(store) == words


@pytest.mark.parametrize("replicas", [1, 3])
async def test_of_callers_who_send_longer_and_longer_lists_nothing_is_lost_or_doubled(
    replica: Replica, replicas: int
) -> None:
    store = SharedStore()
    services = [replica(store) for _ in range(replicas)]
    words = [str(n) for n in range(8)]
    await asyncio.gather(*(upsert(services[n % replicas], *words[: n + 1]) for n in range(8)))
    await upsert(services[0], *words)
    assert await shown(services[-1]) == words


@pytest.mark.parametrize("store", [SharedStore, SmallStore])
@pytest.mark.parametrize("replicas", [1, 3])
async def test_of_callers_who_send_other_lists_one_wins_as_a_whole(
    replica: Replica, replicas: int, store: type[YieldingStore]
) -> None:
    shared = store()
    services = [replica(shared) for _ in range(replicas)]
    lists = [[f"{writer}{n}" for n in range(7)] for writer in "abcdef"]
    await asyncio.gather(*(upsert(services[n % replicas], *one) for n, one in enumerate(lists)))
    assert await shown(services[0]) in lists
    kept = await on_record(shared)
    assert all(kept.count(word) <= 1 for word in kept) or store is SmallStore
    for one in lists:  # each was there as a whole at its time
        assert any(kept[start : start + 7] == one for start in range(len(kept)))


async def test_a_reader_sees_a_beginning_of_the_list_and_never_a_mixture(replica: Replica) -> None:
    store = SmallStore()
    writer, reader = replica(store), replica(store)
    old, new = [f"a{n}" for n in range(8)], [f"b{n}" for n in range(8)]
    await upsert(writer, *old)
    writing = asyncio.create_task(upsert(writer, *new))
    seen = []
    while not writing.done():
        seen.append(await shown(reader))
        await asyncio.sleep(0)
    assert all(one in (old, new[:3], new[:6], new) for one in seen)
    assert new[:3] in seen or new[:6] in seen


async def test_who_is_cut_off_between_commits_and_asks_again_completes_the_list(replica: Replica) -> None:
    store = SmallStore()
    service = replica(store)
    words = [str(n) for n in range(8)]
    await upsert(service)
    store.fail_at("commit", StoreUnavailable(), after=True)
    with pytest.raises(StoreUnavailable):
        await upsert(service, *words)
    assert await shown(service) == words[:3]
    await upsert(service, *words)
    assert await shown(service) == words
    assert await on_record(store) == words


async def test_an_upsert_whose_answer_was_lost_is_not_made_again(replica: Replica) -> None:
    store = SharedStore()
    service = replica(store)
    await upsert(service, "a")
    for words in (["a", "b"], ["x", "y"]):
        store.fail_at("commit", StoreUnavailable(), after=True)
        with pytest.raises(StoreUnavailable):
            await upsert(service, *words)
        await upsert(service, *words)
        assert await shown(service) == words
    assert await on_record(store) == ["a", "b", "x", "y"]


async def test_an_upsert_that_goes_on_costs_one_commit_and_reads_no_turns(replica: Replica) -> None:
    store = YieldingStore()
    service = replica(store)
    words = [str(n) for n in range(30)]
    await upsert(service, *words[:20])
    store.calls.clear()
    await upsert(service, *words)
    assert store.calls == {"commit": 1}
    await upsert(service, *words)
    assert store.calls == {"commit": 1}

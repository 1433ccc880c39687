"""What somebody has changed by hand is their last word: nothing that is read later changes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.app import Surroundings, make_parts, make_service, open_service
from memory_service.chaos.model_modes import answer
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Commit
from memory_service.values import Memory, Message, Scope, SessionKey
from tests.support.background import record, settled
from tests.support.stores import FaultyStore

ANA = Scope(user_id="ana")


@pytest.fixture
async def service(make_settings: Callable[..., Settings]) -> AsyncIterator[MemoryService]:
    async with open_service(make_settings()) as service:
        yield service


async def read(service: MemoryService, session_id: str, *said: str) -> None:
    """Have a conversation, and have it read."""
    key = SessionKey(scope=ANA, session_id=session_id)
    await service.start_session(ANA, session_id, restore=False)
    for text in said:
        await service.store_turn(key, Draft(messages=(Message(role="user", content=text),)))
    await service.end_session(key, wait_s=10)
    await settled(service)


async def begin_again(service: MemoryService, session_id: str) -> None:
    """Begin to read all of a conversation as if it never had been."""
    store, key = record(service), SessionKey(scope=ANA, session_id=session_id)
    for sitting in await store.sittings(key):
        anew = replace(sitting, reflection="pending", reflected_through=0, summary="", version=sitting.version + 1)
        await store.commit(Commit(scope=ANA, sittings=(anew,)))
    await service.sweep()


async def read_again(service: MemoryService, session_id: str) -> None:
    store, key = record(service), SessionKey(scope=ANA, session_id=session_id)
    await begin_again(service, session_id)
    await settled(service)
    assert all([sitting.reflection == "done" for sitting in await store.sittings(key)])


async def known(service: MemoryService, *, superseded: bool = False) -> list[Memory]:
    return (await service.rights.page(ANA, ["insight"], 100, superseded=superseded))[0]


async def texts(service: MemoryService, *kinds: Any) -> list[str]:
    return [memory.text for memory in (await service.rights.page(ANA, kinds or ["insight"], 100))[0]]


async def test_a_corrected_fact_stands_when_the_old_conversation_is_read_again(service: MemoryService) -> None:
    await read(service, "old", "I live in Lisbon, by the sea.", "I like green tea in the morning.")
    home = next(memory for memory in await known(service) if "Lisbon" in memory.text)
    corrected = await service.rights.edit(ANA, home.memory_id, {"text": "Ana has her home in Porto"})
    before = await known(service)
    await read_again(service, "old")
    assert await known(service) == before
    assert corrected in before
    assert len(before) == 2


async def test_what_contradicts_a_corrected_fact_is_known_already(service: MemoryService) -> None:
    await read(service, "old", "I live in Lisbon, by the sea.")
    (home,) = await known(service)
    corrected = await service.rights.edit(ANA, home.memory_id, {"text": "I live in Porto"})
    await read(service, "new", "I live in Lisbon, as you know.", "I like green tea in the morning.")
    assert corrected in await known(service)
    assert sorted(await texts(service)) == ["I live in Porto", "The user: I like green tea in the morning."]


async def test_a_pinned_fact_is_neither_superseded_nor_merged_into(service: MemoryService) -> None:
    await read(service, "old", "I live in Lisbon, by the sea.")
    (home,) = await known(service)
    pinned = await service.rights.edit(ANA, home.memory_id, {"pinned": True})
    await read(service, "new", "I moved to Porto by train.")
    await read(service, "newer", "I live in Lisbon, by the sea.")
    assert await known(service, superseded=True) == [pinned]
    await service.rights.edit(ANA, home.memory_id, {"pinned": False})
    await read(service, "newest", "I moved to Porto by train.")
    assert await texts(service) == ["The user: I moved to Porto by train."]


async def test_what_was_deleted_does_not_come_back_from_the_same_conversation(service: MemoryService) -> None:
    await read(service, "old", "I live in Lisbon, by the sea.", "I like green tea in the morning.")
    for kind in ("insight", "summary", "chunk"):
        (one, *_) = (await service.rights.page(ANA, [kind], 100))[0]
        assert await service.delete_memory(ANA, one.memory_id)
    before = await texts(service, "insight", "summary", "chunk")
    assert len(before) == 1
    await read_again(service, "old")
    assert await texts(service, "insight", "summary", "chunk") == before


async def test_a_corrected_summary_and_chunk_stand_when_their_conversation_is_read_again(
    service: MemoryService,
) -> None:
    await read(service, "old", "I live in Lisbon, by the sea.")
    for kind in ("summary", "chunk"):
        ((one,), _) = await service.rights.page(ANA, [kind], 100)
        await service.rights.edit(ANA, one.memory_id, {"text": f"the {kind}, in other words"})
    await read_again(service, "old")
    assert sorted(await texts(service, "summary", "chunk")) == [
        "the chunk, in other words",
        "the summary, in other words",
    ]


# While a conversation is being read


@pytest.fixture(scope="module")
def running_model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


CONTRADICTED = {
    "summary": "They moved.",
    "topics": [],
    "insights": [{"text": "Ana moved to Faro", "turns": [1], "category": "fact", "replaces": 1}],
}


@pytest.mark.parametrize("by_hand", ["edited", "pinned", "deleted"])
async def test_what_is_changed_while_a_model_reads_stays_as_it_was_made(
    make_settings: Callable[..., Settings], running_model: ModelServer, by_hand: str
) -> None:
    model = running_model
    model.forget()
    changes = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    async with open_service(make_settings(**changes)) as service:
        await read(service, "old", "I prefer Lisbon.")
        (home,) = await known(service)
        model.play(answer(CONTRADICTED))
        model.hanging = True
        key = SessionKey(scope=ANA, session_id="new")
        await service.start_session(ANA, "new", restore=True)
        await service.store_turn(key, Draft(messages=(Message(role="user", content="I am in Faro now."),)))
        await service.end_session(key)
        await model.until(2)
        expected = await _change(service, home.memory_id, by_hand)
        model.hanging = False
        await service.end_session(key, wait_s=10)
        await settled(service)
        assert (await service.reflection(key)).reflection == "done"
        assert await record(service).find_memory(ANA, home.memory_id) == expected
        others = [memory.text for memory in await known(service) if memory.memory_id != home.memory_id]
        assert others == (["Ana moved to Faro"] if by_hand == "deleted" else [])


async def test_a_summary_that_is_corrected_while_its_conversation_is_read_stands_and_the_reading_is_done(
    make_settings: Callable[..., Settings], running_model: ModelServer
) -> None:
    model = running_model
    model.forget()
    changes = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    async with open_service(make_settings(**changes)) as service:
        await read(service, "old", "I prefer Lisbon.")
        ((summary,), _) = await service.rights.page(ANA, ["summary"], 100)
        model.hanging = True
        await begin_again(service, "old")
        await model.until(2)
        corrected = await service.rights.edit(ANA, summary.memory_id, {"text": "in other words"})
        model.hanging = False
        ended = await service.end_session(SessionKey(scope=ANA, session_id="old"), wait_s=10)
        assert ended.reflection == "done"
        assert await service.rights.find(ANA, summary.memory_id) == corrected


async def _change(service: MemoryService, memory_id: str, by_hand: str) -> Memory | None:
    if by_hand == "deleted":
        assert await service.delete_memory(ANA, memory_id)
    else:
        changes = {"edited": {"text": "I live in Braga"}, "pinned": {"pinned": True}}
        await service.rights.edit(ANA, memory_id, changes[by_hand])
    return await record(service).find_memory(ANA, memory_id)


@pytest.mark.parametrize("by_hand", ["edited", "pinned", "deleted"])
async def test_what_is_changed_in_the_last_moment_before_a_reflection_is_kept_stays_too(
    make_settings: Callable[..., Settings], by_hand: str
) -> None:
    settings, store = make_settings(), FaultyStore()
    around = Surroundings(gather_s=0)
    parts = make_parts(settings, store, OfflineReader(), LocalEmbedder(), around)
    async with AsyncExitStack() as stack:
        await parts.recall.start(stack)
        await parts.scheduler.start(stack)
        service = make_service(settings, parts, around)
        await read(service, "old", "I live in Lisbon, by the sea.")
        (home,) = await known(service)
        key = SessionKey(scope=ANA, session_id="new")
        await service.start_session(ANA, "new", restore=True)
        await service.store_turn(key, Draft(messages=(Message(role="user", content="I moved to Porto by train."),)))
        await settled(service)
        looking = store.hang_at("items")
        await service.end_session(key)
        await looking.reached.wait()
        writing = store.hang_at("commit")
        looking.release()
        await writing.reached.wait()
        expected = await _change(service, home.memory_id, by_hand)
        writing.release()
        await service.end_session(key, wait_s=10)
        await settled(service)
        ended = await service.reflection(key)
        assert ended.reflection == "done"
        assert ended.sitting is not None
        assert ended.sitting.attempts == 2
        assert await record(service).find_memory(ANA, home.memory_id) == expected
        others = [memory.text for memory in await known(service) if memory.memory_id != home.memory_id]
        assert others == (["The user: I moved to Porto by train."] if by_hand == "deleted" else [])


async def test_many_who_edit_and_a_reader_agree_on_one_outcome(service: MemoryService) -> None:
    await read(service, "old", "I live in Lisbon, by the sea.")
    (home,) = await known(service)
    key = SessionKey(scope=ANA, session_id="new")
    await service.start_session(ANA, "new", restore=True)
    await service.store_turn(key, Draft(messages=(Message(role="user", content="I moved to Porto by train."),)))
    edits = [service.rights.edit(ANA, home.memory_id, {"text": f"by hand {n}"}) for n in range(5)]
    await asyncio.gather(service.end_session(key, wait_s=10), *edits)
    await settled(service)
    held = await service.rights.find(ANA, home.memory_id)
    assert held.text.startswith("by hand ")

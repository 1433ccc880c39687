"""Memories that are made of what was said: what they say, how they are found, and whose they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memory_service.errors import ScopeMismatch, ValidationFailed
from memory_service.gateway.models import (
    CreateMemoryRequest,
    GetMemoriesRequest,
    GetSessionContextRequest,
    Memory,
    Message,
    SessionContext,
)
from memory_service.service import MemoryService
from memory_service.values import Scope
from tests.gateway.conftest import ANYBODY, Caller, an_upsert, said
from tests.support.background import Clock, record, settled

ANA = Scope(user_id="ana")
BEN_ALONE = Caller(user_id="ben")


async def create(
    service: MemoryService,
    *texts: str,
    user: str = "ana",
    session: str = "s",
    agent: str = "a",
    caller: Caller = ANYBODY,
) -> Memory:
    request = CreateMemoryRequest(
        session_id=session, user_id=user, agent_id=agent, session_context=SessionContext(messages=said(*texts))
    )
    return (await service.gateway.create_memory(caller, request)).memory


async def memories(service: MemoryService, caller: Caller = ANYBODY, **asked: Any) -> list[Memory]:
    request = GetMemoriesRequest(**{"limit": 100, **asked})
    return (await service.gateway.get_memories(caller, request)).memories


async def contents(service: MemoryService, caller: Caller = ANYBODY, **asked: Any) -> list[str]:
    return [memory.content.removeprefix("user: ") for memory in await memories(service, caller, **asked)]


async def test_a_memory_says_what_was_said_and_has_its_embedding_at_once(service: MemoryService, clock: Clock) -> None:
    memory = await create(service, "My favourite sport is football.", "Noted.", agent="my agent")
    assert memory.content == "user: My favourite sport is football.\nassistant: Noted."
    assert (memory.session_id, memory.user_id, memory.agent_id) == ("s", "ana", "my agent")
    assert (memory.created_at, memory.updated_at, memory.similarity) == (clock.at, clock.at, -1)
    assert memory.embedding_model == "local:wordllama-l2-256"
    assert memory.embedding is not None
    assert np.linalg.norm(memory.embedding) == pytest.approx(1)
    assert await memories(service, user_id="ana") == [memory]
    await settled(service)
    assert await memories(service, user_id="ana") == [memory]  # whose vector is the record's now


async def test_without_a_model_the_extract_stays_and_says_so(service: MemoryService) -> None:
    await create(service, "I like tea.")
    await service.sweep()
    await settled(service)
    (kept,) = await record(service).memories(ANA, ["memory"])
    assert (kept.model, kept.rough) == ("extractive", None)


async def test_it_is_found_by_the_service_s_own_search_too(service: MemoryService) -> None:
    memory = await create(service, "I keep bees on the roof.")
    found = await service.retrieve(ANA, "Who keeps bees?", 5, None)
    assert [hit.item.id for hit in found.hits] == [memory.memory_id]


async def test_all_that_is_asked_for_must_be_so_and_the_newest_come_first(service: MemoryService, clock: Clock) -> None:
    for text, session, agent in (("1", "s", "a"), ("2", "s", "b"), ("3", "t", "a"), ("4", "t", "b")):
        await create(service, text, session=session, agent=agent)
        clock.advance(minutes=1)
    await create(service, "ben's", user="ben")
    assert await contents(service, user_id="ana") == ["4", "3", "2", "1"]
    assert await contents(service, user_id="ana", limit=2) == ["4", "3"]
    assert await contents(service, user_id="ana", session_id="s") == ["2", "1"]
    assert await contents(service, user_id="ana", agent_id="a") == ["3", "1"]
    assert await contents(service, user_id="ana", session_id="t", agent_id="b") == ["4"]
    assert await contents(service, user_id="ana", session_id="u") == []
    assert await contents(service, session_id="s") == ["ben's", "2", "1"]
    assert await contents(service, session_id="s", agent_id="b") == ["2"]
    request = GetMemoriesRequest(user_id="ana")
    assert len((await service.gateway.get_memories(ANYBODY, request)).memories) == 2


async def test_the_nearest_to_an_embedding_come_first(service: MemoryService) -> None:
    texts = ("I like green tea.", "My boat is called Ida.", "Football on Sundays.")
    made = {text: await create(service, text) for text in texts}
    await create(service, "Tea, said Ben.", user="ben")
    for text, memory in made.items():
        found = await memories(service, user_id="ana", embedding=memory.embedding)
        assert found[0].content == f"user: {text}"
        assert found[0].similarity == pytest.approx(1)
        assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)
        for one in found:
            assert one.similarity == pytest.approx(np.dot(one.embedding or [], memory.embedding or []), abs=1e-6)
        assert len(await memories(service, user_id="ana", embedding=memory.embedding, limit=1)) == 1
    twice = [2 * number for number in made[texts[0]].embedding or []]
    assert (await memories(service, user_id="ana", embedding=twice))[0].similarity == pytest.approx(1)
    assert len(await memories(service, user_id="ana", embedding=[])) == 3  # which is none
    zeros = await memories(service, user_id="ana", embedding=[0.0] * 256)
    assert [one.similarity for one in zeros] == [0, 0, 0]


async def test_the_nearest_to_a_query_come_first_and_only_of_these(service: MemoryService) -> None:
    await create(service, "I like green tea.", agent="a")
    await create(service, "Tea is too hot for me in summer.", agent="b", session="t")
    await create(service, "My boat is called Ida.", agent="a")
    await create(service, "Tea, said Ben.", user="ben")
    await service.gateway.upsert_session_context(ANYBODY, an_upsert(said("Tea again.")))
    await settled(service)
    found = await memories(service, user_id="ana", query="Which tea do I like?")
    assert found[0].content == "user: I like green tea."
    assert found[0].similarity > found[1].similarity > 0
    assert await contents(service, user_id="ana", query="tea", agent_id="b") == ["Tea is too hot for me in summer."]
    assert await contents(service, user_id="ana", query="tea", session_id="t") == ["Tea is too hot for me in summer."]
    assert len(await memories(service, user_id="ana", query="tea", limit=1)) == 1
    assert len(await memories(service, user_id="ana", query="  ")) == 3  # which is none
    with pytest.raises(ValidationFailed, match="not both"):
        await memories(service, user_id="ana", query="tea", embedding=[1.0])


async def test_an_embedding_of_another_width_is_refused(service: MemoryService) -> None:
    for _ in range(2):  # also where there is nothing to compare it with
        with pytest.raises(ValidationFailed, match=r"\$\.embedding: must have 256 dimensions"):
            await memories(service, user_id="ana", embedding=[0.5] * 255)
        await create(service, "I like tea.")


async def test_a_deleted_memory_is_not_told(service: MemoryService) -> None:
    memory = await create(service, "I like tea.")
    assert await service.delete_memory(ANA, memory.memory_id)
    assert await memories(service, user_id="ana") == []
    assert await memories(service, user_id="ana", query="tea") == []
    assert await memories(service, user_id="ana", embedding=memory.embedding) == []


async def test_a_memory_that_was_stored_another_way_is_told_too(service: MemoryService) -> None:
    await service.memories.remember(ANA, "Ana likes tea.", session_id="s")
    (memory,) = await memories(service, session_id="s")
    assert (memory.content, memory.agent_id, memory.user_id) == ("Ana likes tea.", "", "ana")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": [{"type": "image", "data": "QUJD", "mimeType": "image/png"}]}],
        [{"role": "user", "text": " \n "}, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}],
    ],
    ids=["none", "images", "blanks"],
)
async def test_nothing_that_was_said_makes_no_memory(service: MemoryService, messages: list[dict[str, Any]]) -> None:
    context = SessionContext(messages=[Message.model_validate(one) for one in messages])
    request = CreateMemoryRequest(session_id="s", user_id="ana", agent_id="a", session_context=context)
    with pytest.raises(ValidationFailed, match=r"\$\.session_context\.messages: "):
        await service.gateway.create_memory(ANYBODY, request)
    assert await memories(service, user_id="ana") == []


async def test_the_data_of_an_image_is_in_no_memory(service: MemoryService) -> None:
    image = {"type": "image", "data": "aW1hZ2U=" * 9, "mimeType": "image/png"}
    message = Message.model_validate({"role": "user", "content": [{"type": "text", "text": "Look."}, image]})
    request = CreateMemoryRequest(
        session_id="s", user_id="ana", agent_id="a", session_context=SessionContext(messages=[message])
    )
    memory = (await service.gateway.create_memory(ANYBODY, request)).memory
    assert "Look." in memory.content
    kept = await record(service).find_memory(ANA, memory.memory_id)
    assert "aW1hZ2U" not in f"{memory.content}{kept}"


# Whose it is


async def test_who_is_bound_to_a_user_sees_his_own_and_names_no_other(service: MemoryService) -> None:
    await create(service, "ana's")
    mine = await create(service, "ben's", user="ben", caller=BEN_ALONE)
    for asked in ({"session_id": "s"}, {"user_id": "ben"}, {"session_id": "s", "user_id": "ben"}):
        assert await contents(service, BEN_ALONE, **asked) == ["ben's"]
    assert await memories(service, BEN_ALONE, session_id="s", embedding=mine.embedding) == [
        mine.model_copy(update={"similarity": pytest.approx(1)})
    ]
    for asked in ({"user_id": "ana"}, {"user_id": "ana", "session_id": "s"}):
        with pytest.raises(ScopeMismatch):
            await memories(service, BEN_ALONE, **asked)
        with pytest.raises(ScopeMismatch):
            await service.gateway.get_session_context(BEN_ALONE, GetSessionContextRequest(**asked))
    with pytest.raises(ScopeMismatch):
        await create(service, "forged", caller=BEN_ALONE)
    beside = SessionContext(messages=said("forged"), user_id="ana")
    request = CreateMemoryRequest(session_id="s", user_id="ben", agent_id="a", session_context=beside)
    with pytest.raises(ScopeMismatch):
        await service.gateway.create_memory(BEN_ALONE, request)
    assert await contents(service, BEN_ALONE, user_id="ben") == ["ben's"]
    with pytest.raises(ScopeMismatch):
        await service.gateway.upsert_session_context(BEN_ALONE, an_upsert(said("forged")))


async def test_a_session_that_a_bound_caller_stores_without_a_user_is_his_own(service: MemoryService) -> None:
    answer = await service.gateway.upsert_session_context(BEN_ALONE, an_upsert(said("hi"), user_id=None))
    assert answer.session_context.user_id == "ben"
    asked = GetSessionContextRequest(session_id="s")
    assert (await service.gateway.get_session_context(BEN_ALONE, asked)).results == [answer.session_context]
    assert (await service.gateway.get_session_context(Caller(user_id="cai"), asked)).results == []


async def test_another_tenant_s_are_as_if_they_were_not_there(service: MemoryService) -> None:
    other = Caller(tenant_id="other")
    memory = await create(service, "ana's")
    await service.gateway.upsert_session_context(ANYBODY, an_upsert(said("hi")))
    await service.gateway.upsert_session_context(ANYBODY, an_upsert(said("hi"), user_id=None))
    for asked in ({"session_id": "s"}, {"user_id": "ana"}, {"session_id": "s", "user_id": "ana"}):
        assert await memories(service, other, **asked) == []
        assert await memories(service, other, **asked, embedding=memory.embedding) == []
        assert (await service.gateway.get_session_context(other, GetSessionContextRequest(**asked))).results == []


@pytest.mark.parametrize("named", ["~nobody", "~knowledge", "a b", "../x", "a" * 201])
async def test_who_is_no_user_can_be_named_nowhere(service: MemoryService, named: str) -> None:
    await service.gateway.upsert_session_context(ANYBODY, an_upsert(said("hi"), user_id=None))
    with pytest.raises(ValidationFailed, match="user_id"):
        await memories(service, user_id=named)
    with pytest.raises(ValidationFailed, match="user_id"):
        await service.gateway.get_session_context(ANYBODY, GetSessionContextRequest(user_id=named))
    with pytest.raises(ValidationFailed, match="user_id"):
        await service.gateway.upsert_session_context(ANYBODY, an_upsert(said("hi"), user_id=named))
    with pytest.raises(ValidationFailed, match="user_id"):
        await create(service, "hi", user=named)
    with pytest.raises(ValidationFailed, match="session_id"):
        await memories(service, user_id="ana", session_id=named)

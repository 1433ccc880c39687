"""Memories are stored at once and written by a model later: whenever it is back, never over what somebody changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from memory_service.chaos.model_modes import answer, refusal, status
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, ModelServer
from memory_service.gateway.models import CreateMemoryRequest, GetMemoriesRequest, Memory, Message, SessionContext
from memory_service.service import MemoryService
from memory_service.values import Scope
from tests.conftest import Open
from tests.gateway.conftest import ANYBODY, said
from tests.support.background import Clock, record, settled, until
from tests.support.process import service_process

ANA = Scope(user_id="ana")
PATIENCE_S = 10
TEXT = "I like green tea."
EXTRACT = f"user: {TEXT}"


@pytest.fixture(scope="module")
def running_model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def model(running_model: ModelServer) -> Iterator[ModelServer]:
    running_model.forget()
    yield running_model
    running_model.forget()


def using(model: ModelServer, **changes: Any) -> dict[str, Any]:
    endpoint = {"openai_base_url": model.openai_url, "openai_api_key": API_KEY, "openai_model": CHAT_MODEL}
    return {**endpoint, "model_timeout_seconds": 30, **changes}


async def create(service: MemoryService, text: str = TEXT) -> Memory:
    context = SessionContext(messages=said(text))
    request = CreateMemoryRequest(session_id="s", user_id="ana", agent_id="a", session_context=context)
    return (await service.gateway.create_memory(ANYBODY, request)).memory


async def the_memory(service: MemoryService) -> Memory:
    request = GetMemoriesRequest(user_id="ana")
    (memory,) = (await service.gateway.get_memories(ANYBODY, request)).memories
    return memory


async def test_a_memory_is_stored_before_the_model_has_answered_and_then_written_by_it(
    opened: Open, model: ModelServer, clock: Clock
) -> None:
    service = await opened(**using(model))
    model.hanging = True
    made = await create(service)
    assert made.content == EXTRACT
    assert (await the_memory(service)).content == EXTRACT
    await until(lambda: model.chats)
    clock.advance(minutes=1)
    model.rule = lambda call: answer("Ana likes green tea.")
    model.hanging = False
    await settled(service)
    memory = await the_memory(service)
    assert memory.content == "Ana likes green tea."
    assert (memory.memory_id, memory.created_at, memory.updated_at) == (made.memory_id, made.created_at, clock.at)
    assert memory.embedding != made.embedding
    (kept,) = await record(service).memories(ANA, ["memory"])
    assert (kept.model, kept.rough) == (CHAT_MODEL, None)
    (call,) = model.chats
    assert TEXT in call.prompt


async def test_it_is_written_by_itself_when_the_model_is_back(opened: Open, model: ModelServer, clock: Clock) -> None:
    service = await opened(**using(model))
    model.rule = lambda call: status(503)
    for n in range(7):
        await create(service, f"I like tea number {n}.")
        await settled(service)
    assert service.stats()["refining"]["failed_attempts"] == 5  # then the model is left alone
    assert len(model.chats) == 5
    model.rule = lambda call: answer("Ana likes tea.")
    clock.advance(minutes=1)
    await service.sweep()
    await settled(service)
    request = GetMemoriesRequest(user_id="ana", limit=10)
    found = (await service.gateway.get_memories(ANYBODY, request)).memories
    assert [memory.content for memory in found] == ["Ana likes tea."] * 7
    assert await record(service).due_memories(10) == []


async def test_one_that_the_model_does_not_answer_holds_up_no_other(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model))
    model.rule = lambda call: status(503) if "poison" in call.prompt else answer("Refined.")
    await create(service, "poison")
    await create(service, "tea")
    await settled(service)
    assert {memory.text for memory in await record(service).memories(ANA, ["memory"])} == {"user: poison", "Refined."}


async def test_what_the_model_will_not_write_stays_an_extract(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model))
    model.rule = lambda call: refusal()
    await create(service)
    for _ in range(4):
        await settled(service)
        await service.sweep()
    await settled(service)
    assert len(model.chats) == 3
    assert (await the_memory(service)).content == EXTRACT
    (kept,) = await record(service).memories(ANA, ["memory"])
    assert (kept.model, kept.rough) == ("extractive", None)


@pytest.mark.parametrize("then", ["changed", "deleted"])
async def test_what_somebody_did_meanwhile_stays(opened: Open, model: ModelServer, then: str, clock: Clock) -> None:
    service = await opened(**using(model))
    model.hanging = True
    made = await create(service)
    await until(lambda: model.chats)
    clock.advance(seconds=1)
    if then == "deleted":
        await service.delete_memory(ANA, made.memory_id)
    else:
        from memory_service.memories import MemoryDraft

        await service.memories.remember_many(ANA, [MemoryDraft(memory_id=made.memory_id, text="By hand.")])
    model.hanging = False
    await settled(service)
    held = await record(service).find_memory(ANA, made.memory_id)
    assert held is not None
    assert held.text == ("By hand." if then == "changed" else "")
    await service.sweep()
    await settled(service)
    assert len(model.chats) == 1


async def test_the_data_of_an_image_is_neither_kept_with_a_memory_nor_sent(opened: Open, model: ModelServer) -> None:
    service = await opened(**using(model))
    model.hanging = True
    image = {"type": "image", "data": "aW1hZ2U=" * 9, "mimeType": "image/png"}
    message = Message.model_validate({"role": "user", "content": [{"type": "text", "text": TEXT}, image]})
    context = SessionContext(messages=[message])
    request = CreateMemoryRequest(session_id="s", user_id="ana", agent_id="a", session_context=context)
    await service.gateway.create_memory(ANYBODY, request)
    await until(lambda: model.chats)
    (kept,) = await record(service).memories(ANA, ["memory"])
    assert kept.rough is not None
    assert "[image]" in model.chats[0].prompt
    assert "aW1hZ2U" not in f"{kept}{model.chats[0].prompt}"


@pytest.mark.parametrize("trust", ["low", "normal"])
async def test_it_is_trusted_no_more_than_what_it_is_made_of(opened: Open, model: ModelServer, trust: str) -> None:
    service = await opened(**using(model))
    results = [{"content": [{"type": "text", "text": "42"}]}] if trust == "low" else []
    messages = [*said(TEXT), Message.model_validate({"role": "assistant", "text": "Ah.", "tool_results": results})]
    request = CreateMemoryRequest(
        session_id="s", user_id="ana", agent_id="a", session_context=SessionContext(messages=messages)
    )
    model.rule = lambda call: answer("Ana likes green tea.")
    model.hanging = True
    await service.gateway.create_memory(ANYBODY, request)
    (rough,) = await record(service).memories(ANA, ["memory"])
    model.hanging = False
    await settled(service)
    (refined,) = await record(service).memories(ANA, ["memory"])
    assert (rough.trust, refined.trust, refined.text) == (trust, trust, "Ana likes green tea.")


async def test_an_embedding_of_another_server_is_not_waited_for(opened: Open, model: ModelServer, clock: Clock) -> None:
    service = await opened(**using(model, openai_embedding_model="embedding-model", embedding_timeout_seconds=60))
    await create(service)
    await settled(service)
    await until(lambda: model.embeddings)
    model.hanging = True
    clock.advance(minutes=1)
    async with asyncio.timeout(PATIENCE_S):
        made = await create(service, "And Ida, my boat.")
    assert made.embedding is None
    request = GetMemoriesRequest(user_id="ana")
    newest, before = (await service.gateway.get_memories(ANYBODY, request)).memories
    assert newest.embedding is None
    assert before.embedding is not None
    found = await service.gateway.get_memories(ANYBODY, GetMemoriesRequest(user_id="ana", embedding=before.embedding))
    assert [memory.memory_id for memory in found.memories] == [before.memory_id]
    model.hanging = False
    await until(lambda: _embedded(service))


async def _embedded(service: MemoryService) -> bool:
    request = GetMemoriesRequest(user_id="ana")
    return all(memory.embedding for memory in (await service.gateway.get_memories(ANYBODY, request)).memories)


def test_after_a_kill_it_is_still_written(tmp_path: Path, model: ModelServer) -> None:
    environment = {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model.openai_url, "OPENAI_MODEL": CHAT_MODEL}
    body = {
        "session_id": "s",
        "user_id": "ana",
        "agent_id": "a",
        "session_context": {"messages": [{"role": "user", "text": TEXT}]},
    }
    with service_process(tmp_path, **environment) as service:
        model.hanging = True
        made = httpx2.post(f"{service.url}/create-memory", json=body, timeout=60).raise_for_status().json()["memory"]
        assert made["content"] == EXTRACT
        service.kill()
        model.rule = lambda call: answer("Ana likes green tea.")
        model.hanging = False
        service.start()
        told = _refined(service.url)
    assert (told["memory_id"], told["content"]) == (made["memory_id"], "Ana likes green tea.")


def _refined(url: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        response = httpx2.post(f"{url}/get-memories", json={"user_id": "ana"})
        (memory,) = response.json()["memories"]
        return memory if memory["content"] != EXTRACT else None

    return asyncio.run(until(look))

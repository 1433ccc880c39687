"""A secret that was said stays in the record of what was said, and goes nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memory_service.app import open_service
from memory_service.chaos.model_server import ModelServer
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.values import Message, Scope, SessionKey
from tests.support.background import settled, until
from tests.support.engines import ShelfEngine

ANA = Scope(user_id="ana")
KEY = SessionKey(scope=ANA, session_id="s")
TOKEN = "ghp_" + "aB3dE6gH9j" * 4
CARD = "4111 1111 1111 1111"
WORD = "hunter2Zq9"
SECRETS = (TOKEN, CARD, WORD)
SAID = f"I prefer {TOKEN} for my boat, my card is {CARD}, and my password is {WORD}."
KINDS: tuple[Any, ...] = ("insight", "summary", "chunk")


@pytest.fixture(scope="module")
def running_model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def model(running_model: ModelServer) -> ModelServer:
    running_model.forget()
    return running_model


def using(model: ModelServer) -> dict[str, Any]:
    return {name.lower(): value for name, value in model.openai_environment.items()}


async def say(service: MemoryService, *texts: str) -> None:
    await service.start_session(ANA, "s", restore=True)
    for text in texts:
        await service.store_turn(KEY, Draft(messages=(Message(role="user", content=text, name=f"Ana {TOKEN}"),)))


async def all_derived(service: MemoryService) -> str:
    memories, _ = await service.rights.page(ANA, KINDS, 100, superseded=True)
    assert {memory.kind for memory in memories} == set(KINDS)
    return str(memories)


async def read_out(service: MemoryService) -> None:
    """Have everything done to a conversation that is done to one: compacted, embedded, reflected on, searched."""
    await say(service, *[f"{SAID} {n}" for n in range(10)])
    await service.memories.remember(ANA, f"The token is {TOKEN}", tags=(TOKEN,), metadata={"token": TOKEN})
    await settled(service)
    assert (await service.context(KEY)).session.cumulative_summary
    await service.retrieve(ANA, f"What is {TOKEN}? {SAID}", 5, None)
    await service.end_session(KEY, wait_s=10)
    await settled(service)


def none_in(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


async def test_no_prompt_and_no_text_to_be_embedded_holds_a_secret(
    make_settings: Callable[..., Settings], model: ModelServer
) -> None:
    async with open_service(make_settings(**using(model), k_turn_buffer=3)) as service:
        await read_out(service)
        assert len(model.chats) >= 2
        assert len(model.embeddings) >= 2
        sent = "\n".join(json.dumps(call.body, ensure_ascii=False) for call in model.calls)
        assert none_in(sent)
        assert "[redacted:github_token]" in sent
        assert none_in(await all_derived(service))
        context = await service.context(KEY)
        assert none_in(context.session.cumulative_summary)
        counted = service.stats()["redaction"]
        assert counted["on"]
        assert counted["redacted"] == sum(counted["kinds"].values()) > 30
        assert set(counted["kinds"]) == {"card", "github_token", "password"}


async def test_what_is_extracted_without_a_model_holds_no_secret(make_settings: Callable[..., Settings]) -> None:
    async with open_service(make_settings(k_turn_buffer=3)) as service:
        await read_out(service)
        derived = await all_derived(service)
        assert none_in(derived)
        assert "[redacted:card]" in derived
        assert none_in((await service.context(KEY)).session.cumulative_summary)


async def test_the_record_of_what_was_said_and_remembered_is_kept_to_the_byte(
    make_settings: Callable[..., Settings],
) -> None:
    async with open_service(make_settings()) as service:
        await say(service, SAID)
        memory = await service.memories.remember(ANA, f"The token is {TOKEN}")
        assert [turn.messages[0].content for turn in (await service.context(KEY)).turns] == [SAID]
        found = (await service.retrieve(ANA, "my boat", 5, ["message"])).hits
        assert [hit.item.text for hit in found] == [SAID]
        assert (await service.rights.find(ANA, memory.memory_id)).text == f"The token is {TOKEN}"


async def test_copies_in_an_engine_hold_no_secret_and_are_compared_as_such(
    make_settings: Callable[..., Settings],
) -> None:
    name = "tests.support.engines:ShelfEngine"
    async with open_service(make_settings(memory_driver=name)) as service:
        await read_out(service)
        engine = service.engines.engine(name)
        assert isinstance(engine, ShelfEngine)
        await until(lambda: _is_level(service, name))
        shelf = str([copy.item for copy in engine.shelf[ANA].values()])
        assert len(engine.shelf[ANA]) > 10
        assert none_in(shelf)
        assert "[redacted:github_token]" in shelf
        compared = await service.drivers.compare(name, None, 10)
        assert (compared.lagging, compared.differences) == (0, [])
        assert compared.items == len(engine.shelf[ANA])


async def _is_level(service: MemoryService, name: str) -> bool:
    return not (await service.engines.state_of(name))["lagging_users"]


async def test_it_can_be_switched_off(make_settings: Callable[..., Settings], model: ModelServer) -> None:
    async with open_service(make_settings(**using(model), redact_secrets=False)) as service:
        await say(service, SAID)
        await service.end_session(KEY, wait_s=10)
        assert all(secret in model.chats[0].prompt for secret in SECRETS)
        assert service.stats()["redaction"] == {"on": False, "redacted": 0, "kinds": {}}


async def test_account_numbers_are_redacted_where_that_is_chosen(
    make_settings: Callable[..., Settings], model: ModelServer
) -> None:
    async with open_service(make_settings(**using(model), redact_ibans=True)) as service:
        await say(service, "I prefer DE89 3704 0044 0532 0130 00 for my boat.")
        await service.end_session(KEY, wait_s=10)
        assert "I prefer [redacted:iban] for my boat." in model.chats[0].prompt

"""The gateway in one's own process: the same limits as over HTTP, one record with the driver, nothing shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from memory_service.drivers import get_memory_driver
from memory_service.drivers.manager import MemoryDriverManager
from memory_service.errors import ValidationFailed
from memory_service.gateway.controllers import (
    CreateMemoryController,
    GetMemoriesController,
    GetSessionContextController,
    UpsertSessionContextController,
)
from memory_service.gateway.models import (
    CreateMemoryRequest,
    GetMemoriesRequest,
    GetSessionContextRequest,
    Message,
    SessionContext,
    UpsertSessionContextRequest,
)


@pytest.fixture(autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    MemoryDriverManager.reset_cache()


def upsert(context: SessionContext) -> SessionContext:
    request = UpsertSessionContextRequest(session_context=context)
    return UpsertSessionContextController.upsert_session_context(request).session_context


def hi(**given: Any) -> Message:
    return Message.model_validate({"role": "user", "text": "hi", **given})


def test_a_message_keeps_the_time_at_which_it_was_made() -> None:
    context = SessionContext(messages=[hi()])
    assert upsert(context) == context
    asked = GetSessionContextRequest(session_id=context.session_id)
    assert GetSessionContextController.get_session_context(asked).results == [context]


@pytest.mark.parametrize(
    "wrong",
    [
        {"session_id": "a b"},
        {"system_prompt": "\0"},
        {"session_metadata": {"a": "\ud800"}},
        {"session_metadata": {"a": object()}},
        {"session_metadata": {"a\0": 1}},
    ],
    ids=["id", "nul", "half", "object", "key"],
)
def test_what_is_refused_over_http_is_refused_here(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        upsert(SessionContext(**wrong))


def test_the_record_is_that_of_the_memory_driver() -> None:
    request = CreateMemoryRequest(
        session_id="s", user_id="ana", agent_id="a", session_context=SessionContext(messages=[hi()])
    )
    memory = CreateMemoryController.create_memory(request).memory
    driver = get_memory_driver()
    assert [one["id"] for one in driver.recall("ana")] == [memory.memory_id]
    assert driver.delete(memory.memory_id, "ana")
    assert GetMemoriesController.get_memories(GetMemoriesRequest(user_id="ana")).memories == []

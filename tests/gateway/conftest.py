"""Gateways over a record of their own, and callers of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from memory_service.api.auth import Caller
from memory_service.gateway.models import Message, SessionContext, UpsertSessionContextRequest
from memory_service.service import MemoryService
from tests.api.talking import PATIENCE_S
from tests.conftest import Open


@pytest.fixture
async def service(opened: Open) -> MemoryService:
    return await opened()


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Raw HTTP to a live service with default settings."""
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        yield client


ANYBODY = Caller()
"""A caller who is bound to no user."""


def said(*texts: str) -> list[Message]:
    """A conversation: the user and the assistant in turn, one message a second."""
    roles = ("user", "assistant")
    return [
        Message.model_validate({"role": roles[n % 2], "text": text, "timestamp": 1_795_168_558.25 + n})
        for n, text in enumerate(texts)
    ]


def an_upsert(messages: list[Message], session_id: str = "s", **given: Any) -> UpsertSessionContextRequest:
    context = SessionContext(session_id=session_id, messages=messages, **{"user_id": "ana", **given})
    return UpsertSessionContextRequest(session_context=context)

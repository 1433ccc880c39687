"""A model's endpoint, and the real client of OpenAI and of Azure connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

from memory_service.chaos.model_server import API_KEY, API_VERSION, ModelServer
from memory_service.llm.openai import azure_client, openai_client


@pytest.fixture(scope="module")
def running() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def server(running: ModelServer) -> Iterator[ModelServer]:
    yield running
    running.forget()


@pytest.fixture
async def client(server: ModelServer) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(API_KEY, server.openai_url) as client:
        yield client


@pytest.fixture
async def azure(server: ModelServer) -> AsyncIterator[AsyncOpenAI]:
    async with azure_client(server.url, API_KEY, API_VERSION) as client:
        yield client

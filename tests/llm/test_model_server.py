"""The server that other tests stand on keeps its own promises."""

from __future__ import annotations

import asyncio
import time

import pytest

from memory_service.chaos.model_server import API_KEY, ModelServer
from memory_service.errors import ModelUnavailable
from memory_service.llm.openai import openai_client
from tests.llm.asking import excerpt, reader


async def test_the_model_server_lets_every_request_hang_until_told_otherwise(server, client) -> None:
    server.hanging = True
    asking = asyncio.create_task(reader(client).reflect(excerpt()))
    await server.until(1)
    assert not (await asyncio.wait([asking], timeout=0.1))[0]
    server.hanging = False
    assert (await asking).summary


def test_the_model_server_stops_while_requests_hang() -> None:
    async def ask(server: ModelServer) -> None:
        async with openai_client(API_KEY, server.openai_url) as client:
            asking = asyncio.create_task(reader(client).reflect(excerpt()))
            await server.until(1)
            await asyncio.to_thread(server.__exit__)
            with pytest.raises(ModelUnavailable):
                await asking

    with ModelServer() as server:
        server.hanging = True
        begun = time.monotonic()
        asyncio.run(ask(server))
        assert time.monotonic() - begun < 8

"""A client of the AutoMem server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.automem.launcher import AutoMemServer


@pytest.fixture
async def automem(automem_server: AutoMemServer) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=automem_server.url, trust_env=False, timeout=10) as http:
        yield http

"""The engine in Pixeltable, held to what every engine must do, and what is special about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from memory_service.errors import DriverUnavailable
from memory_service.projections.pixeltable import Pixeltable
from tests.pixeltable.launcher import PixeltableHome
from tests.projections.contract import ProjectionContract


@asynccontextmanager
async def opened(engine: Pixeltable) -> AsyncIterator[Pixeltable]:
    async with AsyncExitStack() as stack:
        await engine.start(stack)
        await answering(engine)
        yield engine


async def answering(engine: Pixeltable, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while True:
            await asyncio.sleep(0.1)
            try:
                await engine.check()
            except DriverUnavailable:
                continue
            return


@pytest.fixture
async def engine(pixeltable_home: PixeltableHome) -> AsyncIterator[Pixeltable]:
    async with opened(Pixeltable()) as engine:
        await engine.drop()
        yield engine


class TestPixeltable(ProjectionContract):
    @pytest.fixture
    async def engine(self, engine: Pixeltable) -> Pixeltable:  # type: ignore[override]
        return engine

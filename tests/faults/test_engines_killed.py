"""The engine of a memory driver is killed, hangs and comes back while callers write, and so is the service beside it.

Nothing acknowledged is lost or hidden; answers that had to do without say so; and the engine is brought what it lacks
without anybody's doing.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.automem.launcher import AutoMemServer
from tests.faults.engines import PATIENCE_S, beside_engines
from tests.pixeltable.launcher import PixeltableHome
from tests.postgres.launcher import PostgresServer
from tests.support.background import until


class Engine(Protocol):
    """A server of one, in a process of its own."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def paused(self) -> AbstractContextManager[None]: ...


@dataclass
class Killed:
    """An engine that can be killed, and the settings by which a service finds it."""

    driver: str
    engine: Engine
    settings: dict[str, str]


@pytest.fixture(params=["pgvector", "automem"])
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Killed]:
    folder = tmp_path / "engine"
    folder.mkdir()
    if request.param == "pgvector":
        with PostgresServer(folder) as postgres:
            yield Killed("pgvector", postgres, {"DATABASE_URL": postgres.url})
    else:
        with AutoMemServer(folder, vector_delay_s=0.2) as automem:
            yield Killed("automem", automem, {"AUTOMEM_URL": automem.url, "AUTOMEM_TIMEOUT": "5"})


async def test_an_engine_that_is_killed_while_callers_write(killed: Killed, tmp_path: Path) -> None:
    async with beside_engines(tmp_path, killed.driver, **killed.settings) as world:
        async with world.writing():
            for _ in range(2):
                await world.engine_answers()
                await asyncio.to_thread(killed.engine.kill)
                assert (await world.a_while())["driver"] > 0
                assert not await world.is_up()
                await asyncio.to_thread(killed.engine.start)
                await until(world.is_up, PATIENCE_S)
        await world.caught_up()
        await world.all_is_there()


async def test_an_engine_that_hangs_while_callers_write(killed: Killed, tmp_path: Path) -> None:
    async with beside_engines(tmp_path, killed.driver, **killed.settings) as world:
        async with world.writing():
            await world.engine_answers()
            with killed.engine.paused():
                assert (await world.a_while())["driver"] > 0
        await world.caught_up()
        await world.all_is_there()


async def test_an_engine_that_comes_after_the_service(killed: Killed, tmp_path: Path) -> None:
    await asyncio.to_thread(killed.engine.kill)
    async with beside_engines(tmp_path, killed.driver, **killed.settings) as world:
        async with world.writing():
            assert set(await world.a_while()) <= {"", "driver"}
            await asyncio.to_thread(killed.engine.start)
        await world.caught_up()
        await world.all_is_there()


async def test_the_service_is_killed_while_it_brings(killed: Killed, tmp_path: Path) -> None:
    async with beside_engines(tmp_path, killed.driver, **killed.settings) as world:
        for _ in range(3):
            async with world.writing():
                await world.a_while(4)
            world.service.kill()
            await world.service.start()
        await world.caught_up()
        await world.all_is_there()


@pytest.fixture
def pixeltable_elsewhere(tmp_path: Path) -> Iterator[PixeltableHome]:
    """A home of Pixeltable that a service opens in its own process."""
    home = PixeltableHome()
    yield home
    home.end()


@pytest.mark.long
async def test_pixeltable_s_own_server_is_killed_while_callers_write(
    tmp_path: Path, pixeltable_elsewhere: PixeltableHome
) -> None:
    """Nobody starts it again but the engine itself."""
    home = pixeltable_elsewhere
    async with beside_engines(tmp_path, "pixeltable", **home.environment) as world:
        await until(world.is_up, PATIENCE_S)
        async with world.writing():
            await world.a_while()
            for how in (signal.SIGKILL, signal.SIGQUIT):
                killed = home.pid
                await asyncio.to_thread(home.kill, how)
                await world.a_while()
                await until(world.is_up, PATIENCE_S)
                assert home.pid != killed
        await world.caught_up()
        await world.all_is_there()

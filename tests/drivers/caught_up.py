"""The built-in driver asked through engines that are brought everything before each question: it is they who answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from memory_service.app import Surroundings, open_service
from memory_service.drivers.base import AwaitedDriver, BaseMemoryDriver, Told
from memory_service.drivers.blocking import BlockingDriver, BlockingFace, Verb
from memory_service.drivers.builtin import BuiltinDriver, BuiltinMemoryDriver
from memory_service.service import MemoryService
from memory_service.settings import Settings
from tests.support.background import until

PATIENCE_S = 60
LOOK_EVERY_S = 0.01


class _Open(BuiltinDriver):
    """Shows the service below."""

    @property
    def service(self) -> MemoryService:
        return self._service


class _Record(BuiltinMemoryDriver):
    """A record that is not in the hurry of many, and none of whose answers is remembered."""

    def __init__(self, settings: Settings) -> None:
        BlockingDriver.__init__(self, lambda: _opened(settings))


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Open]:
    settings = settings.model_copy(update={"query_cache_seconds": 0})
    async with open_service(settings, Surroundings(gather_s=0.001)) as service:
        yield _Open(service)


class CaughtUpDriver(BlockingFace):
    """Before it recalls, all engines have everything. `answered`: questions that an engine has answered."""

    def __init__(self, record: _Record, engines: Sequence[str]) -> None:
        self._record, self._engines = record, tuple(engines)

    def run(self, verb: Verb[Any]) -> Any:
        async def through_engines(driver: AwaitedDriver) -> Any:
            assert isinstance(driver, _Open)
            return await verb(await driver.through(self._engines))

        return self._record.run(through_engines)

    def recall(self, *given: Any, **named: Any) -> list[Told]:
        self._catch_up()
        return super().recall(*given, **named)

    def recall_now(self, *given: Any, **named: Any) -> list[Told]:
        """With the engines as they are."""
        return super().recall(*given, **named)

    def recall_global_knowledge(self, *given: Any, **named: Any) -> list[Told]:
        self._catch_up()
        return super().recall_global_knowledge(*given, **named)

    def _catch_up(self) -> None:
        async def caught_up(driver: AwaitedDriver) -> None:
            assert isinstance(driver, _Open)
            async with asyncio.timeout(PATIENCE_S):
                for name in self._engines:
                    while (await driver.service.engines.state_of(name))["lagging_users"]:
                        await driver.service.engines.catch_up(name)
                        await asyncio.sleep(LOOK_EVERY_S)

        self.run(caught_up)

    def until_there(self) -> None:
        """Wait until every engine says that it is there; one may be opened behind the start's back."""

        async def all_there(driver: AwaitedDriver) -> None:
            assert isinstance(driver, _Open)
            for name in self._engines:
                await until(partial(_is_there, driver.service, name), PATIENCE_S)

        self.run(all_there)

    def have_patience(self, name: str) -> None:
        """Let searches of an engine take as long as they take: else the record answers on a slow machine."""

        async def patient(driver: AwaitedDriver) -> None:
            assert isinstance(driver, _Open)
            driver.service.engines.engine(name)._search_s = PATIENCE_S

        self.run(patient)

    @property
    def answered(self) -> int:
        async def count(driver: AwaitedDriver) -> int:
            assert isinstance(driver, _Open)
            told: int = driver.service.stats()["drivers"]["answered"]
            return told

        answered: int = self.run(count)
        return answered


async def _is_there(service: MemoryService, name: str) -> bool:
    return bool((await service.engines.check(name))["connected"])


@contextmanager
def through(settings: Settings, *engines: str) -> Iterator[BaseMemoryDriver]:
    """The record of these settings asked through engines, as an application has it."""
    with BuiltinMemoryDriver(settings) as record:
        yield record.through(engines)


@contextmanager
def caught_up(settings: Settings, *engines: str) -> Iterator[CaughtUpDriver]:
    with _Record(settings) as record:
        yield CaughtUpDriver(record, engines)

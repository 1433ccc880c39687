"""The gateway in your own process: called and waited for, over the record of the settings (STORE_URL).

from memory_service.gateway.controllers import CreateMemoryController

response = CreateMemoryController.create_memory(request)

All of them share one record, that of the memory driver `builtin` (`MemoryDriverManager.get_driver("builtin")`),
which is opened with the first call. They act as a caller who is bound to no user. They raise what the service raises:
ValidationFailed, which is a ValueError, for what is not valid.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from memory_service.api.auth import ANYONE
from memory_service.drivers.base import AwaitedDriver
from memory_service.drivers.builtin import BuiltinDriver, BuiltinMemoryDriver
from memory_service.drivers.manager import MemoryDriverManager
from memory_service.gateway import models
from memory_service.gateway.reading import as_sent
from memory_service.gateway.verbs import Gateway
from memory_service.projections import BUILTIN

T = TypeVar("T")


def _ask(verb: Callable[[Gateway], Awaitable[T]]) -> T:
    record = MemoryDriverManager.get_driver(BUILTIN)
    if not isinstance(record, BuiltinMemoryDriver):
        raise TypeError("the gateway needs the record, and the driver 'builtin' is another one here")

    async def ask(driver: AwaitedDriver) -> T:
        assert isinstance(driver, BuiltinDriver)
        return await verb(driver.service.gateway)

    return record.run(ask)


class GetSessionContextController:
    @staticmethod
    def get_session_context(request: models.GetSessionContextRequest) -> models.GetSessionContextResponse:
        """Return the sessions that are so, the newest first."""
        sent = as_sent(request)
        return _ask(lambda gateway: gateway.get_session_context(ANYONE, sent))


class UpsertSessionContextController:
    @staticmethod
    def upsert_session_context(request: models.UpsertSessionContextRequest) -> models.UpsertSessionContextResponse:
        """Make a session be as given."""
        sent = as_sent(request)
        return _ask(lambda gateway: gateway.upsert_session_context(ANYONE, sent))


class GetMemoriesController:
    @staticmethod
    def get_memories(request: models.GetMemoriesRequest) -> models.GetMemoriesResponse:
        """Return memories that are so, the newest or the nearest first."""
        sent = as_sent(request)
        return _ask(lambda gateway: gateway.get_memories(ANYONE, sent))


class CreateMemoryController:
    @staticmethod
    def create_memory(request: models.CreateMemoryRequest) -> models.CreateMemoryResponse:
        """Keep what was said as a memory."""
        sent = as_sent(request)
        return _ask(lambda gateway: gateway.create_memory(ANYONE, sent))

"""A service in this process, asked with credentials, from addresses and at times of the test's choice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from memory_service.access import PERMISSIONS
from memory_service.app import app_around, open_service
from memory_service.service import MemoryService
from memory_service.settings import Settings
from tests.support.background import Clock

HERE = "127.0.0.1"


class Admitted:
    """A running service. `service` is what it is made of, for what is done around its doors."""

    def __init__(self, app: Any, service: MemoryService, clock: Clock) -> None:
        self.app, self.service, self.clock = app, service, clock

    def http(self, credential: str = "", address: str = HERE, **headers: str) -> httpx2.AsyncClient:
        """A caller from an address, with this as its bearer credential."""
        given = {**({"Authorization": f"Bearer {credential}"} if credential else {}), **headers}
        raw = {name: value.encode("latin-1") for name, value in given.items()}
        transport = httpx2.ASGITransport(app=self.app, client=(address, 50000))
        return httpx2.AsyncClient(transport=transport, base_url="http://memory.example", headers=raw)

    async def key(self, tenant_id: str = "default", user_id: str | None = None, **given: Any) -> str:
        """Make a key, which may do everything unless the test says what."""
        wanted = {"permissions": PERMISSIONS, **given}
        return (await self.service.keys.create("of a test", tenant_id, user_id=user_id, **wanted))[1]


@asynccontextmanager
async def admitting(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Admitted]:
    """Run the application with its lifespan, as a server does."""
    clock = clock or Clock()
    front = app_around(open_service(settings, clock.around), settings, clock.around)
    starlette = front._app
    async with starlette.router.lifespan_context(starlette) as state:
        assert state is not None

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await front({**scope, "state": dict(state)}, receive, send)

        yield Admitted(app, state["service"], clock)


def key_id_of(text: str) -> str:
    return text.split("_")[1]

"""A service over Cosmos DB, served over HTTP from within this process; background work waits until it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx2
import uvicorn

from memory_service.app import Surroundings, app_around, open_service
from memory_service.breaker import Breaker
from memory_service.embedding import Embedding
from memory_service.llm.offline import LocalEmbedder
from memory_service.server import Server, listening, url_of
from memory_service.service import MemoryService
from memory_service.settings import Settings
from memory_service.stores.aging import Tenants
from memory_service.stores.base import Commit
from memory_service.stores.cosmos import CosmosStore
from memory_service.stores.indexing import READ_WHOLE_TURNS
from memory_service.values import Scope
from tests.support.values import a_key, a_memory, a_turn, begin

NEVER_S = 3600
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
TURNS = 10
LARGE, LARGE_TURNS = "large", READ_WHOLE_TURNS + 100
"""A user whose memory is rather narrowed than read, with so many turns."""
USER_WORDS = "I have been thinking about the house by the lake again, and whether we can pay for it. " * 2
AGENT_WORDS = "With what you told me of your savings and of the loan, it can be done in about four years. " * 4
"""A turn of 0.5 KB of words."""
QUESTION = "what do we save for?"


class Service:
    def __init__(self, service: MemoryService, http: httpx2.AsyncClient) -> None:
        self._service, self._http = service, http
        self._parts = service._parts
        self._quiet = asyncio.Event()
        store = self._parts.store
        assert isinstance(store, CosmosStore)
        self.store = store
        self._embedding = Embedding(store, LocalEmbedder(), Breaker(), gather_s=0)

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, later_h: float = 0) -> AsyncIterator[Self]:
        """`later_h`: by so much its clock is ahead."""
        calm = {
            "sweep_interval_seconds": NEVER_S,
            "reflection_concurrency": 1,
            "shutdown_grace_seconds": 0.1,
            "query_cache_seconds": 0,
        }
        around = Surroundings(now=lambda: datetime.now(UTC) + timedelta(hours=later_h), gather_s=NEVER_S)
        settings = settings.model_copy(update=calm)
        with listening("127.0.0.1", 0) as listener:
            async with open_service(settings, around) as service:
                app = app_around(nullcontext(service), settings)
                server = Server(uvicorn.Config(app, access_log=False, log_config=None, ws="none"))
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                async with httpx2.AsyncClient(base_url=url_of(listener), trust_env=False, timeout=60) as http:
                    one = cls(service, http)
                    await one._hold_background()
                    yield one
                one._quiet.set()
                server.should_exit = True
                await serving

    async def _hold_background(self) -> None:
        """Keep the one slot there is, once the sweep that begins with the service has left it."""
        held = asyncio.Event()

        async def hold() -> None:
            held.set()
            await self._quiet.wait()

        self._parts.scheduler.soon("hold", hold)
        await held.wait()

    async def _post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
        answer = await self._http.post(path, json=body, headers=headers or {})
        answer.raise_for_status()
        return answer.json()

    # Actions

    async def start(self, user_id: str, session_id: str = "s") -> None:
        await self._post("/sessions/start", user_id=user_id, session_id=session_id, restore=True)

    async def turn(self, user_id: str, key: str | None = None, session_id: str = "s") -> None:
        named = {"Idempotency-Key": key} if key else None
        words = {"user_message": USER_WORDS, "agent_message": AGENT_WORDS}
        await self._post("/memory/store", named, user_id=user_id, session_id=session_id, **words)

    async def context(self, user_id: str, session_id: str = "s") -> None:
        await self._post("/memory/context", user_id=user_id, session_id=session_id)

    async def retrieve(self, user_id: str) -> None:
        await self._post("/memory/retrieve", user_id=user_id, query=QUESTION)

    async def forget(self, user_id: str) -> None:
        """Let go of what is here of a user's memory to search it."""
        self._parts.recall.forget(_scope(user_id))

    async def end(self, user_id: str) -> None:
        await self._post("/sessions/end", user_id=user_id, session_id="s")

    async def talk(self, users: int, session_id: str = "s") -> None:
        """Start a session of each of so many users, of ten turns."""
        for number in range(users):
            await self.start(f"user-{number}", session_id)
            for _ in range(TURNS):
                await self.turn(f"user-{number}", session_id=session_id)

    async def grow(self) -> None:
        """Give the large user what would have been said, and learned of each ten turns, over a long time."""
        key = a_key(user_id=LARGE)
        head = await begin(self.store, key)
        for first in range(1, LARGE_TURNS, 5 * TURNS):
            turns = tuple(a_turn(first + other, text=(USER_WORDS + AGENT_WORDS)[:260]) for other in range(5 * TURNS))
            head = head.with_turn(turns[-1])
            await self.store.commit(Commit(scope=key.scope, session=head, turns=turns))
        await self.store.commit(Commit(scope=key.scope, session=head.ended("client")))
        for number in range(LARGE_TURNS // TURNS):
            learned = [a_memory(f"summary_{number}", kind="summary", text=AGENT_WORDS)]
            learned += [a_memory(f"m{number}-{other}", text=USER_WORDS[:90]) for other in range(3)]
            await self.store.commit(Commit(scope=key.scope, memories=tuple(learned)))
        await self.embed_everything()

    # In the background

    async def reflect(self, user_id: str) -> None:
        await self._parts.reflector.reflect_due(_scope(user_id))

    async def embed(self, user_id: str) -> None:
        """What a turn and a reflection ring for."""
        self._embedding.ring(_scope(user_id))
        await self._embedding.embed_rung()

    async def embed_everything(self) -> None:
        await self._embedding.embed_due()

    async def sweep(self) -> None:
        """With its look for vectors, which otherwise follows it."""
        await self._parts.background.sweep()
        await self._embedding.embed_due()

    async def look_for_aged(self) -> None:
        """What retention asks for each number of days."""
        await self.store.aged_sessions(Tenants(), LONG_AGO, 200)
        await self.store.aged_memories(Tenants(), LONG_AGO, 100)


def _scope(user_id: str) -> Scope:
    return Scope(tenant_id="default", user_id=user_id)

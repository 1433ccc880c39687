"""One service with its own store and pool size, asked over HTTP in this process. All lanes are driven in step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from memory_service.api.auth import Caller
from memory_service.api.front import make_front
from memory_service.api.routes import VERBS
from memory_service.app import Surroundings, make_parts, make_service
from memory_service.settings import Settings
from memory_service.values import Scope, Session, SessionKey
from tests.properties.models import Mood, ScriptedReader, TaggedEmbedder
from tests.properties.stores import MAX_ATTEMPTS, Book, Ground, WitnessedStore
from tests.support.background import Clock

K, L, THRESHOLD, BUDGET_TOKENS = 2, 3, 2, 200
IDLE, ABANDONED = timedelta(minutes=30), timedelta(hours=24)
LEASE = timedelta(minutes=3)
PATIENCE_S = 20
TENANT = b"x-tenant"


class Ages(Clock):
    """The clock on the wall, which may be set back, and beside it the one that never is.

    It is far ahead of that of this machine, by which the scheduler rings for retries: here the sweep alone does.
    """

    def __init__(self) -> None:
        super().__init__(datetime(2090, 3, 3, 9, tzinfo=UTC))
        self.monotonic_s = 0.0

    def go_on(self, by: timedelta) -> None:
        self.at += by
        self.monotonic_s += by.total_seconds()


@dataclass(frozen=True)
class Answer:
    path: str
    status: int
    content_type: str
    body: Any
    text: str


class Lane:
    """`name` is of the store; `size` is of the pool."""

    def __init__(self, name: str, ground: Ground, size: int, mood: Mood, ages: Ages) -> None:
        self.name, self.size = name, size
        self.book = Book()
        self._ground, self._mood, self._ages = ground, mood, ages
        self._stack = AsyncExitStack()
        self._front = make_front(VERBS, _tenant_named, _no_lifespan)
        self._http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self._app), base_url="http://127.0.0.1", trust_env=False
        )

    def __repr__(self) -> str:
        return f"{self.name} with a pool of {self.size}"

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"service": self.service}
        await self._front(scope, receive, send)

    async def open(self, space: int) -> None:
        """Do as `open_service` does, with models, clock and chance of our own, and sweeping only when told to."""
        self.book.count_anew()
        self.searches = self.degraded = 0
        self._stack = AsyncExitStack()
        self.store = WitnessedStore(self._ground.store(), self.book)
        await self.store.start(self._stack)
        self.reader, self.embedder = ScriptedReader(self._mood), TaggedEmbedder(self._mood, space)
        chosen, around = settings_of(self.size, self._ground), self._surroundings()
        self._parts = parts = make_parts(chosen, self.store, self.reader, self.embedder, around)
        if parts.tier is not None:
            await parts.tier.start(self._stack, parts.pool.let_go)
        await parts.recall.start(self._stack)
        await parts.watchdog.start(self._stack)
        await parts.scheduler.start(self._stack)
        self.service = make_service(chosen, parts, around)
        await self.service.sweep()

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            now=self._ages,
            monotonic=lambda: self._ages.monotonic_s,
            chance=lambda: 0.5,
            new_id=self.book.new_id,
            gather_s=0,
        )

    async def close(self) -> None:
        await self._stack.aclose()

    async def reopen(self, space: int) -> None:
        await self.close()
        await self.open(space)

    async def crash(self, space: int) -> None:
        """Go on from what a crash leaves. The former service is put away afterwards, and writes nothing that counts."""
        self._ground.crash()
        self.store.deaf = True
        await self.close()
        await self.open(space)

    async def leave(self) -> None:
        await self._http.aclose()
        await self.close()

    async def ask(
        self, method: str, path: str, tenant: str, headers: dict[str, str] | None = None, **sent: Any
    ) -> Answer:
        got = await self._http.request(method, path, headers={TENANT.decode(): tenant, **(headers or {})}, **sent)
        if path == "/memory/retrieve" and got.status_code == 200:
            self.searches += 1
            self.degraded += bool(got.json()["degraded"])
        return Answer(path, got.status_code, got.headers["content-type"], got.json(), got.text)

    async def rested(self) -> None:
        """Wait until no job is under way but those that wait for a model that hangs."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not self._rests():
            assert time.monotonic() < give_up_at, f"{self}: the background work does not come to rest"
            await asyncio.sleep(0.0005)

    def _rests(self) -> bool:
        queues = self.service.stats()["queues"]
        return not queues["waiting"] and queues["running"] == (self.reader.holding if self._mood.held else 0)

    def evict_everything(self) -> None:
        self._parts.pool.evict_all()

    def forget_corpora(self) -> None:
        self._parts.recall._cache.clear()
        self.forget_answers()

    def forget_answers(self) -> None:
        self._parts.recall.forget_answers()

    def corpus(self, scope: Scope) -> Any:
        """What a search of this user went through last."""
        return self._parts.recall._cache[scope].corpus

    def head(self, key: SessionKey) -> Session:
        return self.book.heads[key.scope, key.session_id]


def settings_of(size: int, ground: Ground) -> Settings:
    redis_url = ground.redis_url()
    return Settings(
        _env_file=None,
        redis_url=redis_url,
        erasures_file=str(ground.folder / "erasures"),
        max_sessions=size,
        k_turn_buffer=K,
        l_turn_chunks=L,
        context_budget_tokens=BUDGET_TOKENS,
        reflection_threshold_turns=THRESHOLD,
        reflection_max_attempts=MAX_ATTEMPTS,
        reflection_concurrency=100,
        session_ttl_minutes=IDLE / timedelta(minutes=1),
        session_abandon_hours=ABANDONED / timedelta(hours=1),
        breaker_failures=1_000_000,  # when a breaker opens hangs on the order of jobs, in which lanes may differ
        query_cache_seconds=0 if redis_url else 60,  # what is kept in Redis outlives services that were well
        shutdown_grace_seconds=0,
    )


async def _tenant_named(scope: Any) -> Caller:
    return Caller(tenant_id=dict(scope["headers"])[TENANT].decode())


@asynccontextmanager
async def _no_lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    yield {}

"""What every test may ask for: settings of its own, a live service over real HTTP, clients of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from client import MemoryServiceClient
from memory_service.app import open_service
from memory_service.server import running
from memory_service.service import MemoryService
from memory_service.settings import Settings, known_settings
from tests.automem.launcher import AutoMemServer
from tests.cosmos.launcher import CosmosServer
from tests.cosmos.node import INSTALL_S
from tests.pixeltable.launcher import PixeltableHome
from tests.postgres.launcher import PostgresServer
from tests.redis.launcher import RedisServer
from tests.support.background import Clock, settled

Open = Callable[..., Awaitable[MemoryService]]
Serve = Callable[..., Awaitable[str]]
MakeClient = Callable[..., MemoryServiceClient]

# A machine that stands still is no slow example. What is looked for by chance is the same each time, or, with
# HYPOTHESIS_PROFILE=long, something else each time.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings, the .env or the data of whoever runs it."""
    for name in [*known_settings(), "AZURE_OPENAI_KEY", "MEMORY_SERVICE_API_KEY"]:
        for spelling in (name, name.lower()):
            monkeypatch.delenv(spelling, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def a_disk_may_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that takes seconds turns others away, and no test that is about anything else is to hang on that."""
    monkeypatch.setattr("memory_service.stores.sqlite.writer.STALLED_S", 60.0)


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings on a database file of the test's own, a free port of 127.0.0.1, no key: the offline reader."""

    def make(**changes: Any) -> Settings:
        given = {"host": "127.0.0.1", "port": 0, "store_url": f"sqlite:///{tmp_path}/memory.db", **changes}
        return Settings(_env_file=None, **given)

    return make


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def opened(make_settings: Callable[..., Settings], clock: Clock) -> AsyncIterator[Open]:
    """Open a service on SQLite that knows only the clock's time; the offline reader unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def enter(**changes: Any) -> MemoryService:
            given = {"sweep_interval_seconds": 3600, "shutdown_grace_seconds": 0.05, **changes}
            service = await stack.enter_async_context(open_service(make_settings(**given), clock.around))
            await settled(service)
            return service

        yield enter


@pytest.fixture
async def serve(make_settings: Callable[..., Settings]) -> AsyncIterator[Serve]:
    """Start a service over real HTTP with these settings; gives its URL. It stops when the test ends."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> str:
            return await stack.enter_async_context(running(make_settings(**changes)))

        yield start


@pytest.fixture
async def url(serve: Serve) -> str:
    """URL of a live service with default settings."""
    return await serve()


@pytest.fixture
async def client_of(url: str) -> AsyncIterator[MakeClient]:
    """Make clients of the live service: `client_of("ana")`, one per user."""
    async with AsyncExitStack() as stack:
        made: list[MemoryServiceClient] = []

        def make(user_id: str = "ana", session_id: str | None = None) -> MemoryServiceClient:
            client = MemoryServiceClient(url, user_id, session_id)
            stack.push_async_callback(client.aclose)
            made.append(client)
            return client

        yield make


@pytest.fixture
def client(client_of: MakeClient) -> MemoryServiceClient:
    """Client of the live service for the user `ana`."""
    return client_of()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Any test that needs the Cosmos DB server may be the first of its process, and have to install it."""
    for item in filter(_needs_cosmos, items):
        item.add_marker(pytest.mark.timeout(INSTALL_S + 60))


def _needs_cosmos(item: pytest.Item) -> bool:
    named = getattr(item, "fixturenames", ())
    given = item.callspec.params if hasattr(item, "callspec") else {}
    return "cosmos_process" in named or "cosmos" in [value for value in given.values() if isinstance(value, str)]


@pytest.fixture(scope="session")
def cosmos_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CosmosServer]:
    """The one Cosmos DB server of a test run; ask for `cosmos_server`."""
    with CosmosServer(tmp_path_factory.mktemp("cosmos")) as server:
        yield server


@pytest.fixture
def cosmos_server(cosmos_process: CosmosServer) -> CosmosServer:
    """A running Cosmos DB server with nothing in it: `url`, and `KEY` of tests.cosmos.launcher."""
    cosmos_process.reset()
    return cosmos_process


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The one PostgreSQL server of a test run; ask for `postgres_url`."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty database of the test's own on a running PostgreSQL server."""
    url = postgres_server.new_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The one Redis server of a test run; ask for `redis_server`."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A running Redis server with nothing in it, which may be killed, started and paused: `url`."""
    redis_process.kill()
    redis_process.start()
    return redis_process


@pytest.fixture(scope="session")
def automem_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AutoMemServer]:
    """The one AutoMem server of a test run; ask for `automem_server`."""
    with AutoMemServer(tmp_path_factory.mktemp("automem"), vector_delay_s=3600) as server:
        yield server


@pytest.fixture
def automem_server(automem_process: AutoMemServer) -> AutoMemServer:
    """A running AutoMem server with nothing in it, which may be killed, started and paused: `url`."""
    automem_process.start()
    automem_process.reset()
    return automem_process


@pytest.fixture(scope="session")
def pixeltable_home() -> Iterator[PixeltableHome]:
    """Where the one Pixeltable of a test run is. What tests leave in it, the next one finds."""
    with PixeltableHome() as home:
        yield home


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Threads a test started must end with it."""
    import threading

    before = set(threading.enumerate())
    yield
    left = [t for t in set(threading.enumerate()) - before if not t.daemon and not t.name.startswith("asyncio_")]
    assert not left, f"threads left running: {left}"

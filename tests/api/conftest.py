"""Services with settings of the test's choice, and callers of them: the client, or raw HTTP.

Each test that asks for a service runs over each store, but for those that are marked `only_on`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from client import MemoryServiceClient
from memory_service.server import running
from memory_service.settings import Settings
from tests.api.talking import PATIENCE_S, STORE, commits, everything, told
from tests.cosmos.launcher import KEY

Serve = Callable[..., Awaitable[str]]
Connect = Callable[..., Awaitable[httpx2.AsyncClient]]
Visit = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]
Unharmed = Callable[[], AbstractAsyncContextManager[None]]
ClientAt = Callable[..., MemoryServiceClient]
MakeSettings = Callable[..., Settings]

GROUNDS = ("sqlite", "cosmos", "postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ground" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("only_on")
        metafunc.parametrize("ground", marker.args[:-1] if marker else GROUNDS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest) -> str:
    """The store that this run of the test is over."""
    return str(request.param)


@pytest.fixture
def make_settings(request: pytest.FixtureRequest, make_settings: MakeSettings, ground: str) -> MakeSettings:
    """As everywhere, on an empty record of the store that the test is run over."""
    if ground == "sqlite":
        return make_settings
    if ground == "postgres":
        return partial(make_settings, store_url=request.getfixturevalue("postgres_url"))
    server = request.getfixturevalue("cosmos_server")
    return partial(make_settings, store_url="cosmos:", cosmos_endpoint=server.url, cosmos_key=KEY)


@pytest.fixture
def another_record(
    ground: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], dict[str, str]]]:
    """Settings that name a further record of the same store, empty at first: `connect(**another_record("b"))`."""
    with ExitStack() as made:

        def named(name: str) -> dict[str, str]:
            if ground == "sqlite":
                return {"store_url": f"sqlite:///{tmp_path}/{name}.db"}
            if ground == "cosmos":
                return {"cosmos_database_name": name}
            server = request.getfixturevalue("postgres_server")
            url = server.new_database()
            made.callback(server.drop_database, url)
            return {"store_url": url}

        yield named


@pytest.fixture
def durability(ground: str) -> str:
    """What an answer says of how safe a turn is on this store."""
    return {"sqlite": "fsync", "cosmos": "quorum", "postgres": "fsync"}[ground]


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Raw HTTP to the live service with default settings."""
    async with httpx2.AsyncClient(base_url=url, timeout=3 * PATIENCE_S) as client:
        yield client


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Start a service with these settings and give raw HTTP to it: `await connect(max_sessions=1)`."""
    async with AsyncExitStack() as stack:

        async def start(**changes: object) -> httpx2.AsyncClient:
            return await stack.enter_async_context(
                httpx2.AsyncClient(base_url=await serve(**changes), timeout=3 * PATIENCE_S)
            )

        yield start


@pytest.fixture
def visit(make_settings: Callable[..., Settings]) -> Visit:
    """A service that stops when the block ends; the next one opens the same record: `async with visit() as http:`."""

    @asynccontextmanager
    async def opened(**changes: object) -> AsyncIterator[httpx2.AsyncClient]:
        async with (
            running(make_settings(**changes)) as url,
            httpx2.AsyncClient(base_url=url, timeout=3 * PATIENCE_S) as client,
        ):
            yield client

    return opened


@pytest.fixture
def client_at() -> ClientAt:
    """Make a client over raw HTTP that is open already: `client_at(http, "ana", "s1")`."""

    def make(http: httpx2.AsyncClient, user_id: str = "ana", session_id: str | None = None) -> MemoryServiceClient:
        return MemoryServiceClient(str(http.base_url), user_id, session_id, http=http)

    return make


@pytest.fixture
async def unharmed(http: httpx2.AsyncClient, client: MemoryServiceClient) -> Unharmed:
    """Holds the service to be, after a block, exactly what it was before, and to go on serving."""
    await client.start_session("old")
    await client.store_turn("I live in Lisbon.", "Noted.", turn_id="t0")
    await client.end_session(wait_s=PATIENCE_S)
    await client.start_session("s")
    await client.store_turn("My boat is called Ida.", "A fine name.", turn_id="t1")
    owned = [("ana", "s"), ("ana", "old"), ("bob", "s")]
    before = await everything(http, owned, "boat")

    @asynccontextmanager
    async def block() -> AsyncIterator[None]:
        yield
        assert await everything(http, owned, "boat") == before
        # A replay is asked of the store, where it counts as an attempt to write.
        said = {"user_message": "My boat is called Ida.", "agent_message": "A fine name.", "turn_id": "t1"}
        answer = await told(http, STORE, user_id="ana", session_id="s", **said)
        assert (answer["replayed"], answer["turn_number"]) == (True, 1)
        before["commits"] = await commits(http)

    return block

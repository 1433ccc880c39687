"""A client of the Cosmos DB server through the real SDK, a database and a container in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy

from tests.cosmos.launcher import KEY, CosmosServer

USER = PartitionKey("/user")
Ask = Callable[..., Any]


@pytest.fixture
async def cosmos(cosmos_server: CosmosServer) -> AsyncIterator[CosmosClient]:
    """A client that sends each request once."""
    async with CosmosClient(
        cosmos_server.url, KEY, retry_total=0, retry_read=0, retry_connect=0, retry_throttle_total=1, read_timeout=5
    ) as client:
        yield client


@pytest.fixture
async def database(cosmos: CosmosClient) -> DatabaseProxy:
    return await cosmos.create_database("memory")


@pytest.fixture
async def container(database: DatabaseProxy) -> ContainerProxy:
    """Partitioned by /user, otherwise as containers are by default."""
    return await database.create_container("items", USER)


@pytest.fixture
async def numbers(container: ContainerProxy) -> ContainerProxy:
    """25 items of ana, n from 0 to 24 and k = n modulo 3, and 3 of ben from 1000 on."""
    items = [
        {"id": f"q{n:02}", "user": "ana", "n": n, "k": n % 3, "tags": ["odd" if n % 2 else "even"], "s": f"Fox {n}"}
        for n in range(25)
    ]
    await container.execute_item_batch([("create", (item,)) for item in items], partition_key="ana")
    secrets = [
        {"id": f"o{n}", "user": "ben", "n": n, "k": 0, "tags": ["even"], "s": "secret"} for n in range(1000, 1003)
    ]
    await container.execute_item_batch([("create", (item,)) for item in secrets], partition_key="ben")
    return container


@pytest.fixture
def ask() -> Ask:
    """Rows of a query: `await ask(container, "SELECT ... @n", {"@n": 5}, partition_key="ana")`."""

    async def rows(
        container: ContainerProxy, sql: str, values: dict[str, Any] | None = None, **options: Any
    ) -> list[Any]:
        parameters = [{"name": name, "value": value} for name, value in (values or {}).items()]
        return [row async for row in container.query_items(sql, parameters=parameters, **options)]

    return rows

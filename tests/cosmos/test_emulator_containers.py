"""Databases and containers of the Cosmos DB server, and what a container is told: unique keys, times to live."""

from __future__ import annotations

import asyncio

import pytest
from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceExistsError, CosmosResourceNotFoundError

from tests.cosmos.conftest import USER, Ask


async def test_a_name_is_taken_once(cosmos: CosmosClient, database: DatabaseProxy, container: ContainerProxy) -> None:
    with pytest.raises(CosmosResourceExistsError):
        await cosmos.create_database(database.id)
    with pytest.raises(CosmosResourceExistsError):
        await database.create_container(container.id, USER)
    await cosmos.create_database_if_not_exists(database.id)
    await database.create_container_if_not_exists(container.id, USER)
    assert [found["id"] async for found in database.list_containers()] == [container.id]


async def test_what_is_not_there_is_404(database: DatabaseProxy) -> None:
    missing = database.get_container_client("nope")
    with pytest.raises(CosmosResourceNotFoundError):
        await missing.read()
    with pytest.raises(CosmosResourceNotFoundError):
        await missing.read_item("a", "ana")
    with pytest.raises(CosmosResourceNotFoundError):
        await missing.upsert_item({"id": "a", "user": "ana"})


async def test_a_container_says_its_key_and_its_index(container: ContainerProxy) -> None:
    properties = await container.read()
    assert properties["partitionKey"]["paths"] == ["/user"]
    assert properties["indexingPolicy"]["includedPaths"] == [{"path": "/*"}]


async def test_a_container_made_anew_is_empty(database: DatabaseProxy, numbers: ContainerProxy, ask: Ask) -> None:
    await database.delete_container(numbers)
    with pytest.raises(CosmosResourceNotFoundError):
        await numbers.read_item("q01", "ana")
    again = await database.create_container(numbers.id, USER)
    assert await ask(again, "SELECT VALUE COUNT(1) FROM c") == [0]


async def test_a_deleted_database_is_gone(cosmos: CosmosClient, database: DatabaseProxy) -> None:
    await cosmos.delete_database(database)
    with pytest.raises(CosmosResourceNotFoundError):
        await database.read()


async def test_a_policy_can_be_replaced_and_the_items_stay(
    database: DatabaseProxy, numbers: ContainerProxy, ask: Ask
) -> None:
    sql = "SELECT TOP 1 VALUE c.n FROM c ORDER BY c.k DESC, c.n ASC"
    with pytest.raises(CosmosHttpResponseError):
        await ask(numbers, sql, partition_key="ana")
    index = [{"path": "/k", "order": "descending"}, {"path": "/n", "order": "ascending"}]
    await database.replace_container(numbers, USER, indexing_policy={"compositeIndexes": [index]})
    assert await ask(numbers, sql, partition_key="ana") == [2]


async def test_all_items_of_a_partition_are_deleted_at_once(numbers: ContainerProxy, ask: Ask) -> None:
    await numbers.delete_all_items_by_partition_key("ana")
    assert await ask(numbers, "SELECT VALUE c.user FROM c") == ["ben"] * 3


async def test_throughput_can_be_read(container: ContainerProxy) -> None:
    assert (await container.get_throughput()).offer_throughput == 400


class TestUniqueKeys:
    @pytest.fixture
    async def unique(self, database: DatabaseProxy) -> ContainerProxy:
        policy = {"uniqueKeys": [{"paths": ["/session", "/seq"]}]}
        container = await database.create_container("unique", USER, unique_key_policy=policy)
        await container.create_item({"id": "1", "user": "ana", "session": "s", "seq": 1})
        return container

    async def test_one_equal_part_of_a_key_is_allowed(self, unique: ContainerProxy) -> None:
        await unique.create_item({"id": "2", "user": "ana", "session": "s", "seq": 2})
        await unique.create_item({"id": "2", "user": "ben", "session": "s", "seq": 1})
        await unique.upsert_item({"id": "1", "user": "ana", "session": "s", "seq": 1, "n": 2})

    async def test_an_equal_key_is_409(self, unique: ContainerProxy) -> None:
        with pytest.raises(CosmosResourceExistsError):
            await unique.create_item({"id": "2", "user": "ana", "session": "s", "seq": 1})


class TestTimeToLive:
    async def test_an_item_is_gone_after_its_time_and_its_id_free(self, database: DatabaseProxy, ask: Ask) -> None:
        container = await database.create_container("ttl", USER, default_ttl=-1)
        await container.create_item({"id": "short", "user": "ana", "ttl": 4})
        await container.create_item({"id": "kept", "user": "ana"})
        assert await ask(container, "SELECT VALUE c.id FROM c", partition_key="ana") == ["short", "kept"]
        await asyncio.sleep(5.1)
        with pytest.raises(CosmosResourceNotFoundError):
            await container.read_item("short", "ana")
        assert await ask(container, "SELECT VALUE c.id FROM c", partition_key="ana") == ["kept"]
        await container.create_item({"id": "short", "user": "ana"})
        assert await ask(container, "SELECT VALUE c.id FROM c", partition_key="ana") == ["kept", "short"]

    async def test_the_time_of_the_container_is_that_of_items_without_one(self, database: DatabaseProxy) -> None:
        container = await database.create_container("ttl", USER, default_ttl=1)
        plain = await database.create_container("plain", USER)
        await container.create_item({"id": "short", "user": "ana"})
        await container.create_item({"id": "kept", "user": "ana", "ttl": -1})
        await plain.create_item({"id": "kept", "user": "ana", "ttl": 1})
        await asyncio.sleep(2.1)
        with pytest.raises(CosmosResourceNotFoundError):
            await container.read_item("short", "ana")
        await container.read_item("kept", "ana")
        await plain.read_item("kept", "ana")

    @pytest.mark.parametrize("ttl", [0, -2, 1.5, "1"])
    async def test_a_time_that_is_none_is_400(self, container: ContainerProxy, ttl: object) -> None:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.create_item({"id": "a", "user": "ana", "ttl": ttl})
        assert caught.value.status_code == 400

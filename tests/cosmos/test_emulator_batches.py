"""The transactional batch of the Cosmos DB server, through the SDK."""

from __future__ import annotations

from typing import Any

import pytest
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from tests.cosmos.conftest import Ask


def create(name: str, **fields: Any) -> tuple[str, tuple[dict[str, Any]]]:
    return "create", ({"id": name, "user": "ana", **fields},)


async def refused(container: ContainerProxy, *operations: Any) -> CosmosBatchOperationError:
    with pytest.raises(CosmosBatchOperationError) as caught:
        await container.execute_item_batch(list(operations), partition_key="ana")
    return caught.value


def statuses(answers: list[dict[str, Any]]) -> list[int]:
    return [answer["statusCode"] for answer in answers]


async def test_all_kinds_of_operations_are_done_in_order(container: ContainerProxy, ask: Ask) -> None:
    answers = await container.execute_item_batch(
        [
            create("a", n=1),
            ("upsert", ({"id": "b", "user": "ana", "n": 2},)),
            ("replace", ("a", {"id": "a", "user": "ana", "n": 11})),
            ("patch", ("a", [{"op": "incr", "path": "/n", "value": 1}])),
            ("read", ("a",)),
            ("delete", ("b",)),
        ],
        partition_key="ana",
    )
    assert statuses(answers) == [201, 201, 200, 200, 200, 204]
    assert answers[4]["resourceBody"]["n"] == 12
    assert answers[4]["eTag"] == answers[3]["eTag"] == (await container.read_item("a", "ana"))["_etag"]
    assert await ask(container, "SELECT VALUE c.id FROM c", partition_key="ana") == ["a"]


async def test_of_a_batch_that_fails_nothing_is_left(container: ContainerProxy, ask: Ask) -> None:
    before = [await container.create_item({"id": name, "user": "ana", "n": 0}) for name in ("taken", "kept", "there")]
    error = await refused(
        container,
        create("new"),
        ("replace", ("kept", {"id": "kept", "user": "ana", "n": 1})),
        ("delete", ("there",)),
        create("taken"),
        create("later"),
    )
    assert error.status_code == 409
    assert error.error_index == 3
    assert statuses(error.operation_responses) == [424, 424, 424, 409, 424]
    assert await ask(container, "SELECT * FROM c", partition_key="ana") == before


async def test_a_stale_etag_in_a_batch_is_412_for_all_of_it(container: ContainerProxy, ask: Ask) -> None:
    stale = (await container.create_item({"id": "head", "user": "ana", "n": 0}))["_etag"]
    etag = (await container.upsert_item({"id": "head", "user": "ana", "n": 1}))["_etag"]
    body = {"id": "head", "user": "ana", "n": 2}
    for replacing in (("replace", ("head", body)), ("upsert", (body,)), ("delete", ("head",))):
        error = await refused(container, create("turn"), (*replacing, {"if_match_etag": stale}))
        assert statuses(error.operation_responses) == [424, 412]
    patching = ("patch", ("head", [{"op": "incr", "path": "/n", "value": 1}]), {"if_match_etag": stale})
    assert statuses((await refused(container, create("turn"), patching)).operation_responses) == [424, 412]
    assert await ask(container, "SELECT VALUE c.n FROM c", partition_key="ana") == [1]

    fresh = ("replace", ("head", body), {"if_match_etag": etag})
    await container.execute_item_batch([create("turn"), fresh], partition_key="ana")
    assert await ask(container, "SELECT VALUE c.id FROM c", partition_key="ana") == ["head", "turn"]


async def test_a_patch_in_a_batch_obeys_its_filter(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "user": "ana", "n": 0})
    plus_one = ("a", [{"op": "incr", "path": "/n", "value": 1}])
    error = await refused(container, ("patch", plus_one, {"filter_predicate": "FROM c WHERE c.n = 5"}))
    assert error.status_code == 412
    await container.execute_item_batch(
        [("patch", plus_one, {"filter_predicate": "FROM c WHERE c.n = 0"})], partition_key="ana"
    )
    assert (await container.read_item("a", "ana"))["n"] == 1


async def test_an_item_of_another_partition_is_400_for_all_of_the_batch(container: ContainerProxy, ask: Ask) -> None:
    error = await refused(container, create("mine"), ("create", ({"id": "his", "user": "ben"},)))
    assert error.status_code == 400
    assert await ask(container, "SELECT * FROM c") == []


@pytest.mark.parametrize("operation", ["read", "delete"])
async def test_what_is_missing_is_404_for_all_of_the_batch(container: ContainerProxy, operation: str) -> None:
    assert statuses((await refused(container, create("a"), (operation, ("zz",)))).operation_responses) == [424, 404]


async def test_100_operations_are_a_batch_and_101_are_400(container: ContainerProxy, ask: Ask) -> None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await container.execute_item_batch([create(f"m{i}") for i in range(101)], partition_key="ana")
    assert caught.value.status_code == 400
    assert await ask(container, "SELECT VALUE COUNT(1) FROM c", partition_key="ana") == [0]
    await container.execute_item_batch([create(f"m{i}") for i in range(100)], partition_key="ana")
    assert await ask(container, "SELECT VALUE COUNT(1) FROM c", partition_key="ana") == [100]


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp, of what the SDK does
async def test_a_batch_over_two_megabytes_is_413(container: ContainerProxy, ask: Ask) -> None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await container.execute_item_batch([create(f"b{i}", text="a" * 700_000) for i in range(3)], partition_key="ana")
    assert caught.value.status_code == 413
    assert await ask(container, "SELECT * FROM c", partition_key="ana") == []


async def test_the_same_item_may_be_written_more_than_once(container: ContainerProxy) -> None:
    await container.execute_item_batch(
        [create("a", n=1), ("upsert", ({"id": "a", "user": "ana", "n": 2},)), ("delete", ("a",)), create("a", n=3)],
        partition_key="ana",
    )
    assert (await container.read_item("a", "ana"))["n"] == 3

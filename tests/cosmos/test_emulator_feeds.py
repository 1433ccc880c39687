"""Reading all items and the change feed of the Cosmos DB server, through the SDK."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, DatabaseProxy


async def changes(container: ContainerProxy, **where: Any) -> tuple[list[Any], str]:
    """What changed, and from where to go on.

    The SDK's pages lose their continuation where nothing (more) changed: the headers of the last answer have it.
    """
    answers: list[Mapping[str, Any]] = []
    feed = container.query_items_change_feed(response_hook=lambda headers, _: answers.append(headers), **where)
    found = [item async for item in feed]
    return found, answers[-1]["etag"]


def ids(items: list[Any]) -> list[str]:
    return [item["id"] for item in items]


async def put(container: ContainerProxy, *names: str, user: str = "ana", n: int = 0) -> None:
    for name in names:
        await container.upsert_item({"id": name, "user": user, "n": n})


async def test_read_all_items_gives_every_partition_in_pages(numbers: ContainerProxy) -> None:
    pages = [[item["id"] async for item in page] async for page in numbers.read_all_items(max_item_count=10).by_page()]
    assert [len(page) for page in pages] == [10, 10, 8]
    assert len({name for page in pages for name in page}) == 28


class TestOfOnePartition:
    async def test_it_begins_with_the_newest_version_of_each_item_in_order_of_change(
        self, container: ContainerProxy
    ) -> None:
        await put(container, "a", "b", "c")
        await put(container, "x", user="ben")
        await put(container, "a", n=1)
        found, _ = await changes(container, partition_key="ana", start_time="Beginning")
        assert [(item["id"], item["n"]) for item in found] == [("b", 0), ("c", 0), ("a", 1)]
        assert [item["_lsn"] for item in found] == [2, 3, 5]

    async def test_it_goes_on_after_the_continuation(self, container: ContainerProxy) -> None:
        await put(container, "a", "b")
        _, token = await changes(container, partition_key="ana", start_time="Beginning")
        assert await changes(container, continuation=token) == ([], token)
        await put(container, "x", user="ben")
        await put(container, "c")
        await put(container, "a", n=1)
        found, token = await changes(container, continuation=token)
        assert ids(found) == ["c", "a"]
        assert await changes(container, continuation=token) == ([], token)

    async def test_a_continuation_of_nothing_finds_what_comes_later(self, container: ContainerProxy) -> None:
        nothing, token = await changes(container, partition_key="ana", start_time="Beginning")
        await put(container, "a")
        assert (nothing, ids((await changes(container, continuation=token))[0])) == ([], ["a"])

    async def test_from_now_on_shows_nothing_older(self, container: ContainerProxy) -> None:
        await put(container, "old")
        nothing, token = await changes(container, partition_key="ana", start_time="Now")
        await put(container, "new")
        found, _ = await changes(container, continuation=token)
        assert (nothing, ids(found)) == ([], ["new"])

    async def test_from_a_time_on_shows_nothing_older(self, container: ContainerProxy) -> None:
        await put(container, "a")
        hour = timedelta(hours=1)
        found, _ = await changes(container, partition_key="ana", start_time=datetime.now(UTC) - hour)
        assert ids(found) == ["a"]
        nothing, _ = await changes(container, partition_key="ana", start_time=datetime.now(UTC) + hour)
        assert nothing == []

    async def test_pages_are_of_the_size_asked_for(self, container: ContainerProxy) -> None:
        await put(container, *"abcde")
        feed = container.query_items_change_feed(partition_key="ana", start_time="Beginning", max_item_count=2)
        assert [[item["id"] async for item in page] async for page in feed.by_page()] == [["a", "b"], ["c", "d"], ["e"]]

    async def test_each_page_says_from_where_to_go_on(self, container: ContainerProxy) -> None:
        await put(container, *"abcd")
        pages = container.query_items_change_feed(
            partition_key="ana", start_time="Beginning", max_item_count=2
        ).by_page()
        first = [item["id"] async for item in await anext(pages)]
        found, _ = await changes(container, continuation=pages.continuation_token)
        assert (first, ids(found)) == (["a", "b"], ["c", "d"])

    async def test_what_one_batch_wrote_is_in_one_page(self, container: ContainerProxy) -> None:
        await put(container, "first")
        batch = [("create", ({"id": name, "user": "ana"},)) for name in "abc"]
        await container.execute_item_batch(batch, partition_key="ana")
        await put(container, "last")
        feed = container.query_items_change_feed(partition_key="ana", start_time="Beginning", max_item_count=2)
        pages = [[item["id"] async for item in page] async for page in feed.by_page()]
        assert pages == [["first", "a", "b", "c"], ["last"]]

    async def test_a_deleted_item_is_not_in_it(self, container: ContainerProxy) -> None:
        await put(container, "a", "b")
        await container.delete_item("a", "ana")
        found, _ = await changes(container, partition_key="ana", start_time="Beginning")
        assert ids(found) == ["b"]

    @pytest.mark.parametrize("key", ["ánä 🦤 | of a longer kind than a hash takes at once", 17, 1.5, True])
    async def test_the_server_finds_every_key_that_the_sdk_hashes(self, database: DatabaseProxy, key: Any) -> None:
        container = await database.create_container("keys", PartitionKey("/user"))
        for user in (key, "another"):
            await container.create_item({"id": "a", "user": user})
        found, _ = await changes(container, partition_key=key, start_time="Beginning")
        assert [item["user"] for item in found] == [key]


class TestOfAllPartitions:
    async def test_it_begins_at_the_beginning_and_goes_on_after_the_continuation(
        self, container: ContainerProxy
    ) -> None:
        await put(container, "a")
        await put(container, "x", user="ben")
        found, token = await changes(container, start_time="Beginning")
        assert ids(found) == ["a", "x"]
        await put(container, "x", user="ben", n=1)
        assert ids((await changes(container, continuation=token))[0]) == ["x"]

    async def test_the_parts_of_a_container_read_one_by_one_are_the_whole(self, container: ContainerProxy) -> None:
        await put(container, "a")
        await put(container, "x", user="ben")
        ranges = [part async for part in container.read_feed_ranges()]
        found = [
            item for part in ranges for item in (await changes(container, feed_range=part, start_time="Beginning"))[0]
        ]
        assert ids(found) == ["a", "x"]

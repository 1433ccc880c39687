"""Point operations of the Cosmos DB server, through the SDK: create, read, replace, upsert, delete, patch."""

from __future__ import annotations

from typing import Any

import pytest
from azure.core import MatchConditions
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

ITEM: dict[str, Any] = {"id": "a", "user": "ana", "n": 1, "tags": ["x", "y"], "text": "Hello"}
UNCHANGED = MatchConditions.IfNotModified


class TestCreateAndRead:
    async def test_a_created_item_is_read_back(self, container: ContainerProxy) -> None:
        created = await container.create_item(ITEM)
        assert {name: created[name] for name in ITEM} == ITEM
        assert await container.read_item("a", "ana") == created

    async def test_an_id_is_taken_once_within_a_partition(self, container: ContainerProxy) -> None:
        await container.create_item(ITEM)
        with pytest.raises(CosmosResourceExistsError):
            await container.create_item({"id": "a", "user": "ana"})
        assert (await container.read_item("a", "ana"))["n"] == 1

    async def test_the_same_id_in_another_partition_is_another_item(self, container: ContainerProxy) -> None:
        await container.create_item(ITEM)
        await container.create_item({**ITEM, "user": "ben", "n": 100})
        assert [(await container.read_item("a", user))["n"] for user in ("ana", "ben")] == [1, 100]

    @pytest.mark.parametrize(("item", "user"), [("zz", "ana"), ("a", "nobody")])
    async def test_a_missing_item_is_404(self, container: ContainerProxy, item: str, user: str) -> None:
        await container.create_item(ITEM)
        with pytest.raises(CosmosResourceNotFoundError) as caught:
            await container.read_item(item, user)
        assert caught.value.status_code == 404

    @pytest.mark.parametrize("name", ["x/y", "x?z", "x#z", "x\\z"])
    async def test_the_sdk_sends_no_id_with_a_character_of_urls(self, container: ContainerProxy, name: str) -> None:
        with pytest.raises(ValueError, match="illegal chars"):
            await container.create_item({"id": name, "user": "ana"})

    @pytest.mark.parametrize("name", ["a b", "a:b|c", "ñandú 🦤", "100%", "a+b"])
    async def test_any_other_id_goes_there_and_back(self, container: ContainerProxy, name: str) -> None:
        await container.create_item({"id": name, "user": "ánä | 🦤"})
        assert (await container.read_item(name, "ánä | 🦤"))["id"] == name

    async def test_the_sdk_gives_an_id_where_asked(self, container: ContainerProxy) -> None:
        created = await container.create_item({"user": "ana"}, enable_automatic_id_generation=True)
        assert (await container.read_item(created["id"], "ana")) == created

    @pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp, of what the SDK does
    async def test_an_item_over_two_megabytes_is_413(self, container: ContainerProxy) -> None:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.create_item({"id": "big", "user": "ana", "text": "a" * 2_097_152})
        assert caught.value.status_code == 413

    @pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp, of what the SDK does
    async def test_an_item_just_below_it_is_stored(self, container: ContainerProxy) -> None:
        await container.create_item({"id": "big", "user": "ana", "text": "a" * 2_097_000})
        assert len((await container.read_item("big", "ana"))["text"]) == 2_097_000

    async def test_read_items_gives_those_that_are_there(self, numbers: ContainerProxy) -> None:
        found = await numbers.read_items([("q01", "ana"), ("q02", "ana"), ("zz", "ana"), ("o1000", "ben")])
        assert sorted(item["id"] for item in found) == ["o1000", "q01", "q02"]


class TestHeaders:
    async def test_an_answer_says_its_charge_session_and_etag(self, container: ContainerProxy) -> None:
        created = await container.create_item(ITEM)
        headers = (await container.read_item("a", "ana")).get_response_headers()
        assert headers["etag"] == created["_etag"]
        assert headers["x-ms-session-token"] == "0:-1#1"
        assert float(headers["x-ms-request-charge"]) == 1

    async def test_the_charge_grows_with_the_root_of_the_size(self, container: ContainerProxy) -> None:
        created = await container.create_item({"id": "a", "user": "ana", "text": "a" * 102_400})
        read = await container.read_item("a", "ana")
        charges = [float(item.get_response_headers()["x-ms-request-charge"]) for item in (created, read)]
        assert charges == pytest.approx([50, 10], rel=0.01)

    async def test_no_body_comes_back_where_none_is_wanted(self, container: ContainerProxy) -> None:
        assert dict(await container.create_item(ITEM, no_response=True)) == {}
        assert (await container.read_item("a", "ana"))["n"] == 1


class TestConditions:
    async def test_each_write_makes_another_etag(self, container: ContainerProxy) -> None:
        etags = [(await container.upsert_item(ITEM))["_etag"] for _ in range(3)]
        assert len(set(etags)) == 3

    async def test_a_replace_with_the_present_etag_is_done(self, container: ContainerProxy) -> None:
        etag = (await container.create_item(ITEM))["_etag"]
        replaced = await container.replace_item("a", {**ITEM, "n": 2}, etag=etag, match_condition=UNCHANGED)
        assert replaced["n"] == 2
        assert replaced["_etag"] != etag

    @pytest.mark.parametrize("write", ["replace", "upsert", "delete", "patch"])
    async def test_a_stale_etag_is_412_and_changes_nothing(self, container: ContainerProxy, write: str) -> None:
        stale = (await container.create_item(ITEM))["_etag"]
        present = await container.upsert_item({**ITEM, "n": 2})
        given = {"etag": stale, "match_condition": UNCHANGED}
        with pytest.raises(CosmosAccessConditionFailedError):
            match write:
                case "replace":
                    await container.replace_item("a", {**ITEM, "n": 3}, **given)
                case "upsert":
                    await container.upsert_item({**ITEM, "n": 3}, **given)
                case "delete":
                    await container.delete_item("a", "ana", **given)
                case "patch":
                    await container.patch_item("a", "ana", [{"op": "incr", "path": "/n", "value": 1}], **given)
        assert await container.read_item("a", "ana") == present

    async def test_an_upsert_that_may_only_create_is_refused_for_what_is_there(self, container: ContainerProxy) -> None:
        await container.upsert_item(ITEM, match_condition=MatchConditions.IfMissing)
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.upsert_item({**ITEM, "n": 9}, match_condition=MatchConditions.IfMissing)
        assert caught.value.status_code == 409
        assert (await container.read_item("a", "ana"))["n"] == 1

    async def test_reading_what_has_not_changed_gives_an_empty_item(self, container: ContainerProxy) -> None:
        etag = (await container.create_item(ITEM))["_etag"]
        given = {"etag": etag, "match_condition": MatchConditions.IfModified}
        assert dict(await container.read_item("a", "ana", **given)) == {}
        await container.upsert_item({**ITEM, "n": 2})
        assert (await container.read_item("a", "ana", **given))["n"] == 2


class TestReplaceUpsertDelete:
    async def test_an_upsert_creates_and_then_replaces_the_whole_item(self, container: ContainerProxy) -> None:
        await container.upsert_item(ITEM)
        await container.upsert_item({"id": "a", "user": "ana", "n": 6})
        item = await container.read_item("a", "ana")
        assert item["n"] == 6
        assert "text" not in item

    async def test_replacing_or_deleting_what_is_missing_is_404(self, container: ContainerProxy) -> None:
        with pytest.raises(CosmosResourceNotFoundError):
            await container.replace_item("a", ITEM)
        with pytest.raises(CosmosResourceNotFoundError):
            await container.delete_item("a", "ana")

    async def test_a_deleted_item_is_gone_and_its_id_free(self, container: ContainerProxy) -> None:
        await container.create_item(ITEM)
        await container.delete_item("a", "ana")
        with pytest.raises(CosmosResourceNotFoundError):
            await container.read_item("a", "ana")
        await container.create_item(ITEM)

    async def test_a_replace_may_not_change_the_id(self, container: ContainerProxy) -> None:
        await container.create_item(ITEM)
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.replace_item("a", {**ITEM, "id": "b"})
        assert caught.value.status_code == 400


class TestPatch:
    async def test_set_incr_add_and_remove_are_done_in_order(self, container: ContainerProxy) -> None:
        await container.create_item(ITEM)
        patched = await container.patch_item(
            "a",
            "ana",
            [
                {"op": "set", "path": "/m", "value": {"k": 1}},
                {"op": "set", "path": "/m/k", "value": 2},
                {"op": "incr", "path": "/n", "value": 4},
                {"op": "incr", "path": "/count", "value": 1},
                {"op": "add", "path": "/tags/-", "value": "z"},
                {"op": "add", "path": "/tags/0", "value": "w"},
                {"op": "remove", "path": "/tags/1"},
                {"op": "move", "from": "/text", "path": "/words"},
            ],
        )
        expected = {"m": {"k": 2}, "n": 5, "count": 1, "tags": ["w", "y", "z"], "words": "Hello"}
        assert {name: patched[name] for name in expected} == expected
        assert "text" not in patched
        assert await container.read_item("a", "ana") == patched

    async def test_a_patch_happens_only_where_its_filter_holds(self, container: ContainerProxy) -> None:
        await container.create_item(ITEM)
        plus_one = [{"op": "incr", "path": "/n", "value": 1}]
        holds = "FROM c WHERE c.text = 'Hello'"
        assert (await container.patch_item("a", "ana", plus_one, filter_predicate=holds))["n"] == 2
        with pytest.raises(CosmosAccessConditionFailedError):
            await container.patch_item("a", "ana", plus_one, filter_predicate="FROM c WHERE c.text = 'hello'")
        assert (await container.read_item("a", "ana"))["n"] == 2

    @pytest.mark.parametrize(
        "operations",
        [
            [{"op": "set", "path": f"/k{i}", "value": 1} for i in range(11)],
            [{"op": "set", "path": "/n", "value": 7}, {"op": "remove", "path": "/nothing"}],
            [{"op": "set", "path": "/n", "value": 7}, {"op": "incr", "path": "/text", "value": 1}],
            [{"op": "set", "path": "/deep/deeper", "value": 1}],
            [{"op": "set", "path": "/user", "value": "ben"}],
        ],
        ids=["more than ten", "nothing to remove", "not a number", "no parent", "partition key"],
    )
    async def test_a_patch_that_cannot_be_done_is_400_and_changes_nothing(
        self, container: ContainerProxy, operations: list[dict[str, Any]]
    ) -> None:
        created = await container.create_item(ITEM)
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.patch_item("a", "ana", operations)
        assert caught.value.status_code == 400
        assert await container.read_item("a", "ana") == created

    async def test_patching_what_is_missing_is_404(self, container: ContainerProxy) -> None:
        with pytest.raises(CosmosResourceNotFoundError):
            await container.patch_item("zz", "ana", [{"op": "set", "path": "/n", "value": 1}])

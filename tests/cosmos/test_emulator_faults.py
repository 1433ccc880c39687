"""What tests make the Cosmos DB server do: fail, hang up, hang, die; and how the SDK takes it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from azure.core.exceptions import ServiceRequestError, ServiceResponseTimeoutError
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceNotFoundError

from tests.cosmos.conftest import USER, Ask
from tests.cosmos.launcher import KEY, CosmosServer
from tests.support.background import until

ITEM = {"id": "a", "user": "ana", "n": 0}
PLUS_ONE = [{"op": "incr", "path": "/n", "value": 1}]
THROTTLED = {"status": 429, "substatus": 3200, "retry_after_ms": 20}


@pytest.fixture
async def stored(container: ContainerProxy, cosmos_server: CosmosServer) -> ContainerProxy:
    """The container with one item in it, and no call on record yet."""
    await container.create_item(ITEM)
    cosmos_server.calls()
    return container


def done(server: CosmosServer) -> list[tuple[str, int]]:
    return [(call["op"], call["status"]) for call in server.calls()]


class TestFaults:
    async def test_a_throttled_request_is_sent_again(self, stored: ContainerProxy, cosmos_server: CosmosServer) -> None:
        cosmos_server.fails({"op": "read", "times": 1, **THROTTLED})
        assert (await stored.read_item("a", "ana"))["n"] == 0
        assert done(cosmos_server) == [("read", 429), ("read", 200)]

    async def test_one_that_stays_throttled_fails(self, stored: ContainerProxy, cosmos_server: CosmosServer) -> None:
        cosmos_server.fails({"op": "batch", **THROTTLED})
        with pytest.raises(CosmosHttpResponseError) as caught:
            await stored.execute_item_batch([("delete", ("a",))], partition_key="ana")
        assert (caught.value.status_code, caught.value.sub_status) == (429, 3200)
        assert (await stored.read_item("a", "ana"))["n"] == 0
        assert done(cosmos_server) == [("batch", 429), ("batch", 429), ("read", 200)]

    @pytest.mark.parametrize("status", [500, 503, 408])
    async def test_an_error_of_the_server_is_tried_once_more_even_by_a_client_without_retries(
        self, stored: ContainerProxy, cosmos_server: CosmosServer, status: int
    ) -> None:
        cosmos_server.fails({"op": "read", "status": status, "times": 1})
        await stored.read_item("a", "ana")
        assert done(cosmos_server) == [("read", status), ("read", 200)]

    async def test_an_answer_lost_after_the_write_is_an_error_and_the_write_is_there_once(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        cosmos_server.fails({"op": "patch", "drop": "after", "times": 1})
        with pytest.raises(ServiceRequestError):
            await stored.patch_item("a", "ana", PLUS_ONE)
        assert (await stored.read_item("a", "ana"))["n"] == 1

    async def test_a_connection_lost_before_the_write_leaves_nothing(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        cosmos_server.fails({"op": "patch", "drop": "before", "times": 1})
        with pytest.raises(ServiceRequestError):
            await stored.patch_item("a", "ana", PLUS_ONE)
        assert (await stored.read_item("a", "ana"))["n"] == 0

    async def test_the_sdk_by_default_does_a_write_twice_whose_answer_is_lost(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        async with CosmosClient(cosmos_server.url, KEY) as client:
            container = client.get_database_client("memory").get_container_client("items")
            cosmos_server.fails({"op": "patch", "drop": "after", "times": 1})
            assert (await container.patch_item("a", "ana", PLUS_ONE))["n"] == 2

    async def test_a_late_answer_times_out_and_the_write_is_there(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        cosmos_server.fails({"op": "upsert", "delay_ms": 400, "times": 1})
        with pytest.raises(ServiceResponseTimeoutError):
            await stored.upsert_item({**ITEM, "n": 5}, read_timeout=0.1)

        async def is_there() -> bool:
            return bool((await stored.read_item("a", "ana"))["n"] == 5)

        await until(is_there)

    async def test_a_call_that_is_given_up_leaves_the_client_usable(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        cosmos_server.fails({"op": "read", "delay_ms": 500, "times": 1})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stored.read_item("a", "ana")
        assert (await stored.read_item("a", "ana"))["n"] == 0
        answered = done(cosmos_server)
        async with asyncio.timeout(5):
            while len(answered) < 2:  # it goes on in the server
                await asyncio.sleep(0.02)
                answered += done(cosmos_server)

    async def test_a_fault_can_be_kept_for_a_later_call_of_a_container(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        cosmos_server.fails({"op": "read", "path": "/colls/items/", "skip": 1, "times": 1, "status": 400})
        await stored.read_item("a", "ana")
        with pytest.raises(CosmosHttpResponseError, match="injected"):
            await stored.read_item("a", "ana")
        await stored.read_item("a", "ana")

    async def test_a_paused_server_answers_when_it_goes_on(
        self, stored: ContainerProxy, cosmos_server: CosmosServer
    ) -> None:
        with cosmos_server.paused():
            reading = asyncio.create_task(stored.read_item("a", "ana"))
            await asyncio.sleep(0.2)
            assert not reading.done()
        assert (await reading)["n"] == 0


async def test_the_record_of_calls_says_what_was_asked_and_what_it_cost(
    stored: ContainerProxy, cosmos_server: CosmosServer, ask: Ask
) -> None:
    await stored.read_item("a", "ana")
    await ask(stored, "SELECT * FROM c", partition_key="ana")
    with pytest.raises(CosmosResourceNotFoundError):
        await stored.read_item("zz", "ana")
    await stored.execute_item_batch([("read", ("a",)), ("delete", ("a",))], partition_key="ana")
    calls = [call for call in cosmos_server.calls() if not call["op"].startswith("GET")]
    assert [(call["op"], call["status"], call.get("rows"), call["key"]) for call in calls] == [
        ("read", 200, 1, '["ana"]'),
        ("query", 200, 1, '["ana"]'),
        ("read", 404, None, '["ana"]'),
        ("batch", 200, 2, '["ana"]'),
    ]
    assert calls[0]["ru"] == 1
    assert calls[3]["ru"] == 6
    assert cosmos_server.calls() == []


class TestProcess:
    async def test_what_was_answered_is_there_after_kill_9(self, tmp_path: Path, ask: Ask) -> None:
        with CosmosServer(tmp_path, journal=True) as server:
            async with CosmosClient(server.url, KEY) as client:
                database = await client.create_database("memory")
                for name in ("items", "dropped"):
                    await database.create_container(name, USER)
                await database.delete_container("dropped")
                container = database.get_container_client("items")
                kept = [await container.create_item({"id": name, "user": "ana"}) for name in "abc"]
                await container.delete_item("b", "ana")
                batch = [("create", ({"id": name, "user": "ana"},)) for name in "de"]
                await container.execute_item_batch(batch, partition_key="ana")
            server.kill()
            server.start()
            async with CosmosClient(server.url, KEY) as client:
                database = client.get_database_client("memory")
                assert [found["id"] async for found in database.list_containers()] == ["items"]
                container = database.get_container_client("items")
                items = await ask(container, "SELECT * FROM c", partition_key="ana")
                assert [item["id"] for item in items] == list("acde")
                assert items[:2] == [kept[0], kept[2]]
                feed = container.query_items_change_feed(partition_key="ana", start_time="Beginning")
                assert [item["_lsn"] async for item in feed] == [1, 3, 5, 5]
                created = await container.create_item({"id": "b", "user": "ana"})
                assert created["_rid"] > max(item["_rid"] for item in items)

    async def test_a_line_of_the_journal_torn_by_a_kill_costs_nothing_else(self, tmp_path: Path, ask: Ask) -> None:
        with CosmosServer(tmp_path, journal=True) as server:
            async with CosmosClient(server.url, KEY) as client:
                database = await client.create_database("memory")
                container = await database.create_container("items", USER)
                for name in "abc":
                    await container.create_item({"id": name, "user": "ana"})
                    server.kill()
                    with (tmp_path / "cosmos.jsonl").open("a") as journal:
                        journal.write('{"kind":"documents","torn')
                    server.start()
                assert await ask(container, "SELECT VALUE c.id FROM c", partition_key="ana") == list("abc")

    def test_the_server_ends_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        code = (
            "import os, pathlib, sys; from tests.cosmos.launcher import CosmosServer; "
            "server = CosmosServer(pathlib.Path(sys.argv[1])); server.start(); "
            "print(server.process.pid, flush=True); os.kill(os.getpid(), 9)"
        )
        root = Path(__file__).parents[2]
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, check=False)
        deadline = time.monotonic() + 10
        while _runs(int(run.stdout)):
            assert time.monotonic() < deadline, "the server outlived its test process"
            time.sleep(0.02)


def _runs(pid: int) -> bool:
    asked = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and not asked.stdout.startswith("Z")

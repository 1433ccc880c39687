"""Queries of the Cosmos DB server, through the SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, DatabaseProxy
from azure.cosmos.exceptions import CosmosHttpResponseError

from tests.cosmos.conftest import USER, Ask

ANA = {"partition_key": "ana"}


async def is_refused(ask: Ask, container: ContainerProxy, sql: str, **options: Any) -> None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await ask(container, sql, **options)
    assert caught.value.status_code == 400


class TestPartitions:
    async def test_a_query_of_one_partition_sees_no_other(self, numbers: ContainerProxy, ask: Ask) -> None:
        rows = await ask(numbers, "SELECT * FROM c", **ANA)
        assert {row["user"] for row in rows} == {"ana"}
        assert len(rows) == 25

    async def test_not_even_if_it_names_another(self, numbers: ContainerProxy, ask: Ask) -> None:
        assert await ask(numbers, "SELECT * FROM c WHERE c.user = 'ben'", **ANA) == []
        assert await ask(numbers, "SELECT * FROM c WHERE c.n >= 24 OR true", partition_key="nobody") == []

    async def test_a_query_without_a_partition_sees_all(self, numbers: ContainerProxy, ask: Ask) -> None:
        assert await ask(numbers, "SELECT VALUE COUNT(1) FROM c") == [28]
        newest = await ask(numbers, "SELECT TOP 3 VALUE c.n FROM c ORDER BY c.n DESC")
        assert newest == [1002, 1001, 1000]


@pytest.mark.parametrize(
    ("sql", "values", "expected"),
    [
        ("SELECT VALUE c.n FROM c WHERE c.n >= @n", {"@n": 23}, [23, 24]),
        ("SELECT VALUE c.id FROM c WHERE c.user = @u AND c.n < @n", {"@u": "ana", "@n": 2}, ["q00", "q01"]),
        ("SELECT VALUE c.n FROM c ORDER BY c.n DESC OFFSET 0 LIMIT 2", {}, [24, 23]),
        ("SELECT TOP 3 VALUE c.n FROM c ORDER BY c.n", {}, [0, 1, 2]),
        ("SELECT TOP @t c.n FROM c ORDER BY c.n", {"@t": 1}, [{"n": 0}]),
        ("SELECT VALUE c.n FROM c ORDER BY c.n OFFSET @o LIMIT @l", {"@o": 5, "@l": 2}, [5, 6]),
        ("SELECT VALUE COUNT(1) FROM c WHERE c.k = 0", {}, [9]),
        ("SELECT SUM(c.n) AS s, AVG(c.n) AS a, MIN(c.n) AS l, MAX(c.n) AS h FROM c", {}, [
            {"s": 300, "a": 12, "l": 0, "h": 24}
        ]),
        ("SELECT c.k, COUNT(1) AS many FROM c GROUP BY c.k", {}, [
            {"k": 0, "many": 9}, {"k": 1, "many": 8}, {"k": 2, "many": 8}
        ]),
        ("SELECT DISTINCT VALUE c.k FROM c", {}, [0, 1, 2]),
        ("SELECT VALUE COUNT(1) FROM c WHERE ARRAY_CONTAINS(c.tags, @t)", {"@t": "even"}, [13]),
        ("SELECT VALUE c.id FROM c WHERE ARRAY_CONTAINS(@l, c.id)", {"@l": ["q01", "q02"]}, ["q01", "q02"]),
        ("SELECT VALUE c.id FROM c WHERE c.id IN ('q01', 'q02')", {}, ["q01", "q02"]),
        ("SELECT VALUE c.n FROM c WHERE c.n BETWEEN 3 AND 5 AND NOT IS_DEFINED(c.zz)", {}, [3, 4, 5]),
        ("SELECT VALUE c.n FROM c WHERE c.s LIKE '%ox 7'", {}, [7]),
        ("SELECT VALUE c.n FROM c WHERE c.n > 20 AND c.s NOT LIKE @p", {"@p": "%2_"}, []),
        ("SELECT VALUE c.n FROM c WHERE CONTAINS(c.s, 'FOX 17', true)", {}, [17]),
        ("SELECT VALUE c.n FROM c WHERE CONTAINS(c.s, 'FOX 17')", {}, []),
        ("SELECT c.n, t AS tag FROM c JOIN t IN c.tags WHERE t = 'odd' AND c.n < 3", {}, [{"n": 1, "tag": "odd"}]),
        ("SELECT VALUE c.n FROM c WHERE c.n < 4 AND EXISTS(SELECT VALUE t FROM t IN c.tags WHERE t='odd')", {}, [1, 3]),
        ("SELECT VALUE COUNT(1) FROM c WHERE c._ts * 1000 <= GetCurrentTimestamp()", {}, [25]),
        ("SELECT VALUE REPLACE(c.id, '0', '-') FROM c WHERE c.n = 0", {}, ["q--"]),
        ("SELECT VALUE c.s FROM c WHERE c.s = 'ORDER BY x OFFSET (' OR c.n = 1", {}, ["Fox 1"]),
    ],
)  # fmt: skip
async def test_a_query_answers(
    numbers: ContainerProxy, ask: Ask, sql: str, values: dict[str, Any], expected: list[Any]
) -> None:
    assert await ask(numbers, sql, values, **ANA) == expected


@pytest.mark.parametrize("sql", ["SELEC * FROM c", "SELECT * FROM c WHERE", "SELECT VALUE NOSUCHFUNCTION(c.n) FROM c"])
async def test_what_is_no_query_is_400(numbers: ContainerProxy, ask: Ask, sql: str) -> None:
    await is_refused(ask, numbers, sql, **ANA)


async def test_what_changed_since_a_time_is_found_in_all_partitions_whatever_is_indexed(
    database: DatabaseProxy, ask: Ask
) -> None:
    policy = {"includedPaths": [{"path": "/user/?"}], "excludedPaths": [{"path": "/*"}]}
    container = await database.create_container("c", USER, indexing_policy=policy)
    for user in ("ana", "ben"):
        await container.create_item({"id": "a", "user": user, "n": 1})
    then = (await container.read_item("a", "ben"))["_ts"] + 1
    sql = "SELECT c.user, c._ts, c._etag FROM c WHERE c._ts >= @then"
    assert await ask(container, sql, {"@then": then}) == []
    await asyncio.sleep(1.1)
    await container.patch_item("a", "ana", [{"op": "incr", "path": "/n", "value": 1}])
    held = await container.read_item("a", "ana")
    assert held["_ts"] >= then
    assert await ask(container, sql, {"@then": then}) == [{name: held[name] for name in ("user", "_ts", "_etag")}]


class TestOrderNeedsAnIndex:
    async def test_of_two_properties_a_composite_one(self, numbers: ContainerProxy, ask: Ask) -> None:
        await is_refused(ask, numbers, "SELECT * FROM c ORDER BY c.k ASC, c.n DESC", **ANA)

    async def test_a_composite_index_serves_its_order_and_the_opposite(self, database: DatabaseProxy, ask: Ask) -> None:
        index = [{"path": "/k", "order": "ascending"}, {"path": "/n", "order": "descending"}]
        container = await database.create_container("c", USER, indexing_policy={"compositeIndexes": [index]})
        for n in range(4):
            await container.create_item({"id": str(n), "user": "ana", "k": n % 2, "n": n})
        sql = "SELECT VALUE c.n FROM c ORDER BY c.k {}, c.n {}"
        assert await ask(container, sql.format("ASC", "DESC"), **ANA) == [2, 0, 3, 1]
        assert await ask(container, sql.format("DESC", "ASC"), **ANA) == [1, 3, 0, 2]
        await is_refused(ask, container, sql.format("ASC", "ASC"), **ANA)
        await is_refused(ask, container, "SELECT VALUE c.n FROM c ORDER BY c.n DESC, c.k ASC", **ANA)

    async def test_an_excluded_path_is_not_ordered_by(self, database: DatabaseProxy, ask: Ask) -> None:
        policy = {"includedPaths": [{"path": "/at/?"}, {"path": "/deep/*"}], "excludedPaths": [{"path": "/*"}]}
        container = await database.create_container("c", USER, indexing_policy=policy)
        await container.create_item({"id": "a", "user": "ana", "at": 1, "deep": {"n": 1}, "text": "x"})
        for path in ("c.at", "c.deep.n", "c._ts", "c.id"):
            assert await ask(container, f"SELECT VALUE c.id FROM c ORDER BY {path}", **ANA) == ["a"]
        for path in ("c.text", "c.at.deeper", "c.user"):
            await is_refused(ask, container, f"SELECT * FROM c ORDER BY {path}", **ANA)
        assert await ask(container, "SELECT VALUE c.id FROM c WHERE c.text = 'x'", **ANA) == ["a"]

    async def test_items_without_the_property_are_there_if_the_policy_names_it(
        self, database: DatabaseProxy, ask: Ask
    ) -> None:
        named = {"includedPaths": [{"path": "/*"}, {"path": "/at/?"}], "excludedPaths": []}
        for name, policy, expected in (("named", named, ["none", "a"]), ("default", None, ["a"])):
            container = await database.create_container(name, USER, indexing_policy=policy)
            await container.create_item({"id": "a", "user": "ana", "at": 1})
            await container.create_item({"id": "none", "user": "ana"})
            assert await ask(container, "SELECT VALUE c.id FROM c ORDER BY c.at", **ANA) == expected


class TestPages:
    @pytest.mark.parametrize("order", ["", " ORDER BY c.n", " ORDER BY c.n OFFSET 0 LIMIT 100"])
    async def test_a_continuation_goes_on_in_another_query(self, numbers: ContainerProxy, order: str) -> None:
        found: list[list[int]] = []
        token: str | None = None
        while token or not found:
            query = numbers.query_items(f"SELECT VALUE c.n FROM c{order}", partition_key="ana", max_item_count=10)
            pages = query.by_page(token)
            found.append([n async for n in await anext(pages)])
            token = pages.continuation_token
        assert [len(page) for page in found] == [10, 10, 5]
        assert [n for page in found for n in page] == list(range(25))

    async def test_what_is_written_meanwhile_moves_no_page(self, numbers: ContainerProxy) -> None:
        query = numbers.query_items("SELECT VALUE c.n FROM c ORDER BY c.n", partition_key="ana", max_item_count=10)
        pages = query.by_page()
        first = [n async for n in await anext(pages)]
        await numbers.create_item({"id": "new", "user": "ana", "n": -1})
        await numbers.delete_item("q05", "ana")
        assert first + [n async for page in pages async for n in page] == list(range(25))


async def test_a_hierarchical_key_is_asked_for_whole_or_by_its_beginning(database: DatabaseProxy, ask: Ask) -> None:
    key = PartitionKey(["/tenant", "/user", "/session"], kind="MultiHash")
    container = await database.create_container("deep", key)
    for number, (user, session) in enumerate([("u", "s"), ("u", "s2"), ("u2", "s")]):
        await container.create_item({"id": "1", "tenant": "t", "user": user, "session": session, "n": number})
    assert (await container.read_item("1", ["t", "u", "s2"]))["n"] == 1
    assert await ask(container, "SELECT VALUE c.n FROM c", partition_key=["t", "u", "s"]) == [0]
    assert await ask(container, "SELECT VALUE c.n FROM c", partition_key=["t", "u"]) == [0, 1]
    assert await ask(container, "SELECT VALUE c.n FROM c", partition_key=["t"]) == [0, 1, 2]
    batch = [("create", ({"id": "2", "tenant": "t", "user": "u", "session": "s"},))]
    answers = await container.execute_item_batch(batch, partition_key=["t", "u", "s"])
    assert answers[0]["statusCode"] == 201

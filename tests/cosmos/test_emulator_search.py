"""Search by vector and by words in the Cosmos DB server, through the SDK."""

from __future__ import annotations

from typing import Any

import pytest
from azure.cosmos.aio import ContainerProxy, DatabaseProxy
from azure.cosmos.exceptions import CosmosHttpResponseError

from tests.cosmos.conftest import USER, Ask

ANA = {"partition_key": "ana"}
NEAR = {"@v": [1.0, 0.0, 0.0]}
TEXTS: dict[str, Any] = {"defaultLanguage": "en-US", "fullTextPaths": [{"path": "/text", "language": "en-US"}]}
INDEXES: dict[str, Any] = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": "/*"}],
    "excludedPaths": [{"path": "/e/*"}],
    "vectorIndexes": [{"path": "/e", "type": "quantizedFlat"}],
    "fullTextIndexes": [{"path": "/text"}],
}
ITEMS = [
    ("1", [1, 0, 0], "the red bicycle is fast"),
    ("2", [0.9, 0.1, 0], "a blue bicycle and a red car"),
    ("3", [0, 1, 0], "the mountain lake"),
    ("4", [0, 0, 1], "gluten free bread recipes"),
]


def vectors(function: str = "cosine") -> dict[str, Any]:
    made = {"path": "/e", "dataType": "float32", "distanceFunction": function, "dimensions": 3}
    return {"vectorEmbeddings": [made]}


async def searchable(database: DatabaseProxy, function: str = "cosine") -> ContainerProxy:
    container = await database.create_container(
        "search", USER, indexing_policy=INDEXES, vector_embedding_policy=vectors(function), full_text_policy=TEXTS
    )
    for name, vector, text in ITEMS:
        await container.create_item({"id": name, "user": "ana", "e": vector, "text": text})
    await container.create_item({"id": "9", "user": "ben", "e": [1, 0, 0], "text": "red bicycle of another user"})
    return container


async def test_the_container_says_its_policies(database: DatabaseProxy) -> None:
    properties = await (await searchable(database)).read()
    assert properties["vectorEmbeddingPolicy"] == vectors()
    assert properties["fullTextPolicy"] == TEXTS
    assert properties["indexingPolicy"]["vectorIndexes"] == INDEXES["vectorIndexes"]


class TestVectors:
    async def test_a_distance_can_be_selected(self, database: DatabaseProxy, ask: Ask) -> None:
        sql = "SELECT c.id, VectorDistance(c.e, @v) AS score FROM c"
        scores = {row["id"]: row["score"] for row in await ask(await searchable(database), sql, NEAR, **ANA)}
        assert scores == pytest.approx({"1": 1, "2": 0.9939, "3": 0, "4": 0}, abs=1e-4)

    @pytest.mark.parametrize("function", ["cosine", "dotproduct", "euclidean"])
    async def test_the_nearest_come_first_and_only_of_the_partition(
        self, database: DatabaseProxy, ask: Ask, function: str
    ) -> None:
        container = await searchable(database, function)
        sql = "SELECT TOP 2 c.id, VectorDistance(c.e, @v) AS s FROM c ORDER BY VectorDistance(c.e, @v)"
        assert [row["id"] for row in await ask(container, sql, NEAR, **ANA)] == ["1", "2"]

    async def test_an_item_without_a_vector_is_not_found(self, database: DatabaseProxy, ask: Ask) -> None:
        container = await searchable(database)
        await container.create_item({"id": "5", "user": "ana", "text": "no vector"})
        sql = "SELECT TOP 10 VALUE c.id FROM c WHERE c.id != '3' ORDER BY VectorDistance(c.e, @v)"
        assert await ask(container, sql, NEAR, **ANA) == ["1", "2", "4"]


class TestWords:
    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            ("FullTextContains(c.text, 'Bicycles')", ["1", "2"]),
            ("FullTextContains(c.text, 'red car')", ["2"]),
            ("FullTextContains(c.text, 'icycle')", []),
            ("FullTextContainsAll(c.text, 'red', 'bicycle') AND FullTextContainsAny(c.text, 'car', 'bus')", ["2"]),
        ],
    )
    async def test_words_and_phrases_are_found(
        self, database: DatabaseProxy, ask: Ask, condition: str, expected: list[str]
    ) -> None:
        container = await searchable(database)
        assert await ask(container, f"SELECT VALUE c.id FROM c WHERE {condition}", **ANA) == expected

    async def test_the_best_text_comes_first(self, database: DatabaseProxy, ask: Ask) -> None:
        sql = "SELECT TOP 2 VALUE c.id FROM c ORDER BY RANK FullTextScore(c.text, 'red', 'car')"
        assert await ask(await searchable(database), sql, **ANA) == ["2", "1"]

    @pytest.mark.parametrize(("weights", "first"), [("", "1"), (", [1, 5]", "2"), (", @w", "2")])
    async def test_both_searches_are_fused_by_weight(
        self, database: DatabaseProxy, ask: Ask, weights: str, first: str
    ) -> None:
        fused = f"RRF(VectorDistance(c.e, @v), FullTextScore(c.text, 'red', 'car'){weights})"
        sql = f"SELECT TOP 2 VALUE c.id FROM c ORDER BY RANK {fused}"
        found = await ask(await searchable(database), sql, {**NEAR, "@w": [1, 5]}, **ANA)
        assert (found[0], sorted(found)) == (first, ["1", "2"])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT VectorDistance(c.e, [1, 0, 0]) FROM c",
        "SELECT TOP 1 * FROM c ORDER BY VectorDistance(c.e, [1, 0, 0])",
        "SELECT * FROM c WHERE FullTextContains(c.text, 'x')",
        "SELECT TOP 1 * FROM c ORDER BY RANK FullTextScore(c.text, 'x')",
        "SELECT TOP 1 * FROM c ORDER BY RANK RRF(VectorDistance(c.e, [1, 0, 0]), FullTextScore(c.text, 'x'))",
    ],
)
async def test_without_the_policies_a_search_is_400(container: ContainerProxy, ask: Ask, sql: str) -> None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await ask(container, sql, **ANA)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM c ORDER BY VectorDistance(c.e, [1, 0, 0])",
        "SELECT TOP 1 * FROM c ORDER BY VectorDistance(c.e, [1, 0, 0]) DESC",
        "SELECT FullTextScore(c.text, 'x') FROM c",
        "SELECT * FROM c WHERE FullTextContains(c.user, 'x')",
        "SELECT TOP 1 * FROM c ORDER BY RANK VectorDistance(c.e, [1, 0, 0])",
    ],
    ids=["no limit", "direction", "selected score", "path without policy", "rank of a distance"],
)
async def test_a_search_that_the_language_does_not_allow_is_400(database: DatabaseProxy, ask: Ask, sql: str) -> None:
    container = await searchable(database)
    with pytest.raises(CosmosHttpResponseError) as caught:
        await ask(container, sql, **ANA)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    "index", [{"vectorIndexes": [{"path": "/e", "type": "flat"}]}, {"fullTextIndexes": [{"path": "/t"}]}]
)
async def test_an_index_without_its_policy_makes_no_container(database: DatabaseProxy, index: dict[str, Any]) -> None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await database.create_container("c", USER, indexing_policy=index)
    assert caught.value.status_code == 400

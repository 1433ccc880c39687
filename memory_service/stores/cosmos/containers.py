"""The three containers: what each holds, what of it is indexed, and how they come to be."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from azure.cosmos import PartitionKey
from azure.cosmos.aio import DatabaseProxy
from azure.cosmos.exceptions import CosmosResourceExistsError

from memory_service.errors import UnsafeStart
from memory_service.settings import Settings
from memory_service.stores.cosmos.documents import Document
from memory_service.values import Value

OWNER = "/owner"
EVERY_ITEM_ITS_OWN = -1
"""Time to live of a container: none, but for items that say how long they live."""

# What has no vector in a space, oldest first: both kinds of containers are asked for that.
DUE_VECTORS = [{"path": "/space", "order": "ascending"}, {"path": "/written", "order": "ascending"}]
NEWEST_FIRST = [{"path": "/created", "order": "descending"}, {"path": "/name", "order": "ascending"}]


class Names(Value, frozen=True, kw_only=True):
    """Names of the containers.

    `interactions`: heads, turns, sittings, names of requests, receipts: all that one commit must write together.
    `summaries`: memories whose id says that they are summaries or chunks. `insights`: all other memories.
    """

    interactions: str
    summaries: str
    insights: str

    @classmethod
    def of(cls, settings: Settings) -> Names:
        return cls(
            interactions=settings.cosmos_interactions_container,
            summaries=settings.cosmos_summaries_container,
            insights=settings.cosmos_insights_container,
        )

    @property
    def of_memories(self) -> tuple[str, str]:
        return self.summaries, self.insights

    @property
    def all(self) -> tuple[str, str, str]:
        return self.interactions, self.summaries, self.insights

    def of_memory(self, memory_id: str) -> str:
        """By its id, not its kind: one that is written again as another kind must take the place of the former."""
        return self.summaries if memory_id.startswith(("summary_", "chunk_")) else self.insights

    def of_item(self, item_id: str) -> str:
        return self.interactions if "#" in item_id else self.of_memory(item_id)


def _indexing(*paths: str, orders: list[list[dict[str, str]]]) -> Document:
    """Only what is queried: each path more makes each write dearer."""
    return {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": f"/{path}/?"} for path in ("owner", *paths)],
        "excludedPaths": [{"path": "/*"}, {"path": '/"_etag"/?'}],
        "compositeIndexes": orders,
    }


INTERACTIONS = _indexing(
    *("type", "session", "seq", "first", "status", "touched", "unreflected"),
    *("tenant", "reflection", "due", "lease", "space", "written"),
    orders=[DUE_VECTORS],
)
MEMORIES = _indexing(
    *("type", "kind", "created", "name", "current", "space", "written"), orders=[DUE_VECTORS, NEWEST_FIRST]
)


async def create_missing(database: DatabaseProxy, names: Names) -> None:
    """Make the containers that are not there. Raises UnsafeStart if one is there that is not ours."""
    if len(set(names.all)) < len(names.all):
        raise UnsafeStart("COSMOS_INTERACTIONS_CONTAINER, _SUMMARIES_ and _INSIGHTS_ must name three containers")
    for name in names.all:
        policy = INTERACTIONS if name == names.interactions else MEMORIES
        container = database.get_container_client(name)
        with suppress(CosmosResourceExistsError):  # another process that starts may be first
            await database.create_container_if_not_exists(
                name, PartitionKey(OWNER), indexing_policy=policy, default_ttl=EVERY_ITEM_ITS_OWN
            )
        held: dict[str, Any] = await container.read()
        if held["partitionKey"]["paths"] != [OWNER]:
            raise UnsafeStart(f"the Cosmos DB container {name!r} is not of this service: it is not parted by {OWNER}")

"""The three containers: what each holds, what of it is indexed, and how they come to be."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, DatabaseProxy
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceExistsError

from memory_service.errors import UnsafeStart
from memory_service.settings import SearchedBy, Settings
from memory_service.stores.cosmos.documents import Document
from memory_service.stores.indexing import DIMENSIONS
from memory_service.values import Value

logger = logging.getLogger(__name__)

PAGE = "docs/how-to/azure-cosmos.md"
FORBIDDEN = 403
MOVING = (3, 1008)
"""Substatus of 403 where another region takes the writes, or soon will."""
OWNER = "/owner"
LARGE_KEYS = 2
"""Version of a partition key that holds 2 KB; before, it was 101 bytes, and an owner may be longer."""
EVERY_ITEM_ITS_OWN = -1
"""Time to live of a container: none, but for items that say how long they live."""

# What has no vector in a space, oldest first: both kinds of containers are asked for that.
DUE_VECTORS = [{"path": "/space", "order": "ascending"}, {"path": "/written", "order": "ascending"}]
NEWEST_FIRST = [{"path": "/created", "order": "descending"}, {"path": "/name", "order": "ascending"}]


NAME = re.compile(r"[^/\\?#\x00-\x1f]{0,254}[^/\\?#\s]")
"""Of a database or a container, as Cosmos DB has it."""


def require_names(settings: Settings) -> None:
    """Raises UnsafeStart for a name that nothing can have."""
    for setting in ("database_name", "interactions_container", "summaries_container", "insights_container"):
        if not NAME.fullmatch(getattr(settings, f"cosmos_{setting}")):
            raise UnsafeStart(
                f"COSMOS_{setting.upper()} must be 1 to 255 characters, none of / \\ ? #, with no space at the end"
            )


class Names(Value, frozen=True, kw_only=True):
    """Names of the containers.

    `interactions`: heads, turns, sittings, names of requests, receipts: all that one commit must write together. And
    mirrors, which drivers are followed, and API keys.
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
    *("type", "kind", "created", "name", "current", "space", "written", "session", "rough"),
    orders=[DUE_VECTORS, NEWEST_FIRST],
)
SCANNED = ("/session/?", "/rough/?")
"""Paths in containers of memories that one may lack: the gateway's questions are then dearer, and no others."""


# What the account searches by. Numbers of other models are made to fit, so this never has to change.
DIRECTION = {"path": "/direction", "dataType": "float32", "distanceFunction": "cosine", "dimensions": DIMENSIONS}
WORDS = {"path": "/words", "language": "en-US"}
SEARCH: dict[str, Any] = {
    "vector_embedding_policy": {"vectorEmbeddings": [DIRECTION]},
    "full_text_policy": {"defaultLanguage": "en-US", "fullTextPaths": [WORDS]},
}


def searched(policy: Document) -> Document:
    return {
        **policy,
        "includedPaths": [*policy["includedPaths"], {"path": "/extract/?"}],
        "excludedPaths": [*policy["excludedPaths"], {"path": "/direction/*"}],
        "vectorIndexes": [{"path": "/direction", "type": "quantizedFlat"}],
        "fullTextIndexes": [{"path": "/words"}],
    }


BAD_REQUEST = 400
LACKING = "vector and full-text indexes"


async def create_missing(database: DatabaseProxy, names: Names, search: SearchedBy) -> list[str]:
    """Make the containers that are not there, with indexes to search by if that is wanted and the account has them.

    Returns the names of those without. Raises UnsafeStart if one is there that is not ours, or should have such
    indexes and would not get them.
    """
    if len(set(names.all)) < len(names.all):
        raise UnsafeStart("COSMOS_INTERACTIONS_CONTAINER, _SUMMARIES_ and _INSIGHTS_ must name three containers")
    without = []
    for name in names.all:
        policy = INTERACTIONS if name == names.interactions else MEMORIES
        if search == "process" or not await _made(database, name, indexing_policy=searched(policy), **SEARCH):
            if search == "store":
                raise UnsafeStart(f"STORE_SEARCH=store: the account makes no container {name!r} with {LACKING}")
            await _made(database, name, indexing_policy=policy)
        container = database.get_container_client(name)
        held: dict[str, Any] = await container.read()
        _require_fit(name, held, policy)
        await _require_writable(name, container)
        if not _is_searched(held):
            without.append(name)
    return without


def _require_fit(name: str, held: dict[str, Any], policy: Document) -> None:
    """Raises UnsafeStart for a container that others made and that will not do."""
    if held["partitionKey"]["paths"] != [OWNER]:
        raise UnsafeStart(f"the Cosmos DB container {name!r} is not of this service: it is not parted by {OWNER}")
    if unfit := _unfit(held, policy):
        raise UnsafeStart(f"the Cosmos DB container {name!r} {unfit}: {PAGE} has how it must be made")
    if held.get("defaultTtl") is None:
        logger.warning("names of requests stay for ever: the container has no time to live", extra={"container": name})


async def _require_writable(name: str, container: ContainerProxy) -> None:
    """Raises UnsafeStart if we may not write. What is deleted to find that out is not there."""
    try:
        await container.delete_item("nothing", "nobody")
    except CosmosHttpResponseError as exc:  # anything but a refusal says nothing about that
        if exc.status_code == FORBIDDEN and exc.sub_status not in MOVING:
            raise UnsafeStart(
                f"nothing may be written to the Cosmos DB container {name!r} (status 403, {exc.sub_status or 0}): "
                "it needs the role 'Cosmos DB Built-in Data Contributor', or a key that is not read-only"
            ) from exc


async def _made(database: DatabaseProxy, name: str, **policies: Any) -> bool:
    """Make a container if it is not there; returns False if the account has not what its indexes need."""
    try:
        with creating(f"the container {name!r}"):
            key = PartitionKey(OWNER)
            await database.create_container_if_not_exists(name, key, default_ttl=EVERY_ITEM_ITS_OWN, **policies)
    except CosmosHttpResponseError as exc:
        if exc.status_code != BAD_REQUEST or not policies.keys() & SEARCH.keys():
            raise
        return False
    return True


def _is_searched(held: Document) -> bool:
    indexing = held["indexingPolicy"]
    embeddings = (held.get("vectorEmbeddingPolicy") or {}).get("vectorEmbeddings") or []
    texts = (held.get("fullTextPolicy") or {}).get("fullTextPaths") or []
    return (
        any(DIRECTION.items() <= embedding.items() for embedding in embeddings)
        and DIRECTION["path"] in [index["path"] for index in indexing.get("vectorIndexes") or []]
        and WORDS["path"] in [text["path"] for text in texts]
        and WORDS["path"] in [index["path"] for index in indexing.get("fullTextIndexes") or []]
    )


@contextmanager
def creating(what: str) -> Iterator[None]:
    """Who starts together with us may be first. Raises UnsafeStart if we may not create anything."""
    try:
        yield
    except CosmosResourceExistsError:
        pass
    except CosmosHttpResponseError as exc:
        if exc.status_code != FORBIDDEN:
            raise
        raise UnsafeStart(
            f"Cosmos DB: {what} could not be read or made (status 403, {exc.sub_status or 0}). With Entra ID it must "
            f"be there before, as {PAGE} has it, and the identity needs the role 'Cosmos DB Built-in Data Contributor'"
        ) from exc


def _unfit(held: dict[str, Any], policy: Document) -> str:
    """What a container that others made would not do for us; nothing if it will do."""
    if (held["partitionKey"].get("version") or 1) < LARGE_KEYS:
        return "has a partition key of version 1, which is too short for some users (it must be 2)"
    if (held.get("defaultTtl") or EVERY_ITEM_ITS_OWN) > 0:
        return "lets what it holds expire (its time to live must be -1)"
    indexing = held.get("indexingPolicy") or {}
    included = {path["path"] for path in indexing.get("includedPaths") or []}
    missing = [path["path"] for path in policy["includedPaths"] if path["path"] not in included]
    missing = [path for path in missing if policy is INTERACTIONS or path not in SCANNED]
    if missing and "/*" not in included:
        return f"has no index of {', '.join(missing)}"
    orders = indexing.get("compositeIndexes") or []
    if any(order not in orders for order in policy["compositeIndexes"]):
        return "lacks a composite index"
    return ""

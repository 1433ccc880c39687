"""A database of the Cosmos DB server, looked at around the store: through a client of another kind."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

from azure.cosmos import CosmosClient, PartitionKey
from msgspec.structs import replace

from memory_service.settings import Settings
from memory_service.stores.cosmos.documents import sitting_columns, sitting_of
from tests.cosmos.launcher import KEY, CosmosServer

CONTAINERS = ("interactions", "session_summaries", "insights")


def settings_for(server: CosmosServer, **changes: Any) -> Settings:
    return Settings(_env_file=None, **{"cosmos_endpoint": server.url, "cosmos_key": KEY, **changes})


def container(server: CosmosServer, name: str) -> dict[str, Any]:
    """How a container was made."""
    with CosmosClient(server.url, KEY) as client:
        return dict(client.get_database_client("agent_memory").get_container_client(name).read())


def documents(server: CosmosServer, container: str) -> list[dict[str, Any]]:
    """All that a container holds, in the order of ids."""
    with CosmosClient(server.url, KEY) as client:
        items = client.get_database_client("agent_memory").get_container_client(container)
        found = list(items.query_items("SELECT * FROM c", enable_cross_partition_query=True))
    return sorted(found, key=lambda document: (document["owner"], document["id"]))


def everything(server: CosmosServer) -> Any:
    return {container: documents(server, container) for container in CONTAINERS}


def create_database(
    server: CosmosServer, containers: dict[str, tuple[dict[str, Any], int]], **search: dict[str, Any]
) -> None:
    """Make a database as an operator might: containers with their policy and time to live, and to search by."""
    with CosmosClient(server.url, KEY) as client:
        database = client.create_database("agent_memory")
        for name, (policy, lives) in containers.items():
            key = PartitionKey("/owner")
            database.create_container(name, key, indexing_policy=policy, default_ttl=lives, **search)


def copy_database(
    server: CosmosServer, before: str, after: str, changed: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Make another database of the documents that one holds now."""
    with CosmosClient(server.url, KEY) as client:
        copy = client.create_database(after)
        for name in CONTAINERS:
            held = client.get_database_client(before).get_container_client(name)
            made = held.read()
            policy, lives = made["indexingPolicy"], made["defaultTtl"]
            into = copy.create_container(name, PartitionKey("/owner"), indexing_policy=policy, default_ttl=lives)
            for document in held.read_all_items():
                ours = {field: value for field, value in document.items() if not field.startswith("_")}
                into.create_item(changed(ours), no_response=True)


def without_lease(document: dict[str, Any]) -> dict[str, Any]:
    """As if it had ended: that of a process that is gone does, while here no time goes by."""
    if document["type"] != "sitting" or not document["lease"]:
        return document
    sitting = replace(sitting_of(document), lease_until=None)
    return {**document, **sitting_columns(sitting)}


def end_leases(server: CosmosServer) -> None:
    with CosmosClient(server.url, KEY) as client:
        items = client.get_database_client("agent_memory").get_container_client("interactions")
        for document in documents(server, "interactions"):
            items.replace_item(document["id"], without_lease(document))


def contents(server: CosmosServer) -> list[str]:
    """What was said, message by message in the order of writing."""
    turns = [document for document in documents(server, "interactions") if document["type"] == "turn"]
    turns.sort(key=lambda turn: turn["written"])
    return [message["content"] for turn in turns for message in json.loads(_told(turn["body"]))["messages"]]


def _told(body: str) -> str | bytes:
    return zlib.decompress(base64.b64decode(body[5:])) if body.startswith("zlib:") else body

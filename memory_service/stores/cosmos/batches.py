"""Transactional batches: their operations, their limits, and sending them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import msgspec

from memory_service.errors import ContentTooLarge, MemoryServiceError
from memory_service.stores.cosmos.client import MOST_BYTES, Client, Refused
from memory_service.stores.cosmos.documents import Document

VERB = "commit"
MOST_OPERATIONS = 100
PART_BYTES = 900_000
"""Of what need not be written together: larger bodies hold up the loop while they are sent."""

Operation = tuple[Any, ...]


class TooManyDocuments(ContentTooLarge):
    """A commit of more than Cosmos DB writes together; whoever makes one must cut it. No verb of the service does."""

    def __init__(self, count: int) -> None:
        MemoryServiceError.__init__(self, f"{count} documents in one commit: the limit is {MOST_OPERATIONS}")


async def send(client: Client, container: str, operations: list[Operation], owner: str, verb: str = VERB) -> None:
    """Write all of it or nothing. Raises Refused with the index of the operation that was refused."""
    require_room(operations)
    # The SDK takes the conditions out of what it is given: sent once more as it is, a batch would have none.
    await client.call(verb, container, lambda items: items.execute_item_batch(deepcopy(operations), owner))


async def send_in_parts(client: Client, container: str, operations: list[Operation], owner: str) -> None:
    """Write what need not be written together. Raises Refused."""
    for part in in_parts(operations):
        await send(client, container, part, owner)


async def send_each(client: Client, container: str, operations: list[Operation], owner: str) -> None:
    """Write those of them that are not refused."""
    for part in in_parts(operations):
        while part:
            try:
                await send(client, container, part, owner)
            except Refused as refused:
                del part[refused.index]
            else:
                break


def require_room(operations: list[Operation]) -> None:
    """Raises ContentTooLarge if they are more than can be written together."""
    if len(operations) > MOST_OPERATIONS:
        raise TooManyDocuments(len(operations))
    if sum(map(_bytes, operations)) > MOST_BYTES:
        raise ContentTooLarge(MOST_BYTES)


def create(whole: Document) -> Operation:
    return "create", (whole,)


def replace(whole: Document, former: Document) -> Operation:
    """Write over what is as it was when `former` was read."""
    return "replace", (whole["id"], whole), {"if_match_etag": former["_etag"]}


def delete(former: Document) -> Operation:
    return "delete", (former["id"],), {"if_match_etag": former["_etag"]}


def versioned(version: int, whole: Document, columns: Document, condition: str = "true") -> Operation:
    """Write what has this version in place of the one before it, if that meets a condition."""
    if version == 1:
        return create(whole)
    return patch(whole["id"], columns, f"c.version = {version - 1} AND {condition}")


def patch(name: str, columns: Document, condition: str) -> Operation:
    changes = [{"op": "set", "path": f"/{column}", "value": value} for column, value in columns.items()]
    return "patch", (name, changes), {"filter_predicate": f"FROM c WHERE {condition}"}


def in_parts(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Cut what need not be written together into batches."""
    part: list[Operation] = []
    size = 0
    for operation in operations:
        more = _bytes(operation)
        if part and (len(part) == MOST_OPERATIONS or size + more > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(operation)
        size += more
    if part:
        yield part


def _bytes(operation: Operation) -> int:
    return len(msgspec.json.encode(operation)) + 100

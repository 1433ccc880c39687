"""What a copy is in the database, as JSON: one document for all that is written by one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np

from memory_service.projections.base import Copy, Floats
from memory_service.stores.indexing import words_of
from memory_service.text import Tokenizer

T = TypeVar("T")

PART = 400_000
"""Characters of a document, about: what is made of more, and sent, would hold up the event loop for long."""
DECIMALS = 7
"""Of a number of a unit vector: as many as it has as it is computed."""
COLUMNS = {
    "item_id": "text",
    "kind": "text",
    "is_extract": "boolean",
    "session_id": "text",
    "category": "text",
    "tags": "text[]",
    "role": "text",
    "name": "text",
    "content": "text",
    "metadata": "jsonb",
    "created_at": "timestamptz",
    "digest": "text",
    "words": "text",
    "space": "text",
    "embedding": "text",
}
"""By name, with how each is read out of the document."""


def parts(things: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Things in their order, in parts that are each one document."""
    part: list[T] = []
    total = 0
    for thing in things:
        total += size(thing)
        if part and total > PART:
            yield part
            part, total = [], size(thing)
        part.append(thing)
    if part:
        yield part


def size_of(copy: Copy) -> int:
    return len(copy.words) + size_of_vector(copy.vector)


def size_of_vector(vector: Floats | None) -> int:
    return 0 if vector is None else (DECIMALS + 3) * vector.size


def document_of_copies(copies: Iterable[Copy], tokenize: Tokenizer) -> str:
    return _encoded([_row(copy, tokenize) for copy in copies])


def document_of_vectors(vectors: Iterable[tuple[str, Floats]]) -> str:
    return _encoded([{"item_id": item_id, "embedding": numbers_of(vector)} for item_id, vector in vectors])


def numbers_of(vector: Floats | None) -> list[float] | None:
    """A vector of length 1, as pgvector reads it; None for one that points nowhere: there is no angle to another."""
    if vector is None:
        return None
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < np.inf:
        return None
    numbers: list[float] = np.round(vector.astype(np.float64) / length, DECIMALS).tolist()
    return numbers


def _row(copy: Copy, tokenize: Tokenizer) -> dict[str, Any]:
    item, embedding = copy.item, numbers_of(copy.vector)
    return {
        "item_id": item.id,
        "kind": item.kind,
        "is_extract": copy.is_extract,
        "session_id": item.session_id,
        "category": item.category,
        "tags": item.tags,
        "role": item.role,
        "name": item.name,
        "content": item.text,
        "metadata": item.metadata,
        "created_at": item.created_at,
        "digest": copy.digest,
        "words": words_of(tokenize(copy.words)),
        "space": copy.space if embedding else None,
        "embedding": embedding,
    }


def _encoded(rows: list[dict[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()

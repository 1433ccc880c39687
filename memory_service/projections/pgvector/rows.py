"""What a copy is in the database, as JSON: one document for all that is written at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from memory_service.projections.base import Copy, Floats
from memory_service.stores.indexing import words_of
from memory_service.text import Tokenizer

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


def document_of_copies(copies: Iterable[Copy], tokenize: Tokenizer) -> str:
    return _encoded([_row(copy, tokenize) for copy in copies])


def document_of_vectors(vectors: Mapping[str, Floats]) -> str:
    return _encoded([{"item_id": item_id, "embedding": numbers_of(vector)} for item_id, vector in vectors.items()])


def numbers_of(vector: Floats | None) -> list[float] | None:
    """As pgvector reads a vector; None for one that points nowhere, of which there is no angle to another."""
    if vector is None or not 0 < float(np.linalg.norm(vector)) < np.inf:
        return None
    numbers: list[float] = vector.tolist()
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

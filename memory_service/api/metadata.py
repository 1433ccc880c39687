"""What callers attach to a turn or a document: small, flatly keyed, the same in every store."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from memory_service.api.schemas import (
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_METADATA_KEYS,
    MAX_SAFE_INTEGER,
    METADATA_KEY,
)
from memory_service.errors import ValidationFailed

_KEY = re.compile(METADATA_KEY)


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise ValidationFailed unless it is small, flatly keyed and exact in every store."""
    if len(metadata) > MAX_METADATA_KEYS:
        raise ValidationFailed("$.metadata", f"more than {MAX_METADATA_KEYS} keys")
    if not all(_KEY.fullmatch(key) for key in metadata):
        raise ValidationFailed("$.metadata", "a key is not 1 to 64 characters of A-Z a-z 0-9 _ . -")
    _check_exact(metadata, MAX_METADATA_DEPTH)
    if len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        raise ValidationFailed("$.metadata", f"more than {MAX_METADATA_BYTES} bytes", "content_too_long")


def _check_exact(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValidationFailed("$.metadata", f"nested deeper than {MAX_METADATA_DEPTH}")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_exact(inner, depth - 1)
    elif isinstance(value, int) and abs(value) >= MAX_SAFE_INTEGER:
        raise ValidationFailed("$.metadata", "an integer beyond 2**53, which not every reader can hold")

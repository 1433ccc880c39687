"""What the body of a request may hold: each field is read by a rule of its own, and refused with 400."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

CONTENT_LIMIT = 2000
BATCH_LIMIT = 500
RELATION_TYPES = (
    "RELATES_TO",
    "LEADS_TO",
    "OCCURRED_BEFORE",
    "PREFERS_OVER",
    "EXEMPLIFIES",
    "CONTRADICTS",
    "REINFORCES",
    "INVALIDATED_BY",
    "EVOLVED_INTO",
    "DERIVED_FROM",
    "PART_OF",
)
# The real one has rules; what matters here is that a type comes back that nobody gave.
TYPES_BY_WORD = {
    "decided": ("Decision", 0.8),
    "pattern": ("Pattern", 0.8),
    "prefer": ("Preference", 0.8),
    "style": ("Style", 0.8),
    "always": ("Habit", 0.8),
    "learned": ("Insight", 0.8),
    "": ("Context", 0.3),
}
CONFIDENCE_OF_A_GIVEN_TYPE = 0.9


def refused(message: str, status: int = 400) -> HTTPException:
    return HTTPException(status, message)


async def body_of(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise refused("Request body must be JSON") from exc
    if not isinstance(body, dict):
        raise refused("Request body must be a JSON object")
    return body


def memory_id(value: Any) -> str:
    """The id in the form in which it is kept."""
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise refused("memory_id must be a valid UUID") from None


def time_of(value: Any) -> datetime:
    """ValueError if it is none; a time without a zone is UTC."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time in ISO format")  # noqa: TRY004 (one error for all that is no time)
    at = datetime.fromisoformat(value)
    return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)


def _content(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise refused("'content' is required")
    if len(value.strip()) > CONTENT_LIMIT:
        raise refused(f"Content exceeds the maximum of {CONTENT_LIMIT} characters")
    return value.strip()


def _tags(value: Any) -> list[str]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(tag, str) for tag in given):
        raise refused("'tags' must be a list of strings or a comma-separated string")
    return [tag.strip() for tag in given if tag.strip()]


def _share(name: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise refused(f"'{name}' must be a number between 0 and 1")
        return float(value)

    return read


def _metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refused("'metadata' must be an object")
    return value


def _type(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise refused("'type' must be a string")
    return value


def _time(name: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        try:
            return time_of(value).isoformat()
        except ValueError as exc:
            raise refused(f"Invalid {name}: {exc}") from exc

    return read


BATCH_FIELDS: dict[str, Callable[[Any], Any]] = {
    "content": _content,
    "tags": _tags,
    "importance": _share("importance"),
    "metadata": _metadata,
    "type": _type,
    "confidence": _share("confidence"),
    "timestamp": _time("timestamp"),
}
LATER_TIMES = ("t_valid", "t_invalid", "updated_at", "last_accessed")
FIELDS = BATCH_FIELDS | {name: _time(name) for name in LATER_TIMES}


def read(body: Any, rules: dict[str, Callable[[Any], Any]] = FIELDS) -> dict[str, Any]:
    """The fields that are given; null is like absent, and what is not known is passed over, `id` too."""
    if not isinstance(body, dict):
        raise refused("Each memory must be an object")
    return {name: rule(body[name]) for name, rule in rules.items() if body.get(name) is not None}


def new_memory(given: dict[str, Any], now: datetime) -> dict[str, Any]:
    """All fields of a new memory: those given, and what the server says of the others."""
    _content(given.get("content"))
    kind, confidence = given.get("type"), CONFIDENCE_OF_A_GIVEN_TYPE
    if kind is None:
        kind, confidence = next(found for word, found in TYPES_BY_WORD.items() if word in given["content"].lower())
    at = given.get("timestamp", now.isoformat())
    usual = {"tags": [], "importance": 0.5, "metadata": {}, "confidence": confidence}
    times = {"timestamp": at, "updated_at": at, "last_accessed": at}
    return usual | times | given | {"type": kind}


def embedding(value: Any, dimensions: int) -> list[float]:
    """Numbers as a list or as "1,2,..."; exactly as many as the server works with."""
    try:
        given: Iterable[Any] = value.split(",") if isinstance(value, str) else value
        numbers = [float(number) for number in given]
    except (TypeError, ValueError) as exc:
        raise refused("'embedding' must be a list of numbers") from exc
    if len(numbers) != dimensions:
        raise refused(f"'embedding' must have {dimensions} dimensions, not {len(numbers)}")
    return numbers


def association(body: dict[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    """From, to, type, and properties with the strength among them."""
    first, second = (memory_id(body.get(name)) for name in ("memory1_id", "memory2_id"))
    if first == second:
        raise refused("Cannot associate a memory with itself")
    kind = body.get("type", "RELATES_TO")
    if kind not in RELATION_TYPES:
        raise refused(f"Relation type must be one of: {', '.join(RELATION_TYPES)}")
    named = {"memory1_id", "memory2_id", "type", "strength"}
    properties = {name: value for name, value in body.items() if name not in named}
    return first, second, kind, {"strength": _share("strength")(body.get("strength", 0.5)), **properties}


def batch(body: dict[str, Any], name: str) -> list[Any]:
    items = body.get(name)
    if not isinstance(items, list) or not items:
        raise refused(f"'{name}' must be a non-empty array")
    if len(items) > BATCH_LIMIT:
        raise refused(f"'{name}' must hold at most {BATCH_LIMIT} items")
    return items

"""What every door takes and refuses, also from callers who are not held to JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from memory_service.errors import InvalidRequest, ValidationFailed
from memory_service.limits import (
    MAX_HITS,
    MAX_SAFE_INTEGER,
    MAX_TAGS,
    MAX_TEXT,
    check_id,
    check_limit,
    check_metadata,
    check_name,
    check_tags,
    check_text,
    check_user_id,
    space_id,
)

Check = Callable[[str, Any], Any]

TAKEN: list[tuple[Check, Any]] = [
    (check_id, "a.B_9:@-"),
    (check_id, "x" * 200),
    *((check_user_id, value) for value in ("a.B_9:@-", "x" * 200, "space", "spaces:a:b", "Space:a:b", "a@space:x")),
    *((check_user_id, f"space:{name}") for name in ("a.B_9-", ".", "x" * 100)),
    (check_name, "Ana María 日本"),
    (check_text, "line\nbreaks and 👩‍👩‍👧 are fine"),
    (check_text, "x" * MAX_TEXT),
    (check_limit, 1),
    (check_limit, MAX_HITS),
    (check_tags, []),
    (check_tags, ("a", "b c")),
    (check_metadata, {}),
    (check_metadata, {"a": [1, 1.5, "x", None, True, {"any key": []}], "b.c-d": -(MAX_SAFE_INTEGER - 1)}),
]
REFUSED: list[tuple[Check, Any]] = [
    *((check_id, value) for value in (None, "", 7, ".", "..", "a b", "a/b", "a\n", "ü", "x" * 201, "a#1.0", "~x")),
    *((check_user_id, value) for value in (None, "", 7, ".", "..", "a b", "a\n", "x" * 201, "~x")),
    *((check_user_id, f"space:{name}") for name in ("a:b", "a@b", "a\n", "space:a", "~x", "é", "x" * 101)),
    *((space_id, name) for name in (None, "", 7, "a:b", "a@b", "a b", "a\n", "x" * 101)),
    *((check_name, value) for value in (None, "", 7, "x" * 201, "a\nb", "a\n", "a\x00", "\ud800")),
    *((check_text, value) for value in (None, "", 7, b"x", "x" * (MAX_TEXT + 1), "a\x00b", "half \ud83d")),
    *((check_limit, value) for value in (None, 0, -1, MAX_HITS + 1, 1.0, "3", True)),
    *((check_tags, value) for value in ("food", None, {"a": 1}, [""], [7], ["a\n"], ["x"] * (MAX_TAGS + 1))),
    *((check_metadata, value) for value in (None, [], "x", {"": 1}, {1: 2}, {"a b": 1}, {"a": "x" * 5000})),
    (check_metadata, {str(number): 1 for number in range(33)}),
    (check_metadata, {"a": MAX_SAFE_INTEGER}),
    (check_metadata, {"a": float("nan")}),
    (check_metadata, {"a": [float("inf")]}),
    (check_metadata, {"a": datetime(2025, 1, 1, tzinfo=UTC)}),
    (check_metadata, {"a": {"b": {1: "x"}}}),
    (check_metadata, {"a": (1, 2)}),
    (check_metadata, {"a": {1, 2}}),
    (check_metadata, {"a": b"x"}),
    (check_metadata, {"a": ["\x00"]}),
    (check_metadata, {"a": {"\x00": 1}}),
    (check_metadata, {"a": "\ud800"}),
]


@pytest.mark.parametrize(("check", "value"), TAKEN, ids=lambda value: getattr(value, "__name__", ascii(value)[:30]))
def test_what_is_allowed_is_given_back_as_it_is(check: Check, value: Any) -> None:
    given = check("$.field", value)
    assert given is None or given == (tuple(value) if check is check_tags else value)


@pytest.mark.parametrize(("check", "value"), REFUSED, ids=lambda value: getattr(value, "__name__", ascii(value)[:30]))
def test_what_is_not_allowed_is_refused_with_its_place_and_without_its_words(check: Check, value: Any) -> None:
    with pytest.raises(ValidationFailed) as caught:
        check("$.field", value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, InvalidRequest)
    assert (caught.value.place, str(caught.value)[:9]) == ("$.field", "$.field: ")
    assert not (isinstance(value, str) and len(value) > 2 and value in str(caught.value))


def test_metadata_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(ValidationFailed, match="nested deeper"):
        check_metadata("metadata", endless)

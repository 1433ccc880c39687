"""What callers may send, the same through every door: ids, names, texts, metadata. Pure.

A check raises ValidationFailed with the place it was given, in words that hold nothing of what was sent.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from memory_service.errors import ValidationFailed
from memory_service.text import LONGEST_KEY

ID_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]{1,200}$(?!\n)"
"""Python's `$` also matches before a last line break."""
ID_MEANS = "1 to 200 characters of A-Z a-z 0-9 . _ : @ -"
SPACE = "space:"
"""What the ids of spaces begin with, and of no user."""
_NAME_OF_SPACE = "[A-Za-z0-9._-]{1,100}"
SPACE_NAME_PATTERN = rf"^{_NAME_OF_SPACE}$(?!\n)"
SPACE_NAME_MEANS = "1 to 100 characters of A-Z a-z 0-9 . _ -"
USER_ID_PATTERN = rf"^(?!\.{{1,2}}$)(?!{SPACE}(?!{_NAME_OF_SPACE}$))[A-Za-z0-9._:@-]{{1,200}}$(?!\n)"
"""Whose memory: a user's, or a space's."""
USER_ID_MEANS = f"{ID_MEANS}; after `{SPACE}`, which is for spaces, {SPACE_NAME_MEANS}"
MAX_NAME, NAME_PATTERN = 200, r"^[^\x00-\x1f\x7f\x85\u2028\u2029]*$(?!\n)"
MAX_TEXT, MAX_QUESTION, MAX_HITS, MAX_TAGS = 100_000, 2000, 100, 50
MAX_METADATA_KEYS, MAX_METADATA_BYTES, MAX_METADATA_DEPTH, MAX_SAFE_INTEGER = 32, 4096, 16, 2**53
MAX_DOCUMENT, MAX_CATEGORY, MAX_TITLE = LONGEST_KEY, 100, 500
MAX_PROFILE_BYTES, MAX_EPISODE = 16_384, 2000
DOC_ID_PATTERN = r"^(?!\.{1,2}$)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]{1,500}$(?!\n)"
"""Without U+FFFD: it stands for what could not be read, so that a path that is no UTF-8 names nothing."""
DOC_ID_MEANS = "1 to 500 characters, none of them a control character or U+FFFD; not . and not .."
FROM, UNTIL = datetime(1901, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Moments are from the one on, and before the other."""
METADATA_KEY = r"^[A-Za-z0-9_.-]{1,64}$(?!\n)"

_ID, _NAME, _KEY = re.compile(ID_PATTERN), re.compile(NAME_PATTERN), re.compile(METADATA_KEY)
_DOC_ID, _USER_ID, _SPACE_NAME = map(re.compile, (DOC_ID_PATTERN, USER_ID_PATTERN, SPACE_NAME_PATTERN))


def check_id(place: str, value: Any) -> str:
    if not isinstance(value, str) or not _ID.search(value):
        raise ValidationFailed(place, ID_MEANS, "invalid_id")
    return value


def check_user_id(place: str, value: Any) -> str:
    """Of a space too."""
    if not isinstance(value, str) or not _USER_ID.search(value):
        raise ValidationFailed(place, USER_ID_MEANS, "invalid_id")
    return value


def space_id(place: str, name: Any) -> str:
    """Return by which id the space of this name is named."""
    if not isinstance(name, str) or not _SPACE_NAME.search(name):
        raise ValidationFailed(place, f"a space is called by {SPACE_NAME_MEANS}", "invalid_id")
    return SPACE + name


def check_doc_id(place: str, value: Any) -> str:
    check_text(place, value)
    if not _DOC_ID.search(value):
        raise ValidationFailed(place, DOC_ID_MEANS, "invalid_id")
    return str(value)


def check_name(place: str, value: Any, most: int = MAX_NAME) -> str:
    """A name is one line."""
    check_text(place, value, most)
    if not _NAME.search(value):
        raise ValidationFailed(place, "holds a control character or a line break", "invalid_character")
    return str(value)


def check_text(place: str, value: Any, most: int = MAX_TEXT) -> str:
    if not isinstance(value, str) or not value:
        raise ValidationFailed(place, "must be a text, and not empty")
    if len(value) > most:
        raise ValidationFailed(place, f"longer than {most} characters", "content_too_long")
    _check_characters(place, value)
    return value


def check_moment(place: str, value: datetime) -> datetime:
    """Returns it in UTC."""
    if value.tzinfo is None or not FROM <= value < UNTIL:
        raise ValidationFailed(place, f"not between {FROM.year - 1} and {UNTIL.year}")
    return value.astimezone(UTC)


def check_limit(place: str, value: Any, most: int = MAX_HITS) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValidationFailed(place, f"must be a whole number from 1 to {most}")
    return value


def check_tags(place: str, value: Any) -> tuple[str, ...]:
    """Tags are names, in a list; a text by itself would be one tag a letter."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValidationFailed(place, "must be a list of tags")
    if len(value) > MAX_TAGS:
        raise ValidationFailed(place, f"more than {MAX_TAGS} tags")
    return tuple(check_name(place, tag) for tag in value)


def check_metadata(place: str, metadata: Any) -> None:
    """Raise ValidationFailed unless it is small, flatly keyed and exact in every store."""
    if not isinstance(metadata, dict):
        raise ValidationFailed(place, "must be a dictionary")
    if not metadata:
        return
    if len(metadata) > MAX_METADATA_KEYS:
        raise ValidationFailed(place, f"more than {MAX_METADATA_KEYS} keys")
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in metadata):
        raise ValidationFailed(place, "a key is not 1 to 64 characters of A-Z a-z 0-9 _ . -")
    check_size(place, metadata, MAX_METADATA_BYTES)
    check_exact(place, metadata)


def check_profile(place: str, document: dict[str, Any]) -> None:
    """Raise ValidationFailed unless it is small and exact in every store."""
    check_size(place, document, MAX_PROFILE_BYTES)
    check_exact(place, document)


def check_size(place: str, value: Any, most_bytes: int) -> None:
    """Raise ValidationFailed for what is longer as JSON. It comes first: to look at each of millions takes long.

    What is no JSON passes: `check_exact` says what it is.
    """
    try:
        length = len(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return
    if length > most_bytes:
        raise ValidationFailed(place, f"more than {most_bytes} bytes", "content_too_long")


def check_exact(place: str, value: Any, depth: int = MAX_METADATA_DEPTH) -> None:
    """Raise ValidationFailed for what JSON has not, or would give back as something else."""
    if depth == 0:
        raise ValidationFailed(place, f"nested deeper than {MAX_METADATA_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValidationFailed(place, "a key is not a text")
        value = [*value, *value.values()]
    if isinstance(value, list):
        for inner in value:
            check_exact(place, inner, depth - 1)
    elif isinstance(value, str):
        _check_characters(place, value)
    else:
        _check_number(place, value)


def _check_number(place: str, value: Any) -> None:
    if isinstance(value, int):
        if abs(value) >= MAX_SAFE_INTEGER:
            raise ValidationFailed(place, "an integer beyond 2**53, which not every reader can hold")
    elif value is not None and not (isinstance(value, float) and math.isfinite(value)):
        raise ValidationFailed(place, "may hold what JSON has alone: no dates, no sets, no NaN")


def check_no_nul(value: Any, place: str) -> None:
    """NUL cannot be stored everywhere, so it is stored nowhere."""
    if isinstance(value, str) and "\x00" in value:
        raise ValidationFailed(place, "holds a NUL character", "invalid_character")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_no_nul(key, place)
            check_no_nul(inner, f"{place}.{key}" if place == "$" else place)
    if isinstance(value, list | tuple):
        for inner in value:
            check_no_nul(inner, place)


def _check_characters(place: str, value: str) -> None:
    """NUL cannot be stored everywhere, so it is stored nowhere; half a character is in no UTF-8."""
    if "\x00" in value:
        raise ValidationFailed(place, "holds a NUL character", "invalid_character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValidationFailed(place, "holds half a character", "invalid_character") from None

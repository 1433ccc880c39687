"""Errors to problem details (RFC 9457): the one table of status codes, and the one place that writes them."""

from __future__ import annotations

import re

import msgspec

from memory_service import errors
from memory_service.api.schemas import Problem
from memory_service.limits import (
    DOC_ID_MEANS,
    DOC_ID_PATTERN,
    ID_MEANS,
    ID_PATTERN,
    NAME_PATTERN,
    SPACE_NAME_MEANS,
    SPACE_NAME_PATTERN,
    USER_ID_MEANS,
    USER_ID_PATTERN,
)

STATUS_CODES: dict[type[errors.MemoryServiceError], int] = {
    errors.MalformedRequest: 400,
    errors.MalformedJson: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.UnknownRoute: 404,
    errors.MethodNotAllowed: 405,
    errors.NotAcceptable: 406,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.ContentTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.RateLimited: 429,
    errors.HeadersTooLarge: 431,
    errors.InvalidRequest: 422,
    errors.StorageFull: 507,
    errors.Unavailable: 503,
    errors.ModelError: 503,
    errors.MemoryServiceError: 500,
}


def status_of(error: errors.MemoryServiceError) -> int:
    """The nearest class in the error's line of descent decides."""
    return next(STATUS_CODES[cls] for cls in type(error).__mro__ if cls in STATUS_CODES)


def problem_of(error: errors.MemoryServiceError, request_id: str) -> Problem:
    status = status_of(error)
    place = [{"loc": error.place, "msg": error.reason}] if isinstance(error, errors.ValidationFailed) else []
    detail = str(error) or error.title
    return Problem(
        type=f"/problems/{error.code}",
        title=error.title,
        status=status,
        code=error.code,
        detail=detail,
        request_id=request_id,
        error=detail,
        status_code=status,
        errors=place,
    )


def headers_of(error: errors.MemoryServiceError) -> list[tuple[bytes, bytes]]:
    if isinstance(error, errors.MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if isinstance(error, errors.Unauthenticated):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, errors.Unavailable | errors.RateLimited):
        return [(b"retry-after", str(error.retry_after_s).encode())]
    return []


_FORMS = {
    NAME_PATTERN: ("holds a control character or a line break", "invalid_character"),
    ID_PATTERN: (ID_MEANS, "invalid_id"),
    USER_ID_PATTERN: (USER_ID_MEANS, "invalid_id"),
    SPACE_NAME_PATTERN: (f"a space is called by {SPACE_NAME_MEANS}", "invalid_id"),
    DOC_ID_PATTERN: (DOC_ID_MEANS, "invalid_id"),
}
"""What is to be told of a text that is not in one of these forms."""
_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at (?:`key` in )?`(?P<place>[^`]*)`)?$", re.DOTALL)


def validation_failed(exc: msgspec.ValidationError) -> errors.ValidationFailed:
    """Tell where and why, in words that hold nothing of what was sent (msgspec names values and unknown fields)."""
    if str(exc).startswith("Object contains unknown field"):
        return errors.ValidationFailed("$", "an unknown field")  # its name, which may read like a place, is not ours
    found = _PLACE.match(str(exc))
    assert found is not None
    place, reason = found["place"] or "$", found["reason"]
    if reason.startswith("Invalid enum value"):
        return errors.ValidationFailed(place, "not one of the known values")
    if "matching regex" in reason:
        means = next((means for form, means in _FORMS.items() if repr(form) in reason), None)
        return errors.ValidationFailed(place, *(means or ("not in the form that it must have",)))
    if "of length <=" in reason:
        return errors.ValidationFailed(place, reason, "content_too_long")
    return errors.ValidationFailed(place, reason)


def all_errors(root: type[errors.MemoryServiceError] = errors.MemoryServiceError) -> dict[str, str]:
    """All codes with their titles, for whoever follows the `type` of a problem."""
    found = {root.code: root.title}
    for cls in root.__subclasses__():
        found |= all_errors(cls)
    return found | {
        "invalid_id": "An id is not valid",
        "content_too_long": "A text is too long",
        "profile_invalid": "The profile does not fit the schema of its tenant",
        "invalid_character": "A text holds a character that it may not",
    }

"""From JSON to a model: within what the record can keep, and saying where it is wrong without repeating it."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from memory_service.errors import MalformedJson, ValidationFailed
from memory_service.limits import check_no_nul

Model = TypeVar("Model", bound=BaseModel)

REPEATING = {
    "union_tag_invalid": "not one of the known values",
    "value_error": "Either session_id or user_id is needed",
}
"""By kind of error, what is said in place of words that would repeat what was sent."""


def read(kind: type[Model], raw: bytes) -> Model:
    """Raises ValidationFailed, MalformedJson."""
    try:
        msgspec.json.decode(raw)  # which refuses what is in no other JSON: NaN, 1e999, half a character
        model = kind.model_validate_json(raw, strict=True)
    except ValidationError as exc:
        raise _failed(exc) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedJson(f"not valid JSON ({type(exc).__name__})") from None
    if b"\\u0000" in raw:
        check_no_nul(model.model_dump(), "$")
    return model


def as_sent(request: Model) -> Model:
    """A request from within the process, as if it had come over HTTP: held to the same, and nobody else's to change."""
    try:
        raw = msgspec.json.encode(request.model_dump())
    except (UnicodeEncodeError, TypeError, RecursionError):
        raise ValidationFailed("$", "holds what JSON has not") from None
    return read(type(request), raw)


def _failed(exc: ValidationError) -> ValidationFailed | MalformedJson:
    error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    if error["type"] == "json_invalid":
        return MalformedJson("not valid JSON: nested too deep")
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
    code = "content_too_long" if error["type"] == "string_too_long" else "validation_failed"
    return ValidationFailed("$" + "".join(steps), REPEATING.get(error["type"], error["msg"]), code)

"""What a message may hold beside plain text: texts, images and JSON, in the form that chat models take. Pure.

What can be read of it is kept beside it, for searching, contexts and reflection. Of an image that is that there was
one: its data is in no prompt, vector or index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from memory_service.errors import ValidationFailed
from memory_service.limits import MAX_TEXT, check_exact, check_size
from memory_service.values import Message

MAX_PARTS, MAX_PARTS_BYTES = 100, 1_000_000
"""Of one message: how many parts, and their size as JSON, images given as data too."""
LONGEST_JSON = 2000
"""Characters that are read of JSON."""
IMAGE = "[image]"

URL_PATTERN = r"^(https?://[!-~]{1,2040}|data:image/[A-Za-z0-9.+-]{1,50};base64,[A-Za-z0-9+/]+={0,2})$(?!\n)"


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, extra_json_schema={"pattern": r"^[^\u0000]*$"})]


class ImageUrl(Struct, forbid_unknown_fields=True, omit_defaults=True):
    url: Annotated[str, Meta(pattern=URL_PATTERN, description="https://..., or data:image/...;base64,...")]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    image_url: ImageUrl


class JsonPart(Struct, tag_field="type", tag="json", forbid_unknown_fields=True):
    json: dict[str, Any] | list[Any]


Part = TextPart | ImagePart | JsonPart


def check_parts(place: str, parts: Sequence[Part]) -> None:
    """Raise ValidationFailed unless all of it can be kept everywhere, and told again as it came."""
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ValidationFailed(place, f"from 1 to {MAX_PARTS} parts")
    check_size(place, parts, MAX_PARTS_BYTES)  # a larger image is to be named by its URL
    for number, part in enumerate(parts):
        if isinstance(part, JsonPart):
            check_exact(f"{place}[{number}].json", part.json)
    if len(readable(parts)) > MAX_TEXT:
        raise ValidationFailed(place, f"longer than {MAX_TEXT} characters", "content_too_long")


def readable(parts: Iterable[Part]) -> str:
    """What can be read of it; never empty."""
    return "\n".join(map(_read, parts))


def _read(part: Part) -> str:
    match part:
        case TextPart():
            return part.text
        case ImagePart():
            return IMAGE
        case JsonPart():
            return msgspec.json.encode(part.json).decode()[:LONGEST_JSON]


def kept_of(parts: Sequence[Part]) -> dict[str, Any]:
    """Parts as a message keeps them."""
    return {"content": msgspec.to_builtins(parts)}


def parts_in(kept: dict[str, Any]) -> list[Part]:
    """What `kept_of` made of parts. Raises ValidationError of msgspec for anything else."""
    if kept.keys() != {"content"}:
        raise msgspec.ValidationError("parts have a content")
    return msgspec.convert(kept["content"], list[Part])


def content_of(message: Message) -> str | list[dict[str, Any]]:
    """What a message held as it is told: its text, or its parts, those that came through the gateway too."""
    if message.parts is None:
        return message.content
    content = message.parts.get("content") or []
    if message.said_at is None:
        return list(content)
    images = [_of_gateway(part) for part in content if part["type"] == "image"]
    return [{"type": "text", "text": message.content}, *images] if images else message.content


def _of_gateway(image: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{image['mimeType']};base64,{image['data']}"}}

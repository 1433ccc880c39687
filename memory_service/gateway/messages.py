"""A message of the gateway as the record keeps it, and back: the same message comes out that went in.

What can be read of it is kept beside it, for searching, contexts and reflection. Of images and sounds that is that
there was one: their data is in no prompt, vector or index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from memory_service.errors import ValidationFailed
from memory_service.gateway.models import (
    AudioContent,
    Content,
    ImageContent,
    JsonContent,
    Message,
    TextContent,
    ToolCall,
)
from memory_service.limits import MAX_TEXT
from memory_service.values import Message as Kept
from memory_service.values import Role

LONGEST_JSON = 2000
"""Characters that are read of what is no text: arguments, JSON, results of tools."""
NOTHING = "[nothing]"


def kept_of(message: Message, place: str) -> tuple[Kept, ...]:
    """What is kept of a message: what its role says, and what tools answered. Raises ValidationFailed."""
    said = "\n".join([*_read(message.content or ()), *map(_call, message.tool_calls)])
    results = "\n".join(line for result in message.tool_results for line in _read(result.content))
    for text in (said, results):
        if len(text) > MAX_TEXT:
            raise ValidationFailed(place, f"longer than {MAX_TEXT} characters", "content_too_long")
    said_at = message.timestamp if "timestamp" in message.model_fields_set else None
    roles: tuple[tuple[Role, str], ...] = ((message.role, said), ("tool", results))
    read = [Kept(role=role, content=text) for role, text in roles if text]
    first, *rest = read or [Kept(role=message.role, content=NOTHING)]
    parts = None if _is_plain(message) else message.model_dump(exclude={"timestamp"})
    return msgspec.structs.replace(first, said_at=said_at, parts=parts), *rest


def message_of(kept: Sequence[Kept]) -> Message:
    first = kept[0]
    if first.parts is not None:
        return Message.model_validate({**first.parts, "timestamp": first.said_at})
    text = {"type": "text", "text": first.content}
    return Message.model_validate({"role": first.role, "content": [text], "timestamp": first.said_at})


def _is_plain(message: Message) -> bool:
    """Whether it is a text and nothing else, so that the text alone gives it back."""
    content, tools = message.content or [], [*message.tool_calls, *message.tool_results]
    return not tools and len(content) == 1 and isinstance(content[0], TextContent) and bool(content[0].text)


def _read(content: Iterable[Content]) -> Iterable[str]:
    for part in content:
        match part:
            case TextContent():
                if part.text:
                    yield part.text
            case JsonContent():
                yield _json(part.content)
            case ImageContent() | AudioContent():
                yield f"[{part.type}]"


def _call(call: ToolCall) -> str:
    return f"[calls {call.name} {_json(call.arguments)}]"


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()[:LONGEST_JSON]

"""What was said, as a chat model takes it: a system prompt, the last messages, the one to be answered. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from memory_service.messages import Said
from memory_service.parts import content_of

ChatMessage = dict[str, Any]
"""`role`, `content` (a text, or a list of text and image parts), and a `name` where models take one."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def chat_history(system: str, said: Iterable[Said], current: Any) -> list[ChatMessage]:
    """Put a conversation together; an empty `system` and an empty `current` are left out. Images stay what they are.

    What a tool said is told as the user's: models take a tool's message only behind the call it answers.
    """
    history = [{"role": "system", "content": system}] if system else []
    history += map(_message, said)
    return [*history, {"role": "user", "content": _content(current)}] if current else history


def _message(said: Said) -> ChatMessage:
    message, content = said.message, _content(content_of(said.message))
    if message.role == "tool":
        told = f"Result of the tool {message.name}:" if message.name else "Result of a tool:"
        content = f"{told}\n{content}" if isinstance(content, str) else [{"type": "text", "text": told}, *content]
        return {"role": "user", "content": content}
    named = {"name": message.name} if message.name and _NAME.fullmatch(message.name) else {}
    return {"role": message.role, **named, "content": content}


def _content(content: Any) -> Any:
    """JSON is told as a text: of it models know no part."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": msgspec.json.encode(part["json"]).decode()} if part["type"] == "json" else part
        for part in content
    ]

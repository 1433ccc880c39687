"""The models of the memory gateway, as agents import them: what is asked and what is answered.

Unknown fields are ignored. Raises pydantic's ValidationError, which is a ValueError.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import time
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, Field, WithJsonSchema, model_validator

from memory_service.limits import (
    ID_MEANS,
    ID_PATTERN,
    MAX_HITS,
    MAX_NAME,
    MAX_QUESTION,
    MAX_TEXT,
    USER_ID_MEANS,
    USER_ID_PATTERN,
)

Id = Annotated[str, WithJsonSchema({"type": "string", "pattern": ID_PATTERN, "description": ID_MEANS})]
UserId = Annotated[str, WithJsonSchema({"type": "string", "pattern": USER_ID_PATTERN, "description": USER_ID_MEANS})]


def _or_none(pattern: str, means: str) -> WithJsonSchema:
    either = [{"type": "string", "pattern": f"^$|{pattern}"}, {"type": "null"}]
    return WithJsonSchema({"anyOf": either, "description": f"{means}; an empty one is none"})


OptionalId = Annotated[str | None, _or_none(ID_PATTERN, ID_MEANS)]
OptionalUserId = Annotated[str | None, _or_none(USER_ID_PATTERN, USER_ID_MEANS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
NO_NUL = {"pattern": r"^[^\u0000]*$"}
Text = Annotated[str, Field(json_schema_extra=NO_NUL)]
Agent = Annotated[str, Field(max_length=MAX_NAME, json_schema_extra=NO_NUL)]
DEFAULT_LIMIT = 2


class _Model(BaseModel, defer_build=True):
    """Checks are made when the first is read: not everybody has a gateway."""


def _typed(schema: dict[str, Any]) -> None:
    schema.setdefault("required", []).insert(0, "type")


class ToolCall(_Model):
    name: Text
    arguments: dict[str, Any]
    id: Text | None = None


class TextContent(_Model, json_schema_extra=_typed):
    type: Literal["text"] = "text"
    text: Text


class ImageContent(_Model, json_schema_extra=_typed):
    """`data` is base64."""

    type: Literal["image"] = "image"
    data: Text
    mimeType: Text


class AudioContent(_Model, json_schema_extra=_typed):
    """`data` is base64."""

    type: Literal["audio"] = "audio"
    data: Text
    mimeType: Text


class JsonContent(_Model, json_schema_extra=_typed):
    type: Literal["json"] = "json"
    content: dict[str, Any]


Content = Annotated[TextContent | ImageContent | AudioContent | JsonContent, Field(discriminator="type")]


class ToolResult(_Model):
    id: Text | None = None
    content: list[Content]
    isError: bool = False


class Message(_Model):
    """One message. `text="hi"` may be given in place of `content`; `timestamp` is in seconds since 1970."""

    role: Literal["user", "assistant"]
    content: list[Content] | None = None
    tool_calls: list[ToolCall] = []
    tool_results: list[ToolResult] = []
    timestamp: Number = Field(default_factory=time)

    @model_validator(mode="before")
    @classmethod
    def _text_as_content(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("text") is not None and "content" not in given:
            return {**given, "content": [{"type": "text", "text": given["text"]}]}
        return given

    @property
    def text(self) -> str | None:
        """The text parts, with spaces between; None if there are none."""
        parts = [part.text for part in self.content or () if isinstance(part, TextContent)]
        return " ".join(parts) if parts else None


class SessionContext(_Model):
    """A conversation. Without a `user_id` it is nobody's in particular."""

    session_id: Id = Field(default_factory=lambda: str(uuid4()))
    user_id: OptionalUserId = None
    agent_id: Agent | None = None
    messages: list[Message] = []
    system_prompt: Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra=NO_NUL)] | None = None
    session_metadata: dict[str, Any] | None = None

    def add_message(self, message: Message) -> None:
        self.messages.append(message)


class Memory(_Model):
    """`content` is what it says. `embedding` is of the space `embedding_model`, or null as long as there is none."""

    memory_id: str = Field(default_factory=lambda: str(uuid4()))
    session_id: str
    user_id: str
    agent_id: str
    content: str
    embedding_model: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    embedding: list[float] | None = None
    similarity: float = -1.0


def _of_somebody(schema: dict[str, Any]) -> None:
    named = {"type": "string", "minLength": 1}
    schema["anyOf"] = [{"required": [name], "properties": {name: named}} for name in ("session_id", "user_id")]


class _Filter(_Model, json_schema_extra=_of_somebody):
    """What is given must all be so; an empty text is none. One of the two ids must be given."""

    user_id: OptionalUserId = None
    session_id: OptionalId = None

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not self.session_id and not self.user_id:
            raise ValueError("Either session_id or user_id must be provided")
        return self


class GetSessionContextRequest(_Filter):
    pass


class GetSessionContextResponse(_Model):
    results: list[SessionContext]


class UpsertSessionContextRequest(_Model):
    session_context: SessionContext


class UpsertSessionContextResponse(_Model):
    session_context: SessionContext


class GetMemoriesRequest(_Filter):
    """`embedding` and `query` ask for the nearest, best first; without either, the newest come first."""

    agent_id: Agent | None = None
    embedding: list[Number] | None = None
    query: Annotated[str, Field(max_length=MAX_QUESTION, json_schema_extra=NO_NUL)] | None = None
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_HITS)


class GetMemoriesResponse(_Model):
    memories: list[Memory]


class CreateMemoryRequest(_Model):
    session_id: Id
    user_id: UserId
    agent_id: Agent
    session_context: SessionContext


class CreateMemoryResponse(_Model):
    memory: Memory


class HealthResponse(_Model):
    status: Literal["healthy"] = "healthy"

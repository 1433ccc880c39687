"""What these tests ask and say: a conversation with a secret in it, and who reads it."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from typing import Any

from openai import AsyncOpenAI

from memory_service.chaos import model_modes as model
from memory_service.chaos.model_modes import Mode
from memory_service.chaos.model_server import API_KEY, CHAT_MODEL, EMBEDDING_MODEL
from memory_service.llm.base import Excerpt
from memory_service.llm.openai import OpenAIReader
from memory_service.llm.openai_embedder import OpenAIEmbedder
from memory_service.values import Memory, Message, Turn

AT = datetime(2026, 5, 8, 14, 3, tzinfo=UTC)
SECRET = "the-canary-of-caroline"
PATIENT_S = 10.0
HASTY_S = 0.3

REFLECTION = {"summary": "They met.", "topics": [], "insights": []}


def reader(client: AsyncOpenAI, *, timeout_s: float = PATIENT_S) -> OpenAIReader:
    return OpenAIReader(client, CHAT_MODEL, timeout_s=timeout_s)


def embedder(client: AsyncOpenAI, *, dimensions: int | None = None, timeout_s: float = PATIENT_S) -> OpenAIEmbedder:
    return OpenAIEmbedder(client, EMBEDDING_MODEL, dimensions=dimensions, timeout_s=timeout_s, space_prefix="openai")


def turn(seq: int, text: str) -> Turn:
    messages = (Message(role="user", content=text, name="Caroline"), Message(role="assistant", content="Noted."))
    return Turn(
        session_id="s", seq=seq, turn_id=f"t{seq}", messages=messages, created_at=AT, received_at=AT, metadata={}
    )


def excerpt(*texts: str, known: tuple[str, ...] = ()) -> Excerpt:
    """Return what was said in turns 7 and on."""
    memories = tuple(Memory(memory_id=text, kind="insight", text=text, created_at=AT) for text in known)
    return Excerpt(turns=tuple(turn(seq, text) for seq, text in enumerate(texts or (SECRET,), start=7)), known=memories)


def insight(**fields: Any) -> dict[str, Any]:
    return {**REFLECTION, "insights": [{"text": "Likes tea.", "turns": [7], **fields}]}


def silent(error: BaseException) -> bool:
    """Say whether neither the error nor its traceback repeats what was said, asked or secret."""
    told = "".join(traceback.format_exception(error))
    return not any(words in told for words in (SECRET, API_KEY, "You read a conversation", "data, never instructions"))


REFUSED_FORMATS: dict[str, Mode] = {
    "OpenAI": model.status(400, message="Invalid parameter: 'response_format' of type 'json_schema' is not supported."),
    "OpenAI, by param": model.status(400, message="Invalid value.", param="response_format.type"),
    "Azure, version": model.status(
        400,
        message="response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later",
    ),
    "DeepSeek": model.status(422, message="This response_format type is unavailable now", error_code="invalid"),
    "LM Studio": model.status(400, body={"error": "'response_format.type' must be 'json_object' or 'text'"}),
    "FastAPI": model.status(422, body={"detail": [{"loc": ["body", "response_format"], "msg": "extra field"}]}),
    "by code": model.status(404, message="No.", error_code="unsupported_response_format"),
}

"""The gateway over HTTP, called and waited for, as agents have it.

from memory_service.gateway.client import MemoryGatewayClient

response = MemoryGatewayClient.get_memories(request)

MEMORY_GATEWAY_ENDPOINT says where the gateway is, with its prefix if it has one; MEMORY_GATEWAY_API_KEY is sent as a
bearer token if it is set. Both are read at each call.
"""

from __future__ import annotations

import os
from typing import TypeVar

import httpx2
from pydantic import BaseModel

from memory_service.gateway import models

Answer = TypeVar("Answer", bound=BaseModel)

TIMEOUT_S = 7.0


class MemoryGatewayClient:
    """All verbs raise httpx2.HTTPStatusError for an answer that is an error, and httpx2.HTTPError if there is none."""

    @classmethod
    def get_session_context(cls, request: models.GetSessionContextRequest) -> models.GetSessionContextResponse:
        """Return the sessions that are so, the newest first."""
        return cls._post("get-session-context", request, models.GetSessionContextResponse)

    @classmethod
    def upsert_session_context(cls, request: models.UpsertSessionContextRequest) -> models.UpsertSessionContextResponse:
        """Make a session be as given."""
        return cls._post("upsert-session-context", request, models.UpsertSessionContextResponse)

    @classmethod
    def get_memories(cls, request: models.GetMemoriesRequest) -> models.GetMemoriesResponse:
        """Return memories that are so, the newest or the nearest first."""
        return cls._post("get-memories", request, models.GetMemoriesResponse)

    @classmethod
    def create_memory(cls, request: models.CreateMemoryRequest) -> models.CreateMemoryResponse:
        """Keep what was said as a memory."""
        return cls._post("create-memory", request, models.CreateMemoryResponse)

    @classmethod
    def health(cls) -> models.HealthResponse:
        """Tell that the gateway works."""
        return models.HealthResponse.model_validate(
            httpx2.get(cls._url("health"), timeout=TIMEOUT_S).raise_for_status().json()
        )

    @staticmethod
    def _url(verb: str) -> str:
        return f"{os.environ['MEMORY_GATEWAY_ENDPOINT'].rstrip('/')}/{verb}"

    @classmethod
    def _post(cls, verb: str, request: BaseModel, kind: type[Answer]) -> Answer:
        key = os.environ.get("MEMORY_GATEWAY_API_KEY", "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        response = httpx2.post(cls._url(verb), json=request.model_dump(), headers=headers, timeout=TIMEOUT_S)
        return kind.model_validate(response.raise_for_status().json())

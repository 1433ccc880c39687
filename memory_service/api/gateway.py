"""The routes of the memory gateway: bare, and under the two prefixes by which it was reached behind a proxy."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace
from pydantic import BaseModel

from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.gateway import models
from memory_service.service import MemoryService

PREFIXES = {"/memory-gateway": "gateway", "/api/memory-gateway": "api_gateway"}
"""With what the names of the operations begin there."""


async def get_session_context(
    service: MemoryService, caller: Caller, body: models.GetSessionContextRequest
) -> msgspec.Raw:
    return _told(await service.gateway.get_session_context(caller, body))


async def upsert_session_context(
    service: MemoryService, caller: Caller, body: models.UpsertSessionContextRequest
) -> msgspec.Raw:
    return _told(await service.gateway.upsert_session_context(caller, body))


async def get_memories(service: MemoryService, caller: Caller, body: models.GetMemoriesRequest) -> msgspec.Raw:
    return _told(await service.gateway.get_memories(caller, body))


async def create_memory(service: MemoryService, caller: Caller, body: models.CreateMemoryRequest) -> msgspec.Raw:
    return _told(await service.gateway.create_memory(caller, body))


async def gateway_health(service: MemoryService, caller: Caller, body: None) -> msgspec.Raw:
    await service.ping()
    return _told(models.HealthResponse())


def _told(answer: BaseModel) -> msgspec.Raw:
    return msgspec.Raw(answer.model_dump_json().encode())


_BARE = (
    Verb(
        method="POST",
        path="/get-session-context",
        summary="Tell the messages of a session, or of a user's sessions",
        handle=get_session_context,
        takes=models.GetSessionContextRequest,
        gives=models.GetSessionContextResponse,
    ),
    Verb(
        method="POST",
        path="/upsert-session-context",
        needs="write",
        summary="Store a session as the list of its messages",
        handle=upsert_session_context,
        takes=models.UpsertSessionContextRequest,
        gives=models.UpsertSessionContextResponse,
        errors=(409, 507),
    ),
    Verb(
        method="POST",
        path="/get-memories",
        summary="Tell memories: the newest, or those nearest to an embedding or a query",
        handle=get_memories,
        takes=models.GetMemoriesRequest,
        gives=models.GetMemoriesResponse,
    ),
    Verb(
        method="POST",
        path="/create-memory",
        needs="write",
        summary="Keep what was said as a memory",
        handle=create_memory,
        takes=models.CreateMemoryRequest,
        gives=models.CreateMemoryResponse,
        errors=(507,),
    ),
)
_HEALTH = Verb(
    method="GET",
    path="/health",
    summary="Tell whether the gateway works",
    handle=gateway_health,
    gives=models.HealthResponse,
    open=True,
)
GATEWAY = (
    *_BARE,
    *(
        replace(verb, path=f"{prefix}{verb.path}", operation=f"{name}_{verb.handle.__name__}")
        for prefix, name in PREFIXES.items()
        for verb in (*_BARE, _HEALTH)
    ),
)

"""The route by which callers write memories themselves, many at a time."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import Body
from memory_service.limits import MAX_TAGS, MAX_TEXT, check_metadata
from memory_service.memories import MemoryDraft
from memory_service.service import MemoryService
from memory_service.values import Durability, Scope

MOST_AT_ONCE = 500


class MemoryBody(Body):
    """One that comes under a `memory_id` that is there takes its place; without one, it is a new memory."""

    user_id: schemas.UserId
    content: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, extra_json_schema=schemas.NO_NUL)]
    conversation_id: schemas.Id | None = None
    tags: Annotated[list[schemas.Name], Meta(max_length=MAX_TAGS)] = field(default_factory=list)
    metadata: schemas.Metadata = field(default_factory=dict)
    memory_id: schemas.Id | None = None


class StoreMemories(Body):
    memories: Annotated[list[MemoryBody], Meta(min_length=1, max_length=MOST_AT_ONCE)]


class MemoriesStoredAnswer(Struct, kw_only=True):
    """`ids` in the order in which memories came."""

    status: Literal["success"] = "success"
    ids: list[str]
    count: int
    durability: Durability


async def store_memories(service: MemoryService, caller: Caller, body: StoreMemories) -> MemoriesStoredAnswer:
    drafts: dict[Scope, list[tuple[int, MemoryDraft]]] = {}
    for place, memory in enumerate(body.memories):
        check_metadata(f"$.memories[{place}].metadata", memory.metadata)
        drafts.setdefault(caller.scope(memory.user_id), []).append((place, _draft(memory)))
    ids = [""] * len(body.memories)
    for scope, own in drafts.items():
        for (place, _), kept in zip(
            own, await service.memories.remember_many(scope, [draft for _, draft in own]), strict=True
        ):
            ids[place] = kept.memory_id
    return MemoriesStoredAnswer(ids=ids, count=len(ids), durability=service.durability)


MEMORIES = (
    Verb(
        method="POST",
        path="/memories",
        needs="write",
        summary="Store many memories, of one user or of several",
        handle=store_memories,
        takes=StoreMemories,
        gives=MemoriesStoredAnswer,
        errors=(507,),
    ),
)


def _draft(memory: MemoryBody) -> MemoryDraft:
    return MemoryDraft(
        text=memory.content,
        session_id=memory.conversation_id,
        tags=tuple(memory.tags),
        metadata=memory.metadata,
        memory_id=memory.memory_id or "",
    )

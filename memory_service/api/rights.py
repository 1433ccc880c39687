"""The routes by which a user sees, corrects, pins and deletes memories of theirs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import Body
from memory_service.corpus import Hit
from memory_service.errors import MemoryNotFound, ValidationFailed
from memory_service.limits import MAX_TAGS, MAX_TEXT, check_metadata
from memory_service.rights import changed_at
from memory_service.service import MemoryService
from memory_service.stores.bodies import Place, micros, moment
from memory_service.values import OWN, Kind, Memory, OwnKind, Scope, Trust

MOST_FORGOTTEN = 100
_KINDS = "|".join(OWN)
FORGOTTEN = [kind for kind in OWN if kind != "profile"]
"""Kinds of which something is told to be deleted unless others are asked for: a profile tells of much else, too."""
Content = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, extra_json_schema=schemas.NO_NUL)]
Pinned = Annotated[bool, Meta(description="Of an insight: whether a context tells it before all others")]
_CURSOR = r"^-?[0-9]{1,16}\.[A-Za-z0-9._:@-]{1,200}$(?!\n)"
Cursor = Annotated[str, Meta(pattern=_CURSOR, description="Of the page before")]


class ListMemories(Body):
    user_id: schemas.UserId
    kinds: Annotated[str, Meta(pattern=f"^({_KINDS})(,({_KINDS}))*$(?!\\n)", description="With commas")] = ",".join(OWN)
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Cursor | None = None
    superseded: Annotated[bool, Meta(description="Whether to list what newer ones have superseded too")] = False


class OneMemory(Body):
    memory_id: schemas.Id
    user_id: schemas.UserId


class EditMemory(Body):
    """What is not given stays as it is, and something is. `expected_updated_at`: the `updated_at` it must have."""

    memory_id: schemas.Id
    user_id: schemas.UserId
    content: Content | UnsetType = UNSET
    category: schemas.Category | UnsetType = UNSET
    importance: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    tags: Annotated[list[schemas.Name], Meta(max_length=MAX_TAGS)] | UnsetType = UNSET
    metadata: schemas.Metadata | UnsetType = UNSET
    pinned: Pinned | UnsetType = UNSET
    expected_updated_at: schemas.Moment | None = None


class Forget(Body):
    """With `dry_run` it takes a `query` and tells what that finds; without, `ids`, and deletes exactly these."""

    user_id: schemas.UserId
    dry_run: bool = True
    query: schemas.Question | None = None
    kinds: Annotated[list[OwnKind], Meta(min_length=1, max_length=len(OWN))] | None = None
    top_k: Annotated[int, Meta(ge=1, le=MOST_FORGOTTEN)] = 20
    min_score: Annotated[float, Meta(ge=0)] = 0.0
    ids: Annotated[list[schemas.Id], Meta(min_length=1, max_length=MOST_FORGOTTEN)] | None = None


class MemoryAnswer(Struct, kw_only=True):
    """`updated_at`: when it was last changed by hand, or else when it became known. `superseded_by`: what holds now."""

    id: str
    kind: Kind
    text: str
    pinned: bool
    edited: bool
    trust: Trust
    created_at: datetime
    updated_at: datetime
    session_id: str | None
    category: str | None
    confidence: float
    importance: float
    tags: list[str]
    metadata: dict[str, Any]
    sources: list[schemas.SourceAnswer]
    superseded_by: str | None


class MemoriesAnswer(Struct, kw_only=True):
    """Newest first. A page may hold fewer than `limit`; there are more as long as `cursor` is not null."""

    user_id: str
    memories: list[MemoryAnswer]
    count: int
    cursor: str | None


class MemoryDeletedAnswer(Struct, kw_only=True):
    status: Literal["success"] = "success"
    id: str
    deleted: bool = True


class FoundAnswer(Struct, kw_only=True):
    id: str
    kind: Kind
    text: str
    score: float
    created_at: datetime


class ForgetAnswer(Struct, kw_only=True):
    """`ids`: of what was deleted, or with `dry_run` would be; `memories` tells the latter, best first."""

    dry_run: bool
    ids: list[str]
    count: int
    memories: list[FoundAnswer]
    degraded: list[str]


async def list_memories(service: MemoryService, caller: Caller, body: ListMemories) -> MemoriesAnswer:
    after = place_of(body.cursor) if body.cursor else None
    kinds = [kind for kind in OWN if kind in body.kinds.split(",")]
    found, last = await service.rights.page(
        caller.scope(body.user_id), kinds, body.limit, after=after, superseded=body.superseded
    )
    answers = [_memory(memory) for memory in found]
    cursor = cursor_of(last) if last else None
    return MemoriesAnswer(user_id=body.user_id, memories=answers, count=len(answers), cursor=cursor)


async def get_memory(service: MemoryService, caller: Caller, body: OneMemory) -> MemoryAnswer:
    return _memory(await service.rights.find(caller.scope(body.user_id), body.memory_id))


async def edit_memory(service: MemoryService, caller: Caller, body: EditMemory) -> MemoryAnswer:
    scope = caller.scope(body.user_id)
    changes = await _changes(service, scope, body)
    return _memory(await service.rights.edit(scope, body.memory_id, changes, body.expected_updated_at))


async def delete_memory(service: MemoryService, caller: Caller, body: OneMemory) -> MemoryDeletedAnswer:
    if not await service.delete_memory(caller.scope(body.user_id), body.memory_id):
        raise MemoryNotFound
    return MemoryDeletedAnswer(id=body.memory_id)


async def forget(service: MemoryService, caller: Caller, body: Forget) -> ForgetAnswer:
    scope = caller.scope(body.user_id)
    if not body.dry_run:
        if body.ids is None:
            raise ValidationFailed("$.ids", "to delete, send back the ids that a dry run has told")
        deleted = await service.erasing.memories(scope, body.ids)
        return ForgetAnswer(dry_run=False, ids=deleted, count=len(deleted), memories=[], degraded=[])
    if body.query is None or body.ids is not None:
        raise ValidationFailed("$.query", "a dry run takes a query, and no ids")
    found = await service.retrieve(scope, body.query, body.top_k, body.kinds or FORGOTTEN)
    hits = [hit for hit in found.hits if hit.score >= body.min_score]
    ids = [hit.item.id for hit in hits]
    return ForgetAnswer(
        dry_run=True, ids=ids, count=len(ids), memories=[_found(hit) for hit in hits], degraded=list(found.degraded)
    )


RIGHTS = (
    Verb(
        method="GET",
        path="/memories",
        summary="List what is remembered of a user",
        handle=list_memories,
        takes=ListMemories,
        gives=MemoriesAnswer,
    ),
    Verb(
        method="POST",
        path="/memories/forget",
        needs="erase",
        summary="Tell which memories a query finds, and delete those of them that are named",
        handle=forget,
        takes=Forget,
        gives=ForgetAnswer,
        errors=(507,),
    ),
    Verb(
        method="GET",
        path="/memories/{memory_id}",
        summary="Tell one memory of a user",
        handle=get_memory,
        takes=OneMemory,
        gives=MemoryAnswer,
        errors=(404,),
    ),
    Verb(
        method="PATCH",
        path="/memories/{memory_id}",
        needs="write",
        summary="Correct a memory of a user, or pin it",
        handle=edit_memory,
        takes=EditMemory,
        gives=MemoryAnswer,
        errors=(404, 409, 507),
    ),
    Verb(
        method="DELETE",
        path="/memories/{memory_id}",
        needs="erase",
        summary="Delete a memory of a user",
        handle=delete_memory,
        takes=OneMemory,
        gives=MemoryDeletedAnswer,
        errors=(404, 409, 507),
    ),
)

_FIELDS = {"text": "content", "category": "category", "importance": "importance", "pinned": "pinned"}


async def _changes(service: MemoryService, scope: Scope, body: EditMemory) -> dict[str, Any]:
    """What is to be changed, by the names that values have. Raises ValidationFailed."""
    changes = {name: getattr(body, given) for name, given in _FIELDS.items() if getattr(body, given) is not UNSET}
    if body.category is not UNSET:
        changes["category"] = body.category.lower()
    if body.tags is not UNSET:
        changes["tags"] = tuple(body.tags)
    if body.metadata is not UNSET:
        check_metadata("$.metadata", body.metadata)
        changes["metadata"] = body.metadata
    if not changes:
        raise ValidationFailed("$", "nothing to change")
    kind = (await service.rights.find(scope, body.memory_id)).kind
    if kind == "profile":
        raise ValidationFailed("$", "a profile is changed by PATCH /users/{user_id}/profile")
    if "pinned" in changes and kind != "insight":
        raise ValidationFailed("$.pinned", "contexts tell insights by their weight, so they alone can be pinned")
    if "metadata" in changes and kind in ("summary", "chunk"):
        raise ValidationFailed("$.metadata", "of a summary and of a chunk it is the service's own")
    return changes


def cursor_of(last: Place) -> str:
    return f"{micros(last[0])}.{last[1]}"


def place_of(cursor: str) -> Place:
    at, _, memory_id = cursor.partition(".")
    return moment(int(at)), memory_id


def _memory(memory: Memory) -> MemoryAnswer:
    return MemoryAnswer(
        id=memory.memory_id,
        kind=memory.kind,
        text=memory.text,
        pinned=memory.pinned,
        edited=memory.edited,
        trust=memory.trust,
        created_at=memory.created_at,
        updated_at=changed_at(memory),
        session_id=memory.session_id,
        category=memory.category,
        confidence=memory.confidence,
        importance=memory.importance,
        tags=list(memory.tags),
        metadata=memory.metadata,
        sources=[schemas.SourceAnswer(source.session_id, source.seq) for source in memory.sources],
        superseded_by=memory.superseded_by if memory.valid_to else None,
    )


def _found(hit: Hit) -> FoundAnswer:
    item = hit.item
    return FoundAnswer(id=item.id, kind=item.kind, text=item.text, score=hit.score, created_at=item.created_at)

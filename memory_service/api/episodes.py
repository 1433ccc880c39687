"""The routes of a user's episodes: interactions that callers tell, and sessions that were reflected on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.named import moment_of
from memory_service.api.rights import Cursor, cursor_of, place_of
from memory_service.api.schemas import Body
from memory_service.episodes import Change, EpisodeDraft, event_type_of
from memory_service.limits import MAX_EPISODE, check_metadata
from memory_service.service import MemoryService
from memory_service.values import Durability, Memory, Trust

Summary = Annotated[str, Meta(min_length=1, max_length=MAX_EPISODE, extra_json_schema=schemas.NO_NUL)]


class AddEpisode(Body):
    """`timestamp` is when it was; now, if not given. `episode_id` makes a repeat safe: it changes nothing."""

    user_id: schemas.UserId
    event_type: schemas.Category
    summary: Summary
    timestamp: schemas.Moment | None = None
    session_id: schemas.Id | None = None
    episode_id: schemas.Id | None = None
    metadata: schemas.Metadata = field(default_factory=dict)


class ListEpisodes(Body):
    user_id: schemas.UserId
    limit: Annotated[int, Meta(ge=1, le=500)] = 5
    event_type: schemas.Category | None = None
    cursor: Cursor | None = None


class EpisodeStoredAnswer(Struct, kw_only=True):
    """`change` is what this request did."""

    status: Literal["success"] = "success"
    user_id: str
    episode_id: str
    event_type: str
    timestamp: datetime
    change: Change
    durability: Durability


class EpisodeAnswer(Struct, kw_only=True):
    """`by`: caller (who told it) or reflection (it is the summary of a session). `episode_id` is that of a memory."""

    episode_id: str
    event_type: str
    summary: str
    timestamp: datetime
    session_id: str | None
    by: Literal["caller", "reflection"]
    trust: Trust
    metadata: dict[str, Any]


class EpisodesAnswer(Struct, kw_only=True):
    """Newest first. A page may hold fewer than `limit`; there are more as long as `cursor` is not null."""

    user_id: str
    episodes: list[EpisodeAnswer]
    count: int
    cursor: str | None


async def add_episode(service: MemoryService, caller: Caller, body: AddEpisode) -> EpisodeStoredAnswer:
    check_metadata("$.metadata", body.metadata)
    draft = EpisodeDraft(
        event_type=body.event_type,
        summary=body.summary,
        at=moment_of("$.timestamp", body.timestamp),
        session_id=body.session_id,
        episode_id=body.episode_id or "",
        metadata=body.metadata,
    )
    memory, change = await service.episodes.add(caller.scope(body.user_id), draft)
    return EpisodeStoredAnswer(
        user_id=body.user_id,
        episode_id=memory.memory_id,
        event_type=event_type_of(memory),
        timestamp=memory.created_at,
        change=change,
        durability=service.durability,
    )


async def list_episodes(service: MemoryService, caller: Caller, body: ListEpisodes) -> EpisodesAnswer:
    after = place_of(body.cursor) if body.cursor else None
    found, last = await service.episodes.page(caller.scope(body.user_id), body.limit, body.event_type, after=after)
    answers = [_episode(memory) for memory in found]
    cursor = cursor_of(last) if last else None
    return EpisodesAnswer(user_id=body.user_id, episodes=answers, count=len(answers), cursor=cursor)


EPISODES = (
    Verb(
        method="POST",
        path="/users/{user_id}/episodes",
        needs="write",
        summary="Tell an interaction that a user has had",
        handle=add_episode,
        takes=AddEpisode,
        gives=EpisodeStoredAnswer,
        errors=(409, 507),
    ),
    Verb(
        method="GET",
        path="/users/{user_id}/episodes",
        summary="List interactions that a user has had",
        handle=list_episodes,
        takes=ListEpisodes,
        gives=EpisodesAnswer,
    ),
)


def _episode(memory: Memory) -> EpisodeAnswer:
    is_told = memory.kind == "episode"
    return EpisodeAnswer(
        episode_id=memory.memory_id,
        event_type=event_type_of(memory),
        summary=memory.text,
        timestamp=memory.created_at,
        session_id=memory.session_id,
        by="caller" if is_told else "reflection",
        trust=memory.trust,
        metadata=memory.metadata if is_told else {},
    )

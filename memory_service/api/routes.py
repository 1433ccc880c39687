"""The table of routes, and one handler each: take the body, call one verb, give the answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from memory_service import __version__
from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.drivers import DRIVERS
from memory_service.api.endpoint import Verb
from memory_service.api.episodes import EPISODES
from memory_service.api.erasing import ERASING
from memory_service.api.gateway import GATEWAY
from memory_service.api.keys import KEYS
from memory_service.api.knowledge import KNOWLEDGE, asked_of, result_of
from memory_service.api.memories import MEMORIES
from memory_service.api.messages import MESSAGES
from memory_service.api.named import moment_of, request_of, session_of
from memory_service.api.profiles import PROFILES
from memory_service.api.quarantine import QUARANTINE
from memory_service.api.reflections import REFLECTIONS
from memory_service.api.rights import RIGHTS
from memory_service.api.transfers import TRANSFERS
from memory_service.corpus import Hit
from memory_service.errors import ValidationFailed
from memory_service.limits import check_metadata
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.telling import Context
from memory_service.values import Memory, Message, Source


async def start_session(service: MemoryService, caller: Caller, body: schemas.SessionStart) -> bytes:
    context, restored = await service.start_session(
        caller.scope(body.user_id),
        body.session_id,
        restore=body.restore,
        agent_id=body.agent_id,
        asked=asked_of(body),
    )
    if not caller.may("read", body.user_id):
        return msgspec.json.encode(_untold(context, body.user_id, restored))
    return _context(context, body.user_id, restored)


async def end_session(service: MemoryService, caller: Caller, body: schemas.SessionEnd) -> schemas.EndAnswer:
    ended = await service.end_session(session_of(caller, body), body.wait_s)
    return schemas.EndAnswer(
        message=f"Session {body.session_id} ended",
        session_id=body.session_id,
        turns_count=ended.session.sitting_turns,
        reflection=ended.reflection,
        summary_generated=bool(ended.sitting and ended.sitting.summary),
        insights_count=ended.sitting.insights_count if ended.sitting else 0,
    )


async def get_context(service: MemoryService, caller: Caller, body: schemas.GetContext) -> bytes:
    return _context(await service.context(session_of(caller, body), asked_of(body)), body.user_id)


async def store_turn(service: MemoryService, caller: Caller, body: schemas.StoreTurn) -> schemas.StoreAnswer:
    stored = await service.store_turn(session_of(caller, body), _draft(body, caller.request_key))
    return schemas.StoreAnswer(
        session_id=body.session_id,
        turn_id=stored.turn.turn_id,
        turn_number=stored.turn.seq,
        durability=stored.durability,
        replayed=stored.replayed,
    )


async def retrieve(service: MemoryService, caller: Caller, body: schemas.Retrieve) -> schemas.RetrieveAnswer:
    found = await service.retrieve(caller.scope(body.user_id), body.query, body.top_k, body.kinds, body.min_trust)
    return schemas.RetrieveAnswer(
        query=body.query,
        facts=[_fact(hit) for hit in found.hits],
        count=len(found.hits),
        results=[_result(hit) for hit in found.hits],
        degraded=list(found.degraded),
    )


async def insights(service: MemoryService, caller: Caller, body: schemas.GetInsights) -> schemas.InsightsAnswer:
    found = await service.insights(caller.scope(body.user_id), recent_only=body.recent_only)
    answers = [_insight(memory) for memory in found]
    return schemas.InsightsAnswer(user_id=body.user_id, insights=answers, count=len(answers))


async def summaries(service: MemoryService, caller: Caller, body: schemas.GetSummaries) -> schemas.SummariesAnswer:
    found = await service.summaries(caller.scope(body.user_id), body.limit)
    answers = [_summary(memory) for memory in found]
    return schemas.SummariesAnswer(user_id=body.user_id, summaries=answers, count=len(answers))


async def health(service: MemoryService, caller: Caller, body: None) -> schemas.HealthAnswer:
    await service.ping()
    return schemas.HealthAnswer(version=__version__)


async def live(service: MemoryService, caller: Caller, body: None) -> schemas.ProbeAnswer:
    return schemas.ProbeAnswer(status="live")


async def ready(service: MemoryService, caller: Caller, body: None) -> schemas.ProbeAnswer:
    await service.ready()
    return schemas.ProbeAnswer(status="ready")


async def stats(service: MemoryService, caller: Caller, body: None) -> dict[str, Any]:
    return service.stats()


VERBS = (
    Verb(
        method="POST",
        path="/sessions/start",
        needs="write",
        summary="Start a session, or go on with one",
        handle=start_session,
        at_once=True,
        takes=schemas.SessionStart,
        gives=schemas.ContextAnswer,
        errors=(409, 507),
    ),
    Verb(
        method="POST",
        path="/sessions/end",
        needs="write",
        summary="End a session; it is reflected on in the background",
        handle=end_session,
        takes=schemas.SessionEnd,
        gives=schemas.EndAnswer,
        errors=(404, 507),
    ),
    Verb(
        method="POST",
        path="/memory/context",
        summary="Tell what the agent should know before its next answer",
        handle=get_context,
        at_once=True,
        takes=schemas.GetContext,
        gives=schemas.ContextAnswer,
        errors=(404,),
    ),
    Verb(
        method="POST",
        path="/memory/store",
        needs="write",
        summary="Store one turn",
        handle=store_turn,
        at_once=True,
        takes=schemas.StoreTurn,
        gives=schemas.StoreAnswer,
        errors=(404, 409, 507),
        named=True,
    ),
    Verb(
        method="POST",
        path="/memory/retrieve",
        cost=2,
        summary="Search everything the user's memory holds",
        handle=retrieve,
        takes=schemas.Retrieve,
        gives=schemas.RetrieveAnswer,
    ),
    Verb(
        method="POST",
        path="/insights",
        summary="List what was learned about the user",
        handle=insights,
        takes=schemas.GetInsights,
        gives=schemas.InsightsAnswer,
    ),
    Verb(
        method="POST",
        path="/summaries",
        summary="List the summaries of the user's sessions",
        handle=summaries,
        takes=schemas.GetSummaries,
        gives=schemas.SummariesAnswer,
    ),
    *REFLECTIONS,
    *MESSAGES,
    *MEMORIES,
    *RIGHTS,
    *PROFILES,
    *EPISODES,
    *ERASING,
    *QUARANTINE,
    *KNOWLEDGE,
    *TRANSFERS,
    *DRIVERS,
    *KEYS,
    *GATEWAY,
    Verb(
        method="GET",
        path="/health",
        summary="Tell whether the service works",
        handle=health,
        gives=schemas.HealthAnswer,
        open=True,
    ),
    Verb(
        method="GET",
        path="/livez",
        summary="Tell that the process answers; touches nothing",
        handle=live,
        gives=schemas.ProbeAnswer,
        open=True,
    ),
    Verb(
        method="GET",
        path="/readyz",
        summary="Tell whether requests should be sent here",
        handle=ready,
        gives=schemas.ProbeAnswer,
        open=True,
    ),
    Verb(
        method="GET", path="/stats", summary="Counters for monitoring", needs="metrics", of_service=True, handle=stats
    ),
)


def _draft(body: schemas.StoreTurn, request_key: str | None) -> Draft:
    if not body.user_message and not body.agent_message:
        raise ValidationFailed("$.user_message", "user_message and agent_message are both empty")
    check_metadata("$.metadata", body.metadata)
    messages = (
        Message(role="user", content=body.user_message, name=body.user_name),
        Message(role="assistant", content=body.agent_message, name=body.agent_name),
    )
    return Draft(
        messages=tuple(message for message in messages if message.content),
        turn_id=body.turn_id,
        created_at=moment_of("$.created_at", body.created_at),
        metadata=body.metadata,
        request=request_of(body, request_key),
    )


def _context(context: Context, user_id: str, restored: bool | UnsetType = UNSET) -> bytes:
    """The answer as it is sent; made once for as long as the context holds."""
    answer: bytes | None = context.answers.get(restored)
    if answer is None:
        answer = context.answers[restored] = msgspec.json.encode(_context_answer(context, user_id, restored))
    return answer


def _untold(context: Context, user_id: str, restored: bool) -> schemas.ContextAnswer:
    """The answer to who may write and not read."""
    return schemas.ContextAnswer(
        session_id=context.session.session_id,
        user_id=user_id,
        active_context=[],
        cumulative_summary="",
        insights=[],
        session_summaries=[],
        formatted_context="",
        restored=restored,
    )


def _context_answer(context: Context, user_id: str, restored: bool | UnsetType) -> schemas.ContextAnswer:
    return schemas.ContextAnswer(
        session_id=context.session.session_id,
        user_id=user_id,
        active_context=[
            schemas.ContextMessage(message.role, message.content, message.name)
            for turn in context.turns
            for message in turn.messages
        ],
        cumulative_summary=context.session.cumulative_summary,
        insights=[memory.text for memory in context.insights],
        session_summaries=[memory.text for memory in context.summaries],
        formatted_context=context.text,
        restored=restored,
        knowledge=UNSET if context.knowledge is None else [result_of(known) for known in context.knowledge],
        profile=context.profile or UNSET,
        episodes=[memory.text for memory in context.episodes] or UNSET,
    )


def _fact(hit: Hit) -> str:
    speaker = hit.item.name or hit.item.role
    return f"{speaker}: {hit.item.text}" if speaker else hit.item.text


def _result(hit: Hit) -> schemas.Result:
    item = hit.item
    return schemas.Result(
        id=item.id,
        kind=item.kind,
        text=item.text,
        score=hit.score,
        score_parts=schemas.ScoreParts(hit.parts.keyword, hit.parts.vector, hit.parts.speaker, hit.parts.date),
        session_id=item.session_id,
        created_at=item.created_at,
        trust=item.trust,
        role=item.role,
        name=item.name,
        pinned=item.pinned,
        sources=_sources(item.sources),
    )


def _sources(sources: tuple[Source, ...]) -> list[schemas.SourceAnswer]:
    return [schemas.SourceAnswer(source.session_id, source.seq) for source in sources]


def _insight(memory: Memory) -> schemas.InsightAnswer:
    return schemas.InsightAnswer(
        id=memory.memory_id,
        content=memory.text,
        category=memory.category or "general",
        confidence=memory.confidence,
        importance=memory.importance,
        pinned=memory.pinned,
        trust=memory.trust,
        timestamp=memory.created_at,
        session_id=memory.session_id or "",
        sources=_sources(memory.sources),
    )


def _summary(memory: Memory) -> schemas.SummaryAnswer:
    return schemas.SummaryAnswer(
        session_id=memory.session_id or "",
        start_time=datetime.fromisoformat(memory.metadata["started_at"]),
        end_time=memory.created_at,
        summary=memory.text,
        cumulative_summary=memory.text,
        key_topics=memory.metadata["topics"],
        turn_count=memory.metadata["turn_count"],
        trust=memory.trust,
    )

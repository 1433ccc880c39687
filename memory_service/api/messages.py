"""The routes of messages: appended, told, searched, made ready for a model, and reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.named import moment_of, request_of, session_of
from memory_service.api.schemas import Body
from memory_service.errors import SessionNotFound, ValidationFailed
from memory_service.history import chat_history
from memory_service.limits import MAX_TEXT, check_metadata
from memory_service.messages import Said, Window
from memory_service.parts import MAX_PARTS, MAX_PARTS_BYTES, Part, check_parts, content_of, kept_of, readable
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.values import Durability, Message, Role, SessionKey, derived_id

MOST_AT_ONCE, MOST_BYTES = 5000, 16_000_000
MOST_TOLD, PAGE = 1000, 100
NOT_IDS = ("search", "history")
"""Names of routes, so none of a message."""
FEW = 100
"""Texts that are looked at in no time."""
T = TypeVar("T")

Words = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, extra_json_schema=schemas.NO_NUL)]
Content = Words | Annotated[list[Part], Meta(min_length=1, max_length=MAX_PARTS)]
Count = Annotated[int, Meta(ge=1, le=MOST_TOLD)]
Number = Annotated[int, Meta(ge=0, le=2**53)]


class MessageBody(Body):
    """`message_id` makes a repeat safe: the same id with the same content is stored once."""

    role: Role
    content: Content
    message_id: schemas.Id | None = None
    name: schemas.Name | None = None
    timestamp: Annotated[schemas.Moment | None, Meta(description="When it was said; now, if not given")] = None
    metadata: schemas.Metadata = field(default_factory=dict)


class StoreMessages(Body):
    """`agent_id` is that of a session that begins with these."""

    user_id: schemas.UserId
    session_id: schemas.Id
    messages: Annotated[list[MessageBody], Meta(min_length=1, max_length=MOST_AT_ONCE)]
    agent_id: schemas.Id | None = None


class GetMessages(Body):
    """`latest`, or a page by `after` and `before` (numbers of turns), `from` and `to` (times)."""

    user_id: schemas.UserId
    session_id: schemas.Id
    latest: Count | None = None
    after: Number | None = None
    before: Number | None = None
    since: schemas.Moment | None = field(default=None, name="from")
    until: schemas.Moment | None = field(default=None, name="to")
    limit: Annotated[Count | None, Meta(description="100, if not given")] = None
    replaced: Annotated[bool, Meta(description="Also what was said before the session was begun afresh")] = False


class GetMessage(Body):
    message_id: schemas.Id
    user_id: schemas.UserId
    session_id: schemas.Id


class SearchMessages(Body):
    user_id: schemas.UserId
    session_id: schemas.Id
    query: schemas.Question
    top_k: Annotated[int, Meta(ge=1, le=schemas.MAX_HITS)] = 5


class GetHistory(Body):
    """`user_message` is what is to be answered, and not stored by this. `include_context`: what else is known."""

    user_id: schemas.UserId
    session_id: schemas.Id
    system_prompt: schemas.Text = ""
    user_message: Content | None = None
    latest: Count | None = None
    include_context: bool = False


class ResetMemory(Body):
    """Of a session, or of all sessions of an agent with this user: one of the two."""

    user_id: schemas.UserId
    session_id: schemas.Id | None = None
    agent_id: schemas.Id | None = None


class MessagesStoredAnswer(Struct, kw_only=True):
    """`message_ids` and `turn_numbers` in the order of what was sent; `stored`: so many are new.

    `erased`: of those that were there so many have lost their words, and they did not come back.
    """

    status: Literal["success"] = "success"
    session_id: str
    message_ids: list[str]
    turn_numbers: list[int]
    count: int
    stored: int
    erased: int
    durability: Durability
    replayed: bool


class MessageAnswer(Struct, kw_only=True):
    """`turn_number` gives the order; `content` is as it was sent, a text or parts."""

    message_id: str
    turn_number: int
    role: Role
    content: str | list[dict[str, Any]]
    timestamp: datetime
    name: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    score: float | UnsetType = UNSET


class MessagesAnswer(Struct, kw_only=True):
    session_id: str
    messages: list[MessageAnswer]
    count: int


class FoundMessagesAnswer(MessagesAnswer, kw_only=True):
    """Best first."""

    query: str
    degraded: list[str]


class HistoryAnswer(Struct, kw_only=True):
    session_id: str
    messages: list[dict[str, Any]]
    count: int


class ResetAnswer(Struct, kw_only=True):
    """What is not there any more."""

    status: Literal["success"] = "success"
    message: str = "Memory reset successfully"
    sessions: int
    turns: int
    memories: int
    durability: Durability


async def store_messages(service: MemoryService, caller: Caller, body: StoreMessages) -> MessagesStoredAnswer:
    drafts = await _beside(body.messages, lambda: _drafts(body.messages, caller.request_key))
    ids = [draft.turn_id for draft in drafts if draft.turn_id]
    if len(set(ids)) < len(ids):
        raise ValidationFailed("$.messages", "a message_id is there twice")
    request = request_of(body, caller.request_key)
    appended = await service.messages.append(session_of(caller, body), drafts, agent_id=body.agent_id, request=request)
    stored = len(drafts) - appended.replayed
    return MessagesStoredAnswer(
        session_id=body.session_id,
        message_ids=[turn.turn_id for turn in appended.turns],
        turn_numbers=[turn.seq for turn in appended.turns],
        count=len(drafts),
        stored=stored,
        erased=sum(not turn.told().messages for turn in appended.turns),
        durability=service.durability,
        replayed=stored == 0,
    )


async def get_messages(service: MemoryService, caller: Caller, body: GetMessages) -> MessagesAnswer:
    bounds = (body.after, body.before, body.since, body.until, body.limit)
    if body.latest is not None and bounds != (None,) * len(bounds):
        raise ValidationFailed(
            "$.latest", "the latest are asked for alone, or a page by after, before, from, to, limit"
        )
    window = Window(
        latest=body.latest,
        after=body.after,
        before=body.before,
        since=moment_of("$.from", body.since),
        until=moment_of("$.to", body.until),
        limit=body.limit or PAGE,
        replaced=body.replaced,
    )
    said = await service.messages.told(session_of(caller, body), window)
    return MessagesAnswer(session_id=body.session_id, messages=[_answer(one) for one in said], count=len(said))


async def get_message(service: MemoryService, caller: Caller, body: GetMessage) -> MessageAnswer:
    return _answer(await service.messages.find(session_of(caller, body), body.message_id))


async def search_messages(service: MemoryService, caller: Caller, body: SearchMessages) -> FoundMessagesAnswer:
    found = await service.messages.search(session_of(caller, body), body.query, body.top_k)
    return FoundMessagesAnswer(
        session_id=body.session_id,
        query=body.query,
        messages=[_answer(said, score) for said, score in found.said],
        count=len(found.said),
        degraded=list(found.degraded),
    )


async def get_history(service: MemoryService, caller: Caller, body: GetHistory) -> HistoryAnswer:
    key = session_of(caller, body)
    if isinstance(body.user_message, list):
        await asyncio.to_thread(check_parts, "$.user_message", body.user_message)
    # beside a summary of what was said before the live turns, no turn between may be missing
    window = Window(latest=body.latest or service.messages.latest, live=body.include_context)
    said = await service.messages.told(key, window)
    known = await service.known(key) if body.include_context else ""
    system = "\n\n".join(filter(None, [body.system_prompt, known]))
    messages = chat_history(system, said, msgspec.to_builtins(body.user_message))
    return HistoryAnswer(session_id=body.session_id, messages=messages, count=len(messages))


async def reset_memory(service: MemoryService, caller: Caller, body: ResetMemory) -> ResetAnswer:
    if (body.session_id is None) == (body.agent_id is None):
        raise ValidationFailed("$", "session_id or agent_id: one of the two says what is to be reset")
    scope = caller.scope(body.user_id)
    if body.session_id is not None:
        named = [body.session_id]
    else:
        named = await service.messages.sessions_of(scope, body.agent_id or "")
    sessions = turns = memories = 0
    for session_id in named:
        try:
            erased = await service.erasing.session(SessionKey(scope=scope, session_id=session_id))
        except SessionNotFound:
            continue  # there is nothing to reset
        sessions, turns, memories = sessions + erased.sessions, turns + erased.turns, memories + erased.memories
    return ResetAnswer(sessions=sessions, turns=turns, memories=memories, durability=service.durability)


MESSAGES = (
    Verb(
        method="POST",
        path="/messages",
        needs="write",
        summary="Append messages to a session; it begins with its first",
        handle=store_messages,
        takes=StoreMessages,
        gives=MessagesStoredAnswer,
        most_bytes=MOST_BYTES,
        errors=(507,),
        named=True,
    ),
    Verb(
        method="GET",
        path="/messages",
        summary="Tell messages of a session, oldest first",
        handle=get_messages,
        takes=GetMessages,
        gives=MessagesAnswer,
    ),
    Verb(
        method="POST",
        path="/messages/search",
        cost=2,
        summary="Search the messages of a session",
        handle=search_messages,
        takes=SearchMessages,
        gives=FoundMessagesAnswer,
    ),
    Verb(
        method="POST",
        path="/messages/history",
        summary="Tell the last messages as a chat model takes them",
        handle=get_history,
        takes=GetHistory,
        gives=HistoryAnswer,
        most_bytes=2 * MAX_PARTS_BYTES,
    ),
    Verb(
        method="GET",
        path="/messages/{message_id}",
        summary="Tell one message of a session",
        handle=get_message,
        takes=GetMessage,
        gives=MessageAnswer,
        errors=(404,),
    ),
    Verb(
        method="POST",
        path="/reset-memory",
        needs="erase",
        summary="Erase a session, or all sessions of an agent with a user; they can be begun anew",
        handle=reset_memory,
        takes=ResetMemory,
        gives=ResetAnswer,
        errors=(507,),
    ),
)


async def _beside(messages: Sequence[MessageBody], work: Callable[[], T]) -> T:
    """Do what may take long beside the event loop: others wait for that, too."""
    plain = all(isinstance(message.content, str) and not message.metadata for message in messages[:FEW])
    return work() if plain and len(messages) <= FEW else await asyncio.to_thread(work)


def _drafts(messages: Sequence[MessageBody], request_key: str | None) -> list[Draft]:
    return [_draft(place, given, request_key) for place, given in enumerate(messages)]


def _draft(place: int, given: MessageBody, request_key: str | None) -> Draft:
    """Without an id a message is named by the request and its place in it, if the request has a name."""
    if given.metadata:
        check_metadata(f"$.messages[{place}].metadata", given.metadata)
    if given.message_id in NOT_IDS:
        raise ValidationFailed(f"$.messages[{place}].message_id", "this is the name of a route", "invalid_id")
    if isinstance(given.content, str):
        message = Message(role=given.role, content=given.content, name=given.name)
    else:
        check_parts(f"$.messages[{place}].content", given.content)
        message = Message(
            role=given.role, content=readable(given.content), name=given.name, parts=kept_of(given.content)
        )
    return Draft(
        messages=(message,),
        turn_id=given.message_id or (derived_id("message", request_key, place) if request_key else None),
        created_at=moment_of(f"$.messages[{place}].timestamp", given.timestamp),
        metadata=given.metadata,
    )


def _answer(said: Said, score: float | UnsetType = UNSET) -> MessageAnswer:
    return MessageAnswer(
        message_id=said.message_id,
        turn_number=said.seq,
        role=said.message.role,
        content=content_of(said.message),
        timestamp=said.created_at,
        name=said.message.name or UNSET,
        metadata=said.metadata or UNSET,
        score=score,
    )

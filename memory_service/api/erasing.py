"""The routes by which what is kept is deleted: a user, a session, a turn."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import Body
from memory_service.service import MemoryService
from memory_service.stores.exports import Erased
from memory_service.values import Durability, SessionKey, nobody_of


class EraseUser(Body):
    user_id: schemas.UserId


class EraseSession(Body, kw_only=True):
    """Without a `user_id` it is one that is nobody's in particular: for credentials that are not bound to a user."""

    session_id: schemas.Id
    user_id: schemas.UserId | None = None


class EraseTurn(EraseSession, kw_only=True):
    turn_number: Annotated[int, Meta(ge=1, le=2**53)]


class ErasedCounts(Struct, kw_only=True):
    """How many of each were there and are not any more; of a turn its words, its number stays."""

    sessions: int
    turns: int
    memories: int
    sittings: int
    requests: int


class ErasedAnswer(Struct, kw_only=True):
    """`drivers`: engines that are being told to forget it too; what they still hold is not shown."""

    status: Literal["erased"] = "erased"
    user_id: str | None
    erased: ErasedCounts
    durability: Durability
    drivers: list[str]


async def erase_user(service: MemoryService, caller: Caller, body: EraseUser) -> ErasedAnswer:
    return _receipt(service, body.user_id, await service.erasing.user(caller.scope(body.user_id)))


async def erase_session(service: MemoryService, caller: Caller, body: EraseSession) -> ErasedAnswer:
    return _receipt(service, body.user_id, await service.erasing.session(key_of(caller, body)))


async def erase_turn(service: MemoryService, caller: Caller, body: EraseTurn) -> ErasedAnswer:
    return _receipt(service, body.user_id, await service.erasing.turn(key_of(caller, body), body.turn_number))


ERASING = (
    Verb(
        method="DELETE",
        path="/users/{user_id}",
        needs="erase",
        summary="Erase all that is kept of a user",
        handle=erase_user,
        takes=EraseUser,
        gives=ErasedAnswer,
        errors=(404, 507),
    ),
    Verb(
        method="DELETE",
        path="/sessions/{session_id}",
        needs="erase",
        summary="Erase a session, its turns and what was learnt from them",
        handle=erase_session,
        takes=EraseSession,
        gives=ErasedAnswer,
        errors=(404, 507),
    ),
    Verb(
        method="DELETE",
        path="/sessions/{session_id}/turns/{turn_number}",
        needs="erase",
        summary="Erase the words of a turn and what was learnt from it",
        handle=erase_turn,
        takes=EraseTurn,
        gives=ErasedAnswer,
        errors=(404, 507),
    ),
)


def key_of(caller: Caller, body: EraseSession) -> SessionKey:
    scope = caller.scope(body.user_id) if body.user_id else nobody_of(caller.of_all_users())
    return SessionKey(scope=scope, session_id=body.session_id)


def _receipt(service: MemoryService, user_id: str | None, erased: Erased) -> ErasedAnswer:
    return ErasedAnswer(
        user_id=user_id,
        erased=ErasedCounts(
            sessions=erased.sessions,
            turns=erased.turns,
            memories=erased.memories,
            sittings=erased.sittings,
            requests=erased.requests,
        ),
        durability=service.durability,
        drivers=list(service.engines.names),
    )

"""The routes by which turns that should not be believed are withheld, with all that was derived from them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.erasing import EraseSession, key_of
from memory_service.service import MemoryService
from memory_service.stores.quarantine import Quarantined
from memory_service.values import Durability

MOST_AT_ONCE = 1000
TurnNumber = Annotated[int, Meta(ge=1, le=2**53)]


class PutInQuarantine(EraseSession, kw_only=True):
    """Without `turn_numbers` it is the whole session: all its turns so far, and memories that were stored for it."""

    turn_numbers: Annotated[list[TurnNumber], Meta(min_length=1, max_length=MOST_AT_ONCE)] | None = None


class LetOut(EraseSession, kw_only=True):
    """Without a `turn_number` it is all that is withheld of the session."""

    turn_number: TurnNumber | None = None


class QuarantineAnswer(Struct, kw_only=True):
    """How many turns and memories it withholds now, or were given back. `drivers`: engines that are being told."""

    status: Literal["withheld", "released"]
    user_id: str | None
    turns: int
    memories: int
    durability: Durability
    drivers: list[str]


async def put_in_quarantine(service: MemoryService, caller: Caller, body: PutInQuarantine) -> QuarantineAnswer:
    done = await service.quarantine.withhold(key_of(caller, body), body.turn_numbers)
    return _receipt(service, "withheld", body, done)


async def let_out(service: MemoryService, caller: Caller, body: LetOut) -> QuarantineAnswer:
    named = None if body.turn_number is None else [body.turn_number]
    return _receipt(service, "released", body, await service.quarantine.release(key_of(caller, body), named))


QUARANTINE = (
    Verb(
        method="POST",
        path="/sessions/{session_id}/quarantine",
        needs="erase",
        summary="Withhold a session or some of its turns, with all that was derived from them",
        handle=put_in_quarantine,
        takes=PutInQuarantine,
        gives=QuarantineAnswer,
        errors=(404, 409, 507),
    ),
    Verb(
        method="DELETE",
        path="/sessions/{session_id}/quarantine",
        needs="erase",
        summary="Give back what is withheld of a session",
        handle=let_out,
        takes=LetOut,
        gives=QuarantineAnswer,
        errors=(404, 409, 507),
    ),
)


def _receipt(
    service: MemoryService, status: Literal["withheld", "released"], body: EraseSession, done: Quarantined
) -> QuarantineAnswer:
    return QuarantineAnswer(
        status=status,
        user_id=body.user_id,
        turns=done.turns,
        memories=done.memories,
        durability=service.durability,
        drivers=list(service.engines.names),
    )

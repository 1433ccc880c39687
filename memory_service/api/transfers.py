"""The routes by which all that is kept of a user goes out as a file, and comes in from one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Literal

from msgspec import Struct

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.bodies import Sent
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import Body
from memory_service.service import MemoryService
from memory_service.transfers import Taken
from memory_service.user_files import counted
from memory_service.values import Durability


class ExportUser(Body):
    user_id: schemas.UserId


class ImportUser(Body):
    """`user_id`: whose it becomes, if not the file's."""

    user_id: schemas.UserId | None = None


class UserImportedAnswer(Struct, kw_only=True):
    """How many of each are in the file. `change`: `created`, `unchanged` (nothing was written), or `completed` what an
    earlier import was cut off from.
    """

    status: Literal["success"] = "success"
    user_id: str
    change: Taken
    sessions: int
    sittings: int
    requests: int
    turns: int
    memories: int
    durability: Durability


async def export_user(service: MemoryService, caller: Caller, body: ExportUser) -> AsyncIterator[bytes]:
    return await service.transfers.export(caller.scope(body.user_id))


async def import_user(service: MemoryService, caller: Caller, sent: Sent) -> UserImportedAnswer:
    tell = partial(sent.go_on, 1)
    async with service.transfers.received(sent.parts, tell) as file:
        scope = caller.scope(sent.query.user_id or file.user_id)
        done = await service.transfers.take_in(scope, file, tell)
    return UserImportedAnswer(
        user_id=scope.user_id, change=done.change, durability=service.durability, **counted(done.counts)
    )


TRANSFERS = (
    Verb(
        method="GET",
        path="/users/{user_id}/export",
        summary="Give out all that is kept of a user, one thing a line",
        handle=export_user,
        takes=ExportUser,
        errors=(404,),
        in_lines=True,
    ),
    Verb(
        method="POST",
        path="/users/import",
        needs="admin",
        summary="Take in all that was exported of a user",
        handle=import_user,
        takes=ImportUser,
        gives=UserImportedAnswer,
        errors=(409, 507),
        of_file=True,
    ),
)

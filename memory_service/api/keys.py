"""The routes of API keys, for those who may let others in. A key is in the answer that makes it, and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from memory_service.access import OPERATORS, OfMemory, Permission
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import Body, Id, Name, SpaceName, UserId
from memory_service.errors import InsufficientScope, ScopeMismatch
from memory_service.service import MemoryService
from memory_service.stores.keys import ApiKey

MOST_DAYS, MOST_OVERLAP_HOURS, MOST_SPACES = 3650, 24 * 30, 100


class ListKeys(Struct, forbid_unknown_fields=True):
    tenant_id: Id | None = None


class CreateKey(Body):
    name: Name
    permissions: Annotated[list[Permission], Meta(min_length=1, max_length=5)]
    tenant_id: Annotated[Id, Meta(description="Another than the caller's own: for operators")] | None = None
    user_id: Annotated[UserId, Meta(description="The one user it is for; none: all of the tenant")] | None = None
    spaces: Annotated[
        dict[SpaceName, Annotated[list[OfMemory], Meta(min_length=1, max_length=3)]],
        Meta(max_length=MOST_SPACES, description="What a key of one user may in which spaces"),
    ] = {}
    expires_in_days: Annotated[float, Meta(gt=0, le=MOST_DAYS)] | None = None


SPACES_OF_A_USER = {
    "anyOf": [
        {"properties": {"spaces": {"maxProperties": 0}}},
        {"properties": {"user_id": {"type": "string"}}, "required": ["user_id"]},
    ]
}
"""Of a key that is to be made, as JSON Schema says it."""


class RotateKey(Body):
    key_id: Id
    overlap_hours: Annotated[
        float, Meta(ge=0, le=MOST_OVERLAP_HOURS, description="How long the old one works beside the new; 0: not at all")
    ] = 24


class RevokeKey(Struct, forbid_unknown_fields=True):
    key_id: Id


class KeyAnswer(Struct, kw_only=True):
    key_id: str
    name: str
    tenant_id: str
    user_id: str | None
    permissions: list[str]
    spaces: dict[str, list[str]]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class MadeKeyAnswer(KeyAnswer, kw_only=True):
    """`key` is what callers present; it is told this once."""

    status: Literal["success"] = "success"
    key: str


class KeysAnswer(Struct, kw_only=True):
    keys: list[KeyAnswer]
    count: int


async def list_keys(service: MemoryService, caller: Caller, body: ListKeys) -> KeysAnswer:
    wanted = _limited_to(caller) if body.tenant_id is None else _tenant(caller, body.tenant_id)
    found = await service.keys.of_tenant(wanted)
    return KeysAnswer(keys=[KeyAnswer(**_told(key)) for key in found], count=len(found))


async def create_key(service: MemoryService, caller: Caller, body: CreateKey) -> MadeKeyAnswer:
    tenant_id = _tenant(caller, body.tenant_id or caller.tenant_id)
    _require_all(caller, body.permissions, body.spaces)
    lifetime = timedelta(days=body.expires_in_days) if body.expires_in_days else None
    key, text = await service.keys.create(
        body.name, tenant_id, body.permissions, user_id=body.user_id, spaces=body.spaces, lifetime=lifetime
    )
    return MadeKeyAnswer(**_told(key), key=text)


async def rotate_key(service: MemoryService, caller: Caller, body: RotateKey) -> MadeKeyAnswer:
    key = await service.keys.get(body.key_id, _limited_to(caller))
    _require_all(caller, key.permissions, key.spaces)
    overlap = timedelta(hours=body.overlap_hours)
    made, text = await service.keys.rotate(key, overlap)
    return MadeKeyAnswer(**_told(made), key=text)


async def revoke_key(service: MemoryService, caller: Caller, body: RevokeKey) -> KeyAnswer:
    key = await service.keys.get(body.key_id, _limited_to(caller))
    return KeyAnswer(**_told(await service.keys.revoke(key)))


KEYS = (
    Verb(
        method="GET",
        path="/keys",
        needs="admin",
        summary="List API keys: whose they are and what they may, not what they are",
        handle=list_keys,
        takes=ListKeys,
        gives=KeysAnswer,
    ),
    Verb(
        method="POST",
        path="/keys",
        needs="admin",
        summary="Make an API key; it is told this once",
        handle=create_key,
        takes=CreateKey,
        gives=MadeKeyAnswer,
        errors=(507,),
    ),
    Verb(
        method="POST",
        path="/keys/{key_id}/rotate",
        needs="admin",
        summary="Make a key that takes the place of another, which works for some time beside it",
        handle=rotate_key,
        takes=RotateKey,
        gives=MadeKeyAnswer,
        errors=(404, 409, 507),
    ),
    Verb(
        method="DELETE",
        path="/keys/{key_id}",
        needs="admin",
        summary="Let an API key be of no use from now on",
        handle=revoke_key,
        takes=RevokeKey,
        gives=KeyAnswer,
        errors=(404, 507),
    ),
)


def _limited_to(caller: Caller) -> str | None:
    """Of which tenant's keys a caller may know; None: of all. Raises ScopeMismatch if it is bound to a user."""
    tenant_id = caller.of_all_users()
    return None if tenant_id == OPERATORS else tenant_id


def _tenant(caller: Caller, tenant_id: str) -> str:
    """Raises ScopeMismatch for one of which this caller may know no keys."""
    if _limited_to(caller) not in (None, tenant_id):
        raise ScopeMismatch("keys of another tenant are for credentials of the operators' tenant")
    return tenant_id


def _require_all(
    caller: Caller, permissions: Collection[Permission], spaces: Mapping[str, Collection[OfMemory]]
) -> None:
    """Nobody hands on what he has not, for a space neither. Raises InsufficientScope."""
    for permission in sorted({*permissions, *chain.from_iterable(spaces.values())}):
        if permission not in caller.permissions:
            raise InsufficientScope(permission)


def _told(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "tenant_id": key.tenant_id,
        "user_id": key.user_id,
        "permissions": sorted(key.permissions),
        "spaces": {name: sorted(granted) for name, granted in sorted(key.spaces.items())},
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }

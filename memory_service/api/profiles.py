"""The routes of a user's profile: one document by hand, and beside it the fields that were learnt."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import Body
from memory_service.limits import MAX_METADATA_DEPTH, MAX_PROFILE_BYTES, MAX_SAFE_INTEGER
from memory_service.service import MemoryService
from memory_service.telling import Learned, Profile
from memory_service.values import PROFILE_ID, Trust

_MEANS = f"nested {MAX_METADATA_DEPTH} deep; no NUL, and no integer of 2**53 or more"
Document = Annotated[dict[str, Any], Meta(description=f"At most {MAX_PROFILE_BYTES} bytes as JSON, {_MEANS}")]
Patch = Annotated[dict[str, Any], Meta(description=f"A JSON merge patch (RFC 7396): null takes away. {_MEANS}")]
Version = Annotated[int, Meta(ge=0, lt=MAX_SAFE_INTEGER, description="It must have; 0: there must be none")]


class GetProfile(Body):
    user_id: schemas.UserId


class PutProfile(Body):
    user_id: schemas.UserId
    profile: Document
    expected_version: Version | None = None


class PatchProfile(Body):
    user_id: schemas.UserId
    patch: Patch
    expected_version: Version | None = None


class DeleteProfile(Body):
    user_id: schemas.UserId


class LearnedAnswer(Struct, kw_only=True):
    """A field that an insight states; it is gone when that is."""

    value: str
    insight_id: str
    trust: Trust
    updated_at: datetime


class ProfileAnswer(Struct, kw_only=True):
    """`profile`: what was written, at `version`; 0: nothing was. `learned`: fields that are not in it, by name."""

    user_id: str
    profile: dict[str, Any]
    version: int
    updated_at: datetime | None
    learned: dict[str, LearnedAnswer]


class ProfileWrittenAnswer(Struct, kw_only=True):
    """As ProfileAnswer; `profile` and `learned` only where the caller may read them."""

    user_id: str
    version: int
    updated_at: datetime | None
    profile: dict[str, Any] | UnsetType = UNSET
    learned: dict[str, LearnedAnswer] | UnsetType = UNSET


class ProfileDeletedAnswer(Struct, kw_only=True):
    """`deleted`: whether there was one."""

    status: Literal["success"] = "success"
    user_id: str
    deleted: bool


async def get_profile(service: MemoryService, caller: Caller, body: GetProfile) -> ProfileAnswer:
    return _answer(body.user_id, await service.profiles.get(caller.scope(body.user_id)))


async def put_profile(service: MemoryService, caller: Caller, body: PutProfile) -> ProfileWrittenAnswer:
    scope = caller.scope(body.user_id)
    return _written(caller, body.user_id, await service.profiles.put(scope, body.profile, body.expected_version))


async def patch_profile(service: MemoryService, caller: Caller, body: PatchProfile) -> ProfileWrittenAnswer:
    scope = caller.scope(body.user_id)
    return _written(caller, body.user_id, await service.profiles.patch(scope, body.patch, body.expected_version))


async def delete_profile(service: MemoryService, caller: Caller, body: DeleteProfile) -> ProfileDeletedAnswer:
    deleted = await service.delete_memory(caller.scope(body.user_id), PROFILE_ID)
    return ProfileDeletedAnswer(user_id=body.user_id, deleted=deleted)


PROFILES = (
    Verb(
        method="GET",
        path="/users/{user_id}/profile",
        summary="Tell the profile of a user: what was written, and what was learnt",
        handle=get_profile,
        takes=GetProfile,
        gives=ProfileAnswer,
    ),
    Verb(
        method="PUT",
        path="/users/{user_id}/profile",
        needs="write",
        summary="Write the profile of a user, in place of what was written",
        handle=put_profile,
        takes=PutProfile,
        gives=ProfileWrittenAnswer,
        errors=(409, 507),
    ),
    Verb(
        method="PATCH",
        path="/users/{user_id}/profile",
        needs="write",
        summary="Change parts of what was written of a user",
        handle=patch_profile,
        takes=PatchProfile,
        gives=ProfileWrittenAnswer,
        errors=(409, 507),
    ),
    Verb(
        method="DELETE",
        path="/users/{user_id}/profile",
        needs="erase",
        summary="Delete what was written of a user; what was learnt stays",
        handle=delete_profile,
        takes=DeleteProfile,
        gives=ProfileDeletedAnswer,
        errors=(409, 507),
    ),
)


def _answer(user_id: str, profile: Profile) -> ProfileAnswer:
    return ProfileAnswer(
        user_id=user_id,
        profile=profile.document,
        version=profile.version,
        updated_at=profile.updated_at,
        learned={one.field: _learned(one) for one in profile.learned},
    )


def _written(caller: Caller, user_id: str, profile: Profile) -> ProfileWrittenAnswer:
    """Who may write and not read is not told what is there."""
    answer = ProfileWrittenAnswer(user_id=user_id, version=profile.version, updated_at=profile.updated_at)
    if caller.may("read", user_id):
        told = _answer(user_id, profile)
        answer.profile, answer.learned = told.profile, told.learned
    return answer


def _learned(one: Learned) -> LearnedAnswer:
    return LearnedAnswer(value=one.value, insight_id=one.insight_id, trust=one.trust, updated_at=one.updated_at)

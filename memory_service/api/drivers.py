"""The routes of memory drivers: the engines that follow the record, for those who run the service."""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.schemas import NO_NUL, Body
from memory_service.comparing import Compared
from memory_service.errors import UnsafeStart, ValidationFailed
from memory_service.projections import BUILTIN, PROJECTIONS, key_of
from memory_service.service import MemoryService

SEAL_BYTES = 9
"""Of a cursor: tells one that was answered from one that was made up by mistake."""

DriverName = Annotated[str, Meta(min_length=1, max_length=200, extra_json_schema=NO_NUL)]


class NamedDriver(Body):
    driver: DriverName


class SwitchDrivers(Body):
    drivers: Annotated[
        list[DriverName],
        Meta(max_length=8, description="In the order in which they are asked; none: the record alone"),
    ]


class CompareDriver(Body):
    driver: DriverName
    cursor: Annotated[str, Meta(max_length=10_000, extra_json_schema=NO_NUL)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class DriversAnswer(Struct, kw_only=True):
    """`asked`: who is asked, one after the other, before the record. `drivers`: all that are kept up with it."""

    asked: list[str]
    drivers: list[dict[str, Any]]


class DifferenceAnswer(Struct):
    user_id: str
    missing: int
    surplus: int
    other: int


class ComparedAnswer(Struct, kw_only=True):
    """`lagging_users` were not compared: something is still to be brought. `differences` of the caller's tenant."""

    driver: str
    users: int
    lagging_users: int
    items: int
    differing_users: int
    missing: int
    surplus: int
    other: int
    differences: list[DifferenceAnswer]
    cursor: str
    more: bool


async def list_drivers(service: MemoryService, caller: Caller, body: None) -> DriversAnswer:
    return DriversAnswer(asked=list(service.engines.order), drivers=await service.engines.state())


async def switch(service: MemoryService, caller: Caller, body: SwitchDrivers) -> DriversAnswer:
    names = [name for name in dict.fromkeys(map(key_of, body.drivers)) if name != BUILTIN]
    for name in names:
        if name not in (*PROJECTIONS, *service.engines.names):  # a class is named by those who start the service alone
            known = ", ".join(sorted({BUILTIN, *PROJECTIONS, *service.engines.names}))
            raise ValidationFailed("$.drivers", f"known are {known}")
    try:
        await service.drivers.switch(names)
    except UnsafeStart as exc:
        raise ValidationFailed("$.drivers", str(exc)) from exc
    return await list_drivers(service, caller, None)


async def rebuild(service: MemoryService, caller: Caller, body: NamedDriver) -> DriversAnswer:
    await service.drivers.rebuild(key_of(body.driver))
    return await list_drivers(service, caller, None)


async def drop(service: MemoryService, caller: Caller, body: NamedDriver) -> DriversAnswer:
    await service.drivers.drop(key_of(body.driver))
    return await list_drivers(service, caller, None)


async def compare(service: MemoryService, caller: Caller, body: CompareDriver) -> ComparedAnswer:
    name = key_of(body.driver)
    compared = await service.drivers.compare(name, _cursor_of(body.cursor), body.limit)
    return _answer(name, compared, caller.tenant_id)


DRIVERS = (
    Verb(
        method="GET",
        path="/drivers",
        needs="admin",
        of_service=True,
        summary="List the memory drivers that follow the record, and how they fare",
        handle=list_drivers,
        gives=DriversAnswer,
    ),
    Verb(
        method="POST",
        path="/drivers/switch",
        needs="admin",
        of_service=True,
        summary="Ask other memory drivers from now on, until the service ends",
        handle=switch,
        takes=SwitchDrivers,
        gives=DriversAnswer,
    ),
    Verb(
        method="POST",
        path="/drivers/rebuild",
        needs="admin",
        of_service=True,
        summary="Bring a memory driver everything anew",
        handle=rebuild,
        takes=NamedDriver,
        gives=DriversAnswer,
        errors=(404,),
    ),
    Verb(
        method="POST",
        path="/drivers/compare",
        needs="admin",
        of_service=True,
        summary="Hold a memory driver against the record, so many users at a time",
        handle=compare,
        takes=CompareDriver,
        gives=ComparedAnswer,
        errors=(404,),
    ),
    Verb(
        method="POST",
        path="/drivers/drop",
        needs="admin",
        of_service=True,
        summary="Take away all that a memory driver holds, and keep it up no more",
        handle=drop,
        takes=NamedDriver,
        gives=DriversAnswer,
        errors=(404,),
    ),
)


def _answer(name: str, compared: Compared, tenant_id: str) -> ComparedAnswer:
    differences = compared.differences
    return ComparedAnswer(
        driver=name,
        users=compared.users,
        lagging_users=compared.lagging,
        items=compared.items,
        differing_users=len(differences),
        missing=sum(difference.missing for difference in differences),
        surplus=sum(difference.surplus for difference in differences),
        other=sum(difference.other for difference in differences),
        differences=[
            DifferenceAnswer(one.scope.user_id, one.missing, one.surplus, one.other)
            for one in differences
            if one.scope.tenant_id == tenant_id
        ],
        cursor=_sealed(msgspec.json.encode(compared.cursor)),
        more=compared.more,
    )


def _cursor_of(given: str | None) -> Any:
    if given is None:
        return None
    try:
        cursor = base64.urlsafe_b64decode(given)[SEAL_BYTES:]
    except (binascii.Error, ValueError):
        cursor = b""
    if not cursor or _sealed(cursor) != given:  # a store takes no other than its own
        raise ValidationFailed("$.cursor", "is not one that was answered")
    return msgspec.json.decode(cursor)


def _sealed(cursor: bytes) -> str:
    return base64.urlsafe_b64encode(blake2b(cursor, digest_size=SEAL_BYTES).digest() + cursor).decode()

"""Holds an engine against the record, item by item: what it lacks, has too much, or has in other words."""

from __future__ import annotations

from typing import Any

from memory_service.engines import Engines
from memory_service.mirroring import PAGE, copies_of
from memory_service.redaction import Redactor
from memory_service.stores.base import Store
from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope, Value


class Difference(Value, frozen=True, kw_only=True):
    """Of a user: how many items an engine lacks, has too much, and has in other words."""

    scope: Scope
    missing: int
    surplus: int
    other: int


class Compared(Value, frozen=True, kw_only=True):
    """Of some users: those whose items were compared, and those of whom something is still to be brought.

    `more` says to ask again, from `cursor` on.
    """

    users: int
    lagging: int
    items: int
    differences: list[Difference]
    cursor: Any
    more: bool


async def compare(store: Store, engines: Engines, name: str, cursor: Any, limit: int) -> Compared:
    """Compare what an engine and the record hold of so many users. Raises DriverNotFound, DriverUnavailable."""
    engine = engines.engine(name)
    page = await store.users(cursor, limit)
    items, lagging, differences = 0, 0, []
    for scope in page.scopes:
        before = await store.mirror(scope, name)
        wanted = await wanted_of(store, scope, engines.redactor)
        held = await engine.held(scope)
        if await is_lagging(store, scope, before):
            lagging += 1
            continue
        items += len(wanted)
        difference = Difference(
            scope=scope,
            missing=len(wanted.keys() - held.keys()),
            surplus=len(held.keys() - wanted.keys()),
            other=sum(held[name] != digest for name, digest in wanted.items() if name in held),
        )
        if difference.missing or difference.surplus or difference.other:
            differences.append(difference)
    return Compared(
        users=len(page.scopes) - lagging,
        lagging=lagging,
        items=items,
        differences=differences,
        cursor=page.cursor,
        more=page.more,
    )


async def wanted_of(store: Store, scope: Scope, redactor: Redactor) -> dict[str, str]:
    """What an engine should hold of a user: ids, each with the digest of its text."""
    wanted: dict[str, str] = {}
    cursor, more = None, True
    while more:
        entries = await store.entries(scope, cursor, "", PAGE)
        wanted |= {copy.id: copy.digest for copy in copies_of(entries, redactor)}
        cursor, more = entries.cursor, entries.more
    return wanted


async def is_lagging(store: Store, scope: Scope, mirror: Mirror) -> bool:
    """Whether there was something an engine had not been brought yet, when its mirror was read."""
    if mirror.cursor is None:
        return True
    lacking = await store.entries(scope, mirror.cursor, "", 1)
    return bool(lacking.turns or lacking.memories)

"""What drivers lack of users in Cosmos DB: a document for each driver in a user's partition.

A commit writes nothing for it, so it costs nothing where no driver is followed. Who has something new is found when
somebody asks: by the server's own times of change (`_ts`, which is always indexed), of turns and memories since the
last look. They tell whole seconds: `seen` says which changes of a user are noted already.

Another document for each driver, in a partition of no user, says that it is followed and since when is to be looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from memory_service.stores.bodies import micros, moment
from memory_service.stores.cosmos import batches
from memory_service.stores.cosmos.batches import Operation
from memory_service.stores.cosmos.client import OVERTAKEN, Client, Refused
from memory_service.stores.cosmos.containers import Names
from memory_service.stores.cosmos.documents import (
    API_KEY,
    Document,
    driver_id,
    mirror_id,
    own_of,
    owner_of,
    scope_of,
)
from memory_service.stores.cosmos.feed import Cursor
from memory_service.stores.exports import Users
from memory_service.stores.mirrors import Mirror
from memory_service.values import Scope

T = TypeVar("T")

MIRROR, DRIVER = "mirror", "driver"
OF_USERS = f"NOT ARRAY_CONTAINS(['{MIRROR}', '{DRIVER}', '{API_KEY}', 'epoch', 'erasure', 'receipt'], c.type)"
"""What is kept of users themselves."""
DRIVERS = "~drivers"
"""The partition of drivers: those of users have a bar in their names."""
DUE, DONE = "due", "done"
SKEW_S = 15
"""By how much the clocks of the account's servers may differ, and a change be seen after later ones. One that is seen
later still is not noted; with the user's next one it is brought all the same."""
LOOK_S = 3600
"""Of how long a time changes are asked for at once."""
USERS_AT_ONCE = 16
"""Whose documents are written at the same time."""
OWNERS_AT_ONCE = 1000
"""Named in one question."""
ATTEMPTS = 10

ALL = "SELECT c.owner FROM c WHERE c.id = @id"
COUNT = f"SELECT VALUE COUNT(1) FROM c WHERE c.id = @id AND c.status = '{DUE}'"

_read = msgspec.json.Decoder(Cursor | None).decode


class Mirrors:
    def __init__(self, client: Client, names: Names) -> None:
        self._client, self._names = client, names

    async def follow(self, driver: str, anew: bool, users: Callable[[Any, int], Awaitable[Users]]) -> None:
        """Note everybody, and last that it is followed: what is written meanwhile is found by its time."""
        known = await self._driver("follow", driver)
        since = self._now()
        if known is None or anew:  # those of a driver that was followed before, and not to the end forgotten, too
            await self._each("follow", await self._owners("follow", driver), lambda _: anew_of(mirror_id(driver)))
        if known is not None:
            return
        cursor, more = None, True
        while more:
            page = await users(cursor, 1000)
            owners = map(owner_of, page.scopes)
            await self._each("follow", owners, lambda owner: batches.create(_document(driver, owner, "")))
            cursor, more = page.cursor, page.more
        whole = {"id": driver_id(driver), "owner": DRIVERS, "type": DRIVER, "since": since}
        await self._tried("follow", DRIVERS, batches.create(whole))

    async def unfollow(self, driver: str) -> None:
        await self._tried("unfollow", DRIVERS, ("delete", (driver_id(driver),)))
        owners = await self._owners("unfollow", driver)
        await self._each("unfollow", owners, lambda _: ("delete", (mirror_id(driver),)))

    async def claim(self, driver: str, now: datetime, lease_until: datetime, limit: int) -> list[Mirror]:
        if not limit or not await self._noted("claim_mirrors", driver):
            return []
        sql = f"SELECT TOP {int(limit)} * FROM c WHERE c.id = @id AND c.status = '{DUE}' AND c.lease <= @now"
        values = {"id": mirror_id(driver), "now": micros(now)}
        rows = await self._client.rows("claim_mirrors", self._names.interactions, sql, values)
        found: list[Document | None] = []
        for some in _some_of(rows):
            found += await _all(self._claimed(row, micros(lease_until)) for row in some)
        return [_mirror(driver, document) for document in found if document is not None]

    async def _claimed(self, former: Document, lease: int) -> Document | None:
        """The document as it is now, if it could be leased."""
        whole = {**own_of(former), "lease": lease, "claim": uuid4().hex}
        if await self._tried("claim_mirrors", former["owner"], batches.replace(whole, former)):
            return whole
        held = await self._client.find("claim_mirrors", self._names.interactions, former["id"], former["owner"])
        return held if held is not None and held.get("claim") == whole["claim"] else None  # the answer was lost

    async def put(self, mirror: Mirror, caught_up: bool, lease_until: datetime | None) -> bool:
        """Write over what was read, until nobody wrote in between; its own work, after a lost answer, it knows."""
        name, owner, ours = mirror_id(mirror.driver), owner_of(mirror.scope), _lease(mirror.lease_until)
        for attempt in range(ATTEMPTS):
            held = await self._client.find("put_mirror", self._names.interactions, name, owner)
            if held is None:
                return caught_up and attempt > 0
            counts = bool(held["begun"] == mirror.begun)
            if held["lease"] != ours:
                return counts and attempt > 0 and held.get("under") == ours
            then = {**own_of(held), "lease": 0, "under": ours}
            if counts:
                then |= {"lease": _lease(lease_until), "target": mirror.target, "cursor": _kept(mirror.cursor)}
                then |= {"mirrored": mirror.changed} if caught_up else {}
                then["status"] = DUE if then["changed"] > then["mirrored"] else DONE
            if await self._tried("put_mirror", owner, await self._written(then, held)):
                return counts
        return False

    async def _written(self, then: Document, held: Document) -> Operation:
        """Of a user who was erased, and has been forgotten, it would be the last that is kept.

        Whether that is so is asked after an erasure, and once of a new one: the user may have been erased meanwhile.
        """
        if then["status"] == DUE or not then["perhaps_gone"]:
            return batches.replace(then, held)
        sql = f"SELECT TOP 1 c.id FROM c WHERE {OF_USERS}"
        asked = (self._client.rows("put_mirror", name, sql, {}, held["owner"]) for name in self._names.all)
        if any(await asyncio.gather(*asked)):
            return batches.replace({**then, "perhaps_gone": False}, held)
        return batches.delete(held)

    async def find(self, scope: Scope, driver: str) -> Mirror:
        held = await self._client.find("mirror", self._names.interactions, mirror_id(driver), owner_of(scope))
        return _mirror(driver, held) if held else Mirror(scope=scope, driver=driver)

    async def lagging(self, driver: str) -> int:
        if not await self._noted("lagging", driver):
            return 0
        values = {"id": mirror_id(driver)}
        counts: list[Any] = await self._client.rows("lagging", self._names.interactions, COUNT, values)
        return int(sum(counts))

    # What is new

    async def _noted(self, verb: str, driver: str) -> bool:
        """Note who has something new since the last look; returns whether the driver is followed."""
        known = await self._driver(verb, driver)
        if known is None:
            return False
        since, now = known["since"], self._now()
        while since + LOOK_S < now:  # nobody has looked for long
            await self._look(verb, driver, since, since + LOOK_S)
            since += LOOK_S
        await self._look(verb, driver, since, None)
        if now - SKEW_S - known["since"] >= SKEW_S:
            await self._tried(verb, DRIVERS, batches.replace({**own_of(known), "since": now - SKEW_S}, known))
        return True

    async def _look(self, verb: str, driver: str, since: int, until: int | None) -> None:
        changes = await self._changes(verb, since, until)
        for some in _some_of(changes.items(), OWNERS_AT_ONCE):
            sql = "SELECT c.owner, c.seen FROM c WHERE c.id = @id AND ARRAY_CONTAINS(@owners, c.owner)"
            values = {"id": mirror_id(driver), "owners": [owner for owner, _ in some]}
            held = await self._client.rows(verb, self._names.interactions, sql, values)
            seen = {row["owner"]: row["seen"] for row in held}
            new = [(owner, mark) for owner, mark in some if seen.get(owner) != mark]
            for few in _some_of(new):
                await _all(self._note(verb, driver, *one) for one in few)

    async def _changes(self, verb: str, since: int, until: int | None) -> dict[str, str]:
        """Owners of what changed in a time, each with a mark of all its last changes.

        Back from the last, as far as one may be seen late: so what is asked for begins that much earlier.
        """
        where, values = "c.type = @type AND c._ts >= @after", {"after": since - 2 * SKEW_S}
        if until is not None:
            where, values = f"{where} AND c._ts <= @until", {**values, "until": until}
        sql = f"SELECT c.owner, c._ts, c._etag FROM c WHERE {where}"
        asked = (
            self._client.rows(verb, name, sql, {**values, "type": kind})
            for name, kind in zip(self._names.all, ("turn", "memory", "memory"), strict=True)
        )
        found: dict[str, list[Document]] = {}
        for row in (row for rows in await asyncio.gather(*asked) for row in rows):
            found.setdefault(row["owner"], []).append(row)
        last = {owner: max(row["_ts"] for row in rows) for owner, rows in found.items()}
        return {
            owner: _digest(row["_etag"] for row in rows if row["_ts"] >= last[owner] - SKEW_S)
            for owner, rows in found.items()
            if last[owner] >= since - SKEW_S
        }

    async def _note(self, verb: str, driver: str, owner: str, mark: str) -> None:
        changes = [*_due(), {"op": "set", "path": "/seen", "value": mark}]
        again = "patch", (mirror_id(driver), changes), {"filter_predicate": f"FROM c WHERE c.seen != '{mark}'"}
        for operation in (again, batches.create(_document(driver, owner, mark)), again):
            try:
                await batches.send(self._client, self._names.interactions, [operation], owner, verb)
            except Refused as refused:
                if refused.status == OVERTAKEN:  # noted already
                    return
            else:
                return

    # Documents

    async def _driver(self, verb: str, driver: str) -> Document | None:
        return await self._client.find(verb, self._names.interactions, driver_id(driver), DRIVERS)

    async def _owners(self, verb: str, driver: str) -> list[str]:
        rows = await self._client.rows(verb, self._names.interactions, ALL, {"id": mirror_id(driver)})
        return [row["owner"] for row in rows]

    def _now(self) -> int:
        """By the service's clock, as it was when the last answer was made."""
        dated_at = self._client.meter.dated_at
        return int(dated_at.timestamp()) if dated_at else 0

    async def _each(self, verb: str, owners: Iterable[str], operation: Callable[[str], Operation]) -> None:
        """Do one thing in each of these partitions where it is not refused."""
        for some in _some_of(owners):
            await _all(self._tried(verb, owner, operation(owner)) for owner in some)

    async def _tried(self, verb: str, owner: str, operation: Operation) -> bool:
        try:
            await batches.send(self._client, self._names.interactions, [operation], owner, verb)
        except Refused:
            return False
        return True


def anew_of(name: str) -> Operation:
    """What a driver has of a user is no more to be relied on. Done twice it is the same."""
    changes = [{"op": "set", "path": "/cursor", "value": "null"}, {"op": "incr", "path": "/begun", "value": 1}]
    return "patch", (name, [*_due(), *changes])


def erased(name: str) -> Operation:
    operation, (_, changes) = anew_of(name)
    return operation, (name, [*changes, {"op": "set", "path": "/perhaps_gone", "value": True}])


def _due() -> list[Document]:
    return [{"op": "set", "path": "/status", "value": DUE}, {"op": "incr", "path": "/changed", "value": 1}]


def _document(driver: str, owner: str, mark: str) -> Document:
    return {
        "id": mirror_id(driver),
        "owner": owner,
        "type": MIRROR,
        "status": DUE,
        "lease": 0,
        "target": "",
        "cursor": "null",
        "changed": 1,
        "mirrored": 0,
        "begun": 0,
        "seen": mark,
        "perhaps_gone": True,
    }


def _mirror(driver: str, document: Document) -> Mirror:
    return Mirror(
        scope=scope_of(document),
        driver=driver,
        target=document["target"],
        cursor=_read(document["cursor"]),
        changed=document["changed"],
        begun=document["begun"],
        lease_until=moment(document["lease"]) if document["lease"] else None,
    )


def _kept(cursor: Cursor | None) -> str:
    return msgspec.json.encode(cursor and cursor.to_keep).decode()


def _lease(until: datetime | None) -> int:
    return micros(until) if until else 0


def _digest(etags: Iterable[str]) -> str:
    return blake2b("".join(sorted(etags)).encode(), digest_size=12).hexdigest()


def _some_of(things: Iterable[T], count: int = USERS_AT_ONCE) -> Iterator[list[T]]:
    left = iter(things)
    while some := list(islice(left, count)):
        yield some


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, when none is under way any more."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

"""Copy everything from one store to another.

Both sides of a user are read and only what differs is written: a copy that was cut off goes on when it is begun again,
and one that finds nothing to write has compared everything. While it runs, nobody else may write either store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from hashlib import blake2b
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from memory_service.errors import MemoryServiceError, StoreCorrupt, StoreThrottled
from memory_service.stores.base import Store
from memory_service.stores.exports import Exported
from memory_service.stores.keys import ApiKey
from memory_service.values import Scope, Session, SessionKey, Sitting, Value

T = TypeVar("T")
Name = tuple[str | int, ...]

AT_ONCE = 8
"""Users copied at the same time: a store far away is waited for, not worked for."""
PAGE = 500
_encode = msgspec.json.Encoder(order="deterministic").encode


class Conflict(Value, frozen=True, kw_only=True):
    """A user of whom the target has a session that went another way than the source's: nothing of them was written."""

    scope: Scope
    session_id: str


class Report(Value, frozen=True, kw_only=True):
    """Users looked at, and how many of their things (and of all API keys) were written or found as they should be.

    `damaged`: of whom something cannot be read, in one of the stores.
    """

    users: int = 0
    written: int = 0
    same: int = 0
    conflicts: tuple[Conflict, ...] = ()
    damaged: tuple[Scope, ...] = ()


class Held(Value, frozen=True, kw_only=True):
    """What is remembered of a thing in the target: enough to tell it from the source's."""

    value: bytes
    vector: bytes
    versioned: Session | Sitting | None


class Migration:
    """`check`: write nothing, and count as written what would be. `tell` hears of each user that is done."""

    def __init__(
        self, source: Store, target: Store, *, check: bool = False, tell: Callable[[Report], None] = lambda _: None
    ) -> None:
        self._source, self._target = source, target
        self._check, self._tell = check, tell
        self.report = Report()

    async def run(self) -> Report:
        """Copy every user, and then API keys. What the stores raise ends it; what was copied by then stays."""
        free = asyncio.Semaphore(AT_ONCE)
        cursor, more = None, True
        while more:
            page = await patiently(partial(self._source.users, cursor, PAGE))
            try:
                async with asyncio.TaskGroup() as copying:
                    for scope in page.scopes:
                        copying.create_task(self._copy(scope, free))
            except* MemoryServiceError as failed:
                raise failed.exceptions[0] from None
            cursor, more = page.cursor, page.more
        await self._copy_keys()
        if not self._check:  # else it would be taken for a copy from before them, and rid of who has come back since
            await patiently(partial(self._target.note_erasures, await patiently(self._source.erasures)))
        return self.report

    async def _copy_keys(self) -> None:
        held = {key.key_id: key for key in await patiently(self._target.keys)}
        for key in await patiently(self._source.keys):
            if not _says_more(key, held.get(key.key_id)):
                self._count(same=1)
                continue
            if not self._check:
                await patiently(partial(self._target.put_key, key))
            self._count(written=1)

    async def _copy(self, scope: Scope, free: asyncio.Semaphore) -> None:
        async with free:
            try:
                await self._copy_user(scope)
            except StoreCorrupt:
                self._count(users=1, damaged=scope)

    async def _copy_user(self, scope: Scope) -> None:
        held = {thing.name: _remembered(thing) async for page in _pages(self._target, scope) for thing in page}
        differing: list[Exported] = []
        async for page in _pages(self._source, scope):
            new = [thing for thing in page if not _is_there(thing, held.get(thing.name))]
            for thing in new:
                if await self._went_another_way(scope, thing, held):
                    self._count(users=1, conflict=Conflict(scope=scope, session_id=str(thing.name[1])))
                    return
            self._count(same=len(page) - len(new))
            differing += new
            if page and page[-1].versioned is None:  # they come first: nothing is written before all were looked at
                await self._write(scope, differing)
                differing = []
        await self._write(scope, differing)
        self._count(users=1)
        self._tell(self.report)

    async def _went_another_way(self, scope: Scope, thing: Exported, held: dict[Name, Held]) -> bool:
        """Tell whether the target has of this what the source never was."""
        there = held.get(thing.name)
        if there is None or thing.versioned is None or there.versioned is None:
            return False
        one, other = thing.versioned, there.versioned
        if other.version >= one.version:
            return True
        if not isinstance(one, Session) or not isinstance(other, Session):
            return False
        return one.incarnation != other.incarnation or await self._took_turns(scope, other, held)

    async def _took_turns(self, scope: Scope, there: Session, held: dict[Name, Held]) -> bool:
        """Tell whether the last turn that the target has of a session is not the source's."""
        last = held.get(("turn", there.session_id, there.turn_count))
        if last is None:
            return False
        key = SessionKey(scope=scope, session_id=there.session_id)
        turns = await patiently(partial(self._source.turns, key, there.turn_count - 1, 1))
        return [_digest(Exported(turn=turn)) for turn in turns] != [last.value]

    async def _write(self, scope: Scope, things: list[Exported]) -> None:
        if things and not self._check:
            await patiently(partial(self._target.restore, scope, things))
        self._count(written=len(things))

    def _count(
        self,
        *,
        users: int = 0,
        written: int = 0,
        same: int = 0,
        conflict: Conflict | None = None,
        damaged: Scope | None = None,
    ) -> None:
        self.report = Report(
            users=self.report.users + users,
            written=self.report.written + written,
            same=self.report.same + same,
            conflicts=(*self.report.conflicts, conflict) if conflict else self.report.conflicts,
            damaged=(*self.report.damaged, damaged) if damaged else self.report.damaged,
        )


async def _pages(store: Store, scope: Scope) -> AsyncIterator[list[Exported]]:
    cursor, more = None, True
    while more:
        page = await patiently(partial(store.export, scope, cursor, PAGE))
        yield page.things
        cursor, more = page.cursor, page.more


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Come again whenever a store that is asked for too much says when."""
    while True:
        try:
            return await call()
        except StoreThrottled as exc:
            await asyncio.sleep(exc.retry_after_s)


def _says_more(key: ApiKey, there: ApiKey | None) -> bool:
    """Whether a key is new to the target, or holds no longer, or less long, than it does there."""
    if there is None:
        return True
    if there.revoked_at is not None or key.revoked_at is not None:
        return there.revoked_at is None
    return key.expires_at is not None and (there.expires_at is None or key.expires_at < there.expires_at)


def _digest(value: object) -> bytes:
    return blake2b(_encode(value), digest_size=16).digest()


def _remembered(thing: Exported) -> Held:
    vector = _digest((thing.vector.space, thing.vector.data)) if thing.vector else b""
    return Held(value=_digest(replace(thing, vector=None)), vector=vector, versioned=thing.versioned)


def _is_there(thing: Exported, held: Held | None) -> bool:
    """A vector that only the target has is its own good work."""
    if held is None:
        return False
    wanted = _remembered(thing)
    return wanted.value == held.value and wanted.vector in (b"", held.vector)

"""All that is kept of a user: given out as a file, and taken in from one.

A file is taken in so that it can be cut off anywhere and begun again. Its sessions are stood in for until all else is
there: a stand-in takes no turns and is not reflected on, so nothing is made of half a conversation. Then they come
themselves, each with what is still to be reflected on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Literal, TypeVar, cast

from msgspec.structs import replace

from memory_service.errors import ContentTooLarge, StorageFull, UserExists, UserNotFound
from memory_service.migration import patiently
from memory_service.pool import SessionPool
from memory_service.stores.base import Store
from memory_service.stores.exports import Exported, Exports
from memory_service.user_files import KINDS, Consistent, Foot, Head, UserFile, digest_of, in_pages, line_of
from memory_service.values import Scope, Session, SessionKey, Sitting, Value

PAGE = 100
"""Things that are read or written together; a turn may be of some hundred kilobytes."""
STANDS_IN = "import-"
NO_ROOM = "there is no room for the file; nothing was stored"

TOLD_EVERY_S = 5.0

T = TypeVar("T")
Tell = Callable[[], object]
Name = tuple[str | int, ...]
Taken = Literal["created", "completed", "unchanged"]


class Imported(Value, frozen=True, kw_only=True):
    """What was in a file, by kind, and what that took: `completed` is what an earlier import was cut off from."""

    counts: dict[str, int]
    change: Taken


def stand_in(session: Session) -> Session:
    """What is in the place of a session while its turns are brought: over, and with nothing alive."""
    return replace(
        session,
        incarnation=f"{STANDS_IN}{session.incarnation}",
        status="ended",
        ended_by="client",
        opened_at_seq=session.turn_count + 1,
        handed_over_through=session.turn_count,
        cumulative_summary="",
    )


class Transfers:
    """`changed` is told whose memory is another one now. `most_bytes`: the largest file that is taken in."""

    def __init__(self, store: Store, pool: SessionPool, changed: Callable[[Scope], None], *, most_bytes: int) -> None:
        self._store, self._pool, self._changed, self._most_bytes = store, pool, changed, most_bytes

    async def export(self, scope: Scope) -> AsyncIterator[bytes]:
        """Return the lines of a file of all that is kept of a user, read page by page. Raises UserNotFound."""
        page = await self._page(scope)
        if not page.things:
            raise UserNotFound
        return self._lines(scope, page)

    async def _page(self, scope: Scope, cursor: Any = None) -> Exports:
        return await patiently(partial(self._store.export, scope, cursor, PAGE))

    async def _lines(self, scope: Scope, page: Exports) -> AsyncIterator[bytes]:
        consistent, count = Consistent(), 0
        yield line_of(Head(user_id=scope.user_id))
        while True:
            for thing in filter(None, map(consistent.of, page.things)):
                yield line_of(thing)
                count += 1
            if not page.more:
                break
            page = await self._page(scope, page.cursor)
        yield line_of(Foot(things=count))

    @asynccontextmanager
    async def received(self, parts: AsyncIterator[bytes], tell: Tell) -> AsyncIterator[UserFile]:
        """Keep what comes in a file of its own while the block lasts, and check all of it.

        `tell` hears that it goes on. Raises ContentTooLarge, ValidationFailed, StorageFull.
        """
        with _spool() as file:
            size = 0
            async for part in parts:
                size += len(part)
                if size > self._most_bytes:
                    raise ContentTooLarge(self._most_bytes)
                _keep(file, part)
            yield await _in_thread(tell, UserFile, file)

    async def take_in(self, scope: Scope, file: UserFile, tell: Tell) -> Imported:
        """Make a user what a file says; `tell` hears that it goes on.

        Nothing is written of one who is just so already. Raises UserExists for one of whom something else is kept.
        """
        held = await self._held(scope, file, tell)
        if len(held) == sum(file.counts.values()):
            return Imported(counts=file.counts, change="unchanged")
        try:
            await self._write(scope, file, held, tell)
        finally:
            self._changed(scope)
        return Imported(counts=file.counts, change="completed" if held else "created")

    async def _held(self, scope: Scope, file: UserFile, tell: Tell) -> set[Name]:
        """Names of what is there of a file. Raises UserExists if there is anything else, and no import was cut off."""
        page = await self._page(scope)
        if not page.things:
            return set()
        wanted = await _in_thread(tell, file.digests)
        stand_ins: dict[Name, bytes] = {
            ("session", one.session_id): digest_of(Exported(session=stand_in(one))) for one in file.sessions()
        }
        held: set[Name] = set()
        differs = unfinished = False
        while True:
            for thing in page.things:
                name, digest = thing.name, digest_of(thing)
                if stand_ins.get(name) == digest:
                    unfinished = True
                    continue
                differs = differs or wanted.get(name) != digest
                if name in wanted:
                    held.add(name)
            if not page.more:
                break
            page = await self._page(scope, page.cursor)
            tell()
        if differs and not unfinished:
            raise UserExists
        return held

    async def _write(self, scope: Scope, file: UserFile, held: set[Name], tell: Tell) -> None:
        sessions = [session for session in file.sessions() if ("session", session.session_id) not in held]
        pages = [sessions[start : start + PAGE] for start in range(0, len(sessions), PAGE)]
        for page in pages:
            await self._put_sessions(scope, page, [Exported(session=stand_in(session)) for session in page])
            tell()
        for things in in_pages(_between(file, held), PAGE):
            await self._restore(scope, things)
            tell()
        to_do = _sittings(file, held)
        for page in pages:
            sittings = [Exported(sitting=one) for session in page for one in to_do.pop(session.session_id, ())]
            await self._put_sessions(scope, page, [*(Exported(session=session) for session in page), *sittings])
            tell()
        await self._restore(scope, [Exported(sitting=one) for left in to_do.values() for one in left])

    async def _put_sessions(self, scope: Scope, sessions: list[Session], things: list[Exported]) -> None:
        """Write sessions where there are none, or what stands in for them; nobody can use them meanwhile.

        Raises UserExists if somebody else has begun one of them.
        """
        async with AsyncExitStack() as leases:
            entries = []
            for session in sessions:
                key = SessionKey(scope=scope, session_id=session.session_id)
                entry = await leases.enter_async_context(self._pool.lease(key))
                if entry.hot is not None and entry.hot.session != stand_in(session):
                    raise UserExists
                entries.append(entry)
            try:
                await self._restore(scope, things)
            finally:
                for entry in entries:
                    entry.show(None)

    async def _restore(self, scope: Scope, things: list[Exported]) -> None:
        if things:
            await patiently(partial(self._store.restore, scope, things))


async def _in_thread(tell: Tell, work: Callable[..., T], *args: Any) -> T:
    """Do it beside the loop, and tell that it goes on."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *args))
    while not working.done():
        await asyncio.wait([working], timeout=TOLD_EVERY_S)
        tell()
    return await working


def _spool() -> BinaryIO:
    try:
        return cast(BinaryIO, TemporaryFile())
    except OSError as exc:
        raise StorageFull(NO_ROOM) from exc


def _keep(file: BinaryIO, part: bytes) -> None:
    try:
        file.write(part)
    except OSError as exc:
        raise StorageFull(NO_ROOM) from exc


def _between(file: UserFile, held: set[Name]) -> Iterable[Exported]:
    """What is neither a session nor to be done, and not there."""
    return (thing for thing in file.things() if thing.versioned is None and thing.name not in held)


def _sittings(file: UserFile, held: set[Name]) -> dict[str, list[Sitting]]:
    """Those that are not there, by session."""
    found = defaultdict(list)
    for thing in file.first(KINDS[:2]):
        if thing.sitting is not None and thing.name not in held:
            found[thing.sitting.session_id].append(thing.sitting)
    return found

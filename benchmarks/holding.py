"""What hot sessions take of a process: memory, full collections, processor time. `benchmarks.pool` starts it.

    python -m benchmarks.holding PLAN

PLAN is JSON of the `Plan` below; the figures are printed as JSON. Everything is the service's own, called in this
process: requests go through its application to its pool, and only what they leave behind is measured.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import msgspec
import uvloop

from benchmarks.figures import median
from benchmarks.pieces import Pieces
from benchmarks.quiet import CALM
from benchmarks.servers import resident_bytes
from memory_service.app import Surroundings, app_around, make_parts, make_service
from memory_service.llm.offline import LocalEmbedder, OfflineReader
from memory_service.service import MemoryService, Parts
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.base import Commit, Store
from memory_service.stores.transient import TransientStore
from memory_service.values import Message, Scope, Session, SessionKey, Turn

TURN_BYTES = 700
LETTERS = {"plain": "", "a dash": "\u2013", "an emoji": "\U0001f600"}
"""What stands in each message beside ASCII: one letter decides how wide Python keeps all of a text."""
WARMING_UP, PARTS, COLLECTIONS = 3, 10, 3
QUIET_S, MOST_WAITS = 0.02, 500
MOST_ASKED, MOST_LOOKED_AT, MOST_READ = 10_000, 1000, 2000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """So many sessions of so many turns, each of a user of its own.

    With a `store_url` they are on record there (`fill`) and are restored; without one they are begun and grow turn by
    turn, over a store that keeps nothing.
    """

    sessions: int
    turns: int
    letters: str = "plain"
    store_url: str = ""

    @property
    def too_many(self) -> int:
        """How many sessions come at the end on top of those that there is room for."""
        return max(1, min(self.sessions // 10, 1000))


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a session takes, the mean of all.

    Processor time: `come_us` to have it here, `context_us` for its first context, `hit_us` to find it again, `start_us`
    to begin one for which another has to go; of the first the collector took `collector_us`. `pieces`: bytes by what
    they are of, its context made. `collect_ms` is of a full collection, as far as it is for what sessions added.
    """

    bytes_each: float
    bytes_with_context: float
    come_us: float
    collector_us: float
    context_us: float
    collect_ms: float
    collect_with_context_ms: float
    tracked_each: float
    hit_us: float
    start_us: float
    evicted: int
    pieces: dict[str, float]
    problems: list[str]


class Careless(TransientStore):
    """Takes everything and keeps nothing: what memory there is, is of the pool."""

    async def _commit(self, commit: Commit) -> None: ...


class Holding:
    """A service in this process, and requests to it."""

    def __init__(self, plan: Plan, parts: Parts, app: Any, service: MemoryService) -> None:
        self._plan, self._store, self._pool, self._scheduler = plan, parts.store, parts.pool, parts.scheduler
        self._app, self._service = app, service
        self._words = words(plan.letters)

    async def figures(self) -> Figures:
        for number in range(WARMING_UP):
            await self._come(-1 - number)
            await self._context(-1 - number)
        await self._quiet()
        self._pool.evict_all()
        for number in range(min(self._plan.sessions, MOST_READ)):  # what the store keeps of its pages is no session's
            await self._store.load(key_of(number))
        gc.collect()
        gc.freeze()  # what is here by now is not looked through: collections are those of sessions
        bytes_before, tracked_before = settled_bytes(), len(gc.get_objects())
        with collector() as took:
            come_us = await self._each(self._come)
        held, collect_ms = settled_bytes() - bytes_before, collection_ms()
        tracked = len(gc.get_objects()) - tracked_before
        context_us = await self._each(self._context)
        with_context, later_ms = settled_bytes() - bytes_before, collection_ms()
        pieces = await self._pieces(with_context / self._plan.sessions)
        hit_us = await self._hits()
        start_us, evicted, problems = await self._evictions()
        return Figures(
            bytes_each=held / self._plan.sessions,
            bytes_with_context=with_context / self._plan.sessions,
            come_us=come_us,
            collector_us=sum(took) / self._plan.sessions * 1e6,
            context_us=context_us,
            collect_ms=collect_ms,
            collect_with_context_ms=later_ms,
            tracked_each=tracked / self._plan.sessions,
            hit_us=hit_us,
            start_us=start_us,
            evicted=evicted,
            pieces=pieces,
            problems=problems,
        )

    async def _come(self, number: int) -> None:
        """Have a session here, without a context of it."""
        if self._plan.store_url:
            await self._pool.read(key_of(number))
            return
        await self._start(number)
        for _ in range(self._plan.turns):
            await self._ask("/memory/store", **names_of(number), **self._words)

    async def _start(self, number: int) -> None:
        await self._ask("/sessions/start", **names_of(number))

    async def _context(self, number: int) -> None:
        await self._ask("/memory/context", **names_of(number))

    async def _ask(self, path: str, **fields: str) -> None:
        body = msgspec.json.encode(fields)
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1),
            "state": {"service": self._service},
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message.get("status", 200) != 200:
                raise RuntimeError(f"{path} was answered {message['status']}")

        await self._app(scope, receive, send)

    async def _each(self, do: Callable[[int], Awaitable[None]]) -> float:
        """Do it for each session; returns the processor time of one in microseconds, the median of ten parts."""
        whole, took = self._plan.sessions, []
        bounds = [whole * part // PARTS for part in range(PARTS + 1)]
        for begin, end in pairwise(bounds):
            cpu = time.process_time()
            for number in range(begin, end):
                await do(number)
            took += [(time.process_time() - cpu) / (end - begin) * 1e6] if end > begin else []
        await self._quiet()
        return median(took) or 0.0

    async def _quiet(self) -> None:
        """Wait until what requests leave to be done in the background is done."""
        for _ in range(MOST_WAITS):
            jobs = self._scheduler.stats()
            if not jobs["waiting"] and not jobs["running"]:
                return
            await asyncio.sleep(QUIET_S)

    async def _pieces(self, whole: float) -> dict[str, float]:
        """Bytes of a session by what they are of; what is of no object is of the pool's tables, or room between."""
        pieces = Pieces()
        looked_at = min(self._plan.sessions, MOST_LOOKED_AT)
        for number in range(looked_at):
            pieces.add(await self._pool.read(key_of(number)))
        each = {name: size / looked_at for name, size in pieces.sizes.items()}
        return {**each, "tables, and room between": whole - sum(each.values())}

    async def _hits(self) -> float:
        """Processor time of one hit in microseconds; sessions are asked for in no order."""
        keys = [key_of(number) for number in range(min(self._plan.sessions, MOST_ASKED))]
        random.Random(1).shuffle(keys)
        took = []
        for _ in range(COLLECTIONS):
            cpu = time.process_time()
            for key in keys:
                await self._pool.read(key)
            took.append((time.process_time() - cpu) / len(keys) * 1e6)
        return min(took)

    async def _evictions(self) -> tuple[float, int, list[str]]:
        """Begin more sessions than there is room for; returns the time of one, how many went, and what was wrong."""
        before, cpu = self._pool.stats(), time.process_time()
        for number in range(self._plan.too_many):
            await self._start(self._plan.sessions + number)
        cpu, after = time.process_time() - cpu, self._pool.stats()
        gone, held = after["evictions"] - before["evictions"], after["total_sessions"]
        problems = []
        if gone != self._plan.too_many:
            problems.append(f"{self._plan.too_many} sessions too many were begun, and {gone} were evicted")
        if held != self._plan.sessions:
            problems.append(f"the pool holds {held} sessions and was to hold {self._plan.sessions}")
        return cpu / self._plan.too_many * 1e6, gone, problems


@asynccontextmanager
async def holding(plan: Plan) -> AsyncIterator[Holding]:
    settings = Settings(
        _env_file=None, store_url=plan.store_url or "transient:", max_sessions=plan.sessions, auth_mode="none", **CALM
    )
    async with AsyncExitStack() as stack:
        store: Store = make_store(settings) if plan.store_url else Careless()
        await store.start(stack)
        around = Surroundings()
        parts = make_parts(settings, store, OfflineReader(), LocalEmbedder(), around)
        await parts.recall.start(stack)
        await parts.scheduler.start(stack)
        service = make_service(settings, parts, around)
        yield Holding(plan, parts, app_around(nullcontext(service), settings, around), service)


def key_of(number: int) -> SessionKey:
    return SessionKey(scope=Scope(user_id=f"user-{number}"), session_id=f"session-{number}")


def names_of(number: int) -> dict[str, str]:
    return {"user_id": f"user-{number}", "session_id": f"session-{number}"}


def words(letters: str) -> dict[str, str]:
    """What a turn says: a third of it the user's, and in each message that letter."""
    user = "A question, and what it is about. " * 7 + LETTERS[letters]
    agent = "What is known of it, and what is not. " * 12 + LETTERS[letters]
    return {"user_message": user[-(TURN_BYTES // 3) :], "agent_message": agent[-(TURN_BYTES - TURN_BYTES // 3) :]}


def settled_bytes() -> int:
    """Memory the process holds, when what can be given back was."""
    gc.collect()
    with suppress(OSError, AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes(os.getpid())


@contextmanager
def collector() -> Iterator[list[float]]:
    """Seconds of processor time of each collection there is meanwhile, of whatever generation."""
    took: list[float] = []

    def noted(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            took.append(-time.thread_time())
        else:
            took[-1] += time.thread_time()

    gc.callbacks.append(noted)
    try:
        yield took
    finally:
        gc.callbacks.remove(noted)


def collection_ms() -> float:
    """Processor time of a full collection: the least of a few."""
    took = []
    for _ in range(COLLECTIONS):
        cpu = time.process_time()
        gc.collect()
        took.append((time.process_time() - cpu) * 1e3)
    return min(took)


async def fill(plan: Plan) -> None:
    """Put the sessions on record, all turns of one by one commit, and a few to warm up with."""
    said = words(plan.letters)
    messages = (
        Message(role="user", content=said["user_message"]),
        Message(role="assistant", content=said["agent_message"]),
    )
    async with AsyncExitStack() as stack:
        store = make_store(Settings(_env_file=None, store_url=plan.store_url))
        await store.start(stack)
        numbers = range(-WARMING_UP, plan.sessions)
        for begin in range(0, len(numbers), 256):
            commits = (_whole(number, plan.turns, messages) for number in numbers[begin : begin + 256])
            await asyncio.gather(*map(store.commit, commits))


def _whole(number: int, count: int, messages: tuple[Message, ...]) -> Commit:
    key, now = key_of(number), datetime.now(UTC)
    turns = tuple(
        Turn(
            session_id=key.session_id,
            seq=seq,
            turn_id=uuid4().hex,
            messages=messages,
            created_at=now,
            received_at=now,
        )
        for seq in range(1, count + 1)
    )
    head = Session(session_id=key.session_id, incarnation=uuid4().hex, created_at=now, touched_at=now, turn_count=count)
    return Commit(scope=key.scope, session=head, turns=turns)


async def measured(plan: Plan) -> Figures:
    async with holding(plan) as held:
        return await held.figures()


if __name__ == "__main__":
    figures = uvloop.run(measured(msgspec.json.decode(sys.argv[1], type=Plan)))
    print(msgspec.json.encode(figures).decode())

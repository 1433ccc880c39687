"""Durable turns per second of the store, beside what the engine and the disk under it do, in the same run.

    python -m benchmarks.store [--seconds 0.5] [--rounds 3] [--writers 1,4,16,64,256] [--store URL] [--json FILE]

Each writer has a session of its own and commits one turn of 700 bytes after the other through the contract of the
store; then the same bytes go past it (`benchmarks.raw`), the contestants in turn. `of raw` is the ratio to SQLite in
groups, of the same round; the processor time is that of the whole process, writers included. Another store than
SQLite stands alone, and what was written to it is erased afterwards.
Exit status 1 if a turn that was acknowledged is not there when all is closed and opened anew.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import click
import msgspec
import uvloop
from msgspec.structs import replace

from benchmarks.disk import fsync_times
from benchmarks.figures import median, percentile, shown, table
from benchmarks.http import machine, numbers, say
from benchmarks.raw import ENGINES, Engine, Row
from benchmarks.servers import work_folder
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.base import Commit, Store
from memory_service.stores.bodies import text_of
from memory_service.values import Message, Scope, Session, SessionKey, Turn

TURN_BYTES = 700
USER_WORDS, AGENT_WORDS = "A question, and what it is about. " * 7, "What is known of it, and what is not. " * 12
STORE, GROUPED = "store", next(iter(ENGINES))
HEADS = ["what", "writers", "commits/s", "of raw", "p50 ms", "p99 ms", "CPU us", "per group"]
READ_AT_ONCE = 1000


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run comes to. `per_group`: commits that were made durable together, where that is told."""

    commits: int
    commits_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    per_group: float | None


class Round(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    name: str
    writers: int
    figures: Figures


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    rounds: int
    writers: list[int]
    store: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`turns`: acknowledged by all contestants together. A URL may hold secrets: the plan names the scheme alone."""

    plan: Plan
    machine: dict[str, Any]
    fsync_p50_ms: float | None
    medians: list[dict[str, Any]]
    turns: int
    problems: list[str]
    rounds: list[Round]


class Contestant(Protocol):
    """What takes turns. Sessions are numbered from 0; each has a writer at a time."""

    acknowledged: list[int]

    async def write(self, session: int) -> None:
        """Make the next turn of a session durable."""

    def counters(self) -> dict[str, Any]:
        """How many `commits` and `groups` there were, where that is known."""

    async def stop(self) -> None: ...
    async def problems(self) -> list[str]:
        """Open what was stopped anew and tell what is not as it was acknowledged."""


class RealStore:
    """The store that the settings choose, asked through its contract."""

    def __init__(self, url: str, sessions: int) -> None:
        self._settings = Settings(_env_file=None, store_url=url)
        self._run = uuid4().hex[:12]
        now = datetime.now(UTC)
        self._heads = [
            Session(session_id=f"session-{number}", incarnation=uuid4().hex, created_at=now, touched_at=now)
            for number in range(sessions)
        ]
        self._scopes = [Scope(user_id=f"benchmark-{self._run}-{number}") for number in range(sessions)]
        self.acknowledged = [0] * sessions
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self._store = await self._opened(self._stack)
        begun = zip(self._scopes, self._heads, strict=True)
        await asyncio.gather(*(self._store.commit(Commit(scope=scope, session=head)) for scope, head in begun))

    async def _opened(self, stack: AsyncExitStack) -> Store:
        store = make_store(self._settings)
        await store.start(stack)
        return store

    async def write(self, session: int) -> None:
        head, scope = self._heads[session], self._scopes[session]
        turn = turn_of(head, datetime.now(UTC))
        then = head.with_turn(turn)
        await self._store.commit(Commit(scope=scope, session=then, turns=(turn,)))
        self._heads[session] = then
        self.acknowledged[session] += 1

    def counters(self) -> dict[str, Any]:
        return self._store.usage()

    async def stop(self) -> None:
        await self._stack.aclose()

    async def problems(self) -> list[str]:
        async with AsyncExitStack() as stack:
            store = await self._opened(stack)
            return [problem for number in range(len(self._heads)) async for problem in self._lost(store, number)]

    async def _lost(self, store: Store, session: int) -> AsyncIterator[str]:
        acknowledged, head = self.acknowledged[session], self._heads[session]
        key = SessionKey(scope=self._scopes[session], session_id=head.session_id)
        stored = await store.head(key)
        if stored != head:
            yield f"{STORE}: the head of session {session} is not the one that was acknowledged"
        there = 0
        while turns := await store.turns(key, there, READ_AT_ONCE):
            for turn in turns:
                there += 1
                if (turn.seq, turn.turn_id, turn.messages) != (there, turn_id_of(there), WORDS):
                    yield f"{STORE}: turn {there} of session {session} is not the one that was acknowledged"
        if there != acknowledged:
            yield f"{STORE}: {acknowledged} turns of session {session} acknowledged, {there} there"

    async def erase(self) -> None:
        async with AsyncExitStack() as stack:
            store = await self._opened(stack)
            for scope in self._scopes:
                await store.erase(scope)


class Raw:
    """An engine of `benchmarks.raw`, written to as the store is."""

    def __init__(self, name: str, engine: Engine, sessions: int) -> None:
        self._name, self._engine = name, engine
        now = datetime.now(UTC)
        head = Session(session_id="session-000", incarnation=uuid4().hex, created_at=now, touched_at=now)
        turn = turn_of(head, now)
        # made once: an engine has to keep bytes, not to make them
        self._head, self._body = text_of(head.with_turn(turn)), text_of(turn)
        self.acknowledged = [0] * sessions

    async def write(self, session: int) -> None:
        seq = self.acknowledged[session] + 1
        await self._engine.write(Row(session + 1, seq, turn_id_of(seq), self._body, self._head))
        self.acknowledged[session] = seq

    def counters(self) -> dict[str, Any]:
        return {"commits": self._engine.commits, "groups": self._engine.groups}

    async def stop(self) -> None:
        self._engine.stop()

    async def problems(self) -> list[str]:
        there = self._engine.found()
        return [
            f"{self._name}: {acknowledged} turns of session {session} acknowledged, {len(there.get(session, []))} there"
            for session, acknowledged in enumerate(self.acknowledged, 1)
            if there.get(session, []) != [*range(1, acknowledged + 1)]
        ]


def turn_id_of(seq: int) -> str:
    return f"turn-{seq:012}"


WORDS = (
    Message(role="user", content=USER_WORDS[: TURN_BYTES // 3]),
    Message(role="assistant", content=AGENT_WORDS[: TURN_BYTES - TURN_BYTES // 3]),
)


def turn_of(head: Session, now: datetime) -> Turn:
    """The next turn of a session."""
    seq = head.turn_count + 1
    return Turn(
        session_id=head.session_id,
        seq=seq,
        turn_id=turn_id_of(seq),
        messages=WORDS,
        created_at=now,
        received_at=now,
    )


async def measured(contestant: Contestant, writers: int, seconds: float) -> Figures:
    """Let so many write, each turn after the other, for so long."""
    latencies: list[float] = []
    before, cpu = contestant.counters(), time.process_time()
    began = time.perf_counter()

    async def write_on(session: int) -> None:
        then = time.perf_counter()
        while then < began + seconds:
            await contestant.write(session)
            now = time.perf_counter()
            latencies.append(now - then)
            then = now

    await asyncio.gather(*(write_on(session) for session in range(writers)))
    took = time.perf_counter() - began
    cpu, after = time.process_time() - cpu, contestant.counters()
    return Figures(
        commits=len(latencies),
        commits_per_s=len(latencies) / took,
        p50_ms=percentile(latencies, 0.5) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
        cpu_us=cpu / len(latencies) * 1e6,
        per_group=per_group(before, after),
    )


def per_group(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    if "groups" not in after or after["groups"] == before["groups"]:
        return None
    return float((after["commits"] - before["commits"]) / (after["groups"] - before["groups"]))


@asynccontextmanager
async def contestants(plan: Plan, folder: Path) -> AsyncIterator[dict[str, Contestant]]:
    """The store, and without a URL of another one the engines; what is given is started."""
    sessions = max(plan.writers)
    store = RealStore(plan.store or f"sqlite:///{folder}/store.db", sessions)
    await store.start()
    taking_part: dict[str, Contestant] = {STORE: store}
    for place, (name, make) in enumerate(ENGINES.items() if not plan.store else ()):
        engine = make(folder / f"raw-{place}", sessions)
        engine.start()
        taking_part[name] = Raw(name, engine, sessions)
    try:
        yield taking_part
    finally:
        if plan.store:
            await store.erase()


async def rounds_of(plan: Plan, taking_part: dict[str, Contestant]) -> AsyncIterator[Round]:
    for number in range(1, plan.rounds + 1):
        for writers in plan.writers:
            for name, contestant in taking_part.items():
                figures = await measured(contestant, writers, plan.seconds)
                say(f"round {number}: {name}, {writers} writers: {figures.commits_per_s:,.0f}/s")
                yield Round(number=number, name=name, writers=writers, figures=figures)


async def report_of(plan: Plan, folder: Path) -> Report:
    synced = fsync_times(folder, plan.seconds) if not plan.store else []
    async with contestants(plan, folder) as taking_part:
        rounds = [round_ async for round_ in rounds_of(plan, taking_part)]
        problems = []
        for contestant in taking_part.values():
            await contestant.stop()
            problems += await contestant.problems()
        return Report(
            plan=replace(plan, store=plan.store.partition(":")[0]),
            machine=machine(),
            fsync_p50_ms=percentile(synced, 0.5) * 1e3 if synced else None,
            medians=list(medians(rounds, plan, [*taking_part])),
            turns=sum(sum(contestant.acknowledged) for contestant in taking_part.values()),
            problems=problems,
            rounds=rounds,
        )


def medians(rounds: list[Round], plan: Plan, names: list[str]) -> Iterator[dict[str, Any]]:
    """One row for each number of writers and contestant, the ratios being of the same round."""
    seen = {(round_.number, round_.name, round_.writers): round_.figures for round_ in rounds}
    for writers in plan.writers:
        for name in names:
            figures = [seen[number, name, writers] for number in range(1, plan.rounds + 1)]
            raw = [seen.get((number, GROUPED, writers)) for number in range(1, plan.rounds + 1)]
            row = {field: median(getattr(one, field) for one in figures) for field in Figures.__struct_fields__}
            pairs = zip(figures, raw, strict=True)
            ratio = median(one.commits_per_s / to.commits_per_s for one, to in pairs if to is not None)
            yield {"name": name, "writers": writers, **row, "of_raw": ratio}


def tell(report: Report) -> str:
    """The table, and whether all was found again."""
    alone = [f"One fdatasync of a page alone: p50 {shown(report.fsync_p50_ms, 3)} ms."] if report.fsync_p50_ms else []
    lines = [
        table(HEADS, [_row(row) for row in report.medians]),
        "",
        *alone,
        f"Opened anew: {report.turns:,} acknowledged turns looked for; {len(report.problems)} problems.",
    ]
    return "\n".join([*lines, *report.problems[:5]])


def _row(row: dict[str, Any]) -> list[str]:
    rates = [shown(row["commits_per_s"]), shown(row["of_raw"], 2)]
    times = [shown(row["p50_ms"], 2), shown(row["p99_ms"], 2), shown(row["cpu_us"])]
    return [row["name"], str(row["writers"]), *rates, *times, shown(row["per_group"], 1)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=0.5, show_default=True, help="Length of one round of one contestant.")
@click.option("--rounds", default=3, show_default=True, help="Rounds, of which medians are taken.")
@click.option("--writers", default="1,4,16,64,256", show_default=True, callback=numbers, help="Numbers of writers.")
@click.option("--store", default="", help="URL of another store, which is then measured alone.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(
    seconds: float, rounds: int, writers: list[int], store: str, folder: Path | None, json_file: Path | None
) -> None:
    """Measure commits of one turn each, through the store and past it."""
    plan = Plan(seconds=seconds, rounds=rounds, writers=writers, store=store)
    with work_folder(folder) as work:
        report = uvloop.run(report_of(plan, work))  # the loop that the service runs on
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()

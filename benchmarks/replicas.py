"""What several services on one PostgreSQL ask of it: pool hits and round trips of each HTTP verb.

    python -m benchmarks.replicas [--sessions 60] [--turns 10] [--replicas 1,2,3] [--redis] [--folder DIR] [--json FILE]

It starts the PostgreSQL server of the tests, with `--redis` a Redis too, and the services, each a process of its own.
Requests are dealt out to them by round robin, or each session's to one (sticky). All sessions start; then for each turn
all ask for their context and all store; then all search. Background work is held back, so what is counted is what
callers asked for.

Exit status 1 if a request was not answered 200, a verb asked for more than is right, or an acknowledged turn is not
there, once, under its number and seen by every replica.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import click
import httpx2
import msgspec

from benchmarks.cosmos_actions import AGENT_WORDS, QUESTION, USER_WORDS
from benchmarks.figures import percentile, shown, table
from benchmarks.http import machine, numbers, say
from benchmarks.ledger import Ledger
from benchmarks.load import Answer
from benchmarks.servers import Server, quiet_service, work_folder
from tests.postgres.launcher import PostgresServer
from tests.redis.launcher import RedisServer

Routing = Literal["round robin", "sticky"]
ROUTINGS: tuple[Routing, ...] = ("round robin", "sticky")
VERBS = {
    "start": "/sessions/start",
    "context": "/memory/context",
    "store": "/memory/store",
    "retrieve": "/memory/retrieve",
}
SEARCHES = 2
AT_ONCE = 16
HEADS = ["replicas", "routing", "verb", "requests", "pool hits", "Redis hits", "round trips", "of which", "p50 ms"]
OWN: dict[str, dict[str, float]] = {
    "context": {"head": 1, "load": 0},
    "store": {"head": 0, "load": 0, "commit": 1},
}
"""What one request may ask for where nobody else has written to its session."""
OTHERS: dict[str, dict[str, float]] = {
    "context": {"head": 1, "load": 1},
    "store": {"head": 0, "load": 1, "commit": 2},
}
"""And where somebody else has: a context is loaded anew, a store is refused, loaded and made once more."""
THROUGH_REDIS: dict[str, dict[str, float]] = {
    "context": {"head": 2, "load": 1},
    "store": {"head": 1, "load": 1, "commit": 2},
}
"""With Redis: what was found there is held against the head once more, and loaded only if it is not of that."""
MEANING = (
    "Round trips are statements, each one round trip; a start sends some of its at the same time. Two cores show"
    " correctness and round trips, not throughput: the times say what one call takes here, not what replicas add."
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Means of one HTTP verb; `asked`: by verb of the store. `hit_rate` is None if no session was asked for,
    `redis_rate` (of those that the pool did not have) if Redis was asked for none.
    """

    replicas: int
    routing: Routing
    verb: str
    requests: int
    hit_rate: float | None
    redis_rate: float | None
    redis: bool
    asked: dict[str, float]
    p50_ms: float

    @property
    def round_trips(self) -> float:
        return sum(self.asked.values())

    @property
    def problems(self) -> list[str]:
        alone = self.replicas == 1 or self.routing == "sticky"
        others = THROUGH_REDIS if self.redis else OTHERS
        most = (OWN if alone else others).get(self.verb, {})
        name = f"{self.replicas} replicas, {self.routing}, {self.verb}"
        return [
            f"{name}: {self.asked.get(verb, 0):.2f} times {verb}, at most {allowed:g} is right"
            for verb, allowed in most.items()
            if self.asked.get(verb, 0) > allowed
        ]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    machine: dict[str, Any]
    rows: list[Row]
    turns: int
    lost: list[str]

    @property
    def problems(self) -> list[str]:
        return [*self.lost, *(problem for row in self.rows for problem in row.problems)]


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What the replicas have counted since they began."""

    sessions: Counter[str]
    asked: Counter[str]

    def since(self, before: Spent) -> Spent:
        return Spent(sessions=self.sessions - before.sessions, asked=self.asked - before.asked)


class Sums:
    """What all requests of one HTTP verb came to."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.asked: Counter[str] = Counter()
        self.sessions: Counter[str] = Counter()

    def add(self, spent: Spent, times: Iterable[float]) -> None:
        self.times += times
        self.asked += spent.asked
        self.sessions += spent.sessions

    def row(self, replicas: int, routing: Routing, verb: str, redis: bool) -> Row:
        requests = len(self.times)
        return Row(
            replicas=replicas,
            routing=routing,
            verb=verb,
            requests=requests,
            hit_rate=self._rate("pool"),
            redis_rate=self._rate("redis"),
            redis=redis,
            asked={name: count / requests for name, count in sorted(self.asked.items())},
            p50_ms=percentile(self.times, 0.5) * 1e3,
        )

    def _rate(self, where: str) -> float | None:
        hits, misses = self.sessions[f"{where} hits"], self.sessions[f"{where} misses"]
        return hits / (hits + misses) if hits + misses else None


class Replicas:
    """So many services, asked by a client that knows them all."""

    def __init__(self, https: list[httpx2.AsyncClient], routing: Routing, sessions: int) -> None:
        self._https, self._routing = https, routing
        self._numbers = list(range(sessions))
        self._chance = random.Random(5)
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._said: dict[int, dict[int, str]] = defaultdict(dict)
        self._ledger = Ledger()
        self.sums = {verb: Sums() for verb in VERBS}

    async def converse(self, turns: int) -> None:
        await self._phase("start")
        for turn in range(turns):
            await self._phase("context")
            await self._phase("store", turn)
        for _ in range(SEARCHES):
            await self._phase("retrieve")

    async def _phase(self, verb: str, turn: int = 0) -> None:
        """One request of each session, in a new order each time."""
        before = await self._spent()
        self._chance.shuffle(self._numbers)
        asked = [self._ask(verb, place, number, turn) for place, number in enumerate(self._numbers)]
        times = await asyncio.gather(*asked)
        self.sums[verb].add((await self._spent()).since(before), times)

    async def _ask(self, verb: str, place: int, number: int, turn: int) -> float:
        http = self._https[(number if self._routing == "sticky" else place) % len(self._https)]
        async with self._gate:
            began = time.perf_counter()
            body = await _posted(http, VERBS[verb], **_fields(verb, number, turn))
            took = time.perf_counter() - began
        if verb == "store":
            self._said[number][msgspec.json.decode(body)["turn_number"]] = _words(number, turn)
            self._ledger.add([Answer(str(number), turn, body)])
        return took

    async def _spent(self) -> Spent:
        told = [msgspec.json.decode((await http.get("/stats")).content) for http in self._https]
        asked: Counter[str] = Counter()
        for one in told:
            asked.update({verb: spent["round_trips"] for verb, spent in one["store"]["verbs"].items()})
        sessions: Counter[str] = Counter()
        for one in told:
            sessions.update({"pool hits": one["hits"], "pool misses": one["misses"]})
            tier = one["hot_tier"]
            missed = tier.get("misses", 0) + tier.get("stale", 0)
            sessions.update({"redis hits": tier.get("hits", 0), "redis misses": missed})
        return Spent(sessions=sessions, asked=asked)

    async def lost(self) -> list[str]:
        """Ask every replica for every session: what was acknowledged, in the order of its numbers, and nothing else."""
        problems = self._ledger.gaps()
        for place, http in enumerate(self._https):
            for number, said in sorted(self._said.items()):
                context = msgspec.json.decode(await _posted(http, VERBS["context"], **_session(number)))
                there = [message["content"] for message in context["active_context"] if message["role"] == "user"]
                if there != [said[turn] for turn in sorted(said)]:
                    problems.append(f"session {number}: replica {place} does not show what was acknowledged")
        return problems

    @property
    def turns(self) -> int:
        return sum(map(len, self._said.values()))


async def _posted(http: httpx2.AsyncClient, path: str, **fields: Any) -> bytes:
    answer = await http.post(path, json=fields)
    if answer.status_code != 200:
        raise click.ClickException(f"{path}: {answer.status_code} {answer.text}")
    return answer.content


def _session(number: int) -> dict[str, str]:
    return {"user_id": f"user-{number}", "session_id": "s"}


def _words(number: int, turn: int) -> str:
    return f"{number}:{turn} {USER_WORDS}"


def _fields(verb: str, number: int, turn: int) -> dict[str, str]:
    if verb == "retrieve":
        return {"user_id": f"user-{number}", "query": QUESTION}
    if verb != "store":
        return _session(number)
    words = {"user_message": _words(number, turn), "agent_message": AGENT_WORDS}
    return {**_session(number), "turn_id": str(turn), **words}


@asynccontextmanager
async def _clients(servers: list[Server]) -> AsyncIterator[list[httpx2.AsyncClient]]:
    made = [httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) for server in servers]
    try:
        yield made
    finally:
        for http in made:
            await http.aclose()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    rows: list[Row]
    turns: int
    lost: list[str]


async def _run(servers: list[Server], routing: Routing, sessions: int, turns: int, redis: bool) -> Run:
    async with _clients(servers) as https:
        replicas = Replicas(https, routing, sessions)
        await replicas.converse(turns)
        rows = [sums.row(len(servers), routing, verb, redis) for verb, sums in replicas.sums.items()]
        return Run(rows=rows, turns=replicas.turns, lost=await replicas.lost())


def measured(folder: Path, counts: Iterable[int], sessions: int, turns: int, redis: bool) -> Report:
    runs = []
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(folder))
        beside = {"REDIS_URL": stack.enter_context(RedisServer(_made(folder / "redis"))).url} if redis else {}
        for count in counts:
            for routing in ROUTINGS if count > 1 else ROUTINGS[:1]:
                say(f"{count} replicas, {routing}")
                with _started(folder, count, {"STORE_URL": postgres.new_database(), **beside}) as servers:
                    runs.append(asyncio.run(_run(servers, routing, sessions, turns, redis)))
    return Report(
        machine=machine(),
        rows=[row for run in runs for row in run.rows],
        turns=sum(run.turns for run in runs),
        lost=[problem for run in runs for problem in run.lost],
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def _started(parent: Path, count: int, settings: dict[str, str]) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        folders = [stack.enter_context(work_folder(parent)) for _ in range(count)]
        yield [stack.enter_context(quiet_service(folder, **settings)) for folder in folders]


def tell(report: Report) -> str:
    return "\n".join(
        [
            table(HEADS, [_cells(row) for row in report.rows]),
            "",
            MEANING,
            f"Verified on every replica: {report.turns:,} acknowledged turns; {len(report.lost)} problems.",
            *report.problems[:5],
        ]
    )


def _cells(row: Row) -> list[str]:
    asked = ", ".join(f"{verb} {count:.2f}" for verb, count in row.asked.items() if count)
    hits, found = ("" if rate is None else f"{rate:.0%}" for rate in (row.hit_rate, row.redis_rate))
    trips, p50 = shown(row.round_trips, 2), shown(row.p50_ms, 1)
    return [str(row.replicas), row.routing, row.verb, shown(row.requests), hits, found, trips, asked, p50]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sessions", default=60, show_default=True, help="Sessions, each of a user of its own.")
@click.option("--turns", default=10, show_default=True, help="Turns of each.")
@click.option("--replicas", default="1,2,3", show_default=True, callback=numbers, help="Numbers of replicas.")
@click.option("--redis", is_flag=True, help="Let them share their sessions through Redis.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to work.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(
    sessions: int, turns: int, replicas: list[int], redis: bool, folder: Path | None, json_file: Path | None
) -> None:
    """Count what several services ask of the store they share, for each HTTP verb."""
    with work_folder(folder) as own:
        report = measured(own, replicas, sessions, turns, redis)
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()

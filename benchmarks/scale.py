"""What a turn, a context, a start and the latest messages cost as a session, a user, the database grow.

    python -m benchmarks.scale [--times 100] [--rounds 5] [--json FILE]

Records over SQLite with sessions, users and databases of each size (1x, 10x and so on, with vectors and with what was
learnt from them), each with a service on it. The same few requests go to all of them in turn, round after round. The
processor time is that of the service, to the end of what follows in the background (of a store also vectors and one
reflection in each round), the least of all rounds; p50 is the median of theirs. What is to be looked at is the ratio to
1x: it should stay near 1. Exit status 1 if a request was refused.

*context, cold*: of a session that is in memory no more, of a user of whom nothing is; *latest*: of messages, some of
them no longer in memory either.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from benchmarks.figures import median, percentile, shown, table
from benchmarks.filling import Filling, Talk, get, post, record
from benchmarks.load import Generator, Job, Outcome, Request
from benchmarks.servers import Server, cpu_seconds, real_service, wait_until_quiet, work_folder
from memory_service.values import Scope, SessionKey

SESSION, USER, DATABASE = "a session", "a user", "the database"
TURNS, LEARNT = 10, 5
"""Of a session that does not grow: its turns, and the memories that were learnt from it."""
SESSION_TURNS, USER_SESSIONS, DATABASE_USERS = 100, 10, 10
"""What is 1x: turns of the session, sessions of the user, users of the database."""
AT_ONCE = 50
THRESHOLD, STORED = "5", 20
"""After so many turns a conversation that goes on is reflected on: after four times the threshold."""
ASKED, LATEST = 30, 50
VERBS = ("store", "context", "context, cold", "start", "latest")
SETTINGS = {"MAX_SESSIONS": "1", "REFLECTION_THRESHOLD_TURNS": THRESHOLD}
"""One session in memory: two that are asked for in turn are always cold."""
HEADS = ["what grows", "verb", "times", "CPU us", "of 1x", "p50 ms", "of 1x"]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One verb at one size. `cpu_us`: of the service, for each request."""

    grows: str
    verb: str
    times: int
    cpu_us: float
    p50_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    cells: list[Cell]
    errors: int


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Two alike of one size, and the service that has them."""

    grows: str
    times: int
    keys: tuple[SessionKey, SessionKey]
    server: Server

    def requests(self) -> dict[str, list[Request]]:
        port, talk = self.server.port, Talk(seed=2)
        here, there = ({"user_id": key.scope.user_id, "session_id": key.session_id} for key in self.keys)
        context = post(port, "/memory/context", **here)
        return {
            "store": [self._store(here, talk) for _ in range(STORED)],
            "context": [context] * ASKED,
            "context, cold": [context, post(port, "/memory/context", **there)] * (ASKED // 2),
            "start": [post(port, "/sessions/start", **here)] * ASKED,
            "latest": [get(port, "/messages", latest=str(LATEST), **here)] * ASKED,
        }

    def _store(self, where: dict[str, str], talk: Talk) -> Request:
        words = {"user_message": talk.text(12), "agent_message": talk.text(30)}
        return post(self.server.port, "/memory/store", **where, **words)


def key_of(user_id: str, session_id: str) -> SessionKey:
    return SessionKey(scope=Scope(user_id=user_id), session_id=session_id)


def twins(grows: str, times: int) -> tuple[SessionKey, SessionKey]:
    first, second = (key_of(f"{grows.split()[-1]}-{times}-{twin}", "s0") for twin in "ab")
    return first, second


async def fill_sizes(folder: Path, sizes: Sequence[int]) -> None:
    """Sessions and users of all sizes in one record, so that the database is the same for all."""
    async with record(folder) as filling:
        for times in sizes:
            for key in twins(SESSION, times):
                await filling.say(key, SESSION_TURNS * times)
            for key in twins(USER, times):
                sessions = [key_of(key.scope.user_id, f"s{number}") for number in range(USER_SESSIONS * times)]
                await _talked(filling, sessions)
        await filling.embed()


async def fill_database(folder: Path, times: int) -> None:
    async with record(folder) as filling:
        await _talked(filling, [key_of(f"user-{number}", "s0") for number in range(DATABASE_USERS * times)])
        await _talked(filling, twins(DATABASE, times))
        await filling.embed()


async def _talked(filling: Filling, keys: Sequence[SessionKey]) -> None:
    for first in range(0, len(keys), AT_ONCE):
        some = keys[first : first + AT_ONCE]
        await asyncio.gather(*(filling.say(key, TURNS) for key in some))
        await asyncio.gather(*(filling.learn(key.scope, key.session_id, LEARNT) for key in some))


def places(stack: ExitStack, folder: Path, sizes: Sequence[int]) -> Iterator[Place]:
    """Fill the records and start the services."""
    say("filling a record with sessions and users of each size")
    own = folder / "sizes"
    own.mkdir()
    asyncio.run(fill_sizes(own, sizes))
    server = stack.enter_context(real_service(own, **SETTINGS))
    for grows in (SESSION, USER):
        yield from (Place(grows=grows, times=times, keys=twins(grows, times), server=server) for times in sizes)
    for times in sizes:
        say(f"filling a database of {times}x")
        own = folder / str(times)
        own.mkdir()
        asyncio.run(fill_database(own, times))
        server = stack.enter_context(real_service(own, **SETTINGS))
        yield Place(grows=DATABASE, times=times, keys=twins(DATABASE, times), server=server)


class Bench:
    def __init__(self, generator: Generator, all_places: Sequence[Place]) -> None:
        self._generator, self._places = generator, [(place, place.requests()) for place in all_places]
        self._seen: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
        self._errors = 0

    def report(self, rounds: int) -> Report:
        for number in range(rounds + 1):
            say(f"round {number}" if number else "once, unmeasured")
            for verb in VERBS:
                for place, requests in self._places:
                    cpu_us, p50_ms = self._probe(place, requests[verb], with_what_follows=verb == "store")
                    if number:
                        self._seen.setdefault((place.grows, verb, place.times), []).append((cpu_us, p50_ms))
        return Report(cells=[_cell(*of, probes) for of, probes in self._seen.items()], errors=self._errors)

    def _probe(self, place: Place, requests: list[Request], *, with_what_follows: bool) -> tuple[float, float]:
        server = place.server
        before = busy_seconds(server.pid)
        outcome: Outcome = self._generator.run(Job(port=server.port, lanes=[requests]))
        if with_what_follows:
            wait_until_quiet(server)
        self._errors += outcome.errors
        cpu_us = (busy_seconds(server.pid) - before) / len(requests) * 1e6
        return cpu_us, percentile(outcome.latencies, 0.5) * 1e3


def _cell(grows: str, verb: str, times: int, probes: list[tuple[float, float]]) -> Cell:
    p50_ms = median(p50 for _, p50 in probes)
    return Cell(grows=grows, verb=verb, times=times, cpu_us=min(cpu for cpu, _ in probes), p50_ms=p50_ms or 0)


def busy_seconds(pid: int) -> float:
    """Processor time of all threads of a process, to the nanosecond where the system tells, of which none has ended."""
    try:
        told = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except OSError:
        told = []
    return sum(int(fields[0]) for fields in told) / 1e9 if told else cpu_seconds(pid) or 0.0


def tell(report: Report) -> str:
    at_first = {(cell.grows, cell.verb): cell for cell in report.cells if cell.times == 1}
    verbs = {verb: place for place, verb in enumerate(VERBS)}
    cells = sorted(report.cells, key=lambda cell: (cell.grows, verbs[cell.verb], cell.times))
    rows = [_row(cell, at_first[cell.grows, cell.verb]) for cell in cells]
    return f"{table(HEADS, rows)}\n\nerrors: {report.errors}"


def _row(cell: Cell, first: Cell) -> list[str]:
    cpu, p50 = shown(cell.cpu_us / first.cpu_us, 2), shown(cell.p50_ms / first.p50_ms, 2)
    return [cell.grows, cell.verb, f"{cell.times:,}x", shown(cell.cpu_us), cpu, shown(cell.p50_ms, 2), p50]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--times", default=100, show_default=True, type=click.IntRange(1), help="So many times as much, at most.")
@click.option("--rounds", default=5, show_default=True, help="Rounds that are measured, after one that is not.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(times: int, rounds: int, folder: Path | None, json_file: Path | None) -> None:
    """Measure what the same requests cost as what is on record grows tenfold each time."""
    sizes = [size for power in range(7) if (size := 10**power) <= times]
    with ExitStack() as stack:
        work = stack.enter_context(work_folder(folder))
        generator = stack.enter_context(Generator())
        report = Bench(generator, list(places(stack, work, sizes))).report(rounds)
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.errors else 0)


if __name__ == "__main__":
    main()

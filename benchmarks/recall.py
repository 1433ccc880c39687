"""What POST /memory/retrieve takes as one user's memory grows, beside what it is made of, in the same run.

    python -m benchmarks.recall [--most 100000] [--rounds 3] [--seconds 1] [--connections 32] [--json FILE]

A service over SQLite, with the embedder that comes along, for each size: 100, 1,000 and so on memories (four fifths of
them messages, the rest summaries and insights). Rounds go over all sizes in turn. Each question is another one, but for
*asked again*, which the cache of answers serves; *after a store* the corpus is brought up to date first; *first* is
the first search of a start, for which it is built and the embedder loaded. In the process of the benchmark: *cosine
alone* is one product of numpy with the same vectors and the best five of it, *words alone* a search of the corpus
without vectors.
Exit status 1 if a search was not answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import httpx2
import msgspec
import numpy as np

from benchmarks.figures import median, percentile, shown, table
from benchmarks.filling import Filling, Talk, post, record
from benchmarks.load import Generator, Job, Outcome, Request, lanes
from benchmarks.servers import Server, real_service, resident_bytes, wait_until_quiet, work_folder
from memory_service.corpus import Corpus
from memory_service.recall import SEARCHED
from memory_service.text import Tokenizer
from memory_service.values import Scope, SessionKey

READER = Scope(user_id="reader")
TURNS, LEARNT = 40, 20
"""Of a session: its turns, of two messages each, and what was learnt from it."""
TOP = 5
QUESTIONS = 1000
STORED = 20
ALONE = 20
MUST = {1_000: (3.0, 1.5), 10_000: (6.0, 3.0), 100_000: (30.0, 15.0)}
"""Milliseconds that a search may take, and that it should."""
HELD, DEFAULT_ROOM = 4000, 400_000_000
"""Bytes of the cache for each memory, where the default is not enough: above so many."""
HEADS = ["what", "memories", "connections", "p50 ms", "p99 ms", "CPU ms", "searches/s", "must", "aim"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run comes to. `cpu_ms`: of the server, for each search."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float | None = None
    per_s: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    memories: int
    connections: int
    figures: Figures


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a service holds for one user, by its own account, and by how much it grew by the first search."""

    memories: int
    fill_s: float
    counted_bytes: int
    resident_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    rows: list[Row]
    held: list[Held]
    errors: int


class Alone:
    """The same memories in this process: what is multiplied, and what is looked up."""

    def __init__(self) -> None:
        self._corpus, self._tokenize, self._rows = Corpus(), Tokenizer(), np.zeros((0, 0), np.float32)
        self._talk = Talk(seed=3)

    async def read(self, filling: Filling) -> None:
        data = []
        async for entries in filling.entries(READER):
            for turn in entries.turns:
                self._corpus.add_turn(turn, self._tokenize)
            for memory in entries.memories:
                self._corpus.add_memory(memory, self._tokenize)
            data += [vector.data for vector in entries.vectors]
        self._rows = np.frombuffer(b"".join(data), np.float32).reshape(-1, filling.width)

    def times(self) -> Iterator[tuple[str, list[float]]]:
        yield "cosine alone", [_timed(self._multiply) for _ in range(ALONE)]
        yield "words alone", [_timed(self._look_up) for _ in range(ALONE)]

    def _multiply(self) -> None:
        near = self._rows @ self._rows[self._talk.random.randrange(len(self._rows))]
        np.argpartition(near, len(near) - TOP)[-TOP:]

    def _look_up(self) -> None:
        asked = self._talk.question()
        stems = self._tokenize.of_question(asked)
        self._corpus.search(asked, stems, None, keyword_weight=1.0, kinds=SEARCHED, limit=TOP, with_extracts=False)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def filled(folder: Path, memories: int) -> tuple[float, Alone]:
    """Fill the record of a folder, and read it here; returns what the filling took."""
    began, alone = time.perf_counter(), Alone()
    sessions = max(1, memories // (2 * TURNS + LEARNT))
    async with record(folder) as filling:
        for number in range(sessions):
            await filling.say(SessionKey(scope=READER, session_id=f"s{number}"), TURNS)
            await filling.learn(READER, f"s{number}", LEARNT)
        await filling.embed()
        took = time.perf_counter() - began
        await alone.read(filling)
    return took, alone


class Sized:
    """One size: its record, the service on it, and what is asked of it."""

    def __init__(self, memories: int, fill_s: float, server: Server, alone: Alone) -> None:
        self.memories, self.fill_s, self.server, self.alone = memories, fill_s, server, alone
        talk, port = Talk(seed=2), server.port
        self.questions = [
            post(port, "/memory/retrieve", user_id=READER.user_id, query=talk.question(), top_k=TOP)
            for _ in range(QUESTIONS)
        ]
        stores = [
            post(
                *(port, "/memory/store"),
                user_id=READER.user_id,
                session_id="s0",
                user_message=talk.text(10),
                agent_message=talk.text(20),
            )
            for _ in range(STORED)
        ]
        self.after_stores = [request for pair in zip(stores, self.questions, strict=False) for request in pair]


class Bench:
    def __init__(self, generator: Generator, sizes: Sequence[Sized], *, seconds: float, connections: int) -> None:
        self._generator, self._sizes = generator, sizes
        self._seconds, self._connections = seconds, connections
        self._seen: dict[tuple[str, int, int], list[Figures]] = {}
        self._errors = 0

    def report(self, rounds: int) -> Report:
        held = [self._first(one) for one in self._sizes]
        for number in range(1, rounds + 1):
            for one in self._sizes:
                say(f"round {number}: {one.memories:,} memories")
                self._round(one)
        rows = [Row(what=w, memories=m, connections=c, figures=_medians(of)) for (w, m, c), of in self._seen.items()]
        return Report(rows=rows, held=held, errors=self._errors)

    def _first(self, one: Sized) -> Held:
        wait_until_quiet(one.server)
        before = resident_bytes(one.server.pid)
        self._measure("first", one, [one.questions[:1]], None)
        return Held(
            memories=one.memories,
            fill_s=one.fill_s,
            counted_bytes=httpx2.get(f"{one.server.url}/stats", trust_env=False).json()["recall"]["cached_bytes"],
            resident_bytes=resident_bytes(one.server.pid) - before,
        )

    def _round(self, one: Sized) -> None:
        self._measure("search", one, [one.questions], self._seconds)
        self._measure("search", one, lanes(one.questions, self._connections), self._seconds)
        self._measure("asked again", one, [one.questions[:1]], self._seconds / 4)
        outcome = self._run(one, [one.after_stores], None)
        self._keep("after a store", one, 1, _figures(outcome.latencies[1::2]))
        wait_until_quiet(one.server)
        for what, times in one.alone.times():
            self._keep(what, one, 0, _figures(times))

    def _measure(self, what: str, one: Sized, of_lanes: list[list[Request]], seconds: float | None) -> None:
        outcome = self._run(one, of_lanes, seconds)
        count = max(len(outcome.latencies), 1)
        figures = _figures(
            outcome.latencies,
            cpu_ms=outcome.cpu_s / count * 1e3 if outcome.cpu_s is not None else None,
            per_s=count / outcome.seconds if seconds and outcome.seconds else None,
        )
        self._keep(what, one, len(of_lanes), figures)

    def _run(self, one: Sized, of_lanes: list[list[Request]], seconds: float | None) -> Outcome:
        outcome = self._generator.run(Job(port=one.server.port, lanes=of_lanes, seconds=seconds, pid=one.server.pid))
        self._errors += outcome.errors
        return outcome

    def _keep(self, what: str, one: Sized, connections: int, figures: Figures) -> None:
        self._seen.setdefault((what, one.memories, connections), []).append(figures)


def _figures(latencies: Sequence[float], *, cpu_ms: float | None = None, per_s: float | None = None) -> Figures:
    p50, p99 = (percentile(latencies, share) * 1e3 for share in (0.5, 0.99))
    return Figures(p50_ms=p50, p99_ms=p99, cpu_ms=cpu_ms, per_s=per_s)


def _medians(of: list[Figures]) -> Figures:
    return Figures(**{name: median(getattr(one, name) for one in of) for name in Figures.__struct_fields__})


def tell(report: Report) -> str:
    """Row by row what a search takes, and below what is held for it."""
    whats = list(dict.fromkeys(row.what for row in report.rows))
    rows = sorted(report.rows, key=lambda row: (whats.index(row.what), row.connections, row.memories))
    held = [
        [
            f"{one.memories:,}",
            shown(one.counted_bytes / 1e6, 1),
            shown(one.resident_bytes / 1e6, 1),
            shown(one.counted_bytes / one.memories),
            shown(one.fill_s, 1),
        ]
        for one in report.held
    ]
    heads = ["memories held", "MB by its account", "MB it grew by", "bytes each", "s to fill the record"]
    return f"{table(HEADS, [_line(row) for row in rows])}\n\n{table(heads, held)}\nerrors: {report.errors}"


def _line(row: Row) -> list[str]:
    figures, aimed_at = row.figures, row.what == "search" and row.connections == 1
    must, aim = MUST.get(row.memories, (None, None)) if aimed_at else (None, None)
    numbers = [shown(one, 2) for one in (figures.p50_ms, figures.p99_ms, figures.cpu_ms)]
    where = str(row.connections) if row.connections else "in process"
    return [row.what, f"{row.memories:,}", where, *numbers, shown(figures.per_s), shown(must, 1), shown(aim, 1)]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sized(stack: ExitStack, folder: Path, memories: int) -> Sized:
    say(f"filling a record with {memories:,} memories")
    own = folder / str(memories)
    own.mkdir()
    fill_s, alone = asyncio.run(filled(own, memories))
    room = {"RECALL_CACHE_MB": str(memories * HELD // 1_000_000)} if memories * HELD > DEFAULT_ROOM else {}
    return Sized(memories, fill_s, stack.enter_context(real_service(own, **room)), alone)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--most", default=100_000, show_default=True, type=click.IntRange(100), help="Memories of the largest.")
@click.option("--rounds", default=3, show_default=True, help="Rounds, of which medians are taken.")
@click.option("--seconds", default=1.0, show_default=True, help="Length of one round of searches.")
@click.option("--connections", default=32, show_default=True, help="Searches at once, in the second row.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(most: int, rounds: int, seconds: float, connections: int, folder: Path | None, json_file: Path | None) -> None:
    """Measure a search as a user's memory grows tenfold each time."""
    sizes = [size for power in range(2, 9) if (size := 10**power) <= most]
    with ExitStack() as stack:
        work = stack.enter_context(work_folder(folder))
        generator = stack.enter_context(Generator())
        sized = [_sized(stack, work, memories) for memories in sizes]
        report = Bench(generator, sized, seconds=seconds, connections=connections).report(rounds)
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.errors else 0)


if __name__ == "__main__":
    main()

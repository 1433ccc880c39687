"""Bytes of a hot session, what so many of them cost the collector, and processor time of a hit and of a cold restore.

    python -m benchmarks.pool [--sessions 1000,10000] [--turns 10] [--json FILE]

Sessions of turns of 700 bytes, each of a user of its own, are put into the pool of the service: begun and grown by
requests, or restored from SQLite; then a context is made of each. Each line of the table is a process of its own
(`benchmarks.holding`), whose resident memory is read before and after. At most 1,000 come twice more, with a
letter in each message that makes Python keep it wider; at the end sessions of 15 turns are restored one by one.
`collector us`: what the collector took of the time to have a session there.
Exit status 1 if the pool evicted others than it had to, or a session takes more than is allowed: 16 KB without its
context where there are 1,000 or more of ten turns, and 3 ms of processor time to be restored.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks.figures import shown, table
from benchmarks.holding import LETTERS, TURN_BYTES, Figures, Plan, fill
from benchmarks.http import machine, numbers, say
from benchmarks.servers import ROOT, work_folder

MOST_BYTES, ENOUGH_SESSIONS, TURNS = 16_000, 1000, 10
MOST_RESTORE_MS = 3.0
COLD_SESSIONS, COLD_TURNS = 300, 15
LONGEST_S = 900
HEADS = [
    "sessions",
    "come by",
    "letters",
    "bytes each",
    "with context",
    "objects tracked",
    "full collection ms",
    "collector us",
    "hits/s of CPU",
    "evicted",
    "start that evicts us",
]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    plan: Plan
    figures: Figures

    @property
    def come_by(self) -> str:
        return "restored" if self.plan.store_url else "grown"

    @property
    def problems(self) -> list[str]:
        plan, each = self.plan, self.figures.bytes_each
        measured = plan.sessions >= ENOUGH_SESSIONS and plan.turns <= TURNS and plan.letters == "plain"
        if measured and each > MOST_BYTES:
            return [*self.figures.problems, f"{self.come_by}: {each:,.0f} bytes a session, {MOST_BYTES:,} are allowed"]
        return self.figures.problems


class Cold(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time of all threads, in milliseconds, to restore a session; and of its first context with it."""

    restore_ms: float
    context_ms: float

    @property
    def problems(self) -> list[str]:
        if self.restore_ms > MOST_RESTORE_MS:
            return [f"a restore took {self.restore_ms:.2f} ms of processor time, {MOST_RESTORE_MS} are allowed"]
        return []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    machine: dict[str, Any]
    lines: list[Line]
    cold: Cold

    @property
    def problems(self) -> list[str]:
        return [problem for line in self.lines for problem in line.problems] + self.cold.problems


def figures_of(plan: Plan) -> Figures:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.holding", msgspec.json.encode(plan).decode()]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S)
    if ran.returncode:
        raise click.ClickException(f"a measurement failed:\n{ran.stderr}")
    return msgspec.json.decode(ran.stdout, type=Figures)


def on_record(folder: Path, sessions: int, turns: int) -> Plan:
    plan = Plan(sessions=sessions, turns=turns, store_url=f"sqlite:///{folder}/{sessions}-{turns}.db")
    asyncio.run(fill(plan))
    return plan


def plans(folder: Path, sizes: list[int], turns: int) -> Iterator[Plan]:
    for sessions in sizes:
        yield Plan(sessions=sessions, turns=turns)
        yield on_record(folder, sessions, turns)
    for letters in LETTERS:
        if letters != "plain":
            yield Plan(sessions=min(*sizes, ENOUGH_SESSIONS), turns=turns, letters=letters)


def report_of(folder: Path, sizes: list[int], turns: int, cold_sessions: int) -> Report:
    lines = []
    for plan in plans(folder, sizes, turns):
        lines.append(Line(plan=plan, figures=figures_of(plan)))
        each = lines[-1].figures.bytes_each
        say(f"{plan.sessions:,} sessions, {lines[-1].come_by}, letters {plan.letters}: {each:,.0f} bytes each")
    cold = figures_of(on_record(folder, cold_sessions, COLD_TURNS))
    return Report(
        machine=machine(),
        lines=lines,
        cold=Cold(restore_ms=cold.come_us / 1e3, context_ms=(cold.come_us + cold.context_us) / 1e3),
    )


def tell(report: Report) -> str:
    """The tables: of all lines, and what the bytes of the largest of each kind are of."""
    last = {line.come_by: line for line in report.lines if line.plan.letters == "plain"}
    pieces = list(dict.fromkeys(name for line in last.values() for name in line.figures.pieces))
    of_pieces = [[name, *(shown(line.figures.pieces.get(name)) for line in last.values())] for name in pieces]
    heads = ["bytes of a session, its context made", *(f"{line.plan.sessions:,} {name}" for name, line in last.items())]
    cold = report.cold
    lines = [
        table(HEADS, [_row(line) for line in report.lines]),
        "",
        table(heads, of_pieces),
        "",
        f"Restored from SQLite, {COLD_TURNS} live turns: {cold.restore_ms:.2f} ms of CPU;"
        f" with the first context of its user {cold.context_ms:.2f} ms.",
        f"{len(report.problems)} problems.",
    ]
    return "\n".join([*lines, *report.problems[:5]])


def _row(line: Line) -> list[str]:
    plan, figures = line.plan, line.figures
    bytes_each = [shown(figures.bytes_each), shown(figures.bytes_with_context)]
    collector = [shown(figures.tracked_each, 1), shown(figures.collect_with_context_ms, 1), shown(figures.collector_us)]
    pool = [shown(1e6 / figures.hit_us), shown(figures.evicted), shown(figures.start_us)]
    return [shown(plan.sessions), line.come_by, plan.letters, *bytes_each, *collector, *pool]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sessions", default="1000,10000", show_default=True, callback=numbers, help="Numbers of sessions.")
@click.option("--turns", default=TURNS, show_default=True, help=f"Turns of a session, of {TURN_BYTES} bytes each.")
@click.option("--cold", default=COLD_SESSIONS, show_default=True, help="Sessions that are restored one by one.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(sessions: list[int], turns: int, cold: int, folder: Path | None, json_file: Path | None) -> None:
    """Measure what sessions in the pool take, and what it takes to have them there."""
    with work_folder(folder) as work:
        report = report_of(work, sessions, turns, cold)
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()

"""Requests per second and latencies of the service, beside an application that does nothing, in the same run.

    python -m benchmarks.http [--seconds 3] [--rounds 3] [--connections 32,256] [--json FILE]

Absolute figures are this machine's and this minute's; the ratio to the bare application is what to compare.
Exit status 1 if any request was not answered 200, or an acknowledged turn is not there afterwards.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks import wrk
from benchmarks.disk import fsync_times
from benchmarks.figures import median, percentile, shown, table
from benchmarks.ledger import Ledger, Verdict
from benchmarks.load import Generator, Job, Outcome, Request, lanes
from benchmarks.servers import Server, bare_application, cpu_seconds, real_service, wait_until_quiet, work_folder
from benchmarks.workload import Workload, joined

KINDS = ("bare store", "store", "bare context", "context", "retrieve", "start")
BARE_OF = {"store": "bare store", "context": "bare context", "retrieve": "bare context", "start": "bare context"}
HEADS = ["what", "connections", "requests/s", "p50 ms", "p99 ms", "of bare", "CPU us", "answer bytes", "errors"]
PREPARING_CONNECTIONS = 32
BUSY = 0.9
LEAD_S, SYNCED_EVERY_S = 0.5, 0.02
SERIALS_OF_A_RUN = 10_000_000


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run comes to. `cpu_us`: of the server, per request; `load_share`: of one core, by the load itself."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    answer_bytes: float | None
    errors: int
    load_share: float | None


class Round(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    kind: str
    connections: int
    figures: Figures


class Background(msgspec.Struct, frozen=True, kw_only=True):
    """What the service still did when a round of stores was over. `turns_per_s`: with the time for that counted in."""

    turns: int
    seconds: float
    cpu_us_per_turn: float | None
    turns_per_s: float


class OpenLoop(msgspec.Struct, frozen=True, kw_only=True):
    connections: int
    rate: float
    figures: Figures
    bare_p99_ms: float
    """Of the bare application at the same rate."""
    fsync_p50_ms: float
    fsync_p99_ms: float
    fsync_beside_p99_ms: float
    """While the load goes on, now and then."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    rounds: int
    connections: list[int]
    sessions: int
    messages: int
    wrk: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    plan: Plan
    machine: dict[str, Any]
    medians: list[dict[str, Any]]
    open_loop: OpenLoop
    background: list[Background]
    verdict: Verdict
    rounds: list[Round]

    @property
    def sound(self) -> bool:
        errors = self.open_loop.figures.errors + sum(round_.figures.errors for round_ in self.rounds)
        return not errors and not self.verdict.problems


class Bench:
    """Both servers, the load, and what was seen."""

    def __init__(self, plan: Plan, folder: Path, service: Server, bare: Server, generator: Generator) -> None:
        self._plan, self._folder, self._service, self._generator = plan, folder, service, generator
        self._workload = Workload(service.port, sessions=plan.sessions, messages=plan.messages)
        self._requests = {**self._workload.for_bare(bare.port), **self._workload.measured()}
        self._servers = {kind: bare if kind.startswith("bare") else service for kind in KINDS}
        self._ledger = Ledger()
        self._runs = 0
        self.background: list[Background] = []

    def report(self) -> Report:
        self._prepare()
        rounds = list(self._rounds())
        medians = list(_medians(rounds, self._plan))
        open_loop = self._open_loop(next(row for row in reversed(medians) if row["kind"] == "store"))
        say("verifying what was acknowledged")
        verdict = self._ledger.verified(self._generator, self._workload, self._requests["store"])
        return Report(
            plan=self._plan,
            machine=machine(),
            medians=medians,
            open_loop=open_loop,
            background=self.background,
            verdict=verdict,
            rounds=rounds,
        )

    def _prepare(self) -> None:
        for name, of_sessions in (("library", self._workload.library()), ("sessions", self._workload.users())):
            say(f"preparing: {len(of_sessions)} {name}, {sum(map(len, of_sessions))} requests")
            outcome = self._run("store", joined(of_sessions, PREPARING_CONNECTIONS), seconds=None)
            if outcome.errors:
                raise click.ClickException(f"{outcome.errors} requests of the preparation were refused")
            wait_until_quiet(self._service)

    def _rounds(self) -> Iterator[Round]:
        for number in range(1, self._plan.rounds + 1):
            for connections in self._plan.connections:
                for kind in KINDS:
                    figures = self._measured(kind, connections)
                    say(f"round {number}: {kind}, {connections} connections: {figures.requests_per_s:,.0f}/s")
                    yield Round(number=number, kind=kind, connections=connections, figures=figures)

    def _measured(self, kind: str, connections: int) -> Figures:
        requests, server = self._requests[kind], self._servers[kind]
        if self._plan.wrk and "store" not in kind:  # the answers to stores are kept, which wrk cannot
            return self._by_wrk(requests, server, connections)
        outcome = self._run(kind, lanes(requests, connections), seconds=self._plan.seconds)
        if kind == "store":
            self._note_background(len(outcome.latencies), outcome.seconds)
        return figures_of(outcome)

    def _by_wrk(self, requests: list[Request], server: Server, connections: int) -> Figures:
        before = cpu_seconds(server.pid)
        told = wrk.run(requests, server.port, connections=connections, seconds=self._plan.seconds, folder=self._folder)
        after = cpu_seconds(server.pid)
        return Figures(
            requests_per_s=told["requests"] / told["micros"] * 1e6,
            p50_ms=told["p50_us"] / 1e3,
            p99_ms=told["p99_us"] / 1e3,
            cpu_us=(after - before) / told["requests"] * 1e6 if before is not None and after is not None else None,
            answer_bytes=None,
            errors=told["errors"],
            load_share=None,
        )

    def _run(
        self,
        kind: str,
        of_lanes: list[list[Request]],
        *,
        seconds: float | None,
        rate: float | None = None,
        lead_s: float = 0.0,
    ) -> Outcome:
        server = self._servers[kind]
        self._runs += 1
        job = Job(
            port=server.port,
            lanes=of_lanes,
            seconds=seconds,
            rate=rate,
            lead_s=lead_s,
            pid=server.pid,
            first_serial=self._runs * SERIALS_OF_A_RUN,
            keep=kind == "store",
        )
        outcome = self._generator.run(job)
        self._ledger.add(outcome.answers)
        return outcome

    def _open_loop(self, store: dict[str, Any]) -> OpenLoop:
        """Store at half of the capacity that was measured, between two looks at what the disk takes, and beside one."""
        connections, rate, seconds = store["connections"], store["requests_per_s"] / 2, self._plan.seconds

        def at_rate(kind: str) -> Outcome:
            return self._run(kind, lanes(self._requests[kind], connections), seconds=seconds, rate=rate, lead_s=LEAD_S)

        say(f"open loop: store at {rate:,.0f}/s, {connections} connections")
        bare = at_rate("bare store")
        synced = fsync_times(self._folder, seconds / 2)
        with ThreadPoolExecutor(1) as beside:
            syncing = beside.submit(fsync_times, self._folder, LEAD_S + seconds, SYNCED_EVERY_S)
            outcome = at_rate("store")
        wait_until_quiet(self._service)
        synced += fsync_times(self._folder, seconds / 2)
        return OpenLoop(
            connections=connections,
            rate=rate,
            figures=figures_of(outcome),
            bare_p99_ms=percentile(bare.latencies, 0.99) * 1e3,
            fsync_p50_ms=percentile(synced, 0.5) * 1e3,
            fsync_p99_ms=percentile(synced, 0.99) * 1e3,
            fsync_beside_p99_ms=percentile(syncing.result(), 0.99) * 1e3,
        )

    def _note_background(self, turns: int, stored_s: float) -> None:
        began, before = time.monotonic(), cpu_seconds(self._service.pid)
        wait_until_quiet(self._service)
        after, seconds = cpu_seconds(self._service.pid), time.monotonic() - began
        self.background.append(
            Background(
                turns=turns,
                seconds=seconds,
                cpu_us_per_turn=(after - before) / turns * 1e6 if after is not None and before is not None else None,
                turns_per_s=turns / (stored_s + seconds),
            )
        )


def figures_of(outcome: Outcome) -> Figures:
    count = len(outcome.latencies)
    return Figures(
        requests_per_s=count / outcome.seconds if outcome.seconds else 0.0,
        p50_ms=percentile(outcome.latencies, 0.5) * 1e3,
        p99_ms=percentile(outcome.latencies, 0.99) * 1e3,
        cpu_us=outcome.cpu_s / count * 1e6 if outcome.cpu_s is not None and count else None,
        answer_bytes=outcome.answer_bytes,
        errors=outcome.errors,
        load_share=outcome.own_cpu_s / outcome.seconds if outcome.seconds else None,
    )


def _medians(rounds: list[Round], plan: Plan) -> Iterator[dict[str, Any]]:
    """One row for each kind and number of connections: medians over the rounds, errors as their sum."""
    seen = {(round_.number, round_.kind, round_.connections): round_.figures for round_ in rounds}
    for connections in plan.connections:
        for kind in KINDS:
            figures = [seen[number, kind, connections] for number in range(1, plan.rounds + 1)]
            bare = [seen[n, BARE_OF.get(kind, kind), connections] for n in range(1, plan.rounds + 1)]
            pairs = zip(figures, bare, strict=True)
            row = {name: median(getattr(one, name) for one in figures) for name in Figures.__struct_fields__}
            ratio = median(one.requests_per_s / to.requests_per_s for one, to in pairs if to.requests_per_s)
            errors = sum(one.errors for one in figures)
            yield {"kind": kind, "connections": connections, **row, "errors": errors, "of_bare": ratio}


def tell(report: Report) -> str:
    """The tables, and below them what is not in a table."""
    opened = report.open_loop
    lines = [table(HEADS, [_row(row) for row in report.medians]), "", _open_line(opened), _background_line(report)]
    busy = [f"{r['kind']} ({r['connections']})" for r in report.medians if (r["load_share"] or 0) > BUSY]
    if busy:
        lines.append(f"The load itself took over {BUSY:.0%} of a core, and may be the limit, in: {', '.join(busy)}.")
    verdict = report.verdict
    lines.append(
        f"Verified over HTTP: {verdict.turns:,} acknowledged turns of {verdict.sessions:,} sessions;"
        f" {verdict.replayed:,} sent again and recognised; {len(verdict.problems)} problems."
    )
    return "\n".join([*lines, *verdict.problems[:5]])


def _row(row: dict[str, Any]) -> list[str]:
    ratio = "" if row["kind"].startswith("bare") else shown(row["of_bare"], 2)
    times = [shown(row["requests_per_s"]), shown(row["p50_ms"], 2), shown(row["p99_ms"], 2)]
    rest = [shown(row["cpu_us"]), shown(row["answer_bytes"]), shown(row["errors"])]
    return [row["kind"], str(row["connections"]), *times, ratio, *rest]


def _open_line(opened: OpenLoop) -> str:
    figures = opened.figures
    return (
        f"store, open loop at {opened.rate:,.0f}/s (half of capacity), {opened.connections} connections:"
        f" p50 {figures.p50_ms:.2f} ms, p99 {figures.p99_ms:.2f} ms, {figures.errors} errors."
        f" fsync alone: p50 {opened.fsync_p50_ms:.2f} ms, p99 {opened.fsync_p99_ms:.2f} ms;"
        f" ratio of the p99: {figures.p99_ms / opened.fsync_p99_ms:.1f}."
        f" At that rate the p99 of the bare application was {opened.bare_p99_ms:.2f} ms,"
        f" that of an fsync beside the stores {opened.fsync_beside_p99_ms:.2f} ms."
    )


def _background_line(report: Report) -> str:
    seconds = median(one.seconds / one.turns * 1000 for one in report.background if one.turns)
    cpu = median(one.cpu_us_per_turn for one in report.background)
    sustained = median(one.turns_per_s for one in report.background)
    return (
        "Background work left after a round of stores (not in the table), vectors and extracts by the processor here:"
        f" {shown(seconds, 2)} s per 1,000 turns, {shown(cpu)} us of CPU per turn;"
        f" with it counted in {shown(sustained)} turns are stored per second."
    )


def machine() -> dict[str, Any]:
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {"platform": platform.platform(), "python": sys.version, "cpus": os.cpu_count(), "load_average": load}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        return [max(1, int(number)) for number in value.split(",")]
    except ValueError as exc:
        raise click.BadParameter("write numbers with commas between them, such as 32,256") from exc


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=3.0, show_default=True, help="Length of one round of one kind of request.")
@click.option("--rounds", default=3, show_default=True, help="Rounds, of which medians are taken.")
@click.option("--connections", default="32,256", show_default=True, callback=numbers, help="Numbers of connections.")
@click.option("--sessions", default=1000, show_default=True, help="Sessions of ten turns to prepare.")
@click.option("--messages", default=1000, show_default=True, help="Messages of the user who is searched.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--wrk", "by_wrk", is_flag=True, help="Let wrk, if installed, make the load, but of stores.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(
    seconds: float,
    rounds: int,
    connections: list[int],
    sessions: int,
    messages: int,
    folder: Path | None,
    by_wrk: bool,
    json_file: Path | None,
) -> None:
    """Measure store, context, retrieve and start beside an application that does nothing."""
    if by_wrk and not shutil.which("wrk"):
        raise click.ClickException("wrk is not installed; leave out --wrk to use the load generator that comes along")
    plan = Plan(
        seconds=seconds, rounds=rounds, connections=connections, sessions=sessions, messages=messages, wrk=by_wrk
    )
    with ExitStack() as stack:
        work = stack.enter_context(work_folder(folder))
        service = stack.enter_context(real_service(work))
        bare = stack.enter_context(bare_application(work))
        generator = stack.enter_context(Generator())
        report = Bench(plan, work, service, bare, generator).report()
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(0 if report.sound else 1)


if __name__ == "__main__":
    main()

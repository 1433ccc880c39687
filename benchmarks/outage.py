"""Whether anybody waits while a model hangs: latencies of store at half of capacity, beside runs with a well model.

    python -m benchmarks.outage [--seconds 5] [--rounds 5] [--connections 32] [--in-flight 60] [--json FILE]

The runs take turns: with a model that is well, and with so many reflections in flight that each wait for one that
does not answer. Requests fall due on a fixed schedule (open loop).
Exit status 1 if a request was not answered 200, too few reflections were in flight, an acknowledged turn is not
there afterwards, or the p99 is more than doubled.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import httpx2
import msgspec

from benchmarks.figures import median, shown, table
from benchmarks.http import SERIALS_OF_A_RUN, Figures, figures_of, machine, say
from benchmarks.ledger import Ledger, Verdict
from benchmarks.load import Generator, Job, Outcome, Request, lanes
from benchmarks.servers import Server, real_service, wait_until_quiet, work_folder
from benchmarks.workload import Workload, joined
from memory_service.chaos.model_server import ModelServer

HELD_S = 60
HANG_S = 3600
MOST = 2.0
NOTHING_ELSE = {"K_TURN_BUFFER": "1000", "REFLECTION_THRESHOLD_TURNS": "100000"}
"""No compaction and no reflection on the way: the runs do the same work but for the reflections that are held."""
HEADS = ["model", "round", "in flight", "requests/s", "p50 ms", "p99 ms", "errors"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    rounds: int
    connections: int
    in_flight: int
    sessions: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`in_flight`: reflections that waited for the model all through the run."""

    hanging: bool
    number: int
    in_flight: int
    figures: Figures


class Report(msgspec.Struct, frozen=True, kw_only=True):
    plan: Plan
    machine: dict[str, Any]
    capacity: float
    runs: list[Run]
    verdict: Verdict
    reflected: int
    p99_ratio: float

    @property
    def sound(self) -> bool:
        waited = all(run.in_flight >= self.plan.in_flight for run in self.runs if run.hanging)
        errors = sum(run.figures.errors for run in self.runs)
        read = self.reflected == self.plan.rounds * self.plan.in_flight
        return waited and read and not errors and not self.verdict.problems and self.p99_ratio <= MOST


class Outage:
    def __init__(self, plan: Plan, service: Server, model: ModelServer, generator: Generator) -> None:
        self._plan, self._service, self._model, self._generator = plan, service, model, generator
        self._workload = Workload(service.port, sessions=plan.sessions, messages=0)
        self._stores = self._workload.measured()["store"]
        self._http = httpx2.Client(base_url=service.url, trust_env=False, timeout=30)
        self._ledger = Ledger()
        self._jobs = self._reflected = 0

    def report(self) -> Report:
        self._run(joined(self._workload.users(), self._plan.connections), seconds=None)
        wait_until_quiet(self._service)
        outcome = self._run(lanes(self._stores, self._plan.connections), seconds=self._plan.seconds)
        capacity = figures_of(outcome).requests_per_s
        wait_until_quiet(self._service)
        say(f"capacity {capacity:,.0f} stores/s with {self._plan.connections} connections")
        runs = []
        for number in range(1, self._plan.rounds + 1):
            for hanging in (False, True) if number % 2 else (True, False):
                runs.append(self._measured(number, capacity / 2, hanging=hanging))
                say(f"round {number}: {_named(hanging)}, p99 {runs[-1].figures.p99_ms:.1f} ms")
        return Report(
            plan=self._plan,
            machine=machine(),
            capacity=capacity,
            runs=runs,
            verdict=self._ledger.verified(self._generator, self._workload, self._stores),
            reflected=self._reflected,
            p99_ratio=_p99(runs, hanging=True) / _p99(runs, hanging=False),
        )

    def _measured(self, number: int, rate: float, *, hanging: bool) -> Run:
        if hanging:
            self._hang(number)
        in_flight = self._model.waiting
        outcome = self._run(lanes(self._stores, self._plan.connections), seconds=self._plan.seconds, rate=rate)
        in_flight = min(in_flight, self._model.waiting)
        self._model.hanging = False
        wait_until_quiet(self._service)
        if hanging:
            self._reflected += sum(self._is_reflected(user_id) for user_id in self._talkers(number))
        return Run(hanging=hanging, number=number, in_flight=in_flight, figures=figures_of(outcome))

    def _talkers(self, number: int) -> list[str]:
        return [f"talker-{number}-{place}" for place in range(self._plan.in_flight)]

    def _hang(self, number: int) -> None:
        """End a session each of many users, and wait until each of their reflections waits for the model."""
        self._model.hanging = True
        for user_id in self._talkers(number):
            session = {"user_id": user_id, "session_id": "s"}
            self._post("/sessions/start", session)
            self._post("/memory/store", {**session, "user_message": "I prefer tea.", "agent_message": "Noted."})
            self._post("/sessions/end", session)
        deadline = time.monotonic() + HELD_S
        while self._model.waiting < self._plan.in_flight and time.monotonic() < deadline:
            time.sleep(0.05)

    def _post(self, path: str, body: dict[str, str]) -> Any:
        answer = self._http.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def _is_reflected(self, user_id: str) -> bool:
        answer = self._http.get("/sessions/s/reflection", params={"user_id": user_id})
        return bool(answer.json()["reflection"] == "done")

    def _run(self, of_lanes: list[list[Request]], *, seconds: float | None, rate: float | None = None) -> Outcome:
        self._jobs += 1
        job = Job(
            port=self._service.port,
            lanes=of_lanes,
            seconds=seconds,
            rate=rate,
            pid=self._service.pid,
            first_serial=self._jobs * SERIALS_OF_A_RUN,
            keep=True,
        )
        outcome = self._generator.run(job)
        self._ledger.add(outcome.answers)
        return outcome


def _named(hanging: bool) -> str:
    return "hanging" if hanging else "well"


def _p99(runs: list[Run], *, hanging: bool) -> float:
    middle = median(run.figures.p99_ms for run in runs if run.hanging is hanging)
    assert middle is not None
    return middle


def tell(report: Report) -> str:
    rows = [
        [
            _named(run.hanging),
            str(run.number),
            str(run.in_flight),
            shown(run.figures.requests_per_s),
            shown(run.figures.p50_ms, 2),
            shown(run.figures.p99_ms, 2),
            str(run.figures.errors),
        ]
        for run in sorted(report.runs, key=lambda run: (run.hanging, run.number))
    ]
    well, hanging = _p99(report.runs, hanging=False), _p99(report.runs, hanging=True)
    return "\n".join(
        [
            table(HEADS, rows),
            "",
            f"store, open loop at half of {report.capacity:,.0f}/s: median p99 {well:.2f} ms with a model that is well,"
            f" {hanging:.2f} ms with one that hangs; ratio {report.p99_ratio:.2f} (at most {MOST}).",
            f"{report.reflected} of {report.plan.rounds * report.plan.in_flight} held reflections were done afterwards;"
            f" {report.verdict.turns:,} acknowledged turns verified, {len(report.verdict.problems)} problems.",
            *report.verdict.problems[:5],
        ]
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=5.0, show_default=True, help="Length of one run.")
@click.option("--rounds", default=5, show_default=True, help="Pairs of runs, of which medians are taken.")
@click.option("--connections", default=32, show_default=True, help="Connections that store.")
@click.option("--in-flight", default=60, show_default=True, help="Reflections that wait for the model meanwhile.")
@click.option("--sessions", default=400, show_default=True, help="Sessions of ten turns to prepare.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(seconds: float, rounds: int, connections: int, in_flight: int, sessions: int, json_file: Path | None) -> None:
    """Measure store while many reflections wait for a model that hangs, beside runs with a well one."""
    plan = Plan(seconds=seconds, rounds=rounds, connections=connections, in_flight=in_flight, sessions=sessions)
    with work_folder(None) as folder, ModelServer() as model, Generator() as generator:
        settings = {
            **model.openai_environment,
            "OPENAI_EMBEDDING_MODEL": "",
            "REFLECTION_CONCURRENCY": str(in_flight),
            "MODEL_TIMEOUT_SECONDS": str(HANG_S),
            **NOTHING_ELSE,
        }
        with real_service(folder, **settings) as service:
            report = Outage(plan, service, model, generator).report()
            model.hanging = False
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(0 if report.sound else 1)


if __name__ == "__main__":
    main()

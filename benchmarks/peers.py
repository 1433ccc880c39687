"""Store, context and search of another service of memory beside ours, in the same run.

    python -m benchmarks.peers --kind KIND --url http://127.0.0.1:PORT [--header "NAME: VALUE"] [--pid PID]
                               [--seconds 2] [--rounds 3] [--connections 32,256] [--json FILE]

Whoever runs it starts the peer before, on this machine: the load goes to 127.0.0.1 alone. It should have nothing in
it; what is said to it stays there. Both are sent the same texts by the same load from the same number of connections,
one after the other in interleaved rounds, medians; ours with its defaults, so durable. What is compared is not the
same promise: `benchmarks.peer_kinds` says for each kind what of it is asked, and the report repeats it.

KIND is `redis-agent-memory-server`, `mem0`, `memobase`, `agent-memory`, or `ours`: one more of this service, with
which the ratios are about 1. The models of a peer are its own affair: a comparison of servers gives it a stub that
answers at once.

Exit status 1 if any request was not answered 200, 2 if there is no peer.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click
import httpx2
import msgspec

from benchmarks.figures import median, shown, table
from benchmarks.http import Figures, figures_of, machine, numbers, say
from benchmarks.load import Generator, Job, Outcome, Request, lanes
from benchmarks.peer_kinds import KINDS, Asked, Kind, fields_of, written
from benchmarks.servers import Server, real_service, wait_until_quiet, work_folder
from benchmarks.workload import Workload, joined

VERBS = {"store": "store", "context": "context", "search": "retrieve"}
"""What is compared, and what of the workload it is."""
HEADS = [
    *("what", "connections", "ours/s", "peer/s", "ours : peer"),
    *("ours p50 ms", "peer p50 ms", "ours p99 ms", "peer p99 ms", "ours CPU us", "peer CPU us", "errors"),
]
PREPARING_CONNECTIONS = 8
PATIENCE_S, LOOK_EVERY_S = 60, 0.25
SERIALS_OF_A_RUN = 10_000_000
NO_PEER = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    seconds: float
    rounds: int
    connections: list[int]
    sessions: int
    messages: int


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one verb, at both. `ratio`: of requests per second."""

    number: int
    what: str
    connections: int
    ours: Figures
    peer: Figures

    @property
    def ratio(self) -> float | None:
        return self.ours.requests_per_s / self.peer.requests_per_s if self.peer.requests_per_s else None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`finds`: whether the peer's search told anything, so that it is a search that was measured."""

    plan: Plan
    interface: str
    means: dict[str, str]
    machine: dict[str, Any]
    finds: bool
    rows: list[dict[str, Any]]
    pairs: list[Pair]

    @property
    def sound(self) -> bool:
        return not any(pair.ours.errors or pair.peer.errors for pair in self.pairs)


class Peer:
    """Somebody else's service, asked in its own words for what a workload asks of ours."""

    def __init__(
        self, kind: Kind, url: str, generator: Generator, headers: dict[str, str] | None = None, pid: int | None = None
    ) -> None:
        self.kind, self.url, self._generator, self._pid = kind, url, generator, pid
        self._parts = parts_of(url)
        assert self._parts.port is not None
        self._port: int = self._parts.port
        self._headers = {**kind.headers, **(headers or {})}
        self._runs = 0

    def require(self) -> None:
        """Exits if nobody answers."""
        try:
            httpx2.get(f"{self.url.rstrip('/')}{self.kind.health}", headers=self._headers, trust_env=False, timeout=10)
        except httpx2.HTTPError as exc:
            no_peer(f"nobody answers at {self.url} ({type(exc).__name__}): start the peer first")

    def prepare(self, workload: Workload) -> bool:
        """Tell it what the workload's users have said; returns whether it finds any of it."""
        sessions, library = _told(workload.users()), _told(workload.library())
        users = dict.fromkeys(start["user_id"] for start, _ in (*sessions, *library))
        say(f"preparing the peer: {len(users)} users, {len(sessions)} sessions, {len(library)} to be searched")
        self._send([self._written(self.kind.users(users))])
        self._send([self._written(self.kind.session(*of)) for of in sessions])
        self._send([self._written(self.kind.learnt(*of)) for of in library])
        return self._finds(workload)

    def _send(self, of_sessions: Sequence[list[Request]]) -> None:
        there = [requests for requests in of_sessions if requests]
        if not there:
            return
        outcome, refused = self._ran(joined(there, PREPARING_CONNECTIONS), None, keep=True)
        if refused:
            said = outcome.answers[0].body[:500].decode(errors="replace") if outcome.answers else "see its own log"
            raise click.ClickException(f"the peer refused {refused} requests of the preparation: {said}")

    def _finds(self, workload: Workload) -> bool:
        """Search until something is found: peers read what they were told when they have answered."""
        asked = self._written([self.kind.search(fields_of(workload.question()))])
        deadline = time.monotonic() + PATIENCE_S
        while True:
            outcome, _ = self._ran([asked], None, keep=True)
            with suppress(KeyError, TypeError, ValueError):
                if any(self.kind.found(json.loads(answer.body)) for answer in outcome.answers):
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_S)

    def requests(self, workload: Workload) -> dict[str, list[Request]]:
        """The workload's requests of each verb, in its words."""
        verbs = {"store": self.kind.store, "context": self.kind.context, "search": self.kind.search}
        ours = workload.measured()
        return {
            what: self._written(
                [verbs[what](fields_of(request)) for request in ours[of]], self.kind.serial if what == "store" else None
            )
            for what, of in VERBS.items()
        }

    def _written(self, asked: Sequence[Asked], serial: str | None = None) -> list[Request]:
        below = self._parts.path.rstrip("/")
        return [
            written(one._replace(path=below + one.path), one.path, self._port, self._headers, serial) for one in asked
        ]

    def measured(self, requests: list[Request], connections: int, seconds: float) -> Figures:
        outcome, refused = self._ran(lanes(requests, connections), seconds, keep=self.kind.tells_refusals)
        return msgspec.structs.replace(figures_of(outcome), errors=refused)

    def _ran(self, of_lanes: list[list[Request]], seconds: float | None, *, keep: bool) -> tuple[Outcome, int]:
        """Returns besides how many were refused, also where that is said in the answer alone."""
        self._runs += 1
        first = self._runs * SERIALS_OF_A_RUN
        job = Job(port=self._port, lanes=of_lanes, seconds=seconds, pid=self._pid, first_serial=first, keep=keep)
        outcome = self._generator.run(job)
        said = (answer.body for answer in outcome.answers) if self.kind.tells_refusals else ()
        return outcome, outcome.errors + sum(self.kind.is_refused(json.loads(body)) for body in said)


def _told(of_sessions: Sequence[list[Request]]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Of each session how it is begun and its turns."""
    fields = [[fields_of(request) for request in requests] for requests in of_sessions]
    return [(of[0], of[1:]) for of in fields]


class Comparison:
    """Ours and the peer, both prepared, asked in turn."""

    def __init__(self, plan: Plan, ours: Server, peer: Peer, generator: Generator) -> None:
        self._plan, self._ours, self._peer = plan, ours, peer
        own = Workload(ours.port, sessions=plan.sessions, messages=plan.messages)
        self._here = Peer(Kind(), ours.url, generator, pid=ours.pid)
        self._here.prepare(own)
        wait_until_quiet(ours)
        self.finds = peer.prepare(own)
        if not self.finds:
            say("the peer's search finds nothing: what is measured of it is not what a search takes")
        workload = Workload(ours.port, sessions=plan.sessions, messages=plan.messages)
        self._requests = self._here.requests(workload), peer.requests(workload)

    def pairs(self) -> Iterator[Pair]:
        for number in range(1, self._plan.rounds + 1):
            for connections in self._plan.connections:
                for what in VERBS:
                    ours, peer = self._both(what, connections, ours_first=number % 2 == 1)
                    line = f"ours {ours.requests_per_s:,.0f}/s, peer {peer.requests_per_s:,.0f}/s"
                    say(f"round {number}: {what}, {connections} connections: {line}")
                    yield Pair(number=number, what=what, connections=connections, ours=ours, peer=peer)

    def _both(self, what: str, connections: int, *, ours_first: bool) -> tuple[Figures, Figures]:
        """Who comes second pays for what the first still does in the background: each is, every other round."""
        peer = None if ours_first else self._of_peer(what, connections)
        ours = self._here.measured(self._requests[0][what], connections, self._plan.seconds)
        wait_until_quiet(self._ours)
        return ours, peer or self._of_peer(what, connections)

    def _of_peer(self, what: str, connections: int) -> Figures:
        return self._peer.measured(self._requests[1][what], connections, self._plan.seconds)


def rows_of(pairs: Sequence[Pair], plan: Plan) -> Iterator[dict[str, Any]]:
    """One row for each verb and number of connections: medians over the rounds, errors as their sum."""
    for connections in plan.connections:
        for what in VERBS:
            of = [pair for pair in pairs if (pair.what, pair.connections) == (what, connections)]
            row: dict[str, Any] = {"what": what, "connections": connections, "ratio": median(one.ratio for one in of)}
            for name in ("requests_per_s", "p50_ms", "p99_ms", "cpu_us"):
                row[f"ours_{name}"] = median(getattr(one.ours, name) for one in of)
                row[f"peer_{name}"] = median(getattr(one.peer, name) for one in of)
            yield {**row, "errors": sum(one.ours.errors + one.peer.errors for one in of)}


def tell(report: Report) -> str:
    """The table, and below it what was compared."""
    lines = [table(HEADS, [_row(row) for row in report.rows]), "", f"The peer's interface: {report.interface}."]
    lines += [f"{what}: of the peer {means}." for what, means in report.means.items()]
    if not report.finds:
        lines.append("The peer's search found nothing: it was not measured with something to find.")
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> list[str]:
    whole = [shown(row["ours_requests_per_s"]), shown(row["peer_requests_per_s"]), shown(row["ratio"], 1)]
    times = [shown(row[f"{who}_{name}"], 1) for name in ("p50_ms", "p99_ms") for who in ("ours", "peer")]
    cpu = [shown(row["ours_cpu_us"]), shown(row["peer_cpu_us"])]
    return [row["what"], str(row["connections"]), *whole, *times, *cpu, shown(row["errors"])]


def no_peer(why: str) -> None:
    click.echo(f"There is nothing to compare with: {why}.", err=True)
    sys.exit(NO_PEER)


def parts_of(url: str) -> SplitResult:
    """Exits if the URL is of no port of this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost") or not parts.port:
        no_peer(f"{url} is not of the form http://127.0.0.1:PORT, and the load goes nowhere else")
    return parts


def headers_of(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition(":") for value in values]
    if not all(name.strip() and text.strip() for name, _, text in pairs):
        raise click.BadParameter('write "NAME: VALUE"')
    return {name.strip().lower(): text.strip() for name, _, text in pairs}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="Whose interface it has.")
@click.option("--url", help="Where the peer is: http://127.0.0.1:PORT.")
@click.option("--header", "headers", multiple=True, callback=headers_of, help='Sent to the peer: "NAME: VALUE".')
@click.option("--pid", type=int, help="The peer's process, to tell the processor time it takes.")
@click.option("--seconds", default=2.0, show_default=True, help="Length of one round of one verb.")
@click.option("--rounds", default=3, show_default=True, help="Rounds, of which medians are taken.")
@click.option("--connections", default="32,256", show_default=True, callback=numbers, help="Numbers of connections.")
@click.option("--sessions", default=100, show_default=True, help="Sessions of ten turns to prepare.")
@click.option("--messages", default=200, show_default=True, help="Messages of the user who is searched.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where: which disk.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(
    kind: str,
    url: str | None,
    headers: dict[str, str],
    pid: int | None,
    folder: Path | None,
    json_file: Path | None,
    **more: Any,
) -> None:
    """Measure another service of memory beside ours."""
    if url is None:
        no_peer("no --url was given, which says where a peer is that was started before")
        return
    plan, chosen = Plan(kind=kind, **more), KINDS[kind]()
    with ExitStack() as stack:
        generator = stack.enter_context(Generator())
        peer = Peer(chosen, url, generator, headers, pid)
        peer.require()
        ours = stack.enter_context(real_service(stack.enter_context(work_folder(folder))))
        comparison = Comparison(plan, ours, peer, generator)
        pairs = list(comparison.pairs())
    report = Report(
        plan=plan,
        interface=chosen.interface,
        means=chosen.means,
        machine=machine(),
        finds=comparison.finds,
        rows=list(rows_of(pairs, plan)),
        pairs=pairs,
    )
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(0 if report.sound else 1)


if __name__ == "__main__":
    main()

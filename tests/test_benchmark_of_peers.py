"""Peers are asked in their own words for the same as ours; a refusal is no answer, and without a peer that is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from benchmarks import peers
from benchmarks.http import Figures
from benchmarks.load import Generator, Job, Outcome, Request
from benchmarks.load import run as run_load
from benchmarks.peer_kinds import KINDS, fields_of
from benchmarks.peers import Pair, Peer, Plan, Report, rows_of, tell
from benchmarks.servers import real_service
from benchmarks.workload import Workload
from tests.support.peers import ROUTES, PeerServer, peer_server

ROOT = Path(__file__).parents[1]
OTHERS = [kind for kind in KINDS if kind != "ours"]

pytestmark = pytest.mark.timeout(360)


class Here(Generator):
    """Runs the load in this process."""

    def run(self, job: Job) -> Outcome:
        return run_load(job)


def workload() -> Workload:
    return Workload(1, sessions=4, messages=40)


def asked(kind: str, server: PeerServer, **more: object) -> Peer:
    return Peer(KINDS[kind](), server.url, Here(), **more)  # type: ignore[arg-type]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.peers", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_peer_is_asked_as_it_documents_and_by_every_way_there_is(kind: str) -> None:
    with peer_server(kind) as server:
        peer = asked(kind, server)
        peer.require()
        finds = peer.prepare(workload())
        figures = [peer.measured(requests, 2, 0.05) for requests in peer.requests(workload()).values()]

    assert server.refused == []
    assert finds
    assert len(server.asked) == len(ROUTES[kind]), "a way was not taken"
    assert [one.errors for one in figures] == [0, 0, 0]
    assert all(one.requests_per_s > 0 for one in figures)


def test_what_a_peer_is_told_is_word_for_word_what_ours_is_told() -> None:
    ours = [fields_of(request) for request in workload().measured()["store"]]
    with peer_server("agent-memory") as server:
        theirs = asked("agent-memory", server).requests(workload())["store"]

    assert [fields_of(request) for request in theirs] == ours
    assert set(ours[0]) == {"user_id", "session_id", "user_message", "agent_message"}


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (
            "redis-agent-memory-server",
            Request("x", b"PUT /v1/working-memory/s HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"),
        ),
        ("mem0", Request("x", b"GET /memories?user_id=a HTTP/1.1\r\n\r\n")),
        ("agent-memory", Request("x", b"GET /memory/context HTTP/1.1\r\n\r\n")),
    ],
)
def test_a_request_of_another_shape_is_an_error(kind: str, broken: Request) -> None:
    with peer_server(kind) as server:
        figures = asked(kind, server).measured([broken], 1, 0.02)

    assert figures.errors > 0
    assert server.refused


def test_a_refusal_that_comes_with_status_200_is_an_error() -> None:
    with peer_server("memobase") as server:
        peer = asked("memobase", server)
        context = peer.requests(workload())["context"]
        (route,) = (route for route in server.routes if "/context/" in route.path)
        server.answers[route.path] = {"errno": 404, "errmsg": "no such user", "data": None}

        figures = peer.measured(context, 1, 0.02)

    assert figures.errors > 0


def test_a_header_that_is_given_takes_the_place_of_the_one_a_kind_has() -> None:
    with peer_server("memobase") as server:
        for headers in ({}, {"authorization": "Bearer mine"}):
            peer = asked("memobase", server, headers=headers)
            peer.measured(peer.requests(workload())["context"], 1, 0.02)

    assert server.authorization == {"Bearer secret", "Bearer mine"}


def test_a_search_that_finds_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE_S", 0)
    with peer_server("mem0") as server:
        server.answers["/search"] = {"results": []}
        finds = asked("mem0", server).prepare(workload())

    assert not finds


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://10.0.0.1:80", "https://127.0.0.1:443", "127.0.0.1:80", ""]
)
def test_without_a_peer_on_this_machine_it_says_so_and_measures_nothing(url: str) -> None:
    given = ("--url", url) if url else ()

    with pytest.raises(SystemExit) as ended:
        peers.main(["--kind", "mem0", *given])

    assert ended.value.code == peers.NO_PEER


def pair(number: int, what: str, ours: float, *, errors: int = 0) -> Pair:
    """Of which the peer answers 100 a second."""
    rates = {"p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": None, "answer_bytes": 10.0, "load_share": 0.1}
    here, there = Figures(requests_per_s=ours, errors=0, **rates), Figures(requests_per_s=100, errors=errors, **rates)
    return Pair(number=number, what=what, connections=2, ours=here, peer=there)


def test_the_ratios_are_medians_of_pairs_and_what_went_wrong_is_told() -> None:
    plan = Plan(kind="mem0", seconds=1, rounds=3, connections=[2], sessions=1, messages=1)
    pairs = [pair(n, what, rate) for what in peers.VERBS for n, rate in enumerate((200.0, 900.0, 300.0))]
    rows = list(rows_of(pairs, plan))
    report = Report(
        plan=plan, interface="of mem0", means={"store": "a turn"}, machine={}, finds=True, rows=rows, pairs=pairs
    )

    assert [(row["what"], row["ratio"]) for row in rows] == [("store", 3), ("context", 3), ("search", 3)]
    assert report.sound
    assert "store: of the peer a turn." in tell(report)
    assert not replace(report, pairs=[*pairs, pair(3, "store", 1.0, errors=1)]).sound
    assert "found nothing" not in tell(report)
    assert "found nothing" in tell(replace(report, finds=False))


@pytest.mark.long
def test_one_more_of_this_service_is_compared_with_it(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    short = ["--seconds", 0.2, "--rounds", 1, "--connections", 2, "--sessions", 4, "--messages", 20]
    (other := tmp_path / "other").mkdir()

    with real_service(other) as server:
        ran = run("--kind", "ours", "--url", server.url, "--pid", server.pid, *short, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ours : peer" in ran.stdout
    report = msgspec.json.decode(numbers.read_bytes(), type=Report)
    assert [(row["what"], row["errors"]) for row in report.rows] == [("store", 0), ("context", 0), ("search", 0)]
    assert all(0.05 < row["ratio"] < 20 for row in report.rows)
    assert report.finds

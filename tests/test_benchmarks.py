"""The benchmarks run, print their tables and judge rightly; what they measure is for those who run them."""

from __future__ import annotations

import json
import math
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from azure.cosmos import CosmosClient, PartitionKey
from msgspec.structs import replace

from benchmarks import cosmos, holding, outage, pool, raw, recall, replicas, retrieval, scale, startup, store
from benchmarks.cosmos_actions import LARGE_TURNS
from benchmarks.crediting import Evidence, score
from benchmarks.figures import median, percentile
from benchmarks.http import Report
from benchmarks.ledger import Ledger
from benchmarks.load import Answer, Job, Request, lanes
from benchmarks.load import run as run_load
from benchmarks.picture import drawn
from benchmarks.retrieval import Case, Origins, compared, fitting, interval
from benchmarks.servers import cpu_seconds
from memory_service.demo import Exchange
from tests import test_azure_how_to as azure_how_to
from tests import test_many_replicas_how_to as many_replicas
from tests.cosmos.launcher import KEY, CosmosServer
from tests.cosmos.node import INSTALL_S

ROOT = Path(__file__).parents[1]
ASKED = b"GET /%b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
GOOD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\nhello"

pytestmark = pytest.mark.timeout(360)


def said(speaker: str, text: str, number: int) -> dict[str, str]:
    return {"id": f"D1:{number}", "session": "S1", "date": "2024-05-01T10:00:00", "speaker": speaker, "text": text}


CONVERSATION = {
    "conv_id": "tiny",
    "speakers": ["Ana", "Ben"],
    "turns": [
        said("Ana", "My sister Ruth moved to a farm near Lisbon last spring", 1),
        said("Ben", "How lovely, does she keep any animals there?", 2),
        said("Ana", "She keeps four goats and an old donkey called Pepper", 3),
        said("Ben", "A donkey called Pepper, that made my day", 4),
        said("Ana", "I am learning to bake bread with rye flour", 5),
        said("Ben", "Send me a photo of the first loaf", 6),
    ],
    "questions": [
        {"id": "q1", "question": "What is the donkey called?", "category": "single", "evidence": ["D1:3"]},
        {"id": "q2", "question": "Where did Ruth move to?", "category": "single", "evidence": ["D1:1"]},
        {"id": "q3", "question": "What is the cat called?", "category": "adversarial", "evidence": ["D1:3"]},
        {"id": "q4", "question": "Who knows?", "category": "single", "evidence": []},
    ],
}


@pytest.fixture
def conversation(tmp_path: Path) -> Path:
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps([CONVERSATION]))
    return path


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_http_benchmark_prints_each_kind_beside_the_bare_application_and_writes_all_numbers(
    tmp_path: Path,
) -> None:
    numbers = tmp_path / "numbers.json"
    short = ["--seconds", 0.5, "--rounds", 1, "--connections", "2", "--sessions", 4, "--messages", 20]

    ran = run("http", *short, "--folder", tmp_path, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Verified over HTTP" in ran.stdout
    report = msgspec.json.decode(numbers.read_bytes(), type=Report)
    seen = {(row["kind"], row["connections"]) for row in report.medians}
    kinds = ["bare store", "store", "bare context", "context", "retrieve", "start"]
    assert seen == {(kind, 2) for kind in kinds}
    assert all(row["errors"] == 0 and row["requests_per_s"] > 0 for row in report.medians)
    assert report.verdict.turns > 3 * 10
    assert min(report.open_loop.fsync_p99_ms, report.open_loop.fsync_beside_p99_ms, report.open_loop.bare_p99_ms) > 0
    assert not list(tmp_path.glob("memory-benchmark-*"))
    assert report.sound
    assert not replace(report, verdict=replace(report.verdict, problems=["a turn is gone"])).sound
    first = report.rounds[0]
    refused = replace(first, figures=replace(first.figures, errors=1))
    assert not replace(report, rounds=[refused]).sound


def test_the_picture_of_the_http_benchmark_holds_its_figures_and_no_date() -> None:
    figures = {"p50_ms": 1, "p99_ms": 2, "cpu_us": 3, "answer_bytes": 4, "errors": 0, "load_share": 0.1}
    rates = {"bare store": (9000.0, 1.0), "store": (4321.0, 0.48)}
    medians = [
        {"kind": kind, "connections": 32, "requests_per_s": rate, "of_bare": ratio, **figures}
        for kind, (rate, ratio) in rates.items()
    ]
    told = {"platform": "Tiny<1>", "python": "3.11.7 (main)", "cpus": 2, "load_average": [1, 2, 3]}
    plan = {"seconds": 3.0, "rounds": 5, "connections": [32], "sessions": 1, "messages": 1, "wrk": False}
    opened = {"connections": 32, "rate": 1, "figures": {"requests_per_s": 1, **figures}}
    opened |= {"bare_p99_ms": 1, "fsync_p50_ms": 1, "fsync_p99_ms": 1, "fsync_beside_p99_ms": 1}
    rest = {"background": [], "rounds": [], "verdict": {"sessions": 0, "turns": 0, "replayed": 0, "problems": []}}
    report = msgspec.convert(
        {"plan": plan, "machine": told, "medians": medians, "open_loop": opened, **rest}, type=Report
    )

    picture = drawn(report)

    texts = [text.text for text in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert texts[4:9] == ["store", "32 connections", "4,321", "9,000", "0.48"]
    assert texts[-1] == "2 CPUs, Tiny<1>, Python 3.11.7; medians of 5 x 3 s"
    bars = [float(box.get("width", 0)) for box in ElementTree.fromstring(picture)[5:] if "rect" in box.tag]
    assert bars[-2] / bars[-1] == pytest.approx(4321 / 9000, abs=0.001)
    assert drawn(report) == picture


def test_a_start_is_measured_from_before_there_is_a_process_to_its_first_turn(tmp_path: Path) -> None:
    with startup.service(tmp_path) as process:
        answer_s, memory = process.first_answer(), process.idle()
        stored_s = process.first_turn()

    assert 0 < answer_s < stored_s
    assert 0 < (memory.private or 1) < memory.resident


def test_a_start_that_takes_too_long_or_too_much_is_told_by_its_status() -> None:
    small, large = (
        startup.Memory(resident=60_000_000, private=40_000_000),
        startup.Memory(resident=91_000_000, private=1),
    )
    starts = [startup.Start(what=startup.FRESH, answer_s=seconds, stored_s=9, cpu_s=1) for seconds in (0.5, 0.7, 3)]
    held = [startup.Held(what=startup.FRESH, idle=small, used=large)]
    imported = startup.summed(
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1500 |       1500 |   numpy.linalg\nimport time:       500 |       2000 | numpy\n"
        "import time:       100 |        100 |     json.decoder\n"
    )
    report = startup.Report(machine={}, turns=1, starts=starts, held=held, imports_ms=imported)

    assert imported == {"numpy": 2, "the standard library": 0.1}
    assert "service, empty folder            0.70          9.00   1.00          60.0        40.0" in startup.tell(
        report
    )
    assert report.sound
    assert not replace(report, starts=[replace(one, answer_s=1.6) for one in starts]).sound
    assert not replace(report, held=[replace(held[0], idle=large)]).sound


@pytest.mark.long
def test_the_benchmark_of_starts_starts_all_four_in_turn(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"

    ran = run("startup", "--starts", 1, "--turns", 20, "--folder", tmp_path, "--json", numbers)

    assert "imported by default" in ran.stdout, ran.stderr
    report = msgspec.json.decode(numbers.read_bytes(), type=startup.Report)
    assert [one.what for one in report.starts] == [startup.PYTHON, startup.BARE, startup.FRESH, "service, 20 turns"]
    assert [one.what for one in report.held] == [one.what for one in report.starts[1:]]
    assert all(one.used is not None and one.used.resident > one.idle.resident for one in report.held[1:])
    assert "memory_service" in report.imports_ms


def test_each_layer_of_the_hot_path_is_told_its_cost(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    printed = run("layers", "--rounds", 1, "--json", numbers)
    assert printed.returncode == 0, printed.stderr
    costs = json.loads(numbers.read_text())
    assert len(costs) == len(printed.stdout.splitlines()) - 2
    assert all(cost > 0 for cost in costs.values())
    assert costs["the verb `context`, hot, with its answer"] < costs["context, hot, 6 KB"]


def test_the_outage_benchmark_holds_reflections_while_it_stores_and_sees_them_done_afterwards(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    short = ["--seconds", 0.3, "--rounds", 1, "--connections", 2, "--in-flight", 5, "--sessions", 4]

    ran = run("outage", *short, "--json", numbers)

    report = msgspec.json.decode(numbers.read_bytes(), type=outage.Report)
    assert "ratio" in ran.stdout, ran.stderr
    assert {(one.hanging, one.in_flight) for one in report.runs} == {(False, 0), (True, 5)}
    assert (report.reflected, report.verdict.problems) == (5, [])
    in_time = replace(report, p99_ratio=1.9)
    assert in_time.sound
    assert not replace(in_time, p99_ratio=2.1).sound
    assert not replace(in_time, reflected=4).sound
    assert not replace(in_time, runs=[replace(report.runs[0], hanging=True, in_flight=4)]).sound


def test_the_benchmark_of_replicas_counts_what_each_verb_asks_of_the_store_they_share(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"

    ran = run("replicas", "--sessions", 4, "--turns", 3, "--replicas", "3", "--folder", tmp_path, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "not throughput" in ran.stdout
    report = msgspec.json.decode(numbers.read_bytes(), type=replicas.Report)
    rows = {(row.routing, row.verb): row for row in report.rows}
    stuck, dealt = rows["sticky", "store"], rows["round robin", "store"]
    assert (stuck.requests, stuck.hit_rate, stuck.asked) == (12, 1, {"commit": 1})
    assert (rows["sticky", "context"].hit_rate, rows["sticky", "context"].asked) == (1, {"head": 1})
    assert 1 < dealt.round_trips <= 4
    assert rows["round robin", "context"].asked["head"] <= 1
    assert (report.turns, report.problems) == (2 * 4 * 3, [])
    asked_twice = replace(stuck, asked={"commit": 1, "head": 0.1})
    assert asked_twice.problems == ["3 replicas, sticky, store: 0.10 times head, at most 0 is right"]
    assert not replace(asked_twice, asked={"commit": 1}).problems
    assert replace(dealt, asked={"commit": 2.1, "load": 1}).problems
    assert replace(report, lost=["a turn is gone"]).problems


def test_the_benchmark_of_the_store_goes_past_it_too_and_finds_every_turn_again(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    short = ["--seconds", 0.05, "--rounds", 1, "--writers", "1,3"]

    ran = run("store", *short, "--folder", tmp_path, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = msgspec.json.decode(numbers.read_bytes(), type=store.Report)
    rows = {(row["name"], row["writers"]): row for row in report.medians}
    assert set(rows) == {(name, writers) for name in (store.STORE, *raw.ENGINES) for writers in (1, 3)}
    assert rows[store.GROUPED, 3]["of_raw"] == 1
    assert rows["apsw, one by one", 3]["per_group"] == 1
    assert min(rows[name, 3]["per_group"] for name in (store.STORE, "log, fdatasync")) > 1
    assert (report.turns, report.problems) == (sum(one.figures.commits for one in report.rounds), [])


async def test_a_turn_that_was_acknowledged_by_the_store_and_is_not_there_is_told(tmp_path: Path) -> None:
    taking_turns = store.RealStore(f"sqlite:///{tmp_path}/store.db", 2)
    await taking_turns.start()
    await taking_turns.write(1)
    await taking_turns.stop()
    assert await taking_turns.problems() == []

    taking_turns.acknowledged[1] += 1

    assert await taking_turns.problems() == ["store: 2 turns of session 1 acknowledged, 1 there"]


@pytest.mark.parametrize("name", raw.ENGINES)
async def test_what_goes_past_the_store_is_looked_for_too(name: str, tmp_path: Path) -> None:
    engine = raw.ENGINES[name](tmp_path / "raw", 3)
    engine.start()
    taking_turns = store.Raw(name, engine, 3)
    for session in (0, 1, 1):
        await taking_turns.write(session)
    await taking_turns.stop()
    assert await taking_turns.problems() == []

    taking_turns.acknowledged[2] += 1

    assert await taking_turns.problems() == [f"{name}: 1 turns of session 3 acknowledged, 0 there"]


async def test_the_benchmark_of_the_pool_tells_what_a_session_takes_and_what_is_too_much(tmp_path: Path) -> None:
    plan = holding.Plan(sessions=3, turns=4, store_url=f"sqlite:///{tmp_path}/record.db")
    await holding.fill(plan)

    ran = run("holding", msgspec.json.encode(plan).decode())

    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = msgspec.json.decode(ran.stdout, type=holding.Figures)
    assert 4 * holding.TURN_BYTES < figures.pieces["words of turns"] < 5 * holding.TURN_BYTES
    assert figures.pieces["context: answers"] > 8 * holding.TURN_BYTES, "all words, and once more in the text"
    assert (figures.evicted, figures.problems) == (plan.too_many, [])
    line = pool.Line(plan=plan, figures=figures)
    cold = pool.Cold(restore_ms=2.9, context_ms=9)
    report = pool.Report(machine={}, lines=[line], cold=cold)
    assert report.problems == []
    assert "0 problems" in pool.tell(report)
    large = replace(line, plan=replace(plan, sessions=1000), figures=replace(figures, bytes_each=16_001))
    assert replace(report, lines=[large]).problems == ["restored: 16,001 bytes a session, 16,000 are allowed"]
    assert replace(report, cold=replace(cold, restore_ms=3.1)).problems
    too_many = replace(line, figures=replace(figures, problems=["none was evicted"]))
    assert replace(report, lines=[too_many]).problems == ["none was evicted"]


@pytest.mark.long
def test_with_redis_a_replica_takes_from_there_what_another_has_moved(tmp_path: Path) -> None:
    numbers, how = tmp_path / "numbers.json", ("--sessions", 6, "--turns", 4, "--replicas", "3", "--redis")
    ran = run("replicas", *how, "--folder", tmp_path, "--json", numbers)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = msgspec.json.decode(numbers.read_bytes(), type=replicas.Report)
    rows = {(row.routing, row.verb): row for row in report.rows}
    dealt = rows["round robin", "context"]
    assert dealt.redis_rate is not None
    assert dealt.redis_rate > 0.3
    assert dealt.asked.get("load", 0) < 0.5
    assert rows["sticky", "context"].asked == {"head": 1}
    assert report.problems == []
    assert replace(dealt, asked={"head": 2.1}).problems


@pytest.mark.long
def test_the_benchmark_of_sizes_measures_every_line_of_the_page(tmp_path: Path) -> None:
    ran = run("sizes", "--users", 3, "--sessions", 1, "--turns", 2, "--record", 20, "--folder", tmp_path)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = {line.strip("| ").split(" | ")[0]: line for line in ran.stdout.splitlines()}
    by_hand = {"Redis: bytes kept for a byte of value"}
    assert set(told) == set(many_replicas.MEASURED) - by_hand
    assert told["turns"].startswith("| turns | 12 | ")


@pytest.mark.long
@pytest.mark.timeout(INSTALL_S + 60)
def test_the_benchmark_of_cosmos_db_counts_what_each_verb_and_each_action_asks_of_it(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"

    ran = run("cosmos", "--repeat", 2, "--folder", tmp_path, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert cosmos.ORIGIN_SERVER[1:] in ran.stdout
    report = msgspec.json.decode(numbers.read_bytes(), type=cosmos.Report)
    actions = {row.name: row for row in report.actions}
    verbs = {row.name: row for row in report.verbs}
    assert (actions["store"].round_trips, actions["store"].requests) == (1, 1)
    assert (actions["store, Idempotency-Key"].round_trips, actions["store, Idempotency-Key"].requests) == (1, 1)
    assert actions[cosmos.COLD_RESTORE].round_trips == 3
    assert (actions["context, hot"].round_trips, actions["context, hot"].requests) == (1, 1)
    assert actions["retrieve, hot"].round_trips == 1
    large, read_whole = actions[cosmos.BY_STORE], actions[cosmos.READ_WHOLE]
    assert (large.round_trips, large.requests) == (2, 7), "how large it is, and two questions to each container"
    documents = LARGE_TURNS * 1.4
    told_units = azure_how_to.READING + azure_how_to.READING_EACH * documents
    assert read_whole.request_units == pytest.approx(told_units, rel=0.05)
    assert f"here {LARGE_TURNS} turns, and {round(LARGE_TURNS * 0.4)} memories" in " ".join(azure_how_to.PAGE.split())
    assert actions["vectors of a turn"].requests == 5, "one partition of each container, which turn, its vectors"
    assert actions["sweep, nothing to do"].requests == 6
    assert actions["retention, nothing to do"].requests == 3
    assert verbs["commit: turn"].requests == verbs["ping"].requests == 1
    assert verbs["entries: nothing new"].requests == 3
    assert verbs["commit: turn"].request_units > 10
    assert verbs["load: 7 live turns"].bytes_received > 7 * 500
    for name, told in azure_how_to.CHARGES.items():  # a run of two calls, and the page tells of ten
        row = actions.get(name) or verbs[name]
        assert row.request_units == pytest.approx(told[0], rel=0.1), f"docs/how-to/azure-cosmos.md: {name}"
    assert not report.problems
    slower = replace(actions[cosmos.COLD_RESTORE], round_trips=4)
    assert replace(report, actions=[slower]).problems


@pytest.mark.long
def test_the_benchmark_of_cosmos_db_leaves_an_account_as_it_was(
    cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSMOS_ENDPOINT", cosmos_server.url)
    monkeypatch.setenv("COSMOS_KEY", KEY)
    with CosmosClient(cosmos_server.url, KEY) as around:
        around.create_database("agent_memory").create_container("interactions", PartitionKey("/owner"))

        ran = run("cosmos", "--repeat", 1)

        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert cosmos.ORIGIN_ACCOUNT[1:] in ran.stdout
        assert [database["id"] for database in around.list_databases()] == ["agent_memory"]
        kept = around.get_database_client("agent_memory").list_containers()
        assert [container["id"] for container in kept] == ["interactions"]
        monkeypatch.setenv("COSMOS_KEY", "")
        assert "COSMOS_KEY" in run("cosmos").stderr


def test_the_retrieval_benchmark_asks_what_has_evidence_and_can_be_compared_with_itself(
    conversation: Path, tmp_path: Path
) -> None:
    numbers = tmp_path / "numbers.json"

    ran = run("retrieval", "--data", conversation, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "errors: 0, leaks: 0" in ran.stdout
    report = msgspec.json.decode(numbers.read_bytes(), type=retrieval.Report)
    assert [row.question for row in report.rows] == ["q1", "q2"]
    assert report.overall["recall_5"] == 1
    assert (report.ingest.turns, report.ingest.exchanges, report.ingest.cut) == (6, 3, 0)
    difference = compared(numbers, report.rows)
    assert "n=2" in difference
    assert "+0.0" in difference
    first, second = report.rows
    worse = [replace(first, score=replace(first.score, recall_5=0.0)), second]
    assert "-50.0  -100.0  +0.0" in compared(numbers, worse)


def test_the_benchmark_of_recall_asks_one_user_by_one_connection_and_by_several(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    short = ["--most", 100, "--rounds", 1, "--seconds", 0.1, "--connections", 4]

    ran = run("recall", *short, "--folder", tmp_path, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = msgspec.json.decode(numbers.read_bytes(), type=recall.Report)
    rows = {(row.what, row.connections): row.figures for row in report.rows}
    http = {("first", 1), ("search", 1), ("search", 4), ("asked again", 1), ("after a store", 1)}
    assert set(rows) == {*http, ("cosine alone", 0), ("words alone", 0)}
    assert all(figures.p99_ms >= figures.p50_ms > 0 for figures in rows.values())
    assert [(one.memories, one.counted_bytes > 100 * 1000) for one in report.held] == [(100, True)]
    assert "asked again" in ran.stdout


@pytest.mark.long
def test_the_benchmark_of_growth_asks_each_verb_of_each_thing_that_grows(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"

    ran = run("scale", "--times", 1, "--rounds", 1, "--folder", tmp_path, "--json", numbers)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = msgspec.json.decode(numbers.read_bytes(), type=scale.Report)
    things = (scale.SESSION, scale.USER, scale.DATABASE)
    assert {(cell.grows, cell.verb, cell.times) for cell in report.cells} == {
        (thing, verb, 1) for thing in things for verb in scale.VERBS
    }
    assert all(cell.cpu_us > 0 and cell.p50_ms > 0 for cell in report.cells)
    twice = [*report.cells, *(replace(cell, times=10, cpu_us=2 * cell.cpu_us) for cell in report.cells)]
    assert scale.tell(replace(report, cells=twice)).count("  2.00  ") == len(things) * len(scale.VERBS)


def test_of_each_conversation_so_many_questions_are_asked() -> None:
    assert [question.id for question in Case(CONVERSATION, "run", 1).questions] == ["q1"]


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("She keeps four goats and an old donkey called Pepper", True),
        ("ana: she KEEPS four goats, and an old donkey called pepper!", True),
        ("four goats and an old donkey called Pepper", True),  # 8 words of 10
        ("goats and an old donkey called Pepper", False),  # 7
        ("She keeps four goats. " * 9, False),
        ("", False),
    ],
)
def test_evidence_is_earned_by_four_fifths_of_its_words(text: str, earned: bool) -> None:
    assert Evidence("She keeps four goats and an old donkey called Pepper").is_in(text) is earned


def test_a_word_counts_as_often_as_the_evidence_has_it() -> None:
    assert not Evidence("no no no no yes").is_in("no yes")


def test_evidence_of_under_four_words_is_earned_by_the_whole_text_alone() -> None:
    assert Evidence("Yes, Lisbon!").is_in("yes lisbon")
    assert not Evidence("Yes, Lisbon!").is_in("Yes, Lisbon is where she lives")


def test_a_text_that_repeats_earned_evidence_earns_nothing_more() -> None:
    first, second = "one two three four five", "six seven eight nine ten"

    judged = score([Evidence(first), Evidence(second)], [first, first, "noise", second])

    assert (judged.recall_5, judged.mrr) == (1, 1)
    assert judged.ndcg_10 == pytest.approx((1 + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))


def test_recall_is_counted_to_each_depth_and_within_the_word_budget() -> None:
    wanted = "the answer stands right here"

    late = score([Evidence(wanted)], [*["noise"] * 7, wanted])
    beyond = score([Evidence(wanted)], ["noise " * 299, wanted])

    assert (late.recall_5, late.recall_10, late.recall_20, late.recall_300w) == (0, 1, 1, 1)
    assert late.mrr == pytest.approx(1 / 8)
    assert (beyond.recall_5, beyond.recall_300w) == (1, 0)


def test_a_text_of_another_conversation_is_a_leak() -> None:
    other = {**CONVERSATION, "conv_id": "other", "turns": [said("Ana", "words that only the other one ever said", 1)]}
    own, foreign = Case(CONVERSATION, "run", None), Case(other, "run", None)
    origins = Origins([own, foreign])
    here, there = (f"{case.conversation.user_id}-S1" for case in (own, foreign))

    clean = {"text": CONVERSATION["turns"][0]["text"], "session_id": here}
    by_text = {"text": "Words that only the OTHER one ever said", "session_id": here}
    by_session = {"text": "short", "session_id": there}

    assert origins.leaks(own, [clean, by_text, by_session]) == 2


def test_a_text_longer_than_the_service_takes_is_cut_and_nothing_is_lost() -> None:
    case = Case(CONVERSATION, "run", None)
    exchange: Exchange = case.conversation.sessions[0][0]

    parts = fitting(exchange, 20)

    assert "".join(part.user_message for part in parts) == exchange.user_message
    assert "".join(part.agent_message for part in parts) == exchange.agent_message
    assert len({part.turn_id for part in parts}) == len(parts) == 3
    assert fitting(exchange, 1000) == [exchange]


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.501, 51), (0.95, 95), (0.99, 99), (0.999, 100), (1.0, 100)]
)
def test_a_percentile_is_the_least_measured_value_that_covers_the_share(share: float, value: float) -> None:
    assert percentile([*range(100, 0, -1)], share) == value


def test_figures_of_nothing_are_no_numbers() -> None:
    assert math.isnan(percentile([], 0.5))
    assert median([]) is None
    assert median([None, 3, 1]) == 2


def test_an_interval_holds_the_mean_and_is_narrow_when_all_agree() -> None:
    mean, low, high = interval([0.0, 1.0] * 50)

    assert interval([0.5] * 10) == (0.5, 0.5, 0.5)
    assert 0.35 < low < mean == 0.5 < high < 0.65


def test_every_connection_has_something_to_send_and_shares_it_only_when_there_is_too_little() -> None:
    requests = [Request(name, b"") for name in "abc"]

    assert [[request.name for request in lane] for lane in lanes(requests, 2)] == [["a", "c"], ["b"]]
    assert [[request.name for request in lane] for lane in lanes(requests, 4)] == [["a"], ["b"], ["c"], ["a"]]


def test_a_turn_that_was_acknowledged_twice_under_one_number_is_seen() -> None:
    sound, broken = Ledger(), Ledger()
    for ledger, numbers in ((sound, (1, 2, 3)), (broken, (1, 2, 2))):
        ledger.add(
            Answer("ana s", serial, b'{"turn_number":%d,"replayed":false}' % number)
            for serial, number in enumerate(numbers)
        )

    assert sound.gaps() == []
    assert broken.gaps() == ["ana s: the turn numbers of 3 acknowledged turns are not dense"]


Reply = Callable[[bytes, Callable[[bytes], object]], bool]


@contextmanager
def answering(reply: Reply) -> Iterator[int]:
    """A server that gives each request (without a body) to `reply`, until that returns False; gives its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while line := self.rfile.readline():
                head += line
                if line == b"\r\n":
                    if not reply(head, self.request.sendall):
                        return
                    head = b""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def lane(*names: str) -> list[Request]:
    return [Request(name, ASKED % name.encode()) for name in names]


def test_each_request_is_sent_once_and_its_answer_kept_however_it_is_cut() -> None:
    def reply(head: bytes, send: Callable[[bytes], object]) -> bool:
        for part in (GOOD[:3], GOOD[3:40], GOOD[40:70], GOOD[70:]):
            send(part)
            time.sleep(0.002)
        return True

    with answering(reply) as port:
        outcome = run_load(Job(port=port, lanes=[lane("a", "b"), lane("c")], keep=True))

    assert sorted(answer.name for answer in outcome.answers) == ["a", "b", "c"]
    assert {answer.body for answer in outcome.answers} == {b"hello"}
    assert (len(outcome.latencies), outcome.errors, outcome.answer_bytes) == (3, 0, 5)
    assert min(outcome.latencies) >= 0.006


def test_a_serial_number_stands_between_head_and_tail_and_is_another_each_time() -> None:
    heads: list[bytes] = []

    def reply(head: bytes, send: Callable[[bytes], object]) -> bool:
        heads.append(head.partition(b" HTTP")[0])
        send(GOOD)
        return True

    request = Request("a", b"GET /a", b" HTTP/1.1\r\n\r\n")
    with answering(reply) as port:
        outcome = run_load(Job(port=port, lanes=[[request, request]], first_serial=41, keep=True))

    assert heads == [b"GET /a000000000042", b"GET /a000000000043"]
    assert [answer.serial for answer in outcome.answers] == [42, 43]


def test_an_answer_that_is_not_200_is_an_error() -> None:
    def reply(head: bytes, send: Callable[[bytes], object]) -> bool:
        send(GOOD if b"/a " in head else GOOD.replace(b"200 OK", b"503 No"))
        return True

    with answering(reply) as port:
        outcome = run_load(Job(port=port, lanes=[lane("a", "b", "a")], keep=True))

    assert (len(outcome.latencies), outcome.errors, len(outcome.answers)) == (3, 1, 2)


def test_a_request_whose_connection_is_lost_is_an_error_and_ends_its_lane() -> None:
    with answering(lambda head, send: False) as port:
        outcome = run_load(Job(port=port, lanes=[lane("a", "b")], seconds=5))

    assert (len(outcome.latencies), outcome.errors) == (0, 1)


def test_in_the_open_loop_a_stall_is_charged_for_all_that_were_due_meanwhile() -> None:
    stalls = iter([0.3])

    def reply(head: bytes, send: Callable[[bytes], object]) -> bool:
        time.sleep(next(stalls, 0))
        send(GOOD)
        return True

    with answering(reply) as port:
        outcome = run_load(Job(port=port, lanes=[lane("a")], seconds=1, rate=100))

    assert (len(outcome.latencies), outcome.errors) == (100, 0)
    assert sum(latency > 0.1 for latency in outcome.latencies) >= 18  # those due in the first 0.2 s, some slack left
    assert 0.9 < outcome.seconds < 30


def test_what_falls_due_in_the_lead_is_sent_and_answered_and_not_timed() -> None:
    stalls, heads = iter([1.0]), []

    def reply(head: bytes, send: Callable[[bytes], object]) -> bool:
        heads.append(head)
        time.sleep(next(stalls, 0))
        send(GOOD)
        return True

    with answering(reply) as port:
        outcome = run_load(Job(port=port, lanes=[lane("a")], seconds=0.5, rate=100, lead_s=1.5))

    assert (len(heads), len(outcome.latencies), outcome.errors) == (200, 50, 0)
    assert max(outcome.latencies) < 0.9
    assert 0.4 < outcome.seconds < 30
    assert outcome.answer_bytes == len("hello")


def test_the_processor_time_of_a_process_that_is_not_there_is_not_told() -> None:
    assert cpu_seconds(-1) is None
    assert (cpu_seconds(os.getpid()) or 1) > 0

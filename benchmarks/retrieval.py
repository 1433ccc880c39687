"""What /memory/retrieve finds of real conversations: the share of the turns that answer real questions.

    python -m benchmarks.retrieval --data FILE [--base-url URL] [--k 20] [--limit N] [--json FILE] [--compare OLD.json]

FILE is a list of `{conv_id, speakers, turns: [{id, session, date, speaker, text}], questions: [{id, question,
category, evidence}]}`; `evidence` names turns. It is your own copy: benchmark data has licences of its own.
Exit status 1 if any call failed or a text of another conversation came back.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import httpx2
import msgspec
import numpy as np

from benchmarks.crediting import METRICS, Evidence, Score, score
from benchmarks.figures import mean, percentile, shown, table
from benchmarks.servers import real_service, work_folder
from client import MemoryServiceClient, MemoryServiceError
from memory_service.demo import Conversation, Exchange, read_conversation

LEFT_OUT = "adversarial"
LONGEST_TEXT = 100_000
REFLECTION_WAIT_S = 20
BACKGROUND_S = 300
TELLING_WORDS = 8
"""Shorter texts are said in many conversations, and tell nothing of where they are from."""
RESAMPLES = 2000


class Question(msgspec.Struct, frozen=True):
    id: str
    text: str
    category: str
    evidence: list[Evidence]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One question and how it was answered."""

    conversation: str
    question: str
    category: str
    latency_ms: float
    error: bool
    leaks: int
    score: Score


class Ingest(msgspec.Struct, kw_only=True):
    """`turns`: messages of the file. `store_s`: storing alone; `ready_s`: until everything can be found."""

    turns: int = 0
    exchanges: int = 0
    cut: int = 0
    store_s: float = 0
    ready_s: float = 0
    errors: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    data: str
    k: int
    limit: int | None
    overall: dict[str, float]
    by_category: dict[str, dict[str, float]]
    latency_p50_ms: float
    latency_p95_ms: float
    ingest: Ingest
    errors: int
    leaks: int
    rows: list[Row]


class Case:
    """One conversation of the file: what to store, what to ask, and whose every text is."""

    def __init__(self, raw: dict[str, Any], run: str, limit: int | None) -> None:
        self.name: str = raw["conv_id"]
        fresh = f"{run}-{re.sub(r'[^A-Za-z0-9._@-]', '-', self.name)}"
        self.conversation: Conversation = read_conversation({**raw, "conv_id": fresh})
        self.texts: dict[str, str] = {turn["id"]: turn["text"] for turn in raw["turns"]}
        self.questions = list(self._asked(raw.get("questions", [])))[:limit]

    def _asked(self, questions: list[dict[str, Any]]) -> Iterator[Question]:
        for asked in questions:
            there = [self.texts[turn] for turn in dict.fromkeys(asked["evidence"]) if turn in self.texts]
            if there and asked["category"] != LEFT_OUT:
                evidence = [Evidence(text) for text in there]
                yield Question(str(asked["id"]), asked["question"], asked["category"], evidence)


class Origins:
    """Which conversations a text is from."""

    def __init__(self, cases: list[Case]) -> None:
        self._of: dict[str, set[str]] = {}
        for case in cases:
            for text in case.texts.values():
                if len(text.split()) >= TELLING_WORDS:
                    self._of.setdefault(_plain(text), set()).add(case.name)

    def leaks(self, case: Case, results: list[dict[str, Any]]) -> int:
        """Count results that are of another conversation, by their text or by their session."""
        own = f"{case.conversation.user_id}-"
        return sum(
            case.name not in self._of.get(_plain(result["text"]), {case.name})
            or not (result["session_id"] or own).startswith(own)
            for result in results
        )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


class Replay:
    """Stores conversations in a service and asks their questions, through the client."""

    def __init__(self, url: str, http: httpx2.AsyncClient, *, k: int) -> None:
        self._url, self._http, self._k = url, http, k
        self.ingest = Ingest()

    async def store(self, case: Case) -> None:
        client = self._client(case)
        before = (await client.stats())["recall"]["embedded"]
        began = time.perf_counter()
        stored = 0
        for session in case.conversation.sessions:
            stored += await self._store_session(client, session)
        self.ingest.store_s += time.perf_counter() - began
        await self._searchable(client, before + stored)
        self.ingest.ready_s += time.perf_counter() - began
        self.ingest.turns += len(case.texts)
        self.ingest.exchanges += stored

    def _client(self, case: Case) -> MemoryServiceClient:
        return MemoryServiceClient(self._url, case.conversation.user_id, http=self._http)

    async def _store_session(self, client: MemoryServiceClient, session: list[Exchange]) -> int:
        """Returns how many exchanges the service took."""
        stored = 0
        await client.start_session(session[0].session_id)
        for exchange in self._fitting(session):
            try:
                await client.store_turn(
                    exchange.user_message,
                    exchange.agent_message,
                    turn_id=exchange.turn_id,
                    user_name=exchange.user_name,
                    agent_name=exchange.agent_name,
                    created_at=exchange.created_at,
                )
                stored += 1
            except MemoryServiceError as error:
                self._failed(error)
        await client.end_session(wait_s=REFLECTION_WAIT_S)
        return stored

    def _fitting(self, session: list[Exchange]) -> Iterator[Exchange]:
        """Cut what is longer than the service takes; the rest follows in turns of its own."""
        for exchange in session:
            parts = fitting(exchange, LONGEST_TEXT)
            self.ingest.cut += len(parts) > 1
            yield from parts

    async def _searchable(self, client: MemoryServiceClient, embedded: int) -> None:
        """Wait until nothing is left to do in the background and everything stored has its vectors."""
        deadline = time.monotonic() + BACKGROUND_S
        while time.monotonic() < deadline:
            stats = await client.stats()
            queues = stats["queues"]
            if not queues["waiting"] and not queues["running"] and stats["recall"]["embedded"] >= embedded:
                return
            await asyncio.sleep(0.05)
        self._failed("the background work did not come to an end; what follows is without some vectors")

    async def ask(self, case: Case, question: Question, origins: Origins) -> Row:
        began = time.perf_counter()
        results, error = [], False
        try:
            results = (await self._client(case).retrieve(question.text, self._k))["results"]
        except MemoryServiceError as failure:
            error = True
            say(f"{question.id}: {failure}")
        return Row(
            conversation=case.name,
            question=question.id,
            category=question.category,
            latency_ms=(time.perf_counter() - began) * 1e3,
            error=error,
            leaks=origins.leaks(case, results),
            score=score(question.evidence, [result["text"] for result in results[: self._k]]),
        )

    def _failed(self, reason: object) -> None:
        self.ingest.errors += 1
        say(f"storing: {reason}")


def fitting(exchange: Exchange, longest: int) -> list[Exchange]:
    """Cut an exchange into as many as its longer text needs; nearly always that is one."""
    said, answered = exchange.user_message, exchange.agent_message
    count = max(1, -(-max(len(said), len(answered)) // longest))
    parts = [slice(i * longest, (i + 1) * longest) for i in range(count)]
    if count == 1:
        return [exchange]
    return [
        msgspec.structs.replace(
            exchange, turn_id=f"{exchange.turn_id}.{i}", user_message=said[part], agent_message=answered[part]
        )
        for i, part in enumerate(parts)
    ]


async def measured(cases: list[Case], url: str | None, k: int) -> tuple[list[Row], Ingest]:
    """Replay into the service at `url`, or into one of its own."""
    async with AsyncExitStack() as stack:
        if url is None:
            folder = stack.enter_context(work_folder(None))
            url = stack.enter_context(real_service(folder)).url
        http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False))
        replay, origins, rows = Replay(url, http, k=k), Origins(cases), []
        for case in cases:
            await replay.store(case)
        for case in cases:  # when all are stored: only then could one leak into another
            rows += [await replay.ask(case, question, origins) for question in case.questions]
            say(f"{case.name}: {len(case.texts)} turns, {len(case.questions)} questions")
        return rows, replay.ingest


def report_of(data: Path, k: int, limit: int | None, rows: list[Row], ingest: Ingest) -> Report:
    latencies = [row.latency_ms for row in rows]
    categories = sorted({row.category for row in rows})
    return Report(
        data=data.name,
        k=k,
        limit=limit,
        overall=averages(rows),
        by_category={name: averages([row for row in rows if row.category == name]) for name in categories},
        latency_p50_ms=percentile(latencies, 0.5),
        latency_p95_ms=percentile(latencies, 0.95),
        ingest=ingest,
        errors=ingest.errors + sum(row.error for row in rows),
        leaks=sum(row.leaks for row in rows),
        rows=rows,
    )


def averages(rows: list[Row]) -> dict[str, float]:
    return {"n": len(rows), **{metric: mean(getattr(row.score, metric) for row in rows) for metric in METRICS}}


def tell(report: Report) -> str:
    groups = [*report.by_category.items(), ("all", report.overall)]
    rows = [[name, str(of["n"]), *(shown(100 * of[metric], 1) for metric in METRICS)] for name, of in groups]
    ingest = report.ingest
    rates = [shown(ingest.turns / seconds if seconds else None) for seconds in (ingest.store_s, ingest.ready_s)]
    return "\n".join(
        [
            table(["per cent", "questions", *METRICS], rows),
            "",
            f"retrieve: p50 {report.latency_p50_ms:.1f} ms, p95 {report.latency_p95_ms:.1f} ms, top {report.k}",
            f"ingest: {ingest.turns:,} turns in {ingest.exchanges:,} exchanges, one by one: {rates[0]} turns/s;"
            f" until all of it can be found {rates[1]} turns/s; {ingest.cut} cut to fit",
            f"errors: {report.errors}, leaks: {report.leaks}",
        ]
    )


def compared(old: Path, rows: list[Row]) -> str:
    """Differences to an earlier run, question by question, with 95 % intervals of a paired bootstrap."""
    earlier = {(row["conversation"], row["question"]): row["score"] for row in json.loads(old.read_text())["rows"]}
    pairs = [(row.score, earlier[key]) for row in rows if (key := (row.conversation, row.question)) in earlier]
    if not pairs:
        return f"no question is in {old.name} too"
    lines = []
    for metric in METRICS:
        change, low, high = interval([getattr(now, metric) - then[metric] for now, then in pairs])
        lines.append([metric, *(f"{100 * value:+.1f}" for value in (change, low, high))])
    return table([f"against {old.name}, n={len(pairs)}", "change", "from", "to"], lines)


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean, and the bounds that 95 % of the resampled means are within."""
    values = np.array(differences)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _path(**kind: Any) -> click.Path:
    return click.Path(dir_okay=False, path_type=Path, **kind)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", type=_path(exists=True), required=True, help="Conversations with questions: your own copy.")
@click.option("--base-url", help="A running service; without it, one is started for the run.")
@click.option("--k", default=20, show_default=True, type=click.IntRange(1, 100), help="Results to ask for.")
@click.option("--limit", type=click.IntRange(1), help="Questions of each conversation; all if not given.")
@click.option("--json", "json_file", type=_path(), help="Write all numbers here, for --compare.")
@click.option("--compare", type=_path(exists=True), help="An earlier --json of the same data.")
def main(
    data: Path, base_url: str | None, k: int, limit: int | None, json_file: Path | None, compare: Path | None
) -> None:
    """Replay conversations and measure what is found of them."""
    run = uuid4().hex[:8]
    cases = [Case(raw, run, limit) for raw in json.loads(data.read_text("utf-8"))]
    if not any(case.questions for case in cases):
        raise click.ClickException("the file has no question with evidence")
    try:
        rows, ingest = asyncio.run(measured(cases, base_url, k))
    except MemoryServiceError as error:
        raise click.ClickException(f"the service failed: {error}") from error
    report = report_of(data, k, limit, rows, ingest)
    print(tell(report))
    if compare:
        print(f"\n{compared(compare, rows)}")
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.errors or report.leaks else 0)


if __name__ == "__main__":
    main()

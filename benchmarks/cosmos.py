"""What each verb and each action costs in Cosmos DB: round trips, requests, request units, bytes, time.

    python -m benchmarks.cosmos [--repeat 10] [--folder DIR] [--json FILE]

Against the server of the tests, or, when COSMOS_ENDPOINT is set, against that account (with COSMOS_KEY): in two
databases of new names, which are made for it and deleted afterwards. With Entra ID nobody can make one: it needs a key.

Requests, units and bytes are what the store itself counts (`GET /stats`). Round trips are how often a caller waits for
the database, one wait after the other: told by the time it takes when each answer is held back, so not on an account.
Exit status 1 if going on with a session that nobody here has in memory waits more than three times, or storing a turn
more than once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import click
import msgspec

from benchmarks.cosmos_actions import LARGE, Service
from benchmarks.cosmos_verbs import verbs_of
from benchmarks.figures import median, shown, table
from benchmarks.servers import work_folder
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.cosmos import CosmosStore
from tests.cosmos.launcher import KEY, CosmosServer

OF_VERBS = "_verbs"
"""The other of the two databases: what one part leaves is no work for the other."""
HELD_MS = 60
"""How long each answer is held back to count the waits, at least: far longer than what is done in between."""
COLD_RESTORE, STORE = "start: restore, cold", "store"
BY_STORE, READ_WHOLE = "retrieve, large memory", "retrieve, large memory, first, process"
MOST_WAITS = {COLD_RESTORE: 3, STORE: 1, "store, Idempotency-Key": 1}
SPENT = ("requests", "request_units", "bytes_sent", "bytes_received")
HEADS = ["", "round trips", "requests", "RU", "bytes sent", "received", "p50 ms"]
ORIGIN_SERVER = "charges are the test server's formula, from documented prices; nothing was measured on Azure"
ORIGIN_ACCOUNT = "measured on the account of COSMOS_ENDPOINT"

Work = Callable[[int], Awaitable[object]]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Means of one call; `round_trips` is None where they cannot be counted."""

    name: str
    round_trips: int | None
    requests: float
    request_units: float
    bytes_sent: float
    bytes_received: float
    p50_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    origin: str
    repeat: int
    verbs: list[Row]
    actions: list[Row]

    @property
    def problems(self) -> list[str]:
        rows = {row.name: row for row in self.actions}
        return [
            f"{name}: {rows[name].round_trips} round trips, at most {most} are right"
            for name, most in MOST_WAITS.items()
            if name in rows and (rows[name].round_trips or 0) > most
        ]


class Watch:
    """Measures work on a store; with a server of the tests it also counts the waits."""

    def __init__(self, store: CosmosStore, server: CosmosServer | None, repeat: int) -> None:
        self._store, self._server, self._repeat = store, server, repeat

    async def row(self, name: str, work: Work, first: Work | None = None) -> Row:
        """Do the work so often, each time with the next number and after what it needs `first`; once more for waits."""
        spent, took = dict.fromkeys(SPENT, 0.0), []
        for number in range(self._repeat):
            if first:
                await first(number)
            before, began = self._spent(), time.perf_counter()
            await work(number)
            took.append((time.perf_counter() - began) * 1000)
            spent = {what: spent[what] + count - before[what] for what, count in self._spent().items()}
        if first:
            await first(self._repeat)
        p50_ms = median(took) or 0.0
        waits = await self._waits(lambda: work(self._repeat), max(HELD_MS, 4 * p50_ms))
        means = {what: count / self._repeat for what, count in spent.items()}
        return Row(name=name, round_trips=waits, p50_ms=p50_ms, **means)

    def _spent(self) -> dict[str, float]:
        verbs = [spent for verb, spent in self._store.usage()["verbs"].items() if verb != "metadata"]
        return {name: sum(spent[name] for spent in verbs) for name in SPENT}

    async def _waits(self, work: Callable[[], Awaitable[object]], held_ms: float) -> int | None:
        if self._server is None:
            await work()  # what is measured next may need it
            return None
        self._server.fails({"delay_ms": held_ms, "path": "/docs"})
        began = time.perf_counter()
        await work()
        waits = int((time.perf_counter() - began) * 1000 / held_ms)
        self._server.fails()
        return waits


@contextmanager
def account(folder: Path) -> Iterator[tuple[Settings, CosmosServer | None]]:
    """Where to measure: an account if the environment names one, else a server of the tests."""
    name = f"benchmark_{uuid4().hex}"
    given = {"_env_file": None, "store_url": "cosmos:", "cosmos_database_name": name}
    endpoint, key = os.environ.get("COSMOS_ENDPOINT"), os.environ.get("COSMOS_KEY", "")
    if not endpoint:
        with CosmosServer(folder) as server:
            yield Settings(**{**given, "cosmos_endpoint": server.url, "cosmos_key": KEY}), server
        return
    if not key:
        raise click.ClickException("COSMOS_ENDPOINT needs COSMOS_KEY beside it: with Entra ID no database can be made")
    with own_database(endpoint, key, name), own_database(endpoint, key, name + OF_VERBS):
        yield Settings(**{**given, "cosmos_endpoint": endpoint, "cosmos_key": key}), None


@contextmanager
def own_database(endpoint: str, key: str, name: str) -> Iterator[None]:
    """Make a database, and delete it afterwards; one that is there already is an error, and stays."""
    from azure.cosmos import CosmosClient

    with CosmosClient(endpoint, key) as cosmos:
        cosmos.create_database(name)
        try:
            yield
        finally:
            cosmos.delete_database(name)


async def measured(settings: Settings, server: CosmosServer | None, repeat: int) -> Report:
    origin = ORIGIN_SERVER if server else ORIGIN_ACCOUNT
    return Report(
        origin=origin,
        repeat=repeat,
        verbs=[row async for row in _verbs(settings, server, repeat)],
        actions=[row async for row in _actions(settings, server, repeat)],
    )


async def _verbs(settings: Settings, server: CosmosServer | None, repeat: int) -> AsyncIterator[Row]:
    async with AsyncExitStack() as stack:
        name = settings.cosmos_database_name + OF_VERBS
        store = make_store(settings.model_copy(update={"cosmos_database_name": name}))
        assert isinstance(store, CosmosStore)
        await store.start(stack)
        watch = Watch(store, server, repeat)
        async for name, work in verbs_of(store, repeat + 1):
            yield await watch.row(name, work)


async def _actions(settings: Settings, server: CosmosServer | None, repeat: int) -> AsyncIterator[Row]:
    """Services one after the other: what the first has in memory the next has not."""
    async for row in _talking(settings, server, repeat):
        yield row
    async for row in _coming_back(settings, server, repeat):
        yield row


async def _talking(settings: Settings, server: CosmosServer | None, repeat: int) -> AsyncIterator[Row]:
    users = repeat + 1
    async with Service.opened(settings) as first:
        watch = Watch(first.store, server, repeat)
        yield await watch.row("start: new user", lambda n: first.start(f"new-{n}"))
        yield await watch.row("start: new session", lambda n: first.start(f"new-{n}", "another"))
        await first.talk(users)
        yield await watch.row(STORE, lambda n: first.turn(f"user-{n}"))
        yield await watch.row("store, Idempotency-Key", lambda n: first.turn(f"user-{n}", f"key-{n}"))
        yield await watch.row("context, hot", lambda n: first.context(f"user-{n}"))
        yield await watch.row("store, a repeat of it", lambda n: first.turn(f"user-{n}", f"key-{n}"))
        await first.embed_everything()
        yield await watch.row("end", lambda n: first.end(f"user-{n}"), lambda n: first.context(f"user-{n}"))
        yield await watch.row("reflection of a sitting", lambda n: first.reflect(f"user-{n}"))
        yield await watch.row("vectors of a reflection", lambda n: first.embed(f"user-{n}"))
        yield await watch.row("vectors of a turn", lambda n: first.embed(f"new-{n}"), lambda n: first.turn(f"new-{n}"))
        await first.talk(users, "again")
        await first.grow()


async def _coming_back(settings: Settings, server: CosmosServer | None, repeat: int) -> AsyncIterator[Row]:
    async with Service.opened(settings, later_h=1) as later:
        watch = Watch(later.store, server, repeat)
        yield await watch.row(COLD_RESTORE, lambda n: later.start(f"user-{n}", "again"))
        yield await watch.row("retrieve, first", lambda n: later.retrieve(f"user-{n}"))
        yield await watch.row("retrieve, hot", lambda n: later.retrieve(f"user-{n}"))
        if later.store.searched_by == "store":  # another reads large memories too
            yield await watch.row(BY_STORE, lambda _: later.retrieve(LARGE))
    async with Service.opened(settings.model_copy(update={"store_search": "process"})) as reading:
        watch = Watch(reading.store, server, repeat)
        yield await watch.row(READ_WHOLE, lambda _: reading.retrieve(LARGE), lambda _: reading.forget(LARGE))
    async with Service.opened(settings) as last:
        watch = Watch(last.store, server, repeat)
        yield await watch.row("context, cold", lambda n: last.context(f"user-{n}", "again"))
        yield await watch.row("sweep, nothing to do", lambda _: last.sweep())
        yield await watch.row("retention, nothing to do", lambda _: last.look_for_aged())


def tell(report: Report) -> str:
    def told(rows: list[Row]) -> str:
        return table(HEADS, [_cells(row) for row in rows])

    return "\n".join(
        [
            "verbs of the store",
            "",
            told(report.verbs),
            "",
            "actions over HTTP, and in the background",
            "",
            told(report.actions),
            "",
            f"Means of {report.repeat} calls. {report.origin[0].upper()}{report.origin[1:]}.",
            *report.problems,
        ]
    )


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        shown(row.round_trips),
        shown(row.requests, 1),
        shown(row.request_units, 1),
        shown(row.bytes_sent),
        shown(row.bytes_received),
        shown(row.p50_ms, 1),
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeat", default=10, show_default=True, help="Calls of each kind, of which means are taken.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to work.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
def main(repeat: int, folder: Path | None, json_file: Path | None) -> None:
    """Count what each verb of the store, and each action of a caller, asks of Cosmos DB."""
    with work_folder(folder) as own, account(own) as (settings, server):
        report = asyncio.run(measured(settings, server, repeat))
    print(tell(report))
    if json_file:
        json_file.write_text(json.dumps(msgspec.to_builtins(report), indent=1))
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()

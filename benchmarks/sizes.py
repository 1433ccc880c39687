"""What one turn, session and user take: rows and indexes in PostgreSQL, memory and processor time of a replica.

    python -m benchmarks.sizes [--users 250] [--sessions 2] [--turns 10] [--record 1000] [--folder DIR]

Conversations go over HTTP into a real service over a PostgreSQL of its own, with vectors and reflections (extracts: no
model). Then the tables are vacuumed and measured, and a second service is asked for the context of every session.
Prints what stands in docs/how-to/many-replicas.md (of a table its rows, bytes of a row, and of a row's indexes).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import click
import httpx2
import msgspec
import psycopg

from benchmarks.cosmos_actions import AGENT_WORDS, QUESTION, USER_WORDS
from benchmarks.figures import shown
from benchmarks.servers import (
    Server,
    cpu_seconds,
    real_service,
    resident_bytes,
    wait_until_quiet,
    work_folder,
)
from tests.postgres.launcher import PostgresServer

TABLES = ("owners", "sessions", "turns", "sittings", "memories", "vectors", "requests", "search_entries")
SIZES = """
SELECT count(*), pg_table_size('{table}'), pg_indexes_size('{table}') FROM {table}
"""
HELD = """
SELECT avg(octet_length(head) + (SELECT sum(octet_length(body)) FROM turns
    WHERE turns.session = sessions.id AND seq > live_after)) FROM sessions WHERE session_id = %s
"""
AT_ONCE = 16
SETTLED_S = 1
LIVE = "live"
"""The session of each user that is not ended: its turns are what a replica holds."""


READER, SEARCHES = "reader", 20
"""A user with much on record, who searches."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`sessions` of each user are ended and one is not; `record`: turns of the user who searches."""

    users: int
    sessions: int
    turns: int
    record: int


class Talk:
    """Conversations of so many users, with a few of them at once."""

    def __init__(self, http: httpx2.AsyncClient, plan: Plan) -> None:
        self._http, self._plan = http, plan
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def all(self) -> None:
        await asyncio.gather(*(self._user(f"user-{number}") for number in range(self._plan.users)))

    async def much(self) -> None:
        await self._session(READER, LIVE, self._plan.record)

    async def contexts(self) -> None:
        asked = (self._post("/memory/context", user_id=f"user-{n}", session_id=LIVE) for n in range(self._plan.users))
        await asyncio.gather(*asked)

    async def search(self, user_id: str = READER) -> None:
        await self._post("/memory/retrieve", user_id=user_id, query=QUESTION)

    async def _user(self, user_id: str) -> None:
        for session_id in [*(f"s{number}" for number in range(self._plan.sessions)), LIVE]:
            await self._session(user_id, session_id, self._plan.turns)
            if session_id != LIVE:
                await self._post("/sessions/end", user_id=user_id, session_id=session_id)

    async def _session(self, user_id: str, session_id: str, turns: int) -> None:
        name = {"user_id": user_id, "session_id": session_id}
        await self._post("/sessions/start", **name)
        for turn in range(turns):
            words = {"user_message": f"{turn} {USER_WORDS}", "agent_message": AGENT_WORDS}
            await self._post("/memory/store", headers={"Idempotency-Key": f"{session_id}-{turn}"}, **name, **words)

    async def _post(self, path: str, headers: dict[str, str] | None = None, **body: str) -> None:
        async with self._gate:
            (await self._http.post(path, json=body, headers=headers or {})).raise_for_status()


class Measures:
    """What one service takes for parts of the talk."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self._server, self._plan = server, plan

    def cpu_ms(self, part: Callable[[Talk], Awaitable[None]], times: int = 1) -> float:
        """Processor time for a part of the talk, and for the work behind it."""
        before = cpu_seconds(self._server.pid) or 0
        asyncio.run(self._do(part, times))
        wait_until_quiet(self._server)
        time.sleep(SETTLED_S)
        wait_until_quiet(self._server)
        return ((cpu_seconds(self._server.pid) or 0) - before) * 1000

    async def _do(self, part: Callable[[Talk], Awaitable[None]], times: int) -> None:
        async with httpx2.AsyncClient(base_url=self._server.url, trust_env=False, timeout=60) as http:
            for _ in range(times):
                await part(Talk(http, self._plan))

    @property
    def megabytes(self) -> float:
        return resident_bytes(self._server.pid) / 1e6


def rows(url: str) -> Iterator[str]:
    """Lines of the table of rows: how many, bytes of one, bytes of its indexes."""
    with psycopg.connect(url, autocommit=True) as db:
        for name in TABLES:
            db.execute(f"VACUUM ANALYZE {name}".encode())
            found = db.execute(SIZES.format(table=name).encode()).fetchone()
            assert found is not None
            count, table, indexes = found
            yield f"| {name} | {shown(count)} | {shown(table / count)} | {shown(indexes / count)} |"
        (held,) = db.execute(HELD, (LIVE,)).fetchone() or (0,)
        yield f"| head and live turns of a session as JSON, bytes | {shown(float(held))} |"


def measured(folder: Path, plan: Plan) -> Iterator[str]:
    with PostgresServer(folder) as postgres:
        with real_service(folder, STORE_URL=postgres.url) as server:
            service = Measures(server, plan)
            took = service.cpu_ms(Talk.all) / (plan.users * (plan.sessions + 1) * plan.turns)
            yield f"| a turn with all that follows it, ms of CPU | {shown(took, 1)} |"
            yield f"| a replica that has done all that, MB | {shown(service.megabytes)} |"
        yield from rows(postgres.url)
        with real_service(folder, STORE_URL=postgres.url) as server:
            Measures(server, plan).cpu_ms(Talk.much)
        with real_service(folder, STORE_URL=postgres.url, MAX_SESSIONS=str(10 * plan.users)) as server:
            service = Measures(server, plan)
            before = service.megabytes
            service.cpu_ms(Talk.contexts)
            each = (service.megabytes - before) * 1e3 / plan.users
            yield f"| a session in the pool with what is known of its user, KB | {shown(each)} |"
            yield f"| a context, hot, ms of CPU | {shown(service.cpu_ms(Talk.contexts, 4) / plan.users / 4, 1)} |"
        with real_service(folder, STORE_URL=postgres.url, STORE_SEARCH="process") as server:
            service = Measures(server, plan)
            service.cpu_ms(lambda talk: talk.search("user-0"))  # the first of all loads the embedder
            first = service.cpu_ms(Talk.search) / plan.record * 1000
            later = service.cpu_ms(Talk.search, SEARCHES) / SEARCHES
            yield f"| a first search over a thousand turns in the process, ms of CPU | {shown(first)} |"
            yield f"| a later one, ms of CPU | {shown(later, 1)} |"
        with real_service(folder, STORE_URL=postgres.url, STORE_SEARCH="store") as server:
            service = Measures(server, plan)
            service.cpu_ms(lambda talk: talk.search("user-0"))
            before = sum(cpu_seconds(pid) or 0 for pid in postgres.pids)
            here = service.cpu_ms(Talk.search, SEARCHES) / SEARCHES
            there = (
                (sum(cpu_seconds(pid) or 0 for pid in postgres.pids) - before) * 1000 / SEARCHES / plan.record * 1000
            )
            yield f"| a search by PostgreSQL, ms of CPU of the replica | {shown(here, 1)} |"
            yield f"| and of PostgreSQL, over a thousand turns | {shown(there, 1)} |"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--users", default=250, show_default=True, help="Users who talk.")
@click.option("--sessions", default=2, show_default=True, help="Sessions of a user that are ended and reflected on.")
@click.option("--turns", default=10, show_default=True, help="Turns of a session.")
@click.option("--record", default=1000, show_default=True, help="Turns of the user who searches.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to work.")
def main(users: int, sessions: int, turns: int, record: int, folder: Path | None) -> None:
    """Measure what is kept in PostgreSQL, and what a replica holds in memory."""
    with work_folder(folder) as own:
        for line in measured(own, Plan(users=users, sessions=sessions, turns=turns, record=record)):
            print(line)


if __name__ == "__main__":
    main()

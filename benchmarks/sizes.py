"""What one turn, session and user take: rows and indexes in PostgreSQL, memory in a replica.

    python -m benchmarks.sizes [--users 250] [--sessions 2] [--turns 10] [--folder DIR]

Conversations go over HTTP into a real service over a PostgreSQL of its own, with vectors and reflections (extracts: no
model). Then the tables are vacuumed and measured, and a second service is asked for the context of every session.
Prints the two tables of docs/how-to/many-replicas.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import click
import httpx2
import psycopg

from benchmarks.cosmos_actions import AGENT_WORDS, USER_WORDS
from benchmarks.figures import shown
from benchmarks.servers import Server, quiet_service, real_service, resident_bytes, wait_until_quiet, work_folder
from tests.postgres.launcher import PostgresServer

TABLES = ("owners", "sessions", "turns", "sittings", "memories", "vectors", "requests")
SIZES = """
SELECT count(*), pg_table_size('{table}'), pg_indexes_size('{table}') FROM {table}
"""
HELD = """
SELECT avg(octet_length(head) + (SELECT sum(octet_length(body)) FROM turns
    WHERE turns.session = sessions.id AND seq > live_after)) FROM sessions WHERE session_id = %s
"""
AT_ONCE = 16
LIVE = "live"
"""The session of each user that is not ended: its turns are what a replica holds."""


class Talk:
    """Conversations of so many users, with a few of them at once."""

    def __init__(self, server: Server, users: int, sessions: int, turns: int) -> None:
        self._server, self._users, self._sessions, self._turns = server, users, sessions, turns
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def all(self) -> None:
        async with httpx2.AsyncClient(base_url=self._server.url, trust_env=False, timeout=60) as self._http:
            await asyncio.gather(*(self._user(f"user-{number}") for number in range(self._users)))

    async def contexts(self) -> None:
        async with httpx2.AsyncClient(base_url=self._server.url, trust_env=False, timeout=60) as self._http:
            asked = (self._post("/memory/context", user_id=f"user-{n}", session_id=LIVE) for n in range(self._users))
            await asyncio.gather(*asked)

    async def _user(self, user_id: str) -> None:
        for session_id in [*(f"s{number}" for number in range(self._sessions)), LIVE]:
            name = {"user_id": user_id, "session_id": session_id}
            await self._post("/sessions/start", **name)
            for turn in range(self._turns):
                words = {"user_message": f"{turn} {USER_WORDS}", "agent_message": AGENT_WORDS}
                await self._post("/memory/store", headers={"Idempotency-Key": f"{session_id}-{turn}"}, **name, **words)
            if session_id != LIVE:
                await self._post("/sessions/end", **name)

    async def _post(self, path: str, headers: dict[str, str] | None = None, **body: str) -> None:
        async with self._gate:
            (await self._http.post(path, json=body, headers=headers or {})).raise_for_status()


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
        yield f"| head and live turns of a session, bytes of JSON | {shown(float(held))} |"
        (vector,) = db.execute("SELECT avg(octet_length(data)) FROM vectors").fetchone() or (0,)
        yield f"| a vector, bytes | {shown(float(vector))} |"


def measured(folder: Path, users: int, sessions: int, turns: int) -> Iterator[str]:
    with PostgresServer(folder) as postgres:
        with real_service(folder, STORE_URL=postgres.url) as service:
            asyncio.run(Talk(service, users, sessions, turns).all())
            wait_until_quiet(service)
            time.sleep(2)
            wait_until_quiet(service)
            worked = resident_bytes(service.pid)
        yield "| table | rows | bytes of a row | of its indexes |"
        yield from rows(postgres.url)
        with quiet_service(folder, STORE_URL=postgres.url, MAX_SESSIONS=str(10 * users)) as service:
            before = resident_bytes(service.pid)
            asyncio.run(Talk(service, users, sessions, turns).contexts())
            after = resident_bytes(service.pid)
        yield f"| a replica that has done nothing, MB | {shown(before / 1e6)} |"
        yield f"| a replica that has stored, embedded and reflected on all that, MB | {shown(worked / 1e6)} |"
        yield f"| a session in its pool with what is known of the user, KB | {shown((after - before) / users / 1e3)} |"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--users", default=250, show_default=True)
@click.option("--sessions", default=2, show_default=True, help="Sessions of a user that are ended and reflected on.")
@click.option("--turns", default=10, show_default=True, help="Turns of a session.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to work.")
def main(users: int, sessions: int, turns: int, folder: Path | None) -> None:
    """Measure what is kept in PostgreSQL, and what a replica holds in memory."""
    with work_folder(folder) as own:
        for line in measured(own, users, sessions, turns):
            print(line)


if __name__ == "__main__":
    main()

"""Looking at a database file around the store, standing in its way, and opening it in another process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from memory_service.stores.base import Commit, Store

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


@contextmanager
def raw(path: Path) -> Iterator[apsw.Connection]:
    """A connection of the test's own, around the store."""
    db = apsw.Connection(str(path))
    try:
        yield db
    finally:
        db.close()


@contextmanager
def writing_blocked(path: Path) -> Iterator[None]:
    """Somebody else holds the file's write lock: the writer has to wait."""
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def handed_over(store: Store, commits: list[Commit]) -> list[asyncio.Task[None]]:
    """Commits that are waiting in the store's queue, in this order."""
    waiting = store.usage()["waiting_commits"]
    tasks = [asyncio.create_task(store.commit(commit)) for commit in commits]
    await asyncio.sleep(0)  # each task's first step is to hand its commit over
    assert store.usage()["waiting_commits"] == waiting + len(commits)
    return tasks


async def together(store: Store, path: Path, commits: list[Commit]) -> list[BaseException | None]:
    """What comes of commits that wait together."""
    with writing_blocked(path):
        tasks = await handed_over(store, commits)
    return await asyncio.gather(*tasks, return_exceptions=True)


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with raw(path) as db:
        return db.execute(sql).fetchall()


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    tables = rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {name: rows(path, f"SELECT * FROM {name}") for (name,) in tables}


def bytes_of(path: Path) -> bytes:
    """All of the file. Only while no store has it open: closing it here would let go of SQLite's own locks."""
    return path.read_bytes()


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def contents(path: Path) -> list[str]:
    kept = rows(path, "SELECT body, compressed FROM turns ORDER BY id")
    bodies = [zlib.decompress(small) if small else body for body, small in kept]
    return [message["content"] for body in bodies for message in json.loads(body)["messages"]]


CHILD = """
import asyncio, sys
from contextlib import AsyncExitStack
from memory_service.errors import UnsafeStart
from tests.support.stores import store_of
from memory_service.stores.base import Commit
from tests.support.values import *

async def main():
    async with AsyncExitStack() as stack:
        store = store_of(sys.argv[1])
        try:
            await store.start(stack)
        except UnsafeStart as exc:
            print(exc, flush=True)
            return
        {work}
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass
class Other:
    """Another process that tried to open the store; `said` is `ready`, or why it could not."""

    process: asyncio.subprocess.Process
    said: str

    @property
    def pid(self) -> int:
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL: nothing in it gets to run."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def other_process(url: str, work: str = "") -> AsyncIterator[Other]:
    """Open the store in another process and do this work there; it is done when the block begins."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD.format(work="\n        ".join(line.strip() for line in work.strip().splitlines())),
        url,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            said = (await process.stdout.readline()).decode().strip()
        yield Other(process, said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

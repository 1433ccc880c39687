"""Two ways to look at a service that is killed: over HTTP while it lives, and into its record while it is dead."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import httpx2

from memory_service.settings import Settings
from memory_service.stores.base import Store
from memory_service.values import Kind, Memory, Scope, SessionKey, Turn
from tests.support import stores
from tests.support.background import until
from tests.support.process import ServiceProcess

Answer = dict[str, Any]


class Door:
    """Speaks plain HTTP to one service, without retries."""

    def __init__(self, url: str, timeout_s: float = 20) -> None:
        self._http = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=timeout_s)

    async def __aenter__(self) -> Door:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, path: str, **body: Any) -> httpx2.Response:
        return await self._http.post(path, json={name: value for name, value in body.items() if value is not None})

    async def post(self, path: str, **body: Any) -> Answer:
        response = await self.ask(path, **body)
        assert response.status_code == 200, response.text
        answer: Answer = response.json()
        return answer

    async def get(self, path: str, **query: Any) -> Answer:
        response = await self._http.get(path, params=query)
        assert response.status_code == 200, response.text
        answer: Answer = response.json()
        return answer

    async def start(self, user_id: str, session_id: str, *, restore: bool = True) -> Answer:
        return await self.post("/sessions/start", user_id=user_id, session_id=session_id, restore=restore)

    async def store(
        self, user_id: str, session_id: str, said: str, *, turn_id: str | None = None, reply: str = "Noted."
    ) -> Answer:
        body = {"user_message": said, "agent_message": reply, "turn_id": turn_id}
        return await self.post("/memory/store", user_id=user_id, session_id=session_id, **body)

    async def context(self, user_id: str, session_id: str) -> bytes:
        response = await self.ask("/memory/context", user_id=user_id, session_id=session_id)
        assert response.status_code == 200, response.text
        return response.content

    async def end(self, user_id: str, session_id: str, wait_s: float = 0) -> Answer:
        return await self.post("/sessions/end", user_id=user_id, session_id=session_id, wait_s=wait_s)

    async def reflection(self, user_id: str, session_id: str) -> Answer:
        return await self.get(f"/sessions/{session_id}/reflection", user_id=user_id)

    async def summaries(self, user_id: str) -> list[Answer]:
        found: list[Answer] = (await self.post("/summaries", user_id=user_id, limit=1000))["summaries"]
        return found

    async def insights(self, user_id: str) -> list[Answer]:
        found: list[Answer] = (await self.post("/insights", user_id=user_id))["insights"]
        return found

    async def reflected(self, user_id: str, session_id: str) -> bool:
        return bool((await self.reflection(user_id, session_id))["reflection"] == "done")

    async def settled(self) -> None:
        """Wait until no background job waits or runs."""

        async def idle() -> bool:
            queues = (await self.get("/stats"))["queues"]
            return not queues["waiting"] and not queues["running"]

        await until(idle)


async def started(process: ServiceProcess) -> None:
    """Start it, and wait until it answers."""
    await asyncio.to_thread(process.start)


async def opened(stack: AsyncExitStack, database: Path) -> Store:
    """Open the file of a service that is dead, as its only owner, until the stack is left."""
    store = stores.store_of(f"sqlite:///{database}")
    await store.start(stack)
    return store


async def on_disk(database: Path, user_id: str, session_id: str) -> list[Turn]:
    """Read what a dead service left of a session."""
    async with AsyncExitStack() as stack:
        store = await opened(stack, database)
        return await store.turns(SessionKey(scope=Scope(user_id=user_id), session_id=session_id))


def damage(database: Path) -> list[str]:
    """What SQLite itself finds wrong with the file."""
    with closing(apsw.Connection(str(database))) as db:
        return [str(row[0]) for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]


async def in_database(record: str | Settings, user_id: str, session_id: str) -> list[Turn]:
    """Read what a service left of a session in a database that it need not have for itself."""
    async with stores.opened(record) as store:
        return await store.turns(SessionKey(scope=Scope(user_id=user_id), session_id=session_id))


async def memories(record: str | Settings, user_id: str, *kinds: Kind) -> list[Memory]:
    async with stores.opened(record) as store:
        return await store.memories(Scope(user_id=user_id), kinds, superseded=True)


async def reflected_once(record: str | Settings, door: Door, user_id: str, turns: dict[str, int]) -> None:
    """Each session ended has one summary of all its turns, and no turn is quoted by two insights that hold, or chunks.

    Over a store that writes in steps, what a process that died had written of a reading is there; what is read anew of
    the same turn is then kept behind it.
    """
    summaries = await door.summaries(user_id)
    assert {summary["session_id"]: summary["turn_count"] for summary in summaries} == turns
    assert len(summaries) == len(turns)
    texts = [insight["content"] for insight in await door.insights(user_id)]
    assert len(texts) == len(set(texts)) > 0
    insights = [insight for insight in await memories(record, user_id, "insight") if insight.valid_to is None]
    quoted = [source for insight in insights for source in insight.sources]
    assert len(quoted) == len({(source.session_id, source.seq) for source in quoted}) > 0
    chunks = await memories(record, user_id, "chunk")
    covered = [(source.session_id, source.seq) for chunk in chunks for source in chunk.sources]
    assert len(covered) == len(set(covered)) > 0

"""A service beside the engines of memory drivers, and callers who write and at once ask for what they wrote."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

from memory_service.chaos.process import SERVE, ServiceProcess
from tests.support.background import until

PATIENCE_S = 60
WRITERS = 4
A_MEMORY_IN = 8
"""Of so many words one is a memory, the others are said in turns: an engine that lacks more than 50 memories of a user
is not asked, and so many are soon written."""
SETTINGS = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "SWEEP_INTERVAL_SECONDS": "1",
    "REFLECTION_THRESHOLD_TURNS": "1000",  # nothing is learned that nobody has written
    "L_TURN_CHUNKS": "1000",
    "K_TURN_BUFFER": "1000",
}


@dataclass
class Writer:
    """Stores memories and turns, and asks for each as soon as it is acknowledged.

    `written`: the words of both, `said`: how many were turns; `told`: how answers were labelled.
    """

    http: httpx2.AsyncClient
    name: str
    written: list[str] = field(default_factory=list)
    said: int = 0
    told: Counter[str] = field(default_factory=Counter)

    async def write(self, enough: asyncio.Event) -> None:
        await self._post("/sessions/start", user_id=self.name, session_id="s")
        for number in count(len(self.written)):
            if enough.is_set():
                return
            word = f"{self.name}word{number}"
            if number % A_MEMORY_IN == 0:
                await self._post("/memories", memories=[{"user_id": self.name, "content": f"noted {word} here"}])
            else:
                turn = {"user_message": f"I said {word} once", "agent_message": ""}
                await self._post("/memory/store", user_id=self.name, session_id="s", turn_id=word, **turn)
                self.said += 1
            self.written.append(word)
            await self.ask(word)
            await self.ask(self.written[number // 2])

    async def ask(self, word: str) -> None:
        answer = await self._post("/memory/retrieve", user_id=self.name, query=word, top_k=5)
        assert any(word in fact.split() for fact in answer["facts"]), (word, answer)
        self.told[",".join(answer["degraded"])] += 1

    async def is_answered(self, word: str) -> bool:
        """Ask; tells whether the engine answered: on a machine that stands still it may be too late."""
        self.told.clear()
        await self.ask(word)
        assert set(self.told) <= {"", "driver"}
        return set(self.told) == {""}

    async def _post(self, path: str, **body: Any) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@dataclass
class World:
    service: ServiceProcess
    http: httpx2.AsyncClient
    driver: str
    writers: list[Writer]

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for writer in self.writers:
                group.create_task(writer.write(enough))
            yield
            enough.set()

    async def a_while(self, more: int = 6) -> Counter[str]:
        """Wait until each has written so much more; returns how answers were labelled meanwhile."""
        goals = [len(writer.written) + more for writer in self.writers]
        for writer in self.writers:
            writer.told.clear()
        await until(
            lambda: all(len(w.written) >= goal for w, goal in zip(self.writers, goals, strict=True)), PATIENCE_S
        )
        return sum((writer.told for writer in self.writers), Counter())

    async def states(self) -> list[dict[str, Any]]:
        """How each driver fares."""
        states: list[dict[str, Any]] = (await self.http.get("/drivers")).json()["drivers"]
        return states

    async def is_up(self) -> bool:
        return all(state["connected"] for state in await self.states())

    async def caught_up(self) -> None:
        async def has_everything() -> bool:
            return all(state["connected"] and state["lagging_users"] == 0 for state in await self.states())

        await until(has_everything, PATIENCE_S)

    async def answered(self) -> int:
        stats = (await self.http.get("/stats")).json()
        count: int = stats["drivers"]["answered"]
        return count

    async def engine_answers(self) -> None:
        """Wait until it does: one that has been brought nothing, or too little, is not asked and cannot be missed."""
        before = await self.answered()

        async def has_answered() -> bool:
            return await self.answered() > before

        await until(has_answered, PATIENCE_S)

    async def all_is_there(self) -> None:
        """Everything that was written is found, by the engine; and it holds that and nothing else."""
        before, asked = await self.answered(), 0
        for writer in self.writers:
            for word in writer.written:
                await until(partial(writer.is_answered, word))
                asked += 1
        assert await self.answered() - before == asked
        compared = (await self.http.post("/drivers/compare", json={"driver": self.driver})).json()
        assert (compared["users"], compared["lagging_users"]) == (len(self.writers), 0)
        assert (compared["missing"], compared["surplus"], compared["other"]) == (0, 0, 0), compared
        assert compared["items"] == sum(len(writer.written) for writer in self.writers)


@asynccontextmanager
async def beside_engines(folder: Path, driver: str, **settings: str) -> AsyncIterator[World]:
    """A service on a record of its own, which asks these drivers."""
    settings = {**SETTINGS, "MEMORY_DRIVER": driver, "QUERY_CACHE_SECONDS": "0", **settings}
    async with ServiceProcess(folder, SERVE, **settings) as service:
        await service.start()
        async with httpx2.AsyncClient(base_url=service.url, timeout=PATIENCE_S) as http:
            yield World(service, http, driver, [Writer(http, f"user{number}") for number in range(WRITERS)])

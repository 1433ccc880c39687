"""Several services on one record, each a process; who asks them, and callers who remember what was acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import httpx2

from memory_service.chaos.process import SERVE, ServiceProcess
from tests.faults.doors import in_database
from tests.support.background import until

PATIENCE_S = 60
SETTINGS = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "K_TURN_BUFFER": "1000",  # all turns stay in the context
    "SWEEP_INTERVAL_SECONDS": "1",
    "MODEL_TIMEOUT_SECONDS": "2",  # a lease lasts by it: what a killed one held is free again soon
    "REFLECTION_RETRY_SECONDS": "0.1",
}
NO_ANSWER, CONFLICT = "no answer", "409 version_conflict"


@asynccontextmanager
async def replicas_on(
    folder: Path, records: Iterable[Mapping[str, str]], command: Sequence[str] = SERVE, **settings: str
) -> AsyncIterator[list[ServiceProcess]]:
    """One service for each of the ways to the record, started."""
    async with AsyncExitStack() as stack:
        made = []
        for number, record in enumerate(records):
            own = folder / f"replica-{number}"
            own.mkdir()
            service = ServiceProcess(own, command, **{**SETTINGS, **record, **settings})
            made.append(await stack.enter_async_context(service))
        await asyncio.gather(*(replica.start() for replica in made))
        yield made


class RoundRobin:
    """Asks one after the other, and the next one if one refuses or does not answer; counts by whom it was refused.

    `may_refuse`: how a refusal may begin, "503 store_unavailable", or `NO_ANSWER`. Any other fails the test; one that
    came too late, in a session of many, just tries again.
    """

    def __init__(self, http: httpx2.AsyncClient, urls: Sequence[str], *may_refuse: str) -> None:
        self._http, self._urls, self._may_refuse = http, cycle(urls), may_refuse
        self.refused: Counter[str] = Counter()

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                url = next(self._urls)
                try:
                    answer = await self._http.post(url + path, json=body)
                except httpx2.TransportError as exc:
                    said = f"{NO_ANSWER}: {exc!r}"
                else:
                    if answer.status_code == 200:
                        return dict(answer.json())
                    said = f"{answer.status_code} {answer.json()['code']}"
                if said != CONFLICT:
                    assert said.startswith(self._may_refuse), said
                    self.refused[url] += 1
                await asyncio.sleep(0.02)


class Caller:
    """Talks in one session after the other, and in one that all of them share; each turn has a name.

    `said` and `shared` hold what was acknowledged: of each session in order, and by its number.
    """

    def __init__(self, name: str, anyone: RoundRobin, turns: int) -> None:
        self.name, self._anyone, self._turns = name, anyone, turns
        self.said: dict[str, list[str]] = {}
        self.shared: dict[int, str] = {}

    @property
    def stored(self) -> int:
        return len(self.shared) + sum(map(len, self.said.values()))

    async def talk(self, enough: asyncio.Event) -> None:
        """Go on until it is enough; so many turns, then the next session."""
        await self._anyone.post("/sessions/start", **EVERYBODY)
        for number in count(1):
            session = {"user_id": self.name, "session_id": f"s{number}"}
            await self._anyone.post("/sessions/start", **session)
            said = self.said[session["session_id"]] = []
            for _ in range(self._turns):
                if enough.is_set():
                    return
                await self.say(session, said)
                await self._say_to_all()
            await self._anyone.post("/sessions/end", **session)

    async def say(self, session: dict[str, str], said: list[str]) -> None:
        """One turn, and a look at the context: it holds what was acknowledged, once and in order."""
        words = f"I prefer number {len(said) + 1} of {session['session_id']} of {self.name}."
        stored = await self._store(session, words)
        said.append(words)
        assert stored["turn_number"] == len(said)
        seen = await self._anyone.post("/memory/context", **session)
        assert heard(seen) == said

    async def _say_to_all(self) -> None:
        words = f"I prefer number {self.stored} of {self.name}."
        stored = await self._store(EVERYBODY, words)
        assert self.shared.setdefault(stored["turn_number"], words) == words
        seen = await self._anyone.post("/memory/context", **EVERYBODY)
        assert heard(seen)[stored["turn_number"] - 1] == words

    async def _store(self, session: dict[str, str], words: str) -> dict[str, Any]:
        turn = {"turn_id": words.rstrip(".").replace(" ", "-"), "user_message": words, "agent_message": "Noted."}
        return await self._anyone.post("/memory/store", **session, **turn)


EVERYBODY = {"user_id": "all", "session_id": "shared"}


def heard(context: dict[str, Any]) -> list[str]:
    """What users said in the live turns of a context."""
    return [message["content"] for message in context["active_context"] if message["role"] == "user"]


@asynccontextmanager
async def talking(callers: Sequence[Caller]) -> AsyncIterator[None]:
    """A block beside which all of them talk; they finish what they were about to say. Theirs are its failures."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.talk(enough))
        yield
        enough.set()


async def a_while(callers: Sequence[Caller], turns: int = 6) -> None:
    """Wait until each has stored so many turns more."""
    goals = [caller.stored + turns for caller in callers]
    await until(lambda: all(caller.stored >= goal for caller, goal in zip(callers, goals, strict=True)), PATIENCE_S)


async def readiness(http: httpx2.AsyncClient, replica: ServiceProcess) -> str:
    answer = await http.get(f"{replica.url}/readyz")
    return "ready" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['code']}"


async def all_ready(http: httpx2.AsyncClient, replicas: Sequence[ServiceProcess]) -> bool:
    return set(await asyncio.gather(*(readiness(http, replica) for replica in replicas))) == {"ready"}


async def all_is_there(record: str, callers: Sequence[Caller]) -> None:
    """All that was acknowledged is on record, and nothing else: once, in order, under dense numbers."""
    for caller in callers:
        for session_id, said in caller.said.items():
            turns = await in_database(record, caller.name, session_id)
            assert [turn.seq for turn in turns] == list(range(1, len(said) + 1))
            assert [turn.messages[0].content for turn in turns] == said
    numbered = {number: words for caller in callers for number, words in caller.shared.items()}
    assert len(numbered) == sum(len(caller.shared) for caller in callers)
    turns = await in_database(record, EVERYBODY["user_id"], EVERYBODY["session_id"])
    assert {turn.seq: turn.messages[0].content for turn in turns} == numbered
    assert [turn.seq for turn in turns] == list(range(1, len(turns) + 1))

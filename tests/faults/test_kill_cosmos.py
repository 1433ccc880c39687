"""Kill -9 of the service, and of its database, over Cosmos DB: what was acknowledged is there once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import httpx2
import pytest

from memory_service.values import Scope, SessionKey, Turn
from tests.cosmos.launcher import CosmosServer
from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, started
from tests.faults.test_kill import Writer, writing
from tests.stores.cosmos_account import documents, end_leases, settings_for
from tests.support.background import until
from tests.support.process import ServiceProcess
from tests.support.stores import opened

USERS = ("ana", "ben")
SESSIONS = ("s", "t", "u")


@pytest.fixture
def lasting_server(tmp_path: Path) -> Iterator[CosmosServer]:
    """A Cosmos DB server of the test's own, which keeps what it wrote over a kill."""
    with CosmosServer(tmp_path, journal=True) as server:
        yield server


async def in_database(server: CosmosServer, user_id: str, session_id: str) -> list[Turn]:
    """Read what a dead service left of a session."""
    async with opened(settings_for(server)) as store:
        return await store.turns(SessionKey(scope=Scope(user_id=user_id), session_id=session_id))


async def checked(writer: Writer, server: CosmosServer) -> bool:
    return writer.compare(await in_database(server, writer.user_id, writer.session_id))


async def reflected_once(server: CosmosServer, door: Door, user_id: str, turns: dict[str, int]) -> None:
    """Each session ended has one summary of all its turns, and no turn is quoted by two insights or chunks."""
    summaries = await door.summaries(user_id)
    assert {summary["session_id"]: summary["turn_count"] for summary in summaries} == turns
    assert len(summaries) == len(turns)
    insights = await door.insights(user_id)
    quoted = [(source["session_id"], source["turn_number"]) for insight in insights for source in insight["sources"]]
    assert len(quoted) == len(set(quoted)) > 0
    bodies = [json.loads(one["body"]) for one in documents(server, "insights") if one["owner"].endswith(f"|{user_id}")]
    assert len({body["memory_id"] for body in bodies}) == len({body["text"] for body in bodies}) == len(bodies)
    kept = [one for one in documents(server, "session_summaries") if one["owner"].endswith(f"|{user_id}")]
    chunks = [json.loads(one["body"]) for one in kept if one["kind"] == "chunk"]
    covered = [(one["session_id"], source["seq"]) for one in chunks for source in one["sources"]]
    assert len(covered) == len(set(covered)) > 0


@pytest.mark.parametrize(
    ("point", "times", "stored"),
    [
        ("before_commit", 20, None),
        ("after_memories", 1, None),
        ("after_commit", 20, None),
        ("before_reply", 20, True),
        ("in_compaction", 1, None),
        ("after_claim", 1, None),
        ("after_model", 1, None),
    ],
)
async def test_wherever_the_process_dies_nothing_is_lost_or_done_twice(
    make_process: MakeProcess, cosmos_server: CosmosServer, point: str, times: int, stored: bool | None
) -> None:
    record = cosmos_server.environment
    dying = make_process(KILL_AT=f"{point}:{times}", K_TURN_BUFFER="2", REFLECTION_THRESHOLD_TURNS="1", **record)
    await started(dying)
    writer = Writer("ana", "s", dying.url)
    async with Door(dying.url) as door:
        await door.start("ana", "s")
        await writer.write()
    await died(dying)
    was_stored = await checked(writer, cosmos_server)
    assert stored in (None, was_stored)

    end_leases(cosmos_server)
    living = make_process(**record)
    await started(living)
    writer.url = living.url
    await writer.settle(was_stored)
    async with Door(living.url) as door:
        ended = await door.end("ana", "s", wait_s=20)
        assert (ended["turns_count"], ended["reflection"]) == (len(writer.acknowledged), "done")
        await reflected_once(cosmos_server, door, "ana", {"s": len(writer.acknowledged)})
    living.kill()
    await checked(writer, cosmos_server)


async def died(process: ServiceProcess) -> None:
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == -SIGKILL
    process.process = None


@pytest.mark.parametrize(("point", "stored"), [("before_commit", False), ("after_commit", True)])
async def test_who_heard_nothing_because_the_process_died_asks_again_by_name_and_the_turn_is_there_once(
    make_process: MakeProcess, cosmos_server: CosmosServer, point: str, stored: bool
) -> None:
    living = make_process(**cosmos_server.environment)
    await started(living)
    async with Door(living.url) as door:
        await door.start("ana", "s")
        await door.settled()
    await asyncio.to_thread(living.stop)
    dying = make_process(KILL_AT=f"{point}:1", **cosmos_server.environment)  # the turn is the first thing it writes
    await started(dying)
    with pytest.raises(httpx2.TransportError):
        await named_turn(dying)
    await died(dying)
    assert len(await in_database(cosmos_server, "ana", "s")) == stored
    await started(living)
    answer = await named_turn(living)
    assert (answer["turn_number"], answer["replayed"]) == (1, stored)
    assert await named_turn(living) == {**answer, "replayed": True}
    assert len(await in_database(cosmos_server, "ana", "s")) == 1


async def named_turn(process: ServiceProcess) -> Any:
    """Store the one turn, each time over a connection of its own."""
    turn = {"user_id": "ana", "session_id": "s", "user_message": "I prefer tea.", "agent_message": "Noted."}
    async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=20) as http:
        answer = await http.post("/memory/store", json=turn, headers={"Idempotency-Key": "the-first"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_reflection_cut_off_between_its_memories_and_what_says_so_is_kept_and_counted_once(
    make_process: MakeProcess, cosmos_server: CosmosServer
) -> None:
    record = cosmos_server.environment
    dying = make_process(KILL_AT="after_memories:1", **record)
    await started(dying)
    async with Door(dying.url) as door:
        await door.start("ana", "s")
        for words in ("I prefer tea.", "My cat is called Rex.", "I live in Lisbon."):
            await door.store("ana", "s", words)
        await door.end("ana", "s")
    await died(dying)
    left = documents(cosmos_server, "insights")
    assert len(left) == 2
    end_leases(cosmos_server)
    living = make_process(**record)
    await started(living)
    async with Door(living.url) as door:
        await until(lambda: door.reflected("ana", "s"))
        ended = await door.end("ana", "s")
        assert ended["insights_count"] == 2
        assert len(await door.insights("ana")) == 2
    assert [one["id"] for one in documents(cosmos_server, "insights")] == [one["id"] for one in left]


async def test_eight_kills_under_load_lose_nothing_and_double_nothing(
    make_process: MakeProcess, cosmos_server: CosmosServer
) -> None:
    chance = Random(12)
    settings = {"K_TURN_BUFFER": "3", "REFLECTION_THRESHOLD_TURNS": "5", "MAX_SESSIONS": "3"}
    process = make_process(**settings, **cosmos_server.environment)
    await started(process)
    writers = [Writer(user, session, process.url) for user in USERS for session in SESSIONS]
    await begun(writers)
    for _ in range(8):
        tasks = await writing(process, writers, chance.randint(20, 120))
        process.kill()
        await asyncio.gather(*tasks)
        stored = [await checked(writer, cosmos_server) for writer in writers]
        end_leases(cosmos_server)
        await started(process)
        for writer, was_stored in zip(writers, stored, strict=True):
            await writer.settle(was_stored)
    await all_is_well(process, cosmos_server, writers)


async def begun(writers: list[Writer]) -> None:
    for writer in writers:
        async with Door(writer.url) as door:
            await door.start(writer.user_id, writer.session_id)


async def all_is_well(process: ServiceProcess, server: CosmosServer, writers: list[Writer]) -> None:
    """End all sessions: they are reflected on, and hold what was acknowledged."""
    async with Door(process.url) as door:
        for writer in writers:
            ended = await door.end(writer.user_id, writer.session_id, wait_s=20)
            assert (ended["turns_count"], ended["reflection"]) == (len(writer.acknowledged), "done")
        for user_id in {writer.user_id for writer in writers}:
            own = {w.session_id: len(w.acknowledged) for w in writers if w.user_id == user_id}
            await reflected_once(server, door, user_id, own)
    process.kill()
    for writer in writers:
        await checked(writer, server)


# The database


class StubbornWriter(Writer):
    """Asks again, under the same `turn_id`, for what it was refused because the database is away."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.turns, self.refused = 0, 0

    async def write_all(self, turns: int) -> None:
        async with Door(self.url, timeout_s=60) as door:
            for number in range(turns):
                words = {"user_message": self.words(f"turn-{number}"), "agent_message": "Noted."}
                turn: dict[str, Any] = {**words, "turn_id": f"turn-{number}"}
                while True:
                    answer: httpx2.Response = await door.ask(
                        "/memory/store", user_id=self.user_id, session_id=self.session_id, **turn
                    )
                    if answer.status_code == 200:
                        break
                    assert answer.status_code == 503, answer.text
                    self.refused += 1
                    await asyncio.sleep(0.05)
                assert answer.json()["turn_number"] == number + 1
                self.acknowledged.append(f"turn-{number}")


async def test_kills_of_the_database_under_load_lose_nothing_and_double_nothing(
    make_process: MakeProcess, lasting_server: CosmosServer
) -> None:
    chance = Random(13)
    settings = {"K_TURN_BUFFER": "3", "REFLECTION_THRESHOLD_TURNS": "5", "REFLECTION_RETRY_SECONDS": "0.1"}
    process = make_process(**settings, SWEEP_INTERVAL_SECONDS="0.5", **lasting_server.environment)
    await started(process)
    writers = [StubbornWriter(user, session, process.url) for user in USERS for session in SESSIONS]
    await begun(list(writers))
    tasks = [asyncio.create_task(writer.write_all(60)) for writer in writers]
    kills = 0
    while not all(task.done() for task in tasks) and kills < 6:
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        lasting_server.kill()
        await asyncio.sleep(chance.uniform(0, 0.4))
        await asyncio.to_thread(lasting_server.start)
        kills += 1
    await asyncio.gather(*tasks)
    assert kills >= 3
    await all_is_well(process, lasting_server, list(writers))


async def test_the_service_and_its_database_killed_together_lose_nothing_and_double_nothing(
    make_process: MakeProcess, lasting_server: CosmosServer
) -> None:
    process = make_process(K_TURN_BUFFER="3", REFLECTION_THRESHOLD_TURNS="5", **lasting_server.environment)
    await started(process)
    writers = [Writer(user, session, process.url) for user in USERS for session in SESSIONS]
    await begun(writers)
    for number in range(4):
        tasks = await writing(process, writers, 60)
        for one in (process, lasting_server) if number % 2 else (lasting_server, process):
            one.kill()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(lasting_server.start)
        stored = [await checked(writer, lasting_server) for writer in writers]
        end_leases(lasting_server)
        await started(process)
        for writer, was_stored in zip(writers, stored, strict=True):
            await writer.settle(was_stored)
    await all_is_well(process, lasting_server, writers)

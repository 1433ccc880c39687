"""Kill -9 of the service, and of its database, where that is a server: what was acknowledged is there once."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import httpx2
import pytest

from memory_service.settings import Settings
from tests.cosmos.launcher import CosmosServer
from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, in_database, reflected_once, started
from tests.faults.test_kill import Writer, writing
from tests.postgres.launcher import PostgresServer
from tests.stores.cosmos_account import documents, end_leases, settings_for
from tests.stores.postgres_database import rows
from tests.support.background import until
from tests.support.process import ServiceProcess

USERS = ("ana", "ben")
SESSIONS = ("s", "t", "u")


class Database(ABC):
    """The server that has the record: how a service finds it, and how it is killed and started again."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]: ...
    @property
    @abstractmethod
    def record(self) -> str | Settings:
        """What opens a store on it."""

    @abstractmethod
    def end_leases(self) -> None:
        """As if their time had come: nobody waits for it here."""

    @abstractmethod
    def kill(self) -> None: ...
    @abstractmethod
    def start(self) -> None: ...


class Cosmos(Database):
    def __init__(self, server: CosmosServer) -> None:
        self.server = server

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment

    @property
    def record(self) -> Settings:
        return settings_for(self.server)

    def end_leases(self) -> None:
        end_leases(self.server)

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


class Postgres(Database):
    def __init__(self, url: str, server: PostgresServer) -> None:
        self.server, self.url = server, url

    @property
    def environment(self) -> dict[str, str]:
        return {"STORE_URL": self.url}

    @property
    def record(self) -> str:
        return self.url

    def end_leases(self) -> None:
        rows(self.url, "UPDATE sittings SET lease_until = NULL RETURNING 1")

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


STORES = ["cosmos", "postgres"]


@pytest.fixture(params=STORES)
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database on the server of this test run."""
    if request.param == "cosmos":
        return Cosmos(request.getfixturevalue("cosmos_server"))
    return Postgres(request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_server"))


@pytest.fixture(params=STORES)
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database on a server of the test's own, which keeps what it wrote over a kill."""
    if request.param == "cosmos":
        with CosmosServer(tmp_path, journal=True) as server:
            yield Cosmos(server)
    else:
        with PostgresServer(tmp_path) as server:
            yield Postgres(server.url, server)


async def checked(writer: Writer, database: Database) -> bool:
    return writer.compare(await in_database(database.record, writer.user_id, writer.session_id))


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
    make_process: MakeProcess, database: Database, point: str, times: int, stored: bool | None
) -> None:
    if point == "after_memories" and isinstance(database, Postgres):
        pytest.skip("there they are written together")
    record = database.environment
    dying = make_process(KILL_AT=f"{point}:{times}", K_TURN_BUFFER="2", REFLECTION_THRESHOLD_TURNS="1", **record)
    await started(dying)
    writer = Writer("ana", "s", dying.url)
    async with Door(dying.url) as door:
        await door.start("ana", "s")
        await writer.write()
    await died(dying)
    was_stored = await checked(writer, database)
    assert stored in (None, was_stored)

    database.end_leases()
    living = make_process(**record)
    await started(living)
    writer.url = living.url
    await writer.settle(was_stored)
    async with Door(living.url) as door:
        ended = await door.end("ana", "s", wait_s=20)
        assert (ended["turns_count"], ended["reflection"]) == (len(writer.acknowledged), "done")
        await reflected_once(database.record, door, "ana", {"s": len(writer.acknowledged)})
    living.kill()
    await checked(writer, database)


async def died(process: ServiceProcess) -> None:
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == -SIGKILL
    process.process = None


@pytest.mark.parametrize(("point", "stored"), [("before_commit", False), ("after_commit", True)])
async def test_who_heard_nothing_because_the_process_died_asks_again_by_name_and_the_turn_is_there_once(
    make_process: MakeProcess, database: Database, point: str, stored: bool
) -> None:
    living = make_process(**database.environment)
    await started(living)
    async with Door(living.url) as door:
        await door.start("ana", "s")
        await door.settled()
    await asyncio.to_thread(living.stop)
    dying = make_process(KILL_AT=f"{point}:1", **database.environment)  # the turn is the first thing it writes
    await started(dying)
    with pytest.raises(httpx2.TransportError):
        await named_turn(dying)
    await died(dying)
    assert len(await in_database(database.record, "ana", "s")) == stored
    await started(living)
    answer = await named_turn(living)
    assert (answer["turn_number"], answer["replayed"]) == (1, stored)
    assert await named_turn(living) == {**answer, "replayed": True}
    assert len(await in_database(database.record, "ana", "s")) == 1


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


@pytest.mark.long
async def test_eight_kills_under_load_lose_nothing_and_double_nothing(
    make_process: MakeProcess, database: Database
) -> None:
    chance = Random(12)
    settings = {"K_TURN_BUFFER": "3", "REFLECTION_THRESHOLD_TURNS": "5", "MAX_SESSIONS": "3"}
    process = make_process(**settings, **database.environment)
    await started(process)
    writers = [Writer(user, session, process.url) for user in USERS for session in SESSIONS]
    await begun(writers)
    for _ in range(8):
        tasks = await writing(process, writers, chance.randint(20, 120))
        process.kill()
        await asyncio.gather(*tasks)
        stored = [await checked(writer, database) for writer in writers]
        database.end_leases()
        await started(process)
        for writer, was_stored in zip(writers, stored, strict=True):
            await writer.settle(was_stored)
    await all_is_well(process, database, writers)


async def begun(writers: list[Writer]) -> None:
    for writer in writers:
        async with Door(writer.url) as door:
            await door.start(writer.user_id, writer.session_id)


async def all_is_well(process: ServiceProcess, database: Database, writers: list[Writer]) -> None:
    """End all sessions: they are reflected on, and hold what was acknowledged."""
    async with Door(process.url) as door:
        for writer in writers:
            ended = await door.end(writer.user_id, writer.session_id, wait_s=20)
            assert (ended["turns_count"], ended["reflection"]) == (len(writer.acknowledged), "done")
        for user_id in {writer.user_id for writer in writers}:
            own = {w.session_id: len(w.acknowledged) for w in writers if w.user_id == user_id}
            await reflected_once(database.record, door, user_id, own)
    process.kill()
    for writer in writers:
        await checked(writer, database)


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


@pytest.mark.long
async def test_kills_of_the_database_under_load_lose_nothing_and_double_nothing(
    make_process: MakeProcess, lasting: Database
) -> None:
    chance = Random(13)
    settings = {"K_TURN_BUFFER": "3", "REFLECTION_THRESHOLD_TURNS": "5", "REFLECTION_RETRY_SECONDS": "0.1"}
    process = make_process(**settings, SWEEP_INTERVAL_SECONDS="0.5", **lasting.environment)
    await started(process)
    writers = [StubbornWriter(user, session, process.url) for user in USERS for session in SESSIONS]
    await begun(list(writers))
    tasks = [asyncio.create_task(writer.write_all(60)) for writer in writers]
    kills = 0
    while not all(task.done() for task in tasks) and kills < 6:
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        lasting.kill()
        await asyncio.sleep(chance.uniform(0, 0.4))
        await asyncio.to_thread(lasting.start)
        kills += 1
    await asyncio.gather(*tasks)
    assert kills >= 3
    await all_is_well(process, lasting, list(writers))


async def test_the_service_and_its_database_killed_together_lose_nothing_and_double_nothing(
    make_process: MakeProcess, lasting: Database
) -> None:
    process = make_process(K_TURN_BUFFER="3", REFLECTION_THRESHOLD_TURNS="5", **lasting.environment)
    await started(process)
    writers = [Writer(user, session, process.url) for user in USERS for session in SESSIONS]
    await begun(writers)
    for number in range(4):
        tasks = await writing(process, writers, 60)
        for one in (process, lasting) if number % 2 else (lasting, process):
            one.kill()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(lasting.start)
        stored = [await checked(writer, lasting) for writer in writers]
        lasting.end_leases()
        await started(process)
        for writer, was_stored in zip(writers, stored, strict=True):
            await writer.settle(was_stored)
    await all_is_well(process, lasting, writers)

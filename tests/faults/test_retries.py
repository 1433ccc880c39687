"""A request sent again under its own name (`Idempotency-Key`) has one effect, whatever became of the first."""

from __future__ import annotations

import asyncio
from signal import SIGKILL
from typing import Any

import httpx2
import pytest

from tests.faults.conftest import MakeProcess
from tests.faults.doors import Door, on_disk, started
from tests.stores.sqlite_file import rows, writing_blocked
from tests.support.background import until
from tests.support.process import ServiceProcess

TURN = {"user_id": "ana", "session_id": "s", "user_message": "I prefer tea.", "agent_message": "Noted."}
NAMED = {"Idempotency-Key": "the-first"}
HASTY_S = 0.3


async def send(process: ServiceProcess, timeout_s: float = 20, **changes: Any) -> httpx2.Response:
    """Send the request, each time over a connection of its own."""
    timeout = httpx2.Timeout(20, read=timeout_s)
    async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=timeout) as http:
        return await http.post("/memory/store", json={**TURN, **changes}, headers=NAMED)


def is_replay_of(first: httpx2.Response, again: httpx2.Response) -> bool:
    assert (first.status_code, "idempotency-replayed" in first.headers) == (200, False)
    return (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (
        first.status_code,
        {**first.json(), "replayed": True},
        "true",
    )


async def begun(process: ServiceProcess) -> None:
    await started(process)
    async with Door(process.url) as door:
        await door.start("ana", "s")
        await door.settled()


async def test_an_answer_is_repeated_after_a_kill_and_after_a_stop(make_process: MakeProcess) -> None:
    process = make_process()
    await begun(process)
    first = await send(process)
    assert is_replay_of(first, await send(process))
    for end in (process.kill, process.stop, process.kill):
        await asyncio.to_thread(end)
        await started(process)
        assert is_replay_of(first, await send(process))
    refused = await send(process, user_message="I prefer coffee.")
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    process.kill()
    assert len(await on_disk(process.database, "ana", "s")) == 1
    assert rows(process.database, "SELECT count(*) FROM requests") == [(1,)]


async def test_who_hung_up_and_asks_again_while_the_first_is_still_being_written_has_one_effect(
    make_process: MakeProcess,
) -> None:
    process = make_process()
    await begun(process)
    with writing_blocked(process.database):
        with pytest.raises(httpx2.ReadTimeout):
            await send(process, timeout_s=HASTY_S)
        again = [asyncio.create_task(send(process)) for _ in range(3)]
        with pytest.raises(httpx2.ReadTimeout):
            await send(process, timeout_s=HASTY_S)
    answers = await asyncio.gather(*again)
    assert [(answer.status_code, answer.json()["replayed"]) for answer in answers] == [(200, True)] * 3
    assert {answer.headers["idempotency-replayed"] for answer in answers} == {"true"}
    assert len({answer.json()["turn_id"] for answer in answers}) == 1
    process.kill()
    assert len(await on_disk(process.database, "ana", "s")) == 1


@pytest.mark.parametrize(("point", "stored"), [("before_commit", False), ("after_commit", True)])
async def test_who_heard_nothing_because_the_process_died_asks_again_and_the_turn_is_there_once(
    make_process: MakeProcess, point: str, stored: bool
) -> None:
    living = make_process()
    await begun(living)
    await asyncio.to_thread(living.stop)
    dying = make_process(KILL_AT=f"{point}:1")  # the turn is the first thing it writes
    await started(dying)
    with pytest.raises(httpx2.TransportError):
        await send(dying)
    assert dying.process is not None
    assert await asyncio.to_thread(dying.process.wait, 20) == -SIGKILL
    dying.process = None
    assert len(await on_disk(living.database, "ana", "s")) == stored
    await started(living)
    answer = await send(living)
    assert (answer.status_code, answer.json()["turn_number"], answer.json()["replayed"]) == (200, 1, stored)
    assert ("idempotency-replayed" in answer.headers) == stored
    assert (await send(living)).json() == {**answer.json(), "replayed": True}
    living.kill()
    assert len(await on_disk(living.database, "ana", "s")) == 1


async def test_one_name_from_many_connections_while_the_process_is_killed_has_one_effect(
    make_process: MakeProcess,
) -> None:
    process = make_process()
    await begun(process)
    for number in range(5):
        name = {"Idempotency-Key": f"name-{number}"}
        body = {**TURN, "user_message": f"I prefer {number}."}
        async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
            sent = [asyncio.create_task(http.post("/memory/store", json=body, headers=name)) for _ in range(8)]
            await until(lambda sent=sent: any(task.done() for task in sent))
            process.kill()
            await asyncio.gather(*sent, return_exceptions=True)
        await started(process)
        async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
            again = await http.post("/memory/store", json=body, headers=name)
        told = {task.result().json()["turn_id"] for task in sent if task.exception() is None}
        assert told == {again.json()["turn_id"]}
        assert (again.json()["replayed"], again.json()["turn_number"]) == (True, number + 1)
    process.kill()
    assert [turn.seq for turn in await on_disk(process.database, "ana", "s")] == [1, 2, 3, 4, 5]

"""What was given up is listed, and can be tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx2
import pytest
from click.testing import CliRunner

from client import MemoryServiceClient
from memory_service.app import open_service
from memory_service.chaos.model_modes import not_json
from memory_service.chaos.model_server import ModelServer
from memory_service.cli import main
from memory_service.settings import Settings
from memory_service.stores.base import Commit
from tests.conftest import Serve
from tests.support.background import record, until
from tests.support.scripted_http import Answer, ScriptedHTTP
from tests.support.values import a_key, a_sitting, begin

SETTINGS = {"reflection_max_attempts": 1, "sweep_interval_seconds": 0.2}


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


async def test_a_reflection_that_was_given_up_is_listed_and_done_when_replayed(
    serve: Serve, model: ModelServer
) -> None:
    environment = {name.lower(): value for name, value in model.openai_environment.items()}
    url = await serve(**environment, **SETTINGS)
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http, MemoryServiceClient(url, "ana") as client:
        model.rule = lambda call: not_json()
        await client.start_session("s")
        await client.store_turn("I prefer tea.", "Noted.")
        await client.end_session(wait_s=10)

        listed = (await http.get("/reflections")).json()
        assert listed["count"] == 1
        (row,) = listed["reflections"]
        assert (row["user_id"], row["session_id"], row["first_turn"], row["last_turn"]) == ("ana", "s", 1, 1)
        assert row["last_error"].startswith("bad_model_output")
        assert "tea" not in row["last_error"]

        model.rule = lambda call: None
        answer = await http.post("/reflections/replay", json={"user_id": "ana", "session_id": "s"})
        assert answer.status_code == 200

        async def done() -> bool:
            return bool((await client.reflection())["reflection"] == "done")

        await until(done)
        assert (await http.get("/reflections")).json()["count"] == 0
        assert (await client.get_summaries())["count"] == 1


async def test_replaying_what_was_not_given_up_changes_nothing(client: MemoryServiceClient, url: str) -> None:
    await client.start_session("s")
    await client.store_turn("I prefer tea.", "Noted.")
    await client.end_session(wait_s=10)
    before = await client.reflection()
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.post("/reflections/replay", json={"user_id": "ana", "session_id": "s"})
        assert answer.json() == before
        foreign = await http.post("/reflections/replay", json={"user_id": "ben", "session_id": "s"})
        assert (foreign.status_code, foreign.json()["code"]) == (404, "session_not_found")


async def test_any_number_of_sittings_that_were_given_up_is_replayed(make_settings: Callable[..., Settings]) -> None:
    """One for each time the session was gone on with while the model was away: more than Cosmos DB writes at once."""
    key = a_key()
    async with open_service(make_settings(shutdown_grace_seconds=0)) as service:
        store = record(service)
        await begin(store, key, turns=120)
        dead = [a_sitting(first_seq=seq, through_seq=seq, reflection="dead") for seq in range(1, 121)]
        for half in (dead[:60], dead[60:]):
            await store.commit(Commit(scope=key.scope, sittings=tuple(half)))
        await service.replay(key)
        assert len(await store.sittings(key)) == 120
        assert "dead" not in {sitting.reflection for sitting in await store.sittings(key)}


def test_the_command_line_says_in_one_line_that_no_service_answers() -> None:
    result = CliRunner().invoke(main, ["reflections", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert result.output.splitlines() == ["Error: no answer from http://127.0.0.1:9 (ConnectError)"]


async def test_the_command_line_lists_what_was_given_up_and_has_it_tried_again(
    serve: Serve, model: ModelServer
) -> None:
    environment = {name.lower(): value for name, value in model.openai_environment.items()}
    url = await serve(**environment, **SETTINGS)

    async def command(*words: str) -> tuple[int, list[str]]:
        result = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--url", url])
        return result.exit_code, result.output.splitlines()

    async with MemoryServiceClient(url, "ana") as client:
        model.rule = lambda call: not_json()
        for session_id in ("bad", "good"):
            await client.start_session(session_id)
            await client.store_turn("I prefer tea.", "Noted.")
            await client.end_session(wait_s=10)
            model.rule = lambda call: None
        status, lines = await command("reflections")
        assert (status, len(lines)) == (0, 1)
        assert lines[0].startswith("ana bad turns 1-1, 1 attempts: bad_model_output: ")
        assert [one["session_id"] for one in (await client.get_summaries())["summaries"]] == ["good"]

        assert await command("replay", "ana", "bad") in [(0, [f"reflection: {state}"]) for state in ("pending", "done")]

        async def both() -> bool:
            return bool((await client.get_summaries())["count"] == 2)

        await until(both)
        assert await command("reflections") == (0, [])
        assert (await command("reflections", "--state", "done"))[0] == 0
        status, lines = await command("replay", "ana", "never-begun")
        assert (status, len(lines)) == (1, 1)


@pytest.mark.parametrize("status", [200, 404])
def test_the_command_line_says_in_one_line_that_it_asked_another_kind_of_server(status: int) -> None:
    other = ScriptedHTTP()
    other.start()
    other.answers(Answer(status=status, content="<html>Welcome</html>"))
    try:
        result = CliRunner().invoke(main, ["reflections", "--url", other.url])
    finally:
        other.stop()
    assert result.exit_code == 1
    assert result.output.splitlines() == [f"Error: {other.url} answers {status}, and is no memory service"]

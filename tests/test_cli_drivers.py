"""`memory-service drivers` and its routes, over a running service; `memory-service migrate` and its drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from client import MemoryServiceClient
from memory_service.app import open_service
from memory_service.cli import main
from memory_service.server import running
from memory_service.service import MemoryService
from memory_service.settings import Settings
from tests.support.background import until
from tests.support.engines import ShelfEngine
from tests.test_engines import ANA, World

SHELF, OTHER = "tests.support.engines:ShelfEngine", "tests.support.engines:OtherShelf"
MakeSettings = Callable[..., Settings]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ShelfEngine:
    """The engine that the service is given, whose shelf a test may look at."""
    engine = ShelfEngine()
    monkeypatch.setattr(ShelfEngine, "from_settings", lambda settings: engine)
    return engine


@pytest.fixture
async def url(make_settings: MakeSettings, engine: ShelfEngine) -> AsyncIterator[str]:
    async with running(make_settings(memory_driver=SHELF, query_cache_seconds=0)) as url:
        yield url


async def command(*words: str, url: str, **more: Any) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["drivers", *words, "--url", url], **more)


async def remember(url: str, text: str = "Ana eats no walnuts", user_id: str = "ana") -> None:
    async with MemoryServiceClient(url, user_id) as client:
        await client.store_memories([{"user_id": user_id, "content": text}])


async def listed(url: str) -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.get("/drivers")
        assert answer.status_code == 200
        told: dict[str, Any] = answer.json()
        return told


async def caught_up(url: str) -> None:
    async def nobody_lags() -> bool:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
            queues = (await http.get("/stats")).json()["queues"]
        if queues["waiting"] or queues["running"]:
            return False
        return all(driver["lagging_users"] == 0 for driver in (await listed(url))["drivers"])

    await until(nobody_lags)


async def test_retrieve_says_that_a_driver_was_done_without(url: str, engine: ShelfEngine) -> None:
    await remember(url)
    await caught_up(url)
    async with MemoryServiceClient(url, "ana") as client:
        answer = await client.retrieve("walnuts")
        assert (answer["facts"], answer["degraded"]) == (["Ana eats no walnuts"], [])
        engine.away = True
        answer = await client.retrieve("walnuts")
        assert (answer["facts"], answer["degraded"]) == (["Ana eats no walnuts"], ["driver"])
        assert (await client.stats())["drivers"]["engines"][SHELF]["failures"] > 0


async def test_drivers_are_listed_with_how_they_fare(url: str, engine: ShelfEngine) -> None:
    await caught_up(url)
    result = await command("list", url=url)
    assert result.stdout == f"asked: {SHELF}, builtin\n{SHELF}: up, 0 users to be brought\n"
    engine.away = True
    result = await command("list", url=url)
    assert f"{SHELF}: away (shelf: Away), 0 users to be brought" in result.stdout


async def test_a_rebuild_brings_everything_anew_and_shows_how_far_it_is(url: str, engine: ShelfEngine) -> None:
    for number in range(12):
        await remember(url, user_id=f"user{number}")
    await caught_up(url)
    engine.shelf.clear()
    result = await command("rebuild", SHELF, url=url)
    assert (result.exit_code, result.stdout) == (0, f"{SHELF}: brought everything\n")
    assert len(engine.shelf) == 12
    result = await command("rebuild", SHELF, "--no-wait", url=url)
    assert result.stdout == f"{SHELF}: 12 users to be brought\n"
    engine.away = True
    result = await command("rebuild", SHELF, url=url)
    assert result.exit_code == 1
    assert "is away" in result.stderr


async def test_a_comparison_tells_what_is_missing_surplus_and_other(url: str, engine: ShelfEngine) -> None:
    for user in ("ana", "ben", "cleo"):
        await remember(url, user_id=user)
    await caught_up(url)
    result = await command("compare", SHELF, url=url)
    said = "users 3, lagging users 0, items 3, missing 0, surplus 0, other 0\n"
    assert (result.exit_code, result.stdout) == (0, said)
    shelves = {scope.user_id: shelf for scope, shelf in engine.shelf.items()}
    ((name, of_ben),) = shelves["ben"].items()
    shelves["ana"].clear()
    shelves["ben"][name] = replace(of_ben, item=replace(of_ben.item, text="something else"))
    shelves["cleo"][name] = of_ben
    result = await command("compare", SHELF, url=url)
    assert result.exit_code == 1
    assert "ana: missing 1, surplus 0, other 0\n" in result.stdout
    assert result.stdout.endswith("items 3, missing 1, surplus 1, other 1\n")


async def test_what_is_still_to_be_brought_is_not_compared(url: str, engine: ShelfEngine) -> None:
    await caught_up(url)
    engine.fails_at = {"put"}
    await remember(url)
    result = await command("compare", SHELF, url=url)
    assert (result.exit_code, "users 0, lagging users 1" in result.stdout) == (0, True)


async def test_drivers_are_switched_by_name(url: str) -> None:
    result = await command("switch", "builtin", url=url)
    assert result.stdout.splitlines()[0] == "asked: builtin"
    result = await command("switch", SHELF, url=url)
    assert result.stdout.splitlines()[0] == f"asked: {SHELF}, builtin"
    result = await command("switch", "unknown", url=url)
    assert result.exit_code == 1
    assert "known are automem, builtin, pgvector, pixeltable" in result.stderr
    assert (await listed(url))["asked"] == [SHELF]


async def test_no_caller_can_have_a_module_of_their_choice_imported(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.post("/drivers/switch", json={"drivers": [OTHER]})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


async def test_one_that_settings_do_not_allow_is_refused_in_words(url: str) -> None:
    result = await command("switch", "pgvector", url=url)
    assert result.exit_code == 1
    assert "DATABASE_URL" in result.stderr


async def test_a_driver_that_is_dropped_holds_nothing(url: str, engine: ShelfEngine) -> None:
    await remember(url)
    await caught_up(url)
    refused = await command("drop", SHELF, url=url, input="n\n")
    assert (refused.exit_code, len(engine.shelf)) == (1, 1)
    result = await command("drop", SHELF, "--yes", url=url)
    assert (result.exit_code, result.stdout, engine.shelf) == (0, "asked: builtin\n", {})
    for words in (("drop", SHELF, "--yes"), ("rebuild", SHELF), ("compare", SHELF)):
        result = await command(*words, url=url)
        assert result.exit_code == 1
        assert "no memory driver of this name" in result.stderr


# memory-service migrate


def migrate(monkeypatch: pytest.MonkeyPatch, *words: str, **settings: str) -> Result:
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), value)
    return CliRunner().invoke(main, ["migrate", *words])


def test_migrate_makes_drivers_ready_too(monkeypatch: pytest.MonkeyPatch, engine: ShelfEngine) -> None:
    result = migrate(monkeypatch, memory_driver=SHELF)
    assert (result.exit_code, result.stdout) == (0, f"sqlite: ready\n{SHELF}: ready\n")
    engine.away = True
    result = migrate(monkeypatch)
    assert (result.exit_code, "run it again" in result.stderr) == (1, True)


def test_migrate_fresh_empties_drivers_and_never_the_record(
    monkeypatch: pytest.MonkeyPatch, engine: ShelfEngine, make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(memory_driver=SHELF)

    async def live(work: Callable[[MemoryService], Any]) -> None:
        async with open_service(settings) as service:
            await work(service)

    async def store(service: MemoryService) -> None:
        await service.memories.remember(ANA, "Ana eats no walnuts")
        await World(service).caught_up()

    async def look(service: MemoryService) -> None:
        assert (await World(service).found("walnuts"))[0] == ["Ana eats no walnuts"]
        await World(service).caught_up()
        assert len(engine.shelf[ANA]) == 1

    asyncio.run(live(store))
    result = migrate(monkeypatch, "--fresh", memory_driver=SHELF, store_url=settings.store_url)
    assert (result.exit_code, engine.shelf) == (0, {})
    asyncio.run(live(look))


@pytest.mark.parametrize("words", [("--fresh",), ("--fresh", "--from", "sqlite:///a", "--to", "sqlite:///b")])
def test_fresh_is_for_drivers_alone(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    assert migrate(monkeypatch, *words).exit_code == 2

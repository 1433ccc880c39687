"""What an orchestrator asks: does the process answer, does the service work, should requests be sent here."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import apsw
import httpx2
import pytest

from memory_service import __version__
from memory_service.server import serving
from memory_service.service import MemoryService
from memory_service.settings import Settings
from tests.api.conftest import Visit
from tests.api.talking import START, STORE, commits, problem, settled, told
from tests.support.background import record, until
from tests.support.process import ServiceProcess

DRAIN_S = 5.0
SESSION = {"user_id": "ana", "session_id": "s"}
TURN = {**SESSION, "user_message": "I prefer tea.", "agent_message": "Noted."}


@pytest.fixture
async def service(make_settings: Callable[..., Settings]) -> AsyncIterator[tuple[httpx2.AsyncClient, MemoryService]]:
    """A live service over HTTP, and its inside."""
    async with serving(make_settings()) as (url, inside), httpx2.AsyncClient(base_url=url, timeout=60) as http:
        yield http, inside


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServiceProcess]:
    made = ServiceProcess(tmp_path, DRAIN_DELAY_SECONDS=str(DRAIN_S))
    yield made
    if made.process is not None:
        made.kill()


async def test_a_service_that_works_says_so_at_each_probe(http: httpx2.AsyncClient) -> None:
    for path, answer in {
        "/livez": {"status": "live"},
        "/readyz": {"status": "ready"},
    }.items():
        response = await http.get(path)
        assert (response.status_code, response.json()) == (200, answer)
        assert response.headers["cache-control"] == "no-store"
    health = (await http.get("/health")).json()
    assert health["status"] == "healthy"
    assert health["version"] == __version__


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
async def test_a_probe_is_answered_to_anybody(visit: Visit, path: str) -> None:
    async with visit() as http:
        stranger = {"X-Forwarded-For": "203.0.113.9"}
        assert (await http.get(path, headers=stranger)).status_code == 200
        assert (await http.get("/stats", headers=stranger)).status_code == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
async def test_a_probe_is_asked_with_get_and_changes_nothing(http: httpx2.AsyncClient, path: str) -> None:
    before = await commits(http)
    problem(await http.post(path, json={}), 405, "method_not_allowed")
    for _ in range(5):
        assert (await http.get(path)).status_code == 200
    assert await commits(http) == before


@pytest.mark.only_on("sqlite", "it holds up the readers of the file")
async def test_livez_answers_while_the_store_answers_nobody(
    service: tuple[httpx2.AsyncClient, MemoryService],
) -> None:
    http, inside = service
    await settled(http)
    store, door, held = record(inside), threading.Event(), threading.Semaphore(0)

    def hang(db: apsw.Connection) -> None:
        held.release()
        door.wait(20)

    hanging = [asyncio.create_task(store._read(hang)) for _ in range(4)]  # type: ignore[attr-defined]
    try:
        for _ in hanging:
            await asyncio.to_thread(held.acquire)
        waiting = {asyncio.create_task(http.get(path)) for path in ("/readyz", "/health")}
        for _ in range(20):
            assert (await http.get("/livez")).json() == {"status": "live"}
        assert not any(task.done() for task in waiting)
    finally:
        door.set()
        await asyncio.gather(*hanging)
    assert [(await task).status_code for task in waiting] == [200, 200]


@pytest.mark.only_on("sqlite", "it is about the queue of its writer")
async def test_a_service_whose_write_queue_is_full_is_not_ready_and_alive(
    service: tuple[httpx2.AsyncClient, MemoryService], monkeypatch: pytest.MonkeyPatch
) -> None:
    http, _ = service
    await settled(http)
    monkeypatch.setattr("memory_service.stores.sqlite.writer.MAX_WAITING", 0)  # full from now on
    refused = await http.get("/readyz")
    problem(refused, 503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert (await http.get("/livez")).status_code == 200
    assert (await http.get("/health")).status_code == 200
    monkeypatch.undo()
    assert (await http.get("/readyz")).status_code == 200


async def test_a_service_that_drains_is_not_ready_and_serves_on(
    service: tuple[httpx2.AsyncClient, MemoryService],
) -> None:
    http, inside = service
    inside.drain()
    refused = await http.get("/readyz")
    problem(refused, 503, "draining")
    assert int(refused.headers["retry-after"]) > 0
    assert (await http.get("/livez")).status_code == 200
    assert (await http.get("/health")).status_code == 200
    await told(http, START, **SESSION)
    assert (await told(http, STORE, **TURN))["turn_number"] == 1


async def test_after_sigterm_a_process_says_that_it_drains_serves_on_and_ends_with_0(process: ServiceProcess) -> None:
    await asyncio.to_thread(process.start)
    running = process.process
    assert running is not None
    async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
        await told(http, START, **SESSION)
        assert (await http.get("/readyz")).status_code == 200
        running.send_signal(signal.SIGTERM)

        async def draining() -> bool:
            return (await http.get("/readyz")).status_code == 503

        await until(draining, within_s=DRAIN_S)
        problem(await http.get("/readyz"), 503, "draining")
        assert (await http.get("/livez")).status_code == 200
        assert (await told(http, STORE, **TURN))["turn_number"] == 1
        async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as newcomer:
            assert (await told(newcomer, STORE, **TURN))["turn_number"] == 2
    assert await asyncio.to_thread(running.wait, 20) == 0
    process.process = None
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{process.url}/livez", trust_env=False)
    assert "Traceback" not in process.log.read_text()

    await asyncio.to_thread(process.start)
    async with httpx2.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
        assert (await told(http, STORE, **TURN))["turn_number"] == 3
        assert (await http.get("/readyz")).status_code == 200

"""Three services over PostgreSQL behind a real nginx with the file of deploy/: one is killed, one is stopped."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from pathlib import Path

import httpx2
import pytest

from memory_service.chaos.process import ServiceProcess
from memory_service.server import listening
from tests.deploy.rules import FILES
from tests.faults.replicas import (
    NO_ANSWER,
    PATIENCE_S,
    Caller,
    RoundRobin,
    a_while,
    all_is_there,
    heard,
    replicas_on,
    talking,
)
from tests.postgres.launcher import ENDS_WITH_ITS_PARENT
from tests.support.background import until

REPLICAS, CALLERS, TURNS = 3, 8, 5
LOST = "502 no_answer"
CUT_SHORT = f"{NO_ANSWER}: RemoteProtocolError('peer closed connection without sending complete message body"
SETTINGS = {"AUTH_MODE": "none", "DRAIN_DELAY_SECONDS": "1"}  # nginx says for whom it asks: it is nobody on this host
SHIPPED = FILES["nginx.conf"]


def here(config: str, folder: Path, port: int, services: Sequence[str]) -> str:
    """The file with paths in `folder`, and addresses of this machine, which no name server needs to be asked for."""
    servers = "".join(rf"\1server {service} \2;\n" for service in services)
    config = re.sub(r"( *)server memory:8000 resolve (.*);\n", servers, config)
    config = re.sub(r" *resolver .*\n", "", config)
    return config.replace("/tmp/", f"{folder}/").replace("listen 8080;", f"listen 127.0.0.1:{port};")


def but_for_places(config: str) -> list[str]:
    """What the file says, but for paths, addresses, how many of these there are, and how they are found."""
    for where, what in [
        (r"\b(pid|\w+_path) \S+;", r"\1;"),
        (r"\blisten \S+;", "listen;"),
        (r"\bserver \S+:\d+( resolve)?", "server"),
        (r" *resolver .*\n", ""),
    ]:
        config = re.sub(where, what, config)
    return [line for line, _ in groupby(config.splitlines())]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_fails=1", "max_fails=3"),
        ("proxy_read_timeout 40s", "proxy_read_timeout 60s"),
        ("error timeout;", "error timeout non_idempotent;"),
        ("keepalive 64;", ""),
    ],
)
def test_a_change_of_more_than_places_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    config = here(SHIPPED, tmp_path, 18080, ["127.0.0.1:18081", "127.0.0.1:18082"])
    assert but_for_places(config) == but_for_places(SHIPPED)
    assert old in config
    assert but_for_places(config.replace(old, new)) != but_for_places(SHIPPED)


@pytest.fixture
def nginx() -> str:
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("no nginx on this machine: nothing is run behind it")
    return program


@asynccontextmanager
async def proxying(program: str, folder: Path, replicas: Sequence[ServiceProcess]) -> AsyncIterator[str]:
    """nginx in the foreground, with the shipped file but for places; gives its URL."""
    with listening("127.0.0.1", 0) as free:
        port: int = free.getsockname()[1]
    config = here(SHIPPED, folder, port, [replica.url.removeprefix("http://") for replica in replicas])
    assert but_for_places(config) == but_for_places(SHIPPED)
    file, log = folder / "nginx.conf", folder / "nginx.log"
    file.write_text(config)
    words = (program, "-e", "stderr", "-p", str(folder), "-c", str(file), "-g", "daemon off;")
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(*ENDS_WITH_ITS_PARENT, *words, stderr=errors)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx2.AsyncClient(trust_env=False) as http:

            async def answers() -> bool:
                assert process.returncode is None, log.read_text()
                with suppress(httpx2.TransportError):
                    return (await http.get(f"{url}/readyz")).status_code == 200
                return False

            await until(answers)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def test_a_replica_that_is_killed_costs_the_requests_it_had_and_one_that_is_stopped_none(
    tmp_path: Path, postgres_url: str, nginx: str
) -> None:
    record = {"STORE_URL": postgres_url}
    async with (
        replicas_on(tmp_path, [record] * REPLICAS, **SETTINGS) as replicas,
        proxying(nginx, tmp_path, replicas) as url,
        httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http,
    ):
        anyone = RoundRobin(http, [url], LOST, CUT_SHORT)
        callers = [Caller(f"caller-{number}", anyone, TURNS) for number in range(CALLERS)]
        killed, stopped, left = replicas
        async with talking(callers):
            await a_while(callers)
            assert not anyone.refused
            killed.kill()
            await killed.ended(10)
            await a_while(callers, turns=20)
            lost = anyone.refused[url]
            assert lost <= CALLERS, "more than were under way"
            await killed.start()
            await a_while(callers)
            assert await stopped.stop() == 0
            await a_while(callers, turns=20)
            assert anyone.refused[url] == lost
        await all_is_there(postgres_url, callers)
        for caller in callers:
            for session_id, said in caller.said.items():
                for door in (url, left.url):
                    session = {"user_id": caller.name, "session_id": session_id}
                    assert heard(await RoundRobin(http, [door]).post("/memory/context", **session)) == said

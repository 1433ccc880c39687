"""The file of a user over the wire: both clients, the commands, and callers who are slow or gone."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from io import BytesIO
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest
from click.testing import CliRunner, Result

from client import (
    ConnectionFailed,
    InvalidRequest,
    MemoryServiceClient,
    SyncMemoryServiceClient,
    UserExists,
    UserNotFound,
)
from memory_service.app import app_around, open_service
from memory_service.cli import main
from memory_service.server import running
from memory_service.settings import Settings
from memory_service.stores.exports import Exported
from tests.support.guarded import served
from tests.support.lives import PATIENT, everything
from tests.support.stores import opened
from tests.support.values import a_scope, a_session, a_turn
from tests.test_transfers import COUNTS, file_of

MakeSettings = Callable[..., Settings]
THINGS = sum(COUNTS.values())


@pytest.fixture
async def url(make_settings: MakeSettings) -> AsyncIterator[str]:
    async with running(make_settings(**PATIENT)) as url:
        yield url


# The clients


async def test_the_awaited_client_brings_a_user_in_and_gets_them_out(url: str) -> None:
    content = file_of(*everything())
    async with MemoryServiceClient(url, "ben") as client:
        with pytest.raises(UserNotFound):
            await client.export_user(BytesIO())
        done = await client.import_user(BytesIO(content), user_id="ben")
        assert (done["user_id"], done["change"], done["turns"]) == ("ben", "created", COUNTS["turns"])
        assert (await client.import_user(BytesIO(content)))["user_id"] == "ana"
        got = BytesIO()
        assert await client.export_user(got) == THINGS
        assert got.getvalue().count(b"\n") == THINGS + 2
        with pytest.raises(InvalidRequest, match="line 2"):
            await client.import_user(BytesIO(content[:100]), user_id="eve")
        async with MemoryServiceClient(url, "eve") as eve:
            await eve.start_session()
        with pytest.raises(UserExists):
            await client.import_user(BytesIO(content), user_id="eve")


async def test_the_blocking_client_does_the_same(url: str) -> None:
    content = file_of(*everything())

    def use() -> bytes:
        with SyncMemoryServiceClient(url, "ben") as client:
            with pytest.raises(UserNotFound):
                client.export_user(BytesIO())
            assert client.import_user(BytesIO(content), user_id="ben")["change"] == "created"
            got = BytesIO()
            assert client.export_user(got) == THINGS
            with pytest.raises(InvalidRequest, match="line 2"):
                client.import_user(BytesIO(content[:100]), user_id="eve")
            return got.getvalue()

    assert json.loads((await asyncio.to_thread(use)).splitlines()[-1]) == {"things": THINGS}


# The commands


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


async def command(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["users", *words])


async def test_a_user_goes_to_a_file_and_comes_back_under_another_name(url: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    source.write_bytes(file_of(*everything()))
    done = await command("import", str(source), "--url", url)
    counts = "sessions 5, sittings 4, requests 4, turns 42, memories 7"
    assert (done.exit_code, done.stdout) == (0, f"ana: created, {counts}\n")
    assert (await command("import", str(source), "--url", url, "--as", "ben")).stdout == f"ben: created, {counts}\n"
    done = await command("export", "ben", "--output", str(output), "--url", url)
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"ben: {THINGS} things" in done.stderr
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    piped = await command("export", "ben", "--url", url)
    assert piped.stdout_bytes.count(b"\n") == THINGS + 2
    output.write_text("mine")
    refused = await command("export", "nobody", "--output", str(output), "--url", url)
    assert (refused.exit_code, output.read_text()) == (1, "mine")
    assert "user_not_found" in refused.stderr
    assert left_over(tmp_path) == []
    refused = await command("import", str(output), "--url", url)
    assert (refused.exit_code, "line 1" in refused.stderr) == (1, True)


# What goes wrong once an answer has begun


async def test_a_record_that_cannot_be_read_further_on_ends_the_connection_and_leaves_no_file(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    await many(tmp_path, 400, 500)
    with closing(apsw.Connection(str(tmp_path / "memory.db"))) as db:
        db.execute("UPDATE turns SET body = substr(body, 1, 20) WHERE seq = 250")
    async with running(make_settings()) as url:
        got = BytesIO()
        async with MemoryServiceClient(url, "ana") as client:
            with pytest.raises(ConnectionFailed, match="cut off"):
                await client.export_user(got)
        assert got.getvalue().startswith(b'{"format"')
        async with httpx2.AsyncClient() as http:
            with pytest.raises(httpx2.RemoteProtocolError):
                await http.get(f"{url}/users/ana/export")
        output = tmp_path / "out.ndjson"
        failed = await command("export", "ana", "--output", str(output), "--url", url)
        assert (failed.exit_code, output.exists()) == (1, False)
        assert "cut off" in failed.stderr
        assert left_over(tmp_path) == []


async def many(folder: Path, turns: int, length: int = 10) -> None:
    head = a_session(turn_count=turns, version=turns + 1, compacted_through=turns)
    async with opened(f"sqlite:///{folder}/memory.db") as store:
        await store.restore(a_scope(), [Exported(session=head)])
        for start in range(1, turns + 1, 500):
            page = [a_turn(seq, text=f"{seq} " + "x" * length) for seq in range(start, min(start + 500, turns + 1))]
            await store.restore(a_scope(), [Exported(turn=turn) for turn in page])


@asynccontextmanager
async def guarded(settings: Settings, **limits: Any) -> AsyncIterator[Callable[..., Any]]:
    async with open_service(settings) as service:

        @asynccontextmanager
        async def entered() -> AsyncIterator[Any]:
            yield service

        async with served(app_around(entered(), settings), **limits) as (_, call):
            yield call


EXPORT = b"GET /users/ana/export HTTP/1.1\r\nHost: localhost\r\n\r\n"
IMPORT = (
    b"POST /users/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    b"Content-Length: %d\r\n\r\n"
)


async def test_an_export_takes_as_long_as_it_is_read_and_no_longer(make_settings: MakeSettings, tmp_path: Path) -> None:
    await many(tmp_path, 300, 12_000)
    loop = asyncio.get_running_loop()
    async with guarded(make_settings(**PATIENT), request_s=2.5) as call:
        slow, gone = [(await call())._sock for _ in range(2)]
        for caller in (slow, gone):
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            await loop.sock_sendall(caller, EXPORT)
        await loop.sock_recv(gone, 65_536)
        began, last, size = loop.time(), b"", 0
        while part := await loop.sock_recv(slow, 400_000):
            last, size = (last + part)[-100:], size + len(part)
            if last.endswith(b"0\r\n\r\n"):
                break
            await asyncio.sleep(0.1)
        assert b'{"things":301}\n' in last
        assert size > 7_000_000
        assert loop.time() - began > 5
        rest = last = b""
        while part := await loop.sock_recv(gone, 1_000_000):
            last, rest = (last + part)[-100:], rest + part
        assert b"things" not in last
        assert len(rest) < size


async def test_a_file_may_take_its_time_to_arrive_but_not_by_drops(make_settings: MakeSettings) -> None:
    content = file_of(Exported(session=a_session()), *())
    padded = content.replace(b'"cumulative_summary":""', b'"cumulative_summary":"' + b"x" * 700_000 + b'"')
    loop = asyncio.get_running_loop()
    async with guarded(make_settings(), body_s=2, request_s=4) as call:
        steady, dripping = [(await call())._sock for _ in range(2)]
        await loop.sock_sendall(steady, IMPORT % len(padded))
        began = loop.time()
        for start in range(0, len(padded), 70_000):
            await loop.sock_sendall(steady, padded[start : start + 70_000])
            await asyncio.sleep(0.5)
        assert loop.time() - began > 5
        assert b" 200 OK" in await loop.sock_recv(steady, 1000)
        await loop.sock_sendall(dripping, IMPORT % len(padded))
        hearing, began = asyncio.create_task(loop.sock_recv(dripping, 1000)), loop.time()
        while not hearing.done() and loop.time() - began < 15:
            await loop.sock_sendall(dripping, b"{")
            await asyncio.wait([hearing], timeout=0.1)
        assert b" 408 " in await hearing
        assert loop.time() - began < 10

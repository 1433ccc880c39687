"""`memory-service keys`: on the record, and over a running service; and every other command brings its key along."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from client import Forbidden, MemoryServiceClient, SyncMemoryServiceClient, Unauthenticated
from memory_service.cli import main
from memory_service.server import running
from memory_service.settings import Settings
from tests.api.talking import START, STATS
from tests.support.admitted import key_id_of

MakeSettings = Callable[..., Settings]
KEY = "MEMORY_SERVICE_API_KEY"


@pytest.fixture(autouse=True)
def settings(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The record that commands open is that of the service."""
    settings = make_settings(auth_mode="keys")
    monkeypatch.setenv("STORE_URL", settings.store_url)
    return settings


def invoked(*words: str, key: str = "") -> Result:
    return CliRunner().invoke(main, list(words), env={KEY: key} if key else {})


def made(*words: str, key: str = "") -> str:
    result = invoked("keys", "create", *words, key=key)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert "told once" in result.stderr
    assert line not in result.stderr
    return line


async def command(*words: str, key: str = "") -> Result:
    return await asyncio.to_thread(invoked, *words, key=key)


async def status(url: str, key: str, path: str = STATS) -> int:
    async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        return (await http.get(path)).status_code


async def test_the_first_key_is_made_before_anybody_is_served(settings: Settings) -> None:
    admin = await asyncio.to_thread(made, "admin", "--permissions", "all")
    async with running(settings) as url:
        assert await status(url, admin, "/keys") == 200
        result = await command("keys", "list", "--url", url, key=admin)
        assert result.stdout.split() == [
            key_id_of(admin),
            "default/*",
            "admin,erase,metrics,read,write",
            "until",
            "revoked",
            "admin",
        ]


async def test_a_key_lives_and_dies_on_the_record(settings: Settings) -> None:
    def life() -> tuple[str, str, str]:
        app = made("ana's app", "--tenant", "acme", "--user", "ana", "--expires-in-days", "30")
        other = made("other", "--tenant", "acme")
        listed = invoked("keys", "list", "--tenant", "acme").output.splitlines()
        assert [line.split()[:3] for line in listed] == [
            [key_id_of(app), "acme/ana", "read,write"],
            [key_id_of(other), "acme/*", "read,write"],
        ]
        assert invoked("keys", "list", "--tenant", "rival").output == ""
        rotated = invoked("keys", "rotate", key_id_of(app), "--overlap-hours", "0")
        assert rotated.exit_code == 0
        assert invoked("keys", "revoke", other).exit_code == 0  # the whole key names itself
        return app, other, rotated.stdout.strip()

    app, other, then = await asyncio.to_thread(life)
    async with running(settings) as url, httpx2.AsyncClient(base_url=url, timeout=60) as http:
        for key, told in ((app, 401), (other, 401), (then, 200)):
            asked = await http.post(START, json={"user_id": "ana"}, headers={"X-API-Key": key})
            assert asked.status_code == told


async def test_a_key_is_told_of_spaces_on_the_record_and_at_a_service(settings: Settings) -> None:
    spaces = ["--space", "research:write, read", "--space", "a.b-c:erase"]

    def told(*words: str, key: str = "") -> list[str]:
        listed = invoked("keys", "list", "--tenant", "acme", *words, key=key).stdout.splitlines()
        return [" ".join(line.split()[1:5]) for line in listed]

    def on_record() -> str:
        app = made("app", "--tenant", "acme", "--user", "ana", "--permissions", "read", *spaces)
        assert invoked("keys", "rotate", key_id_of(app)).exit_code == 0
        return made("admin", "--permissions", "all")

    admin = await asyncio.to_thread(on_record)
    said = "acme/ana read space:a.b-c:erase space:research:read,write"
    assert await asyncio.to_thread(told) == [said] * 2
    async with running(settings) as url:
        words = ["create", "app", "--tenant", "acme", "--user", "ana", "--permissions", "read", *spaces]
        result = await command("keys", *words, "--url", url, key=admin)
        assert "read space:a.b-c:erase space:research:read,write of acme" in result.stderr
        assert await asyncio.to_thread(told, "--url", url, key=admin) == [said] * 3
        key = result.stdout.strip()
        assert await status(url, key) == 403
        async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
            for user_id, allowed in (("space:research", 200), ("space:a.b-c", 403), ("ana", 403)):
                assert (await http.post(START, json={"user_id": user_id})).status_code == allowed


async def test_a_record_that_is_being_served_is_named_by_its_url(settings: Settings) -> None:
    admin = await asyncio.to_thread(made, "admin", "--permissions", "all")
    async with running(settings) as url:
        refused = await command("keys", "create", "app")
        assert refused.exit_code == 1
        for word in ("in use by process", "--url", KEY):
            assert word in refused.output
        app = (
            await command("keys", "create", "app", "--permissions", "metrics", "--url", url, key=admin)
        ).stdout.strip()
        assert await status(url, app) == 200
        then = (await command("keys", "rotate", key_id_of(app), "--url", url, key=admin)).stdout.strip()
        assert [await status(url, key) for key in (app, then)] == [200, 200]
        for key in (app, then):
            assert (await command("keys", "revoke", key_id_of(key), "--url", url, key=admin)).exit_code == 0
        assert [await status(url, key) for key in (app, then)] == [401, 401]
        assert (await command("keys", "list", "--url", url)).exit_code == 1
        weak = (await command("keys", "create", "app", "--permissions", "read", "--url", url, key=admin)).stdout.strip()
        refused = await command("keys", "create", "mine", "--url", url, key=weak)
        assert "needs the permission 'admin'" in refused.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "a\nb"], "NAME"),
        (["create", "app", "--tenant", "a b"], "--tenant"),
        (["create", "app", "--user", "~knowledge"], "--user"),
        (["create", "app", "--permissions", "everything"], "--permissions"),
        (["create", "app", "--permissions", "all,else"], "--permissions"),
        (["create", "app", "--permissions", ","], "--permissions"),
        (["create", "app", "--expires-in-days", "0"], "--expires-in-days"),
        (["create", "app", "--user", "space:a:b"], "--user"),
        (["create", "app", "--space", "research:read"], "only with --user"),
        *(
            (["create", "app", "--user", "ana", *words], "--space")
            for words in (
                ["--space", "research"],
                ["--space", "research:"],
                ["--space", ":read"],
                ["--space", "a b:read"],
                ["--space", "space:research:read"],
                ["--space", "research:admin"],
                ["--space", "research:all"],
                ["--space", "research:read,,write"],
                ["--space", "research:read", "--space", "research:write"],
            )
        ),
        (["revoke", "nokey000"], "no API key of this id"),
        (["rotate", "nokey000"], "no API key of this id"),
        (["revoke", "../x"], "KEY_ID"),
    ],
)
def test_what_is_not_in_order_is_said_in_a_line_and_makes_no_key(words: list[str], said: str) -> None:
    result = invoked("keys", *words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert "Traceback" not in result.output
    assert invoked("keys", "list").output == ""


def test_a_key_that_ended_is_not_rotated() -> None:
    key = key_id_of(made("app"))
    invoked("keys", "revoke", key)
    result = invoked("keys", "rotate", key)
    assert result.exit_code == 1
    assert "revoked" in result.output


async def test_every_command_brings_the_key_of_the_environment(settings: Settings, tmp_path: Path) -> None:
    admin = await asyncio.to_thread(made, "admin", "--permissions", "all")
    (tmp_path / "memories.jsonl").write_text(json.dumps({"user_id": "ana", "content": "Likes tea"}) + "\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/leave.md").write_text("# Leave\n\nThirty days.")
    async with running(settings) as url:
        for words in (
            ["reflections"],
            ["memories", "import", str(tmp_path / "memories.jsonl")],
            ["knowledge", "import", str(tmp_path / "docs")],
            ["knowledge", "recall", "leave"],
            ["drivers", "list"],
            ["keys", "list"],
        ):
            refused = await command(*words, "--url", url)
            assert refused.exit_code == 1, words
            assert "no valid credential" in refused.output
            served = await command(*words, "--url", url, key=admin)
            assert served.exit_code == 0, served.output


@pytest.mark.parametrize("words", [["drivers", "list"], ["users", "erase", "ana", "--yes"]])
def test_a_key_of_two_lines_is_refused_in_one_that_does_not_repeat_it(words: list[str]) -> None:
    refused = invoked(*words, "--url", "http://127.0.0.1:1", key="mem_secret\nx")
    assert refused.exit_code == 1
    assert f"{KEY}) must be one line" in refused.output
    assert "secret" not in refused.output


async def test_the_clients_bring_a_key_and_say_why_they_were_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await asyncio.to_thread(made, "app", "--tenant", "acme", "--user", "ana")
    other = await asyncio.to_thread(made, "other", "--tenant", "acme", "--permissions", "read")
    async with running(settings) as url:
        async with MemoryServiceClient(url, "ana", api_key=key) as client:
            await client.start_session()
            with pytest.raises(Forbidden) as refused:
                await client.stats()
            assert refused.value.code == "insufficient_scope"
        async with MemoryServiceClient(url, "ana") as client:
            with pytest.raises(Unauthenticated):
                await client.start_session()
        monkeypatch.setenv(KEY, key)
        async with MemoryServiceClient(url, "ana") as client:
            await client.start_session()
        async with httpx2.AsyncClient(
            headers={"X-API-Key": other}, timeout=60
        ) as http:  # one of your own says it itself
            with pytest.raises(Forbidden):
                await MemoryServiceClient(url, "ana", http=http).start_session()
        async with MemoryServiceClient(url, "ana", api_key="") as client:
            with pytest.raises(Unauthenticated):
                await client.start_session()

        def blocking() -> None:
            with SyncMemoryServiceClient(url, "bob") as client, pytest.raises(Forbidden):
                client.start_session()

        await asyncio.to_thread(blocking)

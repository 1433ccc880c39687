"""Who did what by which right, and who was refused, is in the log before it is answered: who, not what was said."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from io import StringIO
from pathlib import Path
from typing import Any

import httpx2
import pytest

from memory_service import logs
from memory_service.api.routes import VERBS
from memory_service.erasing import Erasing
from memory_service.settings import Settings
from tests.api.talking import RETRIEVE, START, STORE, told
from tests.api.test_credentials import A_FILE, CLOSED, ROUTES, Names, ask, name_of, path_of
from tests.support.admitted import Admitted, admitting, key_id_of
from tests.support.identity_provider import IdentityProvider

KEY = "the key of the audit"
SAID = "canary-town"
AUDITED = {name for name, route in ROUTES.items() if route.needs in ("erase", "admin")} | {"export_user"}
"""What is written down also where it is allowed."""

pytestmark = pytest.mark.only_on("sqlite", "no store has a say in who may what")


class Log:
    """The lines of the audit as they are written."""

    def __init__(self, stream: StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in told if line["logger"] == logs.AUDIT]

    def line(self) -> dict[str, Any]:
        """The one that was written since the last time it was looked."""
        (line,) = self.lines()
        self._stream.truncate(0)
        self._stream.seek(0)
        return line


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What would be on stderr, at the level at which least is logged."""
    stream, root = StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure_logging("ERROR")
    yield Log(stream)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for name in ("memory_service", logs.AUDIT):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
async def admitted(make_settings: Callable[..., Settings], log: Log) -> AsyncIterator[Admitted]:
    settings = make_settings(store_url="transient://", auth_mode="keys", audit_key=KEY)
    async with admitting(settings) as admitted:
        yield admitted


def name(*ids: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), "/".join(ids).encode(), "sha256").hexdigest()


async def one_turn(http: httpx2.AsyncClient, user_id: str = "ana") -> None:
    await told(http, START, user_id=user_id, session_id="s")
    await told(http, STORE, user_id=user_id, session_id="s", user_message=SAID, agent_message="")


async def test_who_erases_whom_is_written_down_and_nothing_of_what_was_said(admitted: Admitted, log: Log) -> None:
    key = await admitted.key("acme")
    async with admitted.http(key) as http:
        await one_turn(http)
        assert log.lines() == []
        answer = await http.delete("/users/ana", headers={"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    for secret in ("ana", SAID, key.split("_")[2]):
        assert secret not in log.text
    line = log.line()
    del line["timestamp"]
    assert line == {
        "logger": "memory_service.audit",
        "level": "info",
        "event": "a right was used",
        "credential": f"key {key_id_of(key)}",
        "tenant": "acme",
        "permission": "erase",
        "route": "DELETE /users/{user_id}",
        "user": name("acme", "ana"),
        "status": 200,
        "request_id": "mine",
    }


async def test_each_use_of_a_right_is_one_line_and_no_other_request_is_any(admitted: Admitted, log: Log) -> None:
    """S25: of the whole table of routes."""
    async with admitted.http(await admitted.key()) as http:
        for verb in VERBS:
            answer = await (http.get(path_of(verb, Names())) if verb.open else ask(http, verb))
            if name_of(verb) not in AUDITED:
                assert log.lines() == [], name_of(verb)
                continue
            line = log.line()
            assert (line["route"], line["permission"]) == (f"{verb.method} {verb.path}", verb.needs)
            assert line["status"] == answer.status_code
            assert line["request_id"] == answer.headers["x-request-id"]
            assert line["event"] == ("a right was used" if answer.status_code == 200 else "the use of a right failed")


async def test_each_refusal_for_want_of_a_right_is_one_line(admitted: Admitted, log: Log) -> None:
    """S25, S26: of another user, and of a permission that is lacking, on each route."""
    counted = 0
    for key in (await admitted.key("acme", "bob"), await admitted.key("acme", permissions=["metrics"])):
        async with admitted.http(key) as http:
            for verb in CLOSED:
                answer = await ask(http, verb)
                if answer.status_code != 403:
                    assert not [line for line in log.lines() if line["status"] == 403]
                    assert name_of(verb) in ("recall_knowledge",) or name_of(verb) in AUDITED, name_of(verb)
                    continue
                counted += 1
                line = log.line()
                assert (line["level"], line["event"], line["status"]) == ("warning", "a request was refused", 403)
                assert line["code"] == answer.json()["code"]
                assert line["route"] == f"{verb.method} {verb.path}"
                assert line["credential"] == f"key {key_id_of(key)}"
                assert line["request_id"] == answer.headers["x-request-id"]
    assert counted > 60


async def test_of_whom_somebody_wanted_something_is_known_wherever_the_request_named_them(
    admitted: Admitted, log: Log
) -> None:
    """S25: in the path, the query, the body, deep in it, and in a file."""
    async with admitted.http(await admitted.key("acme", "bob")) as http:
        for verb in CLOSED:
            if name_of(verb) in ("list_keys", "create_key", "rotate_key", "revoke_key"):
                continue
            answer = await ask(http, verb, Names(user="ana"))
            if answer.status_code != 403:
                continue
            line = log.line()
            of_one = "another user" in answer.json()["detail"]
            assert line.get("user") == (name("acme", "ana") if of_one else None), name_of(verb)


async def test_in_which_space_somebody_wanted_more_than_is_granted_there_is_known(admitted: Admitted, log: Log) -> None:
    """S25, S26"""
    async with admitted.http(await admitted.key("acme", "ana", spaces={"team": ["read"]})) as http:
        refused = 0
        for verb in CLOSED:
            if ROUTES[name_of(verb)].of != "user" or ROUTES[name_of(verb)].needs == "read":
                continue
            assert (await ask(http, verb, Names(user="space:team"))).status_code == 403
            line = log.line()
            assert (line["code"], line["user"]) == ("insufficient_scope", name("acme", "space:team")), name_of(verb)
            refused += 1
    assert refused > 15


async def test_what_it_was_that_was_erased_or_changed_is_known(admitted: Admitted, log: Log) -> None:
    """A session and a memory by a hash as well; a driver by its name, once it is known to be one."""
    async with admitted.http(await admitted.key()) as http:
        for method, path, more in (
            ("DELETE", "/sessions/s?user_id=ana", {"session": name("default", "ana", "s")}),
            ("DELETE", "/sessions/s/turns/1?user_id=ana", {"session": name("default", "ana", "s")}),
            ("DELETE", "/memories/m1?user_id=ana", {"memory": name("default", "ana", "m1")}),
            ("DELETE", "/knowledge/d", {"user": None}),
        ):
            await http.request(method, path)
            line = log.line()
            told = {name: line.get(name) for name in ("user", "session", "memory", "driver")}
            assert told == {"user": name("default", "ana"), "session": None, "memory": None, "driver": None, **more}
        for word, drivers, said in (("switch", ["builtin"], "builtin"), ("switch", ["canary"], None)):
            await http.post(f"/drivers/{word}", json={"drivers": drivers})
            assert log.line().get("driver") == said
        await http.post("/drivers/drop", json={"driver": "canary"})
        assert "canary" not in log.text


async def test_whose_a_file_is_to_be_is_known_too(admitted: Admitted, log: Log) -> None:
    """S25: who is named in it, or beside it, be it broken."""

    async def sent(content: bytes, **query: str) -> int:
        headers = {"Content-Type": "application/x-ndjson"}
        return (await http.post("/users/import", params=query, content=content, headers=headers)).status_code

    async with admitted.http(await admitted.key("acme", "bob")) as http:
        assert await sent(A_FILE) == 403
        assert log.line()["user"] == name("acme", "imported")
        assert await sent(b"{", user_id="bob") == 422
        line = log.line()
        assert (line["event"], line["user"]) == ("the use of a right failed", name("acme", "bob"))
        assert await sent(A_FILE, user_id="bob") == 200
        assert log.line()["user"] == name("acme", "bob")


async def test_a_key_that_is_made_for_a_user_of_another_tenant_says_both(admitted: Admitted, log: Log) -> None:
    async with admitted.http(await admitted.key()) as http:
        made = await told(http, "/keys", name="k", permissions=["read"], tenant_id="acme", user_id="ana")
        line = log.line()
        assert (line["tenant"], line["user"], line["key"]) == ("default", name("acme", "ana"), made["key_id"])
        await http.delete(f"/keys/{made['key_id']}")
        assert log.line()["key"] == made["key_id"]
        assert made["key"].split("_")[2] not in log.text


@pytest.mark.parametrize("method, then", [("DELETE", ""), ("POST", "/rotate")])
async def test_a_whole_key_in_the_place_of_its_id_is_known_by_it_and_not_written(
    admitted: Admitted, log: Log, method: str, then: str
) -> None:
    """Nor is what only looks like one: it may be a key with a slip of the pen, or of another service."""
    async with admitted.http(await admitted.key()) as http:
        key = await admitted.key("acme")
        for given, status, known in (
            (key, 200, True),
            (f"{key[:-3]}-x.", 200, True),
            (key.removeprefix("mem_"), 404, False),
            (key.replace("mem_", "key-"), 404, False),
            (key.upper(), 404, False),
            (f"mem_{SAID}_{SAID}", 404, False),
        ):
            answer = await http.request(method, f"/keys/{given}{then}", json={} if then else None)
            assert answer.status_code == status
            secret = given.split("_")[-1]
            assert secret not in log.text
            line = log.line()
            told = answer.json().get("key_id") if known else None
            assert line.get("key") == told
            assert (told == key_id_of(key)) == (known and not then)


async def test_it_is_written_before_it_is_answered(admitted: Admitted, log: Log) -> None:
    written_by_then: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            written_by_then.append(len(log.lines()))
            await send(message)

        await admitted.app(scope, receive, sent)

    key = await admitted.key("acme", permissions=["read", "erase"])
    async with admitted.http(key) as http:
        headers = http.headers
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://memory.example", headers=headers) as http:
        for number, (method, path) in enumerate(
            [("GET", "/users/ana/export"), ("DELETE", "/users/ana"), ("DELETE", "/knowledge/d"), ("GET", "/keys")], 1
        ):
            await http.request(method, path)
            assert set(written_by_then) == {number}
            written_by_then.clear()


@pytest.mark.parametrize("failure", [RuntimeError("canary-town"), asyncio.CancelledError()])
async def test_what_went_wrong_in_the_middle_is_written_down_too(
    admitted: Admitted, log: Log, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """It may have had its effect."""

    async def fails(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(Erasing, "user", fails)
    async with admitted.http(await admitted.key()) as http:
        try:
            status = (await http.delete("/users/ana")).status_code
        except asyncio.CancelledError:
            status = 500
    (line,) = log.lines()
    assert (line["event"], line["status"], status) == ("the use of a right failed", 500, 500)
    assert (line["code"], line["user"]) == ("internal_error", name("default", "ana"))


async def test_who_is_not_known_or_asks_too_much_fills_no_audit(
    make_settings: Callable[..., Settings], log: Log
) -> None:
    settings = make_settings(store_url="transient://", auth_mode="keys", rate_limit_per_credential=1)
    async with admitting(settings) as admitted:
        async with admitted.http("mem_wrong") as nobody:
            assert (await nobody.delete("/users/ana")).status_code == 401
        async with admitted.http(await admitted.key(permissions=["read"])) as http:
            answers = [(await http.delete("/users/ana")).status_code for _ in range(5)]
    assert answers == [403, 403, 429, 429, 429]
    assert [line["status"] for line in log.lines()] == [403, 403]


async def test_the_counters_tell_how_often_and_name_nobody(admitted: Admitted) -> None:
    """S31"""
    async with admitted.http(await admitted.key()) as http:
        assert (await http.get("/stats")).json()["audit"] == {"done": 0, "failed": 0, "refused": 0}
        await http.get("/keys")
        await http.delete("/users/nobody")
        async with admitted.http(await admitted.key("canary", "canary", permissions=["read"])) as reader:
            await reader.delete("/users/canary")
            await reader.post(RETRIEVE, json={"user_id": "canary", "query": "boat"})
        stats = await http.get("/stats")
        assert stats.json()["audit"] == {"done": 1, "failed": 1, "refused": 1}
        assert "canary" not in stats.text
        keys = await admitted.service.keys.of_tenant()
        assert not [key.key_id for key in keys if key.key_id in stats.text]


async def test_whoever_has_a_token_of_their_own_is_not_named_either(
    make_settings: Callable[..., Settings], log: Log
) -> None:
    with IdentityProvider() as provider:
        settings = make_settings(
            store_url="transient://", auth_mode="jwt", jwt_jwks_url=provider.url, jwt_service_clients="agents"
        )
        async with admitting(settings) as admitted:
            lines = []
            for claims in ({}, {}, {"sub": "bob"}, {"client_id": "agents"}):
                async with admitted.http(provider.token(**claims)) as http:
                    await http.delete("/users/ana")
                lines.append(log.line())
    own, again, others, clients = lines
    assert "ana" not in str(lines)
    assert own["credential"] == again["credential"] == f"user {own['user']}"
    assert others["credential"] not in (own["credential"], "user bob")
    assert (others["status"], others["user"]) == (403, own["user"])
    assert (clients["credential"], clients["user"]) == ("client agents", own["user"])
    assert own["user"] != name("acme", "ana", key=""), "without a key one is made up"


async def test_each_start_without_a_key_names_users_anew(make_settings: Callable[..., Settings], log: Log) -> None:
    names = []
    for key in ("", "", KEY, KEY):
        settings = make_settings(store_url="transient://", audit_key=key)
        async with admitting(settings) as admitted, admitted.http(Host="localhost") as http:
            await http.delete("/users/ana")
        line = log.line()
        assert line["credential"] == "none"
        names.append(line["user"])
    assert len(set(names)) == 3
    assert names[2] == names[3] == name("default", "ana")


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_the_command_that_is_told_finds_the_name() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "authentication.md"
    command = next(line for line in page.read_text().splitlines() if "openssl dgst" in line)
    said = subprocess.run(["bash", "-c", command], env={**os.environ, "AUDIT_KEY": KEY}, capture_output=True, text=True)
    assert said.stdout.split()[-1] == name("acme", "ana")

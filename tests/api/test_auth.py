"""Who is served: by default callers on this host, under a local name, not through a proxy, not from a web page."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from memory_service.admission import make_gate
from memory_service.api.auth import Gate, admit_anyone, admit_loopback, is_local_name, is_loopback
from memory_service.api.credentials import CredentialGate
from memory_service.api.gateway import PREFIXES
from memory_service.api.routes import VERBS
from memory_service.errors import Unauthenticated, UnsafeStart
from memory_service.settings import Settings
from tests.api.conftest import Connect
from tests.api.talking import CONTEXT, START, STATS, commits, problem, told
from tests.support.guarded import called

FORWARDING = {
    "Forwarded": "for=192.0.2.60;proto=http",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "localhost",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "443",
    "X-Real-IP": "127.0.0.1",
    "Via": "1.1 proxy",
    "CF-Connecting-IP": "127.0.0.1",
    "True-Client-IP": "127.0.0.1",
}
LOCAL_HOSTS = (
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.8.8.8",
    "localhost",
    "LocalHost:8000",
    "memory.localhost",
    "[::1]",
    "[::1]:8000",
    "[::ffff:127.0.0.1]:8000",
)
FOREIGN_HOSTS = (
    "example.com",
    "evil.example:8000",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "192.0.2.1",
    "0.0.0.0",
    "[::]",
    "[2001:db8::1]:8000",
    "[::ffff:192.0.2.1]",
    "",
)
FOREIGN_ORIGINS = (
    "https://evil.example",
    "http://localhost.evil.example:8000",
    "http://127.0.0.1.evil.example",
    "http://192.0.2.1",
    "null",
    "file://",
    "localhost",
    "",
)


async def asked(http: httpx2.AsyncClient, **headers: str) -> httpx2.Response:
    return await http.post(START, json={"user_id": "ana"}, headers=headers)


def refused(response: httpx2.Response) -> None:
    """It was refused, and said which setting would mend it."""
    detail = problem(response, 401, "unauthenticated")["detail"]
    assert "AUTH_MODE=loopback" in detail
    for way_out in ("AUTH_MODE=keys", "memory-service keys create", "AUTH_MODE=none"):
        assert way_out in detail
    assert response.headers["www-authenticate"]


# Over HTTP


async def test_callers_on_this_host_are_served_under_its_local_names(http: httpx2.AsyncClient) -> None:
    for host in LOCAL_HOSTS:
        assert (await asked(http, Host=host)).status_code == 200, host
    for origin in ("http://localhost:3000", "http://127.0.0.1", "https://[::1]:8000", "http://app.localhost"):
        assert (await asked(http, Origin=origin)).status_code == 200, origin


async def test_a_request_that_was_forwarded_is_nobodys_on_this_host(http: httpx2.AsyncClient) -> None:
    for name, value in FORWARDING.items():
        refused(await asked(http, **{name: value}))
        refused(await asked(http, **{name.lower(): ""}))
    assert await commits(http) == 0


async def test_a_request_under_a_foreign_name_or_from_a_foreign_page_is_refused(http: httpx2.AsyncClient) -> None:
    """S32: a page of another site, or one under a name that leads here, is no caller on this host."""
    for host in FOREIGN_HOSTS:
        refused(await asked(http, Host=host))
    for origin in FOREIGN_ORIGINS:
        refused(await asked(http, Origin=origin))
    assert await commits(http) == 0


@pytest.mark.only_on("sqlite", "the store plays no part")
async def test_a_page_of_another_site_can_send_nothing_that_is_served_and_hears_nothing(url: str) -> None:
    """S32: as a browser sends it, without asking before (a form, a `fetch` of text); and when it asks before."""
    host, port = url.removeprefix("http://").split(":")
    body = b'{"user_id": "ana", "session_id": "s"}'
    forms = (
        b"text/plain",
        b"text/plain;charset=UTF-8",
        b"application/x-www-form-urlencoded",
        b"application/json",
        None,
    )
    async with called((host, int(port))) as call:

        async def status(method: bytes, origin: bytes, *headers: bytes, to: bytes = url[7:].encode()) -> int:
            lines = [method + b" HTTP/1.1", b"Host: " + to, b"Origin: " + origin, b"Connection: close", *headers]
            said = body if method.startswith(b"POST") else b""
            caller = await call()
            await caller.say(b"\r\n".join([*lines, b"Content-Length: %d" % len(said), b"", said]))
            answer = await caller.last()
            assert not [name for name in answer.headers if name.startswith("access-control")]
            return int(answer.status)

        for origin in (b"https://evil.example", b"http://localhost.evil.example:8000", b"null"):
            for form in forms:
                content = [b"Content-Type: " + form] if form else []
                assert await status(b"POST /sessions/start", origin, *content) == 401
            asks = (b"Access-Control-Request-Method: DELETE", b"Access-Control-Request-Headers: content-type")
            assert await status(b"OPTIONS /users/ana", origin, *asks) == 405
            assert await status(b"DELETE /users/ana", origin) == 401
            assert await status(b"GET /users/ana/export", origin) == 401
        rebound = b"http://evil.example"  # a name that leads here by now: the same origin, to the browser
        assert await status(b"POST /sessions/start", rebound, to=b"evil.example") == 401
        local = b"http://localhost:3000"
        assert [
            await status(b"POST /sessions/start", local, b"Content-Type: " + form) for form in forms[:3] if form
        ] == ([415] * 3)
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        assert await commits(http) == 0
        assert (await http.post(START, json={"user_id": "ana"}, headers={"Origin": local.decode()})).status_code == 200


async def test_who_is_refused_is_refused_everywhere_before_anything_is_read(http: httpx2.AsyncClient) -> None:
    foreign = {"Host": "evil.example"}
    for verb in VERBS:
        response = await http.request(
            verb.method, verb.path.replace("{session_id}", "s"), content=b"{not json", headers=foreign
        )
        if verb.open:
            assert response.status_code == 200
        else:
            refused(response)
            assert "not json" not in response.text
    of_gateway = [f"{prefix}/health" for prefix in PREFIXES]
    assert [verb.path for verb in VERBS if verb.open] == [*of_gateway, "/health", "/livez", "/readyz"]


async def test_health_probes_are_served_to_everybody(http: httpx2.AsyncClient) -> None:
    for headers in ({"Host": "10.0.0.7:8000"}, {"X-Forwarded-For": "192.0.2.60"}, {"Origin": "https://evil.example"}):
        assert (await http.get("/health", headers=headers)).json()["status"] == "healthy"
        refused(await http.get(STATS, headers=headers))


async def test_a_caller_who_reaches_the_port_from_outside_is_refused(connect: Connect) -> None:
    """S27"""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    local = await connect(host="0.0.0.0")
    async with httpx2.AsyncClient(base_url=f"http://{address}:{local.base_url.port}", timeout=60) as outside:
        assert (await outside.get("/health")).status_code == 200
        refused(await outside.get(STATS))
        refused(await outside.post(START, json={"user_id": "ana"}, headers={"Host": "localhost"}))
    assert (await local.get(STATS)).status_code == 200


async def test_callers_over_ip_version_6_are_on_this_host_too(connect: Connect) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IP version 6 here")
    try:
        http = await connect(host="::1")
    except UnsafeStart as error:
        pytest.skip(f"no IP version 6 here: {error}")
    assert (await told(http, START, user_id="ana"))["user_id"] == "ana"
    refused(await asked(http, Host="evil.example"))


async def test_with_no_authentication_everybody_is_served(connect: Connect) -> None:
    http = await connect(auth_mode="none")
    for name, value in {**FORWARDING, "Host": "evil.example", "Origin": "https://evil.example"}.items():
        assert (await asked(http, **{name: value})).status_code == 200, name
        assert (await http.get(STATS, headers={name: value})).status_code == 200


async def test_being_served_gives_nobody_anothers_name(connect: Connect) -> None:
    http = await connect(auth_mode="none")
    await told(http, START, user_id="ana", session_id="s")
    for headers in ({"Authorization": "Bearer ana"}, {"X-User-Id": "ana"}, {"X-Tenant-Id": "default"}):
        response = await http.post(CONTEXT, json={"user_id": "bob", "session_id": "s"}, headers=headers)
        problem(response, 404, "session_not_found")


def own_address() -> str | None:
    """An address of this machine that is not loopback, found without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if is_loopback(address) else address


# The gate itself


def scope(address: str | None, *headers: tuple[str, str]) -> dict[str, Any]:
    client = None if address is None else (address, 50000)
    return {"client": client, "headers": [(name.encode(), value.encode()) for name, value in headers]}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"])
async def test_an_address_of_this_host_is_admitted(address: str) -> None:
    assert is_loopback(address)
    assert (await admit_loopback(scope(address, ("host", "localhost")))).tenant_id == "default"


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "10.0.0.1",
        "0.0.0.0",
        "::",
        "fe80::1",
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "::ffff:10.0.0.1",
        "169.254.0.1",
        "localhost",
        "127.0.0.1.evil.example",
        "2130706433",
        "0x7f.1",
        "",
        None,
    ],
)
async def test_any_other_address_is_not(address: str | None) -> None:
    assert address is None or not is_loopback(address)
    with pytest.raises(Unauthenticated):
        await admit_loopback(scope(address, ("host", "localhost")))


async def test_without_a_name_nobody_is_admitted() -> None:
    with pytest.raises(Unauthenticated):
        await admit_loopback(scope("127.0.0.1"))


async def test_every_name_a_request_gives_must_be_a_local_one() -> None:
    for hosts in (("evil.example", "localhost"), ("localhost", "evil.example")):
        with pytest.raises(Unauthenticated):
            await admit_loopback(scope("127.0.0.1", *(("host", host) for host in hosts)))


@pytest.mark.parametrize("name", LOCAL_HOSTS)
def test_a_local_name_is_known_with_and_without_a_port(name: str) -> None:
    assert is_local_name(name)


@pytest.mark.parametrize("name", FOREIGN_HOSTS)
def test_a_foreign_name_is_not_a_local_one(name: str) -> None:
    assert not is_local_name(name)


async def test_the_gate_is_chosen_by_the_setting(make_settings: Callable[..., Settings]) -> None:
    def gate(mode: str) -> Gate:
        return make_gate(make_settings(auth_mode=mode), None, time.monotonic)

    assert gate("loopback") is admit_loopback
    assert gate("none") is admit_anyone
    assert isinstance(gate("keys"), CredentialGate)
    anyone = await admit_anyone(scope("192.0.2.1", ("x-forwarded-for", "192.0.2.2")))
    assert anyone.scope("ana").user_id == "ana"


@pytest.mark.only_on("sqlite", "the store plays no part")
async def test_that_everybody_is_served_is_told_at_the_start(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """S27: `none` is chosen, and logged; no other mode says so."""
    for mode in ("loopback", "keys", "none"):
        http = await connect(auth_mode=mode, store_url="transient://")
        await http.get("/livez")
        assert ("AUTH_MODE=none" in caplog.text) == (mode == "none")

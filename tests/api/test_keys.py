"""The routes of API keys: who may make which, that a key is told once, and that it is of no use when it is revoked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from io import BytesIO
from typing import Any

import httpx2
import pytest

from client import MemoryServiceClient, SyncMemoryServiceClient
from memory_service.access import PERMISSIONS
from memory_service.settings import Settings
from tests.api.conftest import Connect, Visit
from tests.api.talking import START, STATS, problem, told
from tests.support.admitted import Admitted, admitting, key_id_of
from tests.support.background import until

KEYS = "/keys"
FORM = re.compile(r"mem_[a-z0-9]{8}_[A-Za-z0-9]{42}")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ids_of(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [key["key_id"] for key in answer.json()["keys"]]


@pytest.fixture
async def admitted(make_settings: Callable[..., Settings]) -> AsyncIterator[Admitted]:
    async with admitting(make_settings(store_url="transient://", auth_mode="keys")) as admitted:
        yield admitted


async def test_from_the_first_key_to_the_last(visit: Visit) -> None:
    """Over HTTP, on every store: made, used, listed, rotated, revoked; and each key is told once."""
    async with visit() as http:
        first = await told(http, KEYS, name="first", permissions=sorted(PERMISSIONS))
    assert FORM.fullmatch(first["key"])
    assert (first["tenant_id"], first["user_id"], first["expires_at"]) == ("default", None, None)
    async with visit(auth_mode="keys") as http:
        problem(await http.get(KEYS), 401, "unauthenticated")
        http.headers.update(bearer(first["key"]))
        app = await told(http, KEYS, name="ana's app", permissions=["read", "write"], tenant_id="acme", user_id="ana")
        assert (await http.post(START, json={"user_id": "ana"}, headers=bearer(app["key"]))).status_code == 200
        problem(await http.post(START, json={"user_id": "bob"}, headers=bearer(app["key"])), 403, "scope_mismatch")
        then = await told(http, f"{KEYS}/{app['key_id']}/rotate", overlap_hours=0)
        assert [then[name] for name in ("name", "tenant_id", "user_id", "permissions")] == [
            app[name] for name in ("name", "tenant_id", "user_id", "permissions")
        ]
        problem(await http.post(START, json={"user_id": "ana"}, headers=bearer(app["key"])), 401, "unauthenticated")
        assert (await http.post(START, json={"user_id": "ana"}, headers=bearer(then["key"]))).status_code == 200
        listed = await http.get(KEYS)
        assert set(ids_of(listed)) == {key["key_id"] for key in (first, app, then)}
        assert not FORM.search(listed.text)
        gone = await http.delete(f"{KEYS}/{then['key_id']}")
        assert gone.json()["revoked_at"]
        assert (await http.delete(f"{KEYS}/{then['key_id']}")).json() == gone.json()
        problem(await http.post(START, json={"user_id": "ana"}, headers=bearer(then["key"])), 401, "unauthenticated")
        problem(await http.post(f"{KEYS}/{then['key_id']}/rotate", json={}), 409, "key_not_in_use")


@pytest.mark.only_on("sqlite", "no store has a say in it")
async def test_every_call_of_a_client_sends_its_key(visit: Visit) -> None:
    """Also those that send and take files."""
    async with visit() as http:
        key = (await told(http, KEYS, name="app", permissions=sorted(PERMISSIONS)))["key"]
    async with visit(auth_mode="keys") as http:
        url = str(http.base_url)
        async with MemoryServiceClient(url, "ana", api_key=key) as client:
            await client.start_session("s")
            await client.store_turn("Hello.", "Hello.")
            file = BytesIO()
            await client.export_user(file)
            await client.erase_user()
            file.seek(0)
            assert (await client.import_user(file))["turns"] == 1

        def blocking() -> dict[str, Any]:
            with SyncMemoryServiceClient(url, "ana", api_key=key) as client:
                file = BytesIO()
                client.export_user(file)
                file.seek(0)
                return client.import_user(file)

        assert (await asyncio.to_thread(blocking))["change"] == "unchanged"


@pytest.mark.only_on("postgres", "two services share a record, and one such store is enough")
async def test_a_key_revoked_at_one_service_is_soon_of_no_use_at_another(connect: Connect) -> None:
    """S21"""
    here, there = await connect(auth_mode="loopback"), await connect(auth_mode="keys")
    made = await told(here, KEYS, name="app", permissions=["metrics"])
    assert (await there.get(STATS, headers=bearer(made["key"]))).status_code == 200
    await here.delete(f"{KEYS}/{made['key_id']}")

    async def refused() -> bool:
        return (await there.get(STATS, headers=bearer(made["key"]))).status_code == 401

    await until(refused)  # how soon is held below, by a clock that stands still


@pytest.mark.only_on("postgres", "two services share a record, and one such store is enough")
async def test_what_is_right_at_one_service_is_wrong_at_another_five_seconds_later_at_most(
    make_settings: Callable[..., Settings],
) -> None:
    """S21: revoked, replaced, expired, or never made; each service has a clock of its own."""
    settings = make_settings(auth_mode="keys", rate_limit_wrong_credentials=0)
    async with admitting(settings) as here, admitting(settings) as there:
        revoked, rotated, short = await here.key(), await here.key(), await here.key(lifetime=timedelta(seconds=3))

        async def told_by(service: Admitted, *keys: str) -> list[int]:
            answers = []
            for key in keys:
                async with service.http(key) as http:
                    answers.append(await http.get(STATS))
            for answer in answers:
                assert answer.status_code == 200 or answer.headers["www-authenticate"] == "Bearer"
            return [answer.status_code for answer in answers]

        assert await told_by(there, revoked, rotated, short, "", "mem_nokey000_" + "a" * 42) == [
            200,
            200,
            200,
            401,
            401,
        ]
        assert await told_by(here, revoked, rotated) == [200, 200]
        async with here.http(await here.key()) as http:
            await http.delete(f"{KEYS}/{key_id_of(revoked)}")
            new = await told(http, f"{KEYS}/{key_id_of(rotated)}/rotate", overlap_hours=0)
        assert await told_by(here, revoked, rotated, new["key"]) == [401, 401, 200]
        there.clock.advance(seconds=3)
        assert (await told_by(there, short, new["key"])) == [401, 200]
        there.clock.advance(seconds=2)
        assert await told_by(there, revoked, rotated, short, new["key"]) == [401, 401, 401, 200]


@pytest.mark.only_on("sqlite", "no store has a say in it")
class TestWhoMay:
    async def test_operators_make_keys_for_any_tenant_and_others_for_their_own(self, admitted: Admitted) -> None:
        wanted: dict[str, Any] = {"name": "k", "permissions": ["read"]}
        async with admitted.http(await admitted.key()) as operators, admitted.http(await admitted.key("acme")) as acme:
            assert (await told(operators, KEYS, **wanted, tenant_id="rival"))["tenant_id"] == "rival"
            assert (await told(operators, KEYS, **wanted))["tenant_id"] == "default"
            assert (await told(acme, KEYS, **wanted))["tenant_id"] == "acme"
            assert (await told(acme, KEYS, **wanted, tenant_id="acme"))["tenant_id"] == "acme"
            for tenant_id in ("rival", "default", "nobody"):
                refused = await acme.post(KEYS, json={**wanted, "tenant_id": tenant_id})
                problem(refused, 403, "scope_mismatch")
                problem(await acme.get(KEYS, params={"tenant_id": tenant_id}), 403, "scope_mismatch")
            tenants = {key["tenant_id"] for key in (await acme.get(KEYS)).json()["keys"]}
            assert tenants == {"acme"}
            assert len(ids_of(await operators.get(KEYS))) == 6
            assert len(ids_of(await operators.get(KEYS, params={"tenant_id": "rival"}))) == 1

    async def test_nobody_hands_on_what_he_may_not(self, admitted: Admitted) -> None:
        strong = await admitted.key("acme")
        async with admitted.http(await admitted.key("acme", permissions=["admin", "read"])) as http:
            for permission in ("write", "erase", "metrics"):
                asked = {"name": "k", "permissions": ["read", permission]}
                problem(await http.post(KEYS, json=asked), 403, "insufficient_scope")
            problem(await http.post(f"{KEYS}/{key_id_of(strong)}/rotate", json={}), 403, "insufficient_scope")
            assert (await told(http, KEYS, name="k", permissions=["read", "admin"]))["key"]
            assert (await http.delete(f"{KEYS}/{key_id_of(strong)}")).status_code == 200  # to take away is no gain

    async def test_who_is_bound_to_a_user_makes_none(self, admitted: Admitted) -> None:
        for tenant_id in ("acme", "default"):
            key = await admitted.key(tenant_id, "ana")
            async with admitted.http(key) as http:
                asked = {"name": "k", "permissions": ["read"], "user_id": "ana"}
                problem(await http.post(KEYS, json=asked), 403, "scope_mismatch")
                problem(await http.get(KEYS), 403, "scope_mismatch")
                problem(await http.delete(f"{KEYS}/{key_id_of(key)}"), 403, "scope_mismatch")
                problem(await http.post(f"{KEYS}/{key_id_of(key)}/rotate", json={}), 403, "scope_mismatch")

    async def test_a_key_ends_when_it_was_said_to(self, admitted: Admitted) -> None:
        async with admitted.http(await admitted.key()) as http:
            made = await told(http, KEYS, name="k", permissions=["metrics"], expires_in_days=0.5)
            async with admitted.http(made["key"]) as guest:
                admitted.clock.advance(hours=11.99)
                assert (await guest.get(STATS)).status_code == 200
                admitted.clock.advance(hours=0.01)
                problem(await guest.get(STATS), 401, "unauthenticated")
            rotated = await told(http, KEYS, name="k", permissions=["metrics"])
            then = await told(http, f"{KEYS}/{rotated['key_id']}/rotate", overlap_hours=1)
            async with admitted.http(rotated["key"]) as old, admitted.http(then["key"]) as new:
                assert (await old.get(STATS)).status_code == 200
                admitted.clock.advance(hours=1)
                problem(await old.get(STATS), 401, "unauthenticated")
                assert (await new.get(STATS)).status_code == 200

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""},
            {"name": "a\nb"},
            {"permissions": []},
            {"permissions": ["all"]},
            {"permissions": "read"},
            {"tenant_id": "~knowledge"},
            {"user_id": "a b"},
            {"expires_in_days": 0},
            {"expires_in_days": 10**6},
            {"digest": "0"},
            {"created_at": "2026-01-01T00:00:00Z"},
        ],
    )
    async def test_what_is_not_in_order_makes_no_key(self, admitted: Admitted, wrong: dict[str, Any]) -> None:
        """S29"""
        async with admitted.http(await admitted.key()) as http:
            answer = await http.post(KEYS, json={"name": "k", "permissions": ["read"], **wrong})
            assert answer.status_code == 422, answer.text
            assert answer.json()["code"] in ("validation_failed", "invalid_id", "invalid_character")
            own = ids_of(await http.get(KEYS))
            assert len(own) == 1
            for body in ({"overlap_hours": -1}, {"key_id": "x"}, {"overlap_hours": "1"}):
                assert (await http.post(f"{KEYS}/{own[0]}/rotate", json=body)).status_code == 422
            assert (await http.post(f"{KEYS}/a%20b/rotate", json={})).status_code == 422
            assert (await http.delete(f"{KEYS}/a%20b")).status_code == 422
            assert ids_of(await http.get(KEYS)) == own

    async def test_no_key_is_in_the_log(self, admitted: Admitted, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG", "memory_service")
        async with admitted.http(await admitted.key()) as http:
            made = await told(http, KEYS, name="k", permissions=["read"])
            await http.delete(f"{KEYS}/{made['key_id']}")
            async with admitted.http(made["key"]) as guest:
                await guest.get(STATS)
        logged = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
        assert "an API key was created" in logged
        assert "an API key was revoked" in logged
        assert made["key_id"] in logged
        assert made["key"].split("_")[2] not in logged

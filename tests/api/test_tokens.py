"""Tokens of an identity provider: which are right, what they allow; and a provider that is slow, away, or has new keys.

Against a provider over real HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from memory_service.app import create_app
from memory_service.errors import UnsafeStart
from memory_service.jwks import FETCH_S, KEPT_S, REST_S
from memory_service.settings import Settings
from tests.api.conftest import Serve
from tests.api.talking import INSIGHTS, SAME, START, STATS, problem
from tests.support.admitted import Admitted, admitting
from tests.support.background import until
from tests.support.identity_provider import RSA_KEYS, IdentityProvider
from tests.support.scripted_http import Answer, Silence

Open = Callable[..., AbstractAsyncContextManager[Admitted]]
ISSUER, AUDIENCE = "https://id.example/acme", "memory"

pytestmark = pytest.mark.only_on("sqlite", "no store has a say in who may what")


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture
def opened(provider: IdentityProvider, make_settings: Callable[..., Settings]) -> Open:
    """A service that takes tokens of the provider; addresses may bring as many wrong ones as they like."""

    def open_with(**changes: Any) -> AbstractAsyncContextManager[Admitted]:
        given = {
            "store_url": "transient://",
            "auth_mode": "jwt",
            "jwt_jwks_url": provider.url,
            "rate_limit_wrong_credentials": 0,
        }
        return admitting(make_settings(**{**given, **changes}))

    return open_with


@pytest.fixture
async def admitted(opened: Open) -> AsyncIterator[Admitted]:
    async with opened() as admitted:
        yield admitted


async def answer_to(admitted: Admitted, token: str, user_id: str = "ana", path: str = INSIGHTS) -> httpx2.Response:
    async with admitted.http(token) as http:
        return await http.post(path, json={"user_id": user_id}, headers=SAME)


async def is_right(admitted: Admitted, token: str) -> bool:
    answer = await answer_to(admitted, token)
    if answer.status_code != 200:
        problem(answer, 401, "unauthenticated")
    return answer.status_code == 200


# Which are right


async def test_a_token_signed_by_any_kind_of_key_of_the_provider_is_right(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    for key_id in ("rsa", "ec", "ed"):
        assert await is_right(admitted, provider.token(key_id))
    assert provider.fetches == 1


async def test_a_token_that_the_provider_did_not_sign_is_refused_however_it_is_made_up(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    """S22: no signature, the public key as a shared secret, another's key, changed claims, another key's name."""
    claims = {"sub": "ana", "tenant_id": "acme", "exp": time.time() + 600}
    public = RSA_KEYS[0].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    right = provider.token()
    head, body, signature = right.split(".")
    for name in ("none", "None", "NONE", "nOnE"):
        for end in ("", signature):
            assert not await is_right(admitted, f"{part({'alg': name, 'kid': 'rsa'})}.{part(claims)}.{end}")
    for name in ("HS256", "HS384", "HS512"):
        assert not await is_right(admitted, by_secret(name, claims, pem))
    assert provider.fetches == 0  # no key is looked for that could make such a signature right
    assert not await is_right(admitted, jwt.encode(claims, RSA_KEYS[1], "RS256", {"kid": "rsa"}))
    assert not await is_right(admitted, jwt.encode(claims, RSA_KEYS[0], "RS256", {"kid": "ec"}))
    assert not await is_right(admitted, jwt.encode(claims, RSA_KEYS[0], "RS256"))  # and no name of a key
    assert not await is_right(admitted, f"{head}.{part({**claims, 'sub': 'ana', 'tenant_id': 'rival'})}.{signature}")
    assert not await is_right(admitted, f"{head}.{body}.{signature[:-4]}AAAA")
    assert await is_right(admitted, right)


async def test_no_key_that_both_know_is_taken_from_the_provider(opened: Open, provider: IdentityProvider) -> None:
    """S22"""
    secret = b"s" * 64
    provider.beside = [
        {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(secret).decode().rstrip("="), "alg": "HS256"},
        {"kty": "RSA", "kid": "broken"},
        {"kid": 7},
        {**provider.told()["keys"][0], "kid": "to encrypt", "use": "enc"},
    ]
    provider.tells()
    claims = {"sub": "ana", "tenant_id": "acme", "exp": time.time() + 600}
    async with opened() as admitted:
        assert await is_right(admitted, provider.token())
        assert not await is_right(admitted, jwt.encode(claims, secret, "HS256", {"kid": "shared"}))
        assert not await is_right(admitted, provider.token(head={"kid": "to encrypt"}))


async def test_times_count_to_a_minute(admitted: Admitted, provider: IdentityProvider) -> None:
    """S22"""
    for claim, seconds, right in (
        ("exp", -50, True),
        ("exp", -70, False),
        ("nbf", 50, True),
        ("nbf", 70, False),
        ("iat", 70, False),
    ):
        token = provider.token(**{claim: time.time() + seconds})
        assert await is_right(admitted, token) is right, (claim, seconds)
    for exp in (None, "soon", 1e400):
        assert not await is_right(admitted, provider.token(exp=exp)), exp


async def test_issuer_and_audience_are_held_to_where_they_are_set(opened: Open, provider: IdentityProvider) -> None:
    """S22"""
    right = {"iss": ISSUER, "aud": AUDIENCE}
    async with opened(jwt_issuer=ISSUER, jwt_audience=f"other, {AUDIENCE}") as admitted:
        for changed, good in (
            ({}, True),
            ({"aud": ["else", AUDIENCE]}, True),
            ({"aud": "other"}, True),
            ({"aud": "else"}, False),
            ({"aud": None}, False),
            ({"iss": f"{ISSUER}/"}, False),
            ({"iss": None}, False),
        ):
            assert await is_right(admitted, provider.token(**{**right, **changed})) is good, changed
    async with opened() as admitted:
        assert await is_right(admitted, provider.token(**right))


async def test_what_is_no_token_at_all_is_refused_and_asks_nobody(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    """S22: 64 KB of token too."""
    deep = base64.urlsafe_b64encode(b"[" * 11_000).decode().rstrip("=")
    long = provider.token(padding="x" * 64_000)
    rather_long = provider.token(padding="x" * 13_000)
    for text in (
        long,
        rather_long,
        f"{deep}.{deep}.{deep}",
        "a.b.c",
        "..",
        "é.é.é",
        "{}",
        part({"alg": "RS256"}) + "..",
    ):
        assert not await is_right(admitted, text), text[:40]
    assert provider.fetches == 0
    assert await is_right(admitted, provider.token(padding="x" * 10_000))


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def by_secret(name: str, claims: dict[str, Any], secret: bytes) -> str:
    """PyJWT itself refuses to do this."""
    algorithm: Any = jwt.algorithms.get_default_algorithms()[name]
    said = f"{part({'alg': name, 'kid': 'rsa'})}.{part(claims)}".encode()
    signature = base64.urlsafe_b64encode(algorithm.sign(said, secret)).decode().rstrip("=")
    return f"{said.decode()}.{signature}"


# What they allow


async def test_a_users_token_is_bound_to_them_and_to_their_tenant(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    token = provider.token()
    assert (await answer_to(admitted, token, path=START)).status_code == 200
    problem(await answer_to(admitted, token, user_id="bob"), 403, "scope_mismatch")
    async with admitted.http(token) as http:
        problem(await http.get(STATS), 403, "insufficient_scope")
    assert [scope.tenant_id for scope in (await admitted.service._store.users()).scopes] == ["acme"]


async def test_a_tenant_never_comes_from_a_claim_that_is_not_there(opened: Open, provider: IdentityProvider) -> None:
    async with opened() as admitted:
        for tenant in (None, "", 7, ["acme"], "a b", "~knowledge", "a|b", "x" * 201, {"tenant": "acme"}):
            assert not await is_right(admitted, provider.token(tenant_id=tenant)), tenant
        for user in ("", "a b", "~knowledge", "auth0|7"):
            assert not await is_right(admitted, provider.token(sub=user)), user
    async with opened(jwt_tenant="fixed") as admitted:
        for tenant in (None, "acme", 7):
            assert await is_right(admitted, provider.token(tenant_id=tenant))
        await answer_to(admitted, provider.token(), path=START)
        assert [scope.tenant_id for scope in (await admitted.service._store.users()).scopes] == ["fixed"]


async def test_claims_of_other_names_say_tenant_and_user(opened: Open, provider: IdentityProvider) -> None:
    async with opened(jwt_tenant_claim="tid", jwt_user_claim="oid") as admitted:
        assert await is_right(admitted, provider.token(tid="acme", oid="ana", sub="auth0|7", tenant_id=None))
        assert not await is_right(admitted, provider.token())


async def test_a_client_that_acts_for_itself_is_bound_to_no_user(opened: Open, provider: IdentityProvider) -> None:
    async with opened(jwt_service_clients="agents, jobs") as admitted:
        for claims in ({"client_id": "agents"}, {"azp": "jobs", "client_id": "web"}, {"azp": "agents", "sub": "a b"}):
            for user_id in ("ana", "bob"):
                answer = await answer_to(admitted, provider.token(**claims), user_id)
                assert answer.status_code == 200, claims
            async with admitted.http(provider.token(tenant_id="default", **claims)) as http:
                assert (await http.get(STATS)).status_code == 200
                problem(await http.get("/keys"), 403, "insufficient_scope")
        for claims in ({"client_id": "web"}, {"azp": "agents,jobs"}, {"client_id": ["agents"]}, {"azp": ""}):
            problem(await answer_to(admitted, provider.token(**claims), "bob"), 403, "scope_mismatch")


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({"scope": "openid memory:read email"}, {INSIGHTS}),
        ({"scp": "memory:write"}, {START}),
        ({"scp": ["memory:read", 7, "memory:write"]}, {INSIGHTS, START}),
        ({"scope": "memory:all memory: read write"}, {INSIGHTS, START}),  # none of ours is named
        ({"scope": "memory:metrics"}, set()),
        ({"scope": 7, "scp": {"memory:metrics": 1}}, {INSIGHTS, START}),
    ],
)
async def test_scopes_say_what_a_token_may_where_they_name_anything_of_ours(
    admitted: Admitted, provider: IdentityProvider, claims: dict[str, Any], allowed: set[str]
) -> None:
    for path in (INSIGHTS, START):
        answer = await answer_to(admitted, provider.token(**claims), path=path)
        if path in allowed:
            assert answer.status_code == 200, answer.text
        else:
            problem(answer, 403, "insufficient_scope")


@pytest.mark.parametrize(
    ("told", "granted"),
    [
        ({"research": "read write"}, {INSIGHTS, START}),
        ({"research": ["read"]}, {INSIGHTS}),
        ({"research": " write  erase "}, {START}),
        ({"research": "erase", "other": ["read", "write"]}, set()),
    ],
)
async def test_a_claim_says_what_a_token_may_in_which_spaces(
    admitted: Admitted, provider: IdentityProvider, told: dict[str, Any], granted: set[str]
) -> None:
    token = provider.token(memory_spaces=told)
    for path in (INSIGHTS, START):
        if path in granted:
            assert (await answer_to(admitted, token, "space:research", path)).status_code == 200
        else:
            problem(await answer_to(admitted, token, "space:research", path), 403, "insufficient_scope")
    problem(await answer_to(admitted, token, "space:unknown"), 403, "scope_mismatch")
    assert await is_right(admitted, token)


@pytest.mark.parametrize(
    ("scope", "read", "written"),
    [
        ("memory:read", "", "insufficient_scope"),
        ("memory:write memory:metrics", "insufficient_scope", ""),
        ("memory:erase", "insufficient_scope", "insufficient_scope"),
        ("openid memory:metrics", "insufficient_scope", "insufficient_scope"),
        ("openid profile", "", ""),
    ],
)
async def test_scopes_bound_what_a_token_may_in_spaces_too(
    admitted: Admitted, provider: IdentityProvider, scope: str, read: str, written: str
) -> None:
    token = provider.token(scope=scope, memory_spaces={"research": "read write erase"})
    for path, refused in ((INSIGHTS, read), (START, written)):
        answer = await answer_to(admitted, token, "space:research", path)
        assert (answer.status_code, answer.json().get("code", "")) == ((403, refused) if refused else (200, ""))


async def test_a_space_where_scopes_leave_a_token_nothing_is_none_of_its(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    token = provider.token(scope="memory:read", memory_spaces={"research": "read", "board": "write erase"})
    assert (await answer_to(admitted, token, "space:research", INSIGHTS)).status_code == 200
    problem(await answer_to(admitted, token, "space:board", INSIGHTS), 403, "scope_mismatch")


async def test_a_token_whose_spaces_are_not_in_order_is_refused(opened: Open, provider: IdentityProvider) -> None:
    async with opened() as admitted:
        for told in (
            "research",
            "",
            ["research"],
            [],
            7,
            0,
            True,
            False,
            {"a b": "read"},
            {"a:b": "read"},
            {"": "read"},
        ):
            assert not await is_right(admitted, provider.token(memory_spaces=told)), told
        for words in ("", "admin", "read admin", "metrics", "read,write", [], ["read write"], ["read", 7], [["read"]]):
            assert not await is_right(admitted, provider.token(memory_spaces={"research": words})), words
        for granted in (None, {}, 7):
            assert not await is_right(admitted, provider.token(memory_spaces={"research": granted})), granted
        for none in ({}, None):
            assert await is_right(admitted, provider.token(memory_spaces=none, spaces={"a": 7}))
        for user in ("space:research", "space:", "space:a:b"):
            assert not await is_right(admitted, provider.token(sub=user)), user
    async with opened(jwt_spaces_claim="groups") as admitted:
        token = provider.token(groups={"research": "read"}, memory_spaces={"other": "read"})
        assert (await answer_to(admitted, token, "space:research")).status_code == 200
        problem(await answer_to(admitted, token, "space:other"), 403, "scope_mismatch")


async def test_keys_are_taken_beside_tokens(admitted: Admitted, provider: IdentityProvider) -> None:
    assert await is_right(admitted, await admitted.key("acme"))
    assert not await is_right(admitted, "mem_nokey000_" + "a" * 42)
    assert provider.fetches == 0


# The provider


async def test_unknown_keys_make_one_fetch_in_half_a_minute(admitted: Admitted, provider: IdentityProvider) -> None:
    """S22"""
    provider.keys["new"] = ("ES256", ec.generate_private_key(ec.SECP256R1()))
    unknown = [provider.token("new", head={"kid": f"kid{number}"}) for number in range(1000)]
    before = await asyncio.gather(*(is_right(admitted, token) for token in unknown))
    assert not any(before)
    assert provider.fetches == 1
    provider.tells()
    assert not await is_right(admitted, provider.token("new"))
    admitted.clock.advance(seconds=REST_S - 0.1)
    assert not await is_right(admitted, provider.token("new"))
    assert provider.fetches == 1
    admitted.clock.advance(seconds=0.1)
    assert await is_right(admitted, provider.token("new"))
    assert provider.fetches == 2


async def test_known_keys_are_looked_after_beside_the_requests_and_one_that_is_gone_counts_no_more(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    token = provider.token("ec")
    assert await is_right(admitted, token)
    admitted.clock.advance(seconds=KEPT_S - 1)
    assert await is_right(admitted, token)
    assert provider.fetches == 1
    del provider.keys["ec"]
    provider.tells()
    admitted.clock.advance(seconds=1)
    assert await is_right(admitted, token)  # while it is asked
    await until(lambda: provider.fetches == 2)
    await until(lambda: is_refused(admitted, token))
    assert await is_right(admitted, provider.token("rsa"))


async def is_refused(admitted: Admitted, token: str) -> bool:
    return not await is_right(admitted, token)


async def test_while_the_provider_is_away_known_keys_work_and_unknown_ones_are_told_to_wait(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    """S23"""
    known, unknown = provider.token(), provider.token(head={"kid": "unknown"})
    assert await is_right(admitted, known)
    provider.tells(Answer(status=500), Answer(content="<html>"), Answer(content={"keys": 7}))
    for away in range(3):
        admitted.clock.advance(seconds=KEPT_S)
        answer = await answer_to(admitted, unknown)
        problem(answer, 503, "identity_provider_unavailable")
        assert answer.headers["retry-after"] == str(round(REST_S))
        admitted.clock.advance(seconds=20)
        answer = await answer_to(admitted, unknown)
        assert answer.headers["retry-after"] == str(round(REST_S - 20))
        assert await is_right(admitted, known)
        assert provider.fetches == 2 + away
    admitted.clock.advance(seconds=REST_S)
    problem(await answer_to(admitted, unknown), 401, "unauthenticated")


async def test_a_provider_that_hangs_holds_up_nobody_who_does_not_need_it(
    admitted: Admitted, provider: IdentityProvider
) -> None:
    """S23: meanwhile others are answered at once; who needs it hears so in time."""
    known, unknown = provider.token(), provider.token(head={"kid": "unknown"})
    assert await is_right(admitted, known)
    provider.tells(Silence())
    admitted.clock.advance(seconds=KEPT_S)
    began = time.monotonic()
    waiting = asyncio.create_task(answer_to(admitted, unknown))
    await until(lambda: provider.fetches == 2)
    for _ in range(20):
        assert await is_right(admitted, known)
    assert not waiting.done()
    problem(await waiting, 503, "identity_provider_unavailable")
    assert time.monotonic() - began < FETCH_S + 5
    assert provider.fetches == 2


async def test_a_service_that_ends_does_not_wait_for_the_provider(
    opened: Open, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_service.jwks.FETCH_S", 30.0)
    provider.tells(Silence())
    async with opened() as admitted:
        waiting = asyncio.create_task(answer_to(admitted, provider.token()))
        await until(lambda: provider.fetches == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    await asyncio.wait([waiting])


async def test_over_a_real_server(serve: Serve, provider: IdentityProvider) -> None:
    url = await serve(auth_mode="jwt", jwt_jwks_url=provider.url)
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        for token, status in ((provider.token(), 200), (provider.token(exp=1), 401)):
            given = {"Authorization": f"Bearer {token}"}
            answer = await http.post(START, json={"user_id": "ana"}, headers=given)
            assert answer.status_code == status
        problem(await http.post(START, json={"user_id": "ana"}), 401, "unauthenticated")
        huge = {"Authorization": f"Bearer {provider.token(padding='x' * 64_000)}"}
        problem(await http.post(START, json={"user_id": "ana"}, headers=huge), 431, "headers_too_large")


# The start


def test_a_start_without_what_is_needed_says_what_is_missing(make_settings: Callable[..., Settings]) -> None:
    for changes, said in (
        ({}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "file:///keys"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "https://id.example/keys", "jwt_tenant": "a b"}, "JWT_TENANT"),
    ):
        with pytest.raises(UnsafeStart, match=said):
            create_app(make_settings(auth_mode="jwt", **changes))


def test_where_the_extra_is_not_installed_the_start_names_it(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("memory_service.api.tokens", "memory_service.jwks", "jwt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(UnsafeStart, match=r"agent-memory-service\[jwt\]"):
        create_app(make_settings(auth_mode="jwt", jwt_jwks_url="https://id.example/keys"))

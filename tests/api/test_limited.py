"""Who asks too much, or guesses, is told when to come again; nobody else feels it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from memory_service.keys import _check_of
from memory_service.settings import Settings
from tests.api.conftest import Serve
from tests.api.talking import RETRIEVE, START, problem
from tests.support.admitted import Admitted, admitting, key_id_of

PROBES = ("/health", "/livez", "/readyz", "/")

pytestmark = pytest.mark.only_on("sqlite", "no store has a say in how much is asked")


def guess(number: int) -> str:
    """A key in its form, of nobody."""
    stem = f"mem_{number:08}_{'A' * 36}"
    return stem + _check_of(stem)


async def start(http: httpx2.AsyncClient) -> httpx2.Response:
    return await http.post(START, json={"user_id": "ana", "session_id": "s"})


def wait_of(response: httpx2.Response) -> int:
    problem(response, 429, "rate_limited")
    return int(response.headers["retry-after"])


@pytest.fixture
async def admitted(make_settings: Callable[..., Settings]) -> AsyncIterator[Admitted]:
    """A credential may 2 requests a second, a tenant 3; that is 4 and 6 at once."""
    limits = {"rate_limit_per_credential": 2, "rate_limit_per_tenant": 3}
    async with admitting(make_settings(store_url="transient://", auth_mode="keys", **limits)) as admitted:
        yield admitted


async def test_a_credential_that_asks_too_much_waits_and_the_wait_it_is_told_is_right(admitted: Admitted) -> None:
    """S68"""
    async with admitted.http(await admitted.key("acme")) as http:
        assert [(await start(http)).status_code for _ in range(4)] == [200] * 4
        assert wait_of(await start(http)) == 1
        admitted.clock.advance(seconds=0.49)
        assert wait_of(await start(http)) == 1
        admitted.clock.advance(seconds=0.51)
        assert [(await start(http)).status_code for _ in range(3)] == [200, 200, 429]


async def test_a_search_counts_as_two_and_what_is_refused_for_want_of_a_permission_counts_too(
    admitted: Admitted,
) -> None:
    async with admitted.http(await admitted.key("acme", permissions=["read"])) as http:
        search = {"user_id": "ana", "query": "boat"}
        assert (await http.post(RETRIEVE, json=search)).status_code == 200
        problem(await start(http), 403, "insufficient_scope")
        assert wait_of(await http.post(RETRIEVE, json=search)) == 1
        problem(await start(http), 403, "insufficient_scope")
        wait_of(await start(http))


async def test_a_tenant_shares_its_limit_and_others_are_as_before(admitted: Admitted) -> None:
    one, other, foreign = [await admitted.key(tenant) for tenant in ("acme", "acme", "rival")]
    async with admitted.http(one) as first, admitted.http(other) as second, admitted.http(foreign) as rival:
        assert [(await start(first)).status_code for _ in range(4)] == [200] * 4
        assert [(await start(second)).status_code for _ in range(3)] == [200, 200, 429]
        assert (await start(rival)).status_code == 200


async def test_probes_are_never_limited(admitted: Admitted) -> None:
    async with admitted.http(await admitted.key()) as http, admitted.http("wrong") as wrong:
        for one in (http, wrong):
            for _ in range(30):
                await start(one)
            assert (await start(one)).status_code == 429
            for path in PROBES:
                assert {(await one.get(path)).status_code for _ in range(30)} == {200}


async def test_who_guesses_keys_is_told_to_wait_and_right_keys_elsewhere_are_served(admitted: Admitted) -> None:
    """S28: a thousand wrong keys in a minute, from one address."""
    key, told = await admitted.key("acme"), []
    for number in range(1000):
        async with admitted.http(guess(number), "192.0.2.1") as http:
            answer = await http.get("/stats")
        told.append(answer.status_code)
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "1"
        admitted.clock.advance(seconds=0.06)
    assert told[:20] == [401] * 20
    assert told.count(401) in range(79, 82)  # twenty at once, and one for each second
    assert set(told) == {401, 429}
    async with admitted.http(key, "192.0.2.2") as elsewhere:
        assert (await start(elsewhere)).status_code == 200


async def test_a_key_that_was_right_a_moment_ago_is_served_beside_one_who_guesses(admitted: Admitted) -> None:
    """Behind a proxy all callers have one address."""
    async with admitted.http(await admitted.key("acme")) as right, admitted.http(guess(1)) as wrong:
        assert (await start(right)).status_code == 200
        for _ in range(30):
            await wrong.get("/stats")
        wait_of(await wrong.get("/stats"))
        for seconds in (0.1, 10, 0.1):  # also when it has to be asked for again
            admitted.clock.advance(seconds=seconds)
            for _ in range(20):
                await wrong.get("/stats")
            wait_of(await wrong.get("/stats"))
            assert (await start(right)).status_code == 200


async def test_a_request_without_any_credential_is_no_guess(admitted: Admitted) -> None:
    async with admitted.http() as http:
        assert {(await http.get("/stats")).status_code for _ in range(50)} == {401}


async def test_revoked_keys_count_as_guesses_and_neighbours_share_an_address_of_ip_version_6(
    admitted: Admitted,
) -> None:
    revoked = await admitted.key()
    await admitted.service.keys.revoke(await admitted.service.keys.get(key_id_of(revoked)))
    told = []
    for number in range(30):
        async with admitted.http(revoked, f"2001:db8:1:2::{number:x}") as http:
            told.append((await http.get("/stats")).status_code)
    assert told == [401] * 20 + [429] * 10
    for elsewhere in ("2001:db8:1:3::1", "::ffff:192.0.2.9", "192.0.2.8", "fe80::1%eth0"):
        async with admitted.http(revoked, elsewhere) as http:
            assert (await http.get("/stats")).status_code == 401


async def test_who_guesses_gets_no_further_by_saying_it_is_for_others(serve: Serve) -> None:
    """S28: over a real server, which would know from whom a request was forwarded if it believed it."""
    url = await serve(auth_mode="keys", store_url="transient://")
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        told = []
        for number in range(30):
            headers = {
                "X-API-Key": guess(number),
                "X-Forwarded-For": f"192.0.2.{number}",
                "Forwarded": f"for=_{number}",
            }
            told.append((await http.get("/stats", headers=headers)).status_code)
    assert told[:20] == [401] * 20
    assert 429 in told


async def test_without_limits_nobody_waits(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(store_url="transient://", auth_mode="keys", rate_limit_wrong_credentials=0)
    async with admitting(settings) as admitted:
        for credential, status in ((await admitted.key(), 200), (guess(1), 401)):
            async with admitted.http(credential) as http:
                assert {(await http.get("/stats")).status_code for _ in range(100)} == {status}


def fields(answer: httpx2.Response) -> dict[str, str | None]:
    return {name: answer.headers.get(name) for name in ("ratelimit-policy", "ratelimit")}


async def test_each_answer_tells_what_there_is_left_and_when_there_is_more(admitted: Admitted) -> None:
    """S68: whatever is answered, and until it is full again."""
    policy = '"credential";q=4;w=2, "tenant";q=6;w=2'
    async with admitted.http(await admitted.key("acme")) as http:
        for ask, status, left in (
            (start(http), 200, '"credential";r=3;t=1, "tenant";r=5;t=1'),
            (http.get("/memories"), 422, '"credential";r=2;t=1, "tenant";r=4;t=1'),
            (http.get("/users/nobody/export"), 404, '"credential";r=1;t=1, "tenant";r=3;t=1'),
            (http.get("/users/ana/export"), 200, '"credential";r=0;t=1, "tenant";r=2;t=1'),
            (start(http), 429, '"credential";r=0;t=1, "tenant";r=2;t=1'),
        ):
            answer = await ask
            assert (answer.status_code, fields(answer)) == (status, {"ratelimit-policy": policy, "ratelimit": left})
        admitted.clock.advance(seconds=100)
        search = await http.post(RETRIEVE, json={"user_id": "ana", "query": "boat"})
        assert fields(search)["ratelimit"] == '"credential";r=2;t=1, "tenant";r=4;t=1'
        async with admitted.http(await admitted.key("acme")) as other:
            assert fields(await other.get("/keys"))["ratelimit"] == '"credential";r=3;t=1, "tenant";r=3;t=1'


async def test_who_is_not_limited_or_not_known_is_told_of_no_limit(
    admitted: Admitted, make_settings: Callable[..., Settings]
) -> None:
    nothing = {"ratelimit-policy": None, "ratelimit": None}
    async with admitted.http(await admitted.key()) as http, admitted.http(guess(1)) as wrong:
        for path in PROBES:
            assert fields(await http.get(path)) == nothing
        assert fields(await http.get("/nowhere")) == nothing
        told = [await wrong.get("/stats") for _ in range(30)]
        assert {answer.status_code for answer in told} == {401, 429}
        assert [answer for answer in told if fields(answer) != nothing] == []
    none = make_settings(store_url="transient://")
    async with admitting(none) as unlimited, unlimited.http(Host="localhost") as http:
        assert fields(await start(http)) == nothing
    only = make_settings(store_url="transient://", rate_limit_per_tenant=0.3)
    async with admitting(only) as few, few.http(Host="localhost") as http:
        assert fields(await start(http)) == {"ratelimit-policy": '"tenant";q=1;w=4', "ratelimit": '"tenant";r=0;t=4'}
        refused = await start(http)
        assert (fields(refused)["ratelimit"], wait_of(refused)) == ('"tenant";r=0;t=4', 4)

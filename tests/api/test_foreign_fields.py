"""What a request may not say is refused on every route, not overlooked: whose it is, what it is worth, where to call.

The routes, and a request of each that is in order, are those of test_credentials.py.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
from msgspec.structs import fields

from memory_service.api.endpoint import WITH_BODY, Verb
from memory_service.api.gateway import GATEWAY
from memory_service.settings import Settings
from tests.api.talking import SAME, START, STORE, problem, told
from tests.api.test_credentials import A_FILE, CLOSED, ROUTES, Names, ask, name_of, path_of
from tests.support.admitted import Admitted, admitting
from tests.support.background import settled

CALLERS_MAY_NOT_SAY = (
    "tenant",
    "tenant_id",
    "owner",
    "trust",
    "source",
    "role",
    "created_at",
    "incarnation",
    "version",
    "edited",
)
URLS = ("webhook", "callback_url", "base_url")
"""S33"""
MAY_BE_SAID = {
    ("create_key", "tenant_id"),  # of operators, for whom
    ("list_keys", "tenant_id"),
    ("store_turn", "created_at"),  # when it was said
}
"""What is a field of its own of a route; whoever adds one says so here."""
TAKES_NOTHING = {"list_drivers", "stats"}
"""Nothing in these requests chooses anything, so there is nothing that could be meant by a query."""
FREE_FORM = {"metadata", "profile", "patch"}
NAMES = Names(user="ana", session="s")

pytestmark = pytest.mark.only_on("sqlite", "what a request may say is decided before any store")

OURS = [
    verb for verb in CLOSED if verb not in GATEWAY
]  # the gateway ignores what it does not know, as the original does
WITH_JSON = [verb for verb in OURS if verb.method in WITH_BODY and not verb.of_file]
WITH_QUERY = [verb for verb in OURS if verb not in WITH_JSON]


class Wrong(NamedTuple):
    """A body that is in order but for one field more."""

    verb: Verb
    place: str
    body: dict[str, Any]


@pytest.fixture
async def admitted(make_settings: Callable[..., Settings]) -> AsyncIterator[Admitted]:
    async with admitting(make_settings(auth_mode="keys")) as admitted:
        yield admitted


async def everything(admitted: Admitted) -> list[Any]:
    """What is kept, of whomever, and how often anything was written."""
    await settled(admitted.service)
    store = admitted.service._store
    return [admitted.service.stats()["store"]["commits"], (await store.users()).scopes, await store.keys(None)]


def objects_in(body: Any, place: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """The body itself and each object in it whose fields are ours."""
    if isinstance(body, dict):
        yield place, body
        for name, value in body.items():
            if name not in FREE_FORM:
                yield from objects_in(value, f"{place}.{name}")
    if isinstance(body, list):
        for number, value in enumerate(body):
            yield from objects_in(value, f"{place}[{number}]")


def declared(verb: Verb) -> set[str]:
    return {field.encode_name for field in fields(verb.takes)} if verb.takes else set()


def wrong_bodies(verb: Verb) -> Iterator[Wrong]:
    right = ROUTES[name_of(verb)].sends(NAMES)
    for place, _ in objects_in(right):
        for name in (*CALLERS_MAY_NOT_SAY, *URLS):
            body = copy.deepcopy(right)
            one = dict(objects_in(body))[place]
            if place == "$" and (name_of(verb), name) in MAY_BE_SAID:
                continue
            yield Wrong(verb, f"{place}.{name}", body)
            one[name] = "acme"


def test_no_route_takes_what_callers_may_not_say() -> None:
    """S29, S33"""
    said = {(name_of(verb), name) for verb in OURS for name in declared(verb)}
    assert {(route, name) for route, name in said if name in (*CALLERS_MAY_NOT_SAY, *URLS)} == MAY_BE_SAID


async def test_a_body_that_says_it_all_the_same_is_refused_and_nothing_is_stored(admitted: Admitted) -> None:
    """S29, S33: on every route, and in every object of its body."""
    tried: list[Wrong] = [wrong for verb in WITH_JSON for wrong in wrong_bodies(verb)]
    assert "$.memories[0].trust" in {wrong.place for wrong in tried}
    async with admitted.http(await admitted.key()) as http:
        await told(http, START, user_id="ana", session_id="s")
        await told(http, STORE, user_id="ana", session_id="s", user_message="Hm.", agent_message="")
        before = await everything(admitted)
        for verb, place, body in tried:
            answer = await http.request(verb.method, path_of(verb, NAMES), json=body, headers=SAME)
            assert answer.status_code == 422, f"{name_of(verb)} {place}: {answer.text}"
            assert "acme" not in problem(answer, 422, "validation_failed")["detail"]
        assert await everything(admitted) == before
        for verb in WITH_JSON:
            answer = await ask(http, verb, NAMES)
            assert answer.status_code in (200, 404), (
                f"but for that field it was in order: {name_of(verb)} {answer.text}"
            )


async def test_a_query_with_a_name_that_is_not_known_is_refused_and_nothing_is_erased(admitted: Admitted) -> None:
    """S29, S33: a slip of the pen (`usr_id`) must not choose something else."""
    async with admitted.http(await admitted.key()) as http:
        await told(http, START, user_id="ana", session_id="s")
        await told(http, STORE, user_id="ana", session_id="s", user_message="Hm.", agent_message="")
        before = await everything(admitted)
        for verb in WITH_QUERY:
            if name_of(verb) in TAKES_NOTHING:
                continue
            for name in ("usr_id", "User_id", "user_id[]", *CALLERS_MAY_NOT_SAY, *URLS):
                if (name_of(verb), name) not in MAY_BE_SAID:
                    await refused(http, verb, {**right_query(verb), name: "acme"})
        assert await everything(admitted) == before


async def test_a_query_that_says_something_twice_is_refused(admitted: Admitted) -> None:
    """Which of the two is meant? Proxies and servers do not agree on it."""
    async with admitted.http(await admitted.key()) as http:
        await told(http, START, user_id="ana", session_id="s")
        before = await everything(admitted)
        for verb in WITH_QUERY:
            for name, value in right_query(verb).items():
                await refused(http, verb, [*right_query(verb).items(), (name, value)])
                await refused(http, verb, [(name, "bob"), *right_query(verb).items()])
        assert await everything(admitted) == before


async def test_a_body_is_all_that_is_said_there_is_no_query_beside_it(admitted: Admitted) -> None:
    """`?dry_run=true` beside a body would be overlooked."""
    async with admitted.http(await admitted.key()) as http:
        await told(http, START, user_id="ana", session_id="s")
        before = await everything(admitted)
        for verb in WITH_JSON:
            body = ROUTES[name_of(verb)].sends(NAMES)
            for query in ({"user_id": "ana"}, {"dry_run": "true"}, {"tenant_id": "acme"}):
                answer = await http.request(verb.method, path_of(verb, NAMES), json=body, params=query)
                assert answer.status_code == 422, f"{name_of(verb)} {query}: {answer.text}"
        assert await everything(admitted) == before


def right_query(verb: Verb) -> dict[str, Any]:
    return ROUTES[name_of(verb)].sends(NAMES)


async def refused(http: httpx2.AsyncClient, verb: Verb, query: Any) -> None:
    file: dict[str, Any] = {"content": A_FILE} if verb.of_file else {}
    headers = {**SAME, "Content-Type": "application/x-ndjson"} if verb.of_file else SAME
    answer = await http.request(verb.method, path_of(verb, NAMES), params=query, headers=headers, **file)
    assert answer.status_code == 422, f"{name_of(verb)} {query}: {answer.status_code}"
    problem(answer, 422, answer.json()["code"])

"""Every route with every credential: what it demands, and that no answer holds a word of anybody else.

A route that is new must be told of in ROUTES: what it needs, whose it is, and a request of it that is in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2
import pytest

from memory_service.access import OF_MEMORY, PERMISSIONS, OfMemory, Permission
from memory_service.api.endpoint import WITH_BODY, Verb
from memory_service.api.routes import VERBS
from memory_service.settings import Settings
from memory_service.stores.exports import Exported
from memory_service.user_files import Foot, Head, line_of
from tests.api.talking import SAME, problem
from tests.support.admitted import Admitted, admitting, key_id_of
from tests.support.background import settled
from tests.support.values import a_session

KEYS = {"store_url": "transient://", "auth_mode": "keys", "rate_limit_wrong_credentials": 0}
ALL_KINDS = ["message", "chunk", "summary", "insight", "memory", "episode", "knowledge", "profile"]


class Names(NamedTuple):
    """What a request names."""

    user: str = "ana"
    session: str = "s"
    doc: str = "leave/policy"
    memory: str = "m1"
    message: str = "m1"
    key: str = "nokey000"
    tenant: str = "acme"


class Route(NamedTuple):
    """`of`: whose it is about. `sends`: body, or query; the fields of the path are filled in by their names."""

    needs: Permission
    of: str
    sends: Callable[[Names], dict[str, Any]]


def of_session(**more: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda names: {"user_id": names.user, "session_id": names.session, **more}


def of_user(**more: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda names: {"user_id": names.user, **more}


def of_nobody(**more: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda names: more


def of_context(**more: Any) -> Callable[[Names], dict[str, Any]]:
    messages = [{"role": "user", "text": "Hm."}]
    return lambda names: {
        "session_context": {"user_id": names.user, "session_id": names.session, "messages": messages},
        **{name: getattr(names, of) for name, of in more.items()},
    }


QUESTION = {"query": "Where is the boat, what are the rules of leave?", "top_k": 100}
TURN = {"user_message": "Hm.", "agent_message": "Hm."}
PIECE = {"content": "There is no leave.", "category": "policies"}

ROUTES = {
    "start_session": Route("write", "user", of_session(include_knowledge=20, query="leave")),
    "end_session": Route("write", "user", of_session()),
    "reflection": Route("read", "user", of_user()),
    "reflections": Route("read", "tenant", of_nobody(state="done")),
    "replay": Route("write", "user", of_session()),
    "get_context": Route("read", "user", of_session(include_knowledge=20, query="leave")),
    "store_turn": Route("write", "user", of_session(**TURN)),
    "retrieve": Route("read", "user", of_user(kinds=ALL_KINDS, **QUESTION)),
    "insights": Route("read", "user", of_user()),
    "summaries": Route("read", "user", of_user(limit=1000)),
    "store_messages": Route("write", "user", of_session(messages=[{"role": "user", "content": "Hm."}])),
    "get_messages": Route("read", "user", of_session(latest=100)),
    "get_message": Route("read", "user", of_session()),
    "search_messages": Route("read", "user", of_session(**QUESTION)),
    "get_history": Route("read", "user", of_session(include_context=True)),
    "reset_memory": Route("erase", "user", of_user(agent_id="nobody")),
    "store_memories": Route("write", "user", lambda names: {"memories": [{"user_id": names.user, "content": "Hm."}]}),
    "list_memories": Route("read", "user", of_user()),
    "get_memory": Route("read", "user", of_user()),
    "edit_memory": Route("write", "user", of_user(importance=0.9)),
    "forget": Route("erase", "user", of_user(**QUESTION)),
    "delete_memory": Route("erase", "user", of_user()),
    "get_profile": Route("read", "user", of_nobody()),
    "put_profile": Route("write", "user", of_nobody(profile={"boat": "Hm."})),
    "patch_profile": Route("write", "user", of_nobody(patch={"boat": "Hm."})),
    "delete_profile": Route("erase", "user", of_nobody()),
    "add_episode": Route("write", "user", of_nobody(event_type="inquiry", summary="Hm.")),
    "list_episodes": Route("read", "user", of_nobody(limit="500")),
    "erase_user": Route("erase", "user", of_nobody()),
    "erase_session": Route("erase", "user", of_user()),
    "erase_turn": Route("erase", "user", of_user()),
    "put_in_quarantine": Route("erase", "user", of_user()),
    "let_out": Route("erase", "user", of_user()),
    "export_user": Route("read", "user", of_nobody()),
    "import_user": Route("admin", "user", of_user()),
    "get_session_context": Route("read", "user", of_session()),
    "upsert_session_context": Route("write", "user", of_context()),
    "get_memories": Route("read", "user", of_user(query="boat")),
    "create_memory": Route("write", "user", of_context(user_id="user", session_id="session", agent_id="session")),
    "store_knowledge": Route("write", "all users", lambda names: {"doc_id": names.doc, **PIECE}),
    "recall_knowledge": Route("read", "knowledge", of_nobody(**QUESTION)),
    "delete_knowledge": Route("erase", "all users", of_nobody()),
    "list_drivers": Route("admin", "service", of_nobody()),
    "switch": Route("admin", "service", of_nobody(drivers=[])),
    "rebuild": Route("admin", "service", of_nobody(driver="pgvector")),
    "compare": Route("admin", "service", of_nobody(driver="pgvector")),
    "drop": Route("admin", "service", of_nobody(driver="pgvector")),
    "list_keys": Route("admin", "tenant", of_nobody()),
    "create_key": Route("admin", "tenant", of_nobody(name="new", permissions=["admin"])),
    "rotate_key": Route("admin", "tenant", of_nobody()),
    "revoke_key": Route("admin", "tenant", of_nobody()),
    "stats": Route("metrics", "service", of_nobody()),
}
"""By the name of what serves it: the permission it demands, and `user` (one), `tenant` (all its users, and who may
ask), `all users` (what all of them may know), `knowledge` (the same, to read it) or `service` (all tenants)."""
OPEN = {"health", "live", "ready", "gateway_health"}
LAST = [
    "end_session",
    "delete_memory",
    "delete_profile",
    "let_out",
    "put_in_quarantine",
    "erase_turn",
    "erase_session",
    "erase_user",
    "import_user",
    "delete_knowledge",
    "revoke_key",
]
"""After these others would find less, or more."""
A_FILE = b"".join(map(line_of, [Head(user_id="imported"), Exported(session=a_session()), Foot(things=1)]))

pytestmark = pytest.mark.only_on("sqlite", "no store has a say in who may what")


def name_of(verb: Verb) -> str:
    return verb.handle.__name__


CLOSED = sorted(
    (verb for verb in VERBS if not verb.open),
    key=lambda verb: LAST.index(name_of(verb)) if name_of(verb) in LAST else -1,
)


def path_of(verb: Verb, names: Names) -> str:
    return verb.path.format(
        session_id=names.session,
        user_id=names.user,
        memory_id=names.memory,
        message_id=names.message,
        turn_number=1,
        doc_id=quote(names.doc),
        key_id=names.key,
    )


async def ask(http: httpx2.AsyncClient, verb: Verb, names: Names | None = None) -> httpx2.Response:
    """Send a request that is in order. `X-Request-Id` is always the same, so that answers can be compared."""
    names = names or Names()
    sends = ROUTES[name_of(verb)].sends(names) if not verb.open else {}
    if verb.of_file:
        headers = {**SAME, "Content-Type": "application/x-ndjson"}
        return await http.request(verb.method, path_of(verb, names), headers=headers, params=sends, content=A_FILE)
    given: dict[str, Any] = {"json": sends} if verb.method in WITH_BODY else {"params": sends}
    return await http.request(verb.method, path_of(verb, names), headers=SAME, **given)


def canary(*whose: str) -> str:
    """A word that only they know."""
    return "canary" + "/".join(whose).encode().hex()


async def live(http: httpx2.AsyncClient, tenant_id: str, user_id: str) -> None:
    word, who = canary(tenant_id, user_id), {"user_id": user_id, "session_id": "s"}
    of_m1 = {"user_id": user_id, "memory_id": "m1"}
    texts = (f"My boat is called {word}.", f"I live in {word}.")
    for path, body in (
        ("/sessions/start", {**who, "agent_id": word}),
        *(("/memory/store", {**who, "user_message": text, "agent_message": f"So {word}."}) for text in texts),
        ("/sessions/end", {**who, "wait_s": 20}),
        ("/sessions/start", {**who, "restore": False}),
        ("/memory/store", {**who, "user_message": f"Again {word}, the boat.", "agent_message": ""}),
        ("/messages", {**who, "messages": [{"role": "user", "content": f"So {word} it is.", "message_id": "m1"}]}),
        ("/memories", {"memories": [{**of_m1, "content": f"The boat is {word}.", "tags": [word]}]}),
        (
            "/knowledge",
            {"content": f"The rules of leave: {canary(tenant_id)}.", "category": "p", "doc_id": "leave/policy"},
        ),
        (f"/users/{user_id}/episodes", {"event_type": "dispute", "summary": f"Disputed {word}."}),
        ("/keys", {"name": canary(tenant_id), "permissions": ["read"], "user_id": word}),
    ):
        answer = await http.post(path, json=body)
        assert answer.status_code == 200, answer.text
    answer = await http.put(f"/users/{user_id}/profile", json={"profile": {"boat": word}})
    assert answer.status_code == 200, answer.text


@pytest.fixture
async def inhabited(make_settings: Callable[..., Settings]) -> AsyncIterator[Admitted]:
    """Three tenants, of which two have a user of the same name, the same sessions and the same document."""
    async with admitting(make_settings(**KEYS)) as admitted:
        for tenant_id, user_id in (("acme", "ana"), ("acme", "bob"), ("rival", "ana"), ("default", "ana")):
            async with admitted.http(await admitted.key(tenant_id)) as http:
                await live(http, tenant_id, user_id)
        await settled(admitted.service)
        yield admitted


@pytest.fixture
async def admitted(make_settings: Callable[..., Settings]) -> AsyncIterator[Admitted]:
    async with admitting(make_settings(**KEYS)) as admitted:
        yield admitted


def test_every_route_is_told_of_and_no_other() -> None:
    assert {name_of(verb) for verb in CLOSED} == set(ROUTES)
    assert {name_of(verb) for verb in VERBS if verb.open} == OPEN


async def test_no_credential_that_is_not_right_gets_further_than_the_door_and_all_are_told_the_same(
    admitted: Admitted,
) -> None:
    """S21, S31: whichever is wrong of it, on whichever route, the answer is the same to the byte."""
    keys, clock = admitted.service.keys, admitted.clock
    revoked, expired = await admitted.key(), await admitted.key(lifetime=timedelta(seconds=1))
    await keys.revoke(await keys.get(key_id_of(revoked)))
    clock.advance(seconds=2)
    right, other = await admitted.key(), await admitted.key()
    forged = right[:13] + other[13:]  # somebody else's secret
    headers: list[dict[str, str]] = [
        {},
        *({"Authorization": f"Bearer {text}"} for text in (revoked, expired, forged, right[:-1], "x", "a.b.c", "é")),
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {right}"},
        {"Authorization": right},
        {"Authorization": f"Bearer {right}", "X-API-Key": other},
        {"X-API-Key": revoked},
        {"X-API-Key": ""},
    ]
    refusals = set()
    for number, given in enumerate(headers):
        async with admitted.http(address=f"192.0.2.{number}") as http:
            raw = {name: value.encode("latin-1") for name, value in {**given, **SAME}.items()}
            for verb in CLOSED if number < 2 else CLOSED[:2]:
                path = path_of(verb, Names(doc="d", key="k"))
                answer = await http.request(verb.method, path, content=b"{not json", headers=raw)
                problem(answer, 401, "unauthenticated")
                assert answer.headers["www-authenticate"].startswith("Bearer")
                refusals.add((answer.content, str(sorted(answer.headers.items()))))
            for verb in VERBS:
                if verb.open:
                    assert (await http.get(verb.path, headers=raw)).status_code == 200
    assert len(refusals) == 1, "from the answer nobody can tell what was wrong"


async def test_a_key_is_taken_from_either_header_and_the_scheme_is_written_as_one_likes(admitted: Admitted) -> None:
    key = await admitted.key()
    for given in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        {"X-API-Key": key},
        {"Authorization": f"BEARER {key}", "X-API-Key": key},
        {"Authorization": "Basic Zm9yOnByb3h5", "X-API-Key": key},
    ):
        async with admitted.http(**given) as http:
            assert (await http.get("/stats")).status_code == 200, given


@pytest.mark.parametrize("held", sorted(PERMISSIONS))
async def test_each_route_demands_its_permission_and_no_other(admitted: Admitted, held: Permission) -> None:
    """S26"""
    async with admitted.http(await admitted.key(permissions=[held])) as http:
        for verb in CLOSED:
            answer = await ask(http, verb)
            if ROUTES[name_of(verb)].needs == held:
                assert answer.status_code in (200, 404), f"{name_of(verb)}: {answer.text}"
            else:
                problem(answer, 403, "insufficient_scope")


async def test_all_permissions_but_one_do_not_make_up_for_it(admitted: Admitted) -> None:
    """S26"""
    for lacking in sorted(PERMISSIONS):
        async with admitted.http(await admitted.key(permissions=PERMISSIONS - {lacking})) as http:
            for verb in CLOSED:
                if ROUTES[name_of(verb)].needs == lacking:
                    problem(await ask(http, verb), 403, "insufficient_scope")


GRANTS = [
    *((PERMISSIONS - {held}, frozenset({held})) for held in sorted(OF_MEMORY)),
    *((frozenset({held}), OF_MEMORY - {held}) for held in sorted(OF_MEMORY)),
    (frozenset[Permission]({"admin", "metrics"}), OF_MEMORY),
]
"""What a key of ana may by itself, and in the space of her team."""
TEAM, BOARD = "space:team", "space:board"


@pytest.mark.parametrize(("own", "granted"), GRANTS, ids=lambda some: ",".join(sorted(some)))
async def test_what_is_granted_for_a_space_holds_there_and_nowhere_else_on_each_route(
    admitted: Admitted, own: frozenset[Permission], granted: frozenset[OfMemory]
) -> None:
    """S25, S26: neither of the two makes up for the other, and no other user or space may be named."""
    async with admitted.http(await admitted.key("acme", "ana", permissions=own, spaces={"team": granted})) as http:
        for verb in CLOSED:
            needs, of, _ = ROUTES[name_of(verb)]
            for user in ("ana", TEAM, "bob", BOARD):
                here = granted if (of, user) == ("user", TEAM) else own
                answer = await ask(http, verb, Names(user=user))
                if needs not in own | granted:
                    problem(answer, 403, "insufficient_scope")
                elif of == "user" and user not in ("ana", TEAM):
                    problem(answer, 403, "scope_mismatch")
                elif needs not in here:
                    problem(answer, 403, "insufficient_scope")
                elif of in ("user", "knowledge"):
                    known = (200, 404, 409)  # what is imported is there already
                    assert answer.status_code in known, f"{name_of(verb)} {user}: {answer.text}"
                else:
                    problem(answer, 403, "scope_mismatch")


async def test_who_is_told_of_a_space_hears_of_it_and_of_no_other(inhabited: Admitted) -> None:
    """S24, S25: a space that one is not told of, one that is not there, and another user look the same."""
    for user in (TEAM, BOARD):
        async with inhabited.http(await inhabited.key("acme")) as http:
            await live(http, "acme", user)
    await settled(inhabited.service)
    own, heard = canary("acme", "ana"), ""
    foreign = [canary("acme", user) for user in ("bob", BOARD)] + [canary("rival"), canary("rival", "ana")]
    async with inhabited.http(await inhabited.key("acme", "ana", spaces={"team": OF_MEMORY})) as http:
        for verb in CLOSED:
            if ROUTES[name_of(verb)].of != "user":
                continue
            refused = [await ask(http, verb, Names(user=user)) for user in (BOARD, "space:nobody", "bob", "nobody")]
            assert len({(answer.content, str(sorted(answer.headers.items()))) for answer in refused}) == 1
            problem(refused[0], 403, "scope_mismatch")
            answer = await ask(http, verb, Names(user=TEAM))
            hears_nothing(answer, own, *foreign)
            if ROUTES[name_of(verb)].needs == "admin":
                problem(answer, 403, "insufficient_scope")
            else:
                assert answer.status_code == 200, f"{name_of(verb)}: {answer.text}"
                heard += answer.text
    assert canary("acme", TEAM) in heard


async def test_a_credential_of_a_space_names_that_alone(admitted: Admitted) -> None:
    async with admitted.http(await admitted.key("acme", TEAM)) as http:
        for verb in CLOSED:
            if ROUTES[name_of(verb)].of == "user":
                assert (await ask(http, verb, Names(user=TEAM))).status_code in (200, 404), name_of(verb)
                problem(await ask(http, verb, Names(user=BOARD)), 403, "scope_mismatch")
                problem(await ask(http, verb, Names(user="ana")), 403, "scope_mismatch")


async def test_no_route_takes_a_space_that_is_not_called_as_spaces_are(admitted: Admitted) -> None:
    async with admitted.http(await admitted.key()) as http:
        for verb in CLOSED:
            if ROUTES[name_of(verb)].of == "user":
                for user in ("space:", "space:a:b", "space:a@b", f"space:{'x' * 101}"):
                    refusal = problem(await ask(http, verb, Names(user=user)), 422, "invalid_id")
                    assert "1 to 100 characters" in refusal["detail"]


async def test_a_credential_of_one_user_names_no_other_and_hears_of_none(inhabited: Admitted) -> None:
    """S25"""
    mine = await inhabited.service.keys.of_tenant("acme")
    async with inhabited.http(await inhabited.key("acme", "ana")) as http:
        for verb in CLOSED:
            of = ROUTES[name_of(verb)].of
            for names in (Names(user="bob", key=mine[0].key_id), Names(user="nobody")):
                answer = await ask(http, verb, names)
                hears_nothing(answer, canary("acme", "bob"), canary("rival"), canary("rival", "ana"), canary("default"))
                if of == "knowledge":
                    assert canary("acme") in answer.text
                else:
                    problem(answer, 403, "scope_mismatch")
            if of == "user":
                answer = await ask(http, verb, Names(user="ana"))
                assert answer.status_code == 200, f"{name_of(verb)}: {answer.text}"
                hears_nothing(answer, canary("acme", "bob"), canary("rival"), canary("rival", "ana"))


async def test_what_is_anothers_and_what_is_not_there_look_the_same(inhabited: Admitted) -> None:
    """S24, S30: a whole tenant's credential with the names of another's things, and with names of nothing."""
    theirs = (await inhabited.service.keys.of_tenant("acme"))[-1].key_id
    words = [canary("acme"), canary("acme", "ana"), canary("acme", "bob"), canary("default"), canary("default", "ana")]
    nothing = Names(user="anx", session="z", doc="leave/nolicy", memory="m2", key="nokey111")
    before = await everything_of(inhabited, "acme")
    async with inhabited.http(await inhabited.key("other")) as http:
        for verb in CLOSED:
            foreign = await ask(http, verb, Names(key=theirs))
            missing = await ask(http, verb, nothing)
            hears_nothing(foreign, *words)
            assert foreign.status_code == missing.status_code
            if foreign.status_code != 200:
                assert foreign.content == missing.content, name_of(verb)
                assert sorted(foreign.headers.items()) == sorted(missing.headers.items())
            if ROUTES[name_of(verb)].of == "service":
                problem(foreign, 403, "scope_mismatch")
    assert await everything_of(inhabited, "acme") == before


async def test_users_of_two_tenants_with_one_name_share_nothing(inhabited: Admitted) -> None:
    """S24, S30: the same user, session and document there and here; each hears their own and only that."""
    for tenant_id, other in (("acme", "rival"), ("rival", "acme"), ("default", "acme")):
        heard = ""
        async with inhabited.http(await inhabited.key(tenant_id)) as http:
            for verb in CLOSED:
                answer = await ask(http, verb)
                if (name_of(verb), tenant_id) != ("list_keys", "default"):  # operators see whom they have let in
                    hears_nothing(answer, canary(other), canary(other, "ana"), canary(other, "bob"))
                heard += answer.text
        assert canary(tenant_id) in heard
        assert canary(tenant_id, "ana") in heard


def hears_nothing(answer: httpx2.Response, *words: str) -> None:
    heard = answer.text + str(answer.headers)
    assert [word for word in words if word in heard] == []


async def everything_of(admitted: Admitted, tenant_id: str) -> list[bytes]:
    """What a tenant itself can read, but for the moment at which it does."""
    heard = []
    async with admitted.http(await admitted.key(tenant_id, permissions=["read"])) as http:
        for verb in CLOSED:
            if ROUTES[name_of(verb)].needs == "read":
                heard += [(await ask(http, verb, Names(user=user))).content for user in ("ana", "bob")]
    return heard

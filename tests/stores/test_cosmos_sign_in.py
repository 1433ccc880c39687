"""Signing in to Cosmos DB: by key, and with Entra ID. Only the call that gives tokens is a stand-in.

The server checks what comes: the signature a key makes, or a token that it holds good.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity.aio import DefaultAzureCredential

from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.stores.base import Commit, Store
from memory_service.stores.cosmos import CosmosStore, client
from memory_service.stores.cosmos.client import Client
from memory_service.stores.cosmos.connection import with_entra_id
from memory_service.stores.cosmos.containers import INTERACTIONS, MEMORIES, Names
from memory_service.values import Hot
from tests.cosmos.launcher import KEY as ACCOUNT_KEY
from tests.cosmos.launcher import CosmosServer
from tests.cosmos.node import INSTALL_S
from tests.stores.cosmos_account import CONTAINERS, create_database, everything, settings_for
from tests.support.stores import opened
from tests.support.values import a_key, a_memory, begin, next_turn

pytestmark = [pytest.mark.filterwarnings("ignore:Unverified HTTPS request"), pytest.mark.timeout(INSTALL_S + 60)]

KEY = a_key()
OTHER_KEY = "b3RoZXI="
HOUR_S = 3600


class SignIn:
    """What gives tokens, as azure-identity does: `token-1`, `token-2` and so on; `down` while it cannot."""

    def __init__(self, *, lifetime_s: float = HOUR_S) -> None:
        self.lifetime_s = lifetime_s
        self.down = False
        self.given: list[str] = []
        self.open = 0

    def __call__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        self.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open -= 1

    async def close(self) -> None:
        pass

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert all(scope.endswith("/.default") for scope in scopes)
        if self.down:
            raise ClientAuthenticationError("secret: nobody there")
        self.given.append(f"token-{len(self.given) + 1}")
        return AccessToken(self.given[-1], int(time.time() + self.lifetime_s))


@asynccontextmanager
async def store_of(server: CosmosServer, sign_in: SignIn) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        store = CosmosStore(Client(server.url, "", "agent_memory", sign_in), Names.of(settings_for(server)))
        await store.start(stack)
        yield store


@pytest.fixture(scope="module")
def secure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CosmosServer]:
    with CosmosServer(tmp_path_factory.mktemp("cosmos"), tls=True) as server:
        yield server


@pytest.fixture
def cosmos_server(secure_server: CosmosServer) -> CosmosServer:
    """With TLS, without which the SDK sends no token; empty."""
    secure_server.reset()
    return secure_server


@pytest.fixture
def sign_in() -> SignIn:
    return SignIn()


@pytest.fixture
async def store(cosmos_server: CosmosServer, sign_in: SignIn) -> AsyncIterator[Store]:
    """A store that is signed in with the first token, on a database that was there before."""
    async with opened(settings_for(cosmos_server)):
        pass
    cosmos_server.admits(tokens=["token-1"])
    async with store_of(cosmos_server, sign_in) as store:
        yield store


@pytest.fixture
async def hot(store: Store) -> Hot:
    await begin(store, KEY, turns=2)
    found = await store.load(KEY)
    assert found is not None
    return found


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "VERB_S", 1.0)


# Entra ID


async def test_all_is_done_with_one_token_as_long_as_it_is_good(store: Store, hot: Hot, sign_in: SignIn) -> None:
    await store.commit(next_turn(hot, KEY)[0])
    assert len(await store.turns(KEY)) == 3
    assert len((await store.entries(KEY.scope, None, "space")).turns) == 3
    assert sign_in.given == ["token-1"]


@pytest.mark.parametrize("refusal", [{"status": 401}, {"status": 403, "substatus": 5300}], ids=str)
async def test_a_turn_sent_with_a_token_that_ran_out_is_stored_once_with_a_new_one(
    store: Store, hot: Hot, sign_in: SignIn, cosmos_server: CosmosServer, refusal: dict[str, Any]
) -> None:
    cosmos_server.admits(tokens=["token-2"], **refusal)
    cosmos_server.calls()
    commit, then = next_turn(hot, KEY, text="third")
    await store.commit(commit)
    assert sign_in.given == ["token-1", "token-2"]
    batches = [call["status"] for call in cosmos_server.calls() if call["op"] == "batch"]
    assert batches == [refusal["status"], 200]
    assert await store.load(KEY) == then
    assert len(await store.turns(KEY)) == 3


async def test_a_token_about_to_end_is_exchanged_before_anybody_refuses_it(cosmos_server: CosmosServer) -> None:
    async with opened(settings_for(cosmos_server)):
        pass
    sign_in = SignIn(lifetime_s=1)
    cosmos_server.admits(tokens=[f"token-{number}" for number in range(100)])
    async with store_of(cosmos_server, sign_in) as store:
        await begin(store, KEY, turns=2)
        before = len(sign_in.given)
        await store.load(KEY)
        assert len(sign_in.given) > before
    assert 401 not in {call["status"] for call in cosmos_server.calls()}


async def test_many_calls_with_a_token_that_ran_out_sign_in_together_and_the_former_connection_is_closed(
    store: Store, hot: Hot, sign_in: SignIn, cosmos_server: CosmosServer
) -> None:
    for number in range(2, 6):
        cosmos_server.admits(tokens=[f"token-{number}"])
        assert await asyncio.gather(*(store.load(KEY) for _ in range(20))) == [hot] * 20
        assert len(sign_in.given) == number
        assert sign_in.open == 1


async def test_a_token_that_is_never_taken_is_store_unavailable_and_leaves_no_connections_behind(
    store: Store, hot: Hot, sign_in: SignIn, cosmos_server: CosmosServer
) -> None:
    cosmos_server.admits(tokens=[])
    began = time.monotonic()
    for verb in (store.load(KEY), store.commit(next_turn(hot, KEY)[0]), store.ping()):
        with pytest.raises(StoreUnavailable, match="401"):
            await verb
    assert time.monotonic() - began < 3 * (client.CALL_S - 1)
    assert sign_in.open == 1
    await asyncio.sleep(client.REST_S)
    cosmos_server.admits(tokens=[f"token-{len(sign_in.given) + 1}"])
    assert await store.load(KEY) == hot


async def test_a_sign_in_service_that_is_down_for_long_is_store_unavailable_and_then_used_again(
    store: Store, hot: Hot, sign_in: SignIn, cosmos_server: CosmosServer, hasty: None
) -> None:
    commit, then = next_turn(hot, KEY, text="third")
    sign_in.down = True
    assert await store.load(KEY) == hot  # the token it has is good
    cosmos_server.admits(tokens=["token-2"])
    for verb in (store.load(KEY), store.commit(commit)):
        with pytest.raises(StoreUnavailable) as caught:
            await verb
        assert "secret" not in str(caught.value)
    sign_in.down = False
    await asyncio.sleep(client.REST_S)
    await store.commit(commit)
    assert await store.load(KEY) == then
    assert len(await store.turns(KEY)) == 3
    assert sign_in.open == 1


async def test_a_sign_in_service_that_is_down_for_a_moment_is_waited_for(
    store: Store, hot: Hot, sign_in: SignIn, cosmos_server: CosmosServer
) -> None:
    sign_in.down = True
    cosmos_server.admits(tokens=["token-2"])
    loading = asyncio.create_task(store.load(KEY))
    await asyncio.sleep(0.3)
    sign_in.down = False
    assert await loading == hot


# Starting


async def refused(server: CosmosServer, sign_in: SignIn) -> str:
    with pytest.raises(UnsafeStart) as caught:
        async with store_of(server, sign_in):
            pass
    words = str(caught.value)
    assert "\n" not in words
    assert "secret" not in words
    assert sign_in.open == 0
    return words


async def test_a_start_that_cannot_sign_in_says_so(cosmos_server: CosmosServer, sign_in: SignIn) -> None:
    sign_in.down = True
    words = await refused(cosmos_server, sign_in)
    assert "COSMOS_KEY is empty" in words
    assert "Entra ID" in words


async def test_a_start_of_an_identity_without_its_role_says_which_it_needs(
    cosmos_server: CosmosServer, sign_in: SignIn
) -> None:
    cosmos_server.admits(tokens=[], status=403, substatus=5301)
    assert "Cosmos DB Built-in Data Contributor" in await refused(cosmos_server, sign_in)


@pytest.mark.parametrize(("op", "named"), [("POST dbs", "agent_memory"), ("POST dbs/colls", "interactions")])
async def test_a_start_that_may_not_create_names_what_must_be_created(
    cosmos_server: CosmosServer, sign_in: SignIn, op: str, named: str
) -> None:
    """As there: no identity may make a database or a container."""
    cosmos_server.fails({"op": op, "status": 403, "substatus": 5300})
    words = await refused(cosmos_server, sign_in)
    assert f"{named!r}" in words
    assert "docs/how-to/azure-cosmos.md" in words


async def test_a_start_that_may_not_create_begins_with_what_others_created(
    cosmos_server: CosmosServer, sign_in: SignIn
) -> None:
    async with opened(settings_for(cosmos_server)):
        pass
    made = everything(cosmos_server)
    cosmos_server.calls()
    cosmos_server.fails({"op": "POST dbs", "status": 403}, {"op": "POST dbs/colls", "status": 403})
    async with store_of(cosmos_server, sign_in) as store:
        await begin(store, KEY, turns=1)
    assert {"POST dbs", "POST dbs/colls"}.isdisjoint(call["op"] for call in cosmos_server.calls())
    assert everything(cosmos_server) != made


def short_of(policy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**policy, **changes}


@pytest.mark.parametrize(
    ("policy", "ttl", "said"),
    [
        (short_of(INTERACTIONS, compositeIndexes=[]), -1, "composite index"),
        (short_of(INTERACTIONS, includedPaths=[{"path": "/owner/?"}]), -1, "/seq/?"),
        (INTERACTIONS, 86400, "expire"),
    ],
)
async def test_a_container_that_was_created_otherwise_than_it_must_be_is_refused(
    cosmos_server: CosmosServer, policy: dict[str, Any], ttl: int, said: str
) -> None:
    create_database(cosmos_server, {"interactions": (policy, ttl), **dict.fromkeys(CONTAINERS[1:], (MEMORIES, -1))})
    with pytest.raises(UnsafeStart, match="'interactions'") as caught:
        async with opened(settings_for(cosmos_server)):
            pass
    assert said in str(caught.value)


async def test_a_container_in_which_everything_is_indexed_will_do(cosmos_server: CosmosServer) -> None:
    def all_of(policy: dict[str, Any]) -> dict[str, Any]:
        return short_of(policy, includedPaths=[{"path": "/*"}], excludedPaths=[])

    policies = [all_of(INTERACTIONS), all_of(MEMORIES), all_of(MEMORIES)]
    create_database(cosmos_server, {name: (policy, -1) for name, policy in zip(CONTAINERS, policies, strict=True)})
    async with opened(settings_for(cosmos_server)) as store:
        await store.commit(Commit(scope=KEY.scope, memories=(a_memory("m"),)))
        assert len(await store.memories(KEY.scope, ["insight"])) == 1


# A key


async def test_a_key_is_what_signs_all_that_is_sent(cosmos_server: CosmosServer) -> None:
    cosmos_server.admits(keys=[ACCOUNT_KEY])
    key = a_key("a/b é#", "ana maría", "acme")
    async with opened(settings_for(cosmos_server)) as store:
        await begin(store, key, turns=2)
        assert await store.load(key) is not None
        assert len((await store.entries(key.scope, None, "space")).turns) == 2


async def test_a_wrong_key_is_refused_at_the_start_in_plain_words(cosmos_server: CosmosServer) -> None:
    cosmos_server.admits(keys=[OTHER_KEY])
    with pytest.raises(UnsafeStart, match=r"^COSMOS_KEY: .*the key is wrong") as caught:
        async with opened(settings_for(cosmos_server)):
            pass
    assert ACCOUNT_KEY not in str(caught.value)


async def test_a_host_that_the_account_keeps_out_is_told_that(cosmos_server: CosmosServer) -> None:
    cosmos_server.admits(keys=[], status=403)
    with pytest.raises(UnsafeStart, match="network rules"):
        async with opened(settings_for(cosmos_server)):
            pass


async def test_a_key_that_was_changed_is_store_unavailable_at_once_until_it_is_good_again(
    cosmos_server: CosmosServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings are read once: a key that was rotated needs a restart. The other one goes on."""
    async with opened(settings_for(cosmos_server)) as store:
        await begin(store, KEY, turns=2)
        hot = await store.load(KEY)
        assert hot is not None
        cosmos_server.admits(keys=[OTHER_KEY])
        began = time.monotonic()
        for verb in (store.load(KEY), store.commit(next_turn(hot, KEY)[0])):
            with pytest.raises(StoreUnavailable, match="401"):
                await verb
        assert time.monotonic() - began < 8
        assert "the account refuses the key" in [record.getMessage() for record in caplog.records]
        async with opened(settings_for(cosmos_server, cosmos_key=OTHER_KEY)) as renewed:
            assert await renewed.load(KEY) == hot
        cosmos_server.admits(keys=[ACCOUNT_KEY])
        await store.commit(next_turn(hot, KEY)[0])
        assert len(await store.turns(KEY)) == 3


async def test_without_a_key_it_is_the_default_credential_of_azure_that_signs_in() -> None:
    async with with_entra_id() as credential:
        assert isinstance(credential, DefaultAzureCredential)

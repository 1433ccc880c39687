"""The store in PostgreSQL: the whole contract on a real server, also through a pooler, and what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from memory_service.errors import UnsafeStart
from memory_service.stores.aging import Tenants
from memory_service.stores.base import Commit, Sought, Store
from memory_service.stores.mirrors import Mirror
from memory_service.stores.postgres import PostgresStore
from memory_service.values import Hot
from tests.postgres.launcher import PostgresServer
from tests.postgres.proxy import pooling
from tests.stores.contract import DurableStoreContract, StoreContract
from tests.stores.postgres_database import contents, everything, rows, settings_for
from tests.support.stores import opened
from tests.support.values import NOON, a_key, a_session, minutes, next_turn


class TestPostgresStore(DurableStoreContract):
    @pytest.fixture
    def record(self, postgres_url: str) -> str:
        self.url = postgres_url
        return postgres_url

    def everything(self, store: Any) -> Any:
        return everything(self.url)

    def contents(self, store: Any) -> list[str]:
        return contents(self.url)


class TestThroughAPooler(StoreContract):
    """Each transaction goes to another server connection than the one before. Nothing is written to search by."""

    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[Store]:
        self.url = postgres_url
        async with pooling(postgres_url) as proxy, opened(settings_for(proxy.url, store_search="process")) as store:
            yield store

    def everything(self, store: Any) -> Any:
        return everything(self.url)

    def contents(self, store: Any) -> list[str]:
        return contents(self.url)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with opened(postgres_url) as store:
        assert isinstance(store, PostgresStore)
        yield store


# Starting


async def test_several_that_start_at_once_on_an_empty_database_make_one_schema(postgres_url: str) -> None:
    async def starts() -> None:
        async with opened(postgres_url) as store:
            await store.ping()

    await asyncio.gather(*(starts() for _ in range(5)))
    assert len(rows(postgres_url, "SELECT * FROM memory_migrations")) >= 1


async def test_a_database_of_a_newer_version_is_left_alone(postgres_url: str) -> None:
    async with opened(postgres_url):
        pass
    rows(postgres_url, "INSERT INTO memory_migrations VALUES (9999, 'later') RETURNING 1")
    with pytest.raises(UnsafeStart, match="newer version"):
        async with opened(postgres_url):
            pass


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("127.0.0.1:1/nothing", "nothing listens at the host and port"),
        ("ter2@127.0.0.1:1/nothing", "there is no host of the name"),  # a password with an @ in it
        ("nowhere.invalid/nothing", "there is no host of the name"),
        ("127.0.0.1:hunter2/nothing", "the address is not one"),
        ("/nothing?host=/hunter2", "there is no socket"),
    ],
)
async def test_a_server_that_is_not_there_is_said_at_the_start_without_its_password(at: str, why: str) -> None:
    with pytest.raises(UnsafeStart, match=f"PostgreSQL could not be opened: .*{why}") as refused:
        async with opened(f"postgresql://postgres:hunter2@{at}"):
            pass
    said = str(refused.value)
    assert not [word for word in ("hunter2", "ter2", "nowhere") if word in said]


async def test_no_password_is_in_what_is_said(postgres_server: PostgresServer) -> None:
    with pytest.raises(UnsafeStart) as refused:
        async with opened(f"postgresql://nobody:hunter2@127.0.0.1:{postgres_server.port}/nothing"):
            pass
    assert "no such database or user" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_a_database_that_is_not_there_is_said(postgres_server: PostgresServer) -> None:
    with pytest.raises(UnsafeStart, match="no such database or user"):
        async with opened(postgres_server.url_of("nothing")):
            pass


async def test_a_database_that_is_not_in_utf8_is_refused(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = postgres_server.url_of("latin")
    try:
        with pytest.raises(UnsafeStart, match="UTF8"):
            async with opened(url):
                pass
    finally:
        postgres_server.drop_database(url)


# What is promised


async def test_each_verb_is_one_round_trip(postgres_url: str) -> None:
    key = a_key()
    async with pooling(postgres_url, servers=1) as proxy, opened(proxy.url) as store:
        hot = Hot(session=a_session())
        await store.commit(Commit(scope=key.scope, session=hot.session))
        turn, _ = next_turn(hot, key)
        verbs: dict[str, Callable[[], Any]] = {
            "commit": lambda: store.commit(turn),
            "load": lambda: store.load(key),
            "turns": lambda: store.turns(key),
            "find_turn": lambda: store.find_turn(key, "t1"),
            "find_turns": lambda: store.find_turns(key, ["t1", "t2"]),
            "find_effect": lambda: store.find_effect(key.scope, "r"),
            "sittings": lambda: store.sittings(key),
            "memories": lambda: store.memories(key.scope, ["insight"]),
            "find_memory": lambda: store.find_memory(key.scope, "m"),
            "entries": lambda: store.entries(key.scope, None, "space"),
            "due_reflections": lambda: store.due_reflections(NOON, 10),
            "reflections": lambda: store.reflections("default", "dead", 10),
            "due_sessions": lambda: store.due_sessions(NOON, 0, 10),
            "due_vectors": lambda: store.due_vectors("space", 10),
            "aged_sessions": lambda: store.aged_sessions(Tenants(but=("acme",)), NOON, 10),
            "aged_memories": lambda: store.aged_memories(Tenants(only="acme"), NOON, 10),
            "users": lambda: store.users(),
            "narrows": lambda: store.narrows(key.scope),
            "candidates": lambda: store.candidates(key.scope, WALNUTS),
            "items": lambda: store.items(key.scope, ["s#1", "m"], "space"),
            "claim_mirrors": lambda: store.claim_mirrors("engine", NOON, minutes(1), 10),
            "put_mirror": lambda: store.put_mirror(Mirror(scope=key.scope, driver="engine")),
            "mirror": lambda: store.mirror(key.scope, "engine"),
            "lagging": lambda: store.lagging("engine"),
            "ping": lambda: store.ping(),
        }
        for verb, call in verbs.items():
            before, counted = proxy.batches, round_trips(store, verb)
            await call()
            assert proxy.batches - before == 1, verb
            assert round_trips(store, verb) - counted == 1, verb


WALNUTS = Sought(stems=("walnut",), vector=None, space="space", kinds=("message",))


def round_trips(store: Store, verb: str) -> int:
    """As the store counts them."""
    return int(store.usage()["verbs"].get(verb, {}).get("round_trips", 0))

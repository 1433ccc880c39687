"""What the store in PostgreSQL says of durability: its commits are synced, or it says that they are not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from memory_service.stores.base import Commit
from tests.postgres.launcher import PostgresServer
from tests.postgres.proxy import pooling
from tests.stores.postgres_database import contents, rows
from tests.support.stores import opened
from tests.support.values import a_key, a_scope, a_turn, begin

NOBODY_ELSE_SYNCS = {"wal_writer_delay": "10000ms"}  # not in so short a time
IS_SYNCED = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
WARNED = "PostgreSQL does not sync: a power cut may lose what was answered"


# Commits that would not be waited for


def on_the_server(server: PostgresServer) -> str:
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(b"ALTER SYSTEM SET synchronous_commit = off")
        db.execute(b"SELECT pg_reload_conf()")
    return server.url


def for_the_database(server: PostgresServer) -> str:
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(b"ALTER DATABASE postgres SET synchronous_commit = off")
    return server.url


def for_the_role(server: PostgresServer) -> str:
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(b"ALTER ROLE postgres SET synchronous_commit = off")
    return server.url


def for_the_connection(server: PostgresServer) -> str:
    return f"{server.url}?options=-csynchronous_commit%3Doff"


@pytest.mark.parametrize("turned_off", [on_the_server, for_the_database, for_the_role, for_the_connection])
async def test_our_commits_are_synced_and_outlive_a_crash_wherever_synchronous_commit_is_off(
    tmp_path: Path, turned_off: Callable[[PostgresServer], str]
) -> None:
    with PostgresServer(tmp_path, **NOBODY_ELSE_SYNCS) as server:
        url = turned_off(server)
        async with opened(url) as store:
            assert store.capabilities.durability == "fsync"
            head = await begin(store, a_key(), turns=0)
            for seq in range(1, 6):
                turn = a_turn(seq)
                head = head.with_turn(turn)
                await store.commit(Commit(scope=a_scope(), session=head, turns=(turn,)))
                assert rows(server.url, IS_SYNCED) == [(True,)]
            with psycopg.connect(url, autocommit=True) as somebody_else:
                somebody_else.execute(b"CREATE TABLE not_ours ()")
            server.kill()
            server.start()
        assert len(contents(server.url)) == 10
        assert rows(server.url, "SELECT to_regclass('not_ours')") == [(None,)], "what is not synced is lost here"


async def test_what_is_restored_and_erased_is_synced_too(tmp_path: Path) -> None:
    with PostgresServer(tmp_path, **NOBODY_ELSE_SYNCS) as server:
        url = on_the_server(server)
        async with opened(url) as store:
            await begin(store, a_key(), turns=2)
            things = (await store.export(a_scope())).things
            for _ in range(3):
                await store.erase(a_scope())
                assert rows(server.url, IS_SYNCED) == [(True,)]
                await store.restore(a_scope(), things)
                assert rows(server.url, IS_SYNCED) == [(True,)]


# A server that does not sync


@pytest.mark.parametrize(
    ("settings", "off"),
    [
        ({"fsync": "off"}, "fsync"),
        ({"full_page_writes": "off"}, "full_page_writes"),
        ({"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}, "fsync, full_page_writes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "with",
)
async def test_a_server_that_does_not_sync_is_said_and_no_more_is_promised_than_it_keeps_also_through_a_pooler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, str], off: str
) -> None:
    with PostgresServer(tmp_path, **settings) as server:
        async with pooling(server.url) as pooler:
            for url in (server.url, pooler.url):
                caplog.clear()
                with caplog.at_level(logging.INFO, "memory_service"):
                    async with opened(url) as store:
                        assert store.capabilities.durability == "relaxed"
                        assert not store.capabilities.exclusive
                said = [(record.getMessage(), vars(record)["reason"]) for record in caplog.records]
                assert said == [(WARNED, f"off: {off}")]


async def test_a_server_that_syncs_is_not_warned_of(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "memory_service"):
        async with opened(postgres_url) as store:
            assert store.capabilities.durability == "fsync"
    assert not caplog.records

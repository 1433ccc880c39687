"""The engine in PostgreSQL with pgvector: the whole contract on a real server, and what is its own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr

from memory_service.errors import DriverUnavailable, UnsafeStart
from memory_service.projections import make_projection
from memory_service.projections.base import FAILURES, SEARCH_S, Projection
from memory_service.projections.pgvector import PGVector, search
from memory_service.projections.pgvector import rows as rows_of_engine
from memory_service.settings import Settings
from memory_service.stores.base import Sought
from memory_service.stores.postgres import scripts
from memory_service.values import Only
from tests.postgres.launcher import PostgresServer
from tests.postgres.proxy import pooling
from tests.projections.contract import ANA, BEN, SPACE, ProjectionContract, Question, a_copy, direction, found
from tests.stores.postgres_database import execute, rows
from tests.support.background import until
from tests.support.stores import opened
from tests.support.values import NOON, a_key, a_scope, begin

SECRET = "hunter2"
PATIENCE_S = 10
"""Above all limits of the engine, which are three seconds at most, and below those of the libraries."""


def engine_of(url: str) -> Projection:
    return make_projection("pgvector", Settings(_env_file=None, database_url=SecretStr(url)))


@asynccontextmanager
async def started(url: str) -> AsyncIterator[Projection]:
    """An open engine; it is closed when the block ends."""
    async with AsyncExitStack() as stack:
        engine = engine_of(url)
        await engine.start(stack)
        yield engine


class TestPGVector(ProjectionContract):
    @pytest.fixture
    async def engine(self, postgres_url: str) -> AsyncIterator[Projection]:
        async with started(postgres_url) as engine:
            yield engine


class TestThroughAPooler(ProjectionContract):
    """Each transaction goes to another server connection than the one before."""

    @pytest.fixture
    async def engine(self, postgres_url: str) -> AsyncIterator[Projection]:
        async with pooling(postgres_url) as proxy, started(proxy.url) as engine:
            yield engine


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[Projection]:
    async with started(postgres_url) as engine:
        yield engine


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path) as server:
        yield server


# Settings


def test_without_a_database_it_is_said_what_to_set() -> None:
    with pytest.raises(UnsafeStart, match="MEMORY_DRIVER=pgvector needs DATABASE_URL: postgresql://"):
        engine_of(" ")


@pytest.mark.parametrize(
    "url", [f"postgresql+asyncpg://ana:{SECRET}@host/x", f"ana {SECRET}", f"password={SECRET} a=b"]
)
def test_a_url_that_cannot_be_read_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UnsafeStart, match="DATABASE_URL: write postgresql://") as refused:
        engine_of(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_either_name_of_the_setting_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_CONNECTION_URL", "postgresql://ana@host/x")
    assert isinstance(make_projection("PGVector".lower(), Settings(_env_file=None)), PGVector)


# Starting


async def test_several_that_start_at_once_on_an_empty_database_make_one_schema(postgres_url: str) -> None:
    async def starts(number: int) -> None:
        async with started(postgres_url) as engine:
            await engine.put(a_scope(f"user{number}"), [a_copy("m", "walnuts")])

    await asyncio.gather(*map(starts, range(6)))
    assert rows(postgres_url, "SELECT number, length(sha256) FROM memory_copies_migrations") == [(1, 64)]
    assert rows(postgres_url, "SELECT count(*) FROM memory_copies") == [(6,)]


async def test_engines_and_stores_that_start_at_once_on_an_empty_database_all_have_the_extension(
    postgres_url: str,
) -> None:
    async def searched_by() -> str:
        async with opened(postgres_url) as store:
            return store.searched_by

    async def starts() -> str:
        async with started(postgres_url) as engine:
            return "engine" if await engine.check() else ""

    assert (
        await asyncio.gather(*(start() for _ in range(3) for start in (searched_by, starts)))
        == [
            "store",
            "engine",
        ]
        * 3
    )


async def test_what_is_kept_is_there_after_a_new_start(postgres_url: str) -> None:
    async with started(postgres_url) as engine:
        await engine.put(ANA, [a_copy("m", "walnuts")])
    async with started(postgres_url) as engine:
        assert await found(engine) == {"m"}


async def test_without_rights_to_make_the_extension_the_line_to_run_is_said_and_after_it_all_works(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    execute(postgres_url, "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN; GRANT ALL ON SCHEMA public TO guest")
    guest = postgres_url.replace("postgres@", f"guest:{SECRET}@")
    with pytest.raises(UnsafeStart, match=r"As a superuser .*: CREATE EXTENSION vector;") as refused:
        async with started(guest):
            pass
    assert SECRET not in str(refused.value)
    assert rows(postgres_url, "SELECT to_regclass('memory_copies_migrations')") == [(None,)]
    execute(postgres_url, "CREATE EXTENSION vector")
    async with started(guest) as engine:
        await engine.put(ANA, [a_copy("m", "walnuts")])
        assert await found(engine) == {"m"}


async def test_a_server_that_has_no_pgvector_is_said(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_: Any) -> psycopg.Error:
        return psycopg.errors.FeatureNotSupported('extension "vector" is not available')

    monkeypatch.setattr(scripts, "make_extension", refused)
    with pytest.raises(UnsafeStart, match=r"not installed on this server.*CREATE EXTENSION vector;"):
        async with started(postgres_url):
            pass


async def test_an_extension_out_of_reach_is_said(postgres_url: str) -> None:
    execute(postgres_url, "CREATE SCHEMA elsewhere; CREATE EXTENSION vector SCHEMA elsewhere")
    with pytest.raises(UnsafeStart, match="ALTER EXTENSION vector SET SCHEMA public;"):
        async with started(postgres_url):
            pass


async def test_a_role_that_may_make_no_tables_is_said(postgres_url: str) -> None:
    execute(postgres_url, "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; CREATE EXTENSION vector")
    with pytest.raises(UnsafeStart, match="GRANT USAGE, CREATE ON SCHEMA public TO "):
        async with started(postgres_url.replace("postgres@", "reader@")):
            pass


async def test_a_database_that_is_not_in_utf8_is_refused(postgres_server: PostgresServer) -> None:
    execute(postgres_server.url, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = postgres_server.url_of("latin")
    try:
        with pytest.raises(UnsafeStart, match="UTF8"):
            async with started(url):
                pass
    finally:
        postgres_server.drop_database(url)


async def test_an_old_server_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "OLDEST", 990000)
    with pytest.raises(UnsafeStart, match="PostgreSQL 14 or later is needed"):
        async with started(postgres_url):
            pass


async def test_tables_of_a_newer_version_are_left_alone(postgres_url: str) -> None:
    async with started(postgres_url):
        execute(postgres_url, "INSERT INTO memory_copies_migrations VALUES (9999, 'later')")
    with pytest.raises(UnsafeStart, match="newer version"):
        async with started(postgres_url):
            pass


async def test_a_database_or_a_role_that_is_not_there_is_said_without_the_password(
    postgres_server: PostgresServer,
) -> None:
    place = f"127.0.0.1:{postgres_server.port}"
    for url in (f"postgresql://postgres:{SECRET}@{place}/nothing", f"postgresql://nobody:{SECRET}@{place}/postgres"):
        with pytest.raises(UnsafeStart, match="the database of DATABASE_URL refuses: does not exist") as refused:
            async with started(url):
                pass
        assert SECRET not in str(refused.value)


async def test_a_host_that_can_be_none_is_refused() -> None:
    with pytest.raises(UnsafeStart, match="DATABASE_URL"):
        async with started(f"postgresql://ana:{SECRET}@{'a' * 70}.example/x"):
            pass


# Finding


async def test_the_nearest_by_meaning_is_found_where_no_word_is_shared(engine: Projection) -> None:
    copies = [a_copy(f"n{number}", f"walnuts {number}", vector=direction(0, 1, number)) for number in range(30)]
    await engine.put(ANA, [*copies, a_copy("near", "nothing alike", vector=direction(1, 0.1))])
    ids = await found(engine, Question(vector=direction(1)), limit=5)
    assert "near" in ids
    assert len(ids) > 5, "words and meaning are two lists"
    assert "near" not in await found(engine, limit=5)


async def test_meaning_is_restricted_as_words_are(engine: Projection) -> None:
    noise = [
        a_copy(f"n{number}", "noise", vector=direction(1), session_id="noisy", category="noise", tags=("noise",))
        for number in range(20)
    ]
    quiet = a_copy("quiet", "noise", vector=direction(1, 1), session_id="quiet", category="calm", tags=("calm",))
    await engine.put(ANA, [*noise, quiet, a_copy("extract", "noise", vector=direction(1, 2), is_extract=True)])
    for only in (
        Only(session_id="quiet"),
        Only(category="calm"),
        Only(category="calm", session_id="quiet", without_tags=frozenset({"noise"})),
    ):
        assert await found(engine, Question("unheard of", vector=direction(1), only=only), limit=5) == {"quiet"}
    bare = Question("unheard of", vector=direction(1), only=Only(without_tags=frozenset({"noise"})))
    assert await found(engine, bare, limit=5) == {"quiet", "extract"}
    no_extracts = Question("unheard of", vector=direction(1), only=bare.only, with_extracts=False)
    assert await found(engine, no_extracts, limit=5) == {"quiet"}


async def test_vectors_that_cannot_be_compared_are_passed_over_and_words_still_find(engine: Projection) -> None:
    await engine.put(
        ANA,
        [
            a_copy("right", "pears", vector=direction(1)),
            a_copy("zero", "walnuts", vector=np.zeros(16, np.float32)),
            a_copy("broken", "walnuts", vector=np.full(16, np.nan, np.float32)),
            a_copy("narrow", "walnuts", vector=direction(1)[:8]),
            a_copy("none", "walnuts"),
        ],
    )
    await engine.put_vectors(ANA, "another/16", {"none": direction(1)})
    assert await found(engine, Question("unheard of", vector=direction(1))) == {"right"}
    assert await found(engine, Question(vector=direction(1))) == {"right", "zero", "broken", "narrow", "none"}
    for useless in (np.zeros(16, np.float32), np.full(16, np.inf, np.float32), np.zeros(0, np.float32)):
        assert await found(engine, Question(vector=useless)) == {"zero", "broken", "narrow", "none"}
        assert await found(engine, Question("unheard of", vector=useless)) == set()


async def test_without_words_and_without_a_vector_nothing_is_asked(engine: Projection) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts")])
    assert await engine.search(ANA, Sought(stems=(), vector=None, space="", kinds=("memory",)), 5) == []


async def test_rare_words_weigh_more_than_common_ones(engine: Projection) -> None:
    common = [a_copy(f"m{number}", "ana likes nuts on bread") for number in range(30)]
    await engine.put(ANA, [*common, a_copy("rare", "a quince is a fruit that ripens late")])
    assert "rare" in await found(engine, Question("who likes nuts and quince on bread"), limit=3)


async def test_a_text_written_anew_loses_its_vector_and_the_same_text_keeps_it(engine: Projection) -> None:
    near = Question("unheard of", vector=direction(1))
    await engine.put(ANA, [a_copy("m", "walnuts", vector=direction(1))])
    await engine.put(ANA, [a_copy("m", "walnuts", tags=("a tag",))])
    assert await found(engine, near) == {"m"}
    await engine.put(ANA, [a_copy("m", "hazelnuts")])
    assert await found(engine, near) == set()
    await engine.put_vectors(ANA, SPACE, {"m": direction(1), "gone": direction(1)})
    assert await found(engine, near) == {"m"}
    await engine.put(ANA, [a_copy("m", "almonds", vector=direction(0, 1)), a_copy("m", "pecans", vector=direction(1))])
    assert await found(engine, near) == await found(engine, Question("pecans")) == {"m"}
    await engine.put_vectors(ANA, SPACE, {"m": np.zeros(16, np.float32)})
    assert await found(engine, near) == set()


async def test_what_is_too_much_for_one_statement_is_written_by_several(engine: Projection) -> None:
    numbers = np.random.default_rng(1).normal(size=(60, 1024)).astype(np.float32)
    vectors = {f"m{number}": vector / np.linalg.norm(vector) for number, vector in enumerate(numbers)}
    assert sum(map(rows_of_engine.size_of_vector, vectors.values())) > rows_of_engine.PART
    await engine.put(ANA, [a_copy(name, vector=vector) for name, vector in vectors.items()])
    await engine.put_vectors(ANA, SPACE, {name: -vector for name, vector in vectors.items()})
    assert set(await engine.held(ANA)) == vectors.keys()
    for name in ("m0", "m59"):
        assert await found(engine, Question("unheard of", vector=-vectors[name]), limit=1) == {name}


async def test_the_longest_names_fit_into_the_index(engine: Projection) -> None:
    number_of = np.random.default_rng(1).integers(0x20000, 0x2A000, 500)
    item_id = "".join(map(chr, number_of.tolist()))
    scope = a_scope("u" * 200, "t" * 200)
    await engine.put(scope, [a_copy(item_id, "walnuts", kind="knowledge", category="c" * 100)])
    assert await found(engine, scope=scope) == {item_id}


async def test_of_others_nothing_is_read(engine: Projection, postgres_url: str) -> None:
    """Also where the database has no statistics yet, and where all rows but a few are of another user."""
    await engine.put(BEN, [a_copy(f"m{number}", f"walnuts {number}", vector=direction(1)) for number in range(3000)])
    await engine.put(ANA, [a_copy(f"m{number}", f"walnuts {number}", vector=direction(1)) for number in range(30)])
    asked = search.question(ANA, Question(vector=direction(1)).sought, 50)
    assert asked is not None
    for statistics in ("SELECT 1", "ANALYZE memory_copies"):
        execute(postgres_url, statistics)
        with psycopg.connect(postgres_url) as db:
            plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN {asked[0]}".encode(), asked[1]))
        assert not re.search(r"Seq Scan on memory_copies\b(?!_made)", plan), plan
        assert plan.count("memory_copies_pkey") >= 2


# Away, back, and slow


async def test_after_a_crash_of_the_server_the_next_call_works(own_server: PostgresServer) -> None:
    async with started(own_server.url) as engine:
        await engine.put(ANA, [a_copy("m", "walnuts")])
        await asyncio.gather(*(found(engine) for _ in range(10)))  # so that there are several connections to lose
        own_server.kill()
        own_server.start()
        assert await found(engine) == {"m"}
        assert engine.failures == 0


async def test_a_server_that_is_gone_is_said_soon_then_left_alone_and_found_when_it_is_back(
    own_server: PostgresServer,
) -> None:
    async with started(own_server.url) as engine:
        await engine.put(ANA, [a_copy("m", "walnuts")])
        own_server.kill()
        for verb in (found(engine), engine.put(ANA, [a_copy("m2", "walnuts")]), engine.forget(ANA)):
            await fails_within(PATIENCE_S, verb)
        assert engine.breaker.state == "open"
        await fails_within(SEARCH_S / 2, found(engine))
        assert engine.failures == FAILURES
        own_server.start()
        await until(lambda: engine.breaker.state != "open")
        assert await found(engine) == {"m"}
        assert engine.breaker.state == "closed"


async def test_a_server_that_hangs_holds_up_no_search_and_is_used_again_when_it_answers(
    own_server: PostgresServer,
) -> None:
    async with started(own_server.url) as engine:
        await engine.put(ANA, [a_copy("m", "walnuts")])
        with own_server.paused():
            await asyncio.gather(*(fails_within(PATIENCE_S, found(engine)) for _ in range(3)))
            await fails_within(SEARCH_S / 2, engine.check())
        await until(lambda: engine.breaker.state != "open")
        assert await found(engine) == {"m"}


async def test_a_server_that_is_away_at_the_start_is_prepared_when_it_is_there(own_server: PostgresServer) -> None:
    own_server.kill()
    async with AsyncExitStack() as stack:
        engine = engine_of(own_server.url)
        async with asyncio.timeout(PATIENCE_S):
            await engine.start(stack)
        await fails_within(PATIENCE_S, found(engine))
        own_server.start()
        copies = [a_copy(f"m{number}", "walnuts") for number in range(5)]
        await asyncio.gather(*(engine.put(ANA, [copy]) for copy in copies), found(engine))
        assert await found(engine) == {copy.id for copy in copies}


async def test_a_server_that_hangs_at_the_start_holds_it_up_for_no_longer_than_it_may(
    own_server: PostgresServer,
) -> None:
    async with AsyncExitStack() as stack:
        engine = engine_of(own_server.url)
        with own_server.paused():
            async with asyncio.timeout(PATIENCE_S):
                await engine.start(stack)
            await fails_within(PATIENCE_S, found(engine))
        assert await found(engine) == set()


async def test_a_server_that_stops_answering_while_it_is_prepared_holds_up_no_start(postgres_url: str) -> None:
    """Another process holds the lock for as long as it makes tables."""
    async with AsyncExitStack() as stack:
        engine = engine_of(postgres_url)
        with psycopg.connect(postgres_url) as another:
            another.execute("SELECT pg_advisory_xact_lock(%s)", (scripts.OURS,))
            async with asyncio.timeout(PATIENCE_S):
                await engine.start(stack)
        assert await found(engine) == set()


async def test_what_only_an_operator_mends_is_told_to_callers_as_an_engine_that_is_away(
    own_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    execute(own_server.url, "CREATE ROLE guest LOGIN; GRANT ALL ON SCHEMA public TO guest")
    own_server.kill()
    async with started(own_server.url.replace("postgres@", f"guest:{SECRET}@")) as engine:
        own_server.start()
        await fails_within(PATIENCE_S, found(engine))
        reasons = [getattr(record, "reason", "") for record in caplog.records]
        assert any("CREATE EXTENSION vector;" in reason for reason in reasons)
        execute(own_server.url, "CREATE EXTENSION vector")
        assert await found(engine) == set()
    assert SECRET not in caplog.text


async def test_a_write_whose_answer_was_lost_is_done_once(postgres_url: str) -> None:
    async with pooling(postgres_url) as proxy, started(proxy.url) as engine:
        await engine.put(ANA, [a_copy("gone", "walnuts")])
        for verb in (lambda: engine.put(ANA, [a_copy("m", "walnuts")]), lambda: engine.remove(ANA, ["gone"])):
            proxy.drop_answers()
            await verb()
        assert set(await engine.held(ANA)) == {"m"}


async def test_a_search_that_is_called_off_leaves_the_engine_usable(engine: Projection) -> None:
    await engine.put(ANA, [a_copy("m", "walnuts")])
    for _ in range(20):
        search = asyncio.create_task(found(engine))
        await asyncio.sleep(0.002)
        search.cancel()
        await asyncio.wait([search])
    assert await found(engine) == {"m"}
    assert engine.failures == 0


async def test_an_engine_that_was_stopped_says_so(postgres_url: str) -> None:
    async with started(postgres_url) as engine:
        pass
    await fails_within(1, engine.held(ANA))


async def fails_within(limit_s: float, verb: Any) -> None:
    began = time.monotonic()
    with pytest.raises(DriverUnavailable) as failed:
        await verb
    assert time.monotonic() - began < limit_s
    assert SECRET not in str(failed.value)


# Beside others


async def test_one_database_holds_the_record_and_the_copies_side_by_side(postgres_url: str) -> None:
    async with opened(postgres_url) as store, started(postgres_url) as engine:
        await begin(store, a_key(), turns=2)
        await engine.put(ANA, [a_copy("m", "walnuts")])
        await engine.drop()
        assert [turn.seq for turn in await store.turns(a_key())] == [1, 2]
        await engine.put(ANA, [a_copy("m", "walnuts")])
        await store.erase(ANA)
        assert await found(engine) == {"m"}
    async with opened(postgres_url) as store, started(postgres_url) as engine:
        assert store.searched_by == "store"
        assert await found(engine) == {"m"}


async def test_a_person_sees_what_is_kept_with_sql(engine: Projection, postgres_url: str) -> None:
    copy = a_copy(
        "s#3.0", "Ana eats no walnuts", kind="message", session_id="s", role="user", tags=("a", "b"), category="food"
    )
    await engine.put(ANA, [copy, a_copy("near", "nuts", vector=direction(1)), a_copy("far", vector=direction(0, 1))])
    seen = rows(
        postgres_url,
        "SELECT tenant_id, user_id, kind, is_extract, session_id, category, tags, role, name, content, created_at,"
        " metadata -> 'nested' -> 'of' ->> 1, metadata ->> 'made', digest, space, embedding"
        " FROM memory_copies WHERE item_id = 's#3.0'",
    )
    owner_and_kind = ("default", "ana", "message", False)
    filed_under = ("s", "food", ["a", "b"], "user", None)
    assert seen == [
        (*owner_and_kind, *filed_under, copy.item.text, NOON, "2.5", "up", copy.digest, None, None),
    ]
    near = "SELECT item_id, space FROM memory_copies ORDER BY embedding <=> %s::vector LIMIT 1"
    assert rows(postgres_url, near, str(direction(1).tolist())) == [("near", SPACE)]


async def test_a_check_tells_versions_and_which_tables_are_there(engine: Projection, postgres_url: str) -> None:
    known = await engine.check()
    assert known["tables"] == {"memory_copies": True, "memory_copies_made": True, "memory_copies_migrations": True}
    assert int(known["postgres"].partition(".")[0]) >= 14
    assert known["pgvector"]
    execute(postgres_url, "DROP TABLE memory_copies")
    before = await engine.generation()
    assert (await engine.check())["tables"]["memory_copies"] is False
    assert await found(engine) == set()  # they are made again, and are others
    assert await engine.generation() != before


async def test_a_drop_makes_the_tables_where_there_were_none(postgres_url: str) -> None:
    async with started(postgres_url) as engine, started(postgres_url) as another:
        execute(postgres_url, "DROP TABLE memory_copies, memory_copies_migrations; DROP EXTENSION vector")
        await engine.drop()
        await another.put(ANA, [a_copy("m", "walnuts")])
        assert await found(engine) == {"m"}

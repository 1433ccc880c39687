"""The store in PostgreSQL while the server crashes, hangs, stands by, runs full, or its answers are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion, StoreUnavailable
from memory_service.stores.base import Commit, DuplicateRequest, DuplicateTurn, Store
from memory_service.stores.postgres import client
from memory_service.values import Request
from tests.postgres.launcher import PostgresServer
from tests.postgres.proxy import pooling
from tests.stores.contract_moving import all_of, by_name
from tests.stores.postgres_database import contents, everything
from tests.support.background import until
from tests.support.stores import opened
from tests.support.values import NOON, a_key, a_memory, a_scope, a_session, a_sitting, a_turn, a_vector, begin, minutes

ANA = a_scope()
KEY = a_key()


Hurry = Callable[..., None]


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Hurry:
    """Call it to shorten limits from then on: what comes before may take as long as it takes."""

    def hurried(**limits_s: float) -> None:
        for name, limit_s in limits_s.items():
            monkeypatch.setattr(client, name, limit_s)

    return hurried


async def until_served(store: Store, *either: list[int]) -> None:
    """Wait until the session has these turns. That it is not served at once is no matter here."""

    async def served() -> bool:
        with suppress(StoreUnavailable):
            return [turn.seq for turn in await store.turns(KEY)] in either
        return False

    await until(served)


@pytest.fixture
def own_server(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    with PostgresServer(tmp_path) as server:
        yield server


# A server that goes away


async def test_a_crash_of_the_server_loses_nothing_and_needs_no_restart_of_ours(own_server: PostgresServer) -> None:
    async with opened(own_server.url) as store:
        head = await begin(store, KEY, turns=3)
        await asyncio.gather(*(store.ping() for _ in range(10)))  # so that there are several connections to lose
        own_server.kill()
        own_server.start()
        hot = await store.load(KEY)
        assert hot is not None
        assert (hot.session, [turn.seq for turn in hot.turns]) == (head, [1, 2, 3])
        turn = a_turn(4)
        await store.commit(Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,)))
    assert len(contents(own_server.url)) == 8


async def test_a_call_waits_for_a_server_that_is_on_its_way_back(own_server: PostgresServer) -> None:
    async with opened(own_server.url) as store:
        head = await begin(store, KEY, turns=1)
        own_server.kill()
        turn = a_turn(2)
        storing = asyncio.create_task(store.commit(Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,))))
        await asyncio.to_thread(own_server.start)
        await storing
        assert [turn.seq for turn in await store.turns(KEY)] == [1, 2]


async def test_a_server_that_stays_away_is_said_in_time_and_one_that_comes_back_is_found(
    own_server: PostgresServer, hurry: Hurry
) -> None:
    async with opened(own_server.url) as store:
        head = await begin(store, KEY, turns=1)
        hurry(VERB_S=0.5, CALL_S=0.5, REST_S=0)
        own_server.kill()
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable):
                await store.load(KEY)
            with pytest.raises(StoreUnavailable):
                await store.commit(Commit(scope=ANA, session=head.touched(NOON)))
        own_server.start()
        await until_served(store, [1])
        hot = await store.load(KEY)
        assert hot is not None
        assert hot.session == head


async def test_a_server_that_hangs_holds_nobody_up_and_is_used_again_when_it_answers(
    own_server: PostgresServer, hurry: Hurry
) -> None:
    async with opened(own_server.url) as store:
        head = await begin(store, KEY, turns=1)
        hurry(VERB_S=0.5, CALL_S=0.3, REST_S=0)
        turn = a_turn(2)
        with own_server.paused():
            async with asyncio.timeout(8):
                for call in (
                    store.load(KEY),
                    store.commit(Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,))),
                ):
                    with pytest.raises(StoreUnavailable):
                        await call
        await until_served(store, [1], [1, 2])


async def test_after_one_who_waited_for_a_silent_server_in_vain_nobody_waits_as_long_again(
    own_server: PostgresServer, hurry: Hurry
) -> None:
    async with opened(own_server.url) as store:
        await begin(store, KEY, turns=1)
        hurry(VERB_S=2.0, CALL_S=2.0, REST_S=4.0)
        with own_server.paused():
            with pytest.raises(StoreUnavailable):
                await store.load(KEY)
            async with asyncio.timeout(client.REST_S):
                for _ in range(5):
                    with pytest.raises(StoreUnavailable):
                        await store.load(KEY)
        await until_served(store, [1])


async def test_nobody_waits_as_long_again_though_others_were_answered_when_the_first_began_to_wait(
    own_server: PostgresServer, hurry: Hurry
) -> None:
    async with opened(own_server.url) as store, await psycopg.AsyncConnection.connect(own_server.url) as other:
        head = await begin(store, KEY, turns=1)
        hurry(VERB_S=4.0, CALL_S=2.0, REST_S=3.5)
        await other.execute("SELECT 1 FROM sessions FOR UPDATE")
        first = asyncio.create_task(store.commit(Commit(scope=ANA, session=head.touched(NOON))))
        await store.load(KEY)
        with own_server.paused():
            with pytest.raises(StoreUnavailable):
                await first
            async with asyncio.timeout(client.REST_S):
                with pytest.raises(StoreUnavailable):
                    await store.load(KEY)


async def test_one_call_that_takes_too_long_stops_nobody_while_others_are_answered(
    postgres_url: str, hurry: Hurry
) -> None:
    async with opened(postgres_url) as store, await psycopg.AsyncConnection.connect(postgres_url) as other:
        head = await begin(store, KEY, turns=1)
        hurry(VERB_S=2.0, CALL_S=2.0)
        await other.execute("SELECT 1 FROM sessions FOR UPDATE")

        async def held_up() -> None:
            with pytest.raises(StoreUnavailable):
                await store.commit(Commit(scope=ANA, session=head.touched(NOON)))
            assert await store.load(KEY)

        holding = asyncio.create_task(held_up())
        while not holding.done():
            assert await store.load(KEY)
        await holding


# A lost answer


Committing = Callable[[Store], Awaitable[Commit]]


async def a_new_session(store: Store) -> Commit:
    return Commit(scope=ANA, session=a_session("new"))


async def a_turn_more(store: Store) -> Commit:
    head, turn = await begin(store, KEY, turns=1), a_turn(2)
    return Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,))


async def a_turn_with_a_name(store: Store) -> Commit:
    commit = await a_turn_more(store)
    return replace(commit, request=Request(key="r", digest="d", made_at=NOON))


async def a_head_alone(store: Store) -> Commit:
    return Commit(scope=ANA, session=(await begin(store, KEY, turns=1)).touched(minutes(9)))


async def a_hand_over(store: Store) -> Commit:
    head = await begin(store, KEY, turns=1)
    return Commit(scope=ANA, session=head.handed_over(), sittings=(a_sitting(),))


async def a_claim(store: Store) -> Commit:
    await store.commit(await a_hand_over(store))
    return Commit(scope=ANA, sittings=(a_sitting().claimed(minutes(5)),))


async def a_reflection(store: Store) -> Commit:
    await store.commit(await a_claim(store))
    done = a_sitting().claimed(minutes(5)).done("they said hello", 1, NOON)
    return Commit(scope=ANA, sittings=(done,), memories=(a_memory("m"),))


async def vectors(store: Store) -> Commit:
    await begin(store, KEY, turns=2)
    due = await store.due_vectors("space", 10)
    return Commit(scope=ANA, vectors=tuple(a_vector(item) for item in due))


KINDS = [a_new_session, a_turn_more, a_turn_with_a_name, a_head_alone, a_hand_over, a_claim, a_reflection, vectors]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_commit_whose_answer_was_lost_is_done_once_and_said_to_be(kind: Committing, postgres_url: str) -> None:
    async with pooling(postgres_url) as proxy, opened(proxy.url) as store:
        commit = await kind(store)
        proxy.drop_answers()
        await store.commit(commit)
        lost = by_name(await all_of(store))
        once = await done_without_a_loss(kind, postgres_url)
    assert lost == once


async def done_without_a_loss(kind: Committing, url: str) -> dict[object, object]:
    async with opened(url) as store:
        await store.erase(ANA)
        await store.commit(await kind(store))
        return dict(by_name(await all_of(store)))


@pytest.mark.parametrize("kind", [a_turn_more, a_turn_with_a_name, a_head_alone, a_hand_over, a_claim])
async def test_a_commit_that_is_really_a_second_one_is_refused_also_when_its_answer_was_lost(
    kind: Committing, postgres_url: str
) -> None:
    async with pooling(postgres_url) as proxy, opened(proxy.url) as store:
        mine = await kind(store)
        await store.commit(another_of(mine))
        before = everything(postgres_url)
        proxy.drop_answers()
        with pytest.raises((StaleVersion, DuplicateTurn, DuplicateRequest)):
            await store.commit(mine)
        assert everything(postgres_url) == before


def another_of(commit: Commit) -> Commit:
    """What another process might have made of the same state: the same versions, other words."""
    return replace(
        commit,
        session=commit.session and replace(commit.session, cumulative_summary="another's"),
        turns=tuple(replace(turn, received_at=minutes(99)) for turn in commit.turns),
        sittings=tuple(replace(sitting, last_error="another's") for sitting in commit.sittings),
    )


# Refused by the server


async def test_a_standby_is_not_written_and_when_it_is_the_primary_again_all_goes_on(postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    async with opened(postgres_url) as store:
        head = await begin(store, KEY, turns=1)
        with psycopg.connect(postgres_url, autocommit=True) as db:
            db.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
            hang_up_on_others(db)
            turn = a_turn(2)
            storing = asyncio.create_task(store.commit(Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,))))
            done, _ = await asyncio.wait([storing], timeout=0.5)
            assert not done, "it is asked again until it can be written"
            db.execute(b"SET default_transaction_read_only = off")
            db.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off'.encode())
            await storing
        assert [turn.seq for turn in await store.turns(KEY)] == [1, 2]


def hang_up_on_others(db: psycopg.Connection[tuple[object, ...]]) -> None:
    db.execute(
        b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def test_connections_that_were_cut_are_replaced_without_a_word(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        head = await begin(store, KEY, turns=0)
        for seq in range(1, 6):
            with psycopg.connect(postgres_url, autocommit=True) as db:
                hang_up_on_others(db)
            turn = a_turn(seq)
            head = head.with_turn(turn)
            await store.commit(Commit(scope=ANA, session=head, turns=(turn,)))
        assert [turn.seq for turn in await store.turns(KEY)] == [1, 2, 3, 4, 5]


async def test_many_writers_of_one_user_lose_nothing_to_a_reader_that_follows(postgres_url: str) -> None:
    """What is committed later has a later number: a cursor that passed a number never finds an earlier one new."""
    keys = [a_key(f"s{n}") for n in range(8)]
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        for key in keys:
            await begin(one, key, turns=0)

        async def writes(store: Store, key: object) -> None:
            hot = await store.load(key)
            head = hot.session
            for seq in range(1, 16):
                turn = a_turn(seq, key.session_id)
                head = head.with_turn(turn)
                await store.commit(Commit(scope=ANA, session=head, turns=(turn,)))

        writing = asyncio.gather(*(writes((one, other)[n % 2], key) for n, key in enumerate(keys)))
        cursor, seen = None, []
        while len(seen) < 8 * 15:
            all_written = writing.done()  # before it is looked: what was written since is in the next page
            page = await other.entries(ANA, cursor, "space", 7)
            seen += [(turn.session_id, turn.seq) for turn in page.turns]
            cursor = page.cursor
            if all_written and not page.turns:
                break
        await writing
    assert len(seen) == len(set(seen)) == 8 * 15

"""What nobody has touched for its days is erased, tenant by tenant: all of it, nothing else, and by no wrong clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.app import Surroundings, open_service
from memory_service.erasing import Erasing
from memory_service.errors import SessionNotFound, StoreCorrupt, StoreUnavailable, UnsafeStart
from memory_service.growth import Growth
from memory_service.pool import SessionPool
from memory_service.retention import SETTLED_S, Keeping, Retention
from memory_service.rights import Rights
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Commit
from memory_service.telling import Document
from memory_service.values import KINDS, Message, Scope, SessionKey, Source, knowledge_of
from tests.cosmos.launcher import KEY
from tests.support.background import Clock, record, settled, until
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, a_memory, a_scope, a_sitting, begin

ANA, BEN = Scope(user_id="ana", tenant_id="acme"), Scope(user_id="ben", tenant_id="globex")
CAI = Scope(user_id="cai", tenant_id="other")
SAID = "I live in Lisbon and I prefer tea."

Open = Callable[..., Awaitable[MemoryService]]


# The settings


@pytest.mark.parametrize(
    ("days", "tenants", "gone"),
    [
        (0, "", {}),
        (30, "", {"acme": 30, "other": 30}),
        (0, "acme=7", {"acme": 7}),
        (30, " acme = 0 , globex=365.5 ", {"globex": 365.5, "other": 30}),
        (30, "acme=0,", {"other": 30, "globex": 30}),
    ],
)
def test_each_tenant_is_asked_for_once_with_its_own_days(days: float, tenants: str, gone: dict[str, float]) -> None:
    terms = Keeping.of(days, tenants).terms
    for tenant_id in ("acme", "globex", "other"):
        spans = [span / timedelta(days=1) for whose, span in terms if whose.include(tenant_id)]
        if tenant_id in gone:
            assert spans == [gone[tenant_id]]
        elif not days:
            assert spans == []
    assert not any(whose.include("acme") for whose, _ in Keeping.of(30, "acme=0").terms)


@pytest.mark.parametrize(
    ("days", "tenants"),
    [
        (0.5, ""),
        (-1, ""),
        (40_000, ""),
        (30, "acme"),
        (30, "acme="),
        (30, "acme=soon"),
        (30, "acme=nan"),
        (30, "acme=inf"),
        (30, "acme=-3"),
        (30, "acme=0.01"),
        (30, "acme=1_0"),
        (30, "acme=\N{ARABIC-INDIC DIGIT NINE}"),
        (30, "acme=1e3"),
        (30, "=30"),
        (30, "a b=30"),
        (30, "acme=30,acme=60"),
        (30, "acme=30;globex=60"),
        (30, '{"acme": 30}'),
    ],
)
def test_days_that_are_none_are_refused_in_words_that_say_how_to_write_them(days: float, tenants: str) -> None:
    with pytest.raises(UnsafeStart, match=r"RETENTION_DAYS.*acme=30,globex=365"):
        Keeping.of(days, tenants)


async def test_a_service_with_such_settings_does_not_start(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(UnsafeStart, match="TENANT_RETENTION_DAYS"):
        async with open_service(make_settings(tenant_retention_days="acme: 30")):
            pass


# Through the service


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def opened(make_settings: Callable[..., Settings], clock: Clock) -> AsyncIterator[Open]:
    """Open a service on SQLite whose time goes when it is told to."""
    async with AsyncExitStack() as stack:

        async def enter(**changes: Any) -> MemoryService:
            settings = make_settings(sweep_interval_seconds=3600, **changes)
            return await stack.enter_async_context(open_service(settings, clock.around))

        yield enter


async def talk(service: MemoryService, scope: Scope, session_id: str = "s", text: str = SAID) -> SessionKey:
    """A conversation that is over, and was reflected on."""
    key = SessionKey(scope=scope, session_id=session_id)
    await service.start_session(scope, session_id, restore=True)
    await service.store_turn(key, Draft(messages=(Message(role="user", content=text),), turn_id="t1"))
    assert (await service.end_session(key, wait_s=10)).reflection == "done"
    await settled(service)
    return key


async def kept(service: MemoryService, scope: Scope) -> set[str]:
    """Names of all that is kept of a user."""
    things = (await record(service).export(scope)).things
    return {"/".join(map(str, thing.name)) for thing in things if not (thing.memory and thing.memory.is_deleted)}


async def carried_out(service: MemoryService) -> dict[str, Any]:
    await service.retention.carry_out()
    await settled(service)
    told: dict[str, Any] = service.stats()["retention"]
    return told


async def test_of_each_tenant_goes_what_is_untouched_for_its_days_and_all_that_was_learnt_of_it(
    opened: Open, clock: Clock
) -> None:
    service = await opened(retention_days=30, tenant_retention_days="acme=7,globex=0")
    for scope in (ANA, BEN, CAI):
        await talk(service, scope)
    everything = {scope.user_id: await kept(service, scope) for scope in (ANA, BEN, CAI)}
    assert len(everything["ana"]) >= 5, "a session, a sitting, a turn, a summary, an insight"
    clock.advance(days=7, microseconds=-1)
    assert (await carried_out(service))["sessions"] == 0
    assert await kept(service, ANA) == everything["ana"]
    clock.advance(microseconds=1)
    told = await carried_out(service)
    assert (told["sessions"], told["memories"] >= 2) == (1, True)
    assert await kept(service, ANA) == set()
    assert ANA not in (await record(service).users()).scopes
    assert await kept(service, CAI) == everything["cai"]
    clock.advance(days=23)
    assert (await carried_out(service))["sessions"] == 2
    clock.advance(days=3000)
    await carried_out(service)
    assert await kept(service, BEN) == everything["ben"]


async def test_a_search_and_a_context_tell_no_more_of_it(opened: Open, clock: Clock) -> None:
    service = await opened(retention_days=30)
    key = await talk(service, ANA)
    assert (await service.retrieve(ANA, "Lisbon", 10, None)).hits
    assert (await service.context(key)).session is not None
    clock.advance(days=31)
    await carried_out(service)
    assert not (await service.retrieve(ANA, "Lisbon", 10, None)).hits
    context, restored = await service.start_session(ANA, "s", restore=True)
    assert (restored, "Lisbon" in str(context)) == (False, False)


async def test_who_came_back_keeps_the_whole_conversation(opened: Open, clock: Clock) -> None:
    service = await opened(retention_days=30)
    await talk(service, ANA, "s")
    await talk(service, ANA, "left")
    clock.advance(days=29)
    await service.start_session(ANA, "s", restore=False)
    clock.advance(days=29)
    assert (await carried_out(service))["sessions"] == 1
    assert {"session/s", "turn/s/1"} <= await kept(service, ANA)
    assert not any("left" in name for name in await kept(service, ANA))


async def test_what_others_say_too_stays_with_them(opened: Open, clock: Clock) -> None:
    service = await opened(retention_days=30)
    await talk(service, ANA, "old")
    clock.advance(days=20)
    await talk(service, ANA, "new")
    told = a_memory("insight_old", session_id="old", sources=(Source(session_id="old", seq=1),))
    again = a_memory("insight_new", session_id="new", sources=(Source(session_id="new", seq=1),))
    memories = (replace(told, repeated_by="insight_new"), again.superseded(told))
    await record(service).commit(Commit(scope=ANA, memories=memories))
    clock.advance(days=15)
    await carried_out(service)
    left = await record(service).find_memory(ANA, "insight_new")
    assert left is not None
    assert left.valid_to is None
    assert await record(service).find_memory(ANA, "insight_old") is None


async def test_a_session_that_waits_for_its_reflection_goes_all_the_same(opened: Open, clock: Clock) -> None:
    service = await opened(retention_days=30)
    await begin(record(service), SessionKey(scope=ANA, session_id="s"), touched_at=clock())
    waiting = a_sitting(due_at=clock() + timedelta(days=300))
    await record(service).commit(Commit(scope=ANA, sittings=(waiting,)))
    clock.advance(days=31)
    await carried_out(service)
    assert await kept(service, ANA) == set()


async def test_memories_of_no_session_go_by_their_own_age_but_not_what_somebody_had_the_last_word_on(
    opened: Open, clock: Clock
) -> None:
    service = await opened(retention_days=30)
    await talk(service, ANA)
    for number, session_id in enumerate((None, "driver", "s")):
        await service.memories.remember(ANA, f"remembered {number}", session_id=session_id)
    edited = await service.memories.remember(ANA, "as it was")
    await service.rights.edit(ANA, edited.memory_id, {"text": "as I want it"})
    await service.memories.put_document("acme", Document(doc_id="d", content="Birds sing.", category="birds"))
    clock.advance(days=20)
    await service.memories.remember(ANA, "remembered lately")
    await service.start_session(ANA, "s", restore=False)
    clock.advance(days=10)
    assert (await carried_out(service))["memories"] == 2
    memories = await record(service).memories(ANA, ["memory"])
    assert {memory.text for memory in memories} == {"remembered 2", "as I want it", "remembered lately"}
    assert len(await record(service).memories(knowledge_of("acme"), KINDS)) == 1
    assert not any(hit.item.text in ("remembered 0", "remembered 1") for hit in await hits(service, "remembered"))


async def hits(service: MemoryService, question: str) -> list[Any]:
    return list((await service.retrieve(ANA, question, 50, None)).hits)


async def test_more_than_a_page_goes_in_one_round_and_none_that_is_kept_is_in_its_way(
    opened: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AT_ONCE", "KEPT_TOGETHER"):
        monkeypatch.setattr(f"memory_service.retention.{name}", 2)
    service = await opened(retention_days=30, tenant_retention_days="globex=3000")
    for scope in (BEN, ANA):
        for number in range(5):
            key = SessionKey(scope=scope, session_id=f"s{number}")
            await begin(record(service), key, touched_at=clock())
            await service.memories.remember(scope, f"remembered {number}")
    clock.advance(days=30, seconds=1)
    told = await carried_out(service)
    assert (told["sessions"], told["memories"]) == (5, 5)
    assert await kept(service, ANA) == set()
    assert len(await kept(service, BEN)) == 10


async def test_a_restored_record_is_rid_of_it_by_the_next_round(
    make_settings: Callable[..., Settings], clock: Clock, tmp_path: Path
) -> None:
    path, copy = tmp_path / "memory.db", tmp_path / "copy.db"
    settings = make_settings(store_url=f"sqlite:///{path}", retention_days=30)
    async with open_service(settings, clock.around) as service:
        await talk(service, ANA)
    copyfile(path, copy)
    clock.advance(days=31)
    for _ in range(2):
        async with open_service(settings, clock.around) as service:
            assert await kept(service, ANA) != set()
            clock.advance(seconds=SETTLED_S)
            await carried_out(service)
            assert await kept(service, ANA) == set()
            assert await record(service).erasures() == set(), (
                "its age tells it; a list of all there ever was would grow"
            )
        copyfile(copy, path)


async def test_what_is_done_is_told_in_stats_and_in_the_log_with_nobody_s_name(
    opened: Open, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    service = await opened(retention_days=30, tenant_retention_days="acme=7")
    told = service.stats()["retention"]
    assert (told["days"], told["tenants"], told["sessions"], told["last_at"]) == (30, {"acme": 7}, 0, None)
    await talk(service, ANA)
    clock.advance(days=8)
    with caplog.at_level(logging.INFO, "memory_service"):
        told = await carried_out(service)
    assert (told["sessions"], told["last_at"], told["waits"]) == (1, clock().isoformat(), "")
    (line,) = [one for one in caplog.records if "days" in one.getMessage()]
    assert (line.__dict__["sessions"], line.__dict__["memories"]) == (1, told["memories"])
    assert "ana" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "memory_service"):
        await carried_out(service)
    assert not [one for one in caplog.records if one.name == "memory_service.retention"], "nothing was due"


async def test_nobody_is_asked_anything_where_nothing_is_to_go(opened: Open, clock: Clock) -> None:
    service = await opened()
    await talk(service, ANA)
    clock.advance(days=3000)
    before = await kept(service, ANA)
    assert not service.retention.wanted
    await carried_out(service)
    assert await kept(service, ANA) == before


# Clocks


class Stopwatch:
    """Seconds that go by whatever the clock says."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


async def test_a_clock_that_is_set_ahead_erases_nobody_until_the_days_have_gone_by(
    make_settings: Callable[..., Settings], clock: Clock
) -> None:
    stopwatch = Stopwatch()
    settings = make_settings(retention_days=30, tenant_retention_days="acme=2")
    async with open_service(settings, Surroundings(now=clock, monotonic=stopwatch)) as service:
        for scope in (ANA, CAI):
            await begin(record(service), SessionKey(scope=scope, session_id="s"), touched_at=clock())
        stopwatch.s += 2 * SETTLED_S
        clock.advance(days=400)
        await begin(record(service), SessionKey(scope=ANA, session_id="later"), touched_at=clock())
        for day in range(31):
            told = await carried_out(service)
            assert (await kept(service, ANA) == set()) == (day >= 2), "each tenant's days are its own"
            assert (await kept(service, CAI) == set()) == (day >= 30), day
            assert (told["late_seconds"] > 0) == (day < 30)
            clock.advance(days=1)
            stopwatch.s += 86_400


async def test_a_host_that_was_just_started_erases_nobody(opened: Open, clock: Clock) -> None:
    service = await opened(retention_days=30)
    await begin(record(service), SessionKey(scope=ANA, session_id="s"), touched_at=clock() - timedelta(days=31))
    clock.advance(seconds=SETTLED_S - 1)
    told = await carried_out(service)
    assert ("start" in told["waits"], told["last_at"]) == (True, None)
    assert await kept(service, ANA) != set()
    clock.advance(seconds=1)
    assert (await carried_out(service))["waits"] == ""
    assert await kept(service, ANA) == set()


class Shared(FaultyStore):
    """A store of several processes, which has a clock; `told` is what that says."""

    told = NOON

    async def _clock(self) -> datetime | None:
        return await self._around("clock", self._tell)

    async def _tell(self) -> datetime:
        return self.told


class Replica:
    def __init__(self, store: Shared) -> None:
        self.at = NOON + timedelta(days=31)
        store.told = self.at
        self.pool = SessionPool(store.load, store.commit, look=store.head, max_sessions=10, ttl_s=60)
        self.changed: list[Scope] = []
        rights = Rights(store, self.changed.append, now=self.now)
        erasing = Erasing(store, self.pool, rights, None, self.changed.append, now=self.now)
        self.retention = Retention(store, erasing, Keeping(days=30), Growth(0), now=self.now, monotonic=lambda: 0.0)

    def now(self) -> datetime:
        return self.at

    async def holds(self, key: SessionKey) -> bool:
        return (await self.pool.read(key)).hot is not None


@pytest.mark.parametrize("ahead", [timedelta(days=10), timedelta(days=-10), timedelta(minutes=2)])
async def test_nothing_goes_while_the_clock_of_the_store_is_another(
    ahead: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    store = Shared()
    await begin(store, a_key())
    replica = Replica(store)
    store.told = replica.at - ahead
    for _ in range(3):
        await replica.retention.carry_out()
    assert await store.head(a_key()) is not None
    assert "clock" in replica.retention.stats()["waits"]
    assert len(caplog.records) == 1, "it is said once"
    store.told = replica.at
    await replica.retention.carry_out()
    assert await store.head(a_key()) is None
    assert replica.retention.stats()["waits"] == ""


async def test_what_is_compared_is_older_by_both_clocks() -> None:
    store = Shared()
    replica = Replica(store)
    await begin(store, a_key(), touched_at=replica.at - timedelta(days=30))
    store.told = replica.at - timedelta(seconds=30)
    await replica.retention.carry_out()
    assert await store.head(a_key()) is not None
    store.told = replica.at
    await replica.retention.carry_out()
    assert await store.head(a_key()) is None


# Others, and failures


async def test_another_replica_shows_it_no_more_and_may_do_the_same_at_once() -> None:
    store = Shared()
    for number in range(5):
        await begin(store, a_key(f"s{number}"), turns=1)
    await store.commit(Commit(scope=a_scope(), memories=(a_memory("m", kind="memory"),)))
    one, other = Replica(store), Replica(store)
    assert await other.holds(a_key("s0"))
    hang = store.hang_at("forget")
    first = asyncio.ensure_future(one.retention.carry_out())
    await hang.reached.wait()
    await other.retention.carry_out()
    hang.release()
    await first
    assert not await other.holds(a_key("s0"))
    done = [replica.retention.stats() for replica in (one, other)]
    assert sum(told["sessions"] for told in done) == 5
    assert sum(told["memories"] for told in done) == 1
    assert a_scope() in one.changed
    assert a_scope() in other.changed


async def test_a_session_that_is_touched_while_the_round_goes_on_stays() -> None:
    store = Shared()
    head = await begin(store, a_key())
    replica = Replica(store)
    hang = store.hang_at("forget")
    going = asyncio.ensure_future(replica.retention.carry_out())
    await hang.reached.wait()
    await store.commit(Commit(scope=a_scope(), session=head.touched(replica.at)))
    hang.release()
    await going
    assert await replica.holds(a_key())
    assert replica.retention.stats()["sessions"] == 0


async def test_a_memory_that_is_written_anew_while_the_round_goes_on_stays() -> None:
    store = Shared()
    memory = a_memory("m", kind="memory")
    await store.commit(Commit(scope=a_scope(), memories=(memory,)))
    replica = Replica(store)
    hang = store.hang_at("commit")
    going = asyncio.ensure_future(replica.retention.carry_out())
    await hang.reached.wait()
    anew = replace(memory, text="anew", updated_at=replica.at)
    await store.inner.commit(Commit(scope=a_scope(), memories=(anew,)))
    hang.release()
    await going
    assert await store.find_memory(a_scope(), "m") == anew
    assert replica.retention.stats()["memories"] == 0


@pytest.mark.parametrize("verb", ["clock", "aged_sessions", "forget", "aged_memories", "commit"])
async def test_what_failed_is_taken_up_again_by_the_next_round(verb: str) -> None:
    store = Shared()
    for number in range(3):
        await begin(store, a_key(f"s{number}"))
    await store.commit(Commit(scope=a_scope(), memories=(a_memory("m", kind="memory"),)))
    replica = Replica(store)
    store.fail_at(verb, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await replica.retention.carry_out()
    assert replica.retention.stats()["last_at"] is None
    await replica.retention.carry_out()
    told = replica.retention.stats()
    assert (told["sessions"], told["memories"], told["last_at"]) == (3, 1, replica.at.isoformat())
    assert await store.sessions(a_scope(), 10) == []


async def test_one_that_is_damaged_keeps_no_other_from_going() -> None:
    store = Shared()
    for number in range(3):
        await begin(store, a_key(f"s{number}"))
    replica = Replica(store)
    store.fail_at("forget", StoreCorrupt())
    await replica.retention.carry_out()
    told = replica.retention.stats()
    assert (told["sessions"], told["damaged"]) == (2, 1)


# As it is put together


@pytest.mark.parametrize("ground", ["postgres", "cosmos"])
async def test_over_a_record_that_is_shared_all_goes_and_the_other_service_shows_it_no_more(
    ground: str, request: pytest.FixtureRequest, make_settings: Callable[..., Settings]
) -> None:
    """By the real clocks: what is on record is from long ago."""
    given: dict[str, Any] = {"retention_days": 30, "tenant_retention_days": "globex=0"}
    if ground == "postgres":
        given["store_url"] = request.getfixturevalue("postgres_url")
    else:
        server = request.getfixturevalue("cosmos_server")
        given |= {"store_url": "cosmos:", "cosmos_endpoint": server.url, "cosmos_key": KEY}
    then = datetime.now(UTC) - timedelta(days=30, minutes=-1)
    settings = make_settings(**given)
    async with open_service(settings) as one, open_service(settings) as other:
        for scope, age in ((ANA, 2), (BEN, 2), (CAI, 0)):
            key = SessionKey(scope=scope, session_id="s")
            when = then - timedelta(minutes=age)
            await begin(record(one), key, touched_at=when)
            memory = a_memory("m", kind="memory", created_at=when)
            await record(one).commit(Commit(scope=scope, memories=(memory,)))
        of_ana = SessionKey(scope=ANA, session_id="s")
        assert (await other.context(of_ana)).session.session_id == "s"
        told = await carried_out(one)
        assert (told["sessions"], told["memories"], told["waits"]) == (1, 1, "")
        with pytest.raises(SessionNotFound):
            await other.context(of_ana)
        assert (await carried_out(other))["sessions"] == 0
        assert (await kept(one, ANA), len(await kept(one, BEN)), len(await kept(one, CAI))) == (set(), 2, 2)


async def test_it_is_done_without_being_asked(
    make_settings: Callable[..., Settings], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_service.app.EVERY_S", 0.01)
    async with open_service(make_settings(retention_days=30), clock.around) as service:
        await talk(service, ANA)
        clock.advance(days=31)
        await until(lambda: service.stats()["retention"]["sessions"])
    assert service.stats()["retention"]["waits"] == ""

"""The pool: one live object per session, LRU and TTL, and nothing shown that is not stored.

The store underneath really suspends: with one that never does, every race below would go unseen.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion, StoreUnavailable
from memory_service.pool import HotSession, SessionPool
from memory_service.stores.base import Commit
from memory_service.telling import Context, LongTerm
from memory_service.values import Hot, SessionKey
from tests.support.stores import FaultyStore, Hang
from tests.support.values import NOON, a_key, begin, next_turn

KEY = a_key()


class Ticks:
    """A monotonic clock that goes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Ticks:
    return Ticks()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def make_pool(store: FaultyStore, clock: Ticks) -> Callable[..., SessionPool]:
    def make(max_sessions: int = 100, ttl_s: float = 60) -> SessionPool:
        return SessionPool(store.load, store.commit, max_sessions=max_sessions, ttl_s=ttl_s, clock=clock)

    return make


@pytest.fixture
def pool(make_pool: Callable[..., SessionPool]) -> SessionPool:
    return make_pool()


async def grow(pool: SessionPool, key: SessionKey = KEY, turn_id: str = "", text: str = "hello") -> None:
    """Make the session one turn longer, as a verb does."""
    async with pool.lease(key) as entry:
        assert entry.hot is not None
        commit, then = next_turn(entry.hot, key, turn_id=turn_id, text=text)
        await pool.commit(key, entry, commit, then)


async def touch(pool: SessionPool, *keys: SessionKey) -> None:
    for key in keys:
        async with pool.lease(key):
            pass


async def loads(pool: SessionPool, store: FaultyStore, key: SessionKey) -> bool:
    """Whether reading this session asks the store."""
    before = store.calls["load"]
    await pool.read(key)
    return store.calls["load"] > before


async def sessions(store: FaultyStore, count: int) -> list[SessionKey]:
    keys = [a_key(f"s{number}") for number in range(count)]
    for key in keys:
        await begin(store, key)
    return keys


def turns_of(entry: HotSession) -> int:
    assert entry.hot is not None
    assert len(entry.hot.turns) == entry.hot.session.turn_count
    return len(entry.hot.turns)


# One live object


async def test_fifty_cold_leases_at_once_share_one_load_and_one_object(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=2)
    seen: list[HotSession] = []

    async def borrow() -> None:
        async with pool.lease(KEY) as entry:
            seen.append(entry)
            await asyncio.sleep(0)

    await asyncio.gather(*(borrow() for _ in range(50)))
    assert store.calls["load"] == 1
    assert len(seen) == 50
    assert len(set(map(id, seen))) == 1


async def test_fifty_cold_reads_at_once_share_one_load(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=2)
    entries = await asyncio.gather(*(pool.read(KEY) for _ in range(50)))
    assert store.calls["load"] == 1
    assert len(set(map(id, entries))) == 1
    assert turns_of(entries[0]) == 2


async def test_one_borrower_at_a_time(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY)
    inside = most = 0

    async def borrow() -> None:
        nonlocal inside, most
        async with pool.lease(KEY):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(borrow() for _ in range(20)))
    assert most == 1


async def test_borrowers_of_different_sessions_do_not_wait_for_each_other(
    pool: SessionPool, store: FaultyStore
) -> None:
    one, other = await sessions(store, 2)
    hang = store.hang_at("load")
    slow = asyncio.create_task(pool.read(one))
    await hang.reached.wait()
    async with asyncio.timeout(5):
        await grow(pool, other)
    assert not slow.done()
    hang.release()
    await slow


@pytest.mark.parametrize("max_sessions", [100, 1, 0])
async def test_turns_stored_at_once_are_all_stored_in_any_pool(
    make_pool: Callable[..., SessionPool], store: FaultyStore, max_sessions: int
) -> None:
    """Sessions are dropped from the pool all the time here, while others are waiting to borrow them."""
    pool = make_pool(max_sessions)
    keys = await sessions(store, 5)

    async def talk(number: int) -> None:
        await grow(pool, keys[number % 5], turn_id=f"turn-{number}")

    await asyncio.gather(*map(talk, range(100)))
    for place, key in enumerate(keys):
        turns = await store.turns(key)
        assert [turn.seq for turn in turns] == list(range(1, 21))
        assert {turn.turn_id for turn in turns} == {f"turn-{number}" for number in range(place, 100, 5)}


async def test_a_session_dropped_while_it_is_borrowed_is_still_the_same_object_to_the_next(
    make_pool: Callable[..., SessionPool], store: FaultyStore
) -> None:
    pool = make_pool(1)
    one, other = await sessions(store, 2)
    await touch(pool, one)
    async with pool.lease(one) as held:
        await touch(pool, other)  # takes the only place
        next_one = asyncio.create_task(self_of(pool, one))
        await asyncio.sleep(0)
        before = store.calls["load"]
    assert await next_one is held
    assert store.calls["load"] == before


async def test_a_session_being_read_from_the_store_can_be_dropped_and_is_not_read_twice(
    pool: SessionPool, store: FaultyStore
) -> None:
    await begin(store, KEY, turns=1)
    hang = store.hang_at("load")
    first, second = asyncio.create_task(self_of(pool, KEY)), asyncio.create_task(self_of(pool, KEY))
    await hang.reached.wait()
    pool.evict_all()
    hang.release()
    assert await first is await second
    assert store.calls["load"] == 1


async def self_of(pool: SessionPool, key: SessionKey) -> HotSession:
    async with pool.lease(key) as entry:
        return entry


# Commit first, then show


async def test_readers_see_the_former_state_until_the_commit_is_done(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    await pool.read(KEY)
    hang = store.hang_at("commit")
    growing = asyncio.create_task(grow(pool))
    await hang.reached.wait()
    async with asyncio.timeout(5):
        for _ in range(3):
            assert turns_of(await pool.read(KEY)) == 1
    assert not growing.done()
    hang.release()
    await growing
    assert turns_of(await pool.read(KEY)) == 2


@pytest.mark.parametrize("took_effect", [False, True])
@pytest.mark.parametrize("error", [StoreUnavailable("it failed"), StaleVersion()], ids=["unavailable", "stale"])
async def test_after_a_failed_commit_the_store_is_asked_again(
    pool: SessionPool, store: FaultyStore, error: Exception, took_effect: bool
) -> None:
    """Whether the write took effect cannot be known here, so what is held is worth nothing."""
    await begin(store, KEY, turns=1)
    await pool.read(KEY)
    store.fail_at("commit", error, after=took_effect)
    with pytest.raises(type(error)):
        await grow(pool)
    before = store.calls["load"]
    assert turns_of(await pool.read(KEY)) == 1 + took_effect
    assert store.calls["load"] == before + 1
    await grow(pool)
    assert len(await store.turns(KEY)) == 2 + took_effect


async def test_after_a_cancelled_commit_the_store_is_asked_again(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    await pool.read(KEY)
    hang = store.hang_at("commit")
    growing = asyncio.create_task(grow(pool))
    await hang.reached.wait()
    growing.cancel()
    hang.release()
    with pytest.raises(asyncio.CancelledError):
        await growing
    assert await loads(pool, store, KEY)
    assert turns_of(await pool.read(KEY)) == 2


async def test_those_who_wait_for_a_lease_after_a_failed_commit_get_what_is_stored(
    pool: SessionPool, store: FaultyStore
) -> None:
    await begin(store, KEY)
    hang = store.hang_at("commit")
    store.fail_at("commit", StoreUnavailable("it failed"), after=True)
    tasks = [asyncio.create_task(grow(pool, turn_id=f"turn-{number}")) for number in range(10)]
    await hang.reached.wait()
    hang.release()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] + [type(None)] * 9
    assert [turn.seq for turn in await store.turns(KEY)] == list(range(1, 11))


async def test_a_failed_load_is_told_and_the_next_one_asks_again(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    store.fail_at("load", StoreUnavailable("it failed"))
    with pytest.raises(StoreUnavailable):
        await pool.read(KEY)
    assert pool.stats()["total_sessions"] == 0
    assert turns_of(await pool.read(KEY)) == 1


async def test_a_verb_that_fails_before_its_commit_leaves_the_session_as_it_was(
    pool: SessionPool, store: FaultyStore
) -> None:
    await begin(store, KEY, turns=1)
    with pytest.raises(ZeroDivisionError):
        async with pool.lease(KEY):
            raise ZeroDivisionError
    assert turns_of(await pool.read(KEY)) == 1
    await grow(pool)


async def test_a_new_state_leaves_no_context_of_the_former_behind(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    entry = await pool.read(KEY)
    assert entry.hot is not None
    entry.context = Context(session=entry.hot.session, turns=(), insights=(), summaries=(), text="of one turn")
    entry.context_of = entry.hot, LongTerm()
    await grow(pool)
    assert [entry.context, entry.context_of] == [None, None]


# Unknown sessions


async def test_an_unknown_session_is_none_and_is_not_kept(pool: SessionPool, store: FaultyStore) -> None:
    for number in range(10):
        async with pool.lease(a_key(f"unknown{number}")) as entry:
            assert entry.hot is None
        assert (await pool.read(a_key(f"unknown{number}"))).hot is None
    del entry
    gc.collect()
    assert pool.stats()["total_sessions"] == 0
    assert len(pool._living) == 0
    await begin(store, a_key("unknown1"), turns=1)  # it may come to be at any time
    assert turns_of(await pool.read(a_key("unknown1"))) == 1


async def test_a_session_of_another_user_or_tenant_is_another_session(pool: SessionPool, store: FaultyStore) -> None:
    for turns, key in enumerate([a_key(), a_key(user_id="ben"), a_key(tenant_id="acme")]):
        await begin(store, key, turns=turns)
    for turns, key in enumerate([a_key(), a_key(user_id="ben"), a_key(tenant_id="acme")]):
        assert turns_of(await pool.read(key)) == turns


# LRU and TTL


async def test_the_least_recently_used_session_goes_first(
    make_pool: Callable[..., SessionPool], store: FaultyStore
) -> None:
    pool = make_pool(3)
    a, b, c, d, e, f = await sessions(store, 6)
    await touch(pool, a, b, c)
    await pool.read(a)  # read,
    await touch(pool, d)  # b goes
    await grow(pool, c)  # or written: both are uses
    await touch(pool, e)  # a goes
    await touch(pool, f)  # d goes
    assert [await loads(pool, store, key) for key in (c, e, f)] == [False] * 3
    assert pool.stats()["evictions"] == 3


async def test_a_session_idle_for_the_ttl_goes_and_one_in_use_stays(
    pool: SessionPool, store: FaultyStore, clock: Ticks
) -> None:
    idle, read, grown = await sessions(store, 3)
    await touch(pool, idle, read, grown)
    for _ in range(3):
        clock.now += 59
        await pool.read(read)
        await grow(pool, grown)
    assert await pool.evict_idle() in (0, 1)  # `idle` may have gone before, when another was used
    assert pool.stats()["total_sessions"] == 2
    assert pool.stats()["evictions"] == 1
    assert [await loads(pool, store, key) for key in (read, grown, idle)] == [False, False, True]


async def test_the_ttl_counts_from_the_last_use(pool: SessionPool, store: FaultyStore, clock: Ticks) -> None:
    await begin(store, KEY)
    await pool.read(KEY)
    clock.now += 59.9
    assert await pool.evict_idle() == 0
    await pool.read(KEY)
    clock.now += 59.9
    assert await pool.evict_idle() == 0
    clock.now += 0.1
    assert await pool.evict_idle() == 1
    assert await loads(pool, store, KEY)


async def test_a_session_idle_for_the_ttl_while_it_is_borrowed_is_one_object_to_the_end(
    pool: SessionPool, store: FaultyStore, clock: Ticks
) -> None:
    await begin(store, KEY)
    await pool.read(KEY)
    async with pool.lease(KEY) as held:
        clock.now += 1000
        await pool.evict_idle()
        waiting = asyncio.create_task(self_of(pool, KEY))
        await asyncio.sleep(0)
    assert await waiting is held


@pytest.mark.parametrize("capacity", [0, 1])
async def test_the_smallest_pools_work(
    make_pool: Callable[..., SessionPool], store: FaultyStore, capacity: int
) -> None:
    pool = make_pool(capacity)
    one, other = await sessions(store, 2)
    for _ in range(3):
        await grow(pool, one)
        await grow(pool, other)
    assert len(await store.turns(one)) == len(await store.turns(other)) == 3
    stats = pool.stats()
    assert stats["total_sessions"] == stats["max_capacity"] == capacity
    assert stats["utilization"] == capacity
    assert (await loads(pool, store, other), await loads(pool, store, one)) == (capacity == 0, True)
    await pool.evict_idle()
    pool.evict_all()


async def test_evicting_all_asks_for_everything_again_and_loses_nothing(
    pool: SessionPool, store: FaultyStore, clock: Ticks
) -> None:
    old, new = await sessions(store, 2)
    await grow(pool, old)
    clock.now += 61  # past the TTL, and nobody has looked since
    await grow(pool, new)
    clock.now += 1
    pool.evict_all()
    assert pool.stats()["total_sessions"] == 0
    for key in (old, new):
        assert await loads(pool, store, key)
        assert turns_of(await pool.read(key)) == 1


async def test_evicting_all_drops_those_past_the_ttl_as_well(
    pool: SessionPool, store: FaultyStore, clock: Ticks
) -> None:
    await begin(store, KEY)
    await pool.read(KEY)
    clock.now += 61
    pool.evict_all()
    assert await loads(pool, store, KEY)


# Numbers


async def test_stats_have_the_names_of_the_seed_and_the_right_numbers(
    make_pool: Callable[..., SessionPool], store: FaultyStore, clock: Ticks
) -> None:
    pool = make_pool(8, ttl_s=1800)
    assert pool.stats() == {
        "total_sessions": 0,
        "dirty_sessions": 0,
        "max_capacity": 8,
        "coherence": "exclusive",
        "utilization": 0.0,
        "ttl_seconds": 1800,
        "avg_age_seconds": 0.0,
        "oldest_age_seconds": 0.0,
        "hits": 0,
        "misses": 0,
        "evictions": 0,
    }
    one, other = await sessions(store, 2)
    await pool.read(one)
    clock.now += 10
    await pool.read(other)
    clock.now += 2
    await pool.read(other)
    clock.now += 5
    stats = pool.stats()
    assert stats["total_sessions"] == 2
    assert stats["utilization"] == 0.25
    assert stats["oldest_age_seconds"] == 17
    assert stats["avg_age_seconds"] == (17 + 5) / 2
    assert (stats["hits"], stats["misses"], stats["evictions"]) == (1, 2, 0)


async def test_every_borrowing_is_a_hit_or_a_miss(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY)
    for _ in range(3):
        await grow(pool)
        await pool.read(KEY)
    await pool.read(a_key("unknown"))
    stats = pool.stats()
    assert (stats["hits"], stats["misses"]) == (5, 2)


async def test_asking_for_stats_does_not_change_who_is_dropped_next(
    make_pool: Callable[..., SessionPool], store: FaultyStore, clock: Ticks
) -> None:
    """Two pools of the same uses, one asked for its stats all the time: they miss the same sessions."""
    asked, left_alone = make_pool(5, ttl_s=1000), make_pool(5, ttl_s=1000)
    keys = await sessions(store, 10)
    chance = Random(1)
    for step in range(300):
        clock.now += 1
        key = chance.choice(keys)
        for pool in (asked, left_alone):
            await pool.read(key)
        if step % 7 == 0:  # not at each: where it put the next in order again, that would be undone
            asked.stats()
        assert asked.misses == left_alone.misses
    assert 0 < asked.misses < 300


async def test_asking_for_stats_does_not_keep_a_session_young(
    pool: SessionPool, store: FaultyStore, clock: Ticks
) -> None:
    await begin(store, KEY)
    await pool.read(KEY)
    for _ in range(3):
        clock.now += 19
        assert pool.stats()["total_sessions"] == 1
    clock.now += 3
    assert pool.stats()["total_sessions"] == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_dirty_sessions_are_those_with_a_commit_under_way(
    pool: SessionPool, store: FaultyStore, fails: bool
) -> None:
    keys = await sessions(store, 3)
    tasks, hangs = [], []
    for number, key in enumerate(keys):
        hang = store.hang_at("commit")
        tasks.append(asyncio.create_task(grow(pool, key)))
        await hang.reached.wait()
        hangs.append(hang)
        assert pool.stats()["dirty_sessions"] == number + 1
    if fails:
        store.fail_at("commit", StoreUnavailable("it failed"))
    for hang in hangs:
        hang.release()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert pool.stats()["dirty_sessions"] == 0


async def test_hot_values_that_were_handed_out_never_change(pool: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    entry = await pool.read(KEY)
    hot = entry.hot
    await grow(pool)
    assert isinstance(hot, Hot)
    assert len(hot.turns) == 1
    assert entry.hot is not hot


# Where others write the same record


@pytest.fixture
def shared(store: FaultyStore, clock: Ticks) -> SessionPool:
    return SessionPool(store.load, store.commit, max_sessions=8, ttl_s=1800, look=store.head, clock=clock)


async def test_only_a_session_that_nobody_else_can_write_is_known_without_a_look(
    pool: SessionPool, shared: SessionPool, store: FaultyStore
) -> None:
    await begin(store, KEY, turns=1)
    assert (pool.held(KEY), pool.use(KEY)) == (None, None)
    for either in (pool, shared):
        await either.read(KEY)
    used = pool.use(KEY)
    assert used is not None
    assert pool.held(KEY) is used.hot is not None
    assert (shared.held(KEY), shared.use(KEY)) == (None, None)


async def test_what_somebody_else_moved_is_loaded_anew(shared: SessionPool, store: FaultyStore) -> None:
    head = await begin(store, KEY, turns=1)
    assert (await shared.read(KEY)).hot is not None
    await store.commit(Commit(scope=KEY.scope, session=head.touched(NOON)))
    entry = await shared.read(KEY)
    assert entry.hot is not None
    assert entry.hot.session.version == head.version + 1
    async with shared.lease(KEY) as leased:
        assert leased.hot == entry.hot


async def test_what_nobody_moved_costs_one_look_and_no_load(shared: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    first = (await shared.read(KEY)).hot
    store.calls.clear()
    assert (await shared.read(KEY)).hot is first
    async with shared.lease(KEY) as entry:
        assert entry.hot is first
    assert store.calls == {"head": 2}


async def test_whoever_will_commit_anyway_need_not_look(shared: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    await shared.read(KEY)
    store.calls.clear()
    async with shared.lease(KEY, checked=False) as entry:
        assert entry.hot is not None
    assert store.calls == {}


async def test_what_was_erased_elsewhere_is_gone_here(shared: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    await shared.read(KEY)
    await store.erase(KEY.scope)
    assert (await shared.read(KEY)).hot is None


async def test_a_commit_made_during_a_look_is_not_let_go_of(shared: SessionPool, store: FaultyStore) -> None:
    """The look may have seen the state before it."""
    head = await begin(store, KEY, turns=1)
    before = (await shared.read(KEY)).hot
    assert before is not None
    await store.commit(Commit(scope=KEY.scope, session=head.touched(NOON)))
    hang = store.hang_at("head")
    reading = asyncio.create_task(shared.read(KEY))
    await hang.reached.wait()
    then = replace(before, session=head.touched(NOON).touched(NOON))
    async with shared.lease(KEY, checked=False) as entry:
        await shared.commit(KEY, entry, Commit(scope=KEY.scope, session=then.session), then)
    hang.release()
    assert (await reading).hot is then


async def test_a_look_that_fails_is_said_and_not_taken_for_no_change(shared: SessionPool, store: FaultyStore) -> None:
    await begin(store, KEY, turns=1)
    await shared.read(KEY)
    store.fail_at("head", StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable):
        await shared.read(KEY)
    assert (await shared.read(KEY)).hot is not None


class LateLoads(FaultyStore):
    """What it loads is on its way for long: others move on meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.on_its_way: Hang | None = None

    async def _load(self, key: SessionKey) -> Hot | None:
        hot = await super()._load(key)
        if hang := self.on_its_way:
            self.on_its_way = None
            hang.reached.set()
            await hang.released.wait()
        return hot


async def test_who_comes_later_is_not_shown_what_was_loaded_for_who_came_before(clock: Ticks) -> None:
    store = LateLoads()
    shared = SessionPool(store.load, store.commit, max_sessions=8, ttl_s=1800, look=store.head, clock=clock)
    head = await begin(store, KEY, turns=1)
    for _ in range(2):  # the session is cold the first time, and hot and moved by somebody else the second
        hang = store.on_its_way = Hang()
        before = asyncio.create_task(shared.read(KEY))
        await hang.reached.wait()
        head = head.touched(NOON)
        await store.commit(Commit(scope=KEY.scope, session=head))
        after = asyncio.create_task(shared.read(KEY))
        await asyncio.sleep(0)
        hang.release()
        await before
        hot = (await after).hot
        assert hot is not None
        assert hot.session == head
        head = head.touched(NOON)
        await store.commit(Commit(scope=KEY.scope, session=head))


async def test_what_is_said_to_have_moved_on_is_let_go_of(shared: SessionPool, store: FaultyStore) -> None:
    head = await begin(store, KEY, turns=1)
    await shared.read(KEY)
    shared.let_go(KEY, head.incarnation, head.version + 1)
    assert shared.stats()["total_sessions"] == 0
    store.calls.clear()
    entry = await shared.read(KEY)
    assert entry.hot is not None
    assert store.calls == {"load": 1}
    shared.let_go(KEY, "another incarnation", 1)
    assert entry.hot is None


async def test_what_is_said_of_the_past_changes_nothing(shared: SessionPool, store: FaultyStore) -> None:
    head = await begin(store, KEY, turns=1)
    hot = (await shared.read(KEY)).hot
    for version in range(head.version + 1):
        shared.let_go(KEY, head.incarnation, version)
    shared.let_go(a_key("unknown"), head.incarnation, 99)
    entry = await shared.read(KEY)
    assert entry.hot is hot


async def test_what_is_said_falsely_in_the_middle_of_a_change_does_no_harm(
    shared: SessionPool, store: FaultyStore
) -> None:
    head = await begin(store, KEY, turns=1)
    await shared.read(KEY)
    hang = store.hang_at("commit")
    growing = asyncio.create_task(grow(shared))
    await hang.reached.wait()
    shared.let_go(KEY, head.incarnation, 99)
    hang.release()
    await growing
    assert turns_of(await shared.read(KEY)) == 2


async def test_others_are_told_what_was_committed_and_nothing_else(store: FaultyStore, clock: Ticks) -> None:
    told: list[Hot] = []
    pool = SessionPool(
        store.load,
        store.commit,
        max_sessions=8,
        ttl_s=60,
        look=store.head,
        tell=lambda _, hot: told.append(hot),
        clock=clock,
    )
    await begin(store, KEY)
    await pool.read(KEY)
    await grow(pool)
    for after in (False, True):
        store.fail_at("commit", StoreUnavailable("gone"), after=after)
        with pytest.raises(StoreUnavailable):
            await grow(pool)
    assert [hot.session.turn_count for hot in told] == [1]

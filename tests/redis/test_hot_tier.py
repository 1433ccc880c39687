"""The hot tier over a real server: what is kept of a session, and that none of it is believed without the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from memory_service import hot_tier
from memory_service.errors import StoreUnavailable, UnsafeStart
from memory_service.hot_tier import CHANNEL, LARGEST, HotTier, body_of, client_of, index_of, name_of
from memory_service.stores.base import Commit
from memory_service.values import Hot, Session
from tests.redis.conftest import MakeTier
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, a_scope, a_session, a_turn, begin, minutes

KEY = a_key()
NAME = name_of(KEY)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a moment is no failure of Redis."""
    monkeypatch.setattr(hot_tier, "FIND_S", 10)
    monkeypatch.setattr(hot_tier, "BEHIND_S", 10)


def at(version: int, incarnation: str = "i") -> Hot:
    """A session of so many commits, its turns telling which it is."""
    head = a_session(version=version, incarnation=incarnation, turn_count=1)
    return Hot(session=head, turns=(a_turn(1, text=f"{incarnation}{version}"),))


async def ttl_ms(raw: Redis, name: str = NAME) -> int:
    return int(await raw.pttl(name))


# Compare and set


async def test_what_is_kept_is_found_as_it_was(tier: HotTier) -> None:
    odd = replace(at(1), turns=(a_turn(1, text="ä\0\u2028 \U0001f600", metadata={"a": [1, None, {"b": 2.5}]}),))
    assert await tier.keep(KEY, odd) == "kept"
    assert await tier.find(KEY) == odd
    assert await tier.find(a_key("another")) is None


@pytest.mark.parametrize("older", [1, 8, 9])
async def test_an_older_version_never_replaces_a_newer_one(tier: HotTier, older: int) -> None:
    await tier.keep(KEY, at(10))
    assert await tier.keep(KEY, at(older)) == "older"
    assert await tier.find(KEY) == at(10)
    assert await tier.keep(KEY, at(11)) == "kept"
    assert await tier.find(KEY) == at(11)


async def test_of_many_that_keep_at_once_the_newest_stays(make_tier: MakeTier) -> None:
    tiers = [make_tier() for _ in range(3)]
    versions = [(number * 7) % 60 + 1 for number in range(60)]
    await asyncio.gather(*(tiers[version % 3].keep(KEY, at(version)) for version in versions))
    assert await tiers[0].find(KEY) == at(60)


async def test_another_incarnation_replaces_whatever_its_version(tier: HotTier) -> None:
    await tier.keep(KEY, at(10))
    assert await tier.keep(KEY, at(1, "j")) == "kept"
    assert await tier.find(KEY) == at(1, "j")


async def test_what_is_kept_lives_for_the_ttl_from_when_it_was_last_kept(make_tier: MakeTier, raw: Redis) -> None:
    short, long = make_tier(ttl_s=30), make_tier(ttl_s=60)
    await short.keep(KEY, at(2))
    assert 20_000 < await ttl_ms(raw) <= 30_000
    assert await long.keep(KEY, at(2)) == "renewed"
    assert 50_000 < await ttl_ms(raw) <= 60_000
    assert await short.keep(KEY, at(1)) == "older"
    assert await ttl_ms(raw) > 50_000
    assert 0 < await ttl_ms(raw, index_of(KEY.scope)) <= 60_000


async def test_what_lived_long_enough_is_gone(make_tier: MakeTier) -> None:
    tier = make_tier(ttl_s=0.01)
    await tier.keep(KEY, at(1))
    await asyncio.sleep(0.03)
    assert await tier.find(KEY) is None


async def test_it_is_told_once_that_a_session_moved(tier: HotTier, raw: Redis) -> None:
    async with raw.pubsub(ignore_subscribe_messages=True) as line:
        await line.subscribe(CHANNEL)
        await line.get_message(timeout=1)
        for hot in (at(2), at(2), at(1), at(3)):
            await tier.keep(KEY, hot)
        heard = [await line.get_message(timeout=0.3) for _ in range(3)]
    assert [json.loads(message["data"])["version"] for message in heard if message] == [2, 3]


async def test_damage_under_the_name_is_written_over(tier: HotTier, raw: Redis) -> None:
    for damage in (b"", b"garbage", b"\xff" * 99, b"0 x y z"):
        await raw.set(NAME, damage)
        assert await tier.keep(KEY, at(2)) == "kept"
        assert await tier.find(KEY) == at(2)
    await raw.delete(NAME)
    await raw.lpush(NAME, "of another type")
    assert await tier.find(KEY) is None
    assert await tier.keep(KEY, at(2)) == "kept"
    assert await tier.find(KEY) == at(2)


async def test_a_script_that_the_server_has_forgotten_is_sent_again(tier: HotTier, raw: Redis) -> None:
    await tier.keep(KEY, at(1))
    await raw.script_flush()
    assert await tier.keep(KEY, at(2)) == "kept"


async def test_names_hold_no_words_of_users_and_are_never_anothers(tier: HotTier, raw: Redis) -> None:
    odd = ["s", "a:b", "a}:{b", "*", "s\n", "ä", "x" * 500]
    keys = [a_key(one, user_id=other, tenant_id=third) for one in odd for other in odd for third in ("t", "a:b")]
    assert len({name_of(key) for key in keys}) == len(keys)
    await tier.keep(a_key("secret-session", "secret-user", "secret-tenant"), at(1))
    names = await raw.keys("*")
    assert len(names) == 2
    assert not any(b"secret" in name for name in names)
    assert len({name.split(b"{")[1].split(b"}")[0] for name in names}) == 1, "a cluster has them in one place"


async def test_a_user_can_be_forgotten_without_looking_through_everybodys(tier: HotTier, raw: Redis) -> None:
    for number in range(5):
        await tier.keep(a_key(f"s{number}"), at(1))
    await tier.keep(a_key("s0", "ben"), at(1))
    assert await tier.forget(a_scope("ana"))
    assert await tier.find(a_key("s0")) is None
    assert await tier.find(a_key("s0", "ben")) == at(1)
    assert len(await raw.keys("*")) == 2
    assert await tier.forget(a_scope("ana"))


async def test_the_list_of_a_users_sessions_does_not_grow_with_those_that_are_gone(
    make_tier: MakeTier, raw: Redis
) -> None:
    short, long = make_tier(ttl_s=0.01), make_tier()
    await long.keep(a_key("stays"), at(1))
    for number in range(5):
        await short.keep(a_key(f"s{number}"), at(1))
    assert await raw.zcard(index_of(KEY.scope)) > 1
    assert await ttl_ms(raw, index_of(KEY.scope)) > 50_000, "as long as what lives longest"
    await asyncio.sleep(0.03)
    await long.keep(KEY, at(1))
    assert await raw.zcard(index_of(KEY.scope)) == 2


# What is believed


async def stored(store: FaultyStore, **changes: object) -> Hot:
    """A session of two turns in the store."""
    await begin(store, KEY, turns=2, **changes)
    hot = await store.load(KEY)
    assert hot is not None
    store.calls.clear()
    return hot


async def test_content_of_exactly_the_stored_head_saves_the_load(tier: HotTier, store: FaultyStore) -> None:
    hot = await stored(store)
    await tier.keep(KEY, hot)
    assert await tier.load(KEY) == hot
    assert store.calls == {"head": 1}
    assert (tier.hits, tier.misses, tier.stale) == (1, 0, 0)


async def test_a_session_that_does_not_exist_costs_one_look(tier: HotTier, store: FaultyStore) -> None:
    await tier.keep(KEY, at(1))
    assert await tier.load(KEY) is None
    assert store.calls == {"head": 1}


def touched(head: Session, version: int) -> Session:
    return replace(head.touched(minutes(9)), version=version)


@pytest.mark.parametrize(
    "lie",
    [
        lambda hot: replace(hot, session=replace(hot.session, version=hot.session.version - 1)),
        lambda hot: replace(hot, session=touched(hot.session, hot.session.version + 1)),
        lambda hot: replace(hot, session=touched(hot.session, hot.session.version)),
        lambda hot: replace(hot, session=replace(hot.session, incarnation="before it was erased")),
        lambda hot: replace(hot, session=replace(hot.session, cumulative_summary="other")),
    ],
    ids=["older", "newer", "same version, other commit", "other incarnation", "other summary"],
)
async def test_content_of_any_other_head_is_not_believed(tier: HotTier, store: FaultyStore, lie: object) -> None:
    hot = await stored(store)
    wrong = lie(hot)  # type: ignore[operator]
    await tier.keep(KEY, replace(wrong, turns=(a_turn(1, text="never said"),)))
    assert await tier.load(KEY) == hot
    assert store.calls == {"head": 1, "load": 1}
    assert (tier.hits, tier.stale) == (0, 1)


async def test_what_moves_between_the_finding_and_the_look_is_not_missed(tier: HotTier, store: FaultyStore) -> None:
    hot = await stored(store)
    await tier.keep(KEY, hot)
    hang = store.hang_at("head")
    loading = asyncio.create_task(tier.load(KEY))
    await hang.reached.wait()
    await asyncio.sleep(0.05)  # by now it has found the older
    then = hot.session.touched(NOON)
    await store.commit(Commit(scope=KEY.scope, session=then))
    hang.release()
    loaded = await loading
    assert loaded is not None
    assert loaded.session == then


def damaged(hot: Hot) -> dict[str, bytes]:
    body = body_of(NAME, hot)
    at_word = body.index(b"hello")
    head = body.split(b" ", 3)
    return {
        "empty": b"",
        "garbage": b"\xff\x00garbage" * 50,
        "nothing but spaces": b"    ",
        "truncated": body[:-20],
        "cut in its head": body[:40],
        "one bit": body[:at_word] + b"H" + body[at_word + 1 :],
        "longer": body + b" ",
        "of another session": body_of(name_of(a_key("another")), hot),
        "of another format": b" ".join([*head[:2], b"f2", head[3]]),
        "no session, well sealed": sealed(b'{"session": 1}'),
        "no text, well sealed": sealed(b"\xff\xfe"),
        "huge": body + b" " * LARGEST,
    }


def sealed(said: bytes) -> bytes:
    return b" ".join([b"0" * 32, b"1", hot_tier._seal(NAME, said), said])


@pytest.mark.parametrize("damage", list(damaged(Hot(session=a_session(), turns=(a_turn(1),)))))
async def test_damaged_content_is_not_believed_and_is_put_right(
    tier: HotTier, store: FaultyStore, raw: Redis, damage: str
) -> None:
    hot = await stored(store)
    await raw.set(NAME, damaged(hot)[damage])
    assert await tier.load(KEY) == hot
    assert store.calls == {"head": 1, "load": 1}
    await tier.keep(KEY, hot)
    assert await tier.load(KEY) == hot
    assert tier.hits == 1


async def test_a_very_long_session_is_not_kept(tier: HotTier, store: FaultyStore) -> None:
    many = Hot(session=a_session(turn_count=1), turns=(a_turn(1, text="x" * LARGEST),))
    tier.keep_soon(KEY, many)
    tricky = Hot(session=a_session(turn_count=1), turns=(a_turn(1, metadata={"x": "x" * LARGEST}),))
    assert await tier.keep(KEY, tricky) is None
    assert tier.stats()["dropped"] == 2
    assert not tier._waiting


async def test_another_version_of_the_service_has_names_of_its_own() -> None:
    """The names hold a digest of all fields of what is kept."""
    assert hot_tier.PREFIX.startswith(f"agent-memory:{hot_tier.FORMAT}-")
    assert len(hot_tier.PREFIX.partition("-")[2].partition("-")[2]) == 12


async def test_what_the_store_says_of_a_failure_is_passed_on(tier: HotTier, store: FaultyStore) -> None:
    hot = await stored(store)
    await tier.keep(KEY, hot)
    store.fail_at("head", StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable):
        await tier.load(KEY)
    store.fail_at("load", StoreUnavailable("gone"))
    await tier.keep(KEY, replace(hot, session=hot.session.touched(NOON)))
    with pytest.raises(StoreUnavailable):
        await tier.load(KEY)


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "redis",
        "http://cache",
        "unix:///tmp/redis.sock",
        "redis://",
        "redis://:secret@",
        "redis://cache:secret",
        "redis://cache:99999",
        "redis://cache/secret",
        "redis://cache/-1",
        "redis://cache?socket_timeout=99",
        "redis://[cache",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(UnsafeStart, match=r"^REDIS_URL") as caught:
        client_of(url)
    assert "secret" not in str(caught.value)


@pytest.fixture
async def closing() -> AsyncIterator[list[Redis]]:
    made: list[Redis] = []
    yield made
    for redis in made:
        await redis.aclose()


async def test_a_url_says_where_and_who(closing: list[Redis]) -> None:
    closing.append(client_of("rediss://ana:a%2Fb@cache.example:6380/3"))
    given = closing[0].connection_pool.connection_kwargs
    assert [given[name] for name in ("host", "port", "db", "username", "password")] == [
        "cache.example",
        6380,
        3,
        "ana",
        "a/b",
    ]
    closing.append(client_of("redis://cache"))
    given = closing[1].connection_pool.connection_kwargs
    assert (given["host"], given["port"], given["db"], given["password"]) == ("cache", 6379, 0, None)

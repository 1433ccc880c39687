"""API keys: shown once, kept as a digest, found by what is presented, and of no use soon after they are revoked."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from memory_service.errors import KeyNotFound, KeyNotInUse, StoreUnavailable, ValidationFailed
from memory_service.keys import KNOWN_S, MOST_KNOWN, Keys, _check_of
from memory_service.migration import Migration
from memory_service.stores.bodies import key_of, text_of
from memory_service.stores.keys import ApiKey
from tests.stores.contract_keys import an_api_key
from tests.support.stores import FaultyStore
from tests.support.values import NOON, minutes


class Process:
    """One process on a store that others may share, with clocks that a test sets."""

    def __init__(self, store: FaultyStore | None = None) -> None:
        self.store = store or FaultyStore()
        self.now, self.seconds = NOON, 0.0
        self.keys = Keys(self.store, now=lambda: self.now, monotonic=lambda: self.seconds)

    async def made(self, **changes: object) -> tuple[ApiKey, str]:
        given: dict[str, object] = {"permissions": ["read"], **changes}
        return await self.keys.create("the app", "acme", **given)  # type: ignore[arg-type]

    @property
    def looks(self) -> int:
        return self.store.calls["find_key"]


@pytest.fixture
def here() -> Process:
    return Process()


async def test_a_key_is_found_by_its_text_and_says_what_it_may(here: Process) -> None:
    key, text = await here.made(user_id="ana", permissions=["read", "erase"], lifetime=timedelta(days=1))
    assert await here.keys.find(text) == key == await here.store.find_key(key.key_id)
    assert (key.tenant_id, key.user_id, key.permissions) == ("acme", "ana", {"read", "erase"})
    assert (key.created_at, key.expires_at) == (NOON, NOON + timedelta(days=1))


async def test_a_key_of_one_user_says_what_it_may_in_spaces_and_so_does_the_next_in_its_place(here: Process) -> None:
    spaces = {"research": frozenset({"read", "write"})}
    key, text = await here.made(user_id="ana", spaces={"research": ["read", "write"]})
    assert key.spaces == spaces
    made, other = await here.keys.rotate(key)
    assert await here.keys.find(other) == made
    assert (made.user_id, made.spaces, made.permissions) == ("ana", spaces, key.permissions)
    assert await here.keys.find(text) is not None
    with pytest.raises(ValidationFailed, match="spaces"):
        await here.made(spaces=spaces)
    assert (await here.made())[0].spaces == {}


def test_a_key_from_before_there_were_spaces_has_none() -> None:
    key = an_api_key(user_id="ana")
    before = {name: value for name, value in json.loads(text_of(key)).items() if name != "spaces"}
    assert key_of(json.dumps(before)) == key
    with pytest.raises(msgspec.DecodeError):
        key_of(json.dumps({**before, "spaces": {"research": ["admin"]}}))


async def test_its_text_has_a_form_that_scanners_know_and_no_part_of_its_secret_is_kept(here: Process) -> None:
    texts = [(await here.made())[1] for _ in range(20)]
    assert len(set(texts)) == 20
    for text in texts:
        assert re.fullmatch(r"mem_[a-z0-9]{8}_[A-Za-z0-9]{42}", text)
        secret = text.split("_")[2][:36]
        kept = repr(await here.keys.of_tenant()) + repr(vars(here.store.inner))
        assert secret not in kept
        assert secret[:12] not in kept


async def test_a_slip_of_the_pen_is_no_key_and_asks_nobody(here: Process) -> None:
    key, text = await here.made()
    assert await here.keys.find(text) == key
    looks = here.looks
    slips = [text[:i] + ("x" if text[i] != "x" else "y") + text[i + 1 :] for i in range(len(text))]
    swapped = [text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(4, 54) if text[i] != text[i + 1]]
    odd = ["", "mem_", text[:-1], text + "a", f" {text}", f"{text}\n", text.upper(), text + "\0", "mem_é", "ключ"]
    for wrong in [*slips, *swapped, *odd]:
        assert await here.keys.find(wrong) is None, wrong
        assert here.keys.remembered(wrong) is None
    assert here.looks == looks


async def test_another_secret_under_a_known_id_is_refused_also_while_the_right_one_is_remembered(here: Process) -> None:
    key, text = await here.made()
    stem = f"mem_{key.key_id}_{'A' * 36}"
    forged = stem + _check_of(stem)
    for _ in range(2):
        assert await here.keys.find(forged) is None
        assert here.keys.remembered(forged) is None
        assert await here.keys.find(text) == here.keys.remembered(text) == key


async def test_a_key_that_is_revoked_elsewhere_works_at_most_five_seconds_more() -> None:
    """S21, but for HTTP."""
    here = Process()
    there = Process(here.store)
    key, text = await here.made()
    assert await there.keys.find(text) == key
    await here.keys.revoke(key)
    assert await here.keys.find(text) is None  # at once where it was done
    there.seconds = 5
    assert there.keys.remembered(text) is None
    assert await there.keys.find(text) is None
    assert KNOWN_S < 5


async def test_a_key_that_is_remembered_still_expires(here: Process) -> None:
    key, text = await here.made(lifetime=timedelta(seconds=2))
    assert await here.keys.find(text) == key
    here.now = NOON + timedelta(seconds=2)
    assert here.keys.remembered(text) is None
    assert await here.keys.find(text) is None


async def test_what_is_known_of_an_id_is_not_asked_again_for_some_seconds(here: Process) -> None:
    _, text = await here.made()
    stem = "mem_nobody00_" + "B" * 36
    before = here.looks
    for seconds in (0, 1, KNOWN_S - 0.01):
        here.seconds = seconds
        await here.keys.find(text)
        assert await here.keys.find(stem + _check_of(stem)) is None
    assert here.looks == before + 2
    here.seconds = KNOWN_S
    await here.keys.find(text)
    assert here.looks == before + 3


async def test_of_many_who_ask_at_once_one_asks_the_store(here: Process) -> None:
    key, text = await here.made()
    before = here.looks
    assert await asyncio.gather(*(here.keys.find(text) for _ in range(50))) == [key] * 50
    assert here.looks == before + 1


async def test_who_makes_ids_up_fills_no_memory_and_pushes_no_key_out(here: Process) -> None:
    key, text = await here.made()
    await here.keys.find(text)
    for number in range(MOST_KNOWN + 100):
        stem = f"mem_{number:08}_{'C' * 36}"
        await here.keys.find(stem + _check_of(stem))
    assert len(here.keys._not_there) == MOST_KNOWN
    assert here.keys.remembered(text) == key
    assert not here.keys._asking


async def test_a_store_that_does_not_answer_makes_nobody_a_stranger(here: Process) -> None:
    key, text = await here.made()
    here.store.fail_at("find_key", StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await here.keys.find(text)
    assert await here.keys.find(text) == key


async def test_a_rotated_key_goes_on_for_the_overlap_beside_one_of_the_same_rights(here: Process) -> None:
    old, old_text = await here.made(user_id="ana", permissions=["read", "write"], lifetime=timedelta(days=30))
    here.now = NOON + timedelta(days=1)
    new, new_text = await here.keys.rotate(old)
    assert replace(new, key_id="", digest="", created_at=NOON, expires_at=None) == replace(
        old, key_id="", digest="", expires_at=None
    )
    assert new.expires_at == here.now + timedelta(days=30)
    here.now += timedelta(hours=23.9)
    assert await here.keys.find(old_text) is not None
    assert await here.keys.find(new_text) == new
    here.now += timedelta(hours=0.1)
    assert await here.keys.find(old_text) is None
    assert await here.keys.find(new_text) == new


async def test_without_an_overlap_a_rotated_key_is_of_no_use_at_once(here: Process) -> None:
    old, text = await here.made()
    await here.keys.find(text)
    await here.keys.rotate(old, timedelta(0))
    assert await here.keys.find(text) is None
    assert (await here.keys.get(old.key_id)).revoked_at == NOON


async def test_no_rotation_lets_a_key_live_longer_or_makes_one_of_a_dead_one(here: Process) -> None:
    soon, _ = await here.made(lifetime=timedelta(hours=1))
    await here.keys.rotate(soon)
    assert (await here.keys.get(soon.key_id)).expires_at == NOON + timedelta(hours=1)
    revoked, _ = await here.made()
    revoked = await here.keys.revoke(revoked)
    assert await here.keys.revoke(revoked) == revoked
    for dead in (revoked, replace(soon, expires_at=NOON)):
        with pytest.raises(KeyNotInUse):
            await here.keys.rotate(dead)


async def test_a_key_of_another_tenant_looks_like_none(here: Process) -> None:
    key, _ = await here.made()
    assert await here.keys.get(key.key_id) == await here.keys.get(key.key_id, "acme") == key
    for key_id, tenant_id in ((key.key_id, "other"), ("nokey000", "acme"), ("nokey000", None)):
        with pytest.raises(KeyNotFound):
            await here.keys.get(key_id, tenant_id)


@pytest.mark.parametrize(
    ("key", "at", "holds"),
    [
        (an_api_key(), 10**6, True),
        (an_api_key(expires_at=minutes(1)), 0.99, True),
        (an_api_key(expires_at=minutes(1)), 1, False),
        (an_api_key(revoked_at=minutes(1)), 0, False),  # by a host whose clock is ahead
    ],
)
def test_a_key_holds_until_it_expires_or_is_revoked(key: ApiKey, at: float, holds: bool) -> None:
    assert key.holds(minutes(at)) is holds


async def test_keys_go_to_another_store_and_a_second_run_takes_no_revocation_back() -> None:
    source, target = FaultyStore(), FaultyStore()
    for key_id in ("stays000", "revoked0", "shorter0", "there000"):
        await source.put_key(an_api_key(key_id))
    assert (await Migration(source, target, check=True).run()).written == 4
    assert await target.keys() == []
    assert (await Migration(source, target).run()).written == 4
    assert await target.keys() == await source.keys()
    await source.put_key(an_api_key("revoked0", revoked_at=NOON))
    await source.put_key(an_api_key("shorter0", expires_at=NOON))
    await target.put_key(an_api_key("there000", revoked_at=NOON))
    report = await Migration(source, target).run()
    assert (report.written, report.same) == (2, 2)
    dead = {key.key_id for key in await target.keys() if not key.holds(minutes(1))}
    assert dead == {"revoked0", "shorter0", "there000"}
    assert (await Migration(source, target, check=True).run()).written == 0

"""Of a session that has grown too long the first words go, once they were read; never before, and never silently."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.app import open_service
from memory_service.errors import StoreCorrupt
from memory_service.growth import Growth
from memory_service.retention import AT_ONCE, Keeping
from memory_service.service import MemoryService
from memory_service.sessions import Draft
from memory_service.settings import Settings
from memory_service.stores.base import Commit, Store
from memory_service.stores.forgetting import read_through
from memory_service.values import KINDS, Message, Session, Sitting
from tests.support.background import Clock, record, settled
from tests.support.stores import FaultyStore
from tests.support.values import NOON, a_key, a_scope, a_session, a_sitting, begin
from tests.test_retention import Replica

ANA, KEY = a_scope(), a_key()
MakeSettings = Callable[..., Settings]


def limited(make_settings: MakeSettings, turns: int = 10) -> Settings:
    return make_settings(retention_session_turns=turns, sweep_interval_seconds=3600)


async def say(service: MemoryService, first: int, last: int) -> None:
    for number in range(first, last + 1):
        text = f"My locker {number} holds a zebra{number}x and I prefer tea."
        await service.store_turn(KEY, Draft(messages=(Message(role="user", content=text),), turn_id=f"t{number}"))
    await settled(service)


async def said(service: MemoryService) -> list[int]:
    """Numbers of the turns whose words are there."""
    return [turn.seq for turn in await record(service).turns(KEY) if turn.messages]


async def carried_out(service: MemoryService) -> dict[str, Any]:
    await service.retention.carry_out()
    await settled(service)
    told: dict[str, Any] = service.stats()["retention"]
    return told


async def test_the_first_words_of_a_long_session_go_and_what_was_learnt_stays(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_service(limited(make_settings), Clock().around) as service:
        await service.start_session(ANA, KEY.session_id, restore=True)
        await say(service, 1, 30)
        await service.end_session(KEY, wait_s=10)
        await settled(service)
        learnt = {one.memory_id for one in await record(service).memories(ANA, KINDS) if one.kind != "chunk"}
        assert learnt
        before, caplog.records[:] = service.stats()["retention"], []
        with caplog.at_level(logging.INFO, "memory_service"):
            told = await carried_out(service)
        assert (before["turns"], told["turns"], told["session_turns"]) == (0, 20, 10)
        assert await said(service) == list(range(21, 31))
        assert learnt <= {one.memory_id for one in await record(service).memories(ANA, KINDS)}
        (line,) = [one for one in caplog.records if "long sessions" in one.getMessage()]
        assert line.__dict__["turns"] == 20
        assert "zebra" not in caplog.text
        for number, found in ((3, False), (25, True)):
            hits = (await service.retrieve(ANA, f"zebra{number}x", 10, None)).hits
            assert any(hit.item.kind == "message" and f"zebra{number}x" in hit.item.text for hit in hits) == found
        await service.start_session(ANA, KEY.session_id, restore=False)
        await say(service, 31, 31)
        assert await said(service) == list(range(21, 32))
        assert (await carried_out(service))["turns"] == 21, "and so it goes on"


async def test_a_session_that_goes_on_loses_them_as_they_are_read(make_settings: MakeSettings) -> None:
    async with open_service(
        limited(make_settings).model_copy(update={"reflection_threshold_turns": 5}), Clock().around
    ) as service:
        await service.start_session(ANA, KEY.session_id, restore=True)
        await say(service, 1, 12)
        assert (await carried_out(service))["turns"] == 0, "nothing of it was reflected on"
        await say(service, 13, 40)
        told = await carried_out(service)
        left, (sitting, *_), head = await said(service), await record(service).sittings(KEY), await live(service)
        assert told["turns"] == 40 - len(left) > 0
        assert left == list(range(told["turns"] + 1, 41))
        assert told["turns"] <= min(sitting.reflected_through, head.live_after, 30)


async def live(service: MemoryService) -> Session:
    head = await record(service).head(KEY)
    assert head is not None
    return head


@pytest.mark.parametrize("turns", [0, 30, 29])
async def test_a_session_that_is_not_too_long_loses_nothing(make_settings: MakeSettings, turns: int) -> None:
    async with open_service(limited(make_settings, turns), Clock().around) as service:
        await service.start_session(ANA, KEY.session_id, restore=True)
        await say(service, 1, 30)
        await service.end_session(KEY, wait_s=10)
        assert (await carried_out(service))["turns"] == 0
        assert len(await said(service)) == 30


def test_a_session_is_looked_at_when_a_tenth_more_is_there_than_is_kept() -> None:
    growth = Growth(100)
    growth.see(KEY, a_session(turn_count=109))
    growth.see(KEY, a_session(turn_count=200, erased_through=91))
    assert growth.due == []
    growth.see(KEY, a_session(turn_count=110))
    assert growth.due == [KEY]


# What goes, told without a service


class Long(Replica):
    def __init__(self, store: FaultyStore, turns: int) -> None:
        super().__init__(store)  # type: ignore[arg-type]
        self.retention._growth = self.growth = Growth(turns)
        self.retention._terms, self.retention._keeping = [], Keeping()


async def read(store: Store, key: Any, turns: int) -> Session:
    """A session all of which was read and compacted."""
    head = await begin(store, key, turns=turns)
    sitting = a_sitting(key.session_id, through_seq=turns, reflection="done", reflected_through=turns)
    head = replace(head.compacted(turns, "so far"), handed_over_through=turns)
    await store.commit(Commit(scope=key.scope, session=head, sittings=(sitting,)))
    return head


async def test_what_cannot_be_read_holds_up_no_other_and_what_has_moved_is_done_the_next_time() -> None:
    store = FaultyStore()
    store.told = NOON  # type: ignore[attr-defined]
    keys = [a_key(name) for name in ("damaged", "well")]
    replica = Long(store, 5)
    for key in keys:
        replica.growth.see(key, await read(store, key, 8))
    store.fail_at("sittings", StoreCorrupt())
    await replica.retention.carry_out()
    assert (replica.retention.stats()["damaged"], replica.retention.stats()["turns"]) == (1, 3)
    await replica.retention.carry_out()
    assert [sum(bool(turn.messages) for turn in await store.turns(key)) for key in keys] == [8, 5]
    assert replica.growth.due == [], "what is damaged is looked at when it grows again"


async def test_a_very_long_session_is_done_part_by_part() -> None:
    store = FaultyStore()
    store.told = NOON  # type: ignore[attr-defined]
    replica, turns = Long(store, 5), AT_ONCE + 20
    replica.growth.see(KEY, await read(store, KEY, turns))
    await replica.retention.carry_out()
    assert replica.retention.stats()["turns"] == turns - 5
    assert [turn.seq for turn in await store.turns(KEY) if turn.messages] == list(range(turns - 4, turns + 1))


def of(first: int, through: int, reflected: int, state: Any = "done") -> Sitting:
    return a_sitting(first_seq=first, through_seq=through, reflected_through=reflected, reflection=state)


@pytest.mark.parametrize(
    ("changes", "sittings", "through"),
    [
        ({"compacted_through": 8}, [of(1, 10, 10)], 8),
        ({"opened_at_seq": 11}, [of(1, 4, 4), of(5, 10, 10)], 10),
        ({"opened_at_seq": 11}, [of(1, 4, 4), of(5, 10, 7, "pending")], 7),
        ({"opened_at_seq": 11}, [of(1, 4, 2, "dead"), of(5, 10, 10)], 2),
        ({"opened_at_seq": 11}, [of(1, 4, 0, "none"), of(5, 10, 10)], 10),
        ({"opened_at_seq": 11}, [of(5, 10, 10)], 0),
        ({"opened_at_seq": 11, "replaced_through": 4}, [of(5, 10, 10)], 10),
        ({"opened_at_seq": 11, "erased_through": 6}, [of(5, 10, 0, "pending")], 6),
        ({}, [], 0),
    ],
    ids=["live", "sittings", "waits", "given up", "withdrawn", "in no sitting", "replaced", "to be read anew", "new"],
)
def test_nothing_goes_behind_what_is_live_or_waits_to_be_read(
    changes: dict[str, int], sittings: list[Sitting], through: int
) -> None:
    assert read_through(a_session(turn_count=12, **changes), sittings) == through

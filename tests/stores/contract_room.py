"""The words of the first turns of a long session go for want of room; what was learnt from them stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.base import Commit, Store
from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting
from memory_service.values import Session
from tests.stores.contract_erasing import ANA, BEN, ids, resting_on, talk
from tests.stores.contract_quarantine import named
from tests.support.values import NOON, a_key, a_memory, a_turn, embed_all

KEY = a_key()
LATER = NOON + timedelta(hours=1)
LEARNT = (
    resting_on("insight_1", ("s", 1)),
    resting_on("summary_s", ("s", 1), ("s", 6), kind="summary"),
    replace(a_memory("memory_in_s"), kind="memory", session_id="s"),
)
WORDS = (
    resting_on("chunk_1_to_3", ("s", 1), ("s", 2), ("s", 3), kind="chunk", text="ana s 1, ana s 2, ana s 3"),
    resting_on("chunk_3_and_4", ("s", 3), ("s", 4), kind="chunk", text="ana s 3, ana s 4"),
    resting_on("chunk_pinned", ("s", 1), kind="chunk", pinned=True),
    resting_on("chunk_of_another", ("s2", 1), kind="chunk"),
)


def through(seq: int, after: int = 0) -> Forgetting:
    return Forgetting(session_id="s", after=after, seq=seq, now=LATER)


async def long(store: Store, *, live_after: int = 5) -> Session:
    """A session of six turns that was reflected on; returns its head."""
    head = await talk(store, "s", turns=6)
    head = replace(head, compacted_through=live_after, version=head.version + 1)
    await store.commit(Commit(scope=ANA, session=head, memories=(*LEARNT, *WORDS)))
    await embed_all(store)
    return head


async def said(store: Store) -> list[bool]:
    """Of each turn, whether its words are there."""
    return [bool(turn.messages) for turn in await store.turns(KEY)]


class RoomContract:
    everything: Callable[[Store], Any]

    async def test_the_words_go_and_what_was_learnt_stays(self, store: Store) -> None:
        head = await long(store)
        await talk(store, "s", BEN)
        learnt = [await store.find_memory(ANA, memory.memory_id) for memory in LEARNT]
        epoch = await store.epoch(ANA)
        assert await store.forget(ANA, through(3)) == Erased(turns=3, memories=1)
        assert await said(store) == [False] * 3 + [True] * 3
        assert [await store.find_memory(ANA, memory.memory_id) for memory in LEARNT] == learnt
        assert await ids(store) == {memory.memory_id for memory in (*LEARNT, *WORDS)} - {"chunk_1_to_3"}
        hot = await store.load(KEY)
        assert hot is not None
        assert hot.session == replace(head, erased_through=3, version=head.version + 1)
        assert [turn.seq for turn in hot.turns] == [6]
        (sitting,) = await store.sittings(KEY)
        assert (sitting.reflection, sitting.reflected_through) == ("done", 6)
        assert "ana s 2" not in repr(self.everything(store))
        assert all(turn.messages for turn in await store.turns(a_key(user_id="ben")))
        assert await store.epoch(ANA) != epoch
        entries = await store.entries(ANA, None, "space")
        assert {vector.item_id for vector in entries.vectors if "#" in vector.item_id} == {"s#4", "s#5", "s#6"}

    async def test_it_goes_on_where_it_was_and_takes_a_chunk_with_its_last_turn(self, store: Store) -> None:
        await long(store)
        await store.forget(ANA, through(3))
        assert await store.forget(ANA, through(5, after=3)) == Erased(turns=2, memories=1)
        assert await said(store) == [False] * 5 + [True]
        assert "chunk_3_and_4" not in await ids(store)
        then = await store.head(KEY), await store.epoch(ANA)
        assert await store.forget(ANA, through(5, after=3)) == Erased()
        assert (await store.head(KEY), await store.epoch(ANA)) == then, "done twice is done once"

    async def test_their_requests_keep_their_names(self, store: Store) -> None:
        """Otherwise a repeat would bring the words back."""
        await long(store)
        await store.forget(ANA, through(3))
        assert await store.find_effect(ANA, "s-1") is not None
        assert (await store.find_turn(KEY, "t1") or a_turn(1)).messages == ()

    async def test_what_is_live_stays_whole(self, store: Store) -> None:
        await long(store, live_after=2)
        assert await store.forget(ANA, through(3)) == Erased()
        assert await said(store) == [True] * 6
        assert await store.forget(ANA, through(2)) == Erased(turns=2)

    async def test_what_was_not_read_stays_whole(self, store: Store) -> None:
        await long(store)
        (done,) = await store.sittings(KEY)
        waits = replace(done, reflection="pending", reflected_through=2, version=2)
        given_up = replace(done, reflection="dead", reflected_through=2, version=3)
        for sitting in (waits, given_up):
            await store.commit(Commit(scope=ANA, sittings=(sitting,)))
            assert await store.forget(ANA, through(3)) == Erased()
            assert await said(store) == [True] * 6
        assert await store.forget(ANA, through(2)) == Erased(turns=2)

    async def test_what_is_in_quarantine_can_still_be_given_back(self, store: Store) -> None:
        await long(store)
        await store.quarantine(ANA, named(2))
        head, (unread,) = await store.head(KEY), await store.sittings(KEY)
        assert head is not None
        done = replace(unread, reflection="done", reflected_through=6, version=unread.version + 1)
        head = replace(head, compacted_through=5, version=head.version + 1)
        await store.commit(Commit(scope=ANA, session=head, sittings=(done,)))
        assert (await store.forget(ANA, through(2))).turns == 1
        assert (await store.forget(ANA, through(3, after=2))).turns == 1
        await store.quarantine(ANA, named(2, release=True))
        assert await said(store) == [False, True, False, True, True, True]

    async def test_who_read_the_session_before_does_not_write_over_it(self, store: Store) -> None:
        head = await long(store)
        await store.forget(ANA, through(3))
        turn = a_turn(7)
        with pytest.raises(StaleVersion):
            await store.commit(Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,)))
        now = await store.head(KEY)
        assert now is not None
        await store.commit(Commit(scope=ANA, session=now.with_turn(turn), turns=(turn,)))
        assert await said(store) == [False] * 3 + [True] * 4

    async def test_of_what_is_not_there_nothing_goes(self, store: Store) -> None:
        assert await store.forget(ANA, through(3)) == Erased()
        await long(store)
        assert await store.forget(BEN, through(3)) == Erased()
        assert await store.forget(ANA, replace(through(3), session_id="s3")) == Erased()
        assert await said(store) == [True] * 6

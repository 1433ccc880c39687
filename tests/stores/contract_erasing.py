"""Erasing a session or a turn takes with it what was derived from it alone, and no job that read it brings it back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.base import Commit, DuplicateRequest, Store
from memory_service.stores.exports import Erased
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.quarantine import Quarantine
from memory_service.values import KINDS, Memory, Request, Scope, Session, Source
from tests.support.values import NOON, a_key, a_memory, a_scope, a_sitting, a_turn, embed_all

ANA, BEN = a_scope(), a_scope("ben")
LATER = NOON + timedelta(hours=1)


def resting_on(memory_id: str, *sources: tuple[str, int], kind: str = "insight", **more: object) -> Memory:
    cited = tuple(Source(session_id=name, seq=seq) for name, seq in sources)
    return replace(a_memory(memory_id), kind=kind, session_id=sources[0][0], sources=cited, **more)


async def talk(store: Store, name: str, scope: Scope = ANA, turns: int = 4) -> Session:
    """A session that was reflected on, with a compacted beginning; returns its head."""
    head = replace(a_session_of(name, scope))
    await store.commit(Commit(scope=scope, session=head))
    for seq in range(1, turns + 1):
        turn = a_turn(seq, name, text=f"{scope.user_id} {name} {seq}")
        head = head.with_turn(turn)
        request = Request(key=f"{name}-{seq}", digest="d", made_at=NOON)
        await store.commit(Commit(scope=scope, session=head, turns=(turn,), request=request))
    head = head.handed_over().compacted(2, f"{name} told of 1 and 2")
    head = replace(head, version=head.version - 1)
    sitting = replace(
        a_sitting(name, through_seq=turns), summary="all of it", reflection="done", reflected_through=turns
    )
    await store.commit(Commit(scope=scope, session=head, sittings=(sitting,)))
    return head


def a_session_of(name: str, scope: Scope) -> Session:
    return Session(session_id=name, incarnation=f"{scope.user_id}-{name}", created_at=NOON, touched_at=NOON)


async def ids(store: Store, scope: Scope = ANA) -> set[str]:
    return {memory.memory_id for memory in await store.memories(scope, KINDS, superseded=True)}


class ErasingContract:
    async def test_a_session_goes_with_what_rests_on_it(self, store: Store) -> None:
        for name in ("s", "s2"):
            await talk(store, name)
        await talk(store, "s", BEN)
        memories = [
            resting_on("insight_of_s", ("s", 1)),
            resting_on("insight_of_both", ("s", 2), ("s2", 1)),
            resting_on("insight_of_s2", ("s2", 1)),
            resting_on("summary_s", ("s", 1), ("s", 4), kind="summary"),
            replace(a_memory("memory_in_s"), kind="memory", session_id="s"),
            replace(a_memory("memory_alone"), kind="memory", session_id=None),
        ]
        await store.commit(Commit(scope=ANA, memories=tuple(memories)))
        await embed_all(store)
        erased = await store.forget(ANA, Forgetting(session_id="s", now=LATER), "e1")
        assert erased == Erased(sessions=1, sittings=1, requests=4, turns=4, memories=4)
        assert await ids(store) == {"insight_of_s2", "memory_alone"}  # words that rest on both may be of one
        assert await store.load(a_key("s")) is None
        assert await store.turns(a_key("s")) == [] == await store.sittings(a_key("s"))
        assert await store.find_effect(ANA, "s-1") is None
        entries = await store.entries(ANA, None, "space", 1000)
        assert {turn.session_id for turn in entries.turns} == {"s2"}
        assert len(await store.turns(a_key("s2"))) == 4 == len(await store.turns(a_key("s", "ben")))
        assert await store.erasures() == {"e1"}

    async def test_what_was_replaced_by_something_that_goes_holds_again(self, store: Store) -> None:
        for name in ("s", "s2"):
            await talk(store, name)
        newer = resting_on("insight_new", ("s", 1))
        older = resting_on("insight_old", ("s2", 1)).superseded(newer)
        await store.commit(Commit(scope=ANA, memories=(older, newer)))
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        (again,) = await store.memories(ANA, ["insight"])
        assert (again.memory_id, again.valid_to, again.superseded_by) == ("insight_old", None, None)

    async def test_what_was_replaced_by_something_that_goes_is_replaced_by_what_that_was(self, store: Store) -> None:
        for name in ("s", "s2"):
            await talk(store, name)
        newest = replace(resting_on("insight_newest", ("s2", 3)), created_at=LATER)
        newer = resting_on("insight_newer", ("s", 1)).superseded(newest)
        older = resting_on("insight_older", ("s2", 1)).superseded(newer)
        await store.commit(Commit(scope=ANA, memories=(older, newer, newest)))
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        left = {memory.memory_id: memory for memory in await store.memories(ANA, ["insight"], superseded=True)}
        assert left.keys() == {"insight_older", "insight_newest"}
        assert (left["insight_older"].superseded_by, left["insight_older"].valid_to) == ("insight_newest", LATER)

    async def test_what_is_behind_one_in_quarantine_holds_when_what_that_was_replaced_by_goes(
        self, store: Store
    ) -> None:
        for name in ("s", "s2", "s3"):
            await talk(store, name)
        newest = resting_on("insight_newest", ("s", 3))
        newer = resting_on("insight_newer", ("s2", 1)).superseded(newest)
        older = resting_on("insight_older", ("s3", 1)).superseded(newer)
        await store.commit(Commit(scope=ANA, memories=(older, newer, newest)))
        await store.quarantine(ANA, Quarantine(session_id="s2", now=LATER))
        assert [memory.memory_id for memory in await store.memories(ANA, ["insight"])] == ["insight_newest"]
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        assert [memory.memory_id for memory in await store.memories(ANA, ["insight"])] == ["insight_older"]
        await store.quarantine(ANA, Quarantine(session_id="s2", now=LATER, release=True))
        assert [memory.memory_id for memory in await store.memories(ANA, ["insight"])] == ["insight_newer"]

    async def test_of_those_that_say_the_same_the_next_holds_when_the_first_goes(self, store: Store) -> None:
        for name in ("s", "s2", "s3", "s4"):
            await talk(store, name)
        first = replace(resting_on("insight_1", ("s", 1)), repeated_by="insight_4")
        others = [
            replace(resting_on(f"insight_{n}", (f"s{n}", 1)), superseded_by=f"insight_{n - 1}", valid_to=NOON)
            for n in (2, 3, 4)
        ]
        await store.commit(Commit(scope=ANA, memories=(first, *others)))
        for gone, held, last in (("s4", "insight_1", "insight_3"), ("s2", "insight_1", "insight_3")):
            await store.forget(ANA, Forgetting(session_id=gone, now=LATER))
            (one,) = await store.memories(ANA, ["insight"])
            assert (one.memory_id, one.repeated_by) == (held, last)
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        (one,) = await store.memories(ANA, ["insight"])
        assert (one.memory_id, one.valid_to, one.superseded_by) == ("insight_3", None, None)

    @pytest.mark.parametrize("own", [True, False])
    async def test_words_of_its_user_stay_and_others_go_whatever_was_changed_beside_them(
        self, store: Store, own: bool
    ) -> None:
        await talk(store, "s")
        trust = "high" if own else "normal"
        kept = resting_on("insight_s", ("s", 1), edited=True, trust=trust)
        stored = replace(a_memory("memory_s"), kind="memory", session_id="s", edited=True, trust=trust)
        await store.commit(Commit(scope=ANA, memories=(kept, stored)))
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        assert await ids(store) == ({"insight_s", "memory_s"} if own else set())

    async def test_what_was_deleted_is_known_as_long_as_its_turns_are_there(self, store: Store) -> None:
        await talk(store, "s")
        summary = resting_on("summary_s", ("s", 1), ("s", 4), kind="summary").deleted(LATER)
        await store.commit(Commit(scope=ANA, memories=(resting_on("insight_2", ("s", 2)).deleted(LATER), summary)))
        await store.forget(ANA, Forgetting(session_id="s", seq=3, now=LATER))
        assert await ids(store) == {"insight_2", "summary_s"}
        await store.forget(ANA, Forgetting(session_id="s", seq=2, now=LATER))
        assert await ids(store) == {"summary_s"}
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        assert await ids(store) == set()

    async def test_a_turn_loses_its_words_and_its_sitting_is_read_once_more(self, store: Store) -> None:
        head = await talk(store, "s")
        memories = [
            resting_on("insight_2", ("s", 2)),
            resting_on("insight_3", ("s", 3)),
            resting_on("insight_2_3", ("s", 2), ("s", 3)),
            resting_on("summary_s", ("s", 1), ("s", 4), kind="summary"),
            resting_on("chunk_s", *(("s", seq) for seq in (1, 2, 3, 4)), kind="chunk"),
        ]
        await store.commit(Commit(scope=ANA, memories=tuple(memories)))
        await embed_all(store)
        erased = await store.forget(ANA, Forgetting(session_id="s", seq=2, now=LATER))
        assert erased == Erased(turns=1, memories=4)
        assert await ids(store) == {"insight_3"}
        turns = await store.turns(a_key("s"))
        assert [turn.seq for turn in turns] == [1, 2, 3, 4]
        assert [len(turn.messages) > 0 for turn in turns] == [True, False, True, True]
        assert (turns[1].metadata, turns[1].turn_id) == ({}, a_turn(2, "s").turn_id)
        hot = await store.load(a_key("s"))
        assert hot is not None
        assert (hot.session.cumulative_summary, hot.session.live_turns) == ("", 4)
        assert hot.session.version == head.version + 1
        (sitting,) = await store.sittings(a_key("s"))
        assert (sitting.reflection, sitting.reflected_through, sitting.summary) == ("pending", 0, "")
        assert [one.first_seq for _, one in await store.due_reflections(LATER, 10)] == [1]
        assert {unembedded.turn.seq for unembedded in await store.due_vectors("space", 100) if unembedded.turn} <= {2}

    async def test_a_turn_that_nothing_was_made_of_yet_goes_alone(self, store: Store) -> None:
        head = await talk(store, "s")
        turn = a_turn(5, "s")
        await store.commit(Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,)))
        await store.commit(Commit(scope=ANA, memories=(resting_on("insight_2", ("s", 2)),)))
        await store.forget(ANA, Forgetting(session_id="s", seq=5, now=LATER))
        assert await ids(store) == {"insight_2"}
        hot = await store.load(a_key("s"))
        assert hot is not None
        assert hot.session.cumulative_summary == "s told of 1 and 2"
        assert [sitting.reflection for sitting in await store.sittings(a_key("s"))] == ["done"]

    async def test_what_is_not_there_takes_nothing_with_it(self, store: Store) -> None:
        await talk(store, "s")
        before = await store.epoch(ANA)
        for what in (Forgetting(session_id="t", now=LATER), Forgetting(session_id="s", seq=9, now=LATER)):
            assert await store.forget(ANA, what) == Erased()
        assert await store.forget(BEN, Forgetting(session_id="s", now=LATER)) == Erased()
        assert await store.epoch(ANA) == before
        assert len(await store.turns(a_key("s"))) == 4

    @pytest.mark.parametrize("seq", [None, 2])
    async def test_work_that_read_what_was_erased_is_refused(self, store: Store, seq: int | None) -> None:
        await talk(store, "s2")
        await talk(store, "s")
        epoch = await store.epoch(ANA)
        (sitting,) = await store.sittings(a_key("s2"))
        await store.forget(ANA, Forgetting(session_id="s", seq=seq, now=LATER))
        learnt = resting_on("insight_of_s", ("s", 2), text="what was erased")
        again = replace(sitting, version=sitting.version + 1)
        for commit in (
            Commit(scope=ANA, sittings=(again,), memories=(learnt,), epoch=epoch),
            Commit(scope=ANA, memories=(learnt,), epoch=epoch),
        ):
            with pytest.raises(StaleVersion):
                await store.commit(commit)
        assert "insight_of_s" not in await ids(store)
        now = await store.epoch(ANA)
        assert now != epoch
        await store.commit(Commit(scope=ANA, sittings=(again,), memories=(a_memory("insight_new"),), epoch=now))
        assert "insight_new" in await ids(store)

    async def test_work_of_a_user_is_refused_when_the_user_was_erased(self, store: Store) -> None:
        await talk(store, "s")
        epoch = await store.epoch(ANA)
        (sitting,) = await store.sittings(a_key("s"))
        await store.erase(ANA, "e1")
        await talk(store, "s")  # all versions are as they were
        learnt = resting_on("insight_of_s", ("s", 2), text="what was erased")
        again = replace(sitting, version=sitting.version + 1)
        with pytest.raises(StaleVersion):
            await store.commit(Commit(scope=ANA, sittings=(again,), memories=(learnt,), epoch=epoch))
        assert await ids(store) == set()
        assert await store.erasures() == {"e1"}

    async def test_a_session_is_not_gone_on_with_in_place_of_an_erased_one(self, store: Store) -> None:
        head = await talk(store, "s")
        await store.erase(ANA)
        other = replace(await talk(store, "s"), incarnation="another")
        await store.erase(ANA)
        await store.commit(Commit(scope=ANA, session=replace(other, version=1, turn_count=0)))
        turn = a_turn(1, "s")
        gone_on = replace(head, version=2, turn_count=1)
        with pytest.raises(StaleVersion):
            await store.commit(Commit(scope=ANA, session=gone_on, turns=(turn,)))
        await store.commit(Commit(scope=ANA, session=replace(gone_on, incarnation="another"), turns=(turn,)))

    async def test_entries_say_that_they_are_of_another_epoch(self, store: Store) -> None:
        await talk(store, "s")
        await talk(store, "s2")
        seen = {(await store.entries(ANA, None, "space")).epoch}
        for erase in (
            store.forget(ANA, Forgetting(session_id="s", seq=1, now=LATER)),
            store.forget(ANA, Forgetting(session_id="s", now=LATER)),
            store.erase(ANA),
        ):
            await erase
            epoch = (await store.entries(ANA, None, "space")).epoch
            assert epoch == await store.epoch(ANA)
            assert epoch not in seen
            seen.add(epoch)
        await talk(store, "s")
        assert (await store.entries(ANA, None, "space")).epoch == await store.epoch(ANA)

    async def test_drivers_begin_anew_with_a_user_of_whom_something_was_erased(self, store: Store) -> None:
        await talk(store, "s")
        await store.follow("d")
        (mirror,) = await store.claim_mirrors("d", NOON, LATER, 10)
        await store.put_mirror(replace(mirror, cursor=(await store.entries(ANA, None, "space")).cursor))
        await store.forget(ANA, Forgetting(session_id="s", seq=1, now=LATER))
        assert await store.lagging("d") == 1
        (mirror,) = await store.claim_mirrors("d", NOON, LATER, 10)
        assert mirror.cursor is None

    async def test_a_request_keeps_its_name_when_its_turn_is_erased_and_loses_it_with_the_session(
        self, store: Store
    ) -> None:
        """Otherwise a repeat of it would bring the words back."""
        head = await talk(store, "s")
        request = Request(key="s-4", digest="d", made_at=NOON)
        turn = a_turn(5, "s")
        commit = Commit(scope=ANA, session=head.with_turn(turn), turns=(turn,), request=request)
        with pytest.raises(DuplicateRequest):
            await store.commit(commit)
        effect = await store.find_effect(ANA, "s-4")
        await store.forget(ANA, Forgetting(session_id="s", seq=4, now=LATER))
        assert await store.find_effect(ANA, "s-4") == effect
        head = (await store.load(a_key("s"))).session  # type: ignore[union-attr]
        with pytest.raises(DuplicateRequest):
            await store.commit(replace(commit, session=head.with_turn(turn)))
        assert (await store.forget(ANA, Forgetting(session_id="s", now=LATER))).requests == 4
        assert await store.find_effect(ANA, "s-4") is None

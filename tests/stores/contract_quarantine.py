"""What is put in quarantine is withheld with all that was derived from it, and is as it was when it is let out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from memory_service.errors import StaleVersion
from memory_service.stores.base import Commit, DuplicateTurn, Store
from memory_service.stores.exports import Exported
from memory_service.stores.forgetting import Forgetting
from memory_service.stores.quarantine import Quarantine, Quarantined
from memory_service.values import KINDS, WHOLE, Scope, Source
from tests.stores.contract_erasing import ANA, BEN, resting_on, talk
from tests.support.values import NOON, a_key, a_memory, a_turn, a_vector, embed_all

LATER = NOON + timedelta(hours=1)
EVEN_LATER = LATER + timedelta(hours=1)


def named(*seqs: int, session_id: str = "s", release: bool = False) -> Quarantine:
    now = EVEN_LATER if release else LATER
    return Quarantine(session_id=session_id, seqs=frozenset(seqs) or None, release=release, now=now)


async def shown(store: Store, scope: Scope = ANA) -> set[str]:
    return {memory.memory_id for memory in await store.memories(scope, KINDS)}


async def words(store: Store) -> str:
    """All that a reader of the record can come by, but for what is withheld."""
    turns, memories = await store.turns(a_key("s")), await store.memories(ANA, KINDS)
    entries, hot = await store.entries(ANA, None, "space"), await store.load(a_key("s"))
    told = [turn.messages for turn in (*turns, *entries.turns, *(hot.turns if hot else ()))]
    current = [memory.text for memory in (*memories, *entries.memories) if memory.valid_to is None]
    return str([told, current, hot and hot.session.cumulative_summary, await store.sittings(a_key("s"))])


async def exported(store: Store, scope: Scope = ANA) -> dict[Any, Any]:
    """Everything by its name, but for what tells versions of it apart, vectors, and what is to be read anew."""
    page = await store.export(scope)
    return {thing.name: without_versions(thing) for thing in page.things if thing.sitting is None}


def without_versions(thing: Exported) -> Any:
    if thing.session is not None:
        return replace(thing.session, version=1, compacted_through=0, cumulative_summary="")
    if thing.memory is not None:
        return replace(thing.memory, updated_at=None)
    return thing.turn or thing.request


async def poisoned(store: Store) -> None:
    """Of a session whose second turn is poison: what rests on it, and what does not."""
    await talk(store, "s")
    await talk(store, "s2", turns=2)
    memories = (
        resting_on("insight_2", ("s", 2), text="poison"),
        resting_on("insight_3", ("s", 3)),
        resting_on("insight_2_and_s2", ("s2", 1), ("s", 2), text="half poison"),
        resting_on("insight_s2", ("s2", 1)),
        resting_on("summary_s", ("s", 1), ("s", 4), kind="summary", text="told of poison"),
        resting_on("chunk_s", *(("s", seq) for seq in (1, 2, 3, 4)), kind="chunk", text="poison word for word"),
        replace(a_memory("memory_in_s"), kind="memory", session_id="s"),
        replace(a_memory("memory_alone"), kind="memory", session_id=None),
    )
    await store.commit(Commit(scope=ANA, memories=memories))
    await embed_all(store)


OF_TURN_2 = {"insight_2", "insight_2_and_s2", "summary_s", "chunk_s"}
OF_SESSION = OF_TURN_2 | {"insight_3", "memory_in_s"}


class QuarantineContract:
    async def test_a_turn_is_withheld_with_all_that_rests_on_it_even_partly(self, store: Store) -> None:
        await poisoned(store)
        before = await shown(store)
        assert "poison" in await words(store)
        assert await store.quarantine(ANA, named(2)) == Quarantined(turns=1, memories=4)
        assert await shown(store) == before - OF_TURN_2
        told = await words(store)
        assert "poison" not in told
        assert "ana s 2" not in told
        turn = (await store.turns(a_key("s")))[1]
        assert (turn.messages, turn.metadata, turn.turn_id) == ((), {}, "t2")
        assert turn.told() == a_turn(2, "s", text="ana s 2")
        memory = await store.find_memory(ANA, "insight_2_and_s2")
        assert memory is not None
        assert (memory.text, memory.withheld) == ("half poison", (Source(session_id="s", seq=2),))
        hot = await store.load(a_key("s"))
        assert hot is not None
        assert (hot.session.cumulative_summary, hot.session.live_turns) == ("", 4)
        (sitting,) = await store.sittings(a_key("s"))
        assert (sitting.reflection, sitting.reflected_through, sitting.summary) == ("pending", 0, "")
        assert [one.session_id for _, one in await store.due_reflections(LATER, 10)] == ["s"]

    async def test_a_session_is_withheld_with_what_callers_wrote_of_it_and_others_stay(self, store: Store) -> None:
        await poisoned(store)
        await talk(store, "s", BEN)
        of_ben = await exported(store, BEN)
        before = await shown(store)
        assert await store.quarantine(ANA, named()) == Quarantined(turns=4, memories=6)
        assert await shown(store) == before - OF_SESSION
        assert "ana s " not in await words(store)
        assert all(turn.messages for turn in await store.turns(a_key("s2")))
        assert await exported(store, BEN) == of_ben

    @pytest.mark.parametrize("seqs", [(2,), ()])
    async def test_what_is_let_out_is_as_it_was_and_is_read_once_more(
        self, store: Store, seqs: tuple[int, ...]
    ) -> None:
        await poisoned(store)
        before, held = await exported(store), await shown(store)
        put = await store.quarantine(ANA, named(*seqs))
        assert await store.quarantine(ANA, named(release=True)) == put
        assert (await exported(store), await shown(store)) == (before, held)
        (sitting,) = await store.sittings(a_key("s"))
        assert (sitting.reflection, sitting.reflected_through) == ("pending", 0)
        assert await store.quarantine(ANA, named(release=True)) == Quarantined()

    async def test_its_vectors_go_and_come_again(self, store: Store) -> None:
        await poisoned(store)
        await store.quarantine(ANA, named(2))
        vectors = (await store.entries(ANA, None, "space", 1000)).vectors
        assert not {"s#2", *OF_TURN_2} & {vector.item_id for vector in vectors}
        assert {"s#1", "insight_3"} < {vector.item_id for vector in vectors}
        for one in await store.due_vectors("space", 100):
            of_nothing = {"data": b""} if one.turn and not one.turn.messages else {}
            await store.commit(Commit(scope=ANA, vectors=(replace(a_vector(one), **of_nothing),)))
        assert await store.due_vectors("space", 100) == []
        await store.quarantine(ANA, named(release=True))
        due = await store.due_vectors("space", 100)
        assert [one.turn.messages for one in due if one.turn] == [a_turn(2, "s", text="ana s 2").messages]
        assert {one.memory.memory_id for one in due if one.memory} == OF_TURN_2

    async def test_twice_is_once(self, store: Store) -> None:
        await poisoned(store)
        first = await store.quarantine(ANA, named(2))
        held = await exported(store)
        assert await store.quarantine(ANA, named(2)) == first
        assert await exported(store) == held

    async def test_a_memory_comes_back_with_the_last_turn_it_is_withheld_for(self, store: Store) -> None:
        await poisoned(store)
        await store.quarantine(ANA, named(2))
        await store.quarantine(ANA, named(1, session_id="s2"))
        assert not {"insight_2_and_s2", "insight_s2", "insight_2"} & await shown(store)
        await store.quarantine(ANA, named(release=True))
        assert "insight_2" in await shown(store)
        assert not {"insight_2_and_s2", "insight_s2"} & await shown(store)
        await store.quarantine(ANA, named(session_id="s2", release=True))
        assert {"insight_2_and_s2", "insight_s2"} < await shown(store)

    async def test_what_callers_wrote_of_a_session_comes_back_with_the_last_of_its_turns(self, store: Store) -> None:
        await poisoned(store)
        await store.quarantine(ANA, named())
        memory = await store.find_memory(ANA, "memory_in_s")
        assert memory is not None
        assert memory.withheld == (Source(session_id="s", seq=WHOLE),)
        await store.quarantine(ANA, named(1, 2, 3, release=True))
        assert "memory_in_s" not in await shown(store)
        await store.quarantine(ANA, named(4, release=True))
        assert "memory_in_s" in await shown(store)

    async def test_what_was_replaced_by_poison_holds_until_the_poison_is_let_out(self, store: Store) -> None:
        await poisoned(store)
        newer = resting_on("insight_new", ("s", 2))
        older = resting_on("insight_old", ("s2", 1)).superseded(newer)
        await store.commit(Commit(scope=ANA, memories=(older, newer)))
        before = await exported(store)
        await store.quarantine(ANA, named(2))
        assert "insight_old" in await shown(store)
        assert "insight_new" not in await shown(store)
        await store.quarantine(ANA, named(2, release=True))
        assert await exported(store) == before

    async def test_what_was_replaced_already_is_marked_so_that_nothing_brings_it_back(self, store: Store) -> None:
        await poisoned(store)
        newer = resting_on("insight_new", ("s2", 1))
        older = resting_on("insight_old", ("s", 2)).superseded(newer)
        await store.commit(Commit(scope=ANA, memories=(older, newer)))
        before = await exported(store)
        await store.quarantine(ANA, named(2))
        await store.quarantine(ANA, named(1, session_id="s2"))
        assert not {"insight_old", "insight_new"} & await shown(store)
        await store.quarantine(ANA, named(session_id="s2", release=True))
        await store.quarantine(ANA, named(release=True))
        assert await exported(store) == before

    async def test_the_words_of_its_user_stay_and_those_of_a_model_go_whatever_was_changed_beside_them(
        self, store: Store
    ) -> None:
        await poisoned(store)
        own = replace(resting_on("insight_own", ("s", 2), text="in my words"), edited=True, trust="high")
        tagged = replace(resting_on("insight_tagged", ("s", 2)), edited=True, model="gpt", tags=("t",), pinned=True)
        misled = replace(resting_on("insight_misled", ("s", 3)), model="gpt")
        quoted = replace(resting_on("insight_quoted", ("s", 3)), model="extractive")
        await store.commit(Commit(scope=ANA, memories=(own, tagged, misled, quoted)))
        await store.quarantine(ANA, named(2))
        held = await shown(store)
        assert {"insight_own", "insight_quoted"} < held
        assert not {"insight_tagged", "insight_misled"} & held

    async def test_work_that_read_what_is_withheld_is_refused(self, store: Store) -> None:
        await poisoned(store)
        epoch, (sitting,) = await store.epoch(ANA), await store.sittings(a_key("s2"))
        held = await store.find_memory(ANA, "insight_2")
        assert held is not None
        await store.quarantine(ANA, named(2))
        learnt = resting_on("insight_late", ("s", 2), text="poison")
        again = replace(sitting, version=sitting.version + 1)
        for commit in (
            Commit(scope=ANA, sittings=(again,), memories=(learnt,), epoch=epoch),
            Commit(scope=ANA, memories=(learnt,), epoch=epoch),
            Commit(scope=ANA, memories=(replace(held, pinned=True),), unchanged=(held,)),
        ):
            with pytest.raises(StaleVersion):
                await store.commit(commit)
        assert "poison" not in await words(store)

    async def test_what_others_hold_counts_no_more(self, store: Store) -> None:
        await poisoned(store)
        await store.follow("d")
        (mirror,) = await store.claim_mirrors("d", NOON, LATER, 10)
        seen = {(await store.entries(ANA, None, "space")).epoch}
        for what in (named(2), named(release=True)):
            await store.put_mirror(replace(mirror, cursor=(await store.entries(ANA, None, "space")).cursor))
            await store.quarantine(ANA, what)
            epoch = (await store.entries(ANA, None, "space")).epoch
            assert epoch == await store.epoch(ANA)
            assert epoch not in seen
            seen.add(epoch)
            (mirror,) = await store.claim_mirrors("d", NOON, LATER, 10)
            assert mirror.cursor is None

    async def test_what_is_not_there_or_has_no_words_changes_nothing(self, store: Store) -> None:
        await poisoned(store)
        await store.forget(ANA, Forgetting(session_id="s", seq=4, now=LATER))
        before, epoch = await exported(store), await store.epoch(ANA)
        for scope, what in (
            (ANA, named(session_id="t")),
            (ANA, named(4)),
            (ANA, named(9)),
            (ANA, named(release=True)),
            (BEN, named()),
        ):
            assert await store.quarantine(scope, what) == Quarantined()
        assert (await exported(store), await store.epoch(ANA)) == (before, epoch)

    async def test_an_erasure_takes_what_is_withheld_too(self, store: Store) -> None:
        await poisoned(store)
        await store.quarantine(ANA, named(2))
        await store.forget(ANA, Forgetting(session_id="s", seq=2, now=LATER))
        held = {memory.memory_id for memory in await store.memories(ANA, KINDS, superseded=True)}
        assert not OF_TURN_2 & held
        assert not (await store.turns(a_key("s")))[1].told().messages
        assert await store.quarantine(ANA, named(release=True)) == Quarantined()
        await store.quarantine(ANA, named())
        await store.forget(ANA, Forgetting(session_id="s", now=LATER))
        held = {memory.memory_id for memory in await store.memories(ANA, KINDS, superseded=True)}
        assert held == {"insight_s2", "memory_alone"}

    async def test_what_replaced_a_withheld_memory_may_go_without_bringing_it_back(self, store: Store) -> None:
        await poisoned(store)
        newer = resting_on("insight_new", ("s2", 1))
        older = resting_on("insight_old", ("s", 2)).superseded(newer)
        await store.commit(Commit(scope=ANA, memories=(older, newer)))
        await store.quarantine(ANA, named(2))
        await store.forget(ANA, Forgetting(session_id="s2", now=LATER))
        assert "insight_old" not in await shown(store)
        await store.quarantine(ANA, named(release=True))
        assert "insight_old" in await shown(store)

    async def test_a_withheld_turn_still_has_its_name(self, store: Store) -> None:
        await poisoned(store)
        await store.quarantine(ANA, named(2))
        assert await store.find_effect(ANA, "s-2") is not None
        hot = await store.load(a_key("s"))
        assert hot is not None
        turn = a_turn(5, "s", turn_id="t2")
        with pytest.raises(DuplicateTurn):
            await store.commit(Commit(scope=ANA, session=hot.session.with_turn(turn), turns=(turn,)))
        turn = a_turn(5, "s")
        await store.commit(Commit(scope=ANA, session=hot.session.with_turn(turn), turns=(turn,)))

    async def test_what_was_withdrawn_is_not_read_because_of_it(self, store: Store) -> None:
        await talk(store, "s")
        (sitting,) = await store.sittings(a_key("s"))
        withdrawn = replace(sitting, reflection="none", version=sitting.version + 1)
        await store.commit(Commit(scope=ANA, sittings=(withdrawn,)))
        await store.quarantine(ANA, named(2))
        await store.quarantine(ANA, named(release=True))
        assert await store.sittings(a_key("s")) == [withdrawn]

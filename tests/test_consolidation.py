"""How new insights join those already held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from memory_service.consolidation import Consolidated, consolidate
from memory_service.last_word import deleted
from memory_service.llm.base import Finding
from memory_service.values import Memory, Source, Trust, is_less, least

AT = datetime(2025, 3, 3, 9, tzinfo=UTC)


def memory(text: str, *turns: int, session: str = "s", days: int = 0, name: str | None = None) -> Memory:
    return Memory(
        memory_id=name or f"{session}:{text}",
        kind="insight",
        text=text,
        created_at=AT + timedelta(days=days),
        session_id=session,
        sources=tuple(Source(session_id=session, seq=seq) for seq in turns or (1,)),
    )


def joined(new: Memory, *known: Memory, replaces: int | None = None) -> Consolidated:
    """Consolidate one new insight."""
    return consolidate([Finding(text=new.text, turns=(1,), replaces=replaces)], known, [new])


def test_what_was_not_known_is_added() -> None:
    new = memory("Ana is allergic to walnuts", 3)
    assert joined(new, memory("Ana lives in Porto")) == Consolidated(memories=(new,), added=1, dropped=0)


def test_what_an_attempt_that_was_cut_off_left_counts_as_added_once() -> None:
    """It is held under the id that it is about to have; nobody counted it then."""
    left = memory("Ana likes tea", 1, name="first")
    new = [memory("Ana likes tea", 1, name="first"), memory("Ana likes tea", 2, name="second")]
    findings = [Finding(text=one.text, turns=(number,)) for number, one in enumerate(new, 1)]
    result = consolidate(findings, [left], new)
    assert (result.added, [one.memory_id for one in result.memories]) == (1, ["first"])


@pytest.mark.parametrize(
    "again",
    [
        "In the morning, Ana prefers green tea",
        "in the morning Ana prefers green tea!!",
        "To Ana, green tea is what she prefers in the morning",
        "In the morning Ana always prefers green tea",
    ],
)
def test_the_same_statement_is_not_added_twice_and_is_kept_behind_the_first(again: str) -> None:
    held = memory("Green tea is what Ana prefers in the morning", 1, 2, name="held")
    new = memory(again, 2, 9, session="later", days=4, name="again")
    result = joined(new, held)
    assert (result.added, result.dropped) == (0, 0)
    assert result.memories == (
        replace(new, valid_to=held.created_at, superseded_by="held"),
        replace(held, repeated_by="again"),
    )


def test_each_that_says_the_same_stands_behind_the_one_before() -> None:
    held = replace(memory("Ana prefers green tea", 1, name="held"), repeated_by="before")
    (last, first) = joined(memory("Ana prefers green tea", 9, name="last"), held).memories
    assert (last.superseded_by, first.repeated_by) == ("before", "last")


def test_of_one_reading_one_is_kept_behind_what_says_the_same_also_if_it_was_cut_off_before() -> None:
    held = memory("Ana prefers green tea", 1, name="held")
    new = [memory("Ana prefers green tea", place, name=f"new {place}") for place in (5, 6)]
    findings = [Finding(text=one.text, turns=()) for one in new]
    result = consolidate(findings, [held], new)
    assert [one.memory_id for one in result.memories] == ["new 5", "held"]
    assert consolidate(findings, [result.memories[1]], new).memories == ()


def test_a_source_is_kept_once_however_often_it_is_named() -> None:
    first, second = memory("Ana prefers green tea", 1, 2, name="a"), memory("Ana prefers green tea", 2, 1, 3, name="b")
    findings = [Finding(text=one.text, turns=()) for one in (first, second)]
    [kept] = consolidate(findings, [], [first, second]).memories
    assert [source.seq for source in kept.sources] == [1, 2, 3]


def test_two_findings_of_one_reading_that_say_the_same_are_one() -> None:
    first, second = memory("Ana prefers green tea", 1, name="first"), memory("Ana prefers green tea", 5, name="second")
    findings = [Finding(text=first.text, turns=(1,)), Finding(text=second.text, turns=(5,))]
    result = consolidate(findings, [], [first, second])
    assert result.added == 1
    [kept] = result.memories
    assert kept.memory_id == "first"
    assert [source.seq for source in kept.sources] == [1, 5]


@pytest.mark.parametrize(
    ("held", "new"),
    [
        # numbers
        ("Ana has a budget of 300 euros for the new kitchen", "Ana has a budget of 3000 euros for the new kitchen"),
        (
            "The meeting with the bank is at 10:30 on the usual day",
            "The meeting with the bank is at 11:30 on the usual day",
        ),
        (
            "Ana has two brown cats that sleep in the warm kitchen every night",
            "Ana has three brown cats that sleep in the warm kitchen every night",
        ),
        ("Ana runs 2.5 km each morning before work", "Ana runs 25 km each morning before work"),
        (
            "The user takes an early morning train to the office every day",
            "The user takes an early morning train to the office every day at 7",
        ),
        # names, wherever they stand
        (
            "The user goes running in the old park every morning before breakfast",
            "The user goes running in the old park every morning before breakfast with Ben",
        ),
        ("The best friend of the user is called Maria", "The best friend of the user is called Marta"),
        (
            "Caroline is planning a long summer trip across northern Norway with old friends",
            "Melanie is planning a long summer trip across northern Norway with old friends",
        ),
        (
            "The user wants to spend a quiet summer holiday by the sea in Spain",
            "The user wants to spend a quiet summer holiday by the sea in Italy",
        ),
        # days and months, in any case
        (
            "The yoga class of the user begins early every monday morning in town",
            "The yoga class of the user begins early every friday morning in town",
        ),
        # negations
        ("The user likes coffee after dinner", "The user does not like coffee after dinner"),
        ("The user wants coffee after dinner", "The user wants no coffee after dinner"),
        ("The user drinks coffee after dinner", "The user never drinks coffee after dinner"),
        ("The user wants a car", "The user doesn't want a car"),
        ("The user wants a car", "The user doesn’t want a car"),
        ("The user can eat bread with gluten", "The user can eat bread without gluten"),
    ],
)
def test_statements_that_differ_in_a_number_a_name_or_a_negation_never_merge(held: str, new: str) -> None:
    for one, other in ((held, new), (new, held)):
        result = joined(memory(other, 7), memory(one))
        assert (result.added, [kept.text for kept in result.memories]) == (1, [other])


def test_statements_in_a_script_without_spaces_merge_only_if_they_are_the_same() -> None:
    assert joined(memory("用户喜欢咖啡", 2, name="new"), memory("用户喜欢咖啡")).added == 0
    assert joined(memory("用户不喜欢咖啡", 2), memory("用户喜欢咖啡")).added == 1


def test_statements_without_any_words_never_merge() -> None:
    assert joined(memory("👍", 2), memory("🎉")).added == 1


def test_an_insight_may_replace_one_that_is_no_longer_true() -> None:
    old, new = memory("Ana lives in Porto", 1), memory("Ana lives in Lisbon", 8, days=2)
    result = joined(new, memory("Ana likes tea"), old, replaces=2)
    assert result.added == 1
    gone, kept = result.memories
    assert (gone.memory_id, gone.text, gone.sources) == (old.memory_id, old.text, old.sources)
    assert (gone.valid_to, gone.superseded_by) == (new.created_at, new.memory_id)
    assert kept == new


def test_only_what_is_older_is_replaced() -> None:
    held = memory("Ana lives in Lisbon", 9, days=30)
    new = memory("Ana lives in Porto", 1)
    assert joined(new, held, replaces=1) == Consolidated(memories=(new,), added=1, dropped=0)


@pytest.mark.parametrize("place", [0, -1, 2, 99])
def test_a_replacement_of_what_was_never_shown_replaces_nothing(place: int) -> None:
    held, new = memory("Ana lives in Porto"), memory("Ana lives in Lisbon", 8, days=2)
    assert joined(new, held, replaces=place).memories == (new,)


def test_what_is_replaced_is_replaced_once_and_the_second_insight_stands_beside_the_first() -> None:
    old = memory("Ana lives in Porto")
    first, second = memory("Ana lives in Lisbon", 8, days=2), memory("Ana lives in Braga", 9, days=3)
    findings = [Finding(text=new.text, turns=(1,), replaces=1) for new in (first, second)]
    result = consolidate(findings, [old], [first, second])
    assert result.added == 2
    assert {m.memory_id: m.superseded_by for m in result.memories} == {
        old.memory_id: first.memory_id,
        first.memory_id: None,
        second.memory_id: None,
    }


def test_what_was_just_replaced_is_not_what_a_later_finding_repeats() -> None:
    old = memory("Ana lives in Porto", name="old")
    away, back = memory("Ana lives in Lisbon", 8, days=2), memory("Ana lives in Porto", 9, days=3, name="back")
    findings = [Finding(text=away.text, turns=(8,), replaces=1), Finding(text=back.text, turns=(9,))]
    result = consolidate(findings, [old], [away, back])
    assert {m.memory_id for m in result.memories if m.valid_to is None} == {away.memory_id, "back"}


def test_an_insight_that_rests_on_no_real_turn_is_dropped_and_counted() -> None:
    held = memory("Ana lives in Porto")
    invented = _without_sources("invented", "Ana lives on Mars")
    real = memory("Ana likes tea", 4)
    findings = [Finding(text="Ana lives on Mars", turns=(99,), replaces=1), Finding(text=real.text, turns=(4,))]
    assert consolidate(findings, [held], [invented, real]) == Consolidated(memories=(real,), added=1, dropped=1)


TEXTS = st.sampled_from(
    [
        "Ana likes tea",
        "Ana likes tea a lot",
        "Ana does not like tea",
        "Ana likes 2 teas",
        "Ben likes tea",
        "Ana lives in Porto",
        "The user lives in Porto",
        "",
    ]
)


@given(
    known=st.lists(TEXTS, max_size=4),
    found=st.lists(st.tuples(TEXTS, st.booleans(), st.none() | st.integers(-1, 6)), max_size=6),
)
def test_nothing_held_is_ever_lost_or_reworded(known: list[str], found: list[tuple[str, bool, int | None]]) -> None:
    held = [memory(text, name=f"held {place}") for place, text in enumerate(known)]
    new = [
        memory(text, 5 + place, days=1, name=f"new {place}") if real else _without_sources(f"new {place}", text)
        for place, (text, real, _) in enumerate(found)
    ]
    findings = [Finding(text=text, turns=(), replaces=replaces) for text, _, replaces in found]
    result = consolidate(findings, held, new)

    before = {m.memory_id: m for m in [*held, *new]}
    assert result.dropped == sum(not real for _, real, _ in found)
    repeated = {m.repeated_by for m in result.memories}
    assert result.added == sum(m.memory_id.startswith("new") and m.memory_id not in repeated for m in result.memories)
    assert len({m.memory_id for m in result.memories}) == len(result.memories)
    for written in result.memories:
        origin = before[written.memory_id]
        assert (written.text, written.created_at) == (origin.text, origin.created_at)
        assert set(origin.sources) <= set(written.sources)
        assert written.sources
        if written.superseded_by is not None:
            assert written.valid_to == before[written.superseded_by].created_at
            assert written.created_at <= written.valid_to or written.memory_id in repeated


def _without_sources(name: str, text: str) -> Memory:
    return Memory(memory_id=name, kind="insight", text=text, created_at=AT)


# On what somebody had the last word


def by_hand(text: str, *turns: int, **state: object) -> Memory:
    return replace(memory(text, *turns, name="held"), **state)


def test_what_says_the_same_as_what_was_settled_is_left_out_and_not_merged_into_it() -> None:
    new = memory("Ana likes green tea", 9, session="later")
    for settled in (by_hand("Ana likes green tea", pinned=True), by_hand("Ana likes green tea", edited=True)):
        result = consolidate([Finding(text=new.text, turns=(9,))], [], [new], [settled])
        assert result == Consolidated(memories=(), added=0, dropped=0)


def test_what_an_edited_insight_said_before_does_not_come_back_under_another_id() -> None:
    """A model that reads the same turns again may find its insights in another order, and put them otherwise."""
    again = memory("Ana lives in Lisbon", 3)
    findings = [Finding(text=again.text, turns=(3,))]
    edited = by_hand("Ana lives in Porto", 3, 4, edited=True, trust="high")
    pinned = by_hand("Ana likes tea", 3, 4, pinned=True)
    assert consolidate(findings, [edited], [again], [edited]).memories == ()
    assert consolidate(findings, [pinned], [again], [pinned]).memories == (again,), "of that turn, and something else"
    more = memory("Ana lives in Lisbon", 3, 5)
    assert consolidate(findings, [edited], [more], [edited]).memories == (more,), "it rests on something else too"


@pytest.mark.parametrize("state", [{"pinned": True}, {"edited": True, "importance": 0.9}], ids=str)
def test_what_was_changed_beside_its_words_keeps_out_its_like_and_no_other(state: dict[str, Any]) -> None:
    held = by_hand("Ana lives in the old town of Lisbon", 3, **state)
    for text, taken in (("Ana lives in Lisbon, old town", False), ("Ana works at a bank", True)):
        again = memory(text, 3)
        assert bool(joined_to(held, again)) == taken


def test_what_was_deleted_keeps_out_its_like_from_the_same_turns_and_no_other() -> None:
    gone = deleted(memory("Ana lives in the old town of Lisbon", 3, name="held"), AT)
    assert "isbon" not in repr(gone)
    for text, turn, taken in (
        ("Ana lives in Lisbon, old town", 3, False),
        ("Ana works at a bank", 3, True),
        ("Ana lives in Lisbon, old town", 4, True),
    ):
        assert bool(joined_to(gone, memory(text, turn))) == taken


def joined_to(settled: Memory, again: Memory) -> tuple[Memory, ...]:
    return consolidate([Finding(text=again.text, turns=())], [], [again], [settled]).memories


def test_what_replaces_a_deleted_insight_is_new() -> None:
    new, gone = memory("Ana lives in Lisbon", 9, days=1), memory("Ana lives in Porto", name="held").deleted(AT)
    result = consolidate([Finding(text=new.text, turns=(9,), replaces=1)], [gone], [new], [gone])
    assert (result.memories, result.added) == ((new,), 1)


# Trust


def trusted(trust: Trust, text: str, *turns: int, name: str | None = None, days: int = 0) -> Memory:
    return replace(memory(text, *turns, name=name, days=days), trust=trust)


def test_what_is_trusted_less_adds_nothing_to_what_says_the_same() -> None:
    held = trusted("normal", "Ana prefers green tea", 1, name="held")
    again = trusted("low", "Ana prefers green tea", 9, days=1, name="again")
    behind = replace(again, valid_to=held.created_at, superseded_by="held")
    assert joined(again, held).memories == (behind, replace(held, repeated_by="again"))


def test_what_is_trusted_more_takes_the_place_of_what_says_the_same() -> None:
    held = trusted("low", "Ana prefers green tea", 1, name="held")
    new = trusted("normal", "In the morning Ana prefers green tea", 9, days=1, name="again")
    again = replace(new, text="Ana prefers green tea!")
    assert joined(again, held) == Consolidated(memories=(held.superseded(again), again), added=1, dropped=0)


@pytest.mark.parametrize(
    ("held", "new", "replaced"),
    [("normal", "low", False), ("low", "normal", True), ("low", "low", True), ("normal", "normal", True)],
)
def test_what_is_trusted_less_replaces_nothing_and_both_are_kept(held: Trust, new: Trust, replaced: bool) -> None:
    old, now = trusted(held, "Ana lives in Porto"), trusted(new, "Ana lives in Faro", 5, days=1)
    written = joined(now, old, replaces=1).memories
    assert written == ((old.superseded(now), now) if replaced else (now,))


def test_what_an_attempt_that_was_cut_off_left_is_no_more_trusted_for_being_said_again() -> None:
    left = trusted("low", "Ana prefers green tea", 1, name="first")
    (kept,) = joined(trusted("normal", "Ana prefers green tea", 2, name="first"), left).memories
    assert (kept.memory_id, kept.trust, kept.superseded_by) == ("first", "low", None)


def trust_of(*turns: int) -> Trust:
    """As if each third turn were a tool's."""
    return least("low" if turn % 3 == 0 else "normal" for turn in turns)


@given(
    known=st.lists(st.tuples(TEXTS, st.sets(st.integers(1, 4), min_size=1)), max_size=4),
    found=st.lists(st.tuples(TEXTS, st.sets(st.integers(5, 9), min_size=1), st.none() | st.integers(1, 4)), max_size=6),
)
def test_nothing_is_trusted_more_than_what_it_rests_on_nor_lost_to_what_is_trusted_less(
    known: list[tuple[str, set[int]]], found: list[tuple[str, set[int], int | None]]
) -> None:
    held = [trusted(trust_of(*turns), text, *turns, name=f"held {n}") for n, (text, turns) in enumerate(known)]
    new = [trusted(trust_of(*turns), text, *turns, name=f"new {n}", days=1) for n, (text, turns, _) in enumerate(found)]
    findings = [Finding(text=text, turns=tuple(turns), replaces=place) for text, turns, place in found]
    before = {one.memory_id: one for one in (*held, *new)}
    for one in consolidate(findings, held, new).memories:
        assert one.trust == before[one.memory_id].trust
        assert not is_less(trust_of(*(source.seq for source in one.sources)), one.trust)
        assert one.superseded_by is None or not is_less(before[one.superseded_by].trust, one.trust)

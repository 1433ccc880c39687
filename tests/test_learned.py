"""Which fields of a user insights state: what is trusted before what is not, the newest before older ones."""

from __future__ import annotations

from memory_service.learned import MOST_LEARNED, learned_of, profile_of
from memory_service.values import Memory, Trust
from tests.support.values import a_memory, minutes


def states(number: int, field: str, value: str, trust: Trust = "normal") -> Memory:
    metadata = {"field": field, "value": value}
    return a_memory(f"m{number}", metadata=metadata, trust=trust, created_at=minutes(number))


def values(*newest_first: Memory, unfit: str = "") -> dict[str, str]:
    learned = learned_of(newest_first, lambda field, value: value != unfit)
    assert [one.field for one in learned] == sorted(one.field for one in learned)
    return {one.field: one.value for one in learned}


def test_the_newest_that_holds_says_what_a_field_is() -> None:
    newest_first = (states(3, "home", "Porto"), states(2, "home", "Lisbon"), states(1, "age", "41"))
    assert values(*newest_first) == {"age": "41", "home": "Porto"}
    (age, home) = learned_of(newest_first, lambda field, value: True)
    assert (home.insight_id, home.trust, home.updated_at) == ("m3", "normal", minutes(3))
    assert age.insight_id == "m1"


def test_what_is_of_low_trust_says_it_only_where_nothing_else_does_however_new_it_is() -> None:
    low = states(9, "home", "Narnia", "low")
    assert values(low, states(2, "home", "Lisbon")) == {"home": "Lisbon"}
    assert values(low, states(2, "home", "Lisbon", "high"), states(1, "age", "41", "low")) == {
        "age": "41",
        "home": "Lisbon",
    }
    assert values(states(5, "home", "Porto"), states(2, "home", "Lisbon", "high")) == {"home": "Porto"}


def test_a_value_that_may_not_be_leaves_the_word_to_the_one_before() -> None:
    assert values(states(3, "home", "Porto"), states(2, "home", "Lisbon"), unfit="Porto") == {"home": "Lisbon"}


def test_there_are_not_more_fields_than_anybody_reads() -> None:
    many = [states(number, f"f{number}", "x") for number in range(MOST_LEARNED + 10, 0, -1)]
    assert len(values(*many)) == MOST_LEARNED
    assert "f1" not in values(*many), "the newest are kept"


def test_what_is_under_the_profile_s_name_and_is_none_counts_as_none() -> None:
    other = a_memory("x", kind="memory", text="no JSON", metadata={"version": 7})
    for held in (None, other, a_memory("x", kind="profile", text="{}").deleted(minutes(1))):
        profile = profile_of(held, [states(1, "age", "41")], lambda field, value: True)
        assert (profile.document, profile.version, profile.fields) == ({}, 0, {"age": "41"})

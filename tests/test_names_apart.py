"""What is kept of two has two names, however these are called: `a:b` and `c` are not `a` and `b:c`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.audit import Audit
from memory_service.hot_tier import index_of, name_of
from memory_service.projections.automem.copies import item_tag, own_tag, user_tag
from memory_service.query_cache import _name_of as answer_of
from memory_service.stores.cosmos import documents
from memory_service.tombstones import name_of as tombstone_of
from memory_service.values import Scope, SessionKey, derived_id, turn_item_id

Names = tuple[str, str, str]
"""Tenant, user, and something of the user's."""

ANY = "ab:|/%~#.é\n"
IN_IDS = "ab:.@_-"
AUDIT = Audit("k")

OF_ANYTHING: dict[str, Callable[[Names], object]] = {
    "a session in the pool": lambda names: _session(names),
    "a session in Redis": lambda names: name_of(_session(names)),
    "an answer in Redis": lambda names: (index_of(_scope(names)), answer_of((names[2], 5, ()), "space")),
    "a tombstone": lambda names: tombstone_of("key", _scope(names), [names[2]]),
    "a tag in AutoMem": lambda names: item_tag(_scope(names), names[2]),
    "a head in Cosmos DB": lambda names: (documents.owner_of(_scope(names)), documents.head_id(names[2])),
    "a memory in Cosmos DB": lambda names: (documents.owner_of(_scope(names)), documents.memory_id(names[2])),
    "a turn in Cosmos DB": lambda names: documents.turn_id(names[0], names[1]) + names[2],
}
OF_IDS: dict[str, Callable[[Names], object]] = {
    "a user in the audit": lambda names: (AUDIT.name_of(*names[:2]), names[2]),
    "a derived memory": lambda names: derived_id("insight", *names),
    "a turn among what is searched": lambda names: (turn_item_id(names[0], 1), names[1:]),
}


def _scope(names: Names) -> Scope:
    return Scope(tenant_id=names[0], user_id=names[1])


def _session(names: Names) -> SessionKey:
    return SessionKey(scope=_scope(names), session_id=names[2])


def texts(alphabet: str) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=1, max_size=4)


def alike(alphabet: str) -> st.SearchStrategy[list[Names]]:
    """Names that are the same when they are strung together, whatever stands between them."""

    def cut(pieces: tuple[str, str, str, str], between: str) -> list[Names]:
        a, b, c, d = pieces
        return [(a + between + b, c, d), (a, b + between + c, d), (a, b, c + between + d)]

    return st.builds(cut, st.tuples(*[texts(alphabet)] * 4), st.sampled_from(["", *alphabet]))


@pytest.mark.parametrize("what", OF_ANYTHING)
@settings(max_examples=40)
@given(st.data())
def test_two_of_them_never_share_a_name(what: str, data: st.DataObject) -> None:
    """S30"""
    apart(OF_ANYTHING[what], data.draw(alike(ANY)), data.draw(st.tuples(*[texts(ANY)] * 3)))


@pytest.mark.parametrize("what", OF_IDS)
@settings(max_examples=40)
@given(st.data())
def test_nor_do_two_of_those_that_ids_are_made_of(what: str, data: st.DataObject) -> None:
    """S30: ids are all that these are named by."""
    apart(OF_IDS[what], data.draw(alike(IN_IDS)), data.draw(st.tuples(*[texts(IN_IDS)] * 3)))


def apart(named: Callable[[Names], object], alike: list[Names], other: Names) -> None:
    different = {*alike, other}
    assert len({named(names) for names in different}) == len(different)


def test_tags_of_different_sorts_are_apart() -> None:
    scope = Scope(tenant_id="a", user_id="b")
    assert len({user_tag(scope), item_tag(scope, "c"), own_tag(scope, "c"), item_tag(scope, "d")}) == 4

"""What holds for all values, whoever makes them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import replace

from memory_service.corpus import Hit
from memory_service.stores.bodies import turn_of
from memory_service.values import Hot, Message, Session, Turn, Value
from tests.test_architecture import OURS, SERVER

DATA = (str, int, float, bool, bytes, datetime, NoneType, msgspec.UnsetType, Any, object, Ellipsis, Hit)
"""What values are made of beside other values. `Any` is JSON, a cursor of a store, or numbers."""
OF_DATA = (tuple, list, dict, frozenset, Sequence, Mapping, Union, UnionType)
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)


def all_values(base: type[Value] = Value) -> Iterator[type[Value]]:
    for kind in base.__subclasses__():
        yield kind
        yield from all_values(kind)


def parts(hint: Any) -> Iterator[Any]:
    """All that an annotation names, inside of what it is made of too."""
    origin = get_origin(hint)
    if origin is Literal:
        return
    yield origin or hint
    for inner in get_args(hint):
        yield from parts(inner)


def test_no_value_holds_what_could_come_to_hold_it() -> None:
    for module in OURS.values():
        if f"{SERVER}.values.Value" in module.imports:
            import_module(module.full_name)
    kinds = [kind for kind in all_values() if kind.__module__.startswith(SERVER)]
    assert len(kinds) > 50
    for kind in kinds:
        for field, hint in get_type_hints(kind).items():
            for part in parts(hint):
                is_value = isinstance(part, type) and issubclass(part, Value)
                assert is_value or part in DATA or part in OF_DATA, (
                    f"{kind.__module__}.{kind.__name__}.{field} holds {part}: a value that the collector does not "
                    "look at may be part of no cycle; hold data, or say gc=True for this kind of value"
                )


def turns_read_back(*metadata: dict[str, Any]) -> tuple[Turn, ...]:
    """As a store gives them: each with objects of its own."""
    turns = (
        Turn(
            session_id="s",
            seq=seq,
            turn_id=f"t{seq}",
            messages=(Message(role="user", content="hello"),),
            created_at=NOW,
            received_at=NOW + timedelta(seconds=seq - 1),
            metadata=said,
        )
        for seq, said in enumerate(metadata, 1)
    )
    return tuple(turn_of(msgspec.json.encode(turn).decode()) for turn in turns)


def test_turns_that_are_read_back_have_once_what_they_say_alike_and_are_the_same() -> None:
    head = Session(session_id="s", incarnation="i", created_at=NOW, touched_at=NOW, turn_count=3)
    hot = Hot(session=head, turns=turns_read_back({}, {"a": 1}, {}))

    sharing = hot.sharing()

    assert sharing == hot
    first, second, third = sharing.turns
    assert all(turn.session_id is head.session_id for turn in sharing.turns)
    assert first.metadata is third.metadata
    assert second.metadata == {"a": 1}
    assert first.created_at is first.received_at
    assert second.received_at - second.created_at == timedelta(seconds=1)


def test_the_collector_looks_at_no_value_however_many_there_are() -> None:
    turn = turns_read_back({})[0]
    assert not gc.is_tracked(turn)
    assert not gc.is_tracked(replace(turn, metadata={"a": [turn.turn_id]}))

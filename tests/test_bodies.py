"""Bodies that come again and again are read once, and none that has words of a user is held."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from memory_service.api import bodies, schemas
from memory_service.api.bodies import JsonBody
from memory_service.errors import ValidationFailed

SCOPE: dict[str, Any] = {"headers": [(b"content-type", b"application/json")], "query_string": b""}
TAKEN = (schemas.GetContext, schemas.SessionStart)


def asked(**more: Any) -> bytes:
    return msgspec.json.encode({"user_id": "ana", "session_id": "s", **more})


@pytest.mark.parametrize("takes", TAKEN)
def test_a_body_of_names_alone_is_read_once(takes: type[msgspec.Struct]) -> None:
    take = JsonBody(takes)
    first = take.of(SCOPE, asked())
    assert take.of(SCOPE, asked()) is first
    assert take.of(SCOPE, asked(user_id="ben")) == msgspec.structs.replace(first, user_id="ben")


@pytest.mark.parametrize("takes", TAKEN)
def test_a_body_that_has_words_or_is_long_is_not_held(takes: type[msgspec.Struct]) -> None:
    take = JsonBody(takes)
    question = asked(query="Where is my walnut tree?", include_knowledge=1)
    spelt = question.replace(b'"query"', b'"\\u0071uery"')
    for body in (question, spelt, asked() + b" " * bodies.SHORT):
        assert take.of(SCOPE, body) is not take.of(SCOPE, body)
    assert not take._read


def test_what_is_held_is_bounded_and_a_turn_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "REPEATED", 10)
    take, turns = JsonBody(schemas.GetContext), JsonBody(schemas.StoreTurn)
    for number in range(25):
        take.of(SCOPE, asked(session_id=f"s{number}"))
        assert len(take._read or ()) <= 10
    turns.of(SCOPE, asked(user_message="hello", agent_message="Hello."))
    assert turns._read is None


def test_a_wrong_body_is_refused_each_time_and_a_query_beside_a_known_one_too() -> None:
    take = JsonBody(schemas.GetContext)
    for _ in range(2):
        with pytest.raises(ValidationFailed):
            take.of(SCOPE, asked(user_id=7))
    take.of(SCOPE, asked())
    with pytest.raises(ValidationFailed):
        take.of({**SCOPE, "query_string": b"a=b"}, asked())

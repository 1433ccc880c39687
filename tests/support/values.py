"""Values with everything filled in that a test does not care about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from memory_service.stores.base import Commit, Store
from memory_service.values import (
    Hot,
    Memory,
    Message,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Turn,
    Unembedded,
    Vector,
    turn_item_id,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def minutes(count: float) -> datetime:
    """So many minutes after noon."""
    return NOON + timedelta(minutes=count)


def a_scope(user_id: str = "ana", tenant_id: str = "default") -> Scope:
    return Scope(user_id=user_id, tenant_id=tenant_id)


def a_key(session_id: str = "s", user_id: str = "ana", tenant_id: str = "default") -> SessionKey:
    return SessionKey(scope=a_scope(user_id, tenant_id), session_id=session_id)


def a_session(session_id: str = "s", **changes: Any) -> Session:
    """A new session: version 1."""
    given = {"incarnation": "i", "created_at": NOON, "touched_at": NOON, **changes}
    return Session(session_id=session_id, **given)


def a_turn(seq: int, session_id: str = "s", *, text: str = "hello", turn_id: str = "", **changes: Any) -> Turn:
    given = {"created_at": minutes(seq), "received_at": minutes(seq), **changes}
    messages = (Message(role="user", content=text), Message(role="assistant", content=f"You said: {text}"))
    return Turn(session_id=session_id, seq=seq, turn_id=turn_id or f"t{seq}", messages=messages, **given)


def a_memory(memory_id: str, **changes: Any) -> Memory:
    given = {"kind": "insight", "text": f"text of {memory_id}", "created_at": NOON, **changes}
    return Memory(memory_id=memory_id, **given)


def a_sitting(session_id: str = "s", **changes: Any) -> Sitting:
    """A new to-do: version 1, due at noon."""
    given = {"first_seq": 1, "through_seq": 3, "due_at": NOON, **changes}
    return Sitting(session_id=session_id, **given)


def item_id_of(item: Unembedded) -> str:
    if item.turn is not None:
        return turn_item_id(item.turn.session_id, item.turn.seq)
    assert item.memory is not None
    return item.memory.memory_id


def a_vector(item: Unembedded, space: str = "space", data: bytes = b"\0\0\x80?") -> Vector:
    texts = len(item.turn.messages) if item.turn else 1
    return Vector(item_id=item_id_of(item), token=item.token, space=space, data=data, texts=texts)


def next_turn(hot: Hot, key: SessionKey, *, turn_id: str = "", text: str = "hello") -> tuple[Commit, Hot]:
    """The commit that makes a session one turn longer, and the state after it."""
    turn = a_turn(hot.session.turn_count + 1, key.session_id, text=text, turn_id=turn_id)
    session = hot.session.with_turn(turn)
    return Commit(scope=key.scope, session=session, turns=(turn,)), Hot(session=session, turns=(*hot.turns, turn))


def new_session(number: int) -> Commit:
    """A session with one turn, of a user of its own."""
    key = a_key(user_id=f"user{number}")
    return Commit(scope=key.scope, session=a_session(turn_count=1), turns=(a_turn(1, text=f"said {number}"),))


async def begin(store: Store, key: SessionKey, turns: int = 0, **changes: Any) -> Session:
    """Commit a new session and, one commit each, so many turns; returns the head."""
    hot = Hot(session=a_session(key.session_id, **changes))
    await store.commit(Commit(scope=key.scope, session=hot.session))
    for _ in range(turns):
        commit, hot = next_turn(hot, key)
        await store.commit(commit)
    return hot.session


async def embed_all(store: Store, space: str = "space") -> int:
    """Give everything a vector in this space; returns how many items there were."""
    done = 0
    while due := await store.due_vectors(space, 100):
        for item in due:
            await store.commit(Commit(scope=item.scope, vectors=(a_vector(item, space),)))
        done += len(due)
    return done

"""A store filled by hand, and an embedder that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memory_service.stores.base import Commit, Store
from memory_service.values import Hot, Kind, Memory, Message, Scope, Session, SessionKey, Turn

AT = datetime(2025, 3, 3, 9, tzinfo=UTC)


class Counting:
    """An embedder of 3 numbers that remembers what it was asked."""

    keyword_weight = 0.6
    local = False

    def __init__(self, space: str = "counting") -> None:
        self.space, self.batches = space, []

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        rows = np.array([[len(text), text.count("a"), 1.0] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def usage(self) -> dict[str, int]:
        return {}


async def say(store: Store, scope: Scope, *texts: str, session_id: str = "s", name: str | None = None) -> None:
    """Append a turn for each text, all in one commit."""
    hot = await store.load(SessionKey(scope=scope, session_id=session_id))
    if hot is None:
        begun = Session(session_id=session_id, incarnation="i", created_at=AT, touched_at=AT)
        await store.commit(Commit(scope=scope, session=begun))
        hot = Hot(session=begun)
    turns = [
        Turn(
            session_id=session_id,
            seq=seq,
            turn_id=f"t{seq}",
            messages=(Message(role="user", content=text, name=name),),
            created_at=AT,
            received_at=AT,
        )
        for seq, text in enumerate(texts, start=hot.session.turn_count + 1)
    ]
    await store.commit(Commit(scope=scope, session=hot.session.with_turn(turns[-1]), turns=tuple(turns)))


async def learn(store: Store, scope: Scope, memory_id: str, text: str, *, gone: bool = False, **fields: Any) -> None:
    """Write a memory, anew if it is there already."""
    ended = {"valid_to": AT, "superseded_by": "other"} if gone else {}
    kind: Kind = fields.pop("kind", "insight")
    memory = Memory(memory_id=memory_id, kind=kind, text=text, created_at=AT, **ended, **fields)
    await store.commit(Commit(scope=scope, memories=(memory,)))

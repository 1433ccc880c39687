"""A record with much on it, made fast: commits through the store as the service makes them, and vectors in batches.

What is filled is a record like any other; a service that is started on it has nothing left to do in the background.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from benchmarks.load import Request
from memory_service.llm.offline import LocalEmbedder
from memory_service.settings import Settings
from memory_service.stores import make_store
from memory_service.stores.base import Commit, Entries, Store
from memory_service.text import embedding_key
from memory_service.values import (
    Memory,
    Message,
    Scope,
    Session,
    SessionKey,
    Sitting,
    Source,
    Turn,
    Unembedded,
    Vector,
    turn_item_id,
)

AT_ONCE = 1000
"""Turns, memories or vectors of one commit."""
LIVE = 5
"""Turns of a session that its summary does not cover."""
WORDS, COMMON = 20_000, 400
"""As in a language: few words come often, most seldom, and questions are made of those that tell something."""
USER_WORDS, AGENT_WORDS, MEMORY_WORDS, ASKED_WORDS = 12, 30, 10, 5
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "er", "is")]


class Talk:
    """Words that are the same in every run of a seed."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self._words = [_word(number) for number in range(WORDS)]
        self._weights = list(accumulate(1 / (rank + 3) for rank in range(WORDS)))

    def text(self, words: int) -> str:
        return " ".join(self.random.choices(self._words, cum_weights=self._weights, k=words))

    def question(self) -> str:
        """Of words of which none is among the commonest, as those are left out that say nothing."""
        place = self._weights[COMMON - 1]
        marks = [self.random.uniform(place, self._weights[-1]) for _ in range(ASKED_WORDS)]
        return " ".join(self._words[bisect_left(self._weights, mark)] for mark in marks)


def _word(number: int) -> str:
    parts = []
    number += len(_SYLLABLES)
    while number:
        number, part = divmod(number, len(_SYLLABLES))
        parts.append(_SYLLABLES[part])
    return "".join(parts)


def get(port: int, path: str, **fields: str) -> Request:
    return Request(path, f"GET {path}?{urlencode(fields)} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())


def post(port: int, path: str, **fields: Any) -> Request:
    body = msgspec.json.encode(fields)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return Request(path, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def record(folder: Path) -> AsyncIterator[Filling]:
    """The record that a service of `folder` will have, to be filled; closed when the block ends."""
    async with AsyncExitStack() as stack:
        store = make_store(Settings(_env_file=None, store_url=f"sqlite:///{folder}/memory.db"))
        await store.start(stack)
        yield Filling(store)


class Filling:
    def __init__(self, store: Store) -> None:
        self._store, self._talk, self._embedder = store, Talk(), LocalEmbedder()
        self._now = datetime.now(UTC) - timedelta(days=1)

    async def say(self, key: SessionKey, turns: int) -> None:
        """Begin a session of so many turns, on which all is reflected."""
        for first in range(1, turns + 1, AT_ONCE):
            through = min(first + AT_ONCE - 1, turns)
            said = tuple(self._turn(key, seq) for seq in range(first, through + 1))
            head = Session(
                session_id=key.session_id,
                incarnation="filled",
                created_at=self._now,
                touched_at=datetime.now(UTC),
                cumulative_summary=self._talk.text(AGENT_WORDS),
                turn_count=through,
                compacted_through=max(0, through - LIVE),
                handed_over_through=through,
                version=1 + first // AT_ONCE,
            )
            done = Sitting(
                session_id=key.session_id,
                first_seq=1,
                through_seq=through,
                reflection="done",
                reflected_through=through,
                due_at=self._now,
                version=head.version,
            )
            await self._store.commit(Commit(scope=key.scope, session=head, turns=said, sittings=(done,)))

    async def learn(self, scope: Scope, session_id: str, memories: int) -> None:
        """Note what was learnt from a session: a summary, the rest insights."""
        for first in range(0, memories, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, memories))
            learnt = tuple(self._memory(session_id, number) for number in numbers)
            await self._store.commit(Commit(scope=scope, memories=learnt))

    async def embed(self) -> None:
        """Give vectors to all that has none."""
        while due := await self._store.due_vectors(self._embedder.space, AT_ONCE):
            rows = iter(self._embedder.vectors_of([key for item in due for key in keys_of(item)]))
            vectors: dict[Scope, list[Vector]] = defaultdict(list)
            for item in due:
                own = [next(rows) for _ in keys_of(item)]
                data = b"".join(row.tobytes() for row in own)
                vectors[item.scope].append(
                    Vector(item_id=_name(item), token=item.token, space=self._embedder.space, data=data, texts=len(own))
                )
            for scope, of_user in vectors.items():
                await self._store.commit(Commit(scope=scope, vectors=tuple(of_user)))

    async def entries(self, scope: Scope) -> AsyncIterator[Entries]:
        """Read all that a search of a user looks at."""
        cursor, more = None, True
        while more:
            entries = await self._store.entries(scope, cursor, self._embedder.space)
            yield entries
            cursor, more = entries.cursor, entries.more

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self._embedder.vectors_of(["words"]).shape[1]

    def _turn(self, key: SessionKey, seq: int) -> Turn:
        said, answered = self._talk.text(USER_WORDS), self._talk.text(AGENT_WORDS)
        return Turn(
            session_id=key.session_id,
            seq=seq,
            turn_id=f"filled-{seq}",
            messages=(Message(role="user", content=said), Message(role="assistant", content=answered)),
            created_at=self._later(),
            received_at=self._now,
        )

    def _memory(self, session_id: str, number: int) -> Memory:
        return Memory(
            memory_id=f"{session_id}-{number}",
            kind="insight" if number else "summary",
            text=self._talk.text(MEMORY_WORDS),
            created_at=self._later(),
            session_id=session_id,
            sources=(Source(session_id=session_id, seq=1),),
            model="filled",
        )

    def _later(self) -> datetime:
        """No two things were said at one time."""
        self._now += timedelta(milliseconds=5)
        return self._now


def keys_of(item: Unembedded) -> Iterator[str]:
    if item.turn is None:
        assert item.memory is not None
        yield item.memory.text
        return
    for message in item.turn.messages:
        yield embedding_key(message.role, message.name, message.content)


def _name(item: Unembedded) -> str:
    if item.turn is not None:
        return turn_item_id(item.turn.session_id, item.turn.seq)
    assert item.memory is not None
    return item.memory.memory_id

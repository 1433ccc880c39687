"""What somebody edited, pinned or deleted: they had the last word on it, and what is read again changes nothing. Pure.

Of what was deleted no word is kept. But the turns that it rests on may be read again, and then it must be known: so its
place holds these turns, and a digest of each word. It goes when they go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec.structs import replace

from memory_service.learned import version_of
from memory_service.statements import Statement, likeness, same
from memory_service.values import Memory

ALIKE = 0.6
"""Share of common words from which what is learnt again from the same turns is what was deleted."""
_SAID = "said"


class LastWord:
    """`settled`: on which somebody has had it."""

    def __init__(self, settled: Iterable[Memory]) -> None:
        self._settled = {memory.memory_id: memory for memory in settled}
        self._statements = {memory_id: Statement.of(memory.text) for memory_id, memory in self._settled.items()}

    def is_on(self, memory: Memory, replaces: Memory | None) -> bool:
        """Whether a candidate is one of these, says the same, replaces it, or is what an edited or deleted one said.

        What replaces a deleted one is something new.
        """
        statements = {**self._statements, memory.memory_id: Statement.of(memory.text)}
        return (
            memory.memory_id in self._settled
            or (replaces is not None and replaces.memory_id in self._settled and not replaces.is_deleted)
            or any(_is_before(memory, other) for other in self._settled.values())
            or same(memory, self._settled.values(), statements) is not None
        )


def repeats(memories: Sequence[Memory], held: Iterable[Memory]) -> list[Memory]:
    """Those of the held that hold no more and say the same as one of these: what becomes of that becomes of them."""
    said = [Statement.of(memory.text) for memory in memories]
    ids = {memory.memory_id for memory in memories}
    return [
        one
        for one in held
        if one.valid_to is not None
        and one.text
        and one.memory_id not in ids
        and any(Statement.of(one.text).is_same(statement) for statement in said)
    ]


def deleted(memory: Memory, now: datetime) -> Memory:
    """What is left in place of a memory that somebody has deleted."""
    left = memory.deleted(now)
    if memory.kind == "profile":  # so that no later one has the version of an earlier
        left = replace(left, metadata={"version": version_of(memory)})
    if memory.is_own_words:  # what it said before is not known
        return replace(left, edited=True, trust=memory.trust)
    if memory.kind != "insight" or not memory.sources:
        return left
    return replace(left, metadata={_SAID: sorted(_digests(memory.memory_id, memory.text))})


def _is_before(memory: Memory, settled: Memory) -> bool:
    """Whether a candidate is what a settled one said before, learnt from the same turns."""
    if not {*memory.sources} <= {*settled.sources}:
        return False
    if settled.is_own_words:
        return True
    name = settled.memory_id
    said = frozenset(settled.metadata.get(_SAID, ())) if settled.is_deleted else _digests(name, settled.text)
    return likeness(said, _digests(name, memory.text)) >= ALIKE


def _digests(memory_id: str, text: str) -> frozenset[str]:
    """Of each word that tells something; those of one memory tell nothing of those of another."""
    key = hashlib.blake2b(memory_id.encode(), digest_size=32).digest()
    return frozenset(
        hashlib.blake2b(word.encode(), key=key, digest_size=6).hexdigest() for word in Statement.of(text).words
    )

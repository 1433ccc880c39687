"""Some memories of a user, held ready from one question about them to the next. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from memory_service.corpus import Corpus
from memory_service.values import Memory, Vector

MEMORY_BYTES = 400
"""Estimate of what a memory costs here beside what its corpus holds; its text is in both, once."""


class State(NamedTuple):
    """What all that is held belongs to; what is read in another state is begun anew."""

    space: str
    epoch: str


class Weighed:
    """The corpus of the memories that were asked about last, and what it takes to ask about others."""

    def __init__(self, state: State) -> None:
        self.corpus = Corpus()
        self.state = state
        self._memories: dict[str, Memory] = {}
        self._without_vector: set[str] = set()

    @property
    def size_bytes(self) -> int:
        return self.corpus.size_bytes + MEMORY_BYTES * len(self._memories)

    def is_worth_keeping(self, state: State, memories: Collection[Memory]) -> bool:
        """Whether it takes less to go on than to begin anew: most of what was taken in is still there."""
        return state == self.state and len(self.corpus) <= 2 * len(memories)

    def new(self, memories: Sequence[Memory]) -> list[Memory]:
        """Return which of them are not here as they are now."""
        return [memory for memory in memories if self._memories.get(memory.memory_id) != memory]

    def without_vector(self, new: Sequence[Memory]) -> set[str]:
        """Return whose vectors are to be asked for, once these have come."""
        return self._without_vector | {memory.memory_id for memory in new}

    def follow(self, memories: Sequence[Memory], new: Sequence[Memory], vectors: Sequence[Vector]) -> None:
        """Note what is here now, which of it is new, and with what vectors, and let the others go."""
        now = {memory.memory_id for memory in memories}
        for gone in self._memories.keys() - now:
            self.corpus.remove(gone)
            del self._memories[gone]
        self._memories |= {memory.memory_id: memory for memory in new}
        self._without_vector = (self.without_vector(new) & now) - {vector.item_id for vector in vectors}

"""Telling two statements apart, or taking them for the same. Pure.

Statements that differ in a number, a name or a negation are never the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from memory_service.text import STOP_WORDS, words
from memory_service.values import Memory

SAME = 0.8
"""Share of common words from which two statements say the same."""

_NEGATION = re.compile(r"\b(not|no|never|none|nobody|nothing|without|neither|nor|\w+n['’]t)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


class Statement(msgspec.Struct, frozen=True):
    """What tells two statements apart."""

    words: frozenset[str]
    numbers: frozenset[str]
    names: frozenset[str]
    negated: bool

    @classmethod
    def of(cls, text: str) -> Statement:
        found = words(text)
        return cls(
            words=frozenset(word.lower() for word in found if word.lower() not in STOP_WORDS),
            numbers=frozenset(_NUMBER.findall(text)),
            names=frozenset(word for word in found[1:] if word[0].isupper()),
            negated=bool(_NEGATION.search(text)),
        )

    def is_same(self, other: Statement) -> bool:
        return not self._cannot_merge_with(other) and likeness(self.words, other.words) >= SAME

    def _cannot_merge_with(self, other: Statement) -> bool:
        if self.words - other.words and other.words - self.words:
            return True  # a word stands for another: a number spelled out, the name of a person or a day
        return self.numbers != other.numbers or self.names != other.names or self.negated != other.negated


def likeness(some: frozenset[str], others: frozenset[str]) -> float:
    """The share of words that two texts have in common."""
    union = some | others
    return len(some & others) / len(union) if union else 0.0


def same(memory: Memory, held: Iterable[Memory], statements: Mapping[str, Statement]) -> Memory | None:
    """The first of the held that says the same; `statements` are theirs by id."""
    ours = statements[memory.memory_id]
    return next((other for other in held if ours.is_same(statements[other.memory_id])), None)

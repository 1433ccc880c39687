"""How new insights join those already held: add, replace or leave out. Pure.

Nothing is deleted: what is replaced keeps its text with `valid_to` and `superseded_by`. Statements that
differ in a number, a name or a negation are never taken for the same. On what somebody edited, pinned or deleted they
had the last word: it stays as it is, and a candidate that says the same or replaces it is left out.

No trust is ever raised, and none is lowered by what is said later: a candidate changes nothing about what is trusted
more than itself, and takes the place of what is trusted less and says the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from memory_service.llm.base import Finding
from memory_service.text import STOP_WORDS, words
from memory_service.values import Memory, is_less

SAME = 0.8
"""Share of common words from which two statements say the same."""
LONGEST_INSIGHT = 1000

_NEGATION = re.compile(r"\b(not|no|never|none|nobody|nothing|without|neither|nor|\w+n['’]t)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


class Consolidated(msgspec.Struct, frozen=True):
    """`memories` are to be written: new insights, and held ones that changed. `dropped` rested on no real turn."""

    memories: tuple[Memory, ...]
    added: int
    dropped: int


class _Statement(msgspec.Struct, frozen=True):
    """What tells two statements apart."""

    words: frozenset[str]
    numbers: frozenset[str]
    names: frozenset[str]
    negated: bool

    def cannot_merge_with(self, other: _Statement) -> bool:
        if self.words - other.words and other.words - self.words:
            return True  # a word stands for another: a number spelled out, the name of a person or a day
        return self.numbers != other.numbers or self.names != other.names or self.negated != other.negated

    def likeness(self, other: _Statement) -> float:
        union = self.words | other.words
        return len(self.words & other.words) / len(union) if union else 0.0


def consolidate(
    findings: Iterable[Finding], known: Sequence[Memory], new: Sequence[Memory], settled: Sequence[Memory] = ()
) -> Consolidated:
    """Weigh each new insight against those held (`known`, which findings refer to by place) and those before it.

    `new[i]` is finding i as a memory, its sources already limited to real turns; one without sources is dropped.
    `settled`: on which somebody has had the last word, among the known or not.
    """
    held = {memory.memory_id: memory for memory in known if memory.valid_to is None}
    ours = {memory.memory_id for memory in new}
    word = _LastWord(settled)
    statements = {memory.memory_id: _statement(memory.text) for memory in (*known, *new)}
    changed: dict[str, Memory] = {}
    added = dropped = 0
    for finding, memory in zip(findings, new, strict=True):
        if not memory.sources:
            dropped += 1
            continue
        if word.is_on(memory, _named(finding, known)):
            continue
        same = _same(memory, held.values(), statements)
        if same is not None and (same.memory_id in ours or not is_less(same.trust, memory.trust)):
            # one of our own ids, held before we wrote it: an attempt that was cut off left it, and counted nothing
            added += same.memory_id in ours and same.memory_id not in changed
            changed[same.memory_id] = held[same.memory_id] = _joined(same, memory)
            continue
        for old in _replaced(memory, same, _named(finding, known), held):
            changed[old.memory_id] = old.superseded(memory)
            del held[old.memory_id]
        changed[memory.memory_id] = held[memory.memory_id] = memory
        added += 1
    return Consolidated(tuple(changed.values()), added, dropped)


class _LastWord:
    """What somebody edited, pinned or deleted."""

    def __init__(self, settled: Iterable[Memory]) -> None:
        self._settled = {memory.memory_id: memory for memory in settled}
        self._statements = {memory_id: _statement(memory.text) for memory_id, memory in self._settled.items()}

    def is_on(self, memory: Memory, replaces: Memory | None) -> bool:
        """Whether a candidate is one of these, says the same, replaces it, or is what an edited one said before.

        What replaces a deleted one is something new.
        """
        statements = {**self._statements, memory.memory_id: _statement(memory.text)}
        return (
            memory.memory_id in self._settled
            or (replaces is not None and replaces.memory_id in self._settled and not replaces.is_deleted)
            or any(other.edited and set(memory.sources) <= set(other.sources) for other in self._settled.values())
            or _same(memory, self._settled.values(), statements) is not None
        )


def _named(finding: Finding, known: Sequence[Memory]) -> Memory | None:
    """The insight that a finding says it replaces."""
    if finding.replaces is None or not 1 <= finding.replaces <= len(known):
        return None
    return known[finding.replaces - 1]


def _replaced(memory: Memory, same: Memory | None, named: Memory | None, held: Mapping[str, Memory]) -> list[Memory]:
    """Those of the held that hold no more because of a new one: no later one, and none that is trusted more."""
    ids = dict.fromkeys(one.memory_id for one in (same, named) if one is not None)
    found = [held[memory_id] for memory_id in ids if memory_id in held]
    return [old for old in found if old.created_at <= memory.created_at and not is_less(memory.trust, old.trust)]


def _same(memory: Memory, held: Iterable[Memory], statements: dict[str, _Statement]) -> Memory | None:
    ours = statements[memory.memory_id]
    for other in held:
        theirs = statements[other.memory_id]
        if not ours.cannot_merge_with(theirs) and ours.likeness(theirs) >= SAME:
            return other
    return None


def _statement(text: str) -> _Statement:
    found = words(text)
    return _Statement(
        words=frozenset(word.lower() for word in found if word.lower() not in STOP_WORDS),
        numbers=frozenset(_NUMBER.findall(text)),
        names=frozenset(word for word in found[1:] if word[0].isupper()),
        negated=bool(_NEGATION.search(text)),
    )


def _joined(held: Memory, again: Memory) -> Memory:
    """What is held, with where it was said again, unless that is trusted less: it adds nothing."""
    if is_less(again.trust, held.trust):
        return held
    return replace(held, sources=tuple(dict.fromkeys(held.sources + again.sources)))

"""How new insights join those already held: add, replace, repeat or leave out. Pure.

Nothing is deleted: what is replaced keeps its text with `valid_to` and `superseded_by`. What only says the same as one
that is held is kept too, superseded by it from the start: each rests on its own turns alone, and holds when the other
one goes. On what somebody edited, pinned or deleted they had the last word: it stays as it is, and a candidate that
says the same or replaces it is left out.

No trust is ever raised, and none is lowered by what is said later: a candidate changes nothing about what is trusted
more than itself, and takes the place of what is trusted less and says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from memory_service.last_word import LastWord
from memory_service.llm.base import Finding
from memory_service.statements import Statement, same
from memory_service.values import Memory, is_less

LONGEST_INSIGHT = 1000


class Consolidated(msgspec.Struct, frozen=True):
    """`memories` are to be written: new insights, and held ones that changed. `dropped` rested on no real turn."""

    memories: tuple[Memory, ...]
    added: int
    dropped: int


def consolidate(
    findings: Iterable[Finding], known: Sequence[Memory], new: Sequence[Memory], settled: Sequence[Memory] = ()
) -> Consolidated:
    """Weigh each new insight against those held (`known`, which findings refer to by place) and those before it.

    `new[i]` is finding i as a memory, its sources already limited to real turns; one without sources is dropped.
    `settled`: on which somebody has had the last word, among the known or not.
    """
    held = {memory.memory_id: memory for memory in known if memory.valid_to is None}
    ours = {memory.memory_id for memory in new}
    word = LastWord(settled)
    statements = {memory.memory_id: Statement.of(memory.text) for memory in (*known, *new)}
    changed: dict[str, Memory] = {}
    added = dropped = 0
    for finding, memory in zip(findings, new, strict=True):
        if not memory.sources:
            dropped += 1
            continue
        if word.is_on(memory, _named(finding, known)):
            continue
        like = same(memory, held.values(), statements)
        if like is not None and like.memory_id in ours:
            # held before we wrote it: an attempt that was cut off left it, and counted nothing
            added += like.memory_id not in changed
            changed[like.memory_id] = held[like.memory_id] = _joined(like, memory)
            continue
        if like is not None and not is_less(like.trust, memory.trust):
            if like.repeated_by not in ours:
                changed[memory.memory_id] = _repeated(like, memory)
                changed[like.memory_id] = held[like.memory_id] = replace(like, repeated_by=memory.memory_id)
            continue
        for old in _replaced(memory, like, _named(finding, known), held):
            changed[old.memory_id] = old.superseded(memory)
            del held[old.memory_id]
        changed[memory.memory_id] = held[memory.memory_id] = memory
        added += 1
    return Consolidated(tuple(changed.values()), added, dropped)


def _named(finding: Finding, known: Sequence[Memory]) -> Memory | None:
    """The insight that a finding says it replaces."""
    if finding.replaces is None or not 1 <= finding.replaces <= len(known):
        return None
    return known[finding.replaces - 1]


def _replaced(memory: Memory, like: Memory | None, named: Memory | None, held: Mapping[str, Memory]) -> list[Memory]:
    """Those of the held that hold no more because of a new one: no later one, and none that is trusted more."""
    ids = dict.fromkeys(one.memory_id for one in (like, named) if one is not None)
    found = [held[memory_id] for memory_id in ids if memory_id in held]
    return [old for old in found if old.created_at <= memory.created_at and not is_less(memory.trust, old.trust)]


def _joined(held: Memory, again: Memory) -> Memory:
    """What is held, with where it was said again in the same stretch, unless that is trusted less."""
    if is_less(again.trust, held.trust):
        return held
    return replace(held, sources=tuple(dict.fromkeys(held.sources + again.sources)))


def _repeated(held: Memory, again: Memory) -> Memory:
    """What says the same as what is held, behind those that did before: of a stretch there is one."""
    return replace(again, valid_to=held.created_at, superseded_by=held.repeated_by or held.memory_id)

"""What is withheld with turns that are put in quarantine, and what comes back when they are let out of it. Pure.

Nothing is deleted. A turn keeps its words where no reader looks; a memory is not current, and names the turns for which
it is withheld. What it had replaced holds meanwhile and goes on saying by what it was replaced. So what is shown of a
memory follows from two things that are on record, and is after a release what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from memory_service.stores.exports import Exported
from memory_service.stores.forgetting import sitting_of, unread, without_summary
from memory_service.stores.superseding import behind, valid_to
from memory_service.values import EXTRACTIVE, WHOLE, Memory, Session, Sitting, Source, Turn, Value

MOMENT = timedelta(microseconds=1)


class Quarantine(Value, frozen=True, kw_only=True):
    """Turns of a session to be put in quarantine, or to be let out of it (`release`).

    Without `seqs` it is the whole session: all turns there are, and what callers wrote of it. `now` is when what is
    left is due to be read once more. `again`: a former try may have been cut off, so turns that are withheld already
    count as if they were not.
    """

    session_id: str
    seqs: frozenset[int] | None = None
    release: bool = False
    now: datetime
    again: bool = False

    def is_of(self, turn: Turn) -> bool:
        """Whether it is one of those: one whose words were erased has nothing to be withheld."""
        named = self.seqs is None or turn.seq in self.seqs
        return named and bool(turn.withheld or (turn.messages and not self.release))


class Concerned(Value, frozen=True, kw_only=True):
    """What a user's record holds that may be touched: all turns of the session, all memories, superseded too."""

    session: Session
    sittings: Sequence[Sitting]
    turns: Sequence[Turn]
    memories: Sequence[Memory]


class Quarantined(Value, frozen=True, kw_only=True):
    """How many turns and memories are withheld by it now; of a release, how many were given back."""

    turns: int = 0
    memories: int = 0


class Rewritten(Value, frozen=True, kw_only=True):
    """What is written in place of what is there; nothing, if there is no `session` among it."""

    counts: Quarantined
    session: Session | None = None
    sittings: tuple[Sitting, ...] = ()
    turns: tuple[Turn, ...] = ()
    memories: tuple[Memory, ...] = ()

    @property
    def things(self) -> list[Exported]:
        """In the order in which they are restored."""
        return [
            *(Exported(session=session) for session in (self.session,) if session is not None),
            *(Exported(sitting=sitting) for sitting in self.sittings),
            *(Exported(turn=turn) for turn in self.turns),
            *(Exported(memory=memory) for memory in self.memories),
        ]


def rewritten(what: Quarantine, held: Concerned) -> Rewritten:
    """Tell what becomes of a session and of all memories. What is so already stays as it is."""
    turns = [turn for turn in held.turns if what.is_of(turn)]
    moved = turns if what.release else [turn for turn in turns if turn.messages]
    seqs = {turn.seq for turn in (turns if what.again else moved)}
    touched = [one for one in held.sittings if any(sitting_of(seq, [one]) for seq in seqs)]
    marked = _released(what, held, seqs) if what.release else _marked(what, held, seqs, touched)
    memories = _as_they_hold(held.memories, marked, what.now)
    counts = Quarantined(turns=len(turns), memories=_count(what, held.memories, marked))
    if not seqs and not memories:
        return Rewritten(counts=counts)
    return Rewritten(
        counts=counts,
        session=without_summary(held.session, *seqs),
        # one that nobody asks to have read stays so
        sittings=tuple(unread(one, what.now) for one in touched if one.reflection != "none"),
        turns=tuple(turn.told() if what.release else turn.hidden() for turn in moved),
        memories=tuple(memories),
    )


Marks = Mapping[str, tuple[Source, ...]]
"""By memory, for which turns it is withheld."""


def _marked(what: Quarantine, held: Concerned, seqs: set[int], touched: Sequence[Sitting]) -> Marks:
    def mark(memory: Memory) -> tuple[Source, ...]:
        if not memory.text or memory.is_own_words:  # deleted, or its user's own
            return ()
        if not memory.sources:
            is_whole = what.seqs is None and memory.session_id == what.session_id
            return (Source(session_id=what.session_id, seq=WHOLE),) if is_whole else ()
        of_it = {source.seq for source in memory.sources if source.session_id == what.session_id}
        read = [one for one in touched if any(sitting_of(seq, [one]) for seq in of_it)] if _is_read(memory) else []
        why = (seq for seq in sorted(seqs) if seq in of_it or sitting_of(seq, read))
        return tuple(Source(session_id=what.session_id, seq=seq) for seq in why)

    return {one.memory_id: tuple(dict.fromkeys((*one.withheld, *mark(one)))) for one in held.memories}


def _is_read(memory: Memory) -> bool:
    """Whether its sources do not tell all that it may hold.

    A summary names but the first and the last turn; and whatever a model wrote it wrote with all of the sitting before
    its eyes, also what it was told there to say of another turn.
    """
    return memory.kind == "summary" or memory.model not in (None, EXTRACTIVE)


def _released(what: Quarantine, held: Concerned, seqs: set[int]) -> Marks:
    left = {turn.seq for turn in held.turns if turn.withheld and turn.seq not in seqs}

    def stays(source: Source) -> bool:
        if source.session_id != what.session_id:
            return True
        return what.seqs is not None and source.seq not in seqs and (source.seq != WHOLE or bool(left))

    return {one.memory_id: tuple(filter(stays, one.withheld)) for one in held.memories}


def _count(what: Quarantine, memories: Iterable[Memory], marked: Marks) -> int:
    if what.release:
        return sum(bool(memory.withheld and not marked[memory.memory_id]) for memory in memories)
    wanted = what.seqs and {*what.seqs}

    def is_for_it(source: Source) -> bool:
        return source.session_id == what.session_id and (wanted is None or source.seq in wanted)

    return sum(any(map(is_for_it, marks)) for marks in marked.values())


def _as_they_hold(memories: Iterable[Memory], marked: Marks, now: datetime) -> list[Memory]:
    """Those that become other ones by these marks: withheld, given back, or holding only while others are withheld."""
    before = {memory.memory_id: memory for memory in memories}
    after = {name: replace(memory, withheld=marked[name]) for name, memory in before.items()}
    moved = {name for name, memory in after.items() if bool(memory.withheld) != bool(before[name].withheld)}
    found = []
    for name, memory in after.items():
        names = behind(memory, after)
        if name in moved or moved.intersection(names):
            memory = replace(memory, valid_to=valid_to(memory, names, after, now))
        if memory != before[name]:
            # so that whoever has read it before does not write over it
            found.append(replace(memory, updated_at=max(now, (memory.updated_at or now - MOMENT) + MOMENT)))
    return found

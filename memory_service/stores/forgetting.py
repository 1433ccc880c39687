"""What has to go with a session or a turn that is erased, and what is left of the rest. Pure.

What was derived only from what goes, goes too. A sitting that loses a turn is read once more, without it.

Where only room is wanted it is otherwise: what was learnt stays, and nothing is read once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from msgspec import UNSET
from msgspec.structs import replace

from memory_service.stores.exports import Exported
from memory_service.stores.superseding import behind, valid_to
from memory_service.values import Memory, Session, Sitting, Source, Turn, Value


class Forgetting(Value, frozen=True, kw_only=True):
    """A session (`seq` is None) or one of its turns; `now` is when what is left is due to be read once more.

    `untouched_since`: nobody asks for it, it is of age: nothing goes of a session that was touched after that, nor what
    its user has pinned.
    `after`: nobody asks for it, room is wanted: of the turns behind this one through `seq` the words go, and chunks,
    which hold them too; nothing of a turn that is live, waits to be read, or is in quarantine.
    """

    session_id: str
    seq: int | None = None
    now: datetime
    untouched_since: datetime | None = None
    after: int | None = None

    @property
    def first(self) -> int | None:
        """Of the turns that go, where it is not the whole session; `seq` is the last."""
        return self.seq if self.after is None else self.after + 1

    def covers(self, source: Source) -> bool:
        if self.seq is not None and self.after is not None:
            return source.session_id == self.session_id and source.seq <= self.seq
        return source.session_id == self.session_id and self.seq in (None, source.seq)

    def is_of(self, turn: Turn) -> bool:
        return self.first is None or self.seq is None or self.first <= turn.seq <= self.seq

    def leaves(self, memory: Memory) -> bool:
        """Whether a memory stays though what it rests on goes: it is in its user's own words, or was to outlast age."""
        unasked = self.untouched_since is not None or self.after is not None
        return memory.is_own_words or (unasked and (memory.pinned or memory.edited))

    def spares(self, session: Session | None, sittings: Sequence[Sitting]) -> bool:
        if session is None:
            return self.after is not None
        if self.after is not None:
            return self.seq is None or not session.erased_through < self.seq <= read_through(session, sittings)
        return self.untouched_since is not None and session.touched_at > self.untouched_since


class Held(Value, frozen=True, kw_only=True):
    """What a user's record holds that may be touched: `turns` are those to go, where it is not the whole session;
    `memories` are all, superseded too.
    """

    session: Session | None
    sittings: Sequence[Sitting]
    turns: Sequence[Turn]
    memories: Sequence[Memory]


class Forgotten(Value, frozen=True, kw_only=True):
    """`memories`: ids of those that go. `left`: what is written in place of what is there."""

    memories: tuple[str, ...]
    left: tuple[Exported, ...]

    @property
    def turns(self) -> list[Turn]:
        """That have lost their words."""
        return [thing.turn for thing in self.left if thing.turn is not None]


def forgotten(what: Forgetting, held: Held) -> Forgotten:
    """Tell what goes beside the session or the turn itself."""
    if what.after is not None:
        return _for_room(what, held)
    read_anew = None if what.seq is None else sitting_of(what.seq, held.sittings)
    kept = {memory.memory_id: _without(what, memory, read_anew) for memory in held.memories}
    gone = {memory_id for memory_id, memory in kept.items() if memory is None}
    left = [memory for memory in _current_again(gone, kept, held, what.now) if memory not in held.memories]
    things = [Exported(memory=memory) for memory in left]
    if held.turns and held.session is not None:
        # first: a restored session comes before its turns and sittings
        things = [Exported(session=without_summary(held.session, held.turns[0].seq)), *things]
        things += [Exported(turn=_emptied(turn)) for turn in held.turns]
        things += [Exported(sitting=unread(read_anew, what.now))] if read_anew else []
    return Forgotten(memories=tuple(sorted(gone)), left=tuple(things))


def _emptied(turn: Turn) -> Turn:
    return replace(turn, messages=(), metadata={}, withheld=UNSET)


def _for_room(what: Forgetting, held: Held) -> Forgotten:
    said = [memory for memory in held.memories if memory.kind == "chunk" and memory.text and memory.sources]
    gone = [memory for memory in said if not memory.withheld and not what.leaves(memory) and _is_all(what, memory)]
    left = [Exported(turn=_emptied(turn)) for turn in held.turns if turn.messages]
    if held.session is not None and what.seq is not None:
        head = replace(held.session, erased_through=what.seq, version=held.session.version + 1)
        left = [Exported(session=head), *left]
    return Forgotten(memories=tuple(sorted(memory.memory_id for memory in gone)), left=tuple(left))


def read_through(session: Session, sittings: Sequence[Sitting]) -> int:
    """Through which turn of a session none is live and none waits to be read."""
    read = session.erased_through
    while read < session.live_after:
        if read < session.replaced_through:  # nobody asks to have those read
            read = session.replaced_through
            continue
        sitting = sitting_of(read + 1, sittings)
        through = 0 if sitting is None else _done_through(sitting)
        if through <= read:
            break
        read = through
    return min(read, session.live_after)


def _done_through(sitting: Sitting) -> int:
    return sitting.through_seq if sitting.reflection == "none" else sitting.reflected_through


def sitting_of(seq: int, sittings: Sequence[Sitting]) -> Sitting | None:
    return next((one for one in sittings if one.first_seq <= seq <= one.through_seq), None)


def _without(what: Forgetting, memory: Memory, read_anew: Sitting | None) -> Memory | None:
    """What is left of a memory: itself, if it rests on nothing that goes; else nothing, for its words may tell of that.

    What its user has written over rests on nothing but that. What was in quarantine for what goes, goes with it. Where
    one was deleted, that is known as long as any of its turns may be read again.
    """
    if memory.is_deleted:
        return None if _is_all(what, memory) else memory
    if any(map(what.covers, memory.withheld)):
        return None
    if not _touched(what, memory, read_anew):
        return memory
    if not what.leaves(memory):
        return None
    left = tuple(source for source in memory.sources if not what.covers(source) and not _is_of(read_anew, source))
    return replace(memory, sources=left, session_id=left[0].session_id if left else None)


def _is_all(what: Forgetting, memory: Memory) -> bool:
    """Whether nothing is left that a memory rests on."""
    if not memory.sources:
        return what.seq is None and memory.session_id == what.session_id
    return all(map(what.covers, memory.sources))


def _touched(what: Forgetting, memory: Memory, read_anew: Sitting | None) -> bool:
    if any(map(what.covers, memory.sources)):
        return True
    if what.seq is None:
        return memory.session_id == what.session_id and not memory.sources
    # a summary names the first and the last turn of what it tells
    return memory.kind == "summary" and any(_is_of(read_anew, source) for source in memory.sources)


def _is_of(sitting: Sitting | None, source: Source) -> bool:
    return (
        sitting is not None
        and source.session_id == sitting.session_id
        and sitting.first_seq <= source.seq <= sitting.through_seq
    )


def _current_again(gone: set[str], kept: Mapping[str, Memory | None], held: Held, now: datetime) -> Iterator[Memory]:
    """What is left; what was replaced by something that goes is replaced by what that was, or holds again."""
    before = {memory.memory_id: memory for memory in held.memories}
    left = {name: _relinked(memory, gone, before) for name, memory in kept.items() if memory is not None}
    for name, memory in left.items():
        again = memory.text and gone.intersection(behind(before[name], before))
        yield replace(memory, valid_to=valid_to(memory, behind(memory, left), left, now)) if again else memory


def _relinked(memory: Memory, gone: set[str], before: Mapping[str, Memory]) -> Memory:
    return replace(
        memory,
        superseded_by=_left_behind(memory.superseded_by, gone, before),
        repeated_by=_left_behind(memory.repeated_by, gone, before),  # may be itself
    )


def _left_behind(name: str | None, gone: set[str], before: Mapping[str, Memory]) -> str | None:
    seen = set()
    while name in gone and name not in seen:
        seen.add(name)
        name = before[name].superseded_by
    return name


def without_summary(session: Session, *seqs: int) -> Session:
    """Its head once more, and without a cumulative summary that may tell of these turns: it is compacted anew."""
    told = any(session.opened_at_seq <= seq <= session.compacted_through for seq in seqs)
    compacted = {"compacted_through": 0, "cumulative_summary": ""} if told else {}
    return replace(session, version=session.version + 1, **compacted)


def unread(sitting: Sitting, now: datetime) -> Sitting:
    """To be reflected on from its beginning."""
    return replace(
        sitting,
        reflection="pending",
        reflected_through=0,
        summary="",
        insights_count=0,
        attempts=0,
        due_at=now,
        lease_until=None,
        last_error=None,
        begun_anew=sitting.begun_anew + 1,
        version=sitting.version + 1,
    )

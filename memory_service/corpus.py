"""Everything searchable of one user, in memory: postings for keywords, a matrix for vectors. Pure, no I/O.

A corpus only grows; what was written anew or superseded is marked dead. It is built from the store and
may be dropped at any time. Statistics of keywords are the user's own: another user's words change nothing
here, neither results nor time.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from heapq import nlargest
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from memory_service.columns import FIRST_ROOM, Column, Names
from memory_service.ranking import (
    CUE,
    Floats,
    Ints,
    Places,
    best_of,
    bm25,
    cosines_of,
    date_cue,
    date_named,
    day_of,
    keyword_arm,
    speakers_meant,
    vector_arm,
)
from memory_service.text import Tokenizer
from memory_service.values import (
    KINDS,
    RANK,
    Kind,
    Memory,
    Only,
    Role,
    Source,
    Trust,
    Turn,
    Vector,
    is_less,
    turn_item_id,
)

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
    from numpy.typing import NDArray
else:
    from memory_service.late import np

STEM_BYTES = 200
"""Estimate of what a stem costs that was not there before."""
ITEM_BYTES = 900
"""Estimate of what one item costs beside its text and vector: objects, postings, columns."""
DOUBLED_TO = 4096
"""Up to so many items the room for them is doubled."""
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


class Item(msgspec.Struct, frozen=True):
    """One candidate: a message of a turn, or a memory."""

    id: str
    kind: Kind
    text: str
    created_at: datetime
    session_id: str | None
    role: Role | None
    name: str | None
    sources: tuple[Source, ...]
    category: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    pinned: bool = False
    agent_id: str | None = None
    trust: Trust = "normal"

    @property
    def words(self) -> str:
        """What it is found by: of a message also who spoke."""
        speaker = self.name or self.role
        return f"{speaker}: {self.text}" if speaker else self.text

    def is_of(self, only: Only) -> bool:
        return (
            (only.session_id is None or self.session_id == only.session_id)
            and (only.category is None or self.category == only.category)
            and (only.agent_id is None or self.agent_id == only.agent_id)
            and only.without_tags.isdisjoint(self.tags)
            and (only.min_trust == "low" or not is_less(self.trust, only.min_trust))
        )


def item_of(memory: Memory) -> Item:
    return Item(
        id=memory.memory_id,
        kind=memory.kind,
        text=memory.text,
        created_at=memory.created_at,
        session_id=memory.session_id,
        role=None,
        name=None,
        sources=memory.sources,
        category=memory.category,
        tags=memory.tags,
        metadata=memory.metadata,
        pinned=memory.pinned,
        agent_id=memory.agent_id,
        trust=memory.trust,
    )


def items_of(turn: Turn) -> list[Item]:
    """The messages of a turn, each a candidate by itself."""
    item_id, source = turn_item_id(turn.session_id, turn.seq), (Source(session_id=turn.session_id, seq=turn.seq),)
    return [
        Item(
            id=f"{item_id}.{position}",
            kind="message",
            text=message.content,
            created_at=turn.created_at,
            session_id=turn.session_id,
            role=message.role,
            name=message.name,
            sources=source,
            trust=message.trust,
        )
        for position, message in enumerate(turn.messages)
    ]


def whole_of(item_id: str) -> str:
    """The name of the turn of a message, by which it is on record; of a memory its own."""
    return item_id.rpartition(".")[0] if "#" in item_id else item_id


class Parts(msgspec.Struct, frozen=True):
    """What a score is the sum of."""

    keyword: float
    vector: float
    speaker: float
    date: float


class Hit(msgspec.Struct, frozen=True):
    item: Item
    score: float
    parts: Parts


class Corpus:
    def __init__(self, dimensions: int = 0) -> None:
        self._items: list[Item] = []
        self._postings: dict[str, array[int]] = {}
        self._places: dict[str, list[int]] = {}
        self._names: set[str] = set()
        self._lengths = Column(np.float32)
        self._before = Column(np.int32, -1)
        self._after = Column(np.int32, -1)
        self._days = Column(np.int32)
        self._years: set[int] = set()
        self._alive = Column(np.bool_, True)
        self._extracts = Column(np.bool_)
        self._kinds = Column(np.int8)
        self._trusts = Column(np.int8)
        self._tagged = Column(np.bool_)
        self._speakers, self._sessions, self._categories, self._agents = Names(), Names(), Names(), Names()
        self._vectors = Column(np.float32)
        self._columns: list[Column[Any]] = [self._lengths, self._before, self._after, self._days, self._alive]
        self._columns += [self._extracts, self._kinds, self._trusts, self._tagged, self._vectors]
        self._columns += [self._speakers, self._sessions, self._categories, self._agents]
        self._room = FIRST_ROOM
        self._text_bytes = 0
        self._buried = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size_bytes(self) -> int:
        return self._text_bytes + self._vectors.size_bytes + ITEM_BYTES * (len(self._items) + 1)

    def add_turn(self, turn: Turn, tokenize: Tokenizer) -> None:
        """Add a turn's messages, in whatever order turns come; one that is here already stays as it is."""
        item_id = turn_item_id(turn.session_id, turn.seq)
        if item_id in self._places:
            return
        places = []
        for item in items_of(turn):
            places.append(self._append(item, tokenize(item.words)))
            if item.name:
                self._names.add(item.name)
        self._places[item_id] = places
        self._link(turn, places)

    def add_memory(self, memory: Memory, tokenize: Tokenizer) -> None:
        """Add a memory, in place of an earlier one of its id; a superseded one only leaves."""
        self.remove(memory.memory_id)
        if memory.valid_to is not None:
            return
        place = self._append(item_of(memory), tokenize(memory.text))
        if memory.is_extract:
            self._extracts.data[place] = True
        self._places[memory.memory_id] = [place]

    def add_vectors(self, vectors: Iterable[Vector]) -> None:
        """Give items their vectors; those that are not here any more are passed over."""
        for _, of_one_width in groupby(self._placed(vectors), lambda placed: len(placed[1]) // len(placed[0])):
            found = list(of_one_width)
            places = [place for of_item, _ in found for place in of_item]
            rows = np.frombuffer(b"".join([data for _, data in found]), np.float32).reshape(len(places), -1)
            self._vectors.widen(rows.shape[1])
            self._vectors.data[places] = rows

    def _placed(self, vectors: Iterable[Vector]) -> Iterator[tuple[list[int], bytes]]:
        for vector in vectors:
            places = self._places.get(vector.item_id)
            if places and vector.data:  # empty where there was nothing to embed
                yield places, vector.data

    def _append(self, item: Item, stems: Sequence[str]) -> int:
        place = len(self._items)
        if place + 1 == self._room:
            self._grow()
        self._items.append(item)
        self._text_bytes += len(item.text) + 4 * len(stems) + (len(str(item.metadata)) if item.metadata else 0)
        postings = self._postings
        for stem in stems:
            try:
                postings[stem].append(place)  # once per occurrence: a run of the same place is its frequency
            except KeyError:
                postings[stem] = array("i", [place])
                self._text_bytes += STEM_BYTES
        self._lengths.data[place] = len(stems)
        said_at = item.created_at.astimezone(UTC)
        self._days.data[place] = day_of(said_at)
        self._years.add(said_at.year)
        self._kinds.data[place] = _NUMBERS[item.kind]
        self._speakers.put(place, item.name or item.role)
        self._sessions.put(place, item.session_id)
        if item.kind != "message":
            self._note_of_memory(place, item)
        self._trusts.data[place] = RANK[item.trust]
        return place

    def _note_of_memory(self, place: int, item: Item) -> None:
        """What no message has."""
        self._categories.put(place, item.category)
        self._agents.put(place, item.agent_id)
        if item.tags:
            self._tagged.data[place] = True

    def _grow(self) -> None:
        """Make room: at first twice as much, later a quarter more, for what is large is held for long."""
        self._room += self._room if self._room < DOUBLED_TO else self._room // 4
        for column in self._columns:
            column.grow(self._room)

    def _link(self, turn: Turn, places: list[int]) -> None:
        """Make messages of a turn neighbours, the outer ones of those of the turns beside it, if these are here."""
        if not places:
            return
        before = self._places.get(turn_item_id(turn.session_id, turn.seq - 1), [])
        after = self._places.get(turn_item_id(turn.session_id, turn.seq + 1), [])
        for place, following in pairwise([*before[-1:], *places, *after[:1]]):
            self._before.data[following] = place
            self._after.data[place] = following

    def remove(self, item_id: str) -> None:
        for place in self._places.pop(item_id, []):
            self._alive.data[place] = False
            self._lengths.data[place] = self._vectors.data[place] = 0
            self._buried += 1

    def search(
        self,
        question: str,
        stems: Sequence[str],
        vector: Floats | None,
        *,
        keyword_weight: float,
        kinds: Collection[Kind],
        limit: int,
        with_extracts: bool = True,
        only: Only | None = None,
    ) -> list[Hit]:
        """Return the best items of these kinds, best first. Without `vector` the keywords alone decide.

        Extracts repeat what messages say, word for word: `with_extracts` says whether they count beside them.
        """
        allowed = None if only is None else self._are_of(only)  # before the arms, which take but the best
        before, after = self._before.used(len(self) + 1), self._after.used(len(self) + 1)  # one more: see `_spread`
        keyword = keyword_arm(self._by_words(stems, allowed), before, after)
        if vector is not None and self._vectors.width == len(vector):
            keyword *= np.float32(keyword_weight)
            near = vector_arm(self._by_vector(vector, allowed), before, after) * np.float32(1 - keyword_weight)
        else:
            near = np.zeros_like(keyword)
        found = self._found(keyword + near, kinds, with_extracts, allowed)
        speaker, date = self._speaker_cue(question, found), self._date_cue(question, found)
        parts = (keyword[found], near[found], speaker, date)
        total = parts[0] + parts[1] + speaker + date
        return [
            Hit(self._items[found[i]], float(total[i]), Parts(*(float(part[i]) for part in parts)))
            for i in best_of(total, min(limit, len(found)))
        ]

    def _found(
        self, scores: Floats, kinds: Collection[Kind], with_extracts: bool, allowed: Floats | None
    ) -> NDArray[np.intp]:
        """The places of what has a score and may be told."""
        places = np.flatnonzero(scores > 0)
        told = self._may_be_told(places, kinds, with_extracts)
        return places[told if allowed is None else told & (allowed[places] > 0)]

    def _by_words(self, stems: Sequence[str], allowed: Floats | None) -> Floats:
        scores = bm25(self._counts(stems), self._lengths.used(len(self)), len(self) - self._buried)
        return scores if allowed is None else scores * allowed

    def _by_vector(self, vector: Floats, allowed: Floats | None) -> Floats:
        cosines = cosines_of(self._vectors.used(len(self)), vector)
        return cosines if allowed is None else cosines * allowed

    def _may_be_told(self, places: Places, kinds: Collection[Kind], with_extracts: bool) -> NDArray[np.bool_]:
        told = self._alive.data[places] & self._of_kinds(kinds, places)
        return told if with_extracts else told & ~self._extracts.data[places]

    def newest(self, kinds: Collection[Kind], limit: int, only: Only | None = None) -> list[Item]:
        """Return items of these kinds, newest first, extracts left out."""
        n = len(self._items)
        shown = self._may_be_told(np.arange(n), kinds, False)
        if only is not None:
            shown &= self._are_of(only) > 0
        places = np.flatnonzero(shown)
        if 0 < limit < len(places):  # of days before that of the last of them there is none
            days = self._days.data[places]
            places = places[days >= np.partition(days, len(days) - limit)[len(days) - limit]]
        newest = nlargest(limit, places.tolist(), key=lambda place: (self._items[place].created_at, place))
        return [self._items[place] for place in newest]

    def _counts(self, stems: Sequence[str]) -> list[tuple[Ints, Floats]]:
        counts = []
        for stem in stems:
            posting = self._postings.get(stem)
            if posting:
                found, often = _runs(np.frombuffer(posting, np.int32))
                if self._buried:
                    alive = self._alive.data[found]  # the dead count for nothing: neither as found nor in what is rare
                    found, often = found[alive], often[alive]
                counts.append((found, often))
        return counts

    def _of_kinds(self, kinds: Collection[Kind], places: Places) -> NDArray[np.bool_]:
        wanted = np.array([kind in kinds for kind in KINDS])
        return wanted[self._kinds.data[places]]

    def _are_of(self, only: Only) -> Floats:
        """1 for each item that a search may find, 0 for the others."""
        n = len(self)
        are = self._trusts.used(n) >= RANK[only.min_trust]
        columns = (self._sessions, only.session_id), (self._categories, only.category), (self._agents, only.agent_id)
        for column, name in columns:
            if name is not None:
                are &= column.used(n) == column.number_of(name)
        if only.without_tags:
            for place in np.flatnonzero(are & self._tagged.used(n)).tolist():
                are[place] = only.without_tags.isdisjoint(self._items[place].tags)
        return are.astype(np.float32)

    def _speaker_cue(self, question: str, places: Places) -> Floats:
        cue = np.zeros(len(places), np.float32)
        for speaker in speakers_meant(question, self._names):
            cue[self._speakers.data[places] == self._speakers.number_of(speaker)] = CUE
        return cue

    def _date_cue(self, question: str, places: Places) -> Floats:
        named = date_named(question)
        if named is None:
            return np.zeros(len(places), np.float32)
        return date_cue(named, self._days.data[places], self._years)


def _runs(posting: Ints) -> tuple[Ints, Floats]:
    """The places of a posting, and how often each comes: they come in order."""
    first = np.empty(len(posting), np.bool_)
    first[0] = True
    np.not_equal(posting[1:], posting[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    often = np.empty(len(starts), np.float32)
    np.subtract(starts[1:], starts[:-1], out=often[:-1])
    often[-1] = len(posting) - starts[-1]
    return posting[starts], often

"""One user's searchable items give the answers that a slow and simple reading of the rules gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import permutations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from memory_service.corpus import Corpus, Hit
from memory_service.ranking import ROUNDING
from memory_service.values import (
    EXTRACTIVE,
    KINDS,
    TRUSTS,
    Kind,
    Memory,
    Message,
    Only,
    Role,
    Source,
    Turn,
    Vector,
    turn_item_id,
)

AT = datetime(2025, 3, 3, 9, tzinfo=UTC)
WORDS = ["tea", "cake", "porto", "train", "rain", "sea", "bike", "moon"]
ARM, SPREAD, CUE = 200, (0.3, 0.15, 0.075), 0.4


def tokenize(text: str) -> list[str]:
    return [word.strip(".:?,").lower() for word in text.split()]


def turn(session: str, seq: int, *messages: Message, days: int = 0) -> Turn:
    at = AT + timedelta(days=days)
    return Turn(
        session_id=session, seq=seq, turn_id=f"{session}{seq}", messages=messages, created_at=at, received_at=at
    )


def says(text: str, seq: int = 1, session: str = "s", role: Role = "user", name: str | None = None) -> Turn:
    return turn(session, seq, Message(role=role, content=text, name=name))


def memory(
    name: str, text: str, *, kind: Kind = "insight", gone: bool = False, days: int = 0, model: str | None = None
) -> Memory:
    return Memory(
        memory_id=name,
        kind=kind,
        text=text,
        created_at=AT + timedelta(days=days),
        valid_to=AT if gone else None,
        superseded_by="other" if gone else None,
        model=model,
    )


def vector(item_id: str, *rows: Iterable[float]) -> Vector:
    data = np.array([list(row) for row in rows], np.float32)
    return Vector(item_id=item_id, token=0, space="test", data=data.tobytes())


def unit(numbers: Iterable[float]) -> list[float]:
    row = list(numbers)
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row] if length else row


# The reference: plain Python, one thing after the other, nothing shared with the corpus.


@dataclass
class Entry:
    id: str
    kind: Kind
    words: list[str]
    day: Any
    speaker: str | None
    session: str | None
    extract: bool = False
    vector: list[float] | None = None


@dataclass
class Slow:
    """What is alive, in order of writing."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def add_turn(self, added: Turn) -> None:
        item = turn_item_id(added.session_id, added.seq)
        self.entries[item] = [
            Entry(
                id=f"{item}.{place}",
                kind="message",
                words=tokenize(f"{message.name or message.role}: {message.content}"),
                day=added.created_at.date(),
                speaker=message.name or message.role,
                session=added.session_id,
            )
            for place, message in enumerate(added.messages)
        ]
        self.names |= {message.name for message in added.messages if message.name}

    def add_memory(self, added: Memory) -> None:
        self.entries.pop(added.memory_id, None)
        if added.valid_to is None:
            words, day = tokenize(added.text), added.created_at.date()
            extract = added.model == EXTRACTIVE
            self.entries[added.memory_id] = [Entry(added.memory_id, added.kind, words, day, None, None, extract)]

    def add_vector(self, added: Vector) -> None:
        entries = self.entries.get(added.item_id, [])
        rows = np.frombuffer(added.data, np.float32).reshape(max(len(entries), 1), -1).tolist()
        for entry, row in zip(entries, rows, strict=False):
            entry.vector = row

    def scores(self, question: str, stems: list[str], asked: list[float] | None, share: float) -> dict[str, float]:
        """Score of everything that is found at all, whatever its kind."""
        alive = [entry for entries in self.entries.values() for entry in entries]
        keyword = self._spread(alive, self._first(self._bm25(alive, stems), 0.0))
        near = [0.0] * len(alive)
        if asked is not None and any(entry.vector for entry in alive):
            products = [sum(a * b for a, b in zip(entry.vector or [], asked, strict=False)) for entry in alive]
            cosines = [product if product >= ROUNDING else 0.0 for product in products]  # else at right angles
            floor = max(sorted(cosines, reverse=True)[ARM - 1], 0.0) if len(cosines) > ARM else 0.0
            near = self._spread(alive, self._first(cosines, floor))
        elif asked is None:
            share = 1.0
        found = {}
        for place, entry in enumerate(alive):
            score = share * keyword[place] + (1 - share) * near[place]
            if score > 0:
                found[entry.id] = score + self._speaker(question, entry) + self._date(question, entry)
        return found

    def _bm25(self, alive: list[Entry], stems: list[str]) -> list[float]:
        n = len(alive)
        mean = max(sum(len(entry.words) for entry in alive) / n, 1.0) if n else 1.0
        scores = [0.0] * n
        for stem in stems:
            holding = sum(stem in entry.words for entry in alive)
            rarity = max(math.log((n - holding + 0.5) / (holding + 0.5)), 1e-6)
            for place, entry in enumerate(alive):
                often = entry.words.count(stem)
                norm = 1.2 * (1 - 0.75 + 0.75 * len(entry.words) / mean)
                scores[place] += rarity * often * 2.2 / (often + norm)
        return scores

    def _first(self, scores: list[float], floor: float) -> list[float]:
        best = max(scores, default=0.0)
        if best <= floor:
            return [0.0] * len(scores)
        scaled = [max((score - floor) / (best - floor), 0.0) for score in scores]
        last = sorted(scaled, reverse=True)[ARM - 1] if len(scaled) > ARM else 0.0
        return [score if score >= last else 0.0 for score in scaled]

    def _spread(self, alive: list[Entry], scores: list[float]) -> list[float]:
        sessions: dict[str, list[int]] = {}
        for place, entry in enumerate(alive):
            if entry.session is not None:
                sessions.setdefault(entry.session, []).append(place)
        spread = list(scores)
        for places in sessions.values():
            for here, place in enumerate(places):
                for steps, weight in enumerate(SPREAD, start=1):
                    for there in (here - steps, here + steps):
                        if 0 <= there < len(places):
                            spread[place] += weight * scores[places[there]]
        best = max(spread, default=0.0)
        return [score / best for score in spread] if best else spread

    def _speaker(self, question: str, entry: Entry) -> float:
        asked = tokenize(question)
        named = [name for name in self.names if name.lower() in asked]
        if self.names:
            return CUE if len(named) == 1 and entry.speaker == named[0] else 0.0
        return CUE if "i" in asked and entry.speaker == "user" else 0.0

    def _date(self, question: str, entry: Entry) -> float:
        if "5 March 2025" in question:
            near = abs((entry.day - datetime(2025, 3, 5).date()).days) <= 7  # noqa: DTZ001
            return CUE if near else CUE / 2 if (entry.day.year, entry.day.month) == (2025, 3) else 0.0
        return CUE / 4 if "2025" in question and entry.day.year == 2025 else 0.0


class Both:
    """A corpus and the reference, fed and asked alike."""

    def __init__(self) -> None:
        self.corpus, self.slow = Corpus(), Slow()

    def add_turn(self, added: Turn) -> None:
        self.corpus.add_turn(added, tokenize)
        self.slow.add_turn(added)

    def add_memory(self, added: Memory) -> None:
        self.corpus.add_memory(added, tokenize)
        self.slow.add_memory(added)

    def add_vector(self, added: Vector) -> None:
        self.corpus.add_vectors([added])
        self.slow.add_vector(added)

    def check(
        self,
        question: str,
        asked: list[float] | None,
        kinds: tuple[Kind, ...] = KINDS,
        limit: int = 10_000,
        share: float = 0.7,
    ) -> None:
        """Ask both, and demand the same answer (in any order where scores are equal)."""
        stems = [word for word in dict.fromkeys(tokenize(question)) if word]
        scores = self.slow.scores(question, stems, asked, share)
        kind_of = {entry.id: entry.kind for entries in self.slow.entries.values() for entry in entries}
        expected = {item: score for item, score in scores.items() if kind_of[item] in kinds}
        hits = search(self.corpus, question, asked, kinds=kinds, limit=limit, share=share)
        best = sorted(expected.values(), reverse=True)[:limit]
        assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
        assert len({hit.item.id for hit in hits}) == len(hits)
        for hit in hits:
            assert hit.score == pytest.approx(expected[hit.item.id], abs=1e-4)
            parts = (hit.parts.keyword, hit.parts.vector, hit.parts.speaker, hit.parts.date)
            assert sum(parts) == pytest.approx(hit.score, abs=1e-5)


def search(
    corpus: Corpus,
    question: str,
    asked: list[float] | None = None,
    *,
    kinds: tuple[Kind, ...] = KINDS,
    limit: int = 10,
    share: float = 0.7,
    **more: Any,
) -> list[Hit]:
    stems = [word for word in dict.fromkeys(tokenize(question)) if word]
    embedded = None if asked is None else np.array(asked, np.float32)
    return corpus.search(question, stems, embedded, keyword_weight=share, kinds=kinds, limit=limit, **more)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.item.id for hit in hits]


# Against the reference

text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
row = st.lists(st.integers(-3, 3), min_size=3, max_size=3).map(unit)
message = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant"]),
    content=text,
    name=st.sampled_from([None, None, "Ana", "Ben"]),
)
name = st.sampled_from([f"m{n}" for n in range(5)])
Step = Callable[[Both, Random], None]


def add_turn(session: str, messages: list[Message], days: int) -> Step:
    def step(both: Both, chance: Random) -> None:
        seq = 1 + sum(item.startswith(f"{session}#") for item in both.slow.entries)
        both.add_turn(turn(session, seq, *messages, days=days))

    return step


def add_memory(name: str, words: str, kind: Kind, gone: bool, days: int) -> Step:
    return lambda both, chance: both.add_memory(memory(name, words, kind=kind, gone=gone, days=days))


def add_vectors(rows: list[list[float]]) -> Step:
    def step(both: Both, chance: Random) -> None:
        item, entries = chance.choice([*both.slow.entries.items(), ("unknown", [None])])
        both.add_vector(vector(item, *(rows[place % len(rows)] for place in range(len(entries)))))

    return step


steps = st.one_of(
    st.builds(add_turn, st.sampled_from("ab"), st.lists(message, min_size=1, max_size=3), st.integers(-400, 400)),
    st.builds(add_memory, name, text, st.sampled_from(KINDS), st.booleans(), st.integers(-40, 40)),
    st.builds(add_vectors, st.lists(row, min_size=1, max_size=3)),
)
question = st.builds(
    lambda words, who, when: f"{who} {words} {when}".strip(),
    text,
    st.sampled_from(["", "I", "Ana", "Ana Ben"]),
    st.sampled_from(["", "in 2025", "on 5 March 2025"]),
)


@settings(max_examples=150)
@given(
    st.lists(steps, max_size=25),
    question,
    st.none() | row,
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=7).map(tuple),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_a_search_equals_the_slow_and_simple_reading_of_the_rules(
    done: list[Step],
    asked: str,
    embedded: list[float] | None,
    kinds: tuple[Kind, ...],
    limit: int,
    chance: Random,
) -> None:
    both = Both()
    for step in done:
        step(both, chance)
    if embedded is not None and not any(e.vector for entries in both.slow.entries.values() for e in entries):
        embedded = None  # without any vector the keywords alone decide
    both.check(asked, embedded, kinds, limit)
    both.check(asked, None)


def grown(items: int, chance: Random, *, forgetful: bool) -> Both:
    """Messages and insights, with vectors, some of them written anew or superseded."""
    both = Both()
    seq = 0
    while (size := len(both.corpus)) < items:
        words = " ".join(chance.choices(WORDS, k=chance.randint(1, 8)))
        vectors = [unit(chance.gauss(0, 1) for _ in range(4)) for _ in range(2)]
        if chance.random() < 0.5 and size + 2 <= items:
            seq += 1
            both.add_turn(turn("s", seq, Message(role="user", content=words), Message(role="assistant", content="tea")))
            both.add_vector(vector(turn_item_id("s", seq), *vectors))
        else:
            name = f"m{chance.randrange(20) if forgetful else size}"
            both.add_memory(memory(name, words, gone=forgetful and chance.random() < 0.3))
            both.add_vector(vector(name, vectors[0]))
            if forgetful and len(both.corpus) == size:  # superseded: nothing was added
                both.add_memory(memory(f"x{size}", words))
    return both


@pytest.mark.parametrize("items", [1, 63, 64, 65, 127, 128, 129, 201, 999, 1000, 1025])
@pytest.mark.parametrize("forgetful", [False, True])
def test_growing_changes_no_answer(items: int, forgetful: bool) -> None:
    chance = Random(items)
    both = grown(items, chance, forgetful=forgetful)
    for asked in ("tea", "moon cake", "I porto sea", "nothing"):
        for embedded in (None, unit(chance.gauss(0, 1) for _ in range(4))):
            both.check(asked, embedded)
            both.check(asked, embedded, ("message",), 5)


# What a corpus forgets


def test_a_superseded_memory_is_not_found_and_a_rewritten_one_is_found_by_its_new_words() -> None:
    corpus = Corpus()
    for added in (memory("a", "tea"), memory("b", "cake"), memory("a", "tea", gone=True), memory("b", "porto")):
        corpus.add_memory(added, tokenize)
    assert search(corpus, "tea cake") == []
    assert ids(search(corpus, "porto")) == ["b"]


def test_what_was_forgotten_changes_no_score_of_what_is_left() -> None:
    kept = [memory("b", "tea and cake in porto"), memory("c", "rain"), memory("d", "sea moon"), memory("e", "train")]
    lasting = Corpus()
    changing = Corpus()
    for corpus in (lasting, changing):
        if corpus is changing:
            for dead in (memory("a", "tea tea tea tea"), memory("b", "tea tea tea"), memory("a", "tea", gone=True)):
                corpus.add_memory(dead, tokenize)
                corpus.add_vectors([vector(dead.memory_id, [1, 0])])
            corpus.add_memory(memory("b", "bike", gone=True), tokenize)
        for added in kept:
            corpus.add_memory(added, tokenize)
            corpus.add_vectors([vector(added.memory_id, [0.6, 0.8])])
    for embedded in (None, [1.0, 0.0]):
        scores = [{h.item.id: h.score for h in search(c, "tea rain", embedded)} for c in (lasting, changing)]
        assert scores[0] == pytest.approx(scores[1])


def test_a_superseded_memory_that_was_never_here_is_passed_over() -> None:
    corpus = Corpus()
    corpus.add_memory(memory("a", "tea", gone=True), tokenize)
    corpus.add_vectors([vector("a", [1, 0])])
    corpus.add_vectors([vector("unknown#1", [1, 0])])
    assert (len(corpus), search(corpus, "tea", [1.0, 0.0])) == (0, [])


def test_a_rewritten_memory_has_no_vector_until_it_is_given_a_new_one() -> None:
    corpus = Corpus()
    for added in (memory("a", "tea"), memory("b", "cake")):
        corpus.add_memory(added, tokenize)
        corpus.add_vectors([vector(added.memory_id, [1, 0])])
    corpus.add_memory(memory("a", "coffee"), tokenize)
    assert ids(search(corpus, "something", [1.0, 0.0])) == ["b"]
    corpus.add_vectors([vector("a", [1, 0])])
    assert ids(search(corpus, "something", [1.0, 0.0])) == ["b", "a"]


# Vectors


def test_vectors_of_another_width_are_forgotten_and_never_compared() -> None:
    corpus = Corpus()
    for added in (memory("a", "tea"), memory("b", "cake")):
        corpus.add_memory(added, tokenize)
    corpus.add_vectors([vector("a", [1, 0])])
    corpus.add_vectors([vector("b", [0, 0, 1])])
    assert ids(search(corpus, "something", [0.0, 0.0, 1.0])) == ["b"]
    assert search(corpus, "something", [1.0, 0.0, 0.0]) == []
    assert search(corpus, "something", [1.0, 0.0]) == []


def test_vectors_given_together_are_as_if_they_came_one_by_one() -> None:
    added = [
        vector("a", [1, 0]),
        vector("s#1", [0.6, 0.8], [0, 1]),
        vector("unknown", [1, 0]),
        Vector(item_id="b", token=0, space="test", data=b""),
        vector("b", [0, 1]),
        vector("a", [0.8, 0.6]),
    ]
    together, one_by_one = Corpus(), Corpus()
    for corpus in (together, one_by_one):
        for name in ("a", "b"):
            corpus.add_memory(memory(name, "tea"), tokenize)
        corpus.add_turn(turn("s", 1, *(Message(role="user", content=said) for said in ("cake", "rain"))), tokenize)
    together.add_vectors(added)
    for one in added:
        one_by_one.add_vectors([one])
    for question in ([1.0, 0.0], [0.0, 1.0]):
        found = search(together, "something", question)
        assert [(hit.item.id, hit.score) for hit in found] == [
            (hit.item.id, hit.score) for hit in search(one_by_one, "something", question)
        ]
        assert len(found) > 2
    together.add_vectors([vector("b", [1, 0]), vector("a", [0, 0, 1])])
    assert ids(search(together, "something", [0.0, 0.0, 1.0])) == ["a"]


def test_keywords_alone_decide_while_no_vector_of_the_question_s_width_is_here() -> None:
    corpus = Corpus()
    corpus.add_memory(memory("a", "tea"), tokenize)
    [hit] = search(corpus, "tea", [1.0, 0.0])
    assert (hit.score, hit.parts.keyword, hit.parts.vector) == (1.0, 1.0, 0.0)


def test_an_item_with_nothing_to_embed_costs_the_others_nothing() -> None:
    corpus = Corpus()
    corpus.add_memory(memory("a", "tea"), tokenize)
    corpus.add_turn(says(" "), tokenize)
    corpus.add_vectors([vector("a", [1, 0])])
    corpus.add_vectors([Vector(item_id="s#1", token=0, space="test", data=b"")])
    assert ids(search(corpus, "something", [1.0, 0.0])) == ["a"]


# Sessions, kinds, limits


def test_neighbours_are_those_of_the_same_session_though_turns_came_mixed() -> None:
    corpus = Corpus()
    for seq in range(1, 9):
        for session in ("a", "b"):
            told = "porto" if (session, seq) == ("a", 4) else "rain"
            corpus.add_turn(says(told, seq, session), tokenize)
            corpus.add_memory(memory(f"{session}{seq}", "sea"), tokenize)
    found = {hit.item.id: hit.score for hit in search(corpus, "porto", limit=50)}
    assert found == pytest.approx(
        {"a#4.0": 1, "a#3.0": 0.3, "a#5.0": 0.3, "a#2.0": 0.15, "a#6.0": 0.15, "a#1.0": 0.075, "a#7.0": 0.075}
    )


def test_messages_between_which_turns_are_missing_are_no_neighbours() -> None:
    corpus = Corpus()
    for seq, told in ((3, "rain"), (4, "porto"), (5, "sea"), (7, "moon")):
        corpus.add_turn(says(told, seq), tokenize)
    assert {hit.item.id for hit in search(corpus, "porto", limit=50)} == {"s#3.0", "s#4.0", "s#5.0"}


def test_neighbours_are_the_same_in_whatever_order_turns_come() -> None:
    texts = ["tea cake", "rain", "porto sea", "moon"]
    asked = [says(text, seq) for seq, text in enumerate(texts, 1)]
    expected = None
    for order in permutations(asked):
        corpus = Corpus()
        for one in order:
            corpus.add_turn(one, tokenize)
        found = {hit.item.text: hit.score for hit in search(corpus, "tea porto", limit=50)}
        expected = expected or found
        assert found == expected
    assert expected
    assert set(expected) == set(texts), "those beside a hit are found by it"


def test_a_turn_that_comes_again_stays_where_it_is_with_its_neighbours_and_its_vector() -> None:
    corpus = Corpus()
    for seq, told in enumerate(("porto", "rain", "sea"), 1):
        corpus.add_turn(says(told, seq), tokenize)
    corpus.add_vectors([vector("s#1", [1, 0])])
    before = search(corpus, "porto", [1.0, 0.0], limit=50)
    corpus.add_turn(says("porto", 1), tokenize)
    assert search(corpus, "porto", [1.0, 0.0], limit=50) == before
    assert len(corpus) == 3


def test_a_day_without_a_year_is_meant_in_each_year_of_the_memory_not_only_in_those_of_what_is_found() -> None:
    corpus = Corpus()
    corpus.add_memory(memory("eve", "tea", days=-63), tokenize)  # 30 December 2024
    assert search(corpus, "tea on 2 January")[0].parts.date == 0
    corpus.add_memory(memory("other", "chess"), tokenize)
    assert search(corpus, "tea on 2 January")[0].parts.date == pytest.approx(CUE)


@pytest.mark.parametrize("limit", [1, 3, 19, 20, 30])
def test_of_equal_scores_the_earlier_comes_first_however_few_are_asked_for(limit: int) -> None:
    corpus = Corpus()
    for number in range(20):
        corpus.add_memory(memory(f"m{number}", "tea and cake" if number % 2 else "tea at sea"), tokenize)
    assert ids(search(corpus, "tea", limit=limit)) == [f"m{number}" for number in range(20)][:limit]


def test_a_search_gives_only_the_kinds_asked_for_and_no_more_than_the_limit() -> None:
    corpus = Corpus()
    for kind in KINDS[1:]:
        for number in range(3):
            corpus.add_memory(memory(f"{kind}{number}", "tea", kind=kind), tokenize)
    corpus.add_turn(says("tea"), tokenize)
    for kind in KINDS:
        assert {hit.item.kind for hit in search(corpus, "tea", kinds=(kind,))} == {kind}
    assert len(search(corpus, "tea", limit=4)) == 4
    assert search(corpus, "tea", kinds=()) == []


def test_extracts_can_be_left_out_for_they_repeat_what_messages_say() -> None:
    corpus = Corpus()
    corpus.add_memory(memory("rules", "tea", model=EXTRACTIVE), tokenize)
    corpus.add_memory(memory("model", "tea", model="gpt"), tokenize)
    assert ids(search(corpus, "tea")) == ["rules", "model"]
    assert ids(search(corpus, "tea", with_extracts=False)) == ["model"]


def test_the_newest_come_first_of_what_is_alive_and_no_extract() -> None:
    corpus = Corpus()
    assert corpus.newest(KINDS, 5) == []
    for day, name in ((3, "third"), (1, "first"), (2, "second")):
        corpus.add_memory(memory(name, name, days=day), tokenize)
    corpus.add_turn(
        turn("s", 1, Message(role="user", content="hi"), Message(role="assistant", content="yes")), tokenize
    )
    corpus.add_memory(memory("extract", "tea", model=EXTRACTIVE, days=9), tokenize)
    corpus.add_memory(memory("gone", "tea", days=9), tokenize)
    corpus.add_memory(memory("gone", "tea", days=9, gone=True), tokenize)
    assert [item.id for item in corpus.newest(KINDS, 9)] == ["third", "second", "first", "s#1.1", "s#1.0"]
    assert [item.id for item in corpus.newest(KINDS, 2)] == ["third", "second"]
    assert [item.id for item in corpus.newest(["message"], 1)] == ["s#1.1"]
    assert [item.id for item in corpus.newest(KINDS, 1, Only(session_id="s"))] == ["s#1.1"]


@pytest.mark.parametrize(
    "only",
    [
        Only(),
        Only(session_id="a"),
        Only(category="travel"),
        Only(agent_id="cook"),
        Only(min_trust="normal"),
        Only(min_trust="high"),
        Only(without_tags=frozenset({"old", "wrong"})),
        Only(session_id="b", category="food", agent_id="cook", min_trust="normal", without_tags=frozenset({"old"})),
        Only(session_id="of nobody"),
    ],
    ids=["all", "a session", "a category", "an agent", "normal", "high", "without tags", "all of it", "nothing"],
)
def test_a_restricted_search_finds_what_is_so_and_nothing_else(only: Only) -> None:
    corpus, chance = Corpus(), Random(3)
    for number in range(150):
        fields = {
            "session_id": chance.choice([None, "a", "b"]),
            "category": chance.choice([None, "food", "travel"]),
            "agent_id": chance.choice([None, "cook"]),
            "trust": chance.choice(TRUSTS),
            "tags": tuple(chance.sample(["old", "wrong", "new"], chance.randint(0, 2))),
        }
        corpus.add_memory(replace(memory(f"m{number}", "tea", days=number % 7), **fields), tokenize)
    everything = [hit.item for hit in search(corpus, "tea", limit=150)]
    wanted = {item.id for item in everything if item.is_of(only)}
    assert len(everything) == 150
    assert set(ids(search(corpus, "tea", limit=150, only=only))) == wanted
    newest = sorted((item for item in everything if item.id in wanted), key=lambda item: item.created_at, reverse=True)
    for limit in (0, 1, 10, 150):
        told = corpus.newest(KINDS, limit, only)
        assert [item.created_at for item in told] == [item.created_at for item in newest[:limit]]
        assert {item.id for item in told} <= wanted


def test_an_empty_corpus_and_an_empty_question_find_nothing() -> None:
    assert search(Corpus(), "tea", [1.0, 0.0]) == []
    corpus = Corpus()
    corpus.add_turn(says("tea"), tokenize)
    assert search(corpus, "") == []


def test_a_cue_alone_is_no_hit() -> None:
    corpus = Corpus()
    corpus.add_turn(says("rain"), tokenize)
    assert search(corpus, "What did I do on 3 March 2025?") == []


def test_a_hit_tells_what_it_is_and_where_it_comes_from() -> None:
    corpus = Corpus()
    corpus.add_turn(turn("s", 7, Message(role="user", content="tea", name="Ana")), tokenize)
    [hit] = search(corpus, "tea")
    item = hit.item
    assert (item.id, item.kind, item.text, item.role, item.name) == ("s#7.0", "message", "tea", "user", "Ana")
    assert (item.session_id, item.created_at, item.sources) == ("s", AT, (Source(session_id="s", seq=7),))


def test_the_size_counts_texts_and_vectors() -> None:
    corpus = Corpus()
    empty = corpus.size_bytes
    corpus.add_memory(memory("a", "x" * 50_000), tokenize)
    worded = corpus.size_bytes
    corpus.add_vectors([vector("a", [1.0] * 1_000)])
    assert worded >= empty + 50_000
    assert corpus.size_bytes >= worded + 4 * 1_000

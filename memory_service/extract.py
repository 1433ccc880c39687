"""Summaries and facts without a model: sentences picked and quoted, never written. Pure.

Honest limits (measured, docs/explanation/reflection.md): such facts are about a third of what a model
writes, and a summary of picked sentences is an extract. Both say so in their provenance (`extractive`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from memory_service.relative_dates import dated
from memory_service.text import STOP_WORDS, sentences, words
from memory_service.values import Message, Turn

SUMMARY_WORDS = 120
THE_USER = "The user"
"""How one is called who gave no name."""
TELLING_WORDS = 8
TOPICS = 5
LONGEST_READ = 20_000
"""Characters of one message that are looked at: an extract has room for few of them."""
WORD_CHARS = 12
"""What has no spaces (a pasted blob, some languages) costs a word for so many characters."""

_FIRST_PERSON = re.compile(r"\b(I|I['’]m|I['’]ve|I['’]d|I['’]ll|[Mm]y|[Ww]e|[Oo]ur)\b")
_OPENER = re.compile(
    r"^(hi|hey|hello|thanks|thank you|wow|great|good (morning|evening|to)|sure|of course|you['’]re welcome|bye)\b", re.I
)


class Sentence(msgspec.Struct, frozen=True):
    """One sentence, who said it and in which turn (0: it comes from an earlier summary)."""

    text: str
    speaker: str
    seq: int


class Fact(msgspec.Struct, frozen=True):
    """A statement a speaker made about themselves, quoted. `slot` names what it is the value of, if that is clear.

    `field` and `value`: which property of the user it gives, where nothing else can be meant.
    """

    sentence: Sentence
    category: str
    importance: float
    slot: str | None
    field: str | None = None
    value: str | None = None


def said(turns: Iterable[Turn]) -> list[Sentence]:
    """All sentences of the users and assistants, in order."""
    return [
        Sentence(sentence, message.speaker, turn.seq)
        for turn in turns
        for message in turn.messages
        if message.role in ("user", "assistant")
        for sentence in sentences(message.content[:LONGEST_READ])
    ]


def extract(earlier: str, spoken: Sequence[Sentence], budget_words: int = SUMMARY_WORDS) -> str:
    """Pick the densest sentences of an earlier extract and of what was said since, up to the budget, in order.

    One line per speaker's stretch. Empty only if nothing was said.
    """
    lines = [line.partition(": ") for line in earlier.splitlines() if ": " in line]
    candidates = [Sentence(text, speaker, 0) for speaker, _, text in lines] + list(spoken)
    weights = _densities(candidates)
    chosen: list[int] = []
    left = budget_words
    for place in sorted(range(len(candidates)), key=lambda i: (-weights[i], i)):
        cost = _cost(candidates[place].text)
        if cost <= left or not chosen:
            chosen.append(place)
            left -= cost
    return _as_lines([candidates[place] for place in sorted(chosen)], budget_words)


def _cost(text: str) -> int:
    return max(len(words(text)), len(text) // WORD_CHARS, 1)


def _as_lines(picked: Sequence[Sentence], budget_words: int) -> str:
    lines: list[str] = []
    previous: Sentence | None = None
    for sentence in picked:
        # one endless sentence must not break the budget
        text = " ".join(sentence.text.split()[:budget_words])[: budget_words * WORD_CHARS]
        if previous and previous.speaker == sentence.speaker and sentence.seq and previous.seq == sentence.seq:
            lines[-1] += f" {text}"
        else:
            lines.append(f"{sentence.speaker}: {text}")
        previous = sentence
    return "\n".join(lines)


def _densities(candidates: Sequence[Sentence]) -> list[float]:
    """How much each sentence tells: its rarest words, more in the first person, less in questions and greetings."""
    bags = [[word.lower() for word in words(sentence.text)] for sentence in candidates]
    seen = Counter(word for bag in bags for word in set(bag))
    rarity = {word: math.log(1 + len(bags) / count) for word, count in seen.items() if word not in STOP_WORDS}
    weights = []
    for sentence, bag in zip(candidates, bags, strict=True):
        weight = sum(sorted((rarity.get(word, 0.0) for word in set(bag)), reverse=True)[:TELLING_WORDS])
        weight *= 1.3 if _FIRST_PERSON.search(sentence.text) else 1
        weight *= 0.25 if sentence.text.endswith("?") else 1
        weight *= 0.5 if _OPENER.match(sentence.text) else 1
        weight *= 0.3 if len(bag) < 4 else 1
        weights.append(weight)
    return weights


def topics(spoken: Sequence[Sentence]) -> tuple[str, ...]:
    """The words the stretch is about: said in several sentences, and long enough to mean something."""
    counts = Counter(
        word
        for sentence in spoken
        for word in {word.lower() for word in words(sentence.text)}
        if len(word) > 3 and word not in STOP_WORDS and not word.isdigit() and word not in _EMPTY_WORDS
    )
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1] * math.log(len(pair[0])), pair[0]))
    return tuple(word for word, count in ranked[: TOPICS * 3] if count > 1 or len(counts) < TOPICS)[:TOPICS]


_EMPTY_WORDS = frozenset(
    """that's it's don't i'll i've i'm you're there's what's let's really good great thanks thank want need know think
    make sure yeah well still even much many going today here back right time come take would keep give first last
    next said tell please sounds looks feel thing things something anything everything never always maybe also
    else""".split()  # noqa: SIM905 (as words they can be read)
)

_SELF = (
    r"\bI(?:['’]m| am|['’]ve| have|['’]d| would|['’]ll| will)?(?: (?:really|always|also|still|usually|now|just|do))*"
)
_KIN = r"(?:wife|husband|partner|mother|mum|mom|father|dad|sister|brother|son|daughter|boss|friend|dog|cat|doctor)"
_FACTS: tuple[tuple[str, float, re.Pattern[str]], ...] = tuple(
    (category, importance, re.compile(pattern))
    for category, importance, pattern in (
        (
            "identity",
            0.9,
            r"\b[Mm]y name is\b|\b[Cc]all me\b|\b[Aa]llergic to\b|\bI (?:live|work) (?:as|at|for|in|with)\b",
        ),
        ("preference", 0.8, r"\b[Mm]y favou?rite\b|\b[Ff]rom now on\b|\bI(?:['’]d rather| prefer)\b"),
        (
            "plan",
            0.8,
            r"\bI(?:['’]ve| have)? (?:decided|changed my mind)\b|\b[Mm]y (?:goal|plan|target|budget) (?:is|will be)\b",
        ),
        (
            "identity",
            0.7,
            r"\bI(?:['’]m| am) (?:an?(?! bit| little| lot)|from|vegetarian|vegan|married)\b"
            r"|\bI(?:['’]ve)? (?:moved|changed jobs)\b",
        ),
        (
            "preference",
            0.6,
            _SELF + r" (?:love|like|enjoy|hate|dislike|avoid|can['’]t stand|(?:don['’]t|never) (?:like|want|eat))\b"
            r"|\b[Ii]nstead of\b",
        ),
        ("relation", 0.6, rf"\b[Mm]y {_KIN}(?:['’]s| is| was| has| had| lives| works|,)"),
        (
            "plan",
            0.6,
            r"\bI(?:['’]m| am) (?:going to|planning|training|saving|moving)\b"
            r"|\bI(?:['’]ve| have)? (?:plan|planned|booked|promised)\b",
        ),
        ("possession", 0.5, r"\bI (?:have|own|bought|adopted|got) (?:a|an|the|two|three|my|our)\b"),
    )
)
_VAGUE = re.compile(r"\b(it|that|this|those|him|them|he|she|they|one)\b", re.IGNORECASE)
_SPECIFIC = re.compile(r"\d|(?<=\w )[A-ZÀ-Þ](?!\b)[\w-]+")
_SLOTS = (
    ("home", re.compile(r"\bI live in\b|\bI(?:['’]ve)? moved (?:to|into)\b")),
    ("work", re.compile(r"\bI work (?:as|at|for)\b|\bmy new job\b", re.I)),
    ("name", re.compile(r"\bmy name is\b|\bcall me\b", re.I)),
    ("my {}", re.compile(r"\bmy ((?:favou?rite )?[a-z]+(?: [a-z]+)?) is\b", re.I)),
)


_PROPER = r"([A-ZÀ-Þ][\w'’.-]*(?: (?:[A-ZÀ-Þ][\w'’.-]*|de|da|do|of|la|van|von|der|den))*)"
_FIELDS = tuple(
    (field, re.compile(rf"(?:(?:[Hh]i|[Hh]ello|[Hh]ey|[Aa]nd|[Ss]o|[Ww]ell|[Nn]ow)[,!.]? )?{said}[.!]?"))
    for field, said in (
        ("name", rf"[Mm]y name is {_PROPER}"),
        ("home", rf"I (?:now )?live in {_PROPER}(?: now)?"),
        ("home", rf"I(?:['’]ve| have)? moved to {_PROPER}"),
        ("employer", rf"I (?:now )?work (?:at|for) {_PROPER}(?: now)?"),
        ("occupation", r"I (?:now )?work as an? ([a-z]+(?: [a-z]+)?)"),
        (
            "favorite_{}",
            r"[Mm]y favou?rite ([a-z]+) is (?!(?:not|no|a|an|the|that|this|what|when|to)\b)([\w'’-]+)",
        ),
        ("{}", r"[Mm]y (budget|target|age) is ([€$£]? ?\d[\d.,]*(?: ?(?:euros?|dollars?|pounds?|EUR|USD|GBP|%))?)"),
    )
)
"""Whole sentences that say nothing else, and so can mean nothing else."""


def field_of(text: str) -> tuple[str, str] | tuple[None, None]:
    """Name the property of a speaker that a statement gives, and its value; neither, if it may mean anything else."""
    for field, pattern in _FIELDS:
        found = pattern.fullmatch(text.strip())
        if found:
            *names, value = found.groups()
            return field.format(*names), value.rstrip(".,")
    return None, None


def facts(turns: Iterable[Turn]) -> list[Fact]:
    """Statements about themselves by the users, and by named assistants (two people talking), in order.

    Behind a word such as "yesterday" stands the day that it meant: whoever reads it later could not tell.
    """
    told = [
        (message, turn)
        for turn in turns
        for message in turn.messages
        if message.role == "user" or (message.role == "assistant" and message.name)
    ]
    return [
        fact
        for message, turn in told
        for text in sentences(message.content[:LONGEST_READ])
        if (fact := _fact(message, turn, text))
    ]


def _fact(message: Message, turn: Turn, text: str) -> Fact | None:
    bag = words(text)
    if text.endswith("?") or not 4 <= len(bag) <= 45:
        return None
    for category, importance, pattern in _FACTS:
        if pattern.search(text):
            field, value = field_of(text) if message.role == "user" else (None, None)  # not of the one they talk to
            sentence = Sentence(dated(text, turn.created_at), message.speaker, turn.seq)
            return Fact(sentence, category, _weighed(importance, text, bag), slot_of(text), field, value)
    return None


def _weighed(importance: float, text: str, bag: list[str]) -> float:
    """A statement with a name or a number tells more; one that leans on "it" or has few words of weight, less."""
    telling = sum(word.lower() not in STOP_WORDS for word in bag)
    importance += 0.1 if _SPECIFIC.search(text) else -0.15 if _VAGUE.search(text) else 0
    return round(max(importance - (0.15 if telling < 3 else 0), 0.1), 2)


def slot_of(text: str) -> str | None:
    """Name what a statement gives the value of ("home", "my budget"), or None; a later value replaces an earlier."""
    for name, pattern in _SLOTS:
        found = pattern.search(text)
        if found:
            return name.format(*(group.lower() for group in found.groups()))
    return None


def quoted(fact: Fact) -> str:
    """The text of an extracted insight: who said it, and the words as they were said."""
    speaker = THE_USER if fact.sentence.speaker == "user" else fact.sentence.speaker
    return f"{speaker}: {fact.sentence.text}"


def entities(spoken: Sequence[Sentence]) -> tuple[str, ...]:
    """Names in the stretch: capitalised words (runs of them as one) that do not begin a sentence, by frequency."""
    counts: Counter[str] = Counter()
    for sentence in spoken:
        _, _, rest = sentence.text.partition(" ")
        counts.update(name for name in _NAME.findall(rest) if name.lower() not in STOP_WORDS)
    return tuple(name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:8])


_NAME = re.compile(r"\b[A-ZÀ-Þ][\w-]+(?: [A-ZÀ-Þ][\w-]+)*")
